"""Every error the gateway can answer with, and the one table that gives each its status.

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

#: Headers of an early reply, after which the rest of the body is not worth reading.
CLOSE = {"Connection": "close"}


class ApiError(Exception):
    """Root of every error that becomes a reply. The caller reads ``message``: no internals in it."""

    def __init__(
        self, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        return STATUS[type(self)][0]

    @property
    def code(self) -> str:
        return STATUS[type(self)][1]

    @property
    def title(self) -> str:
        return STATUS[type(self)][2]


class MalformedRequest(ApiError):
    """The body cannot be parsed as the type it declares."""


class UndecodableImage(ApiError):
    """The bytes are not a whole image of a supported format."""


class Unauthorized(ApiError):
    """The server asks for API keys, and the request has none that it knows."""


class Forbidden(ApiError):
    """The API key does not allow this path."""


class NotFound(ApiError):
    """No such path."""


class UnknownModel(NotFound):
    """The request names a model that is not served."""


class MethodNotAllowed(ApiError):
    """The path exists, the method does not."""


class NotAcceptable(ApiError):
    """None of the formats on offer is acceptable to the caller."""


class BodyTimeout(ApiError):
    """The body did not arrive in time."""


class TooLarge(ApiError):
    """Root of the two size limits."""


class BodyTooLarge(TooLarge):
    """More bytes than ``max_body_bytes``."""


class ImageTooLarge(TooLarge):
    """More pixels than ``max_image_pixels`` or ``max_request_pixels``."""


class HeadersTooLarge(ApiError):
    """More bytes of headers than ``max_header_bytes``."""


class UnsupportedMediaType(ApiError):
    """The request's Content-Type is not one the path reads."""


class InvalidInput(ApiError):
    """A well-formed request that breaks a rule."""


class Overloaded(ApiError):
    """The queue is full; try again later."""


class RateLimited(ApiError):
    """This API key has too many requests inside, or sent too many in the last minute."""


class InternalError(ApiError):
    """A defect of the server."""


class EngineError(InternalError):
    """The engine failed or gave an answer that must not be sent."""


class NotReady(ApiError):
    """The server cannot serve inference now."""


class DeadlineExceeded(ApiError):
    """The request did not finish within ``request_timeout_s``."""


class ClientClosedRequest(ApiError):
    """The caller went away; the status is only seen in metrics."""


#: The one table: HTTP status, stable machine-readable code, title.
STATUS: Mapping[type[ApiError], tuple[int, str, str]] = {
    MalformedRequest: (400, "malformed_request", "Malformed request"),
    UndecodableImage: (400, "undecodable_image", "Undecodable image"),
    Unauthorized: (401, "unauthorized", "API key needed"),
    Forbidden: (403, "forbidden", "Not allowed with this API key"),
    NotFound: (404, "not_found", "Not found"),
    UnknownModel: (404, "model_not_found", "Unknown model"),
    MethodNotAllowed: (405, "method_not_allowed", "Method not allowed"),
    NotAcceptable: (406, "not_acceptable", "Not acceptable"),
    BodyTimeout: (408, "body_timeout", "Request body timeout"),
    BodyTooLarge: (413, "body_too_large", "Request body too large"),
    ImageTooLarge: (413, "image_too_large", "Image too large"),
    UnsupportedMediaType: (415, "unsupported_media_type", "Unsupported media type"),
    InvalidInput: (422, "invalid_input", "Invalid input"),
    Overloaded: (429, "overloaded", "Too many requests in flight"),
    RateLimited: (429, "rate_limited", "Too many requests of this API key"),
    HeadersTooLarge: (431, "headers_too_large", "Request headers too large"),
    ClientClosedRequest: (499, "client_closed_request", "Client closed request"),
    InternalError: (500, "internal_error", "Internal error"),
    EngineError: (500, "engine_error", "Inference failed"),
    NotReady: (503, "not_ready", "Not ready"),
    DeadlineExceeded: (504, "deadline_exceeded", "Deadline exceeded"),
}


class ContractError(Exception):
    """The model repository is missing something or disagrees with what the gateway expects."""
