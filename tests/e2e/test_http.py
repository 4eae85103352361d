"""Flow and embeddings over plain HTTP: the standard library on this side, and files read without the SDK."""

import base64
import io
import json
import urllib.error
import urllib.request
import uuid

import cv2
import numpy as np
import openai
import pytest

TIMEOUT = 120


def multipart(parts):
    boundary = uuid.uuid4().hex
    body = b""
    for name, data in parts:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.png"\r\n\r\n'
        body += head.encode() + data + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


@pytest.fixture
def post(server):
    def send(path, parts, accept="*/*"):
        body, content_type = multipart(parts)
        headers = {"Content-Type": content_type, "Accept": accept}
        request = urllib.request.Request(server + path, body, headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
            return reply.headers, reply.read()

    return send


@pytest.fixture
def pair(frames):
    return [("frame1", frames.files[0].read_bytes()), ("frame2", frames.files[1].read_bytes())]


@pytest.fixture
def flow(post, pair):
    """The reference: flow as npy, (H, W, 2) float32 px."""
    return np.load(io.BytesIO(post("/v1/flow?format=npy", pair)[1]))


def test_npy(flow, frames):
    assert flow.shape == (*frames.images[0].shape[:2], 2)
    assert flow.dtype == np.float32
    assert np.isfinite(flow).all()


def test_flo_is_the_default_and_exact(post, pair, flow):
    headers, data = post("/v1/flow", pair)
    assert headers["Content-Type"] == "application/x-flo"
    assert data[:4] == b"PIEH"
    width, height = np.frombuffer(data[4:12], "<i4")
    field = np.frombuffer(data[12:], "<f4").reshape(height, width, 2)
    assert np.array_equal(field, flow)


def test_kitti_is_within_half_a_step(post, pair, flow):
    headers, data = post("/v1/flow?format=kitti", pair)
    assert headers["Content-Type"] == "image/png"
    blue_green_red = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert blue_green_red.dtype == np.uint16
    field = (blue_green_red[..., :0:-1].astype(np.float32) - 2**15) / 64
    valid = blue_green_red[..., 0] > 0
    assert valid.mean() > 0.99
    assert np.abs(field - flow)[valid].max() <= 0.5 / 64 + 1e-4  # float32, at 2**15


def test_npz_with_both_directions_and_occlusion(post, pair, flow):
    _, data = post("/v1/flow?format=npz&direction=both&occlusion=true", pair)
    arrays = np.load(io.BytesIO(data))
    assert arrays["flow"].shape == arrays["flow_backward"].shape == flow.shape
    assert arrays["occlusion"].shape == flow.shape[:2]
    assert np.abs(arrays["flow"] - flow).max() < 0.01


def test_png_is_a_picture_of_the_size_of_the_frames(post, pair, flow):
    headers, data = post("/v1/flow", pair, accept="image/png")
    assert headers["Content-Type"] == "image/png"
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (*flow.shape[:2], 3)
    assert picture.std() > 1


def test_backward_is_forward_of_the_swapped_pair(post, pair):
    swapped = [("frame1", pair[1][1]), ("frame2", pair[0][1])]
    _, backward = post("/v1/flow?format=npy&direction=backward", pair)
    _, forward = post("/v1/flow?format=npy", swapped)
    assert np.array_equal(np.load(io.BytesIO(backward)), np.load(io.BytesIO(forward)))


def test_a_bad_image_fails_its_own_request_only(post, pair, server):
    with pytest.raises(urllib.error.HTTPError) as caught:
        post("/v1/flow", [pair[0], ("frame2", pair[1][1][:1000])])
    with caught.value as reply:
        assert reply.code == 400
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert "frame2" in json.load(reply)["detail"]
    with urllib.request.urlopen(f"{server}/readyz", timeout=TIMEOUT) as reply:
        assert reply.status == 200


def test_the_official_openai_client_gets_equal_float_and_base64(server, frames):
    images = [
        "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode() for file in frames.files[:2]
    ]
    with openai.OpenAI(base_url=f"{server}/v1", api_key="unused", max_retries=0) as client:
        by_format = {}
        for encoding in ("float", "base64"):
            reply = client.embeddings.create(model="mcjepa_embed", input=images, encoding_format=encoding)
            by_format[encoding] = [item.embedding for item in reply.data]
        default = client.embeddings.create(model="mcjepa_embed", input=images)  # asks for base64 by itself
    unpacked = [np.frombuffer(base64.b64decode(text), "<f4") for text in by_format["base64"]]
    floats = np.array(by_format["float"], np.float32)
    assert np.array_equal(floats, np.array(unpacked))
    assert np.allclose(floats, [item.embedding for item in default.data], atol=1e-6)
    assert np.allclose(np.linalg.norm(floats, axis=1), 1, atol=1e-5)
