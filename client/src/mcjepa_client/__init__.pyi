"""The public names; each is loaded when it is first used (__init__.py)."""

from . import (
    flow_io as flow_io,
    flow_viz as flow_viz,
)
from ._async_client import AsyncClient as AsyncClient
from ._camera import (
    CameraMotion as CameraMotion,
    camera_motion as camera_motion,
)
from ._client import Client as Client
from ._errors import (
    AuthenticationError as AuthenticationError,
    BadGatewayError as BadGatewayError,
    BadRequestError as BadRequestError,
    ClientClosedError as ClientClosedError,
    ConnectionFailedError as ConnectionFailedError,
    FileError as FileError,
    GatewayTimeoutError as GatewayTimeoutError,
    InputError as InputError,
    InternalServerError as InternalServerError,
    InvalidReplyError as InvalidReplyError,
    McjepaError as McjepaError,
    MissingExtraError as MissingExtraError,
    NotAcceptableError as NotAcceptableError,
    NotFoundError as NotFoundError,
    PayloadTooLargeError as PayloadTooLargeError,
    PermissionDeniedError as PermissionDeniedError,
    RateLimitError as RateLimitError,
    RequestTimeoutError as RequestTimeoutError,
    ServiceUnavailableError as ServiceUnavailableError,
    StatusError as StatusError,
    UnprocessableEntityError as UnprocessableEntityError,
    UnsupportedMediaTypeError as UnsupportedMediaTypeError,
    VideoError as VideoError,
)
from ._nearest import (
    Match as Match,
    nearest as nearest,
)
from ._results import (
    AnalyzeResult as AnalyzeResult,
    EmbedResult as EmbedResult,
    FlowResult as FlowResult,
    cosine_similarity as cosine_similarity,
)
from ._stabilise import (
    Stabilisation as Stabilisation,
    stabilise as stabilise,
)
from ._tracks import (
    TrackedPoints as TrackedPoints,
    grid_points as grid_points,
    tracks as tracks,
)
from ._version import __version__ as __version__
from ._video.process import ProcessResult as ProcessResult
from ._video.results import FrameResult as FrameResult
from ._warp import (
    occlusion as occlusion,
    warp as warp,
)
