"""Python SDK of the mcjepa server: dense optical flow and image embeddings over HTTP.

from mcjepa_client import Client

with Client("http://127.0.0.1:8000") as client:
    result = client.flow("frame1.png", "frame2.png")
    result.save("flow.flo")
"""

from importlib.metadata import version

from mcjepa_client import flow_io, flow_viz
from mcjepa_client._client import AsyncClient, Client
from mcjepa_client._errors import (
    AuthenticationError,
    BadGatewayError,
    BadRequestError,
    ConnectionFailedError,
    GatewayTimeoutError,
    InputError,
    InternalServerError,
    InvalidReplyError,
    McjepaError,
    NotAcceptableError,
    NotFoundError,
    PayloadTooLargeError,
    PermissionDeniedError,
    RateLimitError,
    RequestTimeoutError,
    ServiceUnavailableError,
    StatusError,
    UnprocessableEntityError,
    UnsupportedMediaTypeError,
)
from mcjepa_client._results import AnalyzeResult, EmbedResult, FlowResult, cosine_similarity

__version__ = version("mcjepa-client")

__all__ = [
    "AnalyzeResult",
    "AsyncClient",
    "AuthenticationError",
    "BadGatewayError",
    "BadRequestError",
    "Client",
    "ConnectionFailedError",
    "EmbedResult",
    "FlowResult",
    "GatewayTimeoutError",
    "InputError",
    "InternalServerError",
    "InvalidReplyError",
    "McjepaError",
    "NotAcceptableError",
    "NotFoundError",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "RateLimitError",
    "RequestTimeoutError",
    "ServiceUnavailableError",
    "StatusError",
    "UnprocessableEntityError",
    "UnsupportedMediaTypeError",
    "__version__",
    "cosine_similarity",
    "flow_io",
    "flow_viz",
]
