"""The code of a process that decodes images. Every import here costs each of them memory."""

from __future__ import annotations

import os

from mcjepa_server.decoding.messages import CALL, DONE, MAGIC, REPLY, answer

SOCKET = 0  # beside it there are 1 and 2, which lead nowhere
_READ_AHEAD = 2**16
_KEPT_BYTES = 2**23  # free memory that it keeps for the next file; a frame of 1024x448 takes 6 MB
_OPEN_FILES = 64  # libraries are opened after that, one at a time


def serve(memory_bytes: int) -> None:
    """Answers calls that come by the socket, one after the other, until the other end is closed."""
    confine(memory_bytes)
    _send(REPLY.pack(MAGIC, 0, DONE, 0, 0, 0), b"")  # ready
    with open(SOCKET, "rb", _READ_AHEAD) as calls:
        while head := calls.read(CALL.size):
            _, number, size = CALL.unpack(head)
            _send(*answer(number, calls.read(size), calls))


def _send(head: bytes, payload: bytes) -> None:
    """Together: each piece would wake the server."""
    parts = [memoryview(head), memoryview(payload)]
    while any(parts):
        sent = os.writev(SOCKET, parts)
        taken = [min(sent, len(parts[0])), max(0, sent - len(parts[0]))]
        parts = [part[size:] for part, size in zip(parts, taken, strict=True)]


def confine(memory_bytes: int) -> None:
    """Bounds memory, files, descriptors and threads, and gives up privileges; Ctrl-C is not for it."""
    import resource
    import signal

    import mcjepa_server.decoding.images  # noqa: F401  the libraries, before the first file needs them
    from mcjepa_server.decoding.sandbox import give_up_privileges, hide_memory
    from mcjepa_server.observability.malloc import keep_freed_memory

    # should NumPy be needed: else a thread, and memory, for each core
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    for number in (signal.SIGINT, signal.SIGTERM):  # of Ctrl-C or systemd, to all: the server drains first
        signal.signal(number, signal.SIG_IGN)
    wanted = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_NPROC: 0,  # no thread, either; root is not bound by it
    }
    for name, value in wanted.items():
        bound = smallest(value, *resource.getrlimit(name))
        resource.setrlimit(name, (bound, bound))
    keep_freed_memory(_KEPT_BYTES)
    hide_memory()
    give_up_privileges()


def smallest(wanted: int, *inherited: int) -> int:
    """The limit wanted, or an inherited one that is smaller: a process may lower its limits alone."""
    import resource

    return min([wanted, *(limit for limit in inherited if limit != resource.RLIM_INFINITY)])
