"""Flow files: round trips, the bytes of the formats, hostile files."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from mcjepa_client import FileError, InputError, flow_io
from mcjepa_client._png import decode_rgb16, encode_png


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
    with pytest.raises(InputError, match=f"{len(data)} bytes.*{2**29}x3"):
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


def png16(rows, *, width=1, height=1, interlaced=0):
    """A 16-bit RGB PNG of these unpacked rows, filters included."""
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, interlaced)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def filter_byte(kind, value, left, above, corner):
    """As chapter 9 of the PNG specification has it."""
    if kind < 4:
        guess = [0, left, above, (left + above) // 2][kind]
    else:
        guess = min((left, above, corner), key=lambda near: abs(left + above - corner - near))
    return (value - guess) % 256


def filtered(stored, kinds):
    """The rows of 16-bit pixels (H, W, 3), the filter of each before it."""
    height, width = stored.shape[:2]
    samples = stored.astype(">u2").tobytes()
    padded = np.zeros((height + 1, 6 * (width + 1)), int)
    padded[1:, 6:] = np.frombuffer(samples, np.uint8).reshape(height, -1)
    rows = b""
    for y, kind in enumerate(kinds, start=1):
        near = zip(padded[y, 6:], padded[y, :-6], padded[y - 1, 6:], padded[y - 1, :-6], strict=True)
        rows += bytes([kind, *(filter_byte(kind, *map(int, values)) for values in near)])
    return rows


@pytest.mark.parametrize("kinds", [[0], [1], [2], [3], [4], [0, 1, 2], [4, 3, 2, 1, 0, 4]])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (23, 31)])
def test_files_of_other_writers_are_read_whatever_their_filters(kinds, shape):
    noise = np.random.default_rng(0).integers(-400, 400, (*shape, 3))
    stored = (np.cumsum(np.cumsum(noise, axis=0), axis=1) % 65536).astype(np.uint16)
    rows = filtered(stored, [kinds[y % len(kinds)] for y in range(shape[0])])
    assert np.array_equal(decode_rgb16(png16(rows, width=shape[1], height=shape[0])), stored)


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (1, 1, 3), (5, 7, 3)])
def test_png_of_both_depths_is_read_by_others(shape, dtype, level):
    top = np.iinfo(dtype).max
    image = np.random.default_rng(0).integers(0, top, shape, endpoint=True).astype(dtype)
    read = cv2.imdecode(np.frombuffer(encode_png(image[::-1], level), np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(read if image.ndim == 2 else read[..., ::-1], image[::-1])


@pytest.mark.parametrize(
    "data",
    [
        png16(bytes(6)),
        png16(bytes(8)),
        png16(b"\x05" + bytes(6)),
        png16(b""),
        png16(b"", width=0),
        png16(b"", height=0),
        png16(bytes(7), interlaced=1),
        png16(bytes(7)).replace(zlib.compress(bytes(7)), b"x" * len(zlib.compress(bytes(7)))),
    ],
)
def test_a_png_whose_rows_are_wrong_is_refused(data):
    with pytest.raises(InputError):
        flow_io.decode_kitti(data)


@pytest.mark.parametrize("shape", [(2,), (4, 4), (4, 4, 3), (1, 4, 4, 2), (0, 4, 2)])
def test_flow_of_another_shape_is_refused(shape):
    with pytest.raises(InputError, match=r"\(H, W, 2\)"):
        flow_io.encode_flo(np.zeros(shape, np.float32))


def test_flow_of_strings_is_refused():
    with pytest.raises(InputError, match="dtype"):
        flow_io.encode_flo(np.full((2, 2, 2), "x"))


@pytest.mark.parametrize("read", [flow_io.read_flo, flow_io.read_kitti])
def test_a_file_that_cannot_be_read_is_named(read, tmp_path):
    for path, kind in ((tmp_path / "none", FileNotFoundError), (tmp_path, IsADirectoryError)):
        with pytest.raises(kind) as caught:
            read(path)
        assert isinstance(caught.value, FileError)
        assert isinstance(caught.value, InputError)
        assert caught.value.filename == caught.value.path == str(path)


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path):
    flow_io.write_flo(tmp_path / f"{'n' * 251}.flo", random_flow())
    assert flow_io.read_flo(tmp_path / f"{'n' * 251}.flo").shape == (5, 7, 2)


@pytest.mark.parametrize("write", [flow_io.write_flo, flow_io.write_kitti])
def test_a_file_that_cannot_be_written_is_named(write, tmp_path):
    (tmp_path / "file").touch()
    for path, kind in (("none/a.flo", FileNotFoundError), ("file/a.flo", NotADirectoryError)):
        with pytest.raises(kind) as caught:
            write(tmp_path / path, random_flow())
        assert isinstance(caught.value, FileError)
        assert not isinstance(caught.value, InputError)
        assert caught.value.filename == caught.value.path == str(tmp_path / path)
    with pytest.raises(FileError):
        write(tmp_path / "a\0b.flo", random_flow())
    with pytest.raises(FileError) as caught:
        write(tmp_path, random_flow())
    assert caught.value.path == str(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    target = tmp_path / "a.flo"
    flow_io.write_flo(target, random_flow())
    before = target.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(FileError, match="No space") as caught:
        flow_io.write_flo(target, random_flow(9, 9))
    assert (caught.value.errno, caught.value.path) == (28, str(target))
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.flo"]
