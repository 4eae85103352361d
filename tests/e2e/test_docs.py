"""What README.md and the documents say can be typed works as it stands."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path

import numpy as np
import pytest
from mcjepa.config import load_config
from mcjepa_client import flow_io
from mcjepa_server import Settings
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    *(ROOT / part / "README.md" for part in ("client", "server", "export")),
    # Pages of decisions tell what once was, too; the build of the site checks their links.
    *sorted(path for path in ROOT.glob("docs/**/*.md") if path.parent.name != "decisions"),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)")
CLIENT = str(Path(sys.executable).with_name("mcjepa-client"))
ADDRESS = "http://127.0.0.1:8000"
# Programs that need what a test machine lacks, and those that other tests run for real.
NOT_RUN = ("docker", "kubectl", "helm", "torchrun", "kind", "minikube", "tritonserver", "mkdir", "chmod")


@dataclass(frozen=True)
class Example:
    """A command or a Python program of a document."""

    document: Path
    text: str

    def __str__(self):
        return f"{self.document.relative_to(ROOT)}: {' '.join(self.text.split())[:60]}"


def blocks(*kinds):
    return [
        Example(document, text)
        for document in DOCUMENTS
        for kind, text in BLOCK.findall(document.read_text())
        if kind in kinds
    ]


def commands():
    """Single commands of all shell blocks, continued lines joined, comments off."""
    for block in blocks("bash", "sh", ""):
        for line in block.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield Example(block.document, shlex.join(words))


COMMANDS = list(commands())


def program(command):
    return Path(shlex.split(command.text)[0]).name


def of(*programs):
    return [pytest.param(command, id=str(command)) for command in COMMANDS if program(command) in programs]


def test_every_command_is_of_a_kind_that_is_tried_here():
    tried = {"make", "curl", "mcjepa-client", "mcjepa-server", "mcjepa", "pip", "python"}
    assert {program(command) for command in COMMANDS} <= tried | set(NOT_RUN)
    assert {program(command) for command in COMMANDS} >= tried


@pytest.mark.parametrize("command", of("make"))
def test_make_knows_the_target(command):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    subprocess.run([*shlex.split(command.text), "-n"], cwd=ROOT, check=True, capture_output=True, timeout=30)


@pytest.mark.parametrize("command", of("pip"))
def test_what_pip_installs_is_there(command):
    """Nothing of ours is on an index: it is installed from the clone, with extras that exist."""
    words = [word for word in shlex.split(command.text)[2:] if not word.startswith("-")]
    for word in words:
        path, _, extras = word.rstrip("]").partition("[")
        if not path.startswith("./"):
            assert "mcjepa" not in path
            continue
        project = tomllib.loads((ROOT / path / "pyproject.toml").read_text())["project"]
        assert set(filter(None, extras.split(","))) <= set(project.get("optional-dependencies", {}))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_of_ours_is_installed_by_name(document):
    assert not re.findall(r"pip install ['\"]?mcjepa", document.read_text())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_variable_is_a_setting_and_every_link_leads_somewhere(document):
    text = document.read_text()
    of_others = {
        "server",
        "api_key",
        "port",
        "models",
        "triton_urls",
        "keys",
    }  # of the client, and of compose
    named = {name.lower() for name in re.findall(r"`MCJEPA_(\w+)`", text)}
    assert named - of_others <= set(Settings.model_fields)
    assert [link for link in LINK.findall(text) if not (document.parent / link).exists()] == []


def shown_options(*words):
    """The options that a command's --help names."""
    environment = {**os.environ, "COLUMNS": "200"}
    shown = subprocess.run(
        [*words, "--help"], check=True, capture_output=True, text=True, timeout=120, env=environment, cwd=ROOT
    )
    return set(re.findall(r"--[\w-]+", shown.stdout))


def options(words):
    return {word.partition("=")[0] for word in words if word.startswith("--")}


@pytest.mark.parametrize("command", of("mcjepa", "mcjepa-server"))
def test_the_options_of_a_command_exist(command):
    name, *arguments = shlex.split(command.text)
    words = [str(Path(sys.executable).with_name(Path(name).name))]
    subcommands = list(takewhile(lambda word: not word.startswith("-") and "/" not in word, arguments))
    known = shown_options(*words, *subcommands[:2])
    assert options(arguments) <= known
    settings = [after for word, after in pairwise(arguments) if word == "--set"]
    assert load_config("nano", settings), "an unknown setting, or a value of the wrong type, is an error"


@pytest.mark.parametrize("command", of("python"))
def test_the_options_of_a_script_exist(command):
    _, script, *arguments = shlex.split(command.text)
    if script == "-m":
        pytest.skip("a module of others")
    assert options(arguments) <= shown_options(sys.executable, str(ROOT / script)) | {"--help"}


@pytest.fixture
def folder(frames, clip, tmp_path):
    """A folder in which `make demo` has left its files."""
    demo = tmp_path / "out" / "demo"
    demo.mkdir(parents=True)
    for name, file in zip(("rider_1", "rider_2", "van_1"), frames.files, strict=True):
        shutil.copy(file, demo / f"{name}.png")
    shutil.copy(clip, demo / "bikes.mp4")
    return tmp_path


@pytest.fixture(scope="session")
def clip(frames, write_video, tmp_path_factory):
    """A short video in place of the demo's, with timestamps around those that the examples ask for."""
    path = tmp_path_factory.mktemp("clip") / "bikes.mp4"
    height, width = frames.images[0].shape[:2]
    write_video(path, 3, height, width, times=[0, 7640, 7680], images=frames.images)
    return path


def run(words, folder, server):
    environment = {**os.environ, "MCJEPA_SERVER": server, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_file(path):
    """Check that a file is what its name says, or that a folder holds results of a video."""
    if path.is_dir():
        assert list(path.rglob("manifest.jsonl"))
        return
    match path.suffix:
        case ".flo":
            assert flow_io.read_flo(path).ndim == 3
        case ".npy":
            assert np.load(path).shape[2] == 2
        case ".npz":
            assert set(np.load(path)) & {"flow", "flows", "embeddings"}
        case ".png" if path.stem == "kitti":
            assert flow_io.read_kitti(path).flow.shape[2] == 2
        case ".png":
            with Image.open(path) as picture:
                assert picture.mode == "RGB"
        case _:
            assert path.stat().st_size > 100


@pytest.mark.parametrize("command", of("curl"))
def test_curl(command, folder, server):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    words = shlex.split(command.text.replace(ADDRESS, server))
    run(words, folder, server)
    if "-o" in words:
        check_file(folder / words[words.index("-o") + 1])


@pytest.mark.parametrize("command", of("mcjepa-client"))
def test_client(command, folder, server):
    words = [CLIENT, *shlex.split(command.text.replace(ADDRESS, server))[1:]]
    assert run(words, folder, server)
    if "-o" in words:
        check_file(folder / words[words.index("-o") + 1])


@pytest.mark.parametrize("example", blocks("python"), ids=str)
def test_python(example, folder, server):
    if "import ray" in example.text:
        pytest.skip("tests/e2e/test_ray.py runs Ray")
    text = example.text.replace(ADDRESS, server)
    if "out/clip" in text and "process(" not in text:  # it reads what a command before it has left
        run(
            [CLIENT, "video", "out/demo/bikes.mp4", "-o", "out/clip"],
            folder,
            server,
        )
    printed = run([sys.executable, "-W", "error", "-c", text], folder, server)
    assert printed.strip() or "print(" not in text
