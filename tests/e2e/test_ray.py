"""Videos through the Ray actor: called by itself, on a local Ray, and on a cluster that loses a node."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("av", reason="the extra mcjepa-client[video] is not installed")

from mcjepa_client import Client, ConnectionFailedError, InputError
from mcjepa_client.ray import VideoProcessor

OPTIONS = {"overlay": None, "flow": "flo", "clip_frames": 2}
QUIET = "log_to_driver=False, logging_level='error'"

# Several jobs, one after the other, on a Ray of this machine.
LOCAL = f"""
import json, sys, ray
from mcjepa_client.ray import process_videos

ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, {QUIET})
jobs = [process_videos(ray.data.from_items(rows), **arguments).take_all()
        for rows, arguments in json.loads(sys.argv[1])]
ray.shutdown()
print(json.dumps(jobs))
"""

# A node is killed as soon as a video that it is at has a clip done.
CLUSTER = f"""
import json, sys, threading, time, ray
from pathlib import Path
from ray.cluster_utils import Cluster
from mcjepa_client.ray import process_videos

rows, arguments = json.loads(sys.argv[1])
node = {{"num_cpus": 1, "object_store_memory": 80 * 2**20}}
cluster = Cluster(initialize_head=True, head_node_args={{**node, "include_dashboard": False}})
lost = cluster.add_node(**node)
ray.init(address=cluster.address, {QUIET})
killed = []

def clips(row):
    journal = Path(row["out"] + ".partial", "journal.jsonl")
    return len(journal.read_bytes().splitlines()) - 1 if journal.exists() else 0

def kill():
    while sum(clips(row) > 0 for row in rows) < 2:
        time.sleep(0.05)
    cluster.remove_node(lost, allow_graceful=False)
    killed.extend(row["name"] for row in rows if clips(row) > 0)

threading.Thread(target=kill, daemon=True).start()
done = process_videos(ray.data.from_items(rows), **arguments).take_all()
alive = sum(node["Alive"] for node in ray.nodes())
ray.shutdown()
cluster.shutdown()
print(json.dumps([done, killed, alive]))
"""


@pytest.fixture
def run_on_ray():
    """Runs a script with a Ray in a folder of its own; whatever that leaves running is killed."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("the extra mcjepa-client[ray] is not installed")
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # names of sockets must be short
        Path(folder, "ray").mkdir()
        settings = {"RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}

        def run(script, argument):
            done = subprocess.run(
                [sys.executable, "-c", script, json.dumps(argument)],
                env={**os.environ, **settings}, cwd=folder, capture_output=True, text=True, timeout=280,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-3000:]
            return json.loads(done.stdout.splitlines()[-1])

        yield run
        kill_processes_of(folder)


def kill_processes_of(folder):
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{folder}/".encode() in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
        except (OSError, ProcessLookupError):
            continue  # it has ended


@pytest.fixture
def videos(write_video, tmp_path):
    """Rows of a good video, a longer one, and a file that is none."""
    write_video(tmp_path / "short.mp4", frames=3)
    write_video(tmp_path / "long.mp4", frames=6)
    (tmp_path / "text.mp4").write_text("not a video")
    return [{"path": str(tmp_path / f"{name}.mp4"), "name": name} for name in ("short", "long", "text")]


@pytest.fixture
def own(repository):
    """Arguments for servers of the actors' own."""
    return {"settings": {"MCJEPA_MODEL_REPOSITORY": str(repository), "MCJEPA_INTRA_OP_THREADS": "1"}}


@pytest.fixture
def second_server(start):
    running = start()
    with Client(running.url) as client:
        client.wait_until_ready(60)
    yield running.url
    running.stop(signal.SIGTERM)


def with_output(rows, folder):
    return [{**row, "out": str(folder / row["name"])} for row in rows]


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def outcomes(rows):
    return {row["name"]: (row["status"], row["frames"]) for row in rows}


def check(rows, server, tmp_path):
    """One good, one good, one failed, and the bytes are those of a client without Ray."""
    assert outcomes(rows) == {"short": ("done", 3), "long": ("done", 6), "text": ("failed", 0)}
    (failed,) = (row for row in rows if row["name"] == "text")
    assert "text.mp4" in failed["error"]
    check_bytes([row for row in rows if row is not failed], server, tmp_path)


def check_bytes(rows, server, tmp_path):
    with Client(server) as client:
        for row in rows:
            direct = tmp_path / "direct" / row["name"]
            client.process(row["path"], direct, **OPTIONS)
            produced = contents(Path(row["out"]))
            assert produced == contents(direct)
            assert produced


def test_an_actor_hands_rows_to_the_servers(server, videos, tmp_path):
    actor = VideoProcessor([server], options=OPTIONS)
    rows = with_output(videos, tmp_path / "out")
    check([actor(row) for row in rows], server, tmp_path)
    again = [actor(row)["status"] for row in rows]
    assert again == ["skipped", "skipped", "failed"]
    actor.close()


@pytest.mark.parametrize("row", [{"out": "a"}, {"path": 3, "out": "a"}, {"path": "a.mp4", "out": None}])
def test_a_row_without_its_columns_is_refused(row):
    with pytest.raises(InputError, match=r"row: expected text in the column (path|out)"):
        VideoProcessor("http://127.0.0.1:9")(row)


def test_servers_that_are_gone_end_the_job(videos, tmp_path):
    """No other video could be computed either, and each would take the whole patience."""
    actor = VideoProcessor("http://127.0.0.1:9", options={**OPTIONS, "patience": 0.0})
    with pytest.raises(ConnectionFailedError):
        actor(with_output(videos, tmp_path / "out")[0])


def test_a_video_that_another_process_is_at_is_waited_for(server, videos, tmp_path, monkeypatch):
    """The writer on a node that was cut off is still there when its successor begins."""
    fcntl = pytest.importorskip("fcntl", reason="folders are locked on Unix only")
    (row, *_) = with_output(videos, tmp_path / "out")
    journal = Path(row["out"] + ".partial", "journal.jsonl")
    journal.parent.mkdir(parents=True)
    with open(journal, "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        naps = []

        def nap(seconds):
            naps.append(seconds)
            other.close()

        monkeypatch.setattr("mcjepa_client.ray.time.sleep", nap)
        assert VideoProcessor(server, options=OPTIONS)(row)["status"] == "done"
    assert naps == [1.0]


def test_an_actor_with_a_server_of_its_own(server, own, videos, tmp_path):
    """Its results are those of any other server, and the server ends with it."""
    actor = VideoProcessor(**own, options=OPTIONS)
    url = actor._client.base_url
    check([actor(row) for row in with_output(videos, tmp_path / "out")], server, tmp_path)
    actor.close()
    with Client(url) as client:
        assert not client.is_alive()


@pytest.mark.slow
def test_a_local_ray(run_on_ray, server, second_server, videos, tmp_path):
    """Over two servers, with as many actors as there are CPUs; then once more."""
    rows = with_output(videos, tmp_path / "out")
    job = [rows, {"servers": [server, second_server], "concurrency": 2, **OPTIONS}]
    first, again = run_on_ray(LOCAL, [job, job])
    check(first, server, tmp_path)
    assert outcomes(again) == {"short": ("skipped", 3), "long": ("skipped", 6), "text": ("failed", 0)}


@pytest.mark.slow
def test_a_local_ray_with_engines_of_its_own(run_on_ray, server, own, videos, tmp_path):
    (done,) = run_on_ray(LOCAL, [[with_output(videos, tmp_path / "out"), {**own, **OPTIONS}]])
    check(done, server, tmp_path)


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_loses_no_video(run_on_ray, server, own, write_video, tmp_path):
    names = ["a", "b", "c"]
    videos = [{"path": str(write_video(tmp_path / f"{n}.mp4", frames=40)), "name": n} for n in names]
    rows = with_output(videos, tmp_path / "out")
    done, killed, alive = run_on_ray(CLUSTER, [rows, {**own, "concurrency": 2, **OPTIONS}])
    assert len(killed) == 2  # both nodes were at a video
    assert alive == 1
    assert sorted(row["name"] for row in done) == names
    # a video that was done when the node with its row was lost is skipped when Ray asks for it again
    assert {(row["status"], row["frames"]) for row in done} <= {("done", 40), ("skipped", 40)}
    check_bytes(done, server, tmp_path)
