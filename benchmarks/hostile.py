"""Image files and multipart bodies that were made to hurt, by code: nothing binary needs to be kept."""

from __future__ import annotations

import functools
import io
import random
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
BOUNDARY = "fuzzed"


def chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk with a right checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, body: bytes, depth: int = 8, colour: int = 2, *extra: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def file(kind: str, size: tuple[int, int] = (32, 24), mode: str = "RGB", **options: object) -> bytes:
    """A small valid image file."""
    rng = np.random.default_rng(0)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return encoded(rng.integers(0, 256, shape, np.uint8), kind, **options)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@functools.cache
def images() -> dict[str, bytes]:
    """By what is wrong with them. None may cost more than an error reply."""
    jpeg, webp = file("JPEG"), file("WEBP")
    zeros, bomb = zlib.compress(bytes(10**6)), zlib.compress(bytes(3 * 10**7))
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIHH", 0xFFFF, 0x0112, 3, 1, 99, 0)
    return {
        "bomb by its header": png(60000, 60000, zeros),
        "widest possible": png(2**31 - 1, 1, zeros),
        "no pixels": png(0, 0, zeros),
        "fewer pixels than claimed": png(4000, 4000, zeros),
        "more data than pixels": png(16, 16, zeros),
        "not deflate": png(32, 32, b"\xff" * 100),
        "unknown colour type": png(32, 32, zeros, 8, 5),
        "depth of 3 bits": png(32, 32, zeros, 3),
        "palette missing": png(32, 32, zeros, 8, 3),
        "bomb in a text": png(32, 32, zeros, 8, 2, chunk(b"zTXt", b"a\0\0" + bomb)),
        "bomb in a profile": png(32, 32, zeros, 8, 2, chunk(b"iCCP", b"a\0\0" + bomb)),
        "many tiny chunks": png(32, 32, zeros, 8, 2, chunk(b"tEXt", b"a\0b") * 20000),
        "chunk longer than the file": SIGNATURE + struct.pack(">I", 2**31 - 1) + b"IHDR" + bytes(13),
        "wrong checksum": file("PNG")[:-20] + bytes(20),
        "endless animation": png(32, 32, zeros, 8, 2, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
        "truncated jpeg": jpeg[: len(jpeg) // 2],
        "jpeg of only a start": b"\xff\xd8\xff",
        "jpeg with a huge size": jpeg.replace(struct.pack(">HH", 24, 32), b"\xff\xff\xff\xff", 1),
        "jpeg with broken exif": jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:],
        "jpeg with scans without end": jpeg[:-2] + jpeg[jpeg.index(b"\xff\xda") : -2] * 2000,
        "truncated webp": webp[:-10],
        "webp with a wrong length": webp[:4] + b"\xff\xff\xff\x7f" + webp[8:],
        "bmp with a negative size": b"BM"
        + struct.pack("<IHHIIiiHH", 70, 0, 0, 54, 40, -32, -(2**31), 1, 24)
        + bytes(40),
        "bmp by its header": b"BM"
        + struct.pack("<IHHIIiiHH", 70, 0, 0, 54, 40, 65535, 65535, 1, 24)
        + bytes(40),
        "ppm by its header": b"P6 99999 99999 255\n" + bytes(100),
        "ppm with a long number": b"P6 " + b"9" * 5000 + b" 1 255\n",
        "ppm as text": b"P3 32 32 255\n" + b"-1 " * 3072,
        "gif": file("GIF", mode="L"),
        "tiff": file("TIFF"),
        "svg": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg>&b;</svg>',
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n(cmd) run\n",
        "empty": b"",
        "a zero": b"\0",
        "html": b"<script>alert(1)</script>",
    }


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A few of the ways in which bytes go wrong."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        where = rng.randrange(len(changed) + 1)
        rng.choice(MUTATIONS)(changed, where, rng)
    return bytes(changed)


def _flip(data: bytearray, where: int, rng: random.Random) -> None:
    if where < len(data):
        data[where] ^= 1 << rng.randrange(8)


def _cut(data: bytearray, where: int, rng: random.Random) -> None:
    del data[where : where + rng.choice((1, 4, 100, 10**9))]


def _insert(data: bytearray, where: int, rng: random.Random) -> None:
    data[where:where] = rng.randbytes(rng.choice((1, 4, 64)))


def _extreme(data: bytearray, where: int, rng: random.Random) -> None:
    value = rng.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\x80\0\0\0"))
    data[where : where + 4] = value


def _repeat(data: bytearray, where: int, rng: random.Random) -> None:
    data[where:where] = data[where : where + 64] * rng.randrange(1, 8)


MUTATIONS: tuple[Callable[[bytearray, int, random.Random], None], ...] = (
    _flip,
    _flip,
    _cut,
    _insert,
    _extreme,
    _repeat,
)


def multipart(parts: list[tuple[str, bytes]], boundary: str = BOUNDARY) -> bytes:
    """A valid body with these files."""
    lines = []
    for name, data in parts:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n\r\n'
        lines.append(head.encode() + data + b"\r\n")
    return b"".join(lines) + f"--{boundary}--\r\n".encode()
