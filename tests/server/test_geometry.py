"""Planning sizes, padding, scaling back, splitting clips: invariants over many sizes."""

import numpy as np
import pytest
from mcjepa_server.errors import InvalidInput
from mcjepa_server.imaging.geometry import Geometry, Padding, max_aspect, plan_geometry, split_clip
from mcjepa_server.imaging.resize import pack_clip, resize_square, unpack_flow

STRIDE = Padding(64, smallest_side=128)
BUCKETS = Padding(64, ((1024, 448), (640, 384), (1024, 576)), 0.25)
SIZES = [(16, 16), (17, 33), (64, 64), (65, 64), (127, 128), (129, 128), (1920, 1080), (1080, 1920)]
STRIPS = [(16, 250), (512, 16), (16, 4096), (64, 512), (8000, 500)]


@pytest.mark.parametrize(("width", "height"), [*SIZES, *STRIPS, (8000, 8000)])
@pytest.mark.parametrize("max_side", [64, 208, 500, 4096])
@pytest.mark.parametrize("max_pixels", [2**16, 2**20])
def test_plan_respects_every_bound(width, height, max_side, max_pixels):
    shorter, longer = sorted((width, height))
    if longer > shorter * max_aspect(128, max_pixels):
        with pytest.raises(InvalidInput):
            plan_geometry(width, height, STRIDE, max_side, max_pixels)
        return
    plan = plan_geometry(width, height, STRIDE, max_side, max_pixels)
    assert min(plan.scaled_width, plan.scaled_height) >= 128
    assert max(plan.scaled_width, plan.scaled_height) <= max(max_side, 208, 32 * longer / shorter + 0.5)
    assert plan.scaled_width * plan.scaled_height <= max_pixels * 1.02  # sizes are rounded to whole px
    across, along = sorted(plan.ratio)
    assert along <= across * 4.1  # so much a strip is stretched at most
    for scaled, padded in ((plan.scaled_width, plan.padded_width), (plan.scaled_height, plan.padded_height)):
        assert padded % 64 == 0
        assert scaled <= padded
        assert padded == 192 or 192 < padded < scaled + 64


@pytest.mark.parametrize(
    ("size", "scaled"), [((16, 16), (208, 208)), ((48, 32), (312, 208)), ((64, 512), (128, 1024))]
)
def test_a_small_frame_is_scaled_up(size, scaled):
    plan = plan_geometry(*size, STRIDE, 1024, 2**20)
    assert (plan.scaled_width, plan.scaled_height) == scaled


@pytest.mark.parametrize(
    ("size", "padded"),
    [
        ((1024, 448), (1024, 448)),  # a bucket as it is
        ((1000, 400), (1024, 448)),
        ((900, 440), (1024, 448)),  # 960x448 is 7 % less
        ((1024, 449), (1024, 576)),  # 1024x512 is 12.5 % less, and no bucket
        ((600, 360), (640, 384)),  # the smallest that holds it
        ((512, 384), (640, 384)),  # exactly the 25 % that are allowed
        ((500, 300), (512, 320)),  # every bucket costs too much
        ((448, 1024), (448, 1024)),  # none holds it
    ],
)
def test_a_bucket_is_taken_within_the_bound(size, padded):
    plan = plan_geometry(*size, BUCKETS, 1024, 2**20)
    assert (plan.padded_width, plan.padded_height) == padded
    assert (plan.scaled_width, plan.scaled_height) == size


def test_frames_within_the_budget_are_not_touched():
    plan = plan_geometry(500, 130, STRIDE, 500, 65000)
    assert not plan.is_scaled
    assert plan.ratio == (1, 1)


def test_pack_repeats_the_last_row_and_column():
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (133, 197, 3), np.uint8)
    clip = pack_clip([frame, frame[::-1]], plan_geometry(197, 133, STRIDE, 1024, 2**20))
    assert clip.shape == (1, 2, 192, 256, 3)
    np.testing.assert_array_equal(clip[0, 0], np.pad(frame, ((0, 59), (0, 59), (0, 0)), mode="edge"))
    np.testing.assert_array_equal(clip[0, 1, :133, :197], frame[::-1])


def test_unpack_of_an_unscaled_flow_crops_only():
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(3, 2, 192, 256)).astype(np.float32)
    flows = unpack_flow(raw, plan_geometry(200, 133, STRIDE, 1024, 2**20))
    np.testing.assert_array_equal(flows, raw[:, :, :133, :200].transpose(0, 2, 3, 1))
    assert flows.flags.c_contiguous


def test_unpack_of_a_zoom_keeps_it_a_zoom():
    """A flow that is linear in position, computed at half size, is the same function at full size."""
    plan = Geometry(128, 64, 64, 32, 64, 64)
    y, x = np.mgrid[0:64, 0:64].astype(np.float32)
    flow = unpack_flow(np.stack([0.1 * x, 0.2 * y])[None], plan)[0]
    # Pixel centres: x at half size sits at 2x + 0.5 at full size.
    full_y, full_x = np.mgrid[0:64, 0:128].astype(np.float32)
    expected = np.stack([0.1 * (full_x - 0.5), 0.2 * (full_y - 0.5)], axis=-1)
    np.testing.assert_allclose(flow[2:-2, 2:-2], expected[2:-2, 2:-2], atol=1e-4)


@pytest.mark.parametrize("frames", range(2, 12))
@pytest.mark.parametrize("length", [2, 3, 5, 100])
def test_split_covers_every_pair_once(frames, length):
    clips = list(split_clip(frames, length))
    pairs = [(i, i + 1) for clip in clips for i in range(clip.start, clip.stop - 1)]
    assert pairs == [(i, i + 1) for i in range(frames - 1)]
    assert all(2 <= clip.stop - clip.start <= length for clip in clips)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 32), (17, 500), (500, 17), (300, 400)])
def test_square_keeps_the_mean_colour(height, width):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    square = resize_square(image, 32)
    assert square.shape == (32, 32, 3)
    assert np.abs(square.mean(axis=(0, 1)) - image.mean(axis=(0, 1))).max() < 6


def test_square_does_not_alias_when_only_one_axis_shrinks():
    stripes = np.zeros((16, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize_square(stripes, 32).astype(int) - 127).max() <= 1
