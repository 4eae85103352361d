"""Which image files are accepted. The gateway says so, and the processes that decode see to it.

Without Pillow, which the gateway does not need, and dataclasses, which would take a megabyte of each decoder.
"""

from __future__ import annotations

from typing import NamedTuple

from mcjepa_server.errors import ImageTooLarge

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM")
MIN_SIDE = 16  # px


class PixelBudget(NamedTuple):
    """The pixels that one request may decode, for an image that comes after others of its size."""

    max_image: int
    max_request: int
    before: int = 0  # images

    def after(self, images: int) -> PixelBudget:
        """For an image that comes after so many of its size."""
        return self._replace(before=images)

    def check(self, width: int, height: int, param: str) -> None:
        """Raises ImageTooLarge if an image of this size is over either limit."""
        pixels = width * height
        if pixels > self.max_image:
            raise ImageTooLarge(
                f"{param} is {width}x{height}, {pixels} pixels; "
                f"the limit is {self.max_image} (max_image_pixels)",
                param=param,
            )
        used = pixels * (self.before + 1)
        if used > self.max_request:
            raise ImageTooLarge(
                f"the images of this request have {used} pixels up to {param}; "
                f"the limit is {self.max_request} (max_request_pixels)",
                param=param,
            )
