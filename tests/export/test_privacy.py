"""What runs the exported models tells nobody of it, and leaves nothing in the user's home."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

BACKEND = """
import runpy, sys, types
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
runpy.run_path(sys.argv[1])
"""


@pytest.mark.parametrize(
    "program", ["import mcjepa.triton_parity", BACKEND], ids=["export", "Triton's python backend"]
)
def test_the_home_of_the_user_stays_empty(program, tmp_path):
    backend = Path(find_spec("mcjepa").origin).parent / "triton_python" / "model.py"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    subprocess.run(
        [sys.executable, "-B", "-c", f"{program}\nimport onnxruntime", str(backend)],
        env=environment | {"HOME": str(tmp_path)},
        check=True,
        timeout=120,
    )
    assert list(tmp_path.rglob("*")) == []
