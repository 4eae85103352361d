"""POST /v1/analyze: rows of frames."""

import io
import json

import numpy as np
import pytest
from mcjepa_server.engines.fake import FakeEngine


@pytest.fixture
def frames(picture):
    return [np.roll(picture(), 5 * shift, axis=1) for shift in range(5)]


@pytest.fixture
def post(encode):
    def send(client, frames, query=""):
        files = [("frames", (f"{index}.png", encode(frame))) for index, frame in enumerate(frames)]
        return client.post(f"/v1/analyze{query}", files=files)

    return send


def expected_flow(image):
    return image[..., :2] * np.array([1 / 16, -1 / 16], np.float32)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_flows_and_embeddings_in_order(client, post, frames, count):
    reply = post(client, frames[:count])
    assert reply.headers["content-type"] == "application/x-npz"
    arrays = np.load(io.BytesIO(reply.content))
    assert sorted(arrays) == ["embeddings", "flows", "meta"]
    assert arrays["flows"].dtype == arrays["embeddings"].dtype == np.float32
    np.testing.assert_array_equal(arrays["flows"], [expected_flow(frame) for frame in frames[: count - 1]])
    assert arrays["embeddings"].shape == (count, 8)
    np.testing.assert_allclose(np.linalg.norm(arrays["embeddings"], axis=1), 1, rtol=1e-6)


def test_both_directions_and_occlusion(client, post, frames):
    arrays = np.load(io.BytesIO(post(client, frames, "?direction=both&occlusion=true").content))
    np.testing.assert_array_equal(arrays["flows_backward"], [expected_flow(frame) for frame in frames[1:]])
    assert arrays["occlusion"].shape == (4, 48, 80)
    assert arrays["occlusion"].dtype == np.bool_
    meta = json.loads(str(arrays["meta"]))
    assert meta == {
        "model_version": "fake-0",
        "weights_sha256": "0" * 64,
        "frames": 5,
        "width": 80,
        "height": 48,
        "computed_width": 80,
        "computed_height": 48,
        "direction": "both",
        "occlusion": True,
        "quality": "fast",
    }


@pytest.mark.parametrize(
    ("direction", "clip_frames", "max_clip_pixels", "lengths"),
    [
        ("forward", 3, 2**22, [3, 3]),
        ("forward", 4, 2**22, [4, 2]),
        ("both", 2, 2**22, [2, 2, 2, 2]),
        ("both", 3, 2**22, [2, 2, 2, 2]),  # half as many frames, for as many flows
        ("both", 6, 2**22, [3, 3]),
        ("both", 32, 3 * 64 * 128, [3, 3]),
        ("both", 32, 8192, [2, 2, 2, 2]),
    ],
)
def test_long_clips_are_split_without_a_trace(
    serve, post, frames, direction, clip_frames, max_clip_pixels, lengths, monkeypatch
):
    whole, split = FakeEngine(), FakeEngine()
    monkeypatch.setattr(split, "clip_frames", clip_frames)
    query = f"?direction={direction}"
    reply = post(serve(whole), frames, query)
    parts = post(serve(split, max_clip_pixels=max_clip_pixels), frames, query)
    assert [shape[1] for shape in whole.calls[-1:]] == [5]
    assert [shape[1] for shape in split.calls[-len(lengths) :]] == lengths
    one, other = (np.load(io.BytesIO(body.content)) for body in (reply, parts))
    assert ("flows_backward" in one) == (direction == "both")
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_json(client, post, frames):
    body = post(client, frames, "?format=json").json()
    assert len(body["pairs"]) == 4
    assert len(body["embeddings"]) == 5
    assert body["meta"]["frames"] == 5
    np.testing.assert_allclose(
        body["pairs"][2]["flow"]["mean"], expected_flow(frames[2]).mean(axis=(0, 1)), rtol=1e-5
    )


@pytest.mark.parametrize("count", [0, 1, 4])
def test_number_of_frames(serve, post, frames, check_problem, count):
    client = serve(max_frames=3)
    if count:
        reply = post(client, frames[:count])
    else:
        reply = client.post("/v1/analyze", files={"frame": ("1.png", b"x")})
    body = check_problem(reply, 422, "invalid_input")
    if count:
        assert f"{count} parts are named 'frames'; send 2 to 3 (max_frames)" in body["detail"]


def test_a_frame_of_another_size_is_named(client, post, frames, check_problem):
    frames[3] = frames[3][:-1]
    body = check_problem(post(client, frames), 422, "invalid_input")
    assert body["error"]["param"] == "frames[3]"
    assert "80x48" in body["detail"]
    assert "80x47" in body["detail"]


def test_a_bad_frame_is_named(client, pair, check_problem):
    files = [("frames", pair["frame1"]), ("frames", ("2.png", b"junk"))]
    body = check_problem(client.post("/v1/analyze", files=files), 400, "undecodable_image")
    assert body["error"]["param"] == "frames[1]"


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("format=flo", 406, "not_acceptable"),
        ("direction=backward", 422, "invalid_input"),
        ("max_flow=3", 422, "invalid_input"),
    ],
)
def test_what_it_does_not_offer(client, post, frames, check_problem, query, status, code):
    check_problem(post(client, frames, f"?{query}"), status, code)
