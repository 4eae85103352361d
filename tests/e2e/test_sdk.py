"""The SDK and the command against the real server."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mcjepa_client import flow_io

# The engine sums in another order for other batch and clip shapes.
CLOSE = {"atol": 0.01}


def test_a_clip_is_its_pairs(client, frames):
    analysis = client.analyze(frames.images)
    assert analysis.flows.shape == (2, *frames.images[0].shape[:2], 2)
    for index, flow in enumerate(analysis.flows):
        pair = client.flow(frames.images[index], frames.images[index + 1])
        assert np.allclose(flow, pair.flow, **CLOSE)


def test_files_and_arrays_give_the_same(client, frames):
    by_file = client.flow(*frames.files[:2])
    by_array = client.flow(*frames.images[:2])
    assert np.array_equal(by_file.flow, by_array.flow)


def test_a_batch_of_embeddings_is_its_images_one_by_one(client, frames):
    together = client.embed(frames.images).embeddings
    alone = np.concatenate([client.embed(image).embeddings for image in frames.images])
    assert np.allclose(together, alone, atol=1e-4)


def test_info_names_the_weights(client, repository):
    info = client.info()
    config = (repository / "mcjepa_flow" / "config.pbtxt").read_text()
    assert info["engine"] in ("onnxruntime", "openvino")
    assert info["model"]["weights_sha256"] in config


@pytest.fixture
def command(server, tmp_path):
    """Runs mcjepa-client as installed beside this Python."""
    script = Path(sys.executable).with_name("mcjepa-client")

    def run(*arguments):
        return subprocess.run(
            [script, *map(str, arguments), "--server", server],
            cwd=tmp_path, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("name", ["flow.flo", "flow.npy", "flow.npz", "flow.png"])
def test_the_command_writes_flow(command, client, frames, tmp_path, name):
    done = command("flow", *frames.files[:2], "-o", name)
    assert done.returncode == 0, done.stderr
    if name == "flow.flo":
        assert np.array_equal(flow_io.read_flo(tmp_path / name), client.flow(*frames.files[:2]).flow)
    else:
        assert (tmp_path / name).stat().st_size > 1000


def test_the_command_writes_embeddings(command, client, frames, tmp_path):
    done = command("embed", *frames.files, "-o", "embeddings.npy")
    assert done.returncode == 0, done.stderr
    assert np.allclose(np.load(tmp_path / "embeddings.npy"), client.embed(frames.files).embeddings, atol=1e-6)


def test_the_command_shows_info(command, client):
    assert json.loads(command("info").stdout)["model"] == client.info()["model"]


def test_the_command_fails_in_one_line(command, frames, tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    done = command("flow", frames.files[0], "text.png", "-o", "flow.flo")
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "flow.flo").exists()
