"""/v1/embeddings and /v1/analyze through the SDK."""

import numpy as np
import pytest
from mcjepa_client.flow_io import encode_png


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def fake_embedding(image):
    """The fake engine: mean red, green and blue, then five ones."""
    return unit(np.concatenate([image.mean(axis=(0, 1), dtype=np.float64), np.ones(5)]))


def colors(*values, size=32):
    return [np.full((size, size, 3), value, np.uint8) for value in values]


def test_embeddings_are_those_of_the_engine(client):
    images = colors((10, 20, 30), (200, 0, 0), (0, 0, 0))
    result = client.embed(images)
    assert np.allclose(result.embeddings, [fake_embedding(image) for image in images], atol=1e-6)
    assert result.embeddings.dtype == np.float32
    assert (result.model, result.usage["total_tokens"]) == ("mcjepa_embed", 3)


def test_base64_on_the_wire_equals_floats(client, frames):
    images = frames(3, 32, 32)
    from_base64 = client.embed(images).embeddings
    files = [("images", ("x", encode_png(image))) for image in images]
    body = client._http.post("/v1/embeddings", files=files, data={"encoding_format": "float"}).json()
    from_floats = np.array([item["embedding"] for item in body["data"]], np.float32)
    assert from_base64.tobytes() == from_floats.tobytes()


@pytest.mark.parametrize("dimensions", [1, 3, 8])
def test_dimensions_cut_and_normalise_again(client, dimensions):
    (image,) = colors((10, 20, 30))
    result = client.embed(image, dimensions=dimensions)
    assert np.allclose(result.embeddings[0], unit(fake_embedding(image)[:dimensions]), atol=1e-6)


def test_more_images_than_the_server_takes_are_split(connect):
    client = connect(max_images=3)
    images = colors(*[(n, 0, 0) for n in range(8)])
    result = client.embed(images)
    assert len(result) == 8
    assert np.allclose(result.embeddings, [fake_embedding(image) for image in images], atol=1e-6)
    assert result.usage["total_tokens"] == 8


def test_more_bytes_than_the_server_takes_are_split(connect, frames):
    client = connect(max_body_bytes=30_000)  # a random 48x80 frame is 11.5 kB as PNG and 15.4 kB as base64
    assert len(client.embed(frames(5))) == 5


def test_images_of_any_size_and_kind(client, frames):
    result = client.embed([frames(1, 16, 200)[0], frames(1, 33, 17)[0][..., 0], frames(1, 100, 100)[0]])
    assert np.allclose(np.linalg.norm(result.embeddings, axis=1), 1, atol=1e-6)


def test_async_embeds_the_same(run_async, client, frames):
    images = frames(3, 32, 32)
    result = run_async(lambda c: c.embed(images))
    assert result.embeddings.tobytes() == client.embed(images).embeddings.tobytes()


def test_analysis_is_the_flow_and_the_embedding_of_each_frame(client, frames, flow_of):
    images = frames(5, 37, 51)
    result = client.analyze(images, direction="both", occlusion=True)
    assert len(result) == 4
    for index, pair in enumerate(result):
        assert pair.flow.tobytes() == flow_of(images[index]).tobytes()
        assert pair.backward.tobytes() == flow_of(images[index + 1]).tobytes()
        single = client.flow(images[index], images[index + 1], occlusion=True)
        assert np.array_equal(pair.occlusion, single.occlusion)
    assert result.embeddings.shape == (5, 8)
    assert np.allclose(np.linalg.norm(result.embeddings, axis=1), 1, atol=1e-6)
    assert result.meta["frames"] == 5


def test_a_plain_analysis_has_no_extras(client, frames):
    result = client.analyze(frames(3))
    assert (result.backward, result.occlusion) == (None, None)


def test_async_analyzes_the_same(run_async, client, frames):
    images = frames(3)
    result, expected = run_async(lambda c: c.analyze(images)), client.analyze(images)
    assert result.flows.tobytes() == expected.flows.tobytes()
    assert result.embeddings.tobytes() == expected.embeddings.tobytes()
