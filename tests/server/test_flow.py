"""POST /v1/flow: formats, directions, sizes, and what goes wrong with its parts."""

import io
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from mcjepa_server import Settings, create_app
from mcjepa_server.engines.contract import NOT_MEASURED
from mcjepa_server.engines.fake import FAKE_CONTRACT, FakeEngine
from starlette.testclient import TestClient


def expected_flow(image):
    """What the fake engine answers for a frame (H, W, 3): (red / 16, -green / 16) px."""
    return image[..., :2] * np.array([1 / 16, -1 / 16], np.float32)


def read_flo(data):
    assert data[:4] == b"PIEH"
    width, height = np.frombuffer(data, "<i4", 2, offset=4)
    return np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2)


def post(client, frame1, frame2, query="", **headers):
    files = {"frame1": ("1.png", frame1), "frame2": ("2.png", frame2)}
    return client.post(f"/v1/flow{query}", files=files, headers=headers)


@pytest.fixture
def frames(encode, picture):
    """Two different frames, as arrays and as files."""
    img1 = picture()
    img2 = np.ascontiguousarray(img1[::-1])
    return img1, img2, encode(img1), encode(img2)


def test_default_is_flo_with_exact_vectors(client, frames):
    img1, _, data1, data2 = frames
    reply = post(client, data1, data2)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/x-flo"
    np.testing.assert_array_equal(read_flo(reply.content), expected_flow(img1))


@pytest.mark.parametrize("direction", ["backward", "both"])
def test_backward_starts_from_frame_two(client, frames, direction):
    img1, img2, data1, data2 = frames
    reply = post(client, data1, data2, f"?direction={direction}&format=npz")
    arrays = np.load(io.BytesIO(reply.content))
    if direction == "backward":
        np.testing.assert_array_equal(arrays["flow"], expected_flow(img2))
        assert "flow_backward" not in arrays
    else:
        np.testing.assert_array_equal(arrays["flow"], expected_flow(img1))
        np.testing.assert_array_equal(arrays["flow_backward"], expected_flow(img2))


def test_npz_tells_how_it_came_about(client, frames):
    *_, data1, data2 = frames
    arrays = np.load(io.BytesIO(post(client, data1, data2, "?format=npz&direction=backward").content))
    meta = json.loads(str(arrays["meta"]))
    assert meta["direction"] == "backward"
    assert (meta["width"], meta["height"], meta["model_version"]) == (80, 48, "fake-0")


def test_npy(client, frames):
    img1, _, data1, data2 = frames
    reply = post(client, data1, data2, "?format=npy")
    np.testing.assert_array_equal(np.load(io.BytesIO(reply.content)), expected_flow(img1))


def test_npy_in_half_the_bytes(client, frames):
    img1, _, data1, data2 = frames
    reply = post(client, data1, data2, "?format=npy&dtype=float16")
    flow = np.load(io.BytesIO(reply.content))
    assert flow.dtype == np.float16
    np.testing.assert_array_equal(flow, expected_flow(img1).astype(np.float16))


def test_npz_in_half_the_bytes(client, frames):
    _, img2, data1, data2 = frames
    arrays = np.load(
        io.BytesIO(post(client, data1, data2, "?format=npz&dtype=float16&direction=both").content)
    )
    assert arrays["flow"].dtype == arrays["flow_backward"].dtype == np.float16
    np.testing.assert_array_equal(arrays["flow_backward"], expected_flow(img2).astype(np.float16))


@pytest.mark.parametrize(
    "query", ["?dtype=float16", "?dtype=float16&format=flo", "?dtype=float16&format=json"]
)
def test_other_formats_hold_no_float16(client, frames, query, check_problem):
    *_, data1, data2 = frames
    problem = check_problem(post(client, data1, data2, query), 422, "invalid_input")
    assert problem["error"]["param"] == "dtype"


def test_kitti_reports_clipped_pixels(client, frames):
    img1, _, data1, data2 = frames
    reply = post(client, data1, data2, "?format=kitti")
    png = cv2.imdecode(np.frombuffer(reply.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert png.dtype == np.uint16
    np.testing.assert_array_equal((png[..., :0:-1].astype(np.float32) - 32768) / 64, expected_flow(img1))
    assert reply.headers["x-flow-clipped-pixels"] == "0"
    assert reply.headers["content-type"] == "image/png"


def test_colour_png_says_its_scale(client, frames):
    img1, _, data1, data2 = frames
    reply = post(client, data1, data2, "?format=png")
    assert cv2.imdecode(np.frombuffer(reply.content, np.uint8), cv2.IMREAD_UNCHANGED).shape == (48, 80, 3)
    longest = np.linalg.norm(expected_flow(img1), axis=-1).max()
    assert float(reply.headers["x-flow-max"]) == pytest.approx(longest, rel=1e-5)
    assert post(client, data1, data2, "?format=png&max_flow=50").headers["x-flow-max"] == "50"


def test_json_summary(client, frames):
    img1, _, data1, data2 = frames
    body = post(client, data1, data2, "?format=json&direction=both&occlusion=true").json()
    np.testing.assert_allclose(body["flow"]["mean"], expected_flow(img1).mean(axis=(0, 1)), rtol=1e-6)
    assert body["flow_backward"] is not None
    assert 0 <= body["occluded_fraction"] <= 1
    assert body["meta"]["computed_width"] == 80


def test_occlusion_alone_returns_no_backward_flow(client, frames):
    *_, data1, data2 = frames
    arrays = np.load(io.BytesIO(post(client, data1, data2, "?format=npz&occlusion=true").content))
    assert sorted(arrays) == ["flow", "meta", "occlusion"]
    assert arrays["occlusion"].dtype == np.bool_
    assert arrays["occlusion"].shape == (48, 80)


@pytest.mark.parametrize("query", ["direction=both", "occlusion=true"])
@pytest.mark.parametrize("accept", ["*/*", "", "application/*", "application/x-flo"])
@pytest.mark.parametrize("wanted", ["", "&format=flo", "&format=png"])
def test_several_fields_need_a_format_that_holds_them(client, pair, check_problem, query, accept, wanted):
    """The default stays flo: `curl -o flow.flo` would keep anything else under that name."""
    reply = client.post(f"/v1/flow?{query}{wanted}", files=pair, headers={"Accept": accept})
    body = check_problem(reply, 422, "invalid_input")
    assert "format=npz" in body["detail"]
    assert body["error"]["param"] == "format"


@pytest.mark.parametrize(
    "asked", [{"params": {"format": "npz"}}, {"headers": {"Accept": "application/x-npz"}}]
)
def test_several_fields_in_a_format_that_holds_them(client, pair, asked):
    reply = client.post(
        "/v1/flow", files=pair, **{**asked, "params": {"direction": "both", **asked.get("params", {})}}
    )
    assert reply.headers["content-type"] == "application/x-npz"


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "application/x-flo"),
        ("application/octet-stream", "application/x-flo"),
        ("application/x-npy", "application/x-npy"),
        ("image/*", "image/png"),
        ("application/json;q=0.5, application/x-npz", "application/x-npz"),
        ("application/x-flo;q=0, */*;q=0.1", "application/x-npy"),
        ("text/html, application/json;q=0.2", "application/json"),
        ("application/json;q=high, image/png;q=1.000;v=1, ,", "image/png"),
        ("image/png;q=nan, application/json;q=0.1", "application/json"),
        ("image/png;q=inf, */*;q=0.5", "application/x-flo"),
    ],
)
def test_accept(client, pair, accept, content_type):
    reply = client.post("/v1/flow", files=pair, headers={"Accept": accept})
    assert reply.headers["content-type"] == content_type
    assert reply.headers["vary"] == "Accept"


@pytest.mark.parametrize(
    "q", ["nan", "inf", "-1", "-0", "2", "1.001", "0.1234", "1e-1", ".5", "+1", "", "high", "1_0"]
)
def test_a_media_range_whose_weight_is_none_is_ignored(client, pair, check_problem, q):
    check_problem(
        client.post("/v1/flow", files=pair, headers={"Accept": f"image/png;q={q}"}), 406, "not_acceptable"
    )
    reply = client.post(
        "/v1/flow", files=pair, headers={"Accept": f"image/png; Q={q}, application/json;q=0.001"}
    )
    assert reply.headers["content-type"] == "application/json"


def test_format_goes_before_accept(client, pair):
    reply = client.post("/v1/flow?format=npy", files=pair, headers={"Accept": "image/png"})
    assert reply.headers["content-type"] == "application/x-npy"


@pytest.mark.parametrize(
    "request_format", [{"params": {"format": "bmp"}}, {"headers": {"Accept": "text/csv"}}]
)
def test_nothing_acceptable_lists_what_is(client, pair, check_problem, request_format):
    body = check_problem(client.post("/v1/flow", files=pair, **request_format), 406, "not_acceptable")
    for name in ("flo", "kitti", "npy", "npz", "png", "json"):
        assert name in body["detail"]


@pytest.mark.parametrize(("height", "width"), [(16, 16), (33, 17), (64, 64), (65, 129), (16, 3000)])
def test_any_size_comes_back_at_its_own_size(client, encode, picture, height, width):
    data = encode(picture(height, width))
    reply = post(client, data, data)
    assert read_flo(reply.content).shape == (height, width, 2)


def test_padding_repeats_the_edge_and_is_cropped(serve, encode):
    engine = FakeEngine()
    client = serve(engine)
    image = np.zeros((33, 17, 3), np.uint8)
    image[-1, :, 0] = 160  # the last row and the last column differ, so a shift by one would show
    image[:, -1, 1] = 80
    flow = read_flo(post(client, encode(image), encode(image)).content)
    assert engine.calls[-1] == (1, 2, 64, 64, 3)
    np.testing.assert_array_equal(flow, expected_flow(image))


def test_small_frames_are_computed_larger(serve, encode):
    engine = FakeEngine(replace(FAKE_CONTRACT, smallest_side=128))
    client = serve(engine)
    image = np.full((32, 48, 3), (160, 80, 0), np.uint8)
    reply = post(client, encode(image), encode(image), "?format=npz&direction=both")
    assert reply.headers["x-compute-size"] == "312x208"
    assert engine.calls[-1] == (1, 2, 256, 320, 3)
    for name in ("flow", "flow_backward"):
        flow = np.load(io.BytesIO(reply.content))[name]
        expected = np.array([10 * 48 / 312, -5 * 32 / 208], np.float32)
        np.testing.assert_allclose(flow, np.broadcast_to(expected, (32, 48, 2)), rtol=1e-6)
    data = encode(np.zeros((400, 600, 3), np.uint8))
    assert post(client, data, data, "?max_side=64").headers["x-compute-size"] == "208x139"


@pytest.mark.parametrize(("height", "width"), [(16, 4097), (4200, 16)])
def test_a_strip_that_cannot_be_computed_right_is_refused(
    serve, encode, picture, check_problem, height, width
):
    client = serve(FakeEngine(replace(FAKE_CONTRACT, smallest_side=128)))
    data = encode(picture(height, width))
    problem = check_problem(post(client, data, data), 422, "invalid_input")
    assert problem["error"]["param"] == "frame1"
    assert "256 times" in problem["detail"]
    assert "max_compute_pixels" in problem["detail"]


@pytest.mark.parametrize(
    "settings",
    [{"max_compute_pixels": 2**15}, {"shape_buckets": ((128, 1024),)}],
    ids=lambda s: next(iter(s)),
)
def test_settings_below_what_the_model_needs_are_named(serve, check_problem, settings):
    client = serve(FakeEngine(replace(FAKE_CONTRACT, smallest_side=128)), **settings)
    assert next(iter(settings)) in check_problem(client.get("/readyz"), 503, "not_ready")["detail"]


def test_flow_alone_asks_the_engine_for_no_embeddings(serve, encode, picture):
    asked = []

    class Noting(FakeEngine):
        async def infer_flow(self, frames, backward, embed=True, quality="fast"):
            asked.append(embed)
            return await super().infer_flow(frames, backward, embed, quality)

    client = serve(Noting())
    del asked[:]  # the canary's
    data = encode(picture(64, 64))
    assert post(client, data, data).status_code == 200
    files = [("frames", ("a", data)), ("frames", ("b", data))]
    assert client.post("/v1/analyze", files=files).status_code == 200
    assert asked == [False, True]


def test_downscaled_flow_is_rescaled_by_the_ratio_of_each_axis(serve, encode):
    engine = FakeEngine()
    client = serve(engine, max_side=128)
    image = np.full((301, 601, 3), (160, 80, 0), np.uint8)
    reply = post(client, encode(image), encode(image))
    assert reply.headers["x-compute-size"] == "128x64"
    assert engine.calls[-1] == (1, 2, 64, 128, 3)
    expected = np.array([10 * 601 / 128, -5 * 301 / 64], np.float32)
    np.testing.assert_allclose(read_flo(reply.content), np.broadcast_to(expected, (301, 601, 2)), rtol=1e-6)


def test_max_side_of_the_request(client, encode, picture):
    data = encode(picture(100, 200))
    assert post(client, data, data, "?max_side=100").headers["x-compute-size"] == "100x50"
    assert post(client, data, data, "?max_side=400").headers["x-compute-size"] == "200x100"


def test_pixel_budget_holds_against_max_side(serve, encode, picture):
    client = serve(max_compute_pixels=100 * 100)
    data = encode(picture(200, 200))
    assert post(client, data, data, "?max_side=8192").headers["x-compute-size"] == "100x100"


def test_sizes_that_differ_are_both_named(client, encode, picture, check_problem):
    reply = post(client, encode(picture(20, 30)), encode(picture(30, 20)))
    body = check_problem(reply, 422, "invalid_input")
    assert "30x20" in body["detail"]
    assert "20x30" in body["detail"]
    assert body["error"]["param"] == "frame2"


@pytest.mark.parametrize("name", ["frame1", "frame2"])
def test_a_missing_part_is_named(client, pair, check_problem, name):
    del pair[name]
    body = check_problem(client.post("/v1/flow", files=pair), 422, "invalid_input")
    assert f"{name!r} is missing" in body["detail"]
    assert body["error"]["param"] == name


def test_a_part_given_twice(client, pair, check_problem):
    files = [*pair.items(), ("frame1", pair["frame1"])]
    body = check_problem(client.post("/v1/flow", files=files), 422, "invalid_input")
    assert "2 times" in body["detail"]


def test_an_unknown_part(client, pair, check_problem):
    files = {**pair, "frame3": pair["frame1"]}
    body = check_problem(client.post("/v1/flow", files=files), 422, "invalid_input")
    assert body["error"]["param"] == "frame3"


def test_a_part_without_a_file_name(client, pair, check_problem):
    files = {"frame1": (None, "text"), "frame2": pair["frame2"]}
    body = check_problem(client.post("/v1/flow", files=files), 422, "invalid_input")
    assert "must be a file" in body["detail"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("direction=up", "direction"),
        ("occlusion=perhaps", "occlusion"),
        ("max_side=1", "max_side"),
        ("max_side=many", "max_side"),
        ("max_flow=0", "max_flow"),
        ("max_flow=nan", "max_flow"),
        ("maxside=100", "maxside"),
    ],
)
def test_bad_parameters_are_named(client, pair, check_problem, query, param):
    body = check_problem(client.post(f"/v1/flow?{query}", files=pair), 422, "invalid_input")
    assert body["error"]["param"] == param
    assert param in body["detail"]


def test_headers_of_a_reply(client, pair):
    headers = client.post("/v1/flow", files=pair).headers
    assert headers["x-model-version"] == "fake-0"
    assert float(headers["x-inference-time"]) >= 0
    assert float(headers["x-queue-time"]) >= 0
    for stage in ("decode", "queue", "inference", "encode"):
        assert f"{stage};dur=" in headers["server-timing"]
    assert headers["content-disposition"] == 'inline; filename="flow.flo"'


@pytest.mark.parametrize("path", ["/v1/flow", "/v1/analyze"])
def test_a_request_chooses_its_quality_and_leaves_it_to_the_server(encode, picture, path):
    frames = [("a.png", encode(picture())), ("b.png", encode(picture()))]
    names = ("frame1", "frame2") if path == "/v1/flow" else ("frames", "frames")
    engine = FakeEngine()
    with TestClient(create_app(Settings(decode_processes=0, quality="balanced"), engine)) as client:
        info = client.get("/v1/info").json()["model"]
        assert [quality["name"] for quality in info["qualities"]] == ["fast", "balanced", "best"]
        assert info["default_quality"] == "balanced"
        del engine.qualities[:]
        for wanted, given in (("?quality=best", "best"), ("?quality=fast", "fast"), ("", "balanced")):
            reply = client.post(path + wanted, files=list(zip(names, frames, strict=True)))
            assert reply.status_code == 200, reply.text
            assert reply.headers["x-quality"] == given
            assert engine.qualities.pop() == given


def test_a_quality_that_is_not_served_is_refused_with_those_that_are(pair, check_problem):
    engine = FakeEngine(replace(FAKE_CONTRACT, qualities={"fast": NOT_MEASURED}))
    with TestClient(create_app(Settings(decode_processes=0), engine)) as client:
        problem = check_problem(client.post("/v1/flow?quality=best", files=pair), 422, "invalid_input")
    assert problem["error"]["param"] == "quality"
    assert "fast" in problem["detail"]


def test_an_unknown_quality_is_invalid(client, pair, check_problem):
    problem = check_problem(client.post("/v1/flow?quality=ultra", files=pair), 422, "invalid_input")
    assert problem["error"]["param"] == "quality"
