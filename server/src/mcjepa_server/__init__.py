"""HTTP gateway for MC-JEPA: optical flow and image embeddings out of one encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcjepa_server.app import create_app
    from mcjepa_server.config import Settings

__all__ = ["Settings", "__version__", "create_app"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imported when they are used: the processes that decode images need no web framework."""
    if name == "create_app":
        from mcjepa_server.app import create_app

        return create_app
    if name == "Settings":
        from mcjepa_server.config import Settings

        return Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
