"""Image files that are small and would take long to decode: refused, or rewritten, before that.

Pillow unpacks some kinds of file in Python, and reads all headers so; libjpeg goes over all pixels for each
scan. Nothing here needs Pillow. The SDK has a copy, so that both come to the same verdict.
"""

import re
import struct
from collections.abc import Mapping

MAX_SCANS = 100  # of a JPEG; an encoder writes up to 10 or so
MAX_SCANNED_PIXELS = 2**30  # pixels of a JPEG times its scans: 64 Mpx 16 times
MAX_SEGMENTS = 4096  # of a JPEG; its data come in segments of up to 64 KiB
MAX_PADDING = 4096  # bytes between the segments of a JPEG before its first scan, or of the header of a PPM
MAX_COMPRESSED = 64  # chunks of a PNG that are compressed text or profiles, each of up to 1 MiB unpacked
CHUNKS, BYTES_A_CHUNK = 256, 256  # a PNG may have so many chunks, and one more for each so many bytes
MAX_SLOW_BYTES = 2**24  # of a PPM whose samples are text
MAX_COMMENTS = 1000  # in the text of such a PPM
MAX_EXIF_BYTES = 2**17  # where each of its entries may point to all of it

_PIECE = 2**20  # samples scaled at once
_PNG = b"\x89PNG\r\n\x1a\n"
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a segment
_START_OF_SCAN, _END = 0xDA, 0xD9
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_SIZE = _GAP + rb"\d+" + _GAP + rb"\d+"
_PPM = re.compile(rb"P(?:[14]%b|\w+%b%b[^\s#]+)\s" % (_SIZE, _SIZE, _GAP))
_BINARY_PPM = re.compile(rb"P(?![1-4f]\s)(\w+)%b%b(\d+)\s" % (_SIZE, _GAP))


def check_file(data: bytes) -> None:
    """Raise ValueError for a file that would take much longer to decode than others of its size."""
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    elif data.startswith(_PNG):
        _check_png(data)
    elif data.startswith(b"BM"):
        _check_bmp(data)
    elif data.startswith(b"P"):
        _check_ppm(data)


def check_metadata(info: Mapping[str | tuple[int, int], object]) -> None:
    """Raise ValueError if the EXIF data among what Pillow read of a file are too large to look through."""
    for name, limit in (("exif", MAX_EXIF_BYTES), ("Raw profile type exif", 2 * MAX_EXIF_BYTES)):
        found = info.get(name)
        if isinstance(found, bytes | str) and len(found) > limit:
            raise ValueError(f"its EXIF data have {len(found)} bytes; the limit is {limit}")


def _check_jpeg(data: bytes) -> None:
    scans = segments = padding = pixels = 0
    place, pattern = 2, _MARKER
    while found := pattern.search(data, place):
        marker = data[found.start() + 1]
        if not scans:
            padding += found.start() - place
        if marker == _END or padding > MAX_PADDING:
            break
        place, segments = found.end(), segments + 1
        if marker not in _ALONE:
            if marker in _START_OF_FRAME:
                pixels = int.from_bytes(data[place + 3 : place + 5]) * int.from_bytes(
                    data[place + 5 : place + 7]
                )
            place += int.from_bytes(data[place : place + 2])
        scans += marker == _START_OF_SCAN
        pattern = _AFTER_SCAN if scans else _MARKER
        if scans > MAX_SCANS or segments > MAX_SEGMENTS or scans * pixels > MAX_SCANNED_PIXELS:
            break
    if scans > MAX_SCANS:
        raise ValueError(f"it has over {MAX_SCANS} scans; save it with fewer, or not progressive")
    if scans * pixels > MAX_SCANNED_PIXELS:
        raise ValueError(
            f"it has over {MAX_SCANNED_PIXELS // pixels} scans of {pixels} pixels; save it with fewer, or "
            "not progressive"
        )
    if segments > MAX_SEGMENTS:
        raise ValueError(f"it has over {MAX_SEGMENTS} segments; save it without metadata")
    if padding > MAX_PADDING:
        raise ValueError(f"it has over {MAX_PADDING} bytes between its segments")


def _check_png(data: bytes) -> None:
    limit = CHUNKS + len(data) // BYTES_A_CHUNK
    place, chunks, compressed = len(_PNG), 0, 0
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        place += 12 + size
        chunks += 1
        compressed += kind in (b"zTXt", b"iTXt", b"iCCP")
        if chunks > limit:
            raise ValueError(f"it has over {limit} chunks; a file of its size may have so many")
        if compressed > MAX_COMPRESSED:
            raise ValueError(f"it has over {MAX_COMPRESSED} texts and profiles; save it without metadata")
        if kind == b"IEND":
            break


def _check_bmp(data: bytes) -> None:
    if len(data) >= 34 and data[14:18] != b"\x0c\0\0\0":
        compression = int.from_bytes(data[30:34], "little")
        if compression in (1, 2):
            raise ValueError("run-length encoded BMP is not supported; save it uncompressed, or as PNG")


def _check_ppm(data: bytes) -> None:
    head = data[:MAX_PADDING]
    if not _PPM.match(head):
        raise ValueError(f"its header is not that of a PPM, or has over {MAX_PADDING} bytes")
    if data[1:2] not in (b"1", b"2", b"3"):
        return
    if len(data) > MAX_SLOW_BYTES:
        raise ValueError(
            f"it has {len(data)} bytes; the limit is {MAX_SLOW_BYTES} for PPM that is text; save it as "
            "binary PPM, or as PNG"
        )
    if data.count(b"#") > MAX_COMMENTS:
        raise ValueError(f"it has over {MAX_COMMENTS} comments")


def scale_samples(data: bytes) -> bytes:
    """Return a file as it is, or a binary PPM of samples that Pillow would scale in Python with them scaled.

    They are rounded as Pillow does. Raises ValueError if the greatest sample is no number.
    """
    if not data.startswith(b"P"):
        return data
    head = _BINARY_PPM.match(data[:MAX_PADDING])
    if head is None:
        if data[1:2] in (b"5", b"6"):
            raise ValueError("the greatest sample in its header is not a number")
        return data
    greatest = int(head[2])
    is_grey = head[1] == b"5"
    if greatest == 255 or (greatest == 65535 and is_grey) or not 0 < greatest < 65536:
        return data
    before, samples = data[: head.start(2)], data[head.end() :]
    if greatest < 256:
        table = bytes(min(255, round(value / greatest * 255)) for value in range(256))
        return before + b"255\n" + samples.translate(table)
    import numpy as np

    top = 65535 if is_grey else 255
    scaled = np.minimum(np.rint(np.arange(65536) / greatest * top), top).astype(
        ">u2" if is_grey else np.uint8
    )
    wide = np.frombuffer(samples[: len(samples) // 2 * 2], ">u2")
    pieces = (scaled[wide[start : start + _PIECE]].tobytes() for start in range(0, len(wide), _PIECE))
    return b"".join((before, b"%d\n" % top, *pieces))
