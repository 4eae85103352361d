"""Checkpoints: a folder of weights, the optimiser's state and a JSON sidecar with the whole configuration.

    runs/NAME/step-00001200/model.safetensors    weights, expander included
                            training.pt          optimiser state
                            checkpoint.json      config, step, minutes spent, sha256 of the weights

A folder appears under its name only when it is complete and on the disk; of a step saved again, the earlier
folder stays until then (for a moment as step-00001200.old, which counts too). Loading fails loudly: a missing
file, another checksum, an unknown setting or one out of its limits, or a missing tensor is a CheckpointError,
never a fresh start in silence.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mcjepa.config import Config, ConfigError, DataConfig, from_dict, to_dict, validate
from mcjepa.errors import McjepaError
from mcjepa.model import MCJEPA

WEIGHTS, TRAINING, SIDECAR = "model.safetensors", "training.pt", "checkpoint.json"


class CheckpointError(McjepaError):
    """A checkpoint is missing, incomplete, altered or of another model."""


@dataclass(frozen=True)
class Card:
    """What a model card says of the weights: the member "card" of the sidecar, each of these optional."""

    name: str  # default: the run's
    version: str  # default: the number of steps
    data: str  # what they were trained on; default: the names of the data sets
    license: str
    evaluation: str  # how the weights were chosen, and what others measured; default: nothing


@dataclass(frozen=True)
class Checkpoint:
    model: MCJEPA
    config: Config
    step: int
    minutes: float  # training time so far
    weights_sha256: str
    path: Path
    card: Card


def save(
    folder: Path, model: MCJEPA, config: Config, step: int, minutes: float, optimizer_state: dict[str, Any]
) -> Path:
    """Write `folder`/step-NNNNNNNN and return it; older checkpoints but the last one are removed.

    The sidecar names the data sets, not where they lay.
    """
    final = folder / f"step-{step:08d}"
    part = folder / f".{final.name}.part"
    for left_over in folder.glob(".step-*.part"):  # by a run that was killed
        shutil.rmtree(left_over)
    part.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, part / WEIGHTS)
    torch.save(optimizer_state, part / TRAINING)
    sidecar = {
        "step": step,
        "minutes": minutes,
        "weights_sha256": sha256(part / WEIGHTS),
        "config": to_dict(replace(config, data=data_by_name(config.data))),
    }
    (part / SIDECAR).write_text(json.dumps(sidecar, indent=1))
    _flush([*part.iterdir(), part])
    _put_in_place(part, final)
    _flush([folder])
    for old in steps(folder)[:-2]:
        _remove(old)
    return final


def steps(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = (p for p in folder.glob("step-*") if (p / SIDECAR).is_file())
    return sorted(found, key=lambda p: (p.stem, p.suffix != ".old"))


def resolve(path: Path) -> Path:
    """A checkpoint folder from itself or from the run that holds it (its newest)."""
    if (path / SIDECAR).is_file():
        return path
    found = steps(path)
    if not found:
        raise CheckpointError(f"no checkpoint in {path}: neither {SIDECAR} nor step-*/{SIDECAR}")
    return found[-1]


def load(path: Path) -> Checkpoint:
    """Rebuild the model of a checkpoint folder (or a run's newest) from its own configuration, on the CPU."""
    path = resolve(path)
    try:
        sidecar = json.loads((path / SIDECAR).read_text())
        config = from_dict(Config, sidecar["config"])
        validate(config)
        model = MCJEPA(config.model)
        if sha256(path / WEIGHTS) != sidecar["weights_sha256"]:
            raise CheckpointError(f"{path / WEIGHTS}: sha256 differs from the one in {SIDECAR}")
        model.load_state_dict(load_file(path / WEIGHTS))
        step, minutes, digest = (sidecar[key] for key in ("step", "minutes", "weights_sha256"))
        return Checkpoint(model, config, step, minutes, digest, path, _card(sidecar, config, path))
    except (OSError, KeyError, TypeError, ValueError, ConfigError, RuntimeError) as error:
        raise error if isinstance(error, CheckpointError) else CheckpointError(f"{path}: {error}") from error


def load_training_state(path: Path) -> dict[str, Any]:
    """The optimiser's state that `save` was given. Raises CheckpointError where it cannot be read."""
    try:
        state: dict[str, Any] = torch.load(path / TRAINING, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
        raise CheckpointError(f"{path / TRAINING}: {error}") from error
    return state


def _card(sidecar: dict[str, Any], config: Config, path: Path) -> Card:
    """Raises CheckpointError for a member that is unknown or no text."""
    stated = sidecar.get("card", {})
    known = {field.name for field in fields(Card)}
    if not isinstance(stated, dict) or not all(k in known and isinstance(v, str) for k, v in stated.items()):
        raise CheckpointError(
            f"{path / SIDECAR}: card may hold {', '.join(sorted(known))}, each a text; got {stated!r}"
        )
    run = path.resolve()
    return Card(
        **{
            "name": (run.parent if run.name.startswith("step-") else run).name,
            "version": str(sidecar["step"]),
            "data": f"The checkpoint states names only: {data_names(config) or 'none'}.",
            "license": "Not stated by the checkpoint: what the data it was trained on allow.",
            "evaluation": "",
        }
        | stated
    )


def data_names(config: Config) -> str:
    """The data sets of a configuration by name, in its order, with commas between them."""
    data = data_by_name(config.data)
    return ", ".join((*data.photos, *data.videos, *data.images))


def data_by_name(data: DataConfig) -> DataConfig:
    """The data sets by their names alone."""

    def last_parts(paths: Iterable[str]) -> tuple[str, ...]:
        return tuple(Path(path).name for path in paths)

    return replace(
        data,
        photos=last_parts(data.photos),
        videos=last_parts(data.videos),
        images=last_parts(data.images),
        video_cache=Path(data.video_cache).name,
    )


def _flush(paths: Iterable[Path]) -> None:
    """Have files and folders written to the disk: else a rename may get there before what it renames."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _put_in_place(part: Path, final: Path) -> None:
    """Rename `part` to `final`; a checkpoint already there gives way only once the new one is in place."""
    if not final.exists():
        os.replace(part, final)
        return
    old = final.with_name(f"{final.name}.old")
    _remove(old)
    os.replace(final, old)
    os.replace(part, final)
    _remove(old)


def _remove(folder: Path) -> None:
    """Remove a checkpoint, the sidecar first: without it, what is left is no checkpoint."""
    (folder / SIDECAR).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
