"""The examples of docs/flow-recipes.md run as they stand."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "flow-recipes.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(frames, write_video, tmp_path):
    """Where `make demo` has left its frames, with two short videos."""
    demo = tmp_path / "out" / "demo"
    demo.mkdir(parents=True)
    for name, file in zip(("rider_1", "rider_2"), frames.files, strict=False):
        shutil.copy(file, demo / f"{name}.png")
    images = [np.ascontiguousarray(image) for image in frames.images]
    height, width = images[0].shape[:2]
    # Timestamps around the ones that the example asks for.
    write_video(tmp_path / "bikes.mp4", 3, height, width, times=[0, 7640, 7680], images=images)
    write_video(tmp_path / "shaky.mp4", 3, height, width, images=images)
    return tmp_path


def test_there_is_an_example_for_each():
    text = "".join(EXAMPLES)
    assert all(f" {name}(" in text for name in ("warp", "occlusion", "tracks", "stabilise", "nearest"))


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", DOCUMENT.read_text()))
def test_every_link_leads_somewhere(link):
    assert (DOCUMENT.parent / link).exists()


@pytest.mark.parametrize("example", EXAMPLES, ids=["warp", "tracks", "stabilise", "nearest"])
def test_an_example_runs(example, folder, server):
    environment = {**os.environ, "MCJEPA_SERVER": server, "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-W", "error", "-c", example]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
