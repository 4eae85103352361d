"""Libraries that only some calls need, installed with an extra of this package and imported where used."""

import importlib
from types import ModuleType

from mcjepa_client._errors import MissingExtraError


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise MissingExtraError with the command that installs it."""
    command = f"pip install './client[{extra}]' in a clone of mcjepa"
    return _import(module, module.partition(".")[0], command)


def require_opencv() -> ModuleType:
    """Import cv2, or raise MissingExtraError with the commands that install it.

    All wheels of OpenCV have this one module, and one that is installed over another breaks it: so no other
    extra asks for a wheel, and one that is there is used, whichever it is.
    """
    command = "pip install opencv-python-headless, or './client[opencv]' in a clone of mcjepa"
    return _import("cv2", "OpenCV (cv2)", command)


def _import(module: str, library: str, command: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        problem = "which is not installed" if is_missing else f"which cannot be imported ({error})"
        raise MissingExtraError(f"this needs {library}, {problem}: {command}") from error
