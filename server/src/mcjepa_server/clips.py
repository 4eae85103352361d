"""Image files of one request to frames that are ready for the engine, all of one size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from mcjepa_server.engine import Uint8Array
from mcjepa_server.errors import InvalidInput
from mcjepa_server.geometry import Geometry, scale_frame
from mcjepa_server.images import PixelBudget, decode_image

#: From the width and height of the frames to the sizes they are computed at.
Plan = Callable[[int, int], Geometry]


async def decode_clip(
    files: Sequence[tuple[str, bytes]], budget: PixelBudget, plan: Plan, workers: CapacityLimiter
) -> tuple[list[Uint8Array], Geometry]:
    """Named files to scaled frames (h, w, 3) and their geometry.

    Each frame is scaled as soon as it is decoded, so a request that waits holds no full-size image, and has a
    thread call of its own, so a deadline can end it in between. Raises InvalidInput if the sizes differ.
    """
    frames: list[Uint8Array] = []
    geometry: Geometry | None = None
    for name, data in files:
        frame, geometry = await run_sync(
            _decode, (name, data), files[0][0], budget, geometry or plan, limiter=workers
        )
        frames.append(frame)
    assert geometry is not None, "a clip has frames"
    return frames, geometry


def _decode(
    file: tuple[str, bytes], first: str, budget: PixelBudget, known: Geometry | Plan
) -> tuple[Uint8Array, Geometry]:
    name, data = file
    image = decode_image(data, name, budget)
    height, width = image.shape[:2]
    geometry = known if isinstance(known, Geometry) else known(width, height)
    if (width, height) != (geometry.width, geometry.height):
        raise InvalidInput(
            f"{first} is {geometry.width}x{geometry.height} and {name} is {width}x{height}; "
            "all frames must have the same size",
            param=name,
        )
    return scale_frame(image, geometry), geometry
