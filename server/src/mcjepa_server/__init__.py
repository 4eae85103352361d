"""HTTP gateway for MC-JEPA: optical flow and image embeddings out of one encoder."""

from mcjepa_server.app import create_app
from mcjepa_server.config import Settings
from mcjepa_server.version import __version__

__all__ = ["Settings", "__version__", "create_app"]
