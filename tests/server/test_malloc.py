"""The heap while large blocks come and go, and after."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's heap")

# Bodies of 1 MB, and after each of them something small that stays.
GAPS = """
import os
from mcjepa_server.observability.malloc import trim_memory, keep_freed_memory
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
assert keep_freed_memory(2**28)
before = resident()
bodies, stay = [], []
for _ in range(200):
    bodies.append(bytearray(b"x") * 1_000_000)
    stay.append(bytearray(b"x") * 2_000)
del bodies
print((resident() - before) / 200_000_000)
assert trim_memory()
print((resident() - before) / 200_000_000)
"""

FAULTS = """
import resource, sys
from mcjepa_server.observability.malloc import keep_freed_memory
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def request():
    blocks = [bytearray(b"x") * 10_000_000 for _ in range(5)]
kept = sys.argv[1] == "kept" and keep_freed_memory(2**28)
request()
before = faults()
for _ in range(10):
    request()
print((faults() - before) / (10 * 50_000_000 / resource.getpagesize()))
"""


def numbers(script, *arguments):
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return [float(line) for line in run.stdout.split()]


def test_freed_bodies_leave_no_gaps_that_are_not_given_back():
    """Shares of the freed bytes that the process still holds."""
    kept, given_back = numbers(GAPS)
    assert kept > 0.9
    assert given_back < 0.1


def test_blocks_that_were_freed_are_used_again_without_page_faults():
    """Page faults for each page of blocks that are made, and freed, ten times."""
    assert numbers(FAULTS, "as it is")[0] > 0.5
    assert numbers(FAULTS, "kept")[0] < 0.1
