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
        "benchmarks",
        type=Path,
        nargs="+",
        metavar="benchmark",
        help="folder: manifest.json, Sintel, KITTI, FlyingChairs, Middlebury",
    )
    _add_pictures(flow)
    _add_sets(_add(kinds, repository, "knn", _knn, "kNN top-1 of the embeddings on labelled images"))
    _add_sets(_add(kinds, repository, "linear", _linear, "top-1 of a linear probe on labelled images"))
    _add_segment(_add(kinds, repository, "segment", _segment, "mIoU of a linear head on dense features"))
    propagate = _add(kinds, repository, "propagate", _propagate, "J&F of labels followed through videos")
    propagate.add_argument("davis", type=Path, help="folder of JPEGImages/480p/SEQ and Annotations/480p/SEQ")
    propagate.add_argument("--split", help="only the videos that ImageSets/2017/SPLIT.txt names, such as val")
    _add_pictures(propagate)
    limits = _add(kinds, repository, "limits", _limits, "flow in scenes that are hard for it, with a picture")
    limits.add_argument("picture", type=Path, help="video, or folder of pictures, whose first one is taken")
    agreement = _add(kinds, repository, "agreement", _agreement, "cosine of the two embeddings of a frame")
    agreement.add_argument("frames", type=Path, help="video, or folder of consecutive frames")


def add_compose(commands: Any) -> None:
    """Add `compose`, which makes videos for `evaluate propagate` where there is no DAVIS."""
    p = commands.add_parser("compose", help="compose videos with exact masks from photos, in DAVIS's layout")
    p.add_argument("photos", type=Path, nargs="+", help="folders or tars of photos")
    p.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    p.add_argument("--videos", type=int, default=20, help="default: %(default)s")
    p.set_defaults(run_command=_compose)


def _compose(args: argparse.Namespace) -> None:
    from mcjepa.data.composed_videos import write_composed

    if args.videos < 1:
        raise ValueError(f"--videos must be at least 1, got {args.videos}")
    write_composed(args.output, args.photos, args.videos)


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


def _add_pictures(kind: argparse.ArgumentParser) -> None:
    kind.add_argument("--pictures", type=Path, metavar="DIR", help="draw the best and the worst cases there")


def _add_segment(kind: argparse.ArgumentParser) -> None:
    for split in ("train", "test"):
        kind.add_argument(
            f"--{split}", type=Path, required=True, metavar="IMAGES", help="folder or tar of images"
        )
        kind.add_argument(
            f"--{split}-masks",
            type=Path,
            required=True,
            metavar="MASKS",
            help="folder of PNGs of class numbers, 255: not judged",
        )
    _add_pictures(kind)


def _flow(args: argparse.Namespace) -> None:
    from mcjepa.evaluation.flow import evaluate_flow, flow_table

    rows = evaluate_flow(_models(args), args.benchmarks, args.pictures)
    _keep(args, rows, flow_table(rows), " ".join(path.name for path in args.benchmarks))


def _knn(args: argparse.Namespace) -> None:
    from mcjepa.evaluation.knn import evaluate_knn, knn_table

    row = evaluate_knn(_models(args), args.train, args.test)
    _keep(args, row, knn_table(row), _sets(args))


def _linear(args: argparse.Namespace) -> None:
    from mcjepa.evaluation.linear import evaluate_linear, linear_table

    row = evaluate_linear(_models(args), args.train, args.test)
    _keep(args, row, linear_table(row), _sets(args))


def _segment(args: argparse.Namespace) -> None:
    from mcjepa.evaluation.segment import evaluate_segmentation, segmentation_table

    train, test = (args.train, args.train_masks), (args.test, args.test_masks)
    row = evaluate_segmentation(_models(args), train, test, args.pictures)
    names = " ".join(
        f"--{k.replace('_', '-')} {getattr(args, k).name}"
        for k in ("train", "train_masks", "test", "test_masks")
    )
    _keep(args, row, segmentation_table(row), names)


def _propagate(args: argparse.Namespace) -> None:
    from mcjepa.evaluation.propagate import evaluate_propagation, propagation_table

    rows = evaluate_propagation(_models(args), args.davis, args.split, args.pictures)
    split = "" if args.split is None else f" --split {args.split}"
    _keep(args, rows, propagation_table(rows), args.davis.name + split)


def _limits(args: argparse.Namespace) -> None:
    from mcjepa.evaluation.limits import evaluate_limits, limits_table
    from mcjepa.model_card import LIMITS_PICTURE
    from mcjepa.parity import read_frames

    drawing = args.model_repository / LIMITS_PICTURE if args.checkpoint is None else None
    rows = evaluate_limits(_models(args), read_frames(args.picture, 1)[0], drawing)
    _keep(args, rows, limits_table(rows), args.picture.name)


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
