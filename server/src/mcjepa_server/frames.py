"""One image file to what the engine takes. This runs in the processes that decode."""

from __future__ import annotations

from mcjepa_server.engine import Uint8Array
from mcjepa_server.geometry import Geometry, Plan, resize_square, scale_frame
from mcjepa_server.images import PixelBudget, decode_image


def decode_frame(data: bytes, name: str, budget: PixelBudget, plan: Plan) -> tuple[Uint8Array, Geometry]:
    """One file to a scaled frame (h, w, 3) and its sizes. Blocking."""
    image = decode_image(data, name, budget)
    geometry = plan(image.shape[1], image.shape[0])
    return scale_frame(image, geometry), geometry


def decode_square(data: bytes, name: str, max_pixels: int, side: int) -> Uint8Array:
    """One file to the square (side, side, 3) that the embedding model takes. Blocking."""
    return resize_square(decode_image(data, name, PixelBudget(max_pixels, max_pixels)), side)
