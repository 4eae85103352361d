"""A heap that does not grow with the sizes of what passed through it."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3  # of mallopt(3)
_THRESHOLD_BYTES = 2**17  # glibc's first value; then it follows what is freed, up to 32 MiB


def keep_large_blocks_apart() -> bool:
    """Lets every block from 128 KiB on have pages of its own, which go back to the system when it is freed.

    By itself glibc raises that size to the largest block freed so far. Bodies and images then lie in the heap
    between small objects that stay, and leave gaps that nothing fits and that are never given back. False
    where there is no glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # Alpine, macOS, Windows
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES))
