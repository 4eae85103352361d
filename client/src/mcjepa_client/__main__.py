"""``python -m mcjepa_client``, and the command ``mcjepa-client``."""

import atexit
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

INTERRUPTED = 130


def main() -> int:
    """Run :func:`mcjepa_client.cli.main`. Ctrl-C ends it with one line, a second one at once."""
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else it is ignored
    if is_ours:
        signal.signal(signal.SIGINT, _leave)
    from mcjepa_client.cli import main  # slow

    if not is_ours:
        return main()
    signal.signal(signal.SIGINT, _interrupt)
    code = None
    # Python ends by the signal itself where a module was being imported, although the interrupt was caught.
    atexit.register(lambda: os._exit(INTERRUPTED) if code == INTERRUPTED else None)
    try:
        code = main()
        return code
    except KeyboardInterrupt:  # before or after its work
        _leave()
    finally:  # threads that wait for replies are still waited for
        signal.signal(signal.SIGINT, _leave_quietly if code == INTERRUPTED else _leave)


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGINT, _leave)
    raise KeyboardInterrupt


def _leave(*_: object) -> NoReturn:
    with suppress(OSError):
        os.write(2, b"mcjepa-client: interrupted\n")
    os._exit(INTERRUPTED)


def _leave_quietly(*_: object) -> NoReturn:
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
