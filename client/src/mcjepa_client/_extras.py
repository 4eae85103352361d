"""Libraries that only some calls need, installed with an extra of this package and imported where used."""

import importlib
from types import ModuleType

from mcjepa_client._errors import MissingExtraError


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise MissingExtraError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        library = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != library:
            raise  # the library is there, but something it needs is not
        raise MissingExtraError(
            f"this needs {library}, which is not installed: pip install 'mcjepa-client[{extra}]'"
        ) from error
