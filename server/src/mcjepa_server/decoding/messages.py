"""What the server and a process that decodes images say to each other: plain bytes, with nothing to execute.

A call is ``CALL`` (magic, number, bytes of JSON), JSON of its arguments, then the files. A reply is ``REPLY``
(magic, number of the call, status, width, height, bytes that follow), then pixels or the text of an error.
For squares the height is the pixels spent of the request's budget.
The server believes no reply: it must be that of the call, of a size that the call allows.
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, NamedTuple

from mcjepa_server.decoding.frames import decode_embed_inputs, decode_frame
from mcjepa_server.errors import ApiError, ImageTooLarge, InternalError, InvalidInput, UndecodableImage
from mcjepa_server.imaging.geometry import Geometry, Padding, Plan, plan_geometry
from mcjepa_server.imaging.limits import PixelBudget

logger = logging.getLogger(__name__)

CALL = struct.Struct("<4sQI")
REPLY = struct.Struct("<4sQBIIQ")
MAGIC = b"mcj1"
FRAME, SQUARES = "frame", "squares"

DONE, OUT_OF_MEMORY = 0, 1
#: Status of each error that a file can be answered with; its width is the number of the file.
ERRORS: dict[int, type[ApiError]] = {2: UndecodableImage, 3: ImageTooLarge, 4: InvalidInput, 5: InternalError}
MAX_TEXT_BYTES = 2000  # of an error
#: What OpenCV and the loader of libraries say in place of a MemoryError.
_NO_MEMORY = ("Insufficient memory", "failed to map segment", "cannot allocate memory")


class BrokenWorker(Exception):
    """The process ended, on this call or before it."""


class KilledWorker(BrokenWorker):
    """The process was killed by another, as by the system for want of memory: no file does that."""


class GarbledReply(BrokenWorker):
    """The process answered something that its call does not allow."""


class Reply(NamedTuple):
    """The head of a reply."""

    status: int
    width: int
    height: int
    size: int  # bytes that follow


class Call(NamedTuple):
    """One call as bytes, and what its reply may be."""

    arguments: bytes
    files: tuple[bytes, ...]
    names: tuple[str, ...]
    size: Callable[[Reply], int]  # bytes of pixels that the reply must have. Raises ApiError for a refusal
    result: Callable[[Reply, bytearray], Any]

    @classmethod
    def of(cls, function: Callable[..., Any], *args: Any) -> Call:
        """The call of :func:`decode_frame` or :func:`decode_embed_inputs` with these arguments."""
        return _CALLS[function](*args)

    def head(self, number: int) -> bytes:
        return CALL.pack(MAGIC, number, len(self.arguments)) + self.arguments

    def check(self, head: bytes | bytearray, number: int) -> Reply:
        """The head of the reply to this call. Raises GarbledReply for any other."""
        magic, answered, *rest = REPLY.unpack(head)
        reply = Reply(*rest)
        if magic != MAGIC or answered != number:
            raise GarbledReply("it is no reply to this call")
        if reply.status == DONE:
            try:
                expected = self.size(reply)
            except (ApiError, ArithmeticError, ValueError) as error:
                raise GarbledReply(f"pixels of {reply.width}x{reply.height}") from error
            if reply.size != expected:
                raise GarbledReply(f"{reply.size} bytes of pixels in place of {expected}")
        elif reply.status not in (OUT_OF_MEMORY, *ERRORS) or reply.size > MAX_TEXT_BYTES:
            raise GarbledReply(f"status {reply.status} with {reply.size} bytes")
        return reply

    def finish(self, reply: Reply, payload: bytearray, memory_bytes: int) -> Any:
        """The result. Raises the error that the process answered with."""
        if reply.status == DONE:
            return self.result(reply, payload)
        param = self.names[reply.width] if reply.width < len(self.names) else None
        if reply.status == OUT_OF_MEMORY:
            raise ImageTooLarge(
                f"{param or 'an image'} takes more memory to decode than the limit, {memory_bytes} bytes "
                "(decode_memory_bytes)",
                param=param,
            )
        text = "".join(c if c.isprintable() else " " for c in payload.decode("utf-8", "replace"))
        if ERRORS[reply.status] is InternalError:
            logger.error("the decoder failed on %s: %s", param, text)
            text = f"{param or 'an image'} cannot be decoded: the decoder failed"
        raise ERRORS[reply.status](text, param=param)


def _frame(data: bytes, name: str, budget: PixelBudget, plan: Plan) -> Call:
    if not isinstance(plan, partial) or plan.func is not plan_geometry:
        raise TypeError("a plan for another process is a partial of plan_geometry")

    def size(reply: Reply) -> int:
        budget.check(reply.width, reply.height, name)
        geometry: Geometry = plan(reply.width, reply.height)
        return 3 * geometry.scaled_width * geometry.scaled_height

    arguments = [FRAME, [len(data)], [name], budget, plan.keywords]
    return Call(
        json.dumps(arguments).encode(),
        (data,),
        (name,),
        size,
        lambda reply, pixels: (pixels, plan(reply.width, reply.height)),
    )


def _squares(files: tuple[bytes, ...], names: tuple[str, ...], budget: PixelBudget, side: int) -> Call:
    def size(reply: Reply) -> int:
        if reply.width != side or reply.height > budget.max_request:
            raise ValueError("another side, or more pixels spent, than asked for")
        return 3 * side * side * len(files)

    arguments = [SQUARES, [len(data) for data in files], names, budget, side]
    return Call(json.dumps(arguments).encode(), files, names, size, _with_spent)


def _with_spent(reply: Reply, pixels: bytearray) -> tuple[bytearray, int]:
    return pixels, reply.height


_CALLS: dict[Callable[..., Any], Callable[..., Call]] = {decode_frame: _frame, decode_embed_inputs: _squares}


def answer(number: int, arguments: bytes, source: BinaryIO) -> tuple[bytes, bytes]:
    """The head and the rest of the reply to a call, whose files come next from the source."""
    kind, sizes, names, *rest = json.loads(arguments)
    files = tuple(source.read(size) for size in sizes)
    try:
        reply = _frame_reply if kind == FRAME else _squares_reply
        width, height, pixels = reply(files, names, *rest)
        return REPLY.pack(MAGIC, number, DONE, width, height, len(pixels)), pixels
    except BaseException as error:
        return _error_reply(number, names, error)


def _frame_reply(
    files: tuple[bytes, ...], names: list[str], budget: list[int], plan: dict[str, Any]
) -> tuple[int, int, bytes]:
    padding = Padding(*plan.pop("padding"))
    pixels, geometry = decode_frame(
        files[0], names[0], PixelBudget(*budget), partial(plan_geometry, padding=padding, **plan)
    )
    return geometry.width, geometry.height, pixels


def _squares_reply(
    files: tuple[bytes, ...], names: list[str], budget: list[int], side: int
) -> tuple[int, int, bytes]:
    pixels, spent = decode_embed_inputs(files, tuple(names), PixelBudget(*budget), side)
    return side, spent, pixels


def _error_reply(number: int, names: list[str], error: BaseException) -> tuple[bytes, bytes]:
    param = getattr(error, "param", None)
    unknown = len(names) if len(names) > 1 else 0
    index = names.index(param) if param in names else unknown
    text = b""
    if _is_out_of_memory(error):
        status = OUT_OF_MEMORY
    else:
        status = next((code for code, kind in ERRORS.items() if type(error) is kind), max(ERRORS))
        text = str(error).encode("utf-8", "replace")[:MAX_TEXT_BYTES]
    return REPLY.pack(MAGIC, number, status, index, 0, len(text)), text


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether it is, or comes of, memory that could not be had."""
    while error is not None:
        if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
            return True
        error = error.__cause__
    return False
