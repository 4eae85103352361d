"""What the README says can be typed works as it stands."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcjepa.config import load_config
from mcjepa_client import flow_io
from mcjepa_server import Settings

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall((ROOT / "README.md").read_text())
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
CURL = [line for line in COMMANDS if line.startswith("curl ")]
CLIENT = [line for line in COMMANDS if line.startswith(".venv/bin/mcjepa-client ")]
TRAINING = [line for line in COMMANDS if line.startswith(".venv/bin/mcjepa ")]
MAKE = [line for line in COMMANDS if line.startswith("make ")]
DOCKER = [
    command for command in COMMANDS if command.startswith("docker ")
]  # see tests/packaging/test_deploy.py
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
ADDRESS = "http://127.0.0.1:8000"


def test_every_command_is_of_a_kind_that_is_tried_here():
    assert {kind for kind, _ in BLOCKS} == {"bash", "python"}
    assert set(COMMANDS) == {*CURL, *CLIENT, *TRAINING, *MAKE, *DOCKER}


@pytest.mark.parametrize("command", MAKE)
def test_make_knows_the_target(command):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    words = shlex.split(command)
    subprocess.run([*words, "-n"], cwd=ROOT, check=True, capture_output=True, timeout=30)


@pytest.mark.parametrize("variable", re.findall(r"`(MCJEPA_\w+)`", (ROOT / "README.md").read_text()))
def test_every_variable_is_a_setting(variable):
    assert variable == "MCJEPA_SERVER" or variable.removeprefix("MCJEPA_").lower() in Settings.model_fields


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text()))
def test_every_link_leads_somewhere(link):
    assert (ROOT / link).exists()


@pytest.mark.parametrize("command", TRAINING)
def test_training_knows_the_options_and_the_settings(command):
    program, subcommand, *arguments = shlex.split(command)
    program = Path(sys.executable).with_name(Path(program).name)
    shown = subprocess.run(
        [program, subcommand, "--help"], check=True, capture_output=True, text=True, timeout=120
    )
    assert {word for word in arguments if word.startswith("--")} <= set(re.findall(r"--\w+", shown.stdout))
    settings = [after for word, after in pairwise(arguments) if word == "--set"]
    assert load_config("nano", settings), "an unknown setting, or a value of the wrong type, is an error"


@pytest.fixture
def folder(frames, tmp_path, write_video):
    """A folder in which `make demo` has left its frames, and with the videos that the README names."""
    demo = tmp_path / "out" / "demo"
    demo.mkdir(parents=True)
    for name, file in zip(("rider_1", "rider_2", "van_1"), frames.files, strict=True):
        shutil.copy(file, demo / f"{name}.png")
    height, width = frames.images[0].shape[:2]
    write_video(tmp_path / "clip.mp4", 3, height, width, images=frames.images)
    (tmp_path / "videos").mkdir()
    shutil.copy(tmp_path / "clip.mp4", tmp_path / "videos" / "clip.mp4")
    return tmp_path


def run(words, folder, server):
    environment = {**os.environ, "MCJEPA_SERVER": server, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_file(path):
    """That a file is what its name says, or a folder holds results of a video."""
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
        case ".png":
            depth = np.uint16 if path.stem == "kitti" else np.uint8
            assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).dtype == depth
        case _:
            assert path.stat().st_size > 100


@pytest.mark.parametrize("command", CURL)
def test_curl(command, folder, server):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    words = shlex.split(command.replace(ADDRESS, server))
    run(words, folder, server)
    check_file(folder / words[words.index("-o") + 1])


@pytest.mark.parametrize("command", CLIENT)
def test_client(command, folder, server):
    program, *arguments = shlex.split(command)
    words = [str(Path(sys.executable).with_name(Path(program).name)), *arguments]
    assert run(words, folder, server)
    if "-o" in words:
        check_file(folder / words[words.index("-o") + 1])


@pytest.mark.parametrize("text", PYTHON)
def test_python(text, folder, server):
    assert run([sys.executable, "-c", text.replace(ADDRESS, server)], folder, server).strip()
