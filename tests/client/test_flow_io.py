"""Flow files: round trips, the bytes of the formats, hostile files."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from mcjepa_client import InputError, flow_io


def random_flow(height=5, width=7, scale=100.0):
    return np.random.default_rng(0).normal(0, scale, (height, width, 2)).astype(np.float32)


def test_flo_bytes_are_those_of_the_format():
    flow = np.array([[[1.5, -2.0], [0.25, 3.0], [-0.0, 4.0]]], np.float32)  # (1, 3, 2)
    expected = b"PIEH" + struct.pack("<ii", 3, 1) + struct.pack("<6f", 1.5, -2.0, 0.25, 3.0, -0.0, 4.0)
    assert flow_io.encode_flo(flow) == expected
    assert struct.unpack("<f", b"PIEH")[0] == 202021.25


def test_flo_round_trip_keeps_every_bit(tmp_path):
    flow = random_flow()
    flow_io.write_flo(tmp_path / "a.flo", flow)
    back = flow_io.read_flo(tmp_path / "a.flo")
    assert back.dtype == np.float32
    assert back.tobytes() == flow.tobytes()


def test_unknown_pixels_are_marked_in_flo_and_found_again():
    flow = random_flow()
    flow[0, 0, 0], flow[1, 2, 1], flow[3, 3, 0] = np.nan, np.inf, 2e9
    known = flow_io.known_pixels(flow)
    back = flow_io.decode_flo(flow_io.encode_flo(flow))
    assert np.argwhere(~known).tolist() == [[0, 0], [1, 2], [3, 3]]
    assert (back[~known] == np.float32(1e10)).all()
    assert np.array_equal(flow_io.known_pixels(back), known)
    assert np.array_equal(back[known], flow[known])


def test_threshold_itself_is_known():
    flow = np.full((1, 1, 2), 1e9, np.float32)
    assert flow_io.known_pixels(flow).all()
    assert not flow_io.known_pixels(np.nextafter(flow, np.float32(np.inf))).any()


def test_float64_beyond_float32_is_unknown():
    data = flow_io.encode_flo(np.full((1, 1, 2), 1e300))
    assert not flow_io.known_pixels(flow_io.decode_flo(data)).any()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "PIEH"),
        (b"PIEH", "PIEH"),
        (b"HEIP" + struct.pack("<ii", 1, 1) + bytes(8), "PIEH"),
        (b"PIEH" + struct.pack("<ii", 0, 5), "0x5"),
        (b"PIEH" + struct.pack("<ii", -1, -1) + bytes(8), "-1x-1"),
        (b"PIEH" + struct.pack("<ii", 2, 2) + bytes(31), "expected 44 bytes, got 43"),
        (b"PIEH" + struct.pack("<ii", 2, 2) + bytes(33), "expected 44 bytes, got 45"),
        (b"PIEH" + struct.pack("<ii", 2**31 - 1, 2**31 - 1) + bytes(8), "expected"),
    ],
)
def test_hostile_flo_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        flow_io.decode_flo(data)


def test_kitti_pixels_are_those_of_the_format():
    flow = np.array([[[1.0, -2.0], [0.0, 0.5]]], np.float32)
    data, clipped = flow_io.encode_kitti(flow, np.array([[True, False]]))
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert bgr.dtype == np.uint16
    assert bgr[0, 0, ::-1].tolist() == [32768 + 64, 32768 - 128, 1]
    assert bgr[0, 1].tolist() == [0, 0, 0]
    assert clipped == 0


def test_kitti_round_trip_is_within_half_a_step(tmp_path):
    flow, valid = random_flow(), np.random.default_rng(1).random((5, 7)) < 0.7
    assert flow_io.write_kitti(tmp_path / "a.png", flow, valid) == 0
    back = flow_io.read_kitti(tmp_path / "a.png")
    assert np.array_equal(back.valid, valid)
    assert np.abs(back.flow - flow)[valid].max() <= 1 / 128
    assert not back.flow[~valid].any()


def test_kitti_counts_what_its_range_cannot_hold_and_stores_it_as_invalid():
    flow = np.zeros((2, 2, 2), np.float32)
    flow[0, 0, 0], flow[0, 1, 1], flow[1, 0, 0], flow[1, 1, 0] = 512.0, -512.1, np.nan, -512.0
    data, clipped = flow_io.encode_kitti(flow)
    assert clipped == 2  # an unknown pixel is not a clipped one, and -512 still fits
    assert flow_io.decode_kitti(data).valid.tolist() == [[False, False], [False, True]]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image",
        flow_io.encode_png(np.zeros((2, 2, 3), np.uint8)),
        flow_io.encode_png(np.zeros((2, 2), np.uint16)),
    ],
)
def test_other_images_are_no_kitti_flow(data):
    with pytest.raises(InputError, match="16-bit RGB PNG"):
        flow_io.decode_kitti(data)


def test_a_kitti_size_beyond_its_bytes_costs_no_memory():
    data = bytearray(flow_io.encode_kitti(np.zeros((2, 2, 2), np.float32))[0])
    data[16:24] = struct.pack(">II", 2**29, 3)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(InputError, match=f"{2**29}x3: {len(data)} bytes are too few"):
        flow_io.decode_kitti(bytes(data))


def test_a_kitti_file_of_zeros_is_as_small_as_they_get():
    flow, valid = flow_io.decode_kitti(flow_io.encode_kitti(np.zeros((1000, 2000, 2), np.float32))[0])
    assert not flow.any()
    assert valid.all()


@pytest.mark.parametrize("damage", ["cut", "chunk longer than the file", "flipped", "no end"])
def test_a_damaged_kitti_file_is_refused(damage):
    data = bytearray(flow_io.encode_kitti(np.ones((2, 2, 2), np.float32))[0])
    start = data.index(b"IDAT")
    if damage == "cut":
        del data[start + 6 :]
    elif damage == "chunk longer than the file":  # for which OpenCV would take 1.8 GB
        data[start - 4 : start] = struct.pack(">I", 0x6B0000E5)
    elif damage == "flipped":
        data[start + 6] ^= 1
    else:
        del data[-12:]
    with pytest.raises(InputError, match="the PNG is damaged"):
        flow_io.decode_kitti(bytes(data))


@pytest.mark.parametrize("shape", [(2,), (4, 4), (4, 4, 3), (1, 4, 4, 2), (0, 4, 2)])
def test_flow_of_another_shape_is_refused(shape):
    with pytest.raises(InputError, match=r"\(H, W, 2\)"):
        flow_io.encode_flo(np.zeros(shape, np.float32))


def test_flow_of_strings_is_refused():
    with pytest.raises(InputError, match="dtype"):
        flow_io.encode_flo(np.full((2, 2, 2), "x"))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    target = tmp_path / "a.flo"
    flow_io.write_flo(target, random_flow())
    before = target.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        flow_io.write_flo(target, random_flow(9, 9))
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.flo"]
