"""How a file should end by its own structure: what tells a cut-off file from a whole one.

Demuxers end a cut-off file as they end a whole one. What belongs to a container says how long it is: boxes of
MP4 and MOV (ISO/IEC 14496-12, 4.2), the segment of Matroska and WebM (RFC 9559, RFC 8794), the chunks of AVI
(RIFF), the packets of MPEG-TS, the tags of FLV, the pages of Ogg (RFC 3533), the frames of YUV4MPEG2, the
blocks of GIF. Only these are looked at: bytes behind them are what other programs left.
"""

import mmap
import os
import re
from collections.abc import Callable, Iterator
from typing import BinaryIO

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"styp", b"sidx"})
_NEEDED = frozenset({b"moov", b"mdat", b"moof"})  # boxes without which there are no frames
_FRAGMENT = b"moof"
_UNKNOWN_RIFF = 0xFFFFFFFF
_TS_SYNC = 0x47
_TS_SIZES = ((188, 0), (192, 4), (204, 0))  # bytes of a packet, and its sync byte
_FLV_TAGS = frozenset({8, 9, 18})  # audio, video, script data
_OGG_PAGE, _OGG_HEADER = 65_307, 27  # bytes of a page at most, and at least
_OGG_LAST = 4  # flag of the last page of a stream
_Y4M_CHROMA = re.compile(rb"(420|422|444|mono)(?:jpeg|mpeg2|paldv)?p?(\d+)?")


def missing_bytes(path: str) -> int:
    """Bytes that are missing at the end of a file, at least; 0 for a whole one, and where nothing tells."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(1024)
        file.seek(0)
        end_of = _choose(head)
        return max(0, end_of(file, size) - size) if end_of else 0


def _choose(head: bytes) -> Callable[[BinaryIO, int], int] | None:
    """The function that tells, for a file that begins like this, where it should end at least."""
    if head[4:8] in _BOXES:
        return _boxes
    if head[:4] == _EBML:
        return _matroska
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return _riff
    if head[:3] == b"FLV":
        return _flv
    if head[:4] == b"OggS":
        return _ogg
    if head.startswith(b"YUV4MPEG2 "):
        return _y4m
    if head.startswith(b"GIF8"):
        return _gif
    return _transport_stream if _ts_packet(head) else None


def _boxes(file: BinaryIO, size: int) -> int:
    ends = [(start + length, kind) for start, length, kind in _walk(file, size)]
    end, kind = ends[-1] if ends else (0, b"")
    return end if kind in _NEEDED else 0


def _walk(file: BinaryIO, size: int) -> Iterator[tuple[int, int, bytes]]:
    """Place, length and kind of the boxes of a file, up to the first that is none or reaches past the end."""
    position = 0
    while len(header := file.read(16)) >= 8:
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:  # 0: the rest of the file belongs to it
            return
        yield position, length, kind
        position += length
        if position > size:
            return
        file.seek(position)


def lost_fragments(path: str) -> bool:
    """Whether an MP4 has fragments behind something that is no box, so that no demuxer finds them."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if file.read(8)[4:] not in _BOXES:
            return False
        file.seek(0)
        boxes = list(_walk(file, size))
        start, length, _ = boxes[-1]
        rest = start if start + length > size else start + length
        if rest >= size or _FRAGMENT not in {kind for _, _, kind in boxes}:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(_FRAGMENT, rest + 8) >= 0


def _riff(file: BinaryIO, size: int) -> int:
    position = 0
    while len(header := file.read(8)) == 8 and header[:4] == b"RIFF":
        length = int.from_bytes(header[4:], "little")
        if length == _UNKNOWN_RIFF:
            break
        position += 8 + length
        if position > size:
            return position
        position += length % 2  # the padding byte is often left out at the end
        file.seek(position)
    return 0


def _matroska(file: BinaryIO, size: int) -> int:
    file.seek(4)
    header = _vint(file)
    if header is None:
        return 0
    file.seek(header, os.SEEK_CUR)
    if file.read(4) == _SEGMENT and (length := _vint(file)) is not None:
        return file.tell() + length
    return 0


def _vint(file: BinaryIO) -> int | None:
    """A variable-size integer of EBML; None for the reserved value "unknown", of files written live."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0xFF >> length)]) + file.read(length - 1), "big")
    return None if value == (1 << 7 * length) - 1 else value


def _ts_packet(head: bytes) -> tuple[int, int] | None:
    """Bytes of a packet and place of its sync byte, when that is what a file begins with."""
    for length, sync in _TS_SIZES:
        places = head[sync : 5 * length : length]
        if len(places) == 5 and set(places) == {_TS_SYNC}:
            return length, sync
    return None


def _transport_stream(file: BinaryIO, size: int) -> int:
    packet = _ts_packet(file.read(1024))
    assert packet is not None, "see _choose"
    length, sync = packet
    whole = size - size % length
    file.seek(whole)
    begun = file.read(length)
    return whole + length if len(begun) > sync and begun[sync] == _TS_SYNC else 0


def _flv(file: BinaryIO, size: int) -> int:
    file.seek(5)
    position = int.from_bytes(file.read(4), "big") + 4
    while True:
        file.seek(position)
        header = file.read(11)
        if not header or header[0] not in _FLV_TAGS or any(header[8:]):  # the number of the stream is 0
            return 0
        position += 11 + int.from_bytes(header[1:4].ljust(3, b"\0"), "big")
        if position > size:
            return position
        position += 4


def _ogg(file: BinaryIO, size: int) -> int:
    file.seek(max(0, size - _OGG_PAGE))
    tail = file.read()
    start = max(0, tail.rfind(b"OggS"))
    page = tail[start:]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return size + 1  # its header is cut off
    end = size - len(page) + 27 + page[26] + sum(page[27 : 27 + page[26]])
    return end if end > size or page[5] & _OGG_LAST else size + _OGG_HEADER


def _y4m(file: BinaryIO, size: int) -> int:
    picture = _y4m_bytes(file.readline(1024))
    while picture and b"FRAME".startswith((line := file.readline(1024))[:5]) and line:
        end = file.tell() + picture
        if end > size:
            return end
        file.seek(end)
    return 0


def _y4m_bytes(head: bytes) -> int:
    """Bytes of a picture; 0 for kinds that are not known."""
    fields = {field[:1]: field[1:] for field in head.split()[1:]}
    chroma = _Y4M_CHROMA.fullmatch(fields.get(b"C", b"420"))
    if chroma is None or not (fields.get(b"W", b"").isdigit() and fields.get(b"H", b"").isdigit()):
        return 0
    width, height = int(fields[b"W"]), int(fields[b"H"])
    half_w, half_h = -(-width // 2), -(-height // 2)
    planes = {b"420": half_w * half_h, b"422": half_w * height, b"444": width * height, b"mono": 0}
    depth = int(chroma[2] or 8)
    return (width * height + 2 * planes[chroma[1]]) * (2 if depth > 8 else 1)


def _gif(file: BinaryIO, size: int) -> int:
    file.seek(10)
    flags = file.read(3)[:1] or b"\0"
    _skip_colors(file, flags[0])
    while (kind := file.read(1)) and kind != b";":
        if kind == b",":
            descriptor = file.read(9)
            _skip_colors(file, descriptor[8] if len(descriptor) == 9 else 0)
            file.seek(1, os.SEEK_CUR)  # bits of a code
        elif kind == b"!":
            file.seek(1, os.SEEK_CUR)  # kind of extension
        else:
            return 0  # no block: what is left there by others
        while (length := file.read(1)) and length[0]:
            file.seek(length[0], os.SEEK_CUR)
    return 0 if kind else max(size, file.tell()) + 1


def _skip_colors(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        file.seek(3 << (flags & 7) + 1, os.SEEK_CUR)
