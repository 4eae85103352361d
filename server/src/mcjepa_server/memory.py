"""A heap that does not grow with the sizes of what passed through it."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of mallopt(3)
_THRESHOLD_BYTES = 2**17  # glibc's first value; then it follows what is freed, up to 32 MiB


def keep_heap_tight() -> bool:
    """Gives every block from 128 KiB on pages of its own, which go back to the system when it is freed, and
    all threads one heap.

    By itself glibc raises that size to the largest block freed so far. Bodies and images then lie in the heap
    between small objects that stay, and leave gaps that nothing fits and that are never given back; the heap
    of each thread that encodes replies has gaps of its own. False where there is no glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # Alpine, macOS, Windows
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES) and mallopt(_M_ARENA_MAX, 1))
