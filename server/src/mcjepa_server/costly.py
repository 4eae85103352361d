"""Image files that are small and would take long to decode: refused before a pixel is decoded.

Pillow unpacks some kinds of file in Python, and reads all headers so; libjpeg goes over all pixels for each
scan. Nothing here needs Pillow. The SDK has a copy, so that both come to the same verdict.
"""

import re
import struct
from collections.abc import Mapping

MAX_SCANS = 100  # of a JPEG; an encoder writes up to 10 or so
MAX_SEGMENTS = 4096  # of a JPEG; its data come in segments of up to 64 KiB
MAX_PADDING = 4096  # bytes between the segments of a JPEG before its first scan, or of the header of a PPM
MAX_COMPRESSED = 64  # chunks of a PNG that are compressed text or profiles, each of up to 1 MiB unpacked
CHUNKS, BYTES_A_CHUNK = 256, 256  # a PNG may have so many chunks, and one more for each so many bytes
MAX_SLOW_BYTES = 2**24  # of a PPM whose samples are text or have to be scaled
MAX_COMMENTS = 1000  # in the text of such a PPM
MAX_EXIF_BYTES = 2**17  # where each of its entries may point to all of it

_PNG = b"\x89PNG\r\n\x1a\n"
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a segment
_START_OF_SCAN, _END = 0xDA, 0xD9
_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_SIZE = _GAP + rb"\d+" + _GAP + rb"\d+"
_PPM = re.compile(rb"P(?:[14]%b|\w+%b%b[^\s#]+)\s" % (_SIZE, _SIZE, _GAP))
_FAST_PPM = re.compile(rb"P(?:4%b|5%b%b(?:255|65535)|6%b%b255)\s" % (_SIZE, _SIZE, _GAP, _SIZE, _GAP))


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
    scans = segments = padding = 0
    place, pattern = 2, _MARKER
    while found := pattern.search(data, place):
        marker = data[found.start() + 1]
        if not scans:
            padding += found.start() - place
        if marker == _END or padding > MAX_PADDING:
            break
        place, segments = found.end(), segments + 1
        if marker not in _ALONE:
            place += int.from_bytes(data[place : place + 2])
        scans += marker == _START_OF_SCAN
        pattern = _AFTER_SCAN if scans else _MARKER
        if scans > MAX_SCANS or segments > MAX_SEGMENTS:
            break
    if scans > MAX_SCANS:
        raise ValueError(f"it has over {MAX_SCANS} scans; save it with fewer, or not progressive")
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
    if _FAST_PPM.match(head):
        return
    if len(data) > MAX_SLOW_BYTES:
        raise ValueError(
            f"it has {len(data)} bytes; the limit is {MAX_SLOW_BYTES} for PPM that is text or has other "
            "samples than 0 to 255; save it as binary PPM with 255, or as PNG"
        )
    if data[1:2] in (b"1", b"2", b"3") and data.count(b"#") > MAX_COMMENTS:
        raise ValueError(f"it has over {MAX_COMMENTS} comments")
