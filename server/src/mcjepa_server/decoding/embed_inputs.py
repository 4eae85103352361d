"""Images of one request to the squares that the embedding model takes, in batches."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from functools import partial

import numpy as np
from anyio.to_thread import run_sync

from mcjepa_server.decoding.frames import decode_embed_inputs
from mcjepa_server.decoding.pool import FILES_AT_ONCE, Decoders, ordered_map
from mcjepa_server.errors import InternalError, InvalidInput, UndecodableImage
from mcjepa_server.imaging.limits import PixelBudget
from mcjepa_server.types import Uint8Array

#: Files, and bytes, that one call of a decoder takes together: the call costs as much as a small file.
FEWEST_A_CALL, MOST_A_CALL, BYTES_A_CALL = 2, 16, 2**18
#: Images that a request works off together: full calls for all the processes that it may use.
PART = MOST_A_CALL * FILES_AT_ONCE

Named = tuple[str, bytes | str]  # an image file, or base64 of one


async def embed_batches(
    images: Sequence[Named], size: int, budget: PixelBudget, side: int, decoders: Decoders
) -> AsyncGenerator[Uint8Array]:
    """Decode named images to squares, and yield them in order as batches (``size`` or fewer, side, side, 3).

    Each is shrunk where it is decoded, and at most ``FILES_AT_ONCE`` calls run ahead of whoever takes the
    batches: a request of many images holds the squares of few. To be closed (``contextlib.aclosing``) by
    whoever may leave it early. Raises UndecodableImage, ImageTooLarge or InvalidInput, which name the image.
    """
    batches = [list(_groups(images[start : start + size])) for start in range(0, len(images), size)]
    decode = _Decode(budget, side, decoders)
    calls = [partial(decode.squares, group) for batch in batches for group in batch]
    if len(calls) == 1:
        yield await calls[0]()
        return
    async with aclosing(ordered_map(calls, FILES_AT_ONCE)) as parts:
        for batch in batches:
            yield np.concatenate([await anext(parts) for _ in batch])


def _groups(images: Sequence[Named]) -> Iterator[Sequence[Named]]:
    """An equal share for each of the processes at work, where the limits let it be."""
    share = math.ceil(len(images) / FILES_AT_ONCE)
    files = min(max(share, FEWEST_A_CALL), MOST_A_CALL)
    start = used = 0
    for index, (_, data) in enumerate(images):
        if index > start and (index - start == files or used + len(data) > BYTES_A_CALL):
            yield images[start:index]
            start, used = index, 0
        used += len(data)
    yield images[start:]


class _Decode:
    """Decodes the files of one request, and keeps the account of their pixels."""

    def __init__(self, budget: PixelBudget, side: int, decoders: Decoders) -> None:
        self._budget = budget
        self._side = side
        self._decoders = decoders

    async def squares(self, group: Sequence[Named]) -> Uint8Array:
        names = tuple(name for name, _ in group)
        texts = any(isinstance(data, str) for _, data in group)
        files = await run_sync(_files, group) if texts else _files(group)
        label = " to ".join(dict.fromkeys((names[0], names[-1])))
        try:
            pixels, spent = await self._decoders.run(
                decode_embed_inputs, files, names, self._budget, self._side, param=label
            )
        except (UndecodableImage, InternalError):
            if len(group) == 1:
                raise
            # of a process that broke down nobody knows on which file: one by one, each has its own error
            parts = [await self.squares([one]) for one in zip(names, files, strict=True)]
            return np.concatenate(parts)
        # of calls at once none knows what the others spend
        self._budget = self._budget.with_spent(spent, names[-1])
        return np.frombuffer(pixels, np.uint8).reshape(-1, self._side, self._side, 3)


def _files(group: Sequence[Named]) -> tuple[bytes, ...]:
    return tuple(data if isinstance(data, bytes) else decode_base64(data, name) for name, data in group)


def decode_base64(text: str, param: str) -> bytes:
    """The bytes of a data URI or of bare base64. URLs are refused: the server fetches nothing."""
    text = text.strip()
    scheme = text[:8].lower()
    if scheme.startswith(("http:", "https:", "ftp:", "file:", "s3:")):
        raise InvalidInput(
            f"{param} is a URL; this server fetches no URLs: send the image as a data URI or base64",
            param=param,
        )
    if scheme.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise InvalidInput(f"{param} is a data URI without ';base64,'", param=param)
    try:
        return base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UndecodableImage(
            f"{param} is not base64; this model embeds images: send a data URI or base64 of an image file",
            param=param,
        ) from error
