"""Python SDK of the mcjepa server: dense optical flow and image embeddings over HTTP.

from mcjepa_client import Client

with Client("http://127.0.0.1:8000") as client:
    result = client.flow("frame1.png", "frame2.png")
    result.save("flow.flo")
"""

from importlib.metadata import version

from mcjepa_client import flow_io, flow_viz
from mcjepa_client._async_client import AsyncClient
from mcjepa_client._camera import CameraMotion, camera_motion
from mcjepa_client._client import Client
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
    MissingExtraError,
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
    VideoError,
)
from mcjepa_client._nearest import Match, nearest
from mcjepa_client._results import AnalyzeResult, EmbedResult, FlowResult, cosine_similarity
from mcjepa_client._stabilise import Stabilisation, stabilise
from mcjepa_client._tracks import TrackedPoints, grid_points, tracks
from mcjepa_client._video.process import ProcessResult
from mcjepa_client._video.results import FrameResult
from mcjepa_client._warp import occlusion, warp

__version__ = version("mcjepa-client")

__all__ = [
    "AnalyzeResult",
    "AsyncClient",
    "AuthenticationError",
    "BadGatewayError",
    "BadRequestError",
    "CameraMotion",
    "Client",
    "ConnectionFailedError",
    "EmbedResult",
    "FlowResult",
    "FrameResult",
    "GatewayTimeoutError",
    "InputError",
    "InternalServerError",
    "InvalidReplyError",
    "Match",
    "McjepaError",
    "MissingExtraError",
    "NotAcceptableError",
    "NotFoundError",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "ProcessResult",
    "RateLimitError",
    "RequestTimeoutError",
    "ServiceUnavailableError",
    "Stabilisation",
    "StatusError",
    "TrackedPoints",
    "UnprocessableEntityError",
    "UnsupportedMediaTypeError",
    "VideoError",
    "__version__",
    "camera_motion",
    "cosine_similarity",
    "flow_io",
    "flow_viz",
    "grid_points",
    "nearest",
    "occlusion",
    "stabilise",
    "tracks",
    "warp",
]
