"""Inputs: what is sent for each kind of image, and what is refused before sending."""

import io
import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcjepa_client import InputError
from mcjepa_client._images import check_same_size, encode_image, is_one_image, to_pixels
from PIL import Image

IMG = np.zeros((4, 6, 3), np.uint8)


class Pipe:
    """Something to read from that cannot be rewound."""

    def __init__(self, data):
        self._data = data

    def read(self):
        data, self._data = self._data, b""
        return data


class Closed(io.BytesIO):
    def read(self, *_):
        self.close()
        return super().read()


class Awaited:
    async def read(self):
        return b""


def as_file(array, kind):
    """An image as Pillow opens it from a file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return Image.open(io.BytesIO(buffer.getvalue()))


def decode_rgb(data):
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return image[..., ::-1] if image.ndim == 3 else image


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7), (1, 1), (1, 1, 3)])
def test_arrays_arrive_pixel_by_pixel(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.array_equal(decode_rgb(encode_image(image, "img1")), image)


def test_views_with_strides_arrive_too():
    image = np.random.default_rng(0).integers(0, 256, (10, 14, 3), np.uint8)[::2, ::-2]
    assert np.array_equal(decode_rgb(encode_image(image, "img1")), image)


def test_files_and_bytes_go_as_they_are(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"whatever it holds")
    for image in (path, str(path), b"whatever it holds", bytearray(b"whatever it holds")):
        assert encode_image(image, "img1") == b"whatever it holds"


def test_pillow_images_arrive_as_rgb():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    assert np.array_equal(decode_rgb(encode_image(Image.fromarray(pixels), "img1")), pixels)
    palette = Image.fromarray(pixels).convert("P")
    assert np.array_equal(decode_rgb(encode_image(palette, "img1")), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
@pytest.mark.parametrize("order", "<>")
def test_sixteen_bits_are_scaled_to_eight(shape, order):
    wide = np.random.default_rng(0).integers(0, 65536, shape).astype(f"{order}u2")
    expected = np.rint(wide.astype(np.float64) / 257)
    assert np.array_equal(to_pixels(wide, "image"), expected)
    if wide.ndim == 2:
        assert np.array_equal(to_pixels(Image.fromarray(wide), "image"), expected)


@pytest.mark.parametrize("kind", ["PNG", "PPM", "TIFF"])
def test_files_of_sixteen_bits_are_scaled_as_their_arrays(kind):
    wide = np.random.default_rng(0).integers(0, 65536, (5, 7), np.uint16)
    assert np.array_equal(to_pixels(as_file(wide, kind), "image"), to_pixels(wide, "image"))


def test_false_is_black_and_true_is_white():
    mask = np.random.default_rng(0).random((5, 7)) < 0.5
    assert np.array_equal(to_pixels(mask, "image"), np.where(mask, 255, 0))
    assert np.array_equal(to_pixels(Image.fromarray(mask), "image"), np.where(mask, 255, 0))


MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]


def in_mode(mode):
    """An image of one colour: white where the mode is grey, else (250, 128, 3)."""
    image = Image.new("RGB", (6, 4), (255, 255, 255) if mode in ("1", "L", "LA", "La") else (250, 128, 3))
    if mode in ("P", "PA"):
        image = image.quantize(4)
    via = {"La": "LA", "RGBa": "RGBA"}.get(mode)
    return (image.convert(via) if via else image).convert(mode)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_with_a_range_becomes_its_colours(mode):
    pixels = to_pixels(in_mode(mode), "image")
    expected = 255 if pixels.ndim == 2 else (250, 128, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= 5


def test_a_file_that_pillow_has_not_read_yet_is_refused_when_it_is_damaged():
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "PNG")
    damaged = Image.open(io.BytesIO(buffer.getvalue()[:900]))
    with pytest.raises(InputError, match=r"^img1.*mode L"):
        encode_image(damaged, "img1")


def test_open_files_are_read_whole(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"whatever it holds")
    written = io.BytesIO()
    written.write(b"whatever it holds")  # its position is at the end
    with (
        open(path, "rb") as file,
        open(path, "rb", buffering=0) as raw,
        zipfile.ZipFile(io.BytesIO(), "w") as z,
    ):
        z.writestr("a.png", b"whatever it holds")
        for image in (file, raw, written, z.open("a.png"), Pipe(b"whatever it holds")):
            assert encode_image(image, "img1") == b"whatever it holds"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a.png", True),
        (Path("a.png"), True),
        (b"", True),
        (io.BytesIO(), True),
        (Image.new("L", (1, 1)), True),
        (IMG, True),
        (IMG[..., 0], True),
        (IMG[None], False),
        (np.zeros((2, 4, 6), np.uint8), False),
        (np.array(["a.png", "b.png"]), False),
        ([IMG], False),
        (iter([]), False),
        (None, False),
    ],
)
def test_what_is_one_image(value, expected):
    assert is_one_image(value) is expected


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"float32.*0\.\.255"),
        (np.zeros((4, 4), np.float16), r"float16.*0\.\.255"),
        (np.zeros((4, 4, 3), np.int16), r"int16"),
        (np.zeros((4, 4), np.int64), r"int64"),
        (np.zeros((4, 4), np.uint32), r"uint32"),
        (np.zeros((4, 4), "c8"), r"complex64"),
        (np.zeros((4, 4), object), r"object"),
        (np.zeros((4, 4, 4), np.uint16), r"got \(4, 4, 4\)"),
        (np.zeros((4, 4, 1), np.bool_), r"got \(4, 4, 1\)"),
        (Image.new("F", (4, 4)), r"mode F"),
        (Image.fromarray(np.full((4, 4), 200, np.int32)), r"mode I .*0\.\.255.*uint16"),
        (Image.fromarray(np.full((4, 4), 70_000, np.int32)), r"mode I .*0\.\.255"),
        (as_file(np.full((4, 4), 200, np.int32), "TIFF"), r"mode I .*0\.\.255"),
        (Image.new("RGB", (0, 4)), r"got \(4, 0, 3\)"),
        (np.zeros((4, 4, 4), np.uint8), r"got \(4, 4, 4\)"),
        (np.zeros((3, 4, 4), np.uint8), r"got \(3, 4, 4\)"),
        (np.zeros((4, 4, 1), np.uint8), r"got \(4, 4, 1\)"),
        (np.zeros(4, np.uint8), r"got \(4,\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got \(0, 4, 3\)"),
        (b"", "empty"),
        (None, "NoneType"),
        (42, "int"),
        ([IMG], "list"),
        (io.BytesIO(b""), "empty"),
        (io.StringIO("x"), "str.*'rb'"),
        (Closed(b"x"), "closed"),
        (Awaited(), "awaited"),
    ],
)
def test_unusable_images_are_refused_by_name(image, message):
    with pytest.raises(InputError, match=rf"^img2.*{message}"):
        encode_image(image, "img2")


def test_missing_and_empty_files_and_folders_are_refused_by_path(tmp_path):
    (tmp_path / "empty.png").touch()
    for name, message in [("none.png", "No such file"), (".", "directory"), ("empty.png", "0 bytes")]:
        with pytest.raises(InputError, match=message) as caught:
            encode_image(tmp_path / name, "img1")
        assert str(tmp_path) in str(caught.value)


def test_a_path_may_be_anything_path_like():
    class Box(os.PathLike):
        def __fspath__(self):
            return __file__

    assert encode_image(Box(), "img1") == Path(__file__).read_bytes()


def test_arrays_of_different_sizes_are_refused_before_sending():
    small, large = np.zeros((4, 4), np.uint8), np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(InputError, match=r"\(4, 4\) and \(4, 5\)"):
        check_same_size([small, b"unknown size", large], "frames")
    with pytest.raises(InputError, match=r"\(4, 4\) and \(5, 4\)"):
        check_same_size([small, Image.new("L", (4, 5))], "frames")
    check_same_size([small, np.zeros((4, 4, 3), np.uint8), Image.new("P", (4, 4))], "frames")
