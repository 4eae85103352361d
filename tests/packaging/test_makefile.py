"""The commands of the Makefile: listed, and installing no more than they need."""

import os
import re
import shutil
import subprocess

import pytest

RUN = ["demo", "serve", "bench", "docs"]
DEVELOP = ["test", "check", "train", "export"]


def surroundings():
    """The environment without what the make that may be running these tests has put there."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


@pytest.fixture
def make(root, tmp_path):
    """Runs make where nothing is set up; ``-n`` only says what it would do."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    shutil.copy(root / "Makefile", tmp_path)
    for path in ("export", "server", "client"):
        (tmp_path / path).mkdir()
        (tmp_path / path / "pyproject.toml").touch()
    (tmp_path / "requirements-dev.txt").touch()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "requirements.txt").touch()

    def run(*arguments):
        done = subprocess.run(
            ["make", *arguments],
            cwd=tmp_path,
            env=surroundings(),
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout

    return run


def test_make_alone_lists_every_command(make, root):
    phony, *_ = re.findall(r"^\.PHONY: (.+)$", (root / "Makefile").read_text(), re.MULTILINE)
    listed = re.findall(r"^  make (\w+) +\S", make(), re.MULTILINE)
    assert listed == phony.split()
    assert set(listed) == {"help", "clean", "triton", *RUN, *DEVELOP}


@pytest.mark.parametrize("target", RUN)
def test_running_installs_little(make, target):
    plan = make("-n", target)
    assert '-e "./server" -e "./client[video]"' in plan
    assert "torch" not in plan
    assert "-r requirements-dev.txt" not in plan


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["demo"], False),
        (["serve"], False),
        (["serve", "ENGINE=onnxruntime"], False),
        (["serve", "ENGINE=openvino"], True),
        (["bench"], True),
        (["test"], True),
    ],
)
def test_openvino_is_installed_for_those_who_use_it(make, arguments, wanted):
    assert ('install -e "./server[openvino]"' in make("-n", *arguments)) == wanted


@pytest.mark.parametrize("target", DEVELOP)
def test_developing_installs_torch_first(make, target):
    plan = make("-n", target)
    assert plan.index("install torch==") < plan.index("install -r requirements-dev.txt")


def test_serve_takes_host_and_port(make):
    plan = make("-n", "serve", "HOST=0.0.0.0", "PORT=9000", "KEYS=keys")
    assert "mcjepa-server --host 0.0.0.0 --port 9000 --api-keys-file keys" in plan


def test_serve_takes_the_engine_and_every_triton(make):
    plan = make("-n", "serve", "ENGINE=triton", "TRITON_URL=a:1 b:2")
    assert "--engine triton --triton-url a:1 --triton-url b:2" in plan


def test_triton_has_an_environment_of_its_own_without_torch(make):
    plan = make("-n", "triton")
    assert ".venv-triton/bin/python -m pip" in plan
    assert ".venv/bin" not in plan
    assert "torch" not in plan


@pytest.mark.parametrize("variable", ["HOST", "PORT", "KEYS", "ENGINE", "TRITON_URL", "ARGS"])
def test_variables_of_the_surroundings_are_not_arguments(make, monkeypatch, variable):
    monkeypatch.setenv(variable, "build-machine")
    assert "build-machine" not in make("-n", "serve", "test")


def test_what_is_set_up_is_not_set_up_again(make, tmp_path):
    environment = tmp_path / ".venv"
    environment.mkdir()
    (environment / ".created").write_text(str(tmp_path.resolve()))
    ready = environment / ".ready-to-run"
    ready.touch()
    assert "install" not in make("-n", "serve")
    later = ready.stat().st_mtime + 10
    os.utime(tmp_path / "server" / "pyproject.toml", (later, later))
    assert 'install -e "./server' in make("-n", "serve")


def test_an_environment_of_another_clone_is_made_anew(make, tmp_path):
    environment = tmp_path / ".venv"
    environment.mkdir()
    (environment / ".created").write_text("/another/clone")
    (environment / ".ready-to-run").touch()
    assert "-m venv --clear" in make("-n", "serve")


def test_the_peers_of_the_benchmark_have_an_environment_of_their_own(make):
    installs = [line for line in make("-n", "bench").splitlines() if "litserve" in line and "install" in line]
    assert installs
    assert all(line.startswith(".venv-bench/bin/python") for line in installs)
