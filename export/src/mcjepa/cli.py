"""The command `mcjepa`."""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="mcjepa")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("train")
    run.add_argument("--preset", default="nano")
    run.add_argument("--set", action="append", default=[])
    run.add_argument("--minutes", type=float, default=None)
    run.add_argument("--run", type=Path, required=True)
    run.add_argument("--init", type=Path)
    args = parser.parse_args()
    from mcjepa.config import load_config
    from mcjepa.train import train

    extra = [] if args.minutes is None else [f"train.minutes={args.minutes}"]
    train(load_config(args.preset, [*args.set, *extra]), args.run, args.init)


if __name__ == "__main__":
    main()
