"""Videos for the tests of several folders, made on the spot."""

import os
from fractions import Fraction

import numpy as np
import pytest

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # for tests that import ONNX Runtime by themselves


@pytest.fixture(scope="session")
def picture():
    """Frame `index` of a test video: noise that moves to the right and changes, (H, W, 3) uint8."""

    def make(index, height=48, width=80):
        noise = np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)
        moved = np.roll(noise, 2 * index, axis=1)
        moved[: height // 4] = (index * 9) % 256  # a stripe that tells the frames apart
        return moved

    return make


@pytest.fixture(scope="session")
def write_video(picture):
    """Writes a video of `frames` test pictures; `times` are in ms, else there are 25 a second."""
    av = pytest.importorskip("av", reason="the extra mcjepa-client[video] is not installed")

    def write(path, frames=10, height=48, width=80, times=None, codec="libx264", images=None):
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000)
            stream.options = {"preset": "ultrafast", "g": "4"} if codec == "libx264" else {}
            for index in range(frames):
                image = images[index] if images else picture(index, height, width)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.time_base = Fraction(1, 1000)
                frame.pts = times[index] if times else 40 * index
                for packet in stream.encode(frame):
                    container.mux(packet)
            for packet in stream.encode(None):
                container.mux(packet)
        return path

    return write
