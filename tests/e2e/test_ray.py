"""Videos through the Ray actor: called by itself, and on a local Ray."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from mcjepa_client import Client, InputError
from mcjepa_client.ray import VideoProcessor

JOB = """
import json, sys, ray
from mcjepa_client.ray import process_videos

rows, arguments = json.loads(sys.argv[1])
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
done = process_videos(ray.data.from_items(rows, override_num_blocks=1), **arguments)
print(json.dumps(done.take_all()))
"""
OPTIONS = {"overlay": None, "flow": "flo"}


@pytest.fixture
def videos(write_video, tmp_path):
    """Rows of a good video, a longer one, and a file that is none."""
    write_video(tmp_path / "short.mp4", frames=3)
    write_video(tmp_path / "long.mp4", frames=6)
    (tmp_path / "text.mp4").write_text("not a video")
    return [{"path": str(tmp_path / f"{name}.mp4"), "name": name} for name in ("short", "long", "text")]


def with_output(rows, folder):
    return [{**row, "out": str(folder / row["name"])} for row in rows]


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def check(rows, server, tmp_path):
    """One good, one good, one failed, and the bytes are those of a client without Ray."""
    found = {row["name"]: row for row in rows}
    assert {name: (row["status"], row["frames"]) for name, row in found.items()} == {
        "short": ("done", 3), "long": ("done", 6), "text": ("failed", 0),
    }  # fmt: skip
    assert "text.mp4" in found["text"]["error"]
    with Client(server) as client:
        for name in ("short", "long"):
            client.process(found[name]["path"], tmp_path / "direct" / name, **OPTIONS)
            produced = contents(tmp_path / "out" / name)
            assert produced == contents(tmp_path / "direct" / name)
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


def test_an_actor_with_a_server_of_its_own(server, repository, videos, tmp_path):
    """Its results are those of any other server, and the server ends with it."""
    settings = {"MCJEPA_MODEL_REPOSITORY": str(repository), "MCJEPA_INTRA_OP_THREADS": "1"}
    actor = VideoProcessor(settings=settings, options=OPTIONS)
    own = actor._client
    check([actor(row) for row in with_output(videos, tmp_path / "out")], server, tmp_path)
    actor.close()
    with Client(own.base_url) as client:
        assert not client.is_alive()


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True])
def test_a_local_ray(own, server, repository, videos, tmp_path):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("the extra mcjepa-client[ray] is not installed")
    settings = {"MCJEPA_MODEL_REPOSITORY": str(repository), "MCJEPA_INTRA_OP_THREADS": "1"}
    arguments = {"settings": settings} if own else {"servers": [server], "concurrency": 2}
    rows = with_output(videos, tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-c", JOB, json.dumps([rows, {**arguments, "num_cpus": 0.5, **OPTIONS}])],
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.PIPE, cwd=tmp_path, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0
    check(json.loads(done.stdout.splitlines()[-1]), server, tmp_path)
