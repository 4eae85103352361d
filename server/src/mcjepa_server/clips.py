"""Image files of one request to frames that are ready for the engine, all of one size."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import numpy as np

from mcjepa_server.ahead import in_order
from mcjepa_server.decoders import FILES_AT_ONCE, Decoders
from mcjepa_server.engine import Uint8Array
from mcjepa_server.errors import InvalidInput
from mcjepa_server.frames import decode_frame
from mcjepa_server.geometry import Geometry, Plan
from mcjepa_server.images import PixelBudget


async def decode_clip(
    files: Sequence[tuple[str, bytes]], budget: PixelBudget, plan: Plan, decoders: Decoders
) -> tuple[list[Uint8Array], Geometry]:
    """Named files to scaled frames (h, w, 3) and their geometry.

    Each frame is scaled where it is decoded, so a request that waits holds no full-size image, and has a
    call of its own, so a deadline can end it in between. Raises InvalidInput if the sizes differ.
    """
    calls = [
        partial(decoders.run, decode_frame, data, name, replace(budget, before=index), plan, param=name)
        for index, (name, data) in enumerate(files)
    ]
    frames: list[Uint8Array] = []
    async with aclosing(in_order(calls, FILES_AT_ONCE)) as results:
        async for pixels, geometry in results:
            if not frames:
                first = geometry
            _check_size(geometry, first, files[len(frames)][0], files[0][0])
            frames.append(np.frombuffer(pixels, np.uint8).reshape(first.scaled_height, first.scaled_width, 3))
    return frames, first


def _check_size(found: Geometry, expected: Geometry, name: str, first: str) -> None:
    if (found.width, found.height) != (expected.width, expected.height):
        raise InvalidInput(
            f"{first} is {expected.width}x{expected.height} and {name} is {found.width}x{found.height}; "
            "all frames must have the same size",
            param=name,
        )
