"""`mcjepa export`: a checkpoint becomes a model repository, or nothing at all.

Everything is written to a folder beside the target, checked for parity there, and only then put in its place.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mcjepa import checkpoint, model_card
from mcjepa.config import Config
from mcjepa.files import write_atomic
from mcjepa.model import MCJEPA
from mcjepa.model.folding import folded
from mcjepa.onnx_export import export_part, graphs, parts
from mcjepa.onnx_whole import whole_embed, whole_flow
from mcjepa.parity import ParityError, check_parity, parity_rows
from mcjepa.quality import QUALITIES, details_name, flow_name, match_name
from mcjepa.triton_config import model_config, parameters, write_config


def export(
    source: Path, repository: Path, model_version: str | None, frames: Sequence[np.ndarray], command: str
) -> None:
    """Write `repository` from the checkpoint `source`.

    model_version: None is the name and the version that the checkpoint states. frames: real frames for the
    parity check. command: how to repeat it, for the model card. What was measured on these weights stays in
    the card. Raises CheckpointError, or ParityError where ONNX Runtime and torch differ; `repository` is then
    untouched.
    """
    saved = checkpoint.load(source)
    card = saved.card
    version = model_version or f"{card.name}-{card.version}"
    params = parameters(saved.config, version, saved.weights_sha256, training_summary(saved), card)
    part = repository.with_name(f".{repository.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        model = folded(saved.model)
        _write_graphs(model, part)
        for graph in graphs(model):
            write_config(part / graph.name / "config.pbtxt", model_config(graph, saved.config, params))
        reports = check_parity(saved.model, part, frames)
        model_card.carry_over(repository, part)
        model_card.save_result(part, "parity", parity_rows(reports), command)
        _replace(part, repository)
    except ParityError as error:
        raise ParityError(
            f"{error}\nNothing was written: {repository} is as it was. Try other real frames (--frames); if "
            "it stays, export with other versions of torch and ONNX Runtime, or report it with this table."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_graphs(model: MCJEPA, repository: Path) -> None:
    """torch exports the parts, of which the whole models are made."""
    found = {part.name: export_part(part) for part in parts(model)}
    frame, embed, match = found["frame"], found["embed"], found["match"]
    files = {f"mcjepa_flow/1/{name}.onnx": part for name, part in found.items() if name != "embed"}
    files |= {
        "mcjepa_flow_bidirectional/1/model.onnx": whole_flow(frame, match, embed, bidirectional=True),
        "mcjepa_embed/1/embed.onnx": embed,
        "mcjepa_embed/1/model.onnx": whole_embed(embed),
    }
    for quality in QUALITIES:
        details = found[details_name(quality)] if quality.detail_passes else None
        whole = whole_flow(frame, found[match_name(quality)], embed, details)
        files[f"{flow_name(quality)}/1/model.onnx"] = whole
    for name, graph in files.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(repository / name, graph.SerializeToString())


def training_summary(saved: checkpoint.Checkpoint) -> str:
    """One paragraph on how the weights came about, from the checkpoint's own configuration."""
    config, loss = saved.config, saved.config.loss
    largest = max(stage.max_motion for stage in config.train.stages)
    return (
        f"{saved.step} steps in {saved.minutes:.0f} minutes of training, all parts together; "
        f"docs/experiments/ has their course.\n"
        f"Last part: known-motion pairs up to {largest:g} px, {_videos(config)} video pairs; weights of flow "
        f"and content {loss.flow:g} and {loss.content:g}, {_balance(config)}.\n"
        f"Data: {checkpoint.data_names(config)}."
    )


def _balance(config: Config) -> str:
    how = "normalised on the encoder" if config.train.balance == "normalise" else "clipped"
    return f"each gradient {how} on its own"


def _videos(config: Config) -> str:
    return "and" if any(stage.video_batch for stage in config.train.stages) else "no"


def _replace(part: Path, repository: Path) -> None:
    """Put the finished folder in place; the old one is moved aside first, so that none is ever half new."""
    old = repository.with_name(f".{repository.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if repository.exists():
        os.replace(repository, old)
    os.replace(part, repository)
    shutil.rmtree(old, ignore_errors=True)
