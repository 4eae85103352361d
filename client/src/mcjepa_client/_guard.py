"""Runs a command for as long as standard input stays open, and ends it then.

A server that belongs to another process must not outlive it, however that one ends: when it is killed, the
system closes the pipe to here. Started as a script, with the command as arguments.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

_STOP_TIMEOUT = 10.0  # seconds to finish in, before it is killed


def main(command: Sequence[str]) -> int:
    """Exit code of the command."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    # Ctrl-C reaches the whole group: the owner decides when it is over, by closing the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    threading.Thread(target=_stop_at_end_of_input, args=[child], daemon=True).start()
    return child.wait()


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
