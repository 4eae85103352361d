"""Folders of results through the real client and a real server process on the fake engine, with kills."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from mcjepa_client import Client, ConnectionFailedError, InputError, VideoError, flow_io

zarr = pytest.importorskip("zarr", reason="the extra mcjepa-client[video] is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="the extra mcjepa-client[video] is not installed")

MAIN = "import sys; from mcjepa_client.cli import main; sys.exit(main())"

# Dies at the n-th call of os.fsync, as by kill -9: before the file is known to be on the disk.
DYING = """
import os, signal, sys
from mcjepa_client.cli import main

left = int(sys.argv[1])
fsync = os.fsync

def dying(descriptor):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(descriptor)

os.fsync = dying
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def client(server):
    with Client(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def video(tmp_path_factory, write_video):
    return write_video(tmp_path_factory.mktemp("video") / "video.mp4", frames=20)


@pytest.fixture(scope="module")
def whole(server, video, tmp_path_factory):
    """The results of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with Client(server.url) as client:
        client.process(video, out, clip_frames=4)
    return out


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(server, *arguments):
    return [*map(str, arguments), "--server", server.url]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_results_are_those_of_the_iterator(client, video, whole):
    frames = list(client.video(video, clip_frames=4))
    store = zarr.open_group(str(whole / "flow.zarr"), mode="r")
    assert store["flow"].shape == (19, 48, 80, 2)
    assert store["flow"].dtype == np.float16
    for stored, frame in zip(store["flow"][:], frames, strict=False):
        assert np.array_equal(stored, frame.flow.astype(np.float16))
    assert np.array_equal(store["frame"][:], np.arange(19))
    assert np.allclose(store["timestamp"][:], np.arange(19) / 25)
    table = parquet.read_table(whole / "embeddings.parquet")
    assert table.column_names == ["frame", "timestamp", "vector"]
    assert table["frame"].to_pylist() == list(range(20))
    assert np.array_equal(np.stack(table["vector"].to_numpy()), [frame.embedding for frame in frames])


def test_the_manifest_has_the_checksum_of_every_file(whole):
    import hashlib
    import json

    records = [json.loads(line) for line in (whole / "manifest.jsonl").read_text().splitlines()]
    first, *frames, end = records
    assert first["type"] == "video"
    assert first["model"]["model_version"] == "fake-0"
    assert (end["status"], end["frames"], end["flows"]) == ("complete", 20, 19)
    sums = {path: digest for record in [*frames, end] for path, digest in record["files"].items()}
    files = {path.as_posix(): data for path, data in contents(whole).items()}
    assert sums == {
        path: hashlib.sha256(data).hexdigest() for path, data in files.items() if path != "manifest.jsonl"
    }


def test_the_overlay_has_a_picture_for_each_flow(whole):
    import av

    with av.open(str(whole / "overlay.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert np.allclose(times, np.arange(19) / 25, atol=1e-4)


def test_a_client_killed_again_and_again_leaves_the_same_bytes(server, video, whole, tmp_path):
    """Each run gets a little further than the one before, until one ends; so every stage is cut somewhere."""
    out = tmp_path / "out"
    arguments = command(server, "video", video, "-o", out, "--clip-frames", 4)
    killed = 0
    for moment in (1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 8, 6, 10, 7, 12, 1, 2, 3, 10_000):
        done = subprocess.run(
            [sys.executable, "-c", DYING, str(moment), *arguments], capture_output=True, timeout=120
        )
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not out.exists()
        killed += 1
    assert killed > 8
    assert contents(out) == contents(whole)
    assert not out.with_name("out.partial").exists()


@pytest.mark.parametrize("moment", [8, 20, 23, 24])
def test_a_client_killed_once_leaves_the_same_bytes(server, video, whole, tmp_path, moment):
    out = tmp_path / "out"
    arguments = command(server, "video", video, "-o", out, "--clip-frames", 4)
    first = subprocess.run([sys.executable, "-c", DYING, str(moment), *arguments], timeout=120)
    assert first.returncode == -signal.SIGKILL
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert contents(out) == contents(whole)


def test_a_torn_line_of_the_journal_is_computed_again(client, video, whole, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(Stop):
        client.process(video, out, clip_frames=4, progress=stop_at(9))
    journal = tmp_path / "out.partial" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    client.process(video, out, clip_frames=4)
    assert contents(out) == contents(whole)


class Stop(Exception):
    pass


def stop_at(frames):
    def progress(stage, done, total):
        if done >= frames:
            raise Stop

    return progress


def at(frames, action):
    """A progress callback that does something once, as soon as so many frames are done."""
    waiting = [action]

    def progress(stage, done, total):
        if done >= frames and waiting:
            waiting.pop()()

    return progress


def test_a_server_killed_and_started_again_is_waited_for(servers, video, whole, tmp_path):
    server = servers()

    def restart():
        server.kill()
        server.start()

    with Client(server.url) as client:
        client.process(video, tmp_path / "out", clip_frames=4, progress=at(6, restart))
    assert contents(tmp_path / "out") == contents(whole)


def test_a_server_that_is_gone_ends_the_run_and_the_next_goes_on(servers, video, whole, tmp_path):
    server = servers()
    out = tmp_path / "out"
    with Client(server.url) as client:
        with pytest.raises(ConnectionFailedError):
            client.process(video, out, clip_frames=4, patience=0, progress=at(6, server.kill))
        server.start()
        done = []
        client.process(video, out, clip_frames=4, progress=lambda stage, n, total: done.append(n))
    assert done[0] >= 6, "it begins where it stopped"
    assert contents(out) == contents(whole)


def test_of_two_servers_one_may_die(server, servers, video, whole, tmp_path):
    dying = servers()
    with Client([dying.url, server.url]) as client:
        client.process(video, tmp_path / "out", clip_frames=4, patience=60, progress=at(6, dying.kill))
    assert contents(tmp_path / "out") == contents(whole)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, write_video):
    """A truncated file, one with damage in the middle, and none at all."""
    folder = tmp_path_factory.mktemp("damaged")
    whole = write_video(folder / "whole.mkv", frames=30).read_bytes()
    (folder / "truncated.mkv").write_bytes(whole[: len(whole) * 7 // 10])
    middle = len(whole) // 2
    noise = np.random.default_rng(0).bytes(400)
    (folder / "corrupt.mkv").write_bytes(whole[:middle] + noise + whole[middle + 400 :])
    (folder / "text.mkv").write_text("not a video")
    return folder


@pytest.mark.parametrize("name", ["truncated.mkv", "corrupt.mkv"])
def test_what_can_be_read_of_a_damaged_video_is_kept(client, damaged, tmp_path, name):
    out = tmp_path / "out"
    with pytest.raises(VideoError, match="has what was before") as first:
        client.process(damaged / name, out)
    frames = first.value.frames
    assert 1 < frames < 30
    assert zarr.open_group(str(out / "flow.zarr"), mode="r")["flow"].shape[0] == frames - 1
    before = contents(out)
    with pytest.raises(VideoError) as again:
        client.process(damaged / name, out)
    assert str(again.value) == str(first.value)
    assert contents(out) == before


def test_a_batch_goes_on_after_damaged_videos(server, damaged, tmp_path):
    out = tmp_path / "out"
    done = run(*command(server, "batch", damaged, "-o", out))
    assert done.returncode == 1
    assert "1 done, 3 failed" in done.stdout
    assert (out / "whole.mkv" / "manifest.jsonl").is_file()
    assert len(contents(out / "truncated.mkv")) > 5
    assert not (out / "text.mkv").exists()
    again = run(*command(server, "batch", damaged, "-o", out))
    assert "1 skipped, 3 failed" in again.stdout


def test_a_batch_of_a_list(server, video, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"# two\n{video}\n\nsub/copy.mp4\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "copy.mp4").write_bytes(video.read_bytes())
    done = run(*command(server, "batch", listed, "-o", tmp_path / "out", "--overlay", "none"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "video.mp4" / "manifest.jsonl").is_file()
    assert (tmp_path / "out" / "sub" / "copy.mp4" / "manifest.jsonl").is_file()


def test_a_batch_ends_when_no_server_can_be_reached(servers, damaged, tmp_path):
    server = servers()
    server.kill()
    done = run(*command(server, "batch", damaged, "-o", tmp_path / "out", "--patience", 0))
    assert done.returncode == 3
    assert "not started" in done.stdout


def test_one_frame_has_an_embedding_and_no_flow(client, tmp_path, write_video):
    result = client.process(write_video(tmp_path / "one.mp4", frames=1), tmp_path / "out")
    assert result.frames == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"embeddings.parquet", "manifest.jsonl"}
    assert parquet.read_table(tmp_path / "out" / "embeddings.parquet").num_rows == 1


@pytest.mark.parametrize("overlay", ["overlay", "side-by-side"])
def test_odd_sizes(client, tmp_path, picture, overlay):
    import av
    import cv2

    (tmp_path / "frames").mkdir()
    for index in range(4):
        cv2.imwrite(str(tmp_path / "frames" / f"{index}.png"), picture(index, 51, 83))
    client.process(tmp_path / "frames", tmp_path / "out", overlay=overlay, fps=10)
    with av.open(str(tmp_path / "out" / f"{overlay}.mp4")) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 3
    assert (frames[0].height, frames[0].width) == (52, 84 if overlay == "overlay" else 166)


@pytest.mark.parametrize(
    ("storage", "name", "read"),
    [
        ("flo", "000007.flo", flow_io.read_flo),
        ("npy", "000007.npy", np.load),
        ("kitti", "000007.png", lambda path: flow_io.read_kitti(path).flow),
    ],
)
def test_a_file_for_each_frame(client, video, tmp_path, flow_of, storage, name, read):
    out = tmp_path / "out"
    client.process(video, out, flow=storage, direction="both", occlusion=True)
    (frame,) = [frame for frame in client.video(video) if frame.index == 7]
    tolerance = 1 / 64 if storage == "kitti" else 0
    assert np.allclose(read(out / "flow" / name), frame.flow, atol=tolerance)
    assert len(list((out / "flow").iterdir())) == len(list((out / "flow_backward").iterdir())) == 19
    assert len(list((out / "occlusion").iterdir())) == 19
    assert (out / "overlay.mp4").is_file()


def test_backward_flow_and_occlusion_are_in_the_store(client, video, tmp_path):
    client.process(video, tmp_path / "out", direction="both", occlusion=True, overlay=None)
    store = zarr.open_group(str(tmp_path / "out" / "flow.zarr"), mode="r")
    assert store["flow_backward"].shape == (19, 48, 80, 2)
    assert store["occlusion"].dtype == bool
    assert not (tmp_path / "out" / "overlay.mp4").exists()


def test_results_are_not_computed_twice(client, video, whole):
    before = contents(whole)
    calls = []
    result = client.process(video, whole, clip_frames=4, progress=lambda *state: calls.append(state))
    assert result.was_done
    assert calls == []
    assert contents(whole) == before


def test_other_settings_are_refused_until_overwritten(client, video, tmp_path):
    out = tmp_path / "out"
    client.process(video, out)
    with pytest.raises(InputError, match="stride 1 is now 2"):
        client.process(video, out, stride=2)
    assert client.process(video, out, stride=2, overwrite=True).frames == 10


def test_unfinished_work_with_other_settings_is_refused(client, video, tmp_path):
    with pytest.raises(Stop):
        client.process(video, tmp_path / "out", clip_frames=4, progress=stop_at(9))
    with pytest.raises(InputError, match="clip_frames 4 is now 5"):
        client.process(video, tmp_path / "out", clip_frames=5)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_left_alone(client, video, tmp_path, overwrite):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="is not a folder of results"):
        client.process(video, tmp_path / "out", overwrite=overwrite)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "precious"


def test_what_changed_on_the_disk_is_noticed(client, video, tmp_path):
    with pytest.raises(Stop):
        client.process(video, tmp_path / "out", clip_frames=4, progress=stop_at(9))
    chunk = tmp_path / "out.partial" / "flow.zarr" / "flow" / "c" / "2" / "0" / "0" / "0"
    chunk.write_bytes(b"spoilt" + chunk.read_bytes()[6:])
    with pytest.raises(InputError, match="is not what was written"):
        client.process(video, tmp_path / "out", clip_frames=4)


def test_two_processes_cannot_write_to_one_folder(client, video, tmp_path):
    def second():
        with pytest.raises(InputError, match="another process"):
            client.process(video, tmp_path / "out", clip_frames=4)

    client.process(video, tmp_path / "out", clip_frames=4, progress=at(6, second))


def test_dry_run_says_what_is_there_and_writes_nothing(client, video, whole, tmp_path):
    arguments = ["video", video, "--clip-frames", 4, "--dry-run", "-o"]
    new = run(*arguments, tmp_path / "out")
    assert new.returncode == 0, new.stderr
    assert "80x48, about 20 frames" in new.stdout
    assert new.stdout.rstrip().endswith(": new")
    assert list(tmp_path.iterdir()) == []
    assert "is done already" in run(*arguments, whole).stdout
    with pytest.raises(Stop):
        client.process(video, tmp_path / "out", clip_frames=4, progress=stop_at(9))
    assert "goes on after 9 frames" in run(*arguments, tmp_path / "out").stdout


def test_progress_is_lines_where_there_is_no_terminal(server, video, tmp_path):
    done = run(*command(server, "video", video, "-o", tmp_path / "out"))
    assert "video.mp4: flow: 20 of 20 frames" in done.stderr
    assert "frames/s" in done.stderr
    assert "\r" not in done.stderr


def test_a_camera_cannot_be_read_twice(client, tmp_path):
    with pytest.raises(InputError, match="cannot be read twice"):
        client.process(0, tmp_path / "out")
