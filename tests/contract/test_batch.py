"""Folders, names and lists as they are met: the commands `video` and `batch` against a real server."""

import errno
import fcntl
import json
import os
import subprocess
import warnings

import numpy as np
import pytest
from mcjepa_client import Client, InputError, VideoError
from mcjepa_client._video.folder import Folder
from mcjepa_client.cli import main

zarr = pytest.importorskip("zarr", reason="the extra mcjepa-client[video] is not installed")
SLIM = ("--overlay", "none")


@pytest.fixture(scope="module")
def video(tmp_path_factory, write_video):
    return write_video(tmp_path_factory.mktemp("video") / "video.mp4", frames=6)


@pytest.fixture
def client(server):
    with Client(server.url) as client:
        yield client


@pytest.fixture
def run(server):
    def run(*arguments):
        return main([*map(str, arguments), "--server", server.url])

    return run


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def manifest(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_bytes().splitlines()]


@pytest.fixture(scope="module")
def whole(server, video, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    with Client(server.url) as client:
        client.process(video, out)
    return contents(out)


@pytest.fixture
def mounted(tmp_path):
    folder = tmp_path / "mounted"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=60)


def stop_at(frames):
    def progress(stage, done, total):
        if done >= frames:
            raise KeyboardInterrupt

    return progress


def check_in_place(client, video, out, whole):
    """Stopped and taken up again, finished, left as it is, overwritten."""
    folder = os.path.realpath(out)
    inode = os.stat(folder).st_ino
    with pytest.raises(KeyboardInterrupt):
        client.process(video, out, progress=stop_at(1))
    assert not client.process(video, out).was_done
    assert client.process(video, out).was_done
    assert not client.process(video, out, overwrite=True).was_done
    assert os.stat(folder).st_ino == inode
    assert contents(type(video)(folder)) == whole


@pytest.mark.parametrize("kind", ["empty", "symlink", "symlink to symlink", "."])
def test_a_folder_that_is_there_is_filled(client, video, tmp_path, monkeypatch, whole, kind):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "second").symlink_to("link")
    monkeypatch.chdir(folder)
    out = {
        "empty": folder,
        "symlink": tmp_path / "link",
        "symlink to symlink": tmp_path / "second",
        ".": ".",
    }
    check_in_place(client, video, out[kind], whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link", "second"]


def test_a_mount_point_is_filled(client, video, mounted, whole):
    check_in_place(client, video, mounted, whole)


def test_a_link_to_a_folder_that_is_not_there_yet(client, video, tmp_path, whole):
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "folder")
    client.process(video, tmp_path / "link")
    assert contents(tmp_path / "disk" / "folder") == whole


def test_moving_results_to_their_place_can_be_taken_up(client, video, tmp_path, whole, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    rename = os.rename

    def dying(source, target):
        if str(target).endswith("manifest.jsonl"):
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", dying)
    with pytest.raises(KeyboardInterrupt):
        client.process(video, out)
    monkeypatch.undo()
    assert not (out / "manifest.jsonl").exists()
    client.process(video, out)
    assert contents(out) == whole


@pytest.mark.parametrize("kind", ["file", "dangling parent"])
def test_what_cannot_be_a_folder_is_refused_before_computing(client, video, tmp_path, kind):
    (tmp_path / "file").write_text("precious")
    calls = []
    out = tmp_path / "file" if kind == "file" else tmp_path / "file" / "out"
    with pytest.raises((InputError, OSError)):
        client.process(video, out, progress=lambda *state: calls.append(state))
    assert calls == []
    assert (tmp_path / "file").read_text() == "precious"


def test_names_that_are_not_utf8(run, client, video, tmp_path, capsys):
    folder = os.fsencode(tmp_path / "videos")
    os.mkdir(folder)
    for name in (b"caf\xe9.mp4", b"plain.mp4"):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(video.read_bytes())
    with open(os.path.join(folder, b"br\xfcken.mp4"), "wb") as file:
        file.write(video.read_bytes()[:900])
    assert run("batch", os.fsdecode(folder), "-o", tmp_path / "out") == 1
    told = capsys.readouterr()
    assert "2 done, 1 failed" in told.out
    assert "caf\\xe9.mp4" in told.out
    assert "br\\xfcken.mp4" in told.err
    (record,) = [manifest(path)[0] for path in (tmp_path / "out").iterdir() if path.name.startswith("caf")]
    assert record["source"]["name"] == "caf\\xe9.mp4"
    os.remove(os.path.join(folder, b"br\xfcken.mp4"))
    assert run("batch", os.fsdecode(folder), "-o", tmp_path / "out") == 0
    assert "2 skipped" in capsys.readouterr().out


def test_an_output_folder_that_is_not_utf8_or_has_a_colon(client, video, tmp_path, whole):
    for name in (b"caf\xe9", b"cam1:front", b"http://x"):
        out = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
        client.process(video, out)
        assert contents(tmp_path / os.fsdecode(name)) == whole


def test_images_whose_names_are_not_utf8(client, tmp_path, picture):
    from mcjepa_client import flow_io

    (tmp_path / "frames").mkdir()
    for index in range(3):
        with open(os.path.join(os.fsencode(tmp_path / "frames"), b"\xe9%d.png" % index), "wb") as file:
            file.write(flow_io.encode_png(picture(index)))
    client.process(tmp_path / "frames", tmp_path / "out")
    assert manifest(tmp_path / "out")[0]["source"]["images"] == 3


@pytest.mark.parametrize("stem", ["x" * 246, "é" * 123, "日" * 82])
def test_names_as_long_as_a_file_system_takes(run, video, tmp_path, stem, whole):
    (tmp_path / "videos").mkdir()
    name = f"{stem}.mp4"
    assert 249 < len(name.encode()) < 252
    (tmp_path / "videos" / name).write_bytes(video.read_bytes())
    assert run("batch", tmp_path / "videos", "-o", tmp_path / "out") == 0
    assert run("batch", tmp_path / "videos", "-o", tmp_path / "out") == 0
    found = contents(tmp_path / "out" / name)
    manifest_file = next(path for path in found if path.name == "manifest.jsonl")
    del found[manifest_file]
    assert found == {path: data for path, data in whole.items() if path != manifest_file}


@pytest.mark.parametrize(
    ("encoding", "mark", "line"),
    [
        ("utf-8", b"", "\n"),
        ("utf-8", b"\xef\xbb\xbf", "\r\n"),
        ("utf-8", b"\xef\xbb\xbf", "\r"),
        ("utf-16", b"", "\r\n"),
        ("latin-1", b"", "\n"),
    ],
)
def test_lists_as_editors_write_them(run, video, tmp_path, capsys, encoding, mark, line):
    names = ["first.mp4", "zweite é.mp4"]
    listed = tmp_path / "list.txt"
    listed.write_bytes(mark + line.join([names[0], "", "  ", "# no video", names[1], ""]).encode(encoding))
    for name in names:
        stored = name.encode("latin-1" if encoding == "latin-1" else "utf-8")
        with open(os.path.join(os.fsencode(tmp_path), stored), "wb") as file:
            file.write(video.read_bytes())
    assert run("batch", listed, "-o", tmp_path / "out", *SLIM) == 0
    assert "2 done" in capsys.readouterr().out


def test_a_video_is_no_list(run, video, tmp_path):
    assert run("batch", video, "-o", tmp_path / "out") == 2


@pytest.mark.parametrize("folder", [".", "videos"])
def test_results_beside_and_among_the_videos(run, video, tmp_path, monkeypatch, folder, capsys):
    """`batch videos -o .` works; `batch . -o .` would write to the videos themselves."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(video.read_bytes())
    monkeypatch.chdir(tmp_path if folder == "videos" else tmp_path / "videos")
    assert run("batch", folder, "-o", ".", *SLIM) == (0 if folder == "videos" else 2)
    assert (tmp_path / "videos" / "a.mp4").read_bytes() == video.read_bytes()


def test_results_inside_the_folder_are_no_videos(run, video, tmp_path, capsys):
    (tmp_path / "a.mp4").write_bytes(video.read_bytes())
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for out in ("out", "link"):
        assert run("batch", tmp_path, "-o", tmp_path / out) == 0
    assert "1 skipped" in capsys.readouterr().out


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_of(client, run, video, tmp_path, monkeypatch, code, capsys):
    def refuse(file, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="no locks"):
        client.process(video, tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert run("video", video, "-o", tmp_path / "second", *SLIM) == 0
    assert "warning" in capsys.readouterr().err


def test_two_batches_on_one_folder(run, client, video, tmp_path, capsys):
    """The second passes by what the first is at."""
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "videos" / name).write_bytes(video.read_bytes())
    told = []

    def second(stage, done, total):
        if not told:
            told.append(run("batch", tmp_path / "videos", "-o", tmp_path / "out"))
            with pytest.raises(InputError):
                client.process(video, tmp_path / "out" / "a.mp4", overwrite=True)

    client.process(tmp_path / "videos" / "a.mp4", tmp_path / "out" / "a.mp4", progress=second)
    assert told == [0]
    assert "1 done, 1 skipped" in capsys.readouterr().out
    assert run("batch", tmp_path / "videos", "-o", tmp_path / "out") == 0
    assert "2 skipped" in capsys.readouterr().out


def test_what_another_process_has_finished_in_the_meantime_is_taken(client, video, tmp_path, monkeypatch):
    """It finishes after this one has looked, and before this one has locked the folder."""
    out = tmp_path / "out"
    composed = Folder.composed

    def late(folder, header):
        monkeypatch.setattr(Folder, "composed", composed)
        client.process(video, out)
        return composed(folder, header)

    monkeypatch.setattr(Folder, "composed", late)
    calls = []
    client.process(video, out, progress=lambda *state: calls.append(state))
    assert calls == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_one_that_fails_in_an_unforeseen_way_does_not_end_a_batch(run, video, tmp_path, monkeypatch, capsys):
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "videos" / name).write_bytes(video.read_bytes())
    process = Client.process

    def failing(self, source, out, **options):
        if str(source).endswith("a.mp4"):
            raise ValueError("unforeseen")
        return process(self, source, out, **options)

    monkeypatch.setattr(Client, "process", failing)
    assert run("batch", tmp_path / "videos", "-o", tmp_path / "out", *SLIM) == 1
    assert "1 done, 1 failed" in capsys.readouterr().out


def test_damage_that_was_passed_over_is_noted(client, tmp_path, write_video):
    path = write_video(tmp_path / "video.mkv", frames=40)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = np.random.default_rng(0).bytes(400)
    path.write_bytes(data)
    with pytest.raises(VideoError, match="start=") as caught:
        client.process(path, tmp_path / "first")
    assert manifest(tmp_path / "first")[0]["damage"] is None
    later = float(str(caught.value).partition("start=")[2].split()[0])
    result = client.process(path, tmp_path / "second", start=later)
    assert manifest(tmp_path / "second")[0]["damage"].startswith("damaged after ")
    assert manifest(tmp_path / "second")[-1]["status"] == "complete"
    assert result.frames == 40 - round(later * 25)


def test_the_size_is_that_of_what_was_computed(client, tmp_path, write_video, ffmpeg_or_skip):
    """A transport stream whose pictures become larger after the fifth."""
    for name, height, width in (("small", 48, 80), ("large", 64, 96)):
        write_video(tmp_path / f"{name}.ts", frames=5, height=height, width=width)
    joined = tmp_path / "joined.ts"
    joined.write_bytes((tmp_path / "small.ts").read_bytes() + (tmp_path / "large.ts").read_bytes())
    with pytest.raises(VideoError, match="start=") as caught:
        client.process(joined, tmp_path / "first")
    assert manifest(tmp_path / "first")[0]["size"] == [80, 48]
    later = float(str(caught.value).partition("start=")[2].split()[0].rstrip(";"))
    client.process(joined, tmp_path / "out", start=later)
    assert manifest(tmp_path / "out")[0]["size"] == [96, 64]
    store = zarr.open_group(str(tmp_path / "out" / "flow.zarr"), mode="r")
    assert store["flow"].shape == (4, 64, 96, 2)


@pytest.fixture
def ffmpeg_or_skip():
    pytest.importorskip("av", reason="the extra mcjepa-client[video] is not installed")


@pytest.mark.parametrize(
    "fps", [0, -1, 1e-5, 1001, 200_000, float("nan"), float("inf"), True, "25", 1 / 46_800]
)
def test_a_rate_out_of_range_is_refused(client, tmp_path, picture, fps):
    from mcjepa_client import flow_io

    (tmp_path / "1.png").write_bytes(flow_io.encode_png(picture(0)))
    with pytest.raises(InputError, match="fps"):
        client.video(tmp_path, fps=fps)


@pytest.mark.parametrize("fps", [1 / 3600, 1, 1000])
def test_the_overlay_keeps_the_times_of_any_rate(client, tmp_path, picture, fps):
    import av
    from mcjepa_client import flow_io

    (tmp_path / "frames").mkdir()
    for index in range(5):
        (tmp_path / "frames" / f"{index}.png").write_bytes(flow_io.encode_png(picture(index)))
    client.process(tmp_path / "frames", tmp_path / "out", fps=fps)
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert np.allclose(times, np.arange(4) / fps, atol=1e-4)


@pytest.mark.parametrize(
    "times",
    [
        [0, 40, 10**9, 10**9 + 40, 10**9 + 80],
        [5 * 10**8, 5 * 10**8 + 40, 5 * 10**8 + 80, 5 * 10**8 + 120, 5 * 10**8 + 160],
        [-4000, -3960, -3920, -3880, -3840],
        [0, 10**9, 2 * 10**9, 3 * 10**9, 4 * 10**9],
    ],
)
def test_odd_times_of_a_video(client, tmp_path, write_video, times):
    import av

    path = write_video(tmp_path / "video.mkv", frames=5, times=times)
    client.process(path, tmp_path / "out")
    store = zarr.open_group(str(tmp_path / "out" / "flow.zarr"), mode="r")
    assert np.allclose(store["timestamp"][:], (np.array(times[:4]) - times[0]) / 1000)
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as container:
        shown = [frame.time for frame in container.decode(video=0)]
    assert len(shown) == 4
    assert np.all(np.diff(shown) > 0)


def test_dry_run_names_what_cannot_be_written(run, tmp_path, video, capsys):
    folder = tmp_path / os.fsdecode(b"\xe9")
    folder.mkdir()
    (folder / "a.mp4").write_bytes(video.read_bytes())
    assert run("batch", folder, "-o", tmp_path / "out", "--dry-run") == 0
    assert "80x48" in capsys.readouterr().out


def test_what_can_be_read_of_a_cut_off_animation_is_kept(client, tmp_path, picture):
    from PIL import Image

    first, *others = (Image.fromarray(picture(index)) for index in range(8))
    first.save(tmp_path / "whole.gif", save_all=True, append_images=others, duration=40)
    data = (tmp_path / "whole.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(data[: len(data) * 6 // 10])
    assert client.process(tmp_path / "whole.gif", tmp_path / "whole").frames == 8
    with pytest.raises(VideoError) as caught:
        client.process(tmp_path / "cut.gif", tmp_path / "out")
    assert 1 < caught.value.frames < 8
    assert manifest(tmp_path / "out")[-1]["status"] == "partial"


def test_images_before_the_start_do_not_matter(client, run, tmp_path, picture):
    from mcjepa_client import flow_io

    (tmp_path / "frames").mkdir()
    for index in range(6):
        data = flow_io.encode_png(picture(index))
        (tmp_path / "frames" / f"{index}.png").write_bytes(data if index else data[:500])
    assert client.process(tmp_path / "frames", tmp_path / "out", start=0.04, fps=25).frames == 5
    assert run("video", tmp_path / "frames", "-o", tmp_path / "new", "--dry-run") == 0


@pytest.mark.parametrize("inside", ["", "inside"])
def test_a_folder_that_cannot_be_is_refused_before_anything_is_computed(client, run, tmp_path, video, inside):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError):
        client.process(video, tmp_path / "loop" / inside)
    assert run("video", video, "-o", tmp_path / "loop" / inside, "--dry-run") == 2
    with pytest.raises(InputError):
        client.process(video, f"a\0b{inside}")


def test_dry_run_tells_the_size_at_the_start(run, tmp_path, write_video, capsys):
    parts = [
        write_video(tmp_path / f"{width}.ts", frames=25, height=height, width=width)
        for width, height in ((80, 48), (96, 64))
    ]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert run("video", tmp_path / "both.ts", "-o", tmp_path / "out", "--dry-run", "--start", "1.2") == 0
    assert "96x64" in capsys.readouterr().out
