"""Everything this package raises.

McjepaError
├── InputError                      the arguments are wrong; nothing was sent (also a ValueError)
├── FileError                       a file cannot be read or written (also the OSError of the system)
├── ClientClosedError               a call after close() (also a RuntimeError)
├── MissingExtraError               an optional library is not installed (also an ImportError)
├── VideoError                      a video is damaged, truncated, or no video at all
├── ConnectionFailedError           no reply: refused, reset, name not found
│   └── RequestTimeoutError         no reply in time
├── InvalidReplyError               a reply came, but it is not what the server promises
└── StatusError                     the server answered with an error status
    ├── BadRequestError             400  an image could not be decoded
    ├── AuthenticationError         401
    ├── PermissionDeniedError       403
    ├── NotFoundError               404
    ├── NotAcceptableError          406
    ├── PayloadTooLargeError        413  too many bytes or pixels; the message names the limit
    ├── UnsupportedMediaTypeError   415
    ├── UnprocessableEntityError    422  for example frames of different sizes
    ├── RateLimitError              429  the queue is full; see `retry_after`
    ├── InternalServerError         500
    ├── BadGatewayError             502
    ├── ServiceUnavailableError     503  starting, draining; see `retry_after`
    └── GatewayTimeoutError         504  the server's own deadline passed
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any


class McjepaError(Exception):
    """Root of every error of this package. Each can be pickled, so it passes between processes.

    Attributes:
        index: which of the images of the call is at fault, from 0, or None.
        path: the file at fault, or None.
    """

    index: int | None = None
    path: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[McjepaError], args: tuple[Any, ...], attributes: dict[str, Any]) -> McjepaError:
    """Without __init__, which makes the message of parts that it does not keep."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class InputError(McjepaError, ValueError):
    """An argument is wrong; nothing was sent."""


class FileError(McjepaError, OSError):
    """A file cannot be read or written.

    Each is also the kind of OSError that the system reported (FileNotFoundError, PermissionError, ...), with
    its `errno`, `strerror` and `filename`, and an InputError when it is a file that an argument names to be
    read.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        cause = self.errno, self.strerror, self.filename
        return _restore_file_error, (str(self), cause, isinstance(self, InputError), self.__dict__)


def file_error(message: str, error: OSError, *, is_input: bool = False) -> FileError:
    """Return the FileError for an error of the system; with `is_input` it is an InputError too."""
    made = _file_error_kind(error.errno, is_input)(message)
    made.errno, made.strerror, made.filename = error.errno, error.strerror, error.filename
    return made


@lru_cache
def _file_error_kind(errno: int | None, is_input: bool) -> type[FileError]:
    reported = type(OSError(errno, ""))  # the one that Python has for this number
    ours = (InputError, FileError) if is_input else (FileError,)
    return type(
        ours[0].__name__, ours if reported is OSError else (*ours, reported), {"__module__": __name__}
    )


def _restore_file_error(
    message: str, cause: tuple[Any, ...], is_input: bool, attributes: dict[str, Any]
) -> FileError:
    error = file_error(message, OSError(*cause), is_input=is_input)
    error.__dict__.update(attributes)
    return error


@contextmanager
def os_errors_as_file_errors() -> Iterator[None]:
    """Turn each OSError out of the block into a FileError with the same words."""
    try:
        yield
    except McjepaError:
        raise
    except OSError as error:
        raise file_error(str(error), error) from error


class ClientClosedError(McjepaError, RuntimeError):
    """The client was used after `close()`."""


class MissingExtraError(McjepaError, ImportError):
    """A library of an extra of this package is missing; the message has the command that installs it."""


class VideoError(McjepaError):
    """A video cannot be read, or not to its end.

    `frames` is how many frames of it could be read: what they gave was delivered before this was raised.
    """

    def __init__(self, message: str, *, frames: int = 0) -> None:
        super().__init__(message)
        self.frames = frames


class ConnectionFailedError(McjepaError):
    """No reply came. The request may or may not have reached the server; asking again is safe."""


class RequestTimeoutError(ConnectionFailedError):
    """No reply came within the client's timeout."""


class InvalidReplyError(McjepaError):
    """A reply with a success status whose body is not what the server promises.

    `status_code`, `request_id` and the start of the `body` (at most 2,000 bytes) are kept for the report.
    """

    def __init__(self, message: str, *, status_code: int, request_id: str | None, body: bytes) -> None:
        super().__init__(message if request_id is None else f"{message} [request {request_id}]")
        self.status_code = status_code
        self.request_id = request_id
        self.body = body[:2000]


class StatusError(McjepaError):
    """The server answered with an error status.

    Attributes:
        status_code: HTTP status.
        code: the server's machine-readable reason, or None when the body named none (a proxy's page).
        param: the request field at fault, or None.
        request_id: what to quote to whoever runs the server, or None.
        retry_after: seconds the server asked to wait (uncapped), or None.
        body: the decoded JSON body, or the text of it when it was not JSON.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        body: object = None,
    ) -> None:
        suffix = f" [request {request_id}]" if request_id else ""
        super().__init__(f"{status_code}: {message}{suffix}")
        self.status_code = status_code
        self.code = code
        self.param = param
        self.request_id = request_id
        self.retry_after = retry_after
        self.body = body


class BadRequestError(StatusError):
    """400."""


class AuthenticationError(StatusError):
    """401."""


class PermissionDeniedError(StatusError):
    """403."""


class NotFoundError(StatusError):
    """404."""


class NotAcceptableError(StatusError):
    """406."""


class PayloadTooLargeError(StatusError):
    """413."""


class UnsupportedMediaTypeError(StatusError):
    """415."""


class UnprocessableEntityError(StatusError):
    """422."""


class RateLimitError(StatusError):
    """429."""


class InternalServerError(StatusError):
    """500."""


class BadGatewayError(StatusError):
    """502."""


class ServiceUnavailableError(StatusError):
    """503."""


class GatewayTimeoutError(StatusError):
    """504."""


STATUS_ERRORS: Mapping[int, type[StatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    406: NotAcceptableError,
    413: PayloadTooLargeError,
    415: UnsupportedMediaTypeError,
    422: UnprocessableEntityError,
    429: RateLimitError,
    500: InternalServerError,
    502: BadGatewayError,
    503: ServiceUnavailableError,
    504: GatewayTimeoutError,
}


def status_error(
    status_code: int, content: bytes, *, request_id: str | None, retry_after: float | None
) -> StatusError:
    """The error for one reply. Whatever the body is, this returns; it never raises."""
    body = _decode_body(content)
    problem = body if isinstance(body, dict) else {}
    error = problem.get("error")
    details = error if isinstance(error, dict) else {}
    message = _text(details.get("message")) or _text(problem.get("detail")) or _text(problem.get("title"))
    return STATUS_ERRORS.get(status_code, StatusError)(
        message or _describe_foreign_body(body),
        status_code=status_code,
        code=_text(details.get("code")) or _text(details.get("type")),
        param=_text(details.get("param")),
        request_id=request_id or _text(problem.get("request_id")),
        retry_after=retry_after,
        body=body,
    )


def name_images(error: StatusError, names: Mapping[str, str], culprit: str | None) -> None:
    """Name images as the caller does in an error of the server.

    `names` has the caller's name by the server's. The message begins with `culprit`, the caller's name of the
    image at fault, where it does not say it.
    """
    status, _, message = str(error).partition(": ")
    known = "|".join(map(re.escape, names))
    named = re.sub(rf"(?<!\w)({known})(?!\w)", lambda found: names[found[0]], message) if names else message
    if culprit is not None and culprit not in named:
        named = f"{culprit}: {named}"
    error.args = (f"{status}: {named}",)


def advise(error: StatusError, advice: str) -> None:
    """Add what to do to the message of an error."""
    suffix = f" [request {error.request_id}]" if error.request_id else ""
    error.args = (f"{str(error).removesuffix(suffix)}; {advice}{suffix}",)


def _decode_body(content: bytes) -> Any:
    """JSON when it is JSON, else text; deep nesting and broken encodings included."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content.decode("utf-8", errors="replace")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _describe_foreign_body(body: object) -> str:
    """One line about a body that is not the server's own (a proxy's HTML page, nothing at all)."""
    text = " ".join(body.split()) if isinstance(body, str) else ""
    return f"reply without a problem description: {text[:200]!r}" if text else "reply without a body"
