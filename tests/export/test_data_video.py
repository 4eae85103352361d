"""Frame pairs: order, borders between sequences, the cache of decoded videos, and damaged input."""

import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcjepa.data import video_cache
from mcjepa.data.video import open_pairs
from mcjepa.data.video_cache import decode_once

SIZE = (48, 64)  # H, W


def frame(value: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


def write_video(path: Path, frames: Sequence[np.ndarray], codec: str = "MJPG") -> Path:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), 25, (width, height))
    assert writer.isOpened()
    for picture in frames:
        writer.write(picture)
    writer.release()
    return path


def write_frames(folder: Path, values: Sequence[int], size: tuple[int, int] = SIZE) -> Path:
    folder.mkdir(parents=True)
    for number, value in enumerate(values, start=8):  # passes from 9 to 10: order by number, not by letter
        cv2.imwrite(str(folder / f"{number}.png"), frame(value, size))
    return folder


def values_of(pairs, gap: int = 1) -> list[tuple[int, int]]:
    both = [pairs.pair(index, gap) for index in range(len(pairs))]
    return [(round(float(img1.mean())), round(float(img2.mean()))) for img1, img2 in both]


def test_pairs_of_frame_folders_are_consecutive_and_never_cross(tmp_path):
    write_frames(tmp_path / "set/a", [1, 2, 3, 4])
    write_frames(tmp_path / "set/b", [11, 12])
    write_frames(tmp_path / "set/single", [99])
    pairs = open_pairs([tmp_path / "set"], tmp_path / "cache", 256, max_gap=2)
    assert values_of(pairs) == [(1, 2), (2, 3), (3, 4), (11, 12)]
    assert values_of(pairs, gap=2) == [(1, 3), (2, 4), (3, 4), (11, 12)]
    assert not (tmp_path / "cache").exists()


def test_folders_that_differ_in_leading_zeros_or_nest_do_not_mix(tmp_path):
    for name, base in (("7", 10), ("07", 20), ("7/inner", 30)):
        write_frames(tmp_path / "set" / name, [base, base + 1])
    pairs = open_pairs([tmp_path / "set"], tmp_path / "cache", 256)
    assert sorted(values_of(pairs)) == [(10, 11), (20, 21), (30, 31)]


def test_a_tar_reads_like_its_folder(tmp_path):
    write_frames(tmp_path / "set/a", [1, 2, 3])
    write_frames(tmp_path / "set/b", [11, 12])
    subprocess.run(["tar", "-cf", tmp_path / "set.tar", "-C", tmp_path / "set", "."], check=True, timeout=30)
    pairs = open_pairs([tmp_path / "set.tar"], tmp_path / "cache", 256)
    assert values_of(pairs) == [(1, 2), (2, 3), (11, 12)]


@pytest.mark.parametrize(("codec", "suffix"), [("MJPG", ".avi"), ("mp4v", ".mp4"), ("mp4v", ".mkv")])
def test_a_video_is_decoded_once_and_read_like_a_folder(tmp_path, codec, suffix, monkeypatch):
    video = write_video(tmp_path / f"clip{suffix}", [frame(40 * n) for n in range(1, 6)], codec)
    pairs = open_pairs([video], tmp_path / "cache", 256)
    np.testing.assert_allclose(values_of(pairs), [(40, 80), (80, 120), (120, 160), (160, 200)], atol=6)
    assert pairs.skipped == {}
    monkeypatch.setattr(video_cache, "_decode_into", None)  # a second decoding would fail
    again = open_pairs([tmp_path], tmp_path / "cache", 256)
    assert values_of(again) == values_of(pairs)


def test_colours_come_back_as_rgb(tmp_path):
    bgr = np.zeros((*SIZE, 3), np.uint8)
    bgr[..., 2] = 200
    dimmer = bgr // 2
    img1, img2 = open_pairs([write_video(tmp_path / "x.avi", [bgr, dimmer])], tmp_path / "cache", 256)[0]
    np.testing.assert_allclose([img1[5, 5], img2[5, 5]], [[200, 0, 0], [100, 0, 0]], atol=8)


def test_short_side_only_scales_down_and_has_a_cache_of_its_own(tmp_path):
    video = write_video(tmp_path / "clip.avi", [frame(9), frame(99)])
    folder = write_frames(tmp_path / "f/a", [1, 2])
    for short_side, shape in ((24, (24, 32, 3)), (100, (48, 64, 3)), (48, (48, 64, 3))):
        for path in (video, folder):
            img1, img2 = open_pairs([path], tmp_path / "cache", short_side)[0]
            assert img1.shape == img2.shape == shape


def test_identical_neighbours_are_dropped(tmp_path):
    video = write_video(tmp_path / "x.avi", [frame(value) for value in (50, 50, 90, 90, 90, 130)])
    pairs = open_pairs([video], tmp_path / "cache", 256)
    np.testing.assert_allclose(values_of(pairs), [(50, 90), (90, 130)], atol=3)


def test_rotation_metadata_is_respected(tmp_path):
    upright = np.zeros((*SIZE, 3), np.uint8)
    upright[:, :32] = 255  # left half white
    video = write_video(tmp_path / "x.mp4", [upright, upright // 2], "mp4v")
    data = bytearray(video.read_bytes())
    matrix = data.index(b"tkhd") + 44  # ISO 14496-12, 8.3.2, version 0
    quarter_turn = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)  # clockwise
    data[matrix : matrix + 36] = quarter_turn
    video.write_bytes(data)
    img1, _ = open_pairs([video], tmp_path / "cache", 256)[0]
    assert img1.shape == (64, 48, 3)
    assert img1[:28].mean() > 240
    assert img1[36:].mean() < 15


def test_a_truncated_video_keeps_what_is_readable_and_says_so_each_time(tmp_path, caplog):
    rng = np.random.default_rng(0)
    video = write_video(tmp_path / "x.avi", [rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(40)])
    data = video.read_bytes()
    video.write_bytes(data[: len(data) // 2])
    for _ in range(2):  # decoded, then from the cache
        pairs = open_pairs([video], tmp_path / "cache", 256)
        assert 10 <= len(pairs) <= 25
        assert "cut short" in pairs.skipped[str(video)]
    assert caplog.text.count("cut short") == 2


def test_an_unreadable_video_is_skipped_beside_a_good_one_and_an_error_alone(tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"\0" * 5000)
    write_video(tmp_path / "good.avi", [frame(10), frame(200)])
    pairs = open_pairs([tmp_path], tmp_path / "cache", 256)
    assert len(pairs) == 1
    assert pairs.skipped == {str(bad): "no frame can be decoded"}
    with pytest.raises(ValueError, match=r"no frame pairs in .*bad\.mp4"):
        open_pairs([bad], tmp_path / "cache", 256)


def test_a_kill_in_the_middle_leaves_nothing_that_counts_as_done(tmp_path):
    video = write_video(tmp_path / "x.avi", [frame(20 * n) for n in range(1, 11)])
    cache = tmp_path / "cache"
    killed_at_frame_4 = (
        "import os, sys, pathlib; from mcjepa.data import video_cache as v; write = v._write_jpeg\n"
        "def dies(path, bgr): write(path, bgr); path.name == '00004.jpg' and os.kill(os.getpid(), 9)\n"
        "v._write_jpeg = dies; v.decode_once(*map(pathlib.Path, sys.argv[1:]), 256)\n"
    )
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", killed_at_frame_4, str(video), str(cache)]
    ended = subprocess.run(command, timeout=60, env={**os.environ, "PYTHONPATH": path})
    assert ended.returncode == -9
    assert [entry.name for entry in cache.iterdir() if not entry.name.startswith(".")] == []
    decoded = decode_once(video, cache, 256)
    assert len(list(decoded.folder.glob("*.jpg"))) == 10
    assert sorted(entry.name for entry in cache.iterdir()) == [".lock", decoded.folder.name]


def test_an_error_while_decoding_leaves_nothing_behind(tmp_path, monkeypatch):
    video = write_video(tmp_path / "x.avi", [frame(10), frame(200)])

    def full(path: Path, bgr: np.ndarray) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(video_cache, "_write_jpeg", full)
    with pytest.raises(OSError, match="no space left"):
        open_pairs([video], tmp_path / "cache", 256)
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_changed_video_is_decoded_anew(tmp_path):
    video = write_video(tmp_path / "x.avi", [frame(10), frame(20)])
    open_pairs([video], tmp_path / "cache", 256)
    write_video(video, [frame(110), frame(120)])
    np.testing.assert_allclose(values_of(open_pairs([video], tmp_path / "cache", 256)), [(110, 120)], atol=3)


def test_a_pair_with_a_corrupt_frame_gives_way_to_the_next(tmp_path, caplog):
    folder = write_frames(tmp_path / "set/a", [1, 2, 3, 4, 5])
    (folder / "9.png").write_bytes(b"junk")
    pairs = open_pairs([tmp_path / "set"], tmp_path / "cache", 256)
    assert values_of(pairs) == [(3, 4), (3, 4), (3, 4), (4, 5)]
    assert len(pairs.skipped) == 1
    assert caplog.text.count("skipped") == 2  # one warning: "skipped NAME ... (1 skipped so far)"


def test_frames_of_different_sizes_are_no_pair(tmp_path):
    folder = write_frames(tmp_path / "set/a", [1, 2, 3])
    cv2.imwrite(str(folder / "8.png"), frame(1, (20, 20)))
    pairs = open_pairs([tmp_path / "set"], tmp_path / "cache", 256)
    assert values_of(pairs) == [(2, 3), (2, 3)]
    assert "differ in size" in next(iter(pairs.skipped.values()))


def test_a_varying_frame_rate_or_missing_times_do_not_count_as_cut_short():
    class Header:
        def get(self, prop: int) -> float:
            return {cv2.CAP_PROP_FRAME_COUNT: 100.0, cv2.CAP_PROP_FPS: 10.0}[prop]

    assert video_cache._shortfall(Header(), read=20, reached=9.9) == ""
    assert video_cache._shortfall(Header(), read=99, reached=0.0) == ""
    assert "20 frames to 1.90 s" in video_cache._shortfall(Header(), read=20, reached=1.9)


def test_bad_requests_are_errors(tmp_path):
    write_frames(tmp_path / "set/a", [1, 2])
    pairs = open_pairs([tmp_path / "set"], tmp_path / "cache", 256, max_gap=2)
    with pytest.raises(IndexError, match="pair 1 of 1"):
        pairs[1]
    with pytest.raises(ValueError, match="gap is 3, allowed are 1 to 2"):
        pairs.pair(0, 3)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4"):
        open_pairs([tmp_path / "nowhere.mp4"], tmp_path / "cache", 256)
    with pytest.raises(ValueError, match="short_side is 0"):
        open_pairs([tmp_path / "set"], tmp_path / "cache", 0)
    for file in (tmp_path / "set/a").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="none of 1 pairs is readable"):
        open_pairs([tmp_path / "set"], tmp_path / "cache", 256)[0]
