"""No room for the results: said clearly, no half file, and the next run goes on."""

import errno
import os
import subprocess
import sys

import pytest
from mcjepa_client import flow_io

pytest.importorskip("zarr", reason="the extra mcjepa-client[video] is not installed")

MAIN = "import sys; from mcjepa_client.cli import main; sys.exit(main())"


@pytest.fixture
def disk(tmp_path):
    """A file system of its own of 8 MiB: its folder, and a function that makes it larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=60)


@pytest.fixture
def pair(frames, tmp_path):
    files = [tmp_path / "1.png", tmp_path / "2.png"]
    for file, frame in zip(files, frames(), strict=True):
        file.write_bytes(flow_io.encode_png(frame))
    return files


def fill(folder, left):
    """Leaves about so many bytes."""
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    (folder / "other").write_bytes(bytes(free - left))


def run(server, *arguments, stdout=subprocess.PIPE):
    command = [sys.executable, "-c", MAIN, *map(str, arguments), "--server", server.url]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120)


def check_refusal(run, path):
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith(f"mcjepa-client: error: {path}: no room on the disk ({os.strerror(errno.ENOSPC)})")
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("name", ["flow.flo", "flow.npz", "flow.png"])
def test_flow(server, disk, pair, name):
    fill(disk, left=4096)
    first = run(server, "flow", *pair, "-o", disk / name)
    check_refusal(first, disk / name)
    assert os.listdir(disk) == ["other"]
    (disk / "other").unlink()
    assert run(server, "flow", *pair, "-o", disk / name).returncode == 0
    assert os.listdir(disk) == [name]


def test_a_file_that_was_there_stays(server, disk, pair):
    path = disk / "flow.flo"
    path.write_bytes(b"before")
    fill(disk, left=4096)
    check_refusal(run(server, "flow", *pair, "-o", path), path)
    assert path.read_bytes() == b"before"


@pytest.mark.parametrize("left", [8192, 300_000])
def test_a_video_goes_on_where_the_disk_was_full(server, disk, tmp_path, write_video, left):
    video = write_video(tmp_path / "video.mp4", frames=20, height=96, width=128)
    fill(disk, left)
    out = disk / "out"
    command = ("video", video, "--clip-frames", 4, "-o")
    check_refusal(run(server, *command, out), out)
    assert not out.exists()
    (disk / "other").unlink()
    again = run(server, *command, out)
    assert again.returncode == 0, again.stderr
    if left == 300_000:
        assert "goes on after" in again.stderr
    assert run(server, *command, tmp_path / "whole").returncode == 0
    assert contents(out) == contents(tmp_path / "whole")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_standard_output(server):
    with open("/dev/full", "w") as full:
        done = run(server, "info", stdout=full)
    assert done.returncode != 0
    assert "no room on the disk" in done.stderr
