"""Every error the gateway can answer with.

The tree::

    ApiError
    ├── MalformedRequest        the body is not what its Content-Type says
    ├── UndecodableImage        empty, truncated, corrupt or of an unknown format
    ├── Unauthorized            no API key, or one that is unknown, expired or revoked
    ├── Forbidden               the API key is for something else
    ├── NotFound
    │   └── UnknownModel
    ├── MethodNotAllowed
    ├── NotAcceptable           no format on offer is accepted by the caller
    ├── BodyTimeout             the body took too long to arrive
    ├── TooLarge
    │   ├── BodyTooLarge        bytes
    │   └── ImageTooLarge       pixels, judged by the header before decoding
    ├── UnsupportedMediaType
    ├── InvalidInput            well-formed, but against a rule; ``param`` names the field
    ├── HeadersTooLarge         the request line and the headers
    ├── Overloaded              the queue is full
    ├── RateLimited             the API key has too many requests, at once or a minute
    ├── InternalError
    │   └── EngineError         the engine failed, or answered with a wrong shape or a non-finite number
    ├── NotReady                loading, failing or draining
    ├── DeadlineExceeded
    └── ClientClosedRequest     nobody is left to read the answer
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

#: Headers of an early reply, after which the rest of the body is not worth reading.
CLOSE = {"Connection": "close"}


class ApiError(Exception):
    """Root of every error that becomes a reply. The caller reads ``message``: no internals in it."""

    status: ClassVar[int]  # of HTTP
    code: ClassVar[str]  # stable, for programs
    title: ClassVar[str]

    def __init__(
        self, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers = dict(headers or {})


class MalformedRequest(ApiError):
    """The body cannot be parsed as the type it declares."""

    status = 400
    code = "malformed_request"
    title = "Malformed request"


class UndecodableImage(ApiError):
    """The bytes are not a whole image of a supported format."""

    status = 400
    code = "undecodable_image"
    title = "Undecodable image"


class Unauthorized(ApiError):
    """The server asks for API keys, and the request has none that it knows."""

    status = 401
    code = "unauthorized"
    title = "API key needed"


class Forbidden(ApiError):
    """The API key does not allow this path."""

    status = 403
    code = "forbidden"
    title = "Not allowed with this API key"


class NotFound(ApiError):
    """No such path."""

    status = 404
    code = "not_found"
    title = "Not found"


class UnknownModel(NotFound):
    """The request names a model that is not served."""

    status = 404
    code = "model_not_found"
    title = "Unknown model"


class MethodNotAllowed(ApiError):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"
    title = "Method not allowed"


class NotAcceptable(ApiError):
    """None of the formats on offer is acceptable to the caller."""

    status = 406
    code = "not_acceptable"
    title = "Not acceptable"


class BodyTimeout(ApiError):
    """The body did not arrive in time."""

    status = 408
    code = "body_timeout"
    title = "Request body timeout"


class TooLarge(ApiError):
    """Root of the two size limits."""


class BodyTooLarge(TooLarge):
    """More bytes than ``max_body_bytes``."""

    status = 413
    code = "body_too_large"
    title = "Request body too large"


class ImageTooLarge(TooLarge):
    """More pixels than ``max_image_pixels`` or ``max_request_pixels``."""

    status = 413
    code = "image_too_large"
    title = "Image too large"


class HeadersTooLarge(ApiError):
    """More bytes of headers than ``max_header_bytes``."""

    status = 431
    code = "headers_too_large"
    title = "Request headers too large"


class UnsupportedMediaType(ApiError):
    """The request's Content-Type is not one the path reads."""

    status = 415
    code = "unsupported_media_type"
    title = "Unsupported media type"


class InvalidInput(ApiError):
    """A well-formed request that breaks a rule."""

    status = 422
    code = "invalid_input"
    title = "Invalid input"


class Overloaded(ApiError):
    """The queue is full; try again later."""

    status = 429
    code = "overloaded"
    title = "Too many requests in flight"


class RateLimited(ApiError):
    """This API key has too many requests inside, or sent too many in the last minute."""

    status = 429
    code = "rate_limited"
    title = "Too many requests of this API key"


class InternalError(ApiError):
    """A defect of the server."""

    status = 500
    code = "internal_error"
    title = "Internal error"


class EngineError(InternalError):
    """The engine failed or gave an answer that must not be sent."""

    status = 500
    code = "engine_error"
    title = "Inference failed"


class NotReady(ApiError):
    """The server cannot serve inference now."""

    status = 503
    code = "not_ready"
    title = "Not ready"


class DeadlineExceeded(ApiError):
    """The request did not finish within ``request_timeout_s``."""

    status = 504
    code = "deadline_exceeded"
    title = "Deadline exceeded"


class ClientClosedRequest(ApiError):
    """The caller went away; the status is only seen in metrics."""

    status = 499
    code = "client_closed_request"
    title = "Client closed request"


class ContractError(Exception):
    """The model repository is missing something or disagrees with what the gateway expects."""
