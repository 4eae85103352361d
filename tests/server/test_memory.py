"""The heap after large blocks have come and gone."""

import platform
import subprocess
import sys

import pytest

# Bodies of 1 MB, and after each of them something small that stays.
GAPS = """
import os, sys
from mcjepa_server.memory import keep_heap_tight
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
if sys.argv[1] == "apart":
    assert keep_heap_tight()
del (large := [bytearray(3_000_000) for _ in range(2)])[:]  # what teaches glibc to keep such blocks
before = resident()
bodies, stay = [], []
for _ in range(200):
    bodies.append(bytearray(b"x") * 1_000_000)
    stay.append(bytearray(b"x") * 2_000)
del bodies
print((resident() - before) / 200_000_000)
"""


def left_over(how):
    """Share of the freed bytes that the process still holds."""
    run = subprocess.run(
        [sys.executable, "-c", GAPS, how], capture_output=True, text=True, check=True, timeout=60
    )
    return float(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that keeps gaps")
def test_freed_bodies_leave_no_gaps():
    assert left_over("as it is") > 0.9
    assert left_over("apart") < 0.1
