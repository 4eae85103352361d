"""Containers, display matrices, trailers and damage: the SDK against ffmpeg, and against the whole video."""

import os
import struct

import numpy as np
import pytest
from mcjepa_client import VideoError
from mcjepa_client._video.sources import open_source
from PIL import Image

H264 = ("-c:v", "libx264", "-preset", "veryfast", "-g", "10", "-pix_fmt", "yuv420p", "-crf", "16")
MPEG4 = ("-c:v", "mpeg4", "-g", "10", "-q:v", "3")
CONTAINERS = {
    "mp4": lambda videos: videos.base,
    "fast.mp4": lambda videos: videos.copy("fast.mp4", "-movflags", "+faststart"),
    "frag.mp4": lambda videos: videos.copy("frag.mp4", "-movflags", "frag_keyframe+empty_moov"),
    "dash.mp4": lambda videos: videos.copy("dash.mp4", "-movflags", "frag_keyframe+empty_moov+dash"),
    "mov": lambda videos: videos.copy("a.mov"),
    "mkv": lambda videos: videos.copy("a.mkv"),
    "ts": lambda videos: videos.copy("a.ts"),
    "m2ts": lambda videos: videos.copy("a.m2ts"),
    "flv": lambda videos: videos.copy("a.flv"),
    "h264": lambda videos: videos.copy("a.h264"),
    "avi": lambda videos: videos.encode("a.avi", *MPEG4),
    "webm": lambda videos: videos.encode("a.webm", "-c:v", "libvpx", "-b:v", "1M", "-g", "10"),
    "mpg": lambda videos: videos.encode("a.mpg", "-c:v", "mpeg2video", "-g", "10", "-q:v", "3"),
    "ogv": lambda videos: videos.encode("a.ogv", "-c:v", "libtheora", "-g", "10", "-q:v", "7"),
    "y4m": lambda videos: videos.encode("a.y4m", "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe"),
}
ANIMATIONS = {
    "gif": ("a.gif",),
    "png": ("a.png", "-f", "apng", "-plays", "0"),
    "webp": ("a.webp", "-c:v", "libwebp_anim", "-lossless", "1", "-loop", "0"),
}


def read(path, start=0.0):
    """Frames, and what ended them."""
    frames = []
    try:
        frames.extend(
            (frame.index, round(frame.timestamp, 3), frame.load(), frame.damage)
            for frame in open_source(path).frames(start)
            if frame.timestamp >= start
        )
    except VideoError as error:
        return frames, str(error)
    return frames, None


def pixels(frames):
    return np.array([image for _, _, image, _ in frames])


def check_same(frames, expected):
    assert [frame[:2] for frame in frames] == [frame[:2] for frame in expected]
    np.testing.assert_array_equal(pixels(frames), pixels(expected))


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_has_the_frames_that_ffmpeg_finds(videos, kind):
    path = CONTAINERS[kind](videos)
    frames, error = read(path)
    assert error is None
    expected = videos.decode(path)
    assert pixels(frames).shape == expected.shape
    assert np.abs(pixels(frames).astype(int) - expected).mean() < 2
    assert np.allclose([frame[1] for frame in frames], np.arange(60) / 25, atol=0.002)


@pytest.mark.parametrize(
    "pixel_format",
    [
        "yuv420p10le",
        "yuv422p",
        "yuv444p12le",
        "gray",
        "gray16le",
        "gbrp",
        "gbrp16le",
        "rgba64le",
        "bgra",
        "yuva420p",
    ],
)
def test_every_depth_of_bits_gives_the_pixels_of_ffmpeg(videos, pixel_format):
    path = videos.encode(f"{pixel_format}.mkv", "-c:v", "ffv1", "-pix_fmt", pixel_format, frames=2)
    frames, error = read(path)
    assert error is None
    difference = np.abs(pixels(frames).astype(int) - videos.decode(path))
    assert difference.mean() < 2


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("trailer", [b"\x12" * 16, b"TAG" + b"x" * 125, bytes(5000)])
def test_bytes_behind_the_end_do_not_matter(videos, tmp_path, kind, trailer):
    if kind in ("flv", "y4m") or (kind == "h264" and trailer[:1] == b"\x12"):
        pytest.skip("FFmpeg takes them for data")
    path = CONTAINERS[kind](videos)
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes() + trailer)
    frames, error = read(copy)
    assert error is None
    check_same(frames, read(path)[0])


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("share", [0.3, 0.55, 0.9])
def test_a_file_that_is_cut_off_is_an_error_behind_frames_that_are_right(videos, tmp_path, kind, share):
    path = CONTAINERS[kind](videos)
    data = path.read_bytes()
    cut = tmp_path / path.name
    cut.write_bytes(data[: int(len(data) * share) + 50])
    frames, error = read(cut)
    assert error is not None
    assert len(frames) < 60
    check_same(frames, read(path)[0][: len(frames)])


@pytest.mark.parametrize("kind", ["mp4", "fast.mp4", "frag.mp4", "mov", "mkv", "webm", "avi", "ts", "mpg"])
@pytest.mark.parametrize("seed", range(3))
def test_damage_before_the_start_does_not_matter(videos, tmp_path, kind, seed):
    """It is noted; without a start it is an error, which says how to go on, or cannot be noticed."""
    path = CONTAINERS[kind](videos)
    whole, _ = read(path)
    data = bytearray(path.read_bytes())
    place = int(len(data) * (0.35 + 0.04 * seed))
    if kind == "frag.mp4":
        place = data.index(b"mdat", place) + 200  # a fragment without its header is lost
    data[place : place + 500] = np.random.default_rng(seed).bytes(500)
    damaged = tmp_path / path.name
    damaged.write_bytes(data)
    frames, error = read(damaged, start=1.6)
    assert error is None
    np.testing.assert_array_equal(pixels(frames), pixels([frame for frame in whole if frame[1] >= 1.6]))
    assert frames[0][1] == 1.6
    first, error = read(damaged)
    if error is not None:
        assert frames[0][3].startswith("damaged after ")
        assert frames[0][0] == 40
        check_same(first, whole[: len(first)])
        while error is not None:  # the damage may reach into the next group
            later = float(error.rpartition("start=")[2].split()[0])
            again, error = read(damaged, start=later)
        assert again[0][1] == later


def test_damage_that_reaches_behind_the_start_is_an_error_with_the_time_at_which_it_ends(videos, tmp_path):
    data = bytearray(videos.base.read_bytes())
    place = int(len(data) * 0.5)
    data[place : place + 800] = np.random.default_rng(0).bytes(800)
    (tmp_path / "a.mp4").write_bytes(data)
    first, error = read(tmp_path / "a.mp4")
    begun = first[-1][1] + 0.04
    frames, again = read(tmp_path / "a.mp4", start=begun)
    assert frames == []
    assert again == error
    assert float(again.rpartition("start=")[2].split()[0]) > begun


@pytest.mark.parametrize("kind", ["mkv", "webm", "flv", "ogv"])
@pytest.mark.parametrize("seed", range(3))
def test_what_a_demuxer_leaves_out_without_a_word_is_damage(videos, tmp_path, kind, seed):
    path = CONTAINERS[kind](videos)
    whole, _ = read(path)
    data = bytearray(path.read_bytes())
    place, size = int(len(data) * (0.35 + 0.04 * seed)), len(data) // 6
    data[place : place + size] = np.random.default_rng(seed).bytes(size)
    (tmp_path / path.name).write_bytes(data)
    first, error = read(tmp_path / path.name)
    assert error is not None
    assert [frame[:2] for frame in first] == [frame[:2] for frame in whole[: len(first)]]
    frames, error = read(tmp_path / path.name, start=2.0)
    if error is None:
        check_same(frames, whole[50:])


def packets_of(path):
    import av

    with av.open(str(path)) as container:
        return [
            (packet.pos, bytes(packet), packet.is_keyframe)
            for packet in container.demux(video=0)
            if packet.size
        ]


@pytest.mark.parametrize("kind", ["mp4", "mov", "mkv", "flv"])
@pytest.mark.parametrize("group", [0, 2])
@pytest.mark.parametrize("behind", [1, 2])
def test_a_key_frame_that_is_held_when_the_damage_comes_does_not_end_it(
    videos, tmp_path, kind, group, behind
):
    """What follows it is built on the loss."""
    path = videos.encode(f"held.{kind}", *H264, "-bf", "2")
    whole, _ = read(path)
    data = bytearray(path.read_bytes())
    packets = packets_of(path)
    keys = [number for number, (_, _, is_key) in enumerate(packets) if is_key]
    packet = packets[keys[group] + behind][1]
    place = data.index(packet)
    data[place : place + len(packet)] = bytes(len(packet))
    (tmp_path / path.name).write_bytes(data)
    first, error = read(tmp_path / path.name)
    later = float(error.rpartition("start=")[2].split()[0])
    assert later == pytest.approx(0.4 * (group + 1), abs=0.002)
    check_same(first, whole[: len(first)])
    frames, error = read(tmp_path / path.name, start=later)
    assert error is None
    check_same(frames, [frame for frame in whole if frame[1] >= later])


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("lost", ["in the key frame", "behind it"])
def test_a_loss_at_a_key_frame_is_no_joint(videos, tmp_path, group, lost):
    path = videos.encode("held.ts", *H264, "-bf", "2")
    whole, _ = read(path)
    data = path.read_bytes()
    packets = packets_of(path)
    keys = [number for number, (_, _, is_key) in enumerate(packets) if is_key]
    place = packets[keys[group]][0] + 188 if lost == "in the key frame" else packets[keys[group] + 1][0]
    (tmp_path / "a.ts").write_bytes(data[:place] + data[place + 2 * 188 :])
    first, error = read(tmp_path / "a.ts")
    later = float(error.rpartition("start=")[2].split()[0])
    assert later == pytest.approx(0.4 * (group + 1), abs=0.002)
    check_same(first, whole[: len(first)])
    frames, error = read(tmp_path / "a.ts", start=later)
    assert error is None
    check_same(frames, [frame for frame in whole if frame[1] >= later])


def test_times_count_from_the_first_frame_also_when_it_is_lost(videos, tmp_path):
    data = bytearray(CONTAINERS["ts"](videos).read_bytes())
    data[188 * 4 : 188 * 8] = b"\x47\x1f\xff\x10" * 188  # packets of nothing
    (tmp_path / "a.ts").write_bytes(data)
    frames, _ = read(tmp_path / "a.ts", start=0.8)
    assert frames[0][:2] == (20, 0.8)


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_segments_of_one_recording_that_were_joined_are_whole(videos, tmp_path, ffmpeg, codec):
    path = videos.encode(f"{codec}.ts", "-c:v", codec, "-g", "10", "-bf", "2", "-q:v", "3")
    ffmpeg(
        "-i", path, "-c", "copy", "-f", "segment", "-segment_time", "0.8", "-segment_format", "mpegts",
        tmp_path / "part%d.ts",
    )  # fmt: skip
    parts = sorted(tmp_path.glob("part*.ts"))
    assert len(parts) > 1
    (tmp_path / "a.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    frames, error = read(tmp_path / "a.ts")
    assert error is None
    np.testing.assert_array_equal(pixels(frames), pixels(read(path)[0]))


@pytest.mark.parametrize("kind", ["ts", "m2ts"])
def test_recordings_that_were_joined_are_whole(videos, tmp_path, kind):
    path = CONTAINERS[kind](videos)
    joined = tmp_path / path.name
    joined.write_bytes(path.read_bytes() * 2)
    frames, error = read(joined)
    assert error is None
    np.testing.assert_array_equal(pixels(frames), np.concatenate([pixels(read(path)[0])] * 2))
    assert np.all(np.diff([frame[1] for frame in frames]) > 0)


def test_packets_that_are_missing_in_a_group_are_damage(videos, tmp_path):
    data = CONTAINERS["ts"](videos).read_bytes()
    middle = len(data) // 188 * 9 // 20 * 188
    (tmp_path / "a.ts").write_bytes(data[:middle] + data[middle + 10 * 188 :])
    frames, error = read(tmp_path / "a.ts")
    assert error is not None
    assert len(frames) < 60


MATRICES = {
    "90": ("-display_rotation", "90"),
    "180": ("-display_rotation", "180"),
    "270": ("-display_rotation", "270"),
    "hflip": ("-display_hflip",),
    "vflip": ("-display_vflip",),
    "both": ("-display_hflip", "-display_vflip"),
    "90 hflip": ("-display_rotation", "90", "-display_hflip"),
    "90 vflip": ("-display_rotation", "90", "-display_vflip"),
    "180 hflip": ("-display_rotation", "180", "-display_hflip"),
    "270 hflip": ("-display_rotation", "270", "-display_hflip"),
    "270 vflip": ("-display_rotation", "270", "-display_vflip"),
}


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("name", MATRICES)
def test_frames_are_shown_as_ffmpeg_shows_them(videos, name, suffix):
    path = videos.copy(f"{name}.{suffix}", "-frames:v", "2", before=MATRICES[name])
    sides = (64, 96) if name[:2] in ("90", "27") else (96, 64)
    frames, error = read(path)
    assert error is None
    expected = videos.decode(path, *sides) if pixels(frames).shape[1:3] == sides[::-1] else None
    assert expected is not None
    assert np.abs(pixels(frames).astype(int) - expected).mean() < 2
    info = open_source(path).info()
    assert (info.width, info.height) == sides


@pytest.mark.parametrize("angle", [45, 10, 200])
def test_frames_that_no_quarter_turn_makes_upright_are_an_error(videos, angle):
    path = videos.copy(f"{angle}.mp4", "-frames:v", "2", before=("-display_rotation", angle))
    frames, error = read(path)
    assert frames == []
    assert f"{360 - angle}.0 degrees" in error


def boxes(data):
    while data:
        size = int.from_bytes(data[:4], "big")
        yield data[:size]
        data = data[size:]


def with_the_cover_first(data):
    """The user data, which hold the cover, before the tracks: FFmpeg numbers streams as it meets them."""
    start = data.index(b"moov") - 4
    size = int.from_bytes(data[start : start + 4], "big")
    children = sorted(boxes(data[start + 8 : start + size]), key=lambda box: box[4:8] != b"udta")
    return data[: start + 8] + b"".join(children) + data[start + size :]


def test_a_cover_is_no_video(videos, tmp_path, ffmpeg):
    cover = tmp_path / "cover.png"
    Image.fromarray(np.full((200, 300, 3), 200, np.uint8)).save(cover)
    expected, _ = read(videos.base)
    muxes = {
        "first.mp4": ("-map", "1", "-map", "0", "-disposition:v:0", "attached_pic"),
        "last.mp4": ("-map", "0", "-map", "1", "-disposition:v:1", "attached_pic"),
        "last.m4v": ("-map", "0", "-map", "1", "-disposition:v:1", "attached_pic"),
    }
    for name, options in muxes.items():
        ffmpeg("-i", videos.base, "-i", cover, *options, "-c", "copy", tmp_path / name)
    attach = ("-attach", cover, "-metadata:s:t", "mimetype=image/png")
    ffmpeg("-i", videos.base, *attach, "-c", "copy", tmp_path / "attached.mkv")
    moved = with_the_cover_first((tmp_path / "last.mp4").read_bytes())
    (tmp_path / "moved.mp4").write_bytes(moved)
    for name in (*muxes, "attached.mkv", "moved.mp4"):
        frames, error = read(tmp_path / name)
        assert error is None, name
        np.testing.assert_array_equal(pixels(frames), pixels(expected))


def test_only_a_cover_is_no_video(tmp_path, ffmpeg):
    cover = tmp_path / "cover.png"
    Image.fromarray(np.full((200, 300, 3), 200, np.uint8)).save(cover)
    sound = ("-f", "lavfi", "-i", "sine=duration=0.2")
    options = ("-map", "0", "-map", "1", "-c:v", "copy", "-disposition:v:0", "attached_pic")
    for name in ("a.mp4", "a.mp3"):
        ffmpeg(*sound, "-i", cover, *options, tmp_path / name)
        with pytest.raises(VideoError, match="no video in it"):
            list(open_source(tmp_path / name).frames())


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(
    "dispositions", [("0", "0"), ("default", "0"), ("0", "default"), ("default", "default")]
)
def test_of_several_streams_the_one_of_ffmpeg_is_taken(videos, tmp_path, ffmpeg, dispositions, suffix):
    path = tmp_path / f"a.{suffix}"
    ffmpeg(
        "-i", videos.base, "-map", "0", "-map", "0", "-filter:v:0", "scale=48:32", *H264, "-frames:v", "3",
        "-disposition:v:0", dispositions[0], "-disposition:v:1", dispositions[1], path,
    )  # fmt: skip
    frames, error = read(path)
    assert error is None
    height, width = pixels(frames).shape[1:3]
    expected = videos.decode(path, width, height)
    assert len(expected) == len(frames)
    assert np.abs(pixels(frames).astype(int) - expected).mean() < 2


@pytest.mark.parametrize("kind", ANIMATIONS)
def test_animated_images_are_videos(videos, kind):
    path = videos.encode(*ANIMATIONS[kind], frames=12)
    frames, error = read(path)
    assert error is None
    assert [frame[1] for frame in frames] == [round(index * 0.04, 3) for index in range(12)]
    assert np.abs(pixels(frames).astype(int) - videos.decode(path)).mean() < 2
    info = open_source(path).info()
    assert (info.frames, info.width, info.height) == (12, 96, 64)


@pytest.mark.parametrize("kind", ANIMATIONS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_an_animated_image_that_is_cut_off_is_an_error(videos, tmp_path, kind, share):
    path = videos.encode(*ANIMATIONS[kind], frames=12)
    data = path.read_bytes()
    (tmp_path / path.name).write_bytes(data[: int(len(data) * share)])
    frames, error = read(tmp_path / path.name)
    assert error is not None
    check_same(frames, read(path)[0][: len(frames)])


NAMES = [
    b"cam1:front.mp4",
    b"-x.mp4",
    b"%03d.mp4",
    b"concat:a.mp4|b.mp4",
    b"a?*[1].mp4",
    b"http:x.mp4",
    b"data:,x.mp4",
    b"caf\xe9.mp4",
    b"two\nlines.mp4",
    b" #x&y.mp4",
    b"file:x.mp4",
    b"pipe:0",
    b"f%d.gif",
    b"[1]%02d.png",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_there_is_a_file_whatever_its_name(videos, tmp_path, monkeypatch, name):
    source = {"gif": ANIMATIONS["gif"], "png": ANIMATIONS["png"]}.get(os.fsdecode(name)[-3:])
    path = videos.encode(*source, frames=12) if source else videos.base
    monkeypatch.chdir(tmp_path)
    with open(name, "wb") as file:
        file.write(path.read_bytes())
    frames, error = read(os.fsdecode(name))
    assert error is None
    check_same(frames, read(path)[0])
    open_source(os.fsdecode(name)).name.encode()  # it can be written anywhere


def test_only_boxes_that_are_needed_reach_past_the_end_of_a_file_that_is_cut_off(videos, tmp_path):
    data = videos.copy("fast.mp4", "-movflags", "+faststart").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data + struct.pack(">I4s", 5000, b"free") + b"x" * 8)
    assert read(tmp_path / "a.mp4")[1] is None
    (tmp_path / "a.mp4").write_bytes(data + struct.pack(">I4s", 5000, b"mdat") + b"x" * 8)
    assert read(tmp_path / "a.mp4")[1] is not None
