"""Where the structure of a file is broken: demuxers look for the next intact part and say nothing.

Only formats whose demuxers do that, and whose structure tells: the elements of Matroska and WebM (RFC 9559),
the tags of FLV, the pages of Ogg (RFC 3533).
"""

import mmap
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing

_SEGMENT, _CLUSTER = b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
_ID_BYTES, _SIZE_BYTES = 4, 8  # at most
_TAG = re.compile(rb"[\x08\x09\x12].{7}\0\0\0", re.DOTALL)  # audio, video, script data
_PAGE, _PAGE_HEADER = b"OggS", 27
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_ONES = 0xFFFFFFFF

Walk = Iterator[tuple[int, bool]]
"""Places in a file, in order, and whether the structure is broken there."""


def walk(path: str, formats: set[str]) -> Walk:
    """The parts of a file, as far as its format is known; reads on only as it is asked to."""
    walks: dict[str, Callable[[mmap.mmap], Walk]] = {"matroska": _matroska, "flv": _flv, "ogg": _ogg}
    for name in formats & walks.keys():
        with open(path, "rb") as file, closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as data:
            yield from walks[name](data)


def _matroska(data: mmap.mmap) -> Walk:
    head = _element(data, 0)
    segment = head and head[2] is not None and _element(data, head[1] + head[2])
    if not segment or segment[0] != _SEGMENT:
        return
    _, position, size = segment
    end = len(data) if size is None else min(len(data), position + size)
    inner = end  # of the cluster
    while position < end:
        if position == inner:
            inner = end
        yield position, False
        element = _element(data, position)
        if element is not None:
            kind, begin, size = element
            if kind in (_CLUSTER, _SEGMENT) and (size is None or begin + size <= end):
                position, inner = begin, end if size is None else begin + size
                continue
            if size is not None and begin + size <= inner:
                position = begin + size
                continue
        following = data.find(_CLUSTER, position + 1)
        if following < 0:
            return
        yield position, any(data[position:following])  # zeros are room that was left
        position = inner = following


def _element(data: mmap.mmap, position: int) -> tuple[bytes, int, int | None] | None:
    """Identifier of an element, place of its data and their bytes (None: unknown); None if there is none."""
    head = data[position : position + _ID_BYTES + _SIZE_BYTES]
    length = 9 - head[0].bit_length() if head else 9
    if length > _ID_BYTES or len(head) <= length or not head[length]:
        return None
    digits = 9 - head[length].bit_length()
    value = int.from_bytes(head[length : length + digits], "big") & ((1 << 7 * digits) - 1)
    unknown = value == (1 << 7 * digits) - 1
    return head[:length], position + length + digits, None if unknown else value


def _flv(data: mmap.mmap) -> Walk:
    position = int.from_bytes(data[5:9], "big") + 4
    while position < len(data):
        yield position, False
        if (following := _after_tag(data, position)) is None:
            tags = (match.start() for match in _TAG.finditer(data, position + 1))
            intact = (place for place in tags if _after_tag(data, place) is not None)
            yield position, True
            following = next(intact, len(data))
        position = following


def _after_tag(data: mmap.mmap, position: int) -> int | None:
    """Place behind a tag; None where there is none. Some programs leave its size behind it at 0."""
    if not _TAG.match(data, position):
        return None
    size = int.from_bytes(data[position + 1 : position + 4], "big")
    end = position + 11 + size
    known = int.from_bytes(data[end : end + 4], "big") in (size + 11, size + 10, size, 0)
    return end + 4 if known and end + 4 <= len(data) else None


def _ogg(data: mmap.mmap) -> Walk:
    position = 0
    while 0 <= position < len(data):
        yield position, False
        following = _after_page(data, position)
        if following is None:
            yield position, True
            following = data.find(_PAGE, position + 1)
        position = following


def _after_page(data: mmap.mmap, position: int) -> int | None:
    """Place behind a page; None where there is none, or not the one of its checksum."""
    head = data[position : position + _PAGE_HEADER + 255]
    if head[:4] != _PAGE or len(head) < _PAGE_HEADER:
        return None
    body = _PAGE_HEADER + head[26]
    end = position + body + sum(head[_PAGE_HEADER:body])
    page = data[position:end]
    bits = (page[:22] + bytes(4) + page[26:]).translate(_REVERSED)  # zlib reads bits the other way round
    crc = zlib.crc32(bits, _ONES) ^ _ONES
    return end if crc == int.from_bytes(page[22:26].translate(_REVERSED), "big") else None
