"""What reads bytes of strangers, one function each, and files to start from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
from hostile import BOUNDARY, file, images, multipart
from mcjepa_client import InputError, flow_io
from mcjepa_server.api.request_body import read_form
from mcjepa_server.config import Settings
from mcjepa_server.decoding.embed_inputs import decode_base64
from mcjepa_server.decoding.images import decode_image
from mcjepa_server.errors import ApiError
from mcjepa_server.imaging.limits import PixelBudget
from mcjepa_server.scheduling.byte_budget import ByteBudget
from starlette.requests import Request

PIXELS = 2**18


def read_image(data: bytes) -> None:
    image = decode_image(data, "part", PixelBudget(PIXELS, PIXELS))
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert image.size <= 3 * PIXELS


def read_multipart(data: bytes) -> None:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": data, "more_body": False}

    kind = f"multipart/form-data; boundary={BOUNDARY}".encode()
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind)], "state": {}}
    budget = ByteBudget(2**20)
    form = asyncio.run(read_form(Request(scope, receive), Settings(), budget))
    assert sum(len(part) for _, part in form.files) <= len(data)


def read_base64(data: bytes) -> None:
    assert len(decode_base64(data.decode("utf-8", "replace"), "part")) <= len(data)


def read_flo(data: bytes) -> None:
    flow = flow_io.decode_flo(data)
    assert flow_io.decode_flo(flow_io.encode_flo(flow)).shape == flow.shape


def read_kitti(data: bytes) -> None:
    flow, valid = flow_io.decode_kitti(data)
    again, clipped = flow_io.encode_kitti(flow, valid)
    assert clipped == 0
    assert (flow_io.decode_kitti(again).flow == flow).all()


READERS: tuple[Callable[[bytes], None], ...] = (read_image, read_multipart, read_base64, read_flo, read_kitti)


def read(data: bytes) -> bool:
    """One input. Whether it was readable; raises what is neither a result nor an error of ours."""
    if not data:
        return False
    try:
        READERS[data[0] % len(READERS)](data[1:])
    except (ApiError, InputError):
        return False
    return True


def seeds() -> list[bytes]:
    """Files to start from: some readable for each reader, and the hostile ones."""
    flow = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    pictures = [file(kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "PPM")] + list(images().values())
    starts = [
        *((read_image, data) for data in pictures if len(data) < 2**16),
        (read_multipart, multipart([("frame1", b"a"), ("frame2", b"b")])),
        (read_base64, b"data:image/png;base64,AAAA"),
        (read_flo, flow_io.encode_flo(flow)),
        (read_kitti, flow_io.encode_kitti(flow)[0]),
    ]
    return [bytes([READERS.index(reader)]) + data for reader, data in starts]
