"""Flow as bytes: exact layouts, round trips, and the colour code's fixed points."""

import io
import struct

import cv2
import numpy as np
import pytest
from mcjepa_server.api.flow_encoding import (
    colour_flow,
    colour_wheel,
    encode_flo,
    encode_kitti,
    encode_npy,
    encode_npz,
    encode_png,
    flow_as,
)


@pytest.fixture
def flow():
    rng = np.random.default_rng(0)
    return rng.normal(scale=30, size=(7, 5, 2)).astype(np.float32)


def read_kitti(data):
    png = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return (png[..., :0:-1].astype(np.float32) - 32768) / 64, png[..., 0]


def test_flo_is_byte_exact():
    flow = np.array([[[1.5, -2.0], [0.25, 1e6]]], np.float32)
    expected = b"PIEH" + struct.pack("<ii", 2, 1) + struct.pack("<ffff", 1.5, -2.0, 0.25, 1e6)
    assert b"".join(encode_flo(flow)) == expected


@pytest.mark.parametrize("encode", [encode_flo, encode_npy])
def test_a_view_that_is_not_contiguous(encode, flow):
    assert b"".join(encode(flow[::-1])) == b"".join(encode(np.ascontiguousarray(flow[::-1])))


@pytest.mark.parametrize("encode", [encode_flo, encode_npy])
def test_the_memory_of_the_flow_is_sent_as_it_is(encode, flow):
    _, pixels = encode(flow)
    assert np.shares_memory(np.frombuffer(pixels, np.uint8), flow)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_npy_is_what_numpy_writes(flow, dtype):
    buffer = io.BytesIO()
    np.save(buffer, flow.astype(dtype))
    assert b"".join(encode_npy(flow.astype(dtype))) == buffer.getvalue()


def test_flo_can_be_read_by_opencv(flow, tmp_path):
    path = tmp_path / "flow.flo"
    path.write_bytes(b"".join(encode_flo(flow)))
    np.testing.assert_array_equal(cv2.readOpticalFlow(str(path)), flow)


def test_kitti_is_sixteen_bit_rgb_with_the_exact_values():
    flow = np.array([[[0, 0], [1, -1], [-512, 511.984375]]], np.float32)
    data, clipped = encode_kitti(flow)
    assert clipped == 0
    assert data[24:26] == b"\x10\x02"  # bit depth 16, colour type RGB
    png = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]
    np.testing.assert_array_equal(png, [[[32768, 32768, 1], [32832, 32704, 1], [0, 65535, 1]]])


def test_kitti_round_trip_is_within_half_a_step(flow):
    decoded, valid = read_kitti(encode_kitti(flow)[0])
    assert np.abs(decoded - flow).max() <= 0.5 / 64
    assert (valid == 1).all()


def test_kitti_counts_and_invalidates_what_it_clips():
    flow = np.array([[[600, 0], [0, -513], [511.99, 0], [512, -600], [1, 2]]], np.float32)
    data, clipped = encode_kitti(flow)
    decoded, valid = read_kitti(data)
    assert clipped == 3
    np.testing.assert_array_equal(valid, [[0, 0, 1, 0, 1]])
    assert decoded[0, 0, 0] == pytest.approx(512, abs=1 / 32)
    assert decoded[0, 1, 1] == -512


def test_npz_is_that_of_numpy_out_of_the_memory_of_the_arrays(flow):
    arrays = {"flow": flow, "mask": flow[..., 0] > 0, "meta": np.array('{"a": 1}')}
    expected = io.BytesIO()
    np.savez(expected, **arrays)
    buffers = encode_npz(arrays)
    assert b"".join(buffers) == expected.getvalue()
    assert any(np.shares_memory(np.frombuffer(buffer, np.uint8), flow) for buffer in buffers)


def test_npz_needs_no_pickle(flow):
    arrays = np.load(
        io.BytesIO(b"".join(encode_npz({"flow": flow, "meta": np.array('{"a": 1}')}))), allow_pickle=False
    )
    np.testing.assert_array_equal(arrays["flow"], flow)
    assert str(arrays["meta"]) == '{"a": 1}'


def test_wheel_has_the_published_segments():
    wheel = colour_wheel() * 255
    assert wheel.shape == (55, 3)
    corners = {
        0: (255, 0, 0),
        15: (255, 255, 0),
        21: (0, 255, 0),
        25: (0, 255, 255),
        36: (0, 0, 255),
        49: (255, 0, 255),
    }
    for index, colour in corners.items():
        np.testing.assert_array_equal(wheel[index], colour)
    np.testing.assert_allclose(wheel[[1, 16, 54]], [(255, 17, 0), (213, 255, 0), (255, 0, 43)], atol=1e-4)


def test_no_motion_is_white():
    np.testing.assert_array_equal(colour_flow(np.zeros((2, 2, 2), np.float32), 5.0), 255)


def test_colours_of_the_axes():
    """Right is red, left is cyan-blue, down is yellow, up is blue-violet: Middlebury's picture."""
    flow = np.array([[[10, 0], [-10, 0], [0, 10], [0, -10]]], np.float32)
    right, left, down, up = colour_flow(flow, 10.0)[0].astype(int)
    np.testing.assert_array_equal(right, (255, 0, 0))
    assert left[0] == 0
    assert left[2] == 255
    assert tuple(down[[0, 2]]) == (255, 0)
    assert down[1] > 200
    assert up[2] == 255
    assert up[1] == 0


def test_colours_match_a_pixel_by_pixel_reading_of_the_definition(flow):
    expected = [[reference_colour(u, v, 40.0) for u, v in row] for row in flow]
    assert np.abs(colour_flow(flow, 40.0).astype(int) - expected).max() <= 1


def reference_colour(u, v, max_flow):
    """The published C code, in float64."""
    wheel = colour_wheel().astype(float)
    radius = np.hypot(u, v) / max_flow
    position = (np.arctan2(-v, -u) / np.pi + 1) / 2 * 54
    low = int(position)
    colour = (1 - (position - low)) * wheel[low] + (position - low) * wheel[(low + 1) % 55]
    colour = 1 - radius * (1 - colour) if radius <= 1 else 0.75 * colour
    return [int(255 * channel) for channel in colour]


def test_max_flow_makes_colours_comparable(flow):
    data, scale = encode_png(flow, 100.0)
    assert scale == 100.0
    half, _ = encode_png(flow * 2, 200.0)
    assert data == half
    assert encode_png(flow, None)[1] == pytest.approx(np.linalg.norm(flow, axis=-1).max())


def test_float16_has_no_infinities():
    flow = np.array([[[1e6, -7e4], [0.1, 100.02]]], np.float32)
    half = flow_as(flow, "float16")
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, [[[65504, -65504], [0.1, 100.02]]], rtol=1 / 2048)
    assert flow_as(flow, "float32") is flow
