"""What runs inside a process that decodes images. Every import here costs each of them memory."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable

from mcjepa_server.handover import hand_over

MEMORY_BYTES = 2**32  # of address space of one process: the largest image, thrice, and the libraries
_KEPT_BYTES = 2**23  # free memory that it keeps for the next file; a frame of 1024x448 takes 6 MB


def run_confined(function: Callable[..., object], args: tuple[object, ...], path: str) -> object:
    """The function's result; its bytes go by the file at ``path``, which must have been read by now."""
    confine()
    result = function(*args)
    os.truncate(path, 0)
    return hand_over(result, path)


@functools.cache
def confine() -> None:
    """Once in each process: bounded memory, no core files, no say in the terminal."""
    import resource
    import signal

    import mcjepa_server.frames  # noqa: F401  the libraries, before the first file needs them
    from mcjepa_server.memory import keep_freed_memory

    os.environ["OPENBLAS_NUM_THREADS"] = (
        "1"  # should NumPy be needed: else a thread, and memory, for each core
    )
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stderr__.fileno() if sys.__stderr__ else 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which drains first
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    keep_freed_memory(_KEPT_BYTES)
