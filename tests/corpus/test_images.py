"""Small odd image files through the SDK's folder of frames and the server: one verdict, equal pixels."""

import inspect
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from mcjepa_client import VideoError
from mcjepa_client._video import costly as client_rules
from mcjepa_client._video.sources import open_source
from mcjepa_server.decoding import decode_cost as server_rules
from mcjepa_server.decoding.images import decode_image
from mcjepa_server.errors import ApiError
from mcjepa_server.imaging.limits import PixelBudget
from PIL import Image
from PIL.PngImagePlugin import PngInfo

HEIGHT, WIDTH = 32, 48
ORIENTATION = 0x0112
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'


def picture(channels=3, dtype=np.uint8):
    ramp = np.add.outer(np.arange(HEIGHT) * 5, np.arange(WIDTH) * 2)
    noise = np.random.default_rng(0).integers(0, 40, (HEIGHT, WIDTH, channels))
    image = (ramp[..., None] + noise).clip(0, 255)
    return (image * (257 if dtype == np.uint16 else 1)).astype(dtype)


def encode(file_format, mode="RGB", image=None, **options):
    buffer = io.BytesIO()
    image = Image.fromarray(picture()).convert(mode) if image is None else image
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags.tobytes()


def png_xmp(orientation):
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.format(orientation))
    return encode("PNG", pnginfo=info)


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def webp_exif(prefix):
    """A WebP whose EXIF chunk begins with `prefix`, which the standard does not want."""
    data = bytearray(encode("WEBP", lossless=True, exif=exif(6).removeprefix(b"Exif\0\0")))
    place = data.index(b"EXIF")
    size = struct.unpack_from("<I", data, place + 4)[0]
    body = prefix + bytes(data[place + 8 : place + 8 + size])
    chunk = b"EXIF" + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    data = data[:place] + chunk
    data[4:8] = struct.pack("<I", len(data) - 8)
    return bytes(data)


def animation(file_format, **options):
    frames = [Image.fromarray(np.roll(picture(), 4 * step, axis=1)) for step in range(3)]
    return encode(file_format, image=frames[0], save_all=True, append_images=frames[1:], **options)


def broken(data):
    """With 8 other bytes in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 0xFF for byte in data[middle : middle + 8]) + data[middle + 8 :]


def bmp(width, height, bits=24, body=b""):
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, 54) + header + body


def cv_encoded(suffix, image):
    return cv2.imencode(suffix, image)[1].tobytes()


JPEG, PNG, WEBP = encode("JPEG", quality=95), encode("PNG"), encode("WEBP", quality=95)
PPM, BMP = encode("PPM"), encode("BMP")
ROWS = picture()[..., ::-1].tobytes()

WHOLE = {
    "1.jpg": JPEG,
    "progressive.jpg": encode("JPEG", progressive=True),
    "grey.jpg": encode("JPEG", "L"),
    "cmyk.jpg": encode("JPEG", "CMYK"),
    "trailer.jpg": JPEG + bytes(range(256)) * 20,
    "motion photo.jpg": JPEG + b"\0\0\0\x18ftypmp42" + bytes(3000),
    "two.jpg": JPEG + JPEG,
    "broken exif.jpg": encode("JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff"),
    "1.png": PNG,
    "grey.png": encode("PNG", "L"),
    "grey and alpha.png": encode("PNG", "LA"),
    "alpha.png": encode("PNG", image=Image.fromarray(picture(4), "RGBA")),
    "one bit.png": encode("PNG", "1"),
    "palette.png": encode("PNG", "P"),
    "transparent palette.png": encode("PNG", "P", transparency=3),
    "16 bits grey.png": cv_encoded(".png", picture(1, np.uint16)),
    "16 bits.png": cv_encoded(".png", picture(3, np.uint16)),
    "trailer.png": PNG + b"appended" * 100,
    "xmp.png": png_xmp(6),
    "animated.png": animation("PNG"),
    "default picture.png": animation("PNG", default_image=True),
    "1.webp": WEBP,
    "lossless.webp": encode("WEBP", lossless=True),
    "exif.webp": webp_exif(b""),
    "exif with prefix.webp": webp_exif(b"Exif\0\0"),
    "animated.webp": animation("WEBP", lossless=True),
    "trailer.webp": WEBP + b"appended" * 100,
    "1.bmp": BMP,
    "palette.bmp": encode("BMP", "P"),
    "top down.bmp": bmp(WIDTH, -HEIGHT, 24, ROWS),
    "1.ppm": PPM,
    "grey.pgm": encode("PPM", "L"),
    "16 bits.pgm": cv_encoded(".pgm", picture(1, np.uint16)),
    "trailer.ppm": PPM + b"more",
    "png by content.jpg": PNG,
} | {
    f"orientation {n}.{kind.lower()}": encode(kind, exif=exif(n))
    for n in range(1, 9)
    for kind in ("JPEG", "PNG")
}

DAMAGED = {
    "empty.png": b"",
    "text.jpg": b"not an image",
    "gif.png": encode("GIF", "P"),
    "tiff.jpg": encode("TIFF"),
    "float.ppm": b"Pf\n48 32\n-1.0\n" + bytes(48 * 32 * 4),
    "oversized.bmp": bmp(60000, 60000),
    "oversized.png": PNG[:8] + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)),
    "no rows.bmp": bmp(WIDTH, HEIGHT),
    "wrong sum.png": broken(PNG),
    "no end.png": PNG[:-12],
} | {
    f"{share} of.{kind}": data[: int(len(data) * share)]
    for kind, data in (("jpg", JPEG), ("png", PNG), ("webp", WEBP), ("bmp", BMP), ("ppm", PPM))
    for share in (0.1, 0.5, 0.95)
}

UNDECIDED = {  # whichever it is, it is the same
    "no end.jpg": JPEG[:-2],
    "broken.jpg": broken(JPEG),
    "broken.webp": broken(WEBP),
    "broken lossless.webp": broken(encode("WEBP", lossless=True)),
    "broken palette.png": PNG[:8] + broken(PNG[8:40]) + PNG[40:],
    "huge exif.jpg": encode("JPEG", exif=exif(6) + bytes(60000)),
    "xmp.webp": encode("WEBP", xmp=XMP.format(3).encode()),
}


def by_client(folder, name, data):
    (folder / name).write_bytes(data)
    try:
        return [frame.load() for frame in open_source(folder).frames()]
    except VideoError:
        return None


def by_server(data):
    try:
        return [decode_image(data, "frame1", PixelBudget(2**26, 2**26))]
    except ApiError:
        return None


@pytest.mark.parametrize("name", [*WHOLE, *DAMAGED, *UNDECIDED])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_both_ways_agree(tmp_path, name):
    data = (WHOLE | DAMAGED | UNDECIDED)[name]
    client, server = by_client(tmp_path, name, data), by_server(data)
    assert (client is None) == (server is None)
    if name in WHOLE:
        assert client is not None
    if name in DAMAGED:
        assert client is None
    if client is not None:
        np.testing.assert_array_equal(client, server)
        assert client[0].dtype == np.uint8


@pytest.mark.parametrize("name", ["xmp.png", "exif.webp", "exif with prefix.webp", "orientation 6.png"])
def test_the_orientation_is_found_wherever_it_is(tmp_path, name):
    (image,) = by_client(tmp_path, name, WHOLE[name])
    np.testing.assert_array_equal(image, np.rot90(picture(), -1))


def test_what_other_systems_leave_in_a_folder_is_skipped(tmp_path):
    for name in ("._1.png", ".hidden.jpg"):
        (tmp_path / name).write_bytes(b"\0\x05\x16\x07" + bytes(120))
    assert len(by_client(tmp_path, "1.png", PNG)) == 1


def costly_files():
    palette, rows = bytes(1024), b"\1\0\0\0" * HEIGHT + b"\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 8, 1, len(rows), 0, 0, 256, 0)
    progressive = encode("JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    return {
        "rle.bmp": b"BM" + struct.pack("<IHHI", 1078 + len(rows), 0, 0, 1078) + head + palette + rows,
        "scans.jpg": progressive[:-2] + scan * 101 + b"\xff\xd9",
        "large.jpg": large_scans(progressive, 33),  # of 32 Mpx each
        "segments.jpg": JPEG[:2] + b"\xff\xe0\0\2" * 5000 + JPEG[2:],
        "padding.jpg": JPEG[:2] + b"\xff" * 5000 + JPEG[2:],
        "chunks.png": PNG[:33] + png_chunk(b"aaAa", b"") * 1000 + PNG[33:],
        "header.ppm": PPM[:3] + b" " * 5000 + PPM[3:],
        "comments.ppm": b"P1 48 32\n" + b"#\n" * 1001 + b"0" * 48 * 32,
        "sign.ppm": b"P6 48 32 +99\n" + bytes(48 * 32 * 3),
    }


def large_scans(progressive, scans):
    """A JPEG whose header says 8192x4096 pixels, with so many scans of little data."""
    size = progressive.index(b"\xff\xc2") + 5
    large = progressive[:size] + struct.pack(">HH", 4096, 8192) + progressive[size + 4 :]
    start = large.index(b"\xff\xda")
    scan = large[large.rindex(b"\xff\xda") : -2]
    return large[:start] + scan * scans + b"\xff\xd9"


def test_a_large_jpeg_may_have_the_scans_of_an_encoder():
    progressive = encode("JPEG", progressive=True)
    server_rules.check_file(large_scans(progressive, 32))
    with pytest.raises(ValueError, match="32 scans of 33554432 pixels"):
        server_rules.check_file(large_scans(progressive, 33))


@pytest.mark.parametrize("greatest", [1, 9, 100, 254, 256, 1023, 4095, 65534, 65535])
@pytest.mark.parametrize("kind", [b"P5", b"P6"])
def test_samples_of_another_range_are_scaled_as_pillow_does_and_not_in_python(
    tmp_path, monkeypatch, kind, greatest
):
    shape = (HEIGHT, WIDTH, 3) if kind == b"P6" else (HEIGHT, WIDTH)
    samples = np.random.default_rng(0).integers(0, greatest + 1, shape)
    samples[0, 0] = min(greatest + 1, 65535 if greatest > 255 else 255)  # one beyond it
    wide = samples.astype(">u2" if greatest > 255 else np.uint8).tobytes()
    data = b"%b # range\n%d %d\n%d\n%b" % (kind, WIDTH, HEIGHT, greatest, wide)
    slow = np.asarray(Image.open(io.BytesIO(data)))
    if slow.dtype != np.uint8:
        slow = np.rint(slow / 257)
    slow = slow if slow.ndim == 3 else np.repeat(slow[..., None], 3, axis=2)
    monkeypatch.setattr("PIL.PpmImagePlugin.PpmDecoder.decode", None)
    np.testing.assert_array_equal(by_server(data)[0], slow)
    np.testing.assert_array_equal(by_client(tmp_path, "1.ppm", data)[0], slow)
    assert by_server(data[:-1]) is None
    assert by_client(tmp_path, "2.ppm", data[:-1]) is None


@pytest.mark.parametrize("name", costly_files())
def test_small_files_that_take_long_are_refused_by_both(tmp_path, name):
    data = costly_files()[name]
    assert by_client(tmp_path, name, data) is None
    assert by_server(data) is None


def test_both_have_the_same_rules():
    assert inspect.getsource(client_rules) == inspect.getsource(server_rules)
