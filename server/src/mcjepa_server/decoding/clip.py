"""Image files of one request to the clip that the engine takes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from functools import partial

import numpy as np
from anyio.to_thread import run_sync

from mcjepa_server.decoding.frames import decode_frame
from mcjepa_server.decoding.pool import FILES_AT_ONCE, Decoders, ordered_map
from mcjepa_server.errors import InvalidInput
from mcjepa_server.imaging.geometry import Geometry, Plan
from mcjepa_server.imaging.limits import PixelBudget
from mcjepa_server.imaging.resize import empty_clip, pad_frame
from mcjepa_server.types import Uint8Array


async def decode_clip(
    files: Sequence[tuple[str, bytes]], budget: PixelBudget, plan: Plan, decoders: Decoders
) -> tuple[Uint8Array, Geometry]:
    """Named files to one clip (1, N, padded H, padded W, 3) and the geometry of its frames.

    Each frame is scaled where it is decoded, and goes into the clip at once, so that a request that waits
    holds each of its pixels once; it has a call of its own, so that a deadline can end it in between. Raises
    InvalidInput if the sizes differ.
    """
    calls = [
        partial(decoders.run, decode_frame, data, name, budget.after(index), plan, param=name)
        for index, (name, data) in enumerate(files)
    ]
    async with aclosing(ordered_map(calls, FILES_AT_ONCE)) as results:
        pixels, first = await anext(results)
        # a request with too many pixels is refused before the rest is decoded
        budget.after(len(files) - 1).check(first.width, first.height, files[-1][0])
        clip = empty_clip(len(files), first)
        await _put(pixels, first, clip[0, 0])
        for padded, (name, _) in zip(clip[0, 1:], files[1:], strict=True):
            pixels, geometry = await anext(results)
            _check_size(geometry, first, name, files[0][0])
            await _put(pixels, first, padded)
    return clip, first


async def _put(pixels: bytes, geometry: Geometry, padded: Uint8Array) -> None:
    frame = np.frombuffer(pixels, np.uint8).reshape(geometry.scaled_height, geometry.scaled_width, 3)
    await run_sync(pad_frame, frame, padded)


def _check_size(found: Geometry, expected: Geometry, name: str, first: str) -> None:
    if (found.width, found.height) != (expected.width, expected.height):
        raise InvalidInput(
            f"{first} is {expected.width}x{expected.height} and {name} is {found.width}x{found.height}; "
            "all frames must have the same size",
            param=name,
        )
