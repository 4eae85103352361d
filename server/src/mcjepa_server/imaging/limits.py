"""Which image files are accepted. The gateway says so, and the processes that decode see to it.

Without Pillow, which the gateway does not need, and dataclasses, which would take a megabyte of each decoder.
"""

from __future__ import annotations

from typing import NamedTuple

from mcjepa_server.errors import ImageTooLarge

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM")
MIN_SIDE = 16  # px
#: Pixels that each image of a request for embeddings may have uncounted: those of a photo of 16 Mpx or,
#: as a JPEG is decoded smaller, of any photo.
UNCOUNTED = 2**24


class PixelBudget(NamedTuple):
    """The pixels that one request may decode, for an image that comes after others.

    Those before a frame are of its size; those before an image to embed have spent what was counted of them.
    """

    max_image: int
    max_request: int
    before: int = 0  # images
    spent: int = 0  # pixels

    def after(self, images: int) -> PixelBudget:
        """For an image that comes after so many of its size."""
        return self._replace(before=images)

    def spend(self, width: int, height: int, param: str) -> PixelBudget:
        """Count an image as it is decoded for an embedding, with what it has over ``UNCOUNTED`` pixels.

        Raises ImageTooLarge if that is more than the request may have.
        """
        return self.with_spent(max(0, width * height - UNCOUNTED), param)

    def with_spent(self, pixels: int, param: str) -> PixelBudget:
        """Count pixels that were spent. Raises ImageTooLarge if they are more than the request may have."""
        spent = self.spent + pixels
        if spent > self.max_request:
            raise ImageTooLarge(
                f"the images of this request have {spent} pixels up to {param}, beyond the {UNCOUNTED} of "
                f"each that are not counted; the limit is {self.max_request} (max_request_pixels); send "
                "them in several requests, or smaller",
                param=param,
            )
        return self._replace(spent=spent)

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
