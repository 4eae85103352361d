"""Frames that are larger than what the server computes are sent as large as it computes."""

from functools import partial

import numpy as np
import pytest
from mcjepa_client import PayloadTooLargeError, flow_io
from mcjepa_client._video.clips import ClipLimits, clip_length
from mcjepa_client._video.shrink import computed_size, enlarge_mask, shrink
from mcjepa_server.engines.fake import FakeEngine
from mcjepa_server.errors import InvalidInput
from mcjepa_server.imaging.geometry import Padding, plan_geometry
from PIL import Image

LIMITS = ClipLimits(frames=32, pixels=2**26, body_bytes=2**26, max_side=1024, compute_pixels=2**20)


@pytest.fixture
def folder(tmp_path):
    """Smooth frames of 360x640, which noise does not fit into a small body."""
    y, x = np.mgrid[:360, :640]
    (tmp_path / "frames").mkdir()
    for index in range(4):
        waves = 128 + 60 * np.sin((x + 3 * index) / 40) + 50 * np.cos(y / 30)
        image = np.stack([waves, waves[::-1], 255 - waves], axis=-1)
        noise = np.random.default_rng(index).integers(-4, 5, image.shape)
        data = flow_io.encode_png((image + noise).astype(np.uint8))
        (tmp_path / "frames" / f"{index}.png").write_bytes(data)
    return tmp_path / "frames"


@pytest.mark.parametrize("settings", [{"max_side": 128}, {"max_compute_pixels": 8192}, {}])
def test_what_comes_back_is_what_the_server_would_have_made_of_the_whole_frames(connect, folder, settings):
    max_side = None if settings else 100
    engine = FakeEngine()
    client = connect(engine, max_body_bytes=150_000, **settings)
    engine.calls.clear()
    results = list(client.video(folder, direction="both", occlusion=True, max_side=max_side))
    whole = connect(**settings).analyze(
        [result.image for result in results], direction="both", occlusion=True, max_side=max_side
    )
    assert len(results) == 4
    for result, pair in zip(results[:-1], whole, strict=True):
        assert result.flow.shape == result.flow_backward.shape == (360, 640, 2)
        assert result.occlusion.shape == (360, 640)
        assert np.allclose(result.flow, pair.flow, atol=0.6)  # a step of a pixel is 1/16 px, times the ratio
        assert np.abs(result.flow - pair.flow).mean() < 0.1
        assert (result.occlusion == pair.occlusion).mean() > 0.95
    embeddings = np.stack([result.embedding for result in results])
    assert np.all(np.sum(embeddings * whole.embeddings, axis=1) > 0.999)
    shown = [shape for shape in engine.calls if len(shape) == 5]
    assert max(shape[2] * shape[3] for shape in shown) <= 128 * 128


def test_a_folder_of_results_is_at_the_size_of_the_video(connect, folder, tmp_path):
    zarr = pytest.importorskip("zarr", reason="the extra mcjepa-client[video] is not installed")
    connect(max_side=128, max_body_bytes=150_000).process(folder, tmp_path / "out")
    store = zarr.open_group(str(tmp_path / "out" / "flow.zarr"), mode="r")
    assert store["flow"].shape == (3, 360, 640, 2)


SMALL_BODY = {"max_body_bytes": 150_000, "max_compute_pixels": 8192}
HELD_AS = {
    "arrays": lambda image: image,
    "grey": lambda image: image[..., 0],
    "wide": lambda image: image.astype(np.uint16) * 257,
    "pillow": Image.fromarray,
    "palette": lambda image: Image.fromarray(image).convert("P"),
}


def held(folder, how, count=2):
    images = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())[:count]]
    return [HELD_AS[how](image) for image in images]


def is_near(flow, whole):
    return np.allclose(flow, whole, atol=0.6) and np.abs(flow - whole).mean() < 0.1


@pytest.mark.parametrize("how", HELD_AS)
@pytest.mark.parametrize("max_side", [None, 64])
def test_frames_held_as_pixels_that_are_too_large_to_send_are_sent_smaller(connect, folder, how, max_side):
    frames, options = held(folder, how, 3), {"direction": "both", "occlusion": True, "max_side": max_side}
    small, large = connect(**SMALL_BODY), connect(max_compute_pixels=8192)
    found, expected = small.flow(*frames[:2], **options), large.flow(*frames[:2], **options)
    assert found.flow.shape == (360, 640, 2)
    assert is_near(found.flow, expected.flow)
    assert is_near(found.backward, expected.backward)
    assert (found.occlusion == expected.occlusion).mean() > 0.95
    found, expected = small.analyze(frames, **options), large.analyze(frames, **options)
    assert found.flows.shape == (2, 360, 640, 2)
    assert is_near(found.flows, expected.flows)
    assert is_near(found.backward, expected.backward)
    assert (found.occlusion == expected.occlusion).mean() > 0.95
    assert np.all(np.sum(found.embeddings * expected.embeddings, axis=1) > 0.999)


def test_frames_are_sent_smaller_by_the_async_client_too(run_async, connect, folder):
    frames = held(folder, "arrays")

    async def call(client):
        return await client.flow(*frames), await client.analyze(frames)

    pair, clip = run_async(call, **SMALL_BODY)
    whole = connect(max_compute_pixels=8192).flow(*frames).flow
    assert is_near(pair.flow, whole)
    assert is_near(clip.flows[0], whole)


def test_frames_of_too_many_pixels_are_sent_smaller_too(connect, folder):
    frames = held(folder, "arrays")
    assert connect(max_image_pixels=100_000, max_side=128).flow(*frames).flow.shape == (360, 640, 2)


def test_files_and_bytes_that_are_too_large_to_send_say_what_to_do(connect, folder):
    client = connect(**SMALL_BODY)
    paths = sorted(folder.iterdir())[:2]
    for images in (paths, [path.read_bytes() for path in paths], [paths[0], held(folder, "arrays")[1]]):
        for call in (client.flow, lambda *frames: client.analyze(frames)):
            with pytest.raises(PayloadTooLargeError, match="max_side") as caught:
                call(*images)
            assert caught.value.code == "body_too_large"


def test_what_is_too_large_although_it_is_sent_small_says_what_to_do(connect, folder):
    for settings in ({"max_body_bytes": 500}, {"max_body_bytes": 150_000}):  # the second computes them whole
        with pytest.raises(PayloadTooLargeError, match="max_side"):
            connect(**settings).flow(*held(folder, "arrays"))


SIZES = np.random.default_rng(0).integers([16, 16, 64, 2**16], [9000, 9000, 2000, 2**21], (3000, 4)).tolist()


def test_the_size_is_the_server_s_and_is_left_as_it_is():
    for width, height, side, pixels in SIZES:
        size = computed_size((height, width), side, pixels)
        plan = partial(plan_geometry, padding=Padding(64), max_side=side, max_pixels=pixels)
        computed = np.maximum(plan(width, height)[3:1:-1], 16)  # which is the smallest side that may be sent
        assert np.allclose(size, computed, rtol=0.01, atol=1)
        assert not plan(*size[::-1]).is_scaled


def test_small_frames_and_strips_are_computed_as_if_they_had_been_sent_whole():
    for width, height, side, pixels in SIZES:
        size = computed_size((height, width), side, pixels, smallest_side=128)
        plan = partial(
            plan_geometry, padding=Padding(64, smallest_side=128), max_side=side, max_pixels=pixels
        )
        try:
            whole = plan(width, height)
        except InvalidInput:  # too long a strip, and as long when it is shrunk
            continue
        sent = plan(*size[::-1])
        assert np.allclose(sent[2:4], whole[2:4], rtol=0.03, atol=2)
        assert np.all(np.array(size[::-1]) >= np.minimum((width, height), sent[2:4]) - 1)


@pytest.mark.parametrize(
    "size", [(144, 256), (135, 240), (90, 160), (269, 479), (16, 480), (45, 80), (27, 200)]
)
def test_areas_are_averaged_as_in_the_server(size):
    import cv2

    image = np.random.default_rng(0).integers(0, 256, (270, 480, 3), np.uint8)
    (small,) = shrink([image], size)
    np.testing.assert_array_equal(small, cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize(("height", "width"), [(2988, 5312), (4320, 7680), (2160, 3840)])
def test_clips_of_large_frames_hold_a_bounded_number_of_bytes(height, width):
    length = clip_length(16, (height, width, 3), 1, None, LIMITS)
    assert length == max(2, 2**27 // (height * width * 3))


def test_a_mask_is_enlarged_by_the_nearest_pixel():
    mask = np.array([[True, False], [False, True]])
    assert np.array_equal(enlarge_mask(mask, (4, 6)), np.kron(mask, np.ones((2, 3), bool)))
