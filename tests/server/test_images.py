"""Image files of every kind, through HTTP and through the decoder itself."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from mcjepa_server.decoding.images import decode_image
from mcjepa_server.errors import ImageTooLarge, InvalidInput, UndecodableImage
from mcjepa_server.imaging.limits import PixelBudget
from PIL import Image

ORIENTATION = 0x0112


def decode(data, max_image=10**6, max_request=10**6):
    return decode_image(data, "frame1", PixelBudget(max_image, max_request))


def png_header(width, height):
    """A PNG that ends after its header, whose checksum is right."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def huge_headers():
    bmp = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
    bmp += struct.pack("<IiiHHIIiiII", 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0)
    start, end = b"\xff\xd8", b"\xff\xd9"
    jpeg = start + b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, 60000, 60000, 1) + b"\x01\x11\x00" + end
    return {
        "png": png_header(60000, 60000)
        + struct.pack(">I", 0)
        + b"IDAT"
        + struct.pack(">I", zlib.crc32(b"IDAT")),
        "bmp": bmp,
        "ppm": b"P6\n60000 60000\n255\n",
        "jpeg": jpeg,
    }


@pytest.mark.parametrize("kind", ["png", "bmp", "ppm", "jpeg"])
def test_a_huge_header_is_refused_without_decoding(client, pair, check_problem, kind):
    pair["frame2"] = ("huge", huge_headers()[kind])
    body = check_problem(client.post("/v1/flow", files=pair), 413, "image_too_large")
    assert "max_image_pixels" in body["detail"]
    assert body["error"]["param"] == "frame2"


def test_pixel_limit_names_size_and_limit(encode, picture):
    with pytest.raises(ImageTooLarge, match=r"20x30, 600 pixels; the limit is 599 \(max_image_pixels\)"):
        decode(encode(picture(30, 20)), max_image=599)
    assert decode(encode(picture(30, 20)), max_image=600).shape == (30, 20, 3)


def test_pixel_limit_of_a_request_adds_up(serve, pair, check_problem):
    client = serve(max_request_pixels=48 * 80 * 2 - 1)
    body = check_problem(client.post("/v1/flow", files=pair), 413, "image_too_large")
    assert "max_request_pixels" in body["detail"]


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "PPM"])
def test_lossless_formats_are_exact(encode, picture, file_format):
    np.testing.assert_array_equal(decode(encode(picture(), file_format)), picture())


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_lossy_formats_are_close(encode, picture, file_format):
    difference = decode(encode(picture(), file_format, quality=95)).astype(int) - picture()
    assert np.abs(difference).mean() < 3


def test_progressive_jpeg(encode, picture):
    plain = decode(encode(picture(), "JPEG"))
    np.testing.assert_array_equal(decode(encode(picture(), "JPEG", progressive=True)), plain)


def test_grey_is_repeated(encode, picture):
    grey = picture()[..., 0]
    np.testing.assert_array_equal(decode(encode(grey)), np.repeat(grey[..., None], 3, axis=2))


def test_one_bit(encode):
    bits = np.zeros((16, 16), np.uint8)
    bits[:, 8:] = 255
    image = Image.fromarray(bits).convert("1")
    np.testing.assert_array_equal(decode(encode(image))[..., 1], bits)


def test_alpha_is_dropped(encode, picture):
    alpha = np.full((48, 80, 1), 7, np.uint8)
    np.testing.assert_array_equal(decode(encode(np.concatenate([picture(), alpha], axis=2))), picture())


def test_grey_with_alpha(encode, picture):
    grey = picture()[..., 0]
    image = np.stack([grey, np.zeros_like(grey)], axis=-1)
    np.testing.assert_array_equal(decode(encode(image))[..., 2], grey)


@pytest.mark.parametrize("transparency", [{}, {"transparency": 3}, {"transparency": bytes([0, 128, 255])}])
def test_palette(encode, picture, transparency):
    image = Image.fromarray(picture()).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode(encode(image, **transparency)), expected)


@pytest.mark.parametrize("extension", [".png", ".pgm"])
def test_sixteen_bit_grey_is_scaled(extension):
    ramp = np.linspace(0, 65535, 16 * 32).astype(np.uint16).reshape(16, 32)
    data = cv2.imencode(extension, ramp)[1].tobytes()
    np.testing.assert_array_equal(decode(data)[..., 0], np.rint(ramp / 257).astype(np.uint8))


@pytest.mark.parametrize("extension", [".png", ".ppm"])
def test_sixteen_bit_colour_is_scaled(extension):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 65536, (16, 32, 3)).astype(np.uint16)
    data = cv2.imencode(extension, image)[1].tobytes()
    expected = image[..., ::-1] / 257
    assert np.abs(decode(data) - expected).max() <= 1.0  # the PNG reader keeps the high byte


def test_cmyk_jpeg(encode, picture):
    image = Image.fromarray(picture()).convert("CMYK")
    difference = decode(encode(image, "JPEG", quality=95)).astype(int) - picture()
    assert np.abs(difference).mean() < 4


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(encode, picture, file_format, orientation):
    """A file turned the way the tag says comes back upright."""
    upright = picture()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    lossless = {} if file_format == "PNG" else {"quality": 95}
    image = Image.fromarray(np.ascontiguousarray(stored))
    decoded = decode(encode(image, file_format, exif=exif, **lossless))
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).mean() < 3


@pytest.mark.parametrize("orientation", [0, 9, 60000])
def test_nonsense_orientation_is_ignored(encode, picture, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    np.testing.assert_array_equal(decode(encode(picture(), exif=exif)), picture())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # what Pillow says of it, and goes on
@pytest.mark.parametrize("exif", [b"MM\0*\0\0\xff\xff" + b"\xff" * 20, b"MM\0*", b"no TIFF header"])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_broken_exif_is_ignored(encode, picture, file_format, exif):
    assert decode(encode(picture(), file_format, exif=b"Exif\0\0" + exif)).shape == (48, 80, 3)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "PPM"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_truncated_files_are_refused(client, pair, encode, check_problem, file_format, kept):
    rng = np.random.default_rng(0)
    whole = encode(rng.integers(0, 256, (64, 64, 3), np.uint8), file_format)
    pair["frame1"] = ("cut", whole[: int(len(whole) * kept)])
    body = check_problem(client.post("/v1/flow", files=pair), 400, "undecodable_image")
    assert body["error"]["param"] == "frame1"


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"not an image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a" + b"\0" * 40, b"%PDF-1.7"],
)
def test_what_is_no_image_is_refused(client, pair, check_problem, data):
    pair["frame1"] = ("1.png", data)
    body = check_problem(client.post("/v1/flow", files=pair), 400, "undecodable_image")
    assert body["error"]["param"] == "frame1"
    assert "0x" not in body["detail"]


def test_corrupt_png_checksum(encode, picture):
    data = bytearray(encode(picture()))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(UndecodableImage):
        decode(bytes(data))


def test_float_pixels_are_refused():
    data = b"Pf\n16 16\n-1.0\n" + np.zeros((16, 16), "<f4").tobytes()
    with pytest.raises(UndecodableImage, match="type F"):
        decode(data)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (15, 15), (15, 400), (400, 15)])
def test_too_small_names_size_and_minimum(encode, picture, height, width):
    with pytest.raises(InvalidInput, match=f"{width}x{height}; the smallest side must be at least 16"):
        decode(encode(picture(height, width)))


def test_a_decoded_array_is_contiguous_rgb(encode, picture):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    array = decode(encode(picture(), exif=exif))
    assert array.dtype == np.uint8
    assert array.flags.c_contiguous


@pytest.mark.parametrize(("enough", "divisor"), [(None, 1), (301, 1), (300, 2), (151, 2), (150, 4), (40, 8)])
def test_a_jpeg_may_come_out_smaller_where_that_is_enough(encode, picture, enough, divisor):
    """Both sides keep at least what is enough, and what is seen stays the same."""
    whole = cv2.resize(picture(75, 100), (800, 600), interpolation=cv2.INTER_CUBIC)
    data = encode(whole, "JPEG", quality=95)
    found = decode_image(data, "frame1", PixelBudget(10**6, 10**6), enough)
    assert found.shape == (600 // divisor, 800 // divisor, 3)
    means = [cv2.resize(image, (8, 6), interpolation=cv2.INTER_AREA) for image in (found, decode(data))]
    np.testing.assert_allclose(*means, atol=2)


def test_other_formats_come_out_whole(encode, picture):
    image = picture(60, 80)
    np.testing.assert_array_equal(decode_image(encode(image), "frame1", PixelBudget(10**6, 10**6), 20), image)


def test_the_limit_is_on_the_size_in_the_file(encode, picture):
    with pytest.raises(ImageTooLarge, match="100x75, 7500 pixels"):
        decode_image(encode(picture(75, 100), "JPEG", quality=95), "frame1", PixelBudget(7499, 10**6), 10)
