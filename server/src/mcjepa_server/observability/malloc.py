"""What glibc does with freed memory: it is kept for the next request, and given back every few seconds.

By itself glibc gives up the end of a heap as soon as it is free, so that the next request faults in its pages
anew, never looks again at gaps between small objects that stay, and has a heap for each thread.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of mallopt(3)
_LARGEST_BLOCK = 2**25  # bytes; glibc takes no more
GATEWAY_BYTES = 2**28  # that the gateway keeps until it gives them back


def keep_freed_memory(most: int) -> bool:
    """One heap for all threads, with blocks of up to 32 MiB in it; at its end at most these bytes stay free.

    False where there is no glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # Alpine, macOS, Windows
        return False
    wanted = {_M_ARENA_MAX: 1, _M_MMAP_THRESHOLD: _LARGEST_BLOCK, _M_TRIM_THRESHOLD: most}
    return all(mallopt(name, value) for name, value in wanted.items())


def trim_memory() -> bool:
    """Gives every free page of the heap back to the system, gaps included. False if there is none to give."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError, TypeError):
        return False
