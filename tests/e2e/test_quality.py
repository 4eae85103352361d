"""The weights do their work: the flow explains the motion of real frames, embeddings tell scenes apart."""

import asyncio

import cv2
import numpy as np
import onnxruntime as ort
import pytest
from mcjepa_server.engines.onnxruntime import OnnxRuntimeEngine


def difference(result, img1, img2):
    """Mean absolute difference of the frames, as they are and after warping, where the flow stays inside."""
    inside = result.warp(np.full(img2.shape[:2], 255, np.uint8)) == 255
    before, after = (
        np.abs(img1.astype(np.int16) - other)[inside].mean() for other in (img2, result.warp(img2))
    )
    return before, after


def test_the_flow_explains_much_of_the_change(client, frames):
    img1, img2, _ = frames.images
    before, after = difference(client.flow(img1, img2), img1, img2)
    assert after < 0.75 * before


@pytest.mark.parametrize(("dx", "dy"), [(6, 0), (0, -4), (-9, 5)])
def test_the_flow_of_a_shifted_frame_is_the_shift(client, frames, dx, dy):
    """Cut from one frame, so that the point at (x, y) is at (x + dx, y + dy) in the second cut."""
    image = frames.images[0]
    first = image[16:-16, 16:-16]
    second = image[16 - dy : image.shape[0] - 16 - dy, 16 - dx : image.shape[1] - 16 - dx]
    flow = client.flow(np.ascontiguousarray(first), np.ascontiguousarray(second)).flow
    assert np.median(np.linalg.norm(flow - (dx, dy), axis=2)) < 1.5


@pytest.fixture(scope="module")
def moved_texture():
    """Two frames of (height, width) px of a texture of several scales that moves by (dx, dy) px."""

    def make(height, width, dx, dy):
        rng = np.random.default_rng(0)
        texture = np.zeros((height + 8, width + 8, 3), np.float32)
        for step in (2, 4, 8, 16, 32):
            noise = rng.normal(size=((height + 8) // step + 3, (width + 8) // step + 3, 3)).astype(np.float32)
            size = (width + 8 + 2 * step, height + 8 + 2 * step)
            texture += cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)[step:-step, step:-step]
        texture = (texture / texture.std() * 50 + 128).clip(0, 255).astype(np.uint8)
        return [
            np.ascontiguousarray(texture[4 - y : 4 - y + height, 4 - x : 4 - x + width])
            for x, y in ((0, 0), (dx, dy))
        ]

    return make


@pytest.mark.parametrize(
    ("height", "width", "max_side"),
    [
        (16, 16, None),
        (31, 33, None),
        (64, 64, None),
        (64, 64, 64),
        (100, 127, None),
        (512, 64, None),
        (64, 512, 128),
        (512, 16, None),
        (16, 1000, 256),
        (256, 256, 64),
    ],
)
def test_the_flow_is_right_at_any_size(client, moved_texture, height, width, max_side):
    img1, img2 = moved_texture(height, width, 3, 0)
    found = client.flow(img1, img2, direction="both", max_side=max_side)
    for flow, motion in ((found.flow, (3, 0)), (found.backward, (-3, 0))):
        assert np.linalg.norm(flow[4:-4, 4:-4] - motion, axis=2).mean() < 0.6
    clip = client.analyze([img1, img2, img1], max_side=max_side)
    for flow, motion in zip(clip.flows, [(3, 0), (-3, 0)], strict=True):
        assert np.linalg.norm(flow[4:-4, 4:-4] - motion, axis=2).mean() < 0.6


@pytest.mark.parametrize("quality", ["balanced", "best"])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 64), (100, 127), (64, 512), (16, 1000)])
def test_better_qualities_are_right_at_any_size_too(client, moved_texture, height, width, quality):
    img1, img2 = moved_texture(height, width, 3, 0)
    found = client.flow(img1, img2, direction="both", quality=quality)
    for flow, motion in ((found.flow, (3, 0)), (found.backward, (-3, 0))):
        assert np.linalg.norm(flow[4:-4, 4:-4] - motion, axis=2).mean() < 0.6


@pytest.mark.parametrize("quality", ["fast", "balanced", "best"])
@pytest.mark.parametrize("value", [None, 0, 119, 255])
@pytest.mark.parametrize("size", [(64, 64), (96, 128), (360, 500)])
def test_nothing_moves_between_equal_frames(client, frames, value, size, quality):
    """A real frame, or one of one colour (docs/decisions/0047)."""
    img = frames.images[0][: size[0], : size[1]] if value is None else np.full((*size, 3), value, np.uint8)
    result = client.flow(img, img, occlusion=True, quality=quality)
    assert np.linalg.norm(result.flow, axis=2).max() < 0.02
    assert not result.occlusion.any()


@pytest.mark.parametrize(("one", "two"), [(0, 255), (255, 0), (90, 120)])
def test_no_motion_is_claimed_where_there_is_nothing_to_match(client, one, two):
    frames = [np.full((256, 256, 3), value, np.uint8) for value in (one, two)]
    result = client.flow(*frames, occlusion=True)
    assert np.linalg.norm(result.flow, axis=2).max() < 0.6
    assert result.occlusion.mean() > 0.9


def test_a_frame_resembles_the_next_and_not_noise(client, frames):
    noise = np.random.default_rng(0).integers(0, 256, frames.images[0].shape, np.uint8)
    distances = 1 - client.embed([*frames.images[:2], noise]).similarity()
    assert distances[0, 2] > 0.01
    assert distances[0, 2] > 5 * distances[0, 1]


@pytest.mark.parametrize(
    "model",
    [
        "mcjepa_flow",
        "mcjepa_flow_balanced",
        "mcjepa_flow_best",
        "mcjepa_flow_bidirectional",
        "mcjepa_embed",
    ],
)
def test_the_number_of_threads_does_not_change_a_bit(root, frames, model):
    """So a reply is the same however busy the server is (docs/decisions/0062)."""
    clip = np.stack(frames.images)[None, :, :192, :320]
    answers = []
    for threads in (1, 2, 3, 5, 8):
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = ort.InferenceSession(root / "model_repository" / model / "1" / "model.onnx", options)
        name = session.get_inputs()[0].name
        answers.append(session.run(None, {name: clip[0, :, :128, :128] if name == "images" else clip}))
    for answer in answers[1:]:
        for found, expected in zip(answer, answers[0], strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("quality", ["balanced", "best"])
def test_the_gateway_answers_in_better_qualities_what_the_whole_models_do(root, frames, quality):
    clip = np.stack(frames.images)[None, :, :192, :320]
    engine = OnnxRuntimeEngine.load(root / "model_repository", 2, 1)
    found = asyncio.run(engine.infer_flow(clip, backward=True, quality=quality))
    asyncio.run(engine.close())
    session = ort.InferenceSession(root / f"model_repository/mcjepa_flow_{quality}/1/model.onnx")
    both = zip((clip, clip[:, ::-1]), (found.flow, found.flow_backward[:, ::-1]), strict=True)
    for frames_of_one, flow in both:
        (expected,) = session.run(["flow"], {"frames": np.ascontiguousarray(frames_of_one)})
        np.testing.assert_array_equal(flow, expected)


@pytest.mark.parametrize(("threads", "workers"), [(1, 1), (2, 2), (5, 3)])
def test_the_gateway_answers_bit_for_bit_what_the_whole_models_do(root, frames, threads, workers):
    """It runs them in parts, as many at once as fit (docs/decisions/0026)."""
    clip = np.stack(frames.images)[None, :, :192, :320]
    engine = OnnxRuntimeEngine.load(root / "model_repository", threads, workers)
    found = asyncio.run(engine.infer_flow(clip, backward=True))
    asyncio.run(engine.close())
    path = root / "model_repository/mcjepa_flow_bidirectional/1/model.onnx"
    names = ["flow", "flow_backward", "embedding"]
    expected = ort.InferenceSession(path).run(names, {"frames": clip})
    for name, array in zip(names, expected, strict=True):
        np.testing.assert_array_equal(getattr(found, name), array)
