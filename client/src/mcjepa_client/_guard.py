"""Runs a command for as long as standard input stays open, and ends it then.

A server that belongs to another process must not outlive it, however that one ends: when it is killed, the
system closes the pipe to here. On Linux the command ends with this process too, should that be killed.
Started as a script, with the command as arguments.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

_STOP_TIMEOUT = 10.0  # seconds to finish in, before it is killed
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(command: Sequence[str]) -> int:
    """Exit code of the command."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)
    # Ctrl-C reaches the whole group: the owner decides when it is over, by closing the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    threading.Thread(target=_stop_at_end_of_input, args=[child], daemon=True).start()
    return child.wait()


def _die_with_parent() -> None:
    """Ray kills the children of an actor that ends, but not their children."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop_at_end_of_input(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4096):
        pass
    child.terminate()
    try:
        child.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
