"""From arguments to requests. Everything that can be seen to be wrong is refused here, before sending."""

import base64
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, cast, get_args

import numpy as np

from mcjepa_client._errors import InputError, McjepaError
from mcjepa_client._images import ImageInput, check_same_size, encode_image, is_one_image, path_of
from mcjepa_client._results import Direction, Quality
from mcjepa_client._steps import Send, SentImage

OnError = Literal["raise", "skip"]

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


class FlowRequest(NamedTuple):
    """What is asked of the flow of some frames: see `Client.flow`."""

    direction: Direction
    occlusion: bool
    max_side: int | None
    quality: Quality | None


def flow(img1: ImageInput, img2: ImageInput, wanted: FlowRequest) -> Send:
    params = flow_params(wanted)
    check_same_size([img1, img2], "img1 and img2")
    files, images = [], {}
    for part, name, image in (("frame1", "img1", img1), ("frame2", "img2", img2)):
        files.append((part, (part, encode_image(image, name))))
        images[part] = SentImage(name, path=path_of(image))
    return Send("POST", "/v1/flow", params=params, files=files, images=images)


def analyze(frames: Sequence[ImageInput], wanted: FlowRequest) -> Send:
    if wanted.direction == "backward":
        raise InputError("direction: an analysis is 'forward' or 'both', not 'backward'")
    if len(frames) < 2:
        raise InputError(f"frames: expected 2 or more, got {len(frames)}")
    params = flow_params(wanted)
    check_same_size(frames, "frames")
    files, images = [], {}
    for index, frame in enumerate(frames):
        name = f"frames[{index}]"
        files.append(("frames", (f"frame{index}", encode_nth(frame, index, "frames"))))
        images[name] = SentImage(name, index, path_of(frame))
    return Send("POST", "/v1/analyze", params=params, files=files, images=images)


def body_bytes(request: Send) -> int:
    """How long the multipart body of a request is, about: never less than it is."""
    return _BODY_OVERHEAD + sum(len(data) + _PART_OVERHEAD for _, (_, data) in request.files or [])


def flow_params(wanted: FlowRequest) -> dict[str, str]:
    """Query of a call that computes flow. npz is asked for: float32, several arrays, nothing lost."""
    if wanted.direction not in get_args(Direction):
        raise InputError(
            f"direction: expected one of {', '.join(get_args(Direction))}, got {wanted.direction!r}"
        )
    params = {"format": "npz", "direction": wanted.direction}
    if wanted.occlusion:
        params["occlusion"] = "true"
    if wanted.max_side is not None:
        params["max_side"] = str(_positive(wanted.max_side, "max_side"))
    if wanted.quality is not None:
        params["quality"] = check_quality(wanted.quality)
    return params


def check_quality(quality: Quality) -> Quality:
    """Return it. Raises InputError for another than those there are."""
    if quality not in get_args(Quality):
        raise InputError(f"quality: expected one of {', '.join(get_args(Quality))}, got {quality!r}")
    return quality


def encode_nth(image: ImageInput, index: int, name: str) -> bytes:
    """Return what `encode_image` does. An error says which of the images of argument `name` is at fault."""
    try:
        return encode_image(image, f"{name}[{index}]")
    except InputError as error:
        error.index, error.path = index, path_of(image)
        raise


def as_list(images: ImageInput | Iterable[ImageInput], name: str) -> list[ImageInput]:
    """Return one image, or several out of any iterable, as a list. Raises InputError for what is neither."""
    if is_one_image(images):
        return [cast(ImageInput, images)]
    if not isinstance(images, Iterable) or isinstance(images, Mapping):
        raise InputError(f"{name}: expected images, got {type(images).__name__}")
    return cast(list[ImageInput], list(images))


class Encoded(NamedTuple):
    """An image of an embeddings request, ready to be sent."""

    image: SentImage
    base64: str


def embed(batch: Sequence[Encoded], dimensions: int | None) -> Send:
    """Return the request for a batch. The vectors come back as base64 too: exact, and short."""
    body: dict[str, object] = {"input": [item.base64 for item in batch], "encoding_format": "base64"}
    if dimensions is not None:
        body["dimensions"] = _positive(dimensions, "dimensions")
    images = {f"input[{position}]": item.image for position, item in enumerate(batch)}
    return Send("POST", "/v1/embeddings", json=body, images=images)


class EmbedQueue:
    """The images of a call that have no embedding yet.

    Each is encoded when its turn comes, so a long list of files is never in memory as a whole. Those that
    cannot be embedded are kept as errors in `failed` when `on_error` is "skip".
    """

    def __init__(self, images: Sequence[ImageInput], on_error: OnError) -> None:
        if on_error not in get_args(OnError):
            raise InputError(f"on_error: expected one of {', '.join(get_args(OnError))}, got {on_error!r}")
        if not images:
            raise InputError("images: expected one or more, got none")
        self.failed: list[McjepaError] = []
        self._skips = on_error == "skip"
        self._images = deque(enumerate(images))
        self._encoded: deque[Encoded] = deque()  # that come first

    def take(self, limits: EmbedLimits) -> list[Encoded]:
        """Return the next images that fit into one request, none when there are none left.

        One is always taken: whether that one is too large is for the server to say.
        """
        batch: list[Encoded] = []
        size = _BODY_OVERHEAD
        while len(batch) < min(limits.images, _MOST_IMAGES) and (item := self._next()) is not None:
            size += len(item.base64) + _ITEM_OVERHEAD
            if batch and size > limits.body_bytes:
                self._encoded.appendleft(item)
                break
            batch.append(item)
        return batch

    def drop(self, batch: Sequence[Encoded], error: McjepaError) -> None:
        """Keep `error` for the image of a refused batch that it names, and put back the others.

        Raises `error` itself when it names none, or none is to be skipped.
        """
        if not self._skips or error.index is None:
            raise error
        self.failed.append(error)
        self._encoded.extendleft(item for item in reversed(batch) if item.image.index != error.index)

    def _next(self) -> Encoded | None:
        while not self._encoded and self._images:
            index, image = self._images.popleft()
            try:
                data = encode_nth(image, index, "images")
            except InputError as error:
                if not self._skips:
                    raise
                self.failed.append(error)
                continue
            sent = SentImage(f"images[{index}]", index, path_of(image))
            return Encoded(sent, base64.b64encode(data).decode("ascii"))
        return self._encoded.popleft() if self._encoded else None


def _positive(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name}: expected a whole number above 0, got {value!r}")
    return int(value)
