"""Image files of one request to frames that are ready for the engine, all of one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mcjepa_server.engine import Uint8Array
from mcjepa_server.errors import InvalidInput
from mcjepa_server.geometry import Geometry, Plan, resize_square, scale_frame
from mcjepa_server.images import PixelBudget, decode_image

if TYPE_CHECKING:  # its processes import this module for the functions below
    from mcjepa_server.decoders import Decoders


async def decode_clip(
    files: Sequence[tuple[str, bytes]], budget: PixelBudget, plan: Plan, decoders: Decoders
) -> tuple[list[Uint8Array], Geometry]:
    """Named files to scaled frames (h, w, 3) and their geometry.

    Each frame is scaled where it is decoded, so a request that waits holds no full-size image, and has a
    call of its own, so a deadline can end it in between. Raises InvalidInput if the sizes differ.
    """
    frames: list[Uint8Array] = []
    known: Geometry | Plan = plan
    for name, data in files:
        frame, geometry = await decoders.run(decode_frame, data, name, files[0][0], budget, known, param=name)
        known = geometry
        budget = replace(budget, used=budget.used + geometry.width * geometry.height)
        frames.append(frame)
    return frames, geometry


def decode_frame(
    data: bytes, name: str, first: str, budget: PixelBudget, known: Geometry | Plan
) -> tuple[Uint8Array, Geometry]:
    """One file to a scaled frame. Blocking; leaves the budget of the caller alone."""
    image = decode_image(data, name, replace(budget))
    height, width = image.shape[:2]
    geometry = known if isinstance(known, Geometry) else known(width, height)
    if (width, height) != (geometry.width, geometry.height):
        raise InvalidInput(
            f"{first} is {geometry.width}x{geometry.height} and {name} is {width}x{height}; "
            "all frames must have the same size",
            param=name,
        )
    return scale_frame(image, geometry), geometry


def decode_square(data: bytes, name: str, max_pixels: int, side: int) -> Uint8Array:
    """One file to the square (side, side, 3) that the embedding model takes. Blocking."""
    return resize_square(decode_image(data, name, PixelBudget(max_pixels, max_pixels)), side)
