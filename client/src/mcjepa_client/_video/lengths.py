"""How long a video file should be by its own structure: what a truncated one lacks.

Demuxers end a truncated file as they end a whole one. The outer elements of the common containers say how
many bytes belong to them: boxes of MP4 and MOV (ISO/IEC 14496-12, 4.2), the segment of Matroska and WebM
(RFC 9559, RFC 8794), the chunks of AVI (RIFF).
"""

import os
from collections.abc import Iterator
from typing import BinaryIO

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"styp", b"sidx"})


def missing_bytes(path: str) -> int:
    """Bytes that a file should have beyond its end; 0 for a whole one, and where its format does not say."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        return max(0, max(_ends(file), default=0) - size)


def _ends(file: BinaryIO) -> Iterator[int]:
    """Where the outer elements end."""
    head = file.read(12)
    file.seek(0)
    if head[:4] == _EBML:
        yield from _matroska_end(file)
    elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        yield from _riff_ends(file)
    elif head[4:8] in _BOXES:
        yield from _box_ends(file)


def _box_ends(file: BinaryIO) -> Iterator[int]:
    position = 0
    while len(header := file.read(16)) >= 8:
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8:  # 0: the rest of the file belongs to it
            return
        position += size
        yield position
        file.seek(position)


def _riff_ends(file: BinaryIO) -> Iterator[int]:
    position = 0
    while len(header := file.read(8)) == 8 and header[:4] == b"RIFF":
        size = int.from_bytes(header[4:], "little")
        position += 8 + size + size % 2
        yield position - size % 2  # the padding byte is often left out at the end
        file.seek(position)


def _matroska_end(file: BinaryIO) -> Iterator[int]:
    file.seek(4)
    header = _vint(file)
    if header is None:
        return
    file.seek(header, os.SEEK_CUR)
    if file.read(4) == _SEGMENT and (size := _vint(file)) is not None:
        yield file.tell() + size


def _vint(file: BinaryIO) -> int | None:
    """A variable-size integer of EBML; None for the reserved value "unknown", of files written live."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0xFF >> length)]) + file.read(length - 1), "big")
    return None if value == (1 << 7 * length) - 1 else value
