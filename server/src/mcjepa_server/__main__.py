"""``python -m mcjepa_server``, and the command ``mcjepa-server``."""

import sys


def main() -> int:
    """As :func:`mcjepa_server.cli.main`, which the processes that decode images need not import."""
    from mcjepa_server.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
