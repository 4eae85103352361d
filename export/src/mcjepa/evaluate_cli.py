"""The command `mcjepa evaluate`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcjepa.files import write_json

Handler = Callable[[argparse.Namespace], None]


def add_evaluate(commands: Any, repository: Path) -> None:
    """Add `evaluate` and its kinds; each measures the exported models in `repository`, or a checkpoint."""
    p = commands.add_parser("evaluate", help="measure flow and embeddings, beside baselines")
    kinds = p.add_subparsers(dest="kind", required=True, metavar="KIND")
    flow = _add(kinds, repository, "flow", _flow, "end-point errors beside zero flow and OpenCV DIS")
    flow.add_argument(
        "benchmark", type=Path, help="folder: manifest.json, Sintel, KITTI, FlyingChairs, Middlebury"
    )
    _add_sets(_add(kinds, repository, "knn", _knn, "kNN top-1 of the embeddings on labelled images"))
    _add_sets(_add(kinds, repository, "linear", _linear, "top-1 of a linear probe on labelled images"))
    agreement = _add(kinds, repository, "agreement", _agreement, "cosine of the two embeddings of a frame")
    agreement.add_argument("frames", type=Path, help="video, or folder of consecutive frames")


def _add(kinds: Any, repository: Path, name: str, run: Handler, help_text: str) -> argparse.ArgumentParser:
    kind: argparse.ArgumentParser = kinds.add_parser(name, help=help_text)
    where = kind.add_mutually_exclusive_group()
    where.add_argument("--model-repository", type=Path, default=repository, help="exported models (default)")
    where.add_argument("--checkpoint", type=Path, help="a checkpoint or run instead, by torch")
    kind.add_argument("--output", type=Path, metavar="FILE", help="write the result as JSON, too")
    kind.set_defaults(run_command=run)
    return kind


def _add_sets(kind: argparse.ArgumentParser) -> None:
    kind.add_argument(
        "--train", type=Path, nargs="+", required=True, help="folders or tars with class folders"
    )
    kind.add_argument("--test", type=Path, nargs="+", required=True, help="the same, to classify")


def _flow(args: argparse.Namespace) -> None:
    from mcjepa.evaluation.flow import evaluate_flow, flow_table

    rows = evaluate_flow(_models(args), args.benchmark)
    _keep(args, rows, flow_table(rows), args.benchmark.name)


def _knn(args: argparse.Namespace) -> None:
    from mcjepa.evaluation.knn import evaluate_knn, knn_table

    row = evaluate_knn(_models(args), args.train, args.test)
    _keep(args, row, knn_table(row), _sets(args))


def _linear(args: argparse.Namespace) -> None:
    from mcjepa.evaluation.linear import evaluate_linear, linear_table

    row = evaluate_linear(_models(args), args.train, args.test)
    _keep(args, row, linear_table(row), _sets(args))


def _agreement(args: argparse.Namespace) -> None:
    from mcjepa.evaluation.embeddings import AGREEMENT_FRAMES, agreement_text, evaluate_agreement
    from mcjepa.parity import read_frames

    row = evaluate_agreement(_models(args), read_frames(args.frames, AGREEMENT_FRAMES))
    _keep(args, row, agreement_text(row), args.frames.name)


def _sets(args: argparse.Namespace) -> str:
    train, test = (" ".join(p.name for p in paths) for paths in (args.train, args.test))
    return f"--train {train} --test {test}"


def _keep(args: argparse.Namespace, result: Any, table: str, data: str) -> None:
    """Print the table, write `--output`; a result of a model repository goes into its model card, too."""
    print(table)
    command = f"mcjepa evaluate {args.kind} {data}"
    if args.output is not None:
        write_json(args.output, {"command": command, "result": result})
    if args.checkpoint is None:
        from mcjepa.model_card import save_result

        save_result(args.model_repository, args.kind, result, command)


def _models(args: argparse.Namespace) -> Any:
    from mcjepa import checkpoint
    from mcjepa.predictors import OnnxModels, TorchModel

    if args.checkpoint is not None:
        return TorchModel(checkpoint.load(args.checkpoint).model)
    return OnnxModels(args.model_repository)
