"""The public names; each is loaded when it is first used (__init__.py)."""

from . import (
    flow_io as flow_io,
)
from . import (
    flow_viz as flow_viz,
)
from ._async_client import AsyncClient as AsyncClient
from ._camera import (
    CameraMotion as CameraMotion,
)
from ._camera import (
    camera_motion as camera_motion,
)
from ._client import Client as Client
from ._errors import (
    AuthenticationError as AuthenticationError,
)
from ._errors import (
    BadGatewayError as BadGatewayError,
)
from ._errors import (
    BadRequestError as BadRequestError,
)
from ._errors import (
    ConnectionFailedError as ConnectionFailedError,
)
from ._errors import (
    GatewayTimeoutError as GatewayTimeoutError,
)
from ._errors import (
    InputError as InputError,
)
from ._errors import (
    InternalServerError as InternalServerError,
)
from ._errors import (
    InvalidReplyError as InvalidReplyError,
)
from ._errors import (
    McjepaError as McjepaError,
)
from ._errors import (
    MissingExtraError as MissingExtraError,
)
from ._errors import (
    NotAcceptableError as NotAcceptableError,
)
from ._errors import (
    NotFoundError as NotFoundError,
)
from ._errors import (
    PayloadTooLargeError as PayloadTooLargeError,
)
from ._errors import (
    PermissionDeniedError as PermissionDeniedError,
)
from ._errors import (
    RateLimitError as RateLimitError,
)
from ._errors import (
    RequestTimeoutError as RequestTimeoutError,
)
from ._errors import (
    ServiceUnavailableError as ServiceUnavailableError,
)
from ._errors import (
    StatusError as StatusError,
)
from ._errors import (
    UnprocessableEntityError as UnprocessableEntityError,
)
from ._errors import (
    UnsupportedMediaTypeError as UnsupportedMediaTypeError,
)
from ._errors import (
    VideoError as VideoError,
)
from ._nearest import (
    Match as Match,
)
from ._nearest import (
    nearest as nearest,
)
from ._results import (
    AnalyzeResult as AnalyzeResult,
)
from ._results import (
    EmbedResult as EmbedResult,
)
from ._results import (
    FlowResult as FlowResult,
)
from ._results import (
    cosine_similarity as cosine_similarity,
)
from ._stabilise import (
    Stabilisation as Stabilisation,
)
from ._stabilise import (
    stabilise as stabilise,
)
from ._tracks import (
    TrackedPoints as TrackedPoints,
)
from ._tracks import (
    grid_points as grid_points,
)
from ._tracks import (
    tracks as tracks,
)
from ._version import __version__ as __version__
from ._video.process import ProcessResult as ProcessResult
from ._video.results import FrameResult as FrameResult
from ._warp import (
    occlusion as occlusion,
)
from ._warp import (
    warp as warp,
)
