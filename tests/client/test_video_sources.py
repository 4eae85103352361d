"""Frames, their times and their damage: video files and image files."""

import struct
import sys

import cv2
import numpy as np
import pytest
from mcjepa_client import InputError, MissingExtraError, VideoError
from mcjepa_client._video.frames import Selection, SourceInfo
from mcjepa_client._video.lengths import missing_bytes
from mcjepa_client._video.sources import open_source


def read(source, **options):
    return [(frame.index, frame.timestamp, frame.load()) for frame in open_source(source, **options).frames()]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_times_of_a_variable_frame_rate_are_exact(tmp_path, write_video, suffix):
    times = [0, 40, 80, 480, 500, 1500, 1533]
    path = write_video(tmp_path / f"video.{suffix}", frames=7, times=times)
    assert [time for _, time, _ in read(path)] == pytest.approx([time / 1000 for time in times], abs=1e-9)


def test_times_count_from_the_first_frame(tmp_path, write_video):
    path = write_video(tmp_path / "video.mkv", frames=3, times=[5000, 5040, 5100])
    assert [time for _, time, _ in read(path)] == pytest.approx([0, 0.04, 0.1], abs=1e-9)


def test_rotation_is_applied(tmp_path, write_video):
    upright = np.zeros((48, 80, 3), np.uint8)
    upright[:24, :40] = 255  # the upper left is white
    path = write_video(tmp_path / "video.mp4", frames=2, images=[upright, upright])
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    # ISO/IEC 14496-12, 8.3.2: a b u c d v x y w; this one turns by 90 degrees clockwise.
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    image = read(path)[0][2]
    assert image.shape == (80, 48, 3)
    assert image[5, 43].min() > 200, "the upper left has become the upper right"
    assert image[5, 5].max() < 50


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_truncated_file_is_an_error(tmp_path, write_video, suffix, share):
    whole = write_video(tmp_path / f"whole.{suffix}", frames=30)
    assert missing_bytes(str(whole)) == 0
    assert len(read(whole)) == 30
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    with pytest.raises(VideoError):
        read(cut)


@pytest.mark.parametrize("content", [b"", b"not a video", b"\x1a\x45\xdf\xa3", b"RIFF\0\0\0\0AVI "])
def test_what_is_no_video_is_an_error(tmp_path, content):
    (tmp_path / "video.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=r"video\.mp4"):
        read(tmp_path / "video.mp4")


def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch):
    (tmp_path / "video.mp4").write_bytes(b"some bytes")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"av.*client\[video\]"):
        read(tmp_path / "video.mp4")


@pytest.fixture
def folder(tmp_path, picture):
    for index in (10, 2, 1):
        cv2.imwrite(str(tmp_path / f"frame{index}.png"), picture(index)[..., ::-1])
    (tmp_path / "notes.txt").write_text("no frame")
    return tmp_path


def test_images_come_in_natural_order_at_the_given_rate(folder, picture):
    frames = read(folder, fps=10)
    assert [(index, time) for index, time, _ in frames] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    for (_, _, image), number in zip(frames, (1, 2, 10), strict=True):
        assert np.array_equal(image, picture(number))


def test_a_pattern_picks_images(folder):
    assert len(read(str(folder / "frame1*.png"))) == 2


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_half_an_image_is_an_error(tmp_path, picture, suffix):
    path = tmp_path / f"1.{suffix}"
    cv2.imwrite(str(path), picture(0))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match="truncated"):
        read(tmp_path)


@pytest.mark.parametrize("source", ["missing.mp4", "nothing*.png", 1.5, True])
def test_what_is_not_there_is_an_input_error(source):
    with pytest.raises(InputError, match="source"):
        open_source(source)


def test_a_camera_gives_frames_as_they_arrive_until_it_is_gone(tmp_path, write_video, monkeypatch):
    """A file that OpenCV reads stands for the camera."""
    recorded = str(write_video(tmp_path / "camera.mp4", frames=3, codec="libx264"))
    open_capture = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: open_capture(recorded) if number == 7 else None)
    clock = iter([100.0, 100.5, 102.0, 103.0])
    monkeypatch.setattr("mcjepa_client._video.images.time.monotonic", lambda: next(clock))
    frames, seen = open_source(7).frames(), []
    with pytest.raises(VideoError, match="camera 7: no picture after 3 frames"):
        seen.extend((frame.index, frame.timestamp, frame.load().shape) for frame in frames)
    assert seen == [(0, 0.0, (48, 80, 3)), (1, 0.5, (48, 80, 3)), (2, 2.0, (48, 80, 3))]


def test_a_folder_without_images_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no images"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("selection", "count"),
    [
        (Selection(), 100),
        (Selection(stride=3), 34),
        (Selection(start=1.0), 75),
        (Selection(stop=1.0), 25),
        (Selection(stride=10, start=1.0, stop=2.0), 3),
        (Selection(start=10.0), 0),
    ],
)
def test_how_many_frames_a_selection_has(selection, count):
    assert selection.count(SourceInfo(frames=100, duration=4.0)) == count
    assert selection.count(SourceInfo()) is None
