"""How many cores there are to compute on."""

from __future__ import annotations

import os
from pathlib import Path

TOPOLOGY = Path("/sys/devices/system/cpu")  # of Linux


def usable_cores() -> int:
    """Those that this process may use, at least 1. Two hardware threads of a core, which share its arithmetic
    units, count as one where the system tells them apart."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = {path.read_text() for path in TOPOLOGY.glob("cpu[0-9]*/topology/thread_siblings_list")}
    return min(allowed, len(cores) or allowed)
