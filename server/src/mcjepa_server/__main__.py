"""``python -m mcjepa_server``, and the command ``mcjepa-server``."""

import os
import resource
import sys
import threading

FAILED, INTERRUPTED = 1, 130
_THREADS = 8  # that any server needs beside its first
_OPEN_FILES = 64  # the same


def main() -> int:
    """Run :func:`mcjepa_server.cli.main` with standard streams that are open and room for its threads."""
    open_standard_streams()
    try:
        if (problem := no_room()) is not None:
            return _fail(problem)
        from mcjepa_server.cli import main  # slow, and it starts threads itself

        return main()
    except KeyboardInterrupt:
        sys.stderr.write("mcjepa-server: interrupted\n")
        return INTERRUPTED
    except (ImportError, MemoryError, OSError) as error:  # a package or a resource that is not to be had
        return _fail(f"{type(error).__name__}: {error}")


def _fail(message: str) -> int:
    sys.stderr.write(f"mcjepa-server: error: {message}\n")
    return FAILED


def no_room() -> str | None:
    """What the system does not let this process have. Libraries in C end it without a word there."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files != resource.RLIM_INFINITY and files < _OPEN_FILES:
        return f"this process may open {files} files, and needs {_OPEN_FILES}: raise the limit (ulimit -n)"
    if not can_start_threads(_THREADS):
        return (
            f"this user may not start {_THREADS} more threads: raise the limit of processes (ulimit -u, "
            "or the container's limit of pids) or of memory (ulimit -v)"
        )
    return None


def open_standard_streams() -> None:
    """Open descriptors 0 to 2 where they are closed: else the next files or sockets get their numbers."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it has the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def can_start_threads(count: int) -> bool:
    """Whether so many threads can run beside this one."""
    over = threading.Event()
    threads = [threading.Thread(target=over.wait, daemon=True) for _ in range(count)]
    try:
        for thread in threads:
            thread.start()
    except RuntimeError:
        return False
    finally:
        over.set()
    for thread in threads:
        thread.join()
    return True


if __name__ == "__main__":
    sys.exit(main())
