"""Small videos of every kind, made on the spot with the ffmpeg of imageio-ffmpeg."""

import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

SIZE = WIDTH, HEIGHT = 96, 64
FRAMES, GROUP = 60, 10
H264 = ("-c:v", "libx264", "-preset", "veryfast", "-g", str(GROUP), "-pix_fmt", "yuv420p", "-crf", "16")


def picture(index):
    noise = np.random.default_rng(7).integers(0, 256, (HEIGHT // 2, WIDTH // 2, 1), np.uint8)
    image = np.kron(np.roll(noise, index, axis=1), np.ones((2, 2, 3), np.uint8))  # grey: colour is coarser
    image[: HEIGHT // 4, : WIDTH // 2] = index * 4  # tells frames and corners apart
    return image


@pytest.fixture(scope="session")
def ffmpeg():
    """Runs ffmpeg with these arguments and returns what it writes to its output."""
    exe = pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is not installed").get_ffmpeg_exe()

    def run(*arguments, stdin=b""):
        command = [exe, "-v", "error", "-y", *map(str, arguments)]
        return subprocess.run(command, input=stdin, capture_output=True, check=True, timeout=120).stdout

    return run


@pytest.fixture(scope="session")
def videos(tmp_path_factory, ffmpeg):
    """Functions that make a video: of pictures, or of another one; and ffmpeg's own frames of one."""
    pytest.importorskip("av", reason="the extra mcjepa-client[video] is not installed")
    folder = tmp_path_factory.mktemp("videos")
    raw = b"".join(picture(index).tobytes() for index in range(FRAMES))
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", "25", "-i", "-")

    def encode(name, *options, frames=FRAMES):
        path = folder / name
        if not path.exists():
            ffmpeg(*source, "-frames:v", frames, *options, path, stdin=raw)
        return path

    base = encode("base.mp4", *H264)

    def copy(name, *options, before=(), source=base):
        path = folder / name
        if not path.exists():
            ffmpeg(*before, "-i", source, "-c", "copy", *options, path)
        return path

    def decode(path, width=WIDTH, height=HEIGHT):
        """(N, H, W, 3) as ffmpeg shows it."""
        data = ffmpeg(
            "-i", f"file:{path}", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"
        )
        return np.frombuffer(data, np.uint8).reshape(-1, height, width, 3)

    return SimpleNamespace(encode=encode, copy=copy, decode=decode, base=base, folder=folder)
