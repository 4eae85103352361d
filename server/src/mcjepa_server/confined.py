"""What runs inside a process that decodes images. Every import here costs each of them memory."""

from __future__ import annotations

import os
import pickle
import struct
from io import BufferedReader

from mcjepa_server.handover import goes_by_file, hand_over

HEAD = struct.Struct("<Q")  # before each message: its bytes
MEMORY_BYTES = 2**32  # of address space of one process: the largest image, thrice, and the libraries
_KEPT_BYTES = 2**23  # free memory that it keeps for the next file; a frame of 1024x448 takes 6 MB


def serve(descriptor: int) -> None:
    """Runs what comes by the socket, one call after the other, until the other end is closed."""
    with open(descriptor, "rb") as calls, open(descriptor, "wb", closefd=False) as replies:
        while head := calls.read(HEAD.size):
            reply = _reply(calls, *HEAD.unpack(head))
            replies.write(HEAD.pack(len(reply)) + reply)  # at once: each piece would wake the server
            replies.flush()


def _reply(calls: BufferedReader, size: int) -> bytes:
    """(result, None) or (None, error), pickled; bytes of a result go by the file, which was read by then."""
    try:
        function, args, path = pickle.loads(calls.read(size))
        result = function(*args)
        if goes_by_file(result):
            os.truncate(path, 0)
        return pickle.dumps((hand_over(result, path), None), pickle.HIGHEST_PROTOCOL)
    except BaseException as error:
        return pickle.dumps((None, error), pickle.HIGHEST_PROTOCOL)


def confine() -> None:
    """The first call of each process: bounded memory, no core files, no say in the terminal."""
    import resource
    import signal

    import mcjepa_server.images  # noqa: F401  the libraries, before the first file needs them
    from mcjepa_server.memory import keep_freed_memory

    # should NumPy be needed: else a thread, and memory, for each core
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which drains first
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    keep_freed_memory(_KEPT_BYTES)
