"""The import rules of pyproject.toml hold, and each of them catches what it is there for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

INDEPENDENT = "The three distributions are independent of each other"
NO_TORCH = "The server and the client run without torch"
LAYERS = "config <- ops <- model <- losses <- train <- the command"
TRAINING = "Only the command imports training: export, evaluation and data work without it"


def lint_imports(sources, config, cwd):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(source) for source in sources)}
    command = [str(Path(sys.executable).with_name("lint-imports")), "--config", str(config), "--no-cache"]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def copy(root, tmp_path):
    """The three source trees, to be broken."""
    for folder in ("export", "server", "client"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(root / folder / "src", tmp_path / folder / "src", ignore=ignore)
    return tmp_path


def check(copy, root):
    sources = [copy / folder / "src" for folder in ("export", "server", "client")]
    return lint_imports(sources, root / "pyproject.toml", copy)


def test_the_rules_hold(copy, root):
    done = check(copy, root)
    assert done.returncode == 0, done.stdout
    for rule in (INDEPENDENT, NO_TORCH, LAYERS, TRAINING):
        assert f"{rule} KEPT" in done.stdout


@pytest.mark.parametrize(
    ("module", "line", "rule"),
    [
        ("server/src/mcjepa_server/types.py", "import mcjepa", INDEPENDENT),
        ("client/src/mcjepa_client/flow_io.py", "def late():\n    import mcjepa_server", INDEPENDENT),
        ("export/src/mcjepa/config.py", "import mcjepa_client", INDEPENDENT),
        ("client/src/mcjepa_client/flow_io.py", "import torch", NO_TORCH),
        ("server/src/mcjepa_server/types.py", "from torch.nn import functional", NO_TORCH),
        ("export/src/mcjepa/ops.py", "from mcjepa.model import encoder", LAYERS),
        ("export/src/mcjepa/config.py", "from mcjepa import losses", LAYERS),
        ("export/src/mcjepa/checkpoint.py", "from mcjepa import train", TRAINING),
    ],
)
def test_a_rule_catches_what_it_forbids(copy, root, module, line, rule):
    with (copy / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = check(copy, root)
    assert done.returncode != 0
    assert f"{rule} BROKEN" in done.stdout
