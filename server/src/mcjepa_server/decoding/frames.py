"""Image files to the pixels that the engine takes. This runs in the processes that decode.

The gateway imports it to name the functions, and needs no Pillow for that. NumPy and OpenCV are imported for
images that have to be scaled: without them a process takes half the memory.
"""

from __future__ import annotations

from functools import partial

from mcjepa_server.imaging.geometry import Geometry, Plan
from mcjepa_server.imaging.limits import PixelBudget

#: A large JPEG is decoded at so many times the square's side, or more. The embedding then has a cosine of
#: 0.9996 or more with that of the whole file (12 photos of 1 to 12 megapixels); at twice the side, of 0.9965.
SHRUNK = 3


def decode_frame(data: bytes, name: str, budget: PixelBudget, plan: Plan) -> tuple[bytes, Geometry]:
    """One file to the pixels of a scaled frame (h, w, 3), and its sizes. Blocking."""
    from mcjepa_server.decoding.images import open_image

    image = open_image(data, name, budget, check=partial(plan, param=name))
    geometry = plan(image.width, image.height, param=name)
    if not geometry.is_scaled:
        return image.tobytes(), geometry
    import numpy as np

    from mcjepa_server.imaging.resize import scale_frame

    return scale_frame(np.asarray(image), geometry).tobytes(), geometry


def decode_embed_inputs(
    files: tuple[bytes, ...], names: tuple[str, ...], budget: PixelBudget, side: int
) -> tuple[bytes, int]:
    """Files to the pixels of the squares (N, side, side, 3) that the embedding model takes. Blocking.

    The number beside them is the pixels of the request's budget that were spent.
    """
    from mcjepa_server.decoding.images import decode_image
    from mcjepa_server.imaging.resize import resize_square

    counted = budget

    def square(data: bytes, name: str) -> bytes:
        def spend(width: int, height: int) -> None:
            nonlocal counted
            counted = counted.spend(width, height, name)

        one = PixelBudget(budget.max_image, budget.max_image)
        return resize_square(decode_image(data, name, one, SHRUNK * side, spend), side).tobytes()

    pixels = b"".join(square(data, name) for data, name in zip(files, names, strict=True))
    return pixels, counted.spent - budget.spent
