"""From arguments to requests. Everything that can be seen to be wrong is refused here, before sending."""

import base64
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast, get_args

import numpy as np

from mcjepa_client._errors import InputError
from mcjepa_client._images import ImageInput, PillowImage, check_same_size, encode_image
from mcjepa_client._results import Direction
from mcjepa_client._steps import Send

# JSON around each base64 image: quotes, comma, object. Generous; the limit is approached, never met.
_ITEM_OVERHEAD = 64
_BODY_OVERHEAD = 1024
#: Images of one request to embed: the server takes more, but what fails is sent again as a whole.
_MOST_IMAGES = 64
_PART_OVERHEAD = 256  # headers of a part of a multipart body


class EmbedLimits(NamedTuple):
    """What the server takes in one /v1/embeddings request."""

    images: int
    body_bytes: int


def flow(
    img1: ImageInput, img2: ImageInput, direction: Direction, occlusion: bool, max_side: int | None
) -> Send:
    params = flow_params(direction, occlusion, max_side)
    check_same_size([img1, img2], "img1 and img2")
    files = [
        ("frame1", ("frame1", encode_image(img1, "img1"))),
        ("frame2", ("frame2", encode_image(img2, "img2"))),
    ]
    return Send("POST", "/v1/flow", params=params, files=files)


def analyze(
    frames: Sequence[ImageInput], direction: Direction, occlusion: bool, max_side: int | None
) -> Send:
    if direction == "backward":
        raise InputError("direction: an analysis is 'forward' or 'both', not 'backward'")
    if len(frames) < 2:
        raise InputError(f"frames: expected 2 or more, got {len(frames)}")
    params = flow_params(direction, occlusion, max_side)
    check_same_size(frames, "frames")
    files = [
        ("frames", (f"frame{index}", encode_image(frame, f"frames[{index}]")))
        for index, frame in enumerate(frames)
    ]
    return Send("POST", "/v1/analyze", params=params, files=files)


def body_bytes(request: Send) -> int:
    """How long the multipart body of a request is, about: never less than it is."""
    return _BODY_OVERHEAD + sum(len(data) + _PART_OVERHEAD for _, (_, data) in request.files or [])


def flow_params(direction: Direction, occlusion: bool, max_side: int | None) -> dict[str, str]:
    """Query of a call that computes flow. npz is asked for: float32, several arrays, nothing lost."""
    if direction not in get_args(Direction):
        raise InputError(f"direction: expected one of {', '.join(get_args(Direction))}, got {direction!r}")
    params = {"format": "npz", "direction": direction}
    if occlusion:
        params["occlusion"] = "true"
    if max_side is not None:
        params["max_side"] = str(_positive(max_side, "max_side"))
    return params


def embed(batch: list[str], dimensions: int | None) -> Send:
    """`batch` holds image files as base64. The vectors come back as base64 too: exact, and short."""
    body: dict[str, object] = {"input": batch, "encoding_format": "base64"}
    if dimensions is not None:
        body["dimensions"] = _positive(dimensions, "dimensions")
    return Send("POST", "/v1/embeddings", json=body)


def as_list(images: ImageInput | Iterable[ImageInput]) -> list[ImageInput]:
    """One image, or any iterable of images (an array (N, H, W, 3) is one), as a list that is not empty."""
    single = isinstance(images, str | bytes | bytearray | memoryview | os.PathLike | PillowImage)
    if single or (isinstance(images, np.ndarray) and images.ndim < 4):
        return [cast(ImageInput, images)]
    if not isinstance(images, Iterable):
        raise InputError(f"images: expected images, got {type(images).__name__}")
    listed = cast(list[ImageInput], list(images))
    if not listed:
        raise InputError("images: expected one or more, got none")
    return listed


def take_batch(images: list[ImageInput], start: int, limits: EmbedLimits) -> list[str]:
    """The images from `start` on that fit into one request, as base64.

    Always takes one: whether that one is too large is for the server to say. Each image is encoded when its
    turn comes, so a long list of files is never in memory as a whole.
    """
    batch: list[str] = []
    size = _BODY_OVERHEAD
    for index in range(start, min(start + limits.images, start + _MOST_IMAGES, len(images))):
        item = base64.b64encode(encode_image(images[index], f"images[{index}]")).decode("ascii")
        size += len(item) + _ITEM_OVERHEAD
        if batch and size > limits.body_bytes:
            break
        batch.append(item)
    return batch


def _positive(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name}: expected a whole number above 0, got {value!r}")
    return int(value)
