"""Whole videos through the SDK and the command, with the real weights."""

import itertools
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("zarr", reason="the extra mcjepa-client[video] is not installed")

# Dies as by kill -9 when the first clip is done.
DYING = """
import os, signal, sys
from mcjepa_client._video.journal import Journal
from mcjepa_client.cli import main

append = Journal.append

def dying(journal, record):
    append(journal, record)
    if journal.frames:
        os.kill(os.getpid(), signal.SIGKILL)

Journal.append = dying
sys.exit(main())
"""
MAIN = "import sys; from mcjepa_client.cli import main; sys.exit(main())"


@pytest.fixture
def video(tmp_path, frames, write_video):
    height, width = frames.images[0].shape[:2]
    return write_video(tmp_path / "video.mp4", 9, height, width, images=frames.images * 3)


def test_a_video_is_its_pairs(client, video):
    results = list(client.video(video, clip_frames=5, max_side=320))
    for first, second in itertools.pairwise(results):
        pair = client.flow(first.image, second.image, max_side=320)
        assert np.abs(first.flow - pair.flow).max() < 1e-3  # px


def run(code, server, video, out):
    arguments = ["video", video, "-o", out, "--clip-frames", "4", "--max-side", "320", "--server", server]
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env={**os.environ, "NO_PROXY": "127.0.0.1"},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_killed_run_goes_on_to_the_same_bytes(server, video, tmp_path):
    assert run(DYING, server, video, tmp_path / "killed").returncode == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    for name in ("killed", "whole"):
        done = run(MAIN, server, video, tmp_path / name)
        assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
