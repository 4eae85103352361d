"""MODEL_CARD.md of a model repository, written from its parameters and from measured results only."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mcjepa.evaluation.embeddings import agreement_text
from mcjepa.evaluation.flow import QualityFigures, flow_table, qualities_of
from mcjepa.evaluation.knn import knn_table
from mcjepa.evaluation.limits import limits_table
from mcjepa.evaluation.linear import linear_table
from mcjepa.evaluation.propagate import propagation_table
from mcjepa.evaluation.segment import segmentation_table
from mcjepa.files import write_json, write_text
from mcjepa.parity import Parity, parity_table
from mcjepa.quality import QUALITIES, flow_name
from mcjepa.triton_config import Parameters, read_parameters, set_parameters

RESULTS = "results.json"  # beside the card: what was measured on these weights
LIMITS_PICTURE = "limits.jpg"

LIMITS = """\
- Motion beyond about 100 px between the frames, at the resolution of the computation, and small fast objects
  are often missed; fine structures are blurred; where a point is hidden in frame 2 the flow is a guess.
- Frames above the gateway's pixel budget are computed at a lower resolution.
- The embedding was learnt from small images: it tells rough kinds of scenes and textures apart, not fine
  classes.
- No evaluation of fairness, of medical or aerial images, or of night and weather has been made."""


def save_result(repository: Path, kind: str, result: Any, command: str) -> None:
    """Keep a measured result beside the card and write the card anew.

    kind: a key of TITLES. Results of other weights are dropped.
    """
    entry = {"command": command, "result": result, "models": _fingerprint(repository, kind)}
    _write(repository, kept_results(repository, _parameters(repository).weights_sha256) | {kind: entry})


def carry_over(old: Path, new: Path) -> None:
    """Take what was measured on the same weights from one model repository to the next one's card."""
    results = kept_results(old, _parameters(new).weights_sha256)
    if "limits" in results and (old / LIMITS_PICTURE).is_file():
        shutil.copyfile(old / LIMITS_PICTURE, new / LIMITS_PICTURE)
    _write(new, results)


def _write(repository: Path, results: Mapping[str, Any]) -> None:
    parameters = _parameters(repository)
    write_json(repository / RESULTS, {"weights_sha256": parameters.weights_sha256, "results": dict(results)})
    current = {kind: _fingerprint(repository, kind) for kind in results}
    write_text(repository / "MODEL_CARD.md", render(parameters, results, current))
    if "flow" in results:
        _tell_servers(repository, qualities_of(results["flow"]["result"]))


def _tell_servers(repository: Path, measured: Mapping[str, QualityFigures]) -> None:
    """Put error and cost of each quality into its `config.pbtxt`, from where `/v1/info` has them."""
    for quality in QUALITIES:
        path = repository / flow_name(quality) / "config.pbtxt"
        if quality.name in measured and path.is_file():
            figures = measured[quality.name]
            set_parameters(path, {"error_px": f"{figures.error:.3f}", "relative_cost": f"{figures.cost:.2f}"})


def _fingerprint(repository: Path, kind: str) -> str:
    """sha256 of the models that a result is of: the same weights may be exported to another graph."""
    digest = hashlib.sha256()
    for name in MEASURED[kind]:
        for file in sorted((repository / name / "1").glob("*.onnx")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def render(parameters: Parameters, results: Mapping[str, Any], models: Mapping[str, str]) -> str:
    """The card as Markdown; a figure that was not measured on these weights is not in it.

    models: of each kind, the fingerprint of what is in the repository; a result of another one says so.
    """
    sections = [
        f"# Model card: {parameters.model_version}",
        "One ConvNeXt pyramid trained jointly, without labels, for optical flow and image embeddings, in\n"
        "the manner of MC-JEPA (Bardes, Ponce and LeCun, 2023, arXiv 2307.12698), with known-motion\n"
        "self-supervision on top. The flow of the network is then refined on the frames (variational\n"
        "refinement, Brox et al., 2004), with nothing trained.",
        _contract_section(parameters),
        "## Training\n\n" + parameters.training_summary,
        f"## Data and licence\n\n{parameters.training_data}\n\n{parameters.license}",
        *(_result_section(kind, results[kind], models[kind]) for kind in TITLES if kind in results),
        *([f"## How the weights were chosen\n\n{parameters.evaluation}"] if parameters.evaluation else []),
        "## Limits\n\n" + LIMITS,
    ]
    return "\n\n".join(sections) + "\n"


def _contract_section(parameters: Parameters) -> str:
    rows = asdict(parameters)
    for text in ("training_summary", "training_data", "evaluation"):
        rows.pop(text)
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return "## Contract\n\n| parameter | value |\n|---|---|\n" + table


def _result_section(kind: str, entry: Mapping[str, Any], models: str) -> str:
    text = f"## {TITLES[kind]}\n\n{TABLES[kind](entry['result'])}"
    text += f"\n\nReproduce: `{entry['command']}`"
    if entry.get("models") != models:
        text += "\n\nMeasured on an earlier export of the same weights."
    return text


TITLES = {
    "flow": "Optical flow against ground truth",
    "limits": "Where the flow fails",
    "knn": "Embeddings: nearest neighbours",
    "linear": "Embeddings: linear probe",
    "segment": "Dense features: segmentation by a linear head",
    "propagate": "Label propagation through video",
    "agreement": "Agreement of the two embeddings",
    "parity": "Parity of torch and ONNX Runtime on real frames",
}
FLOW_MODEL, EMBED_MODEL = ("mcjepa_flow",), ("mcjepa_embed",)
FLOW_MODELS = tuple(map(flow_name, QUALITIES))
MEASURED = {  # the models that a result is of
    "flow": FLOW_MODELS,
    "limits": FLOW_MODEL,
    "knn": EMBED_MODEL,
    "linear": EMBED_MODEL,
    "segment": EMBED_MODEL,
    "propagate": FLOW_MODEL + EMBED_MODEL,
    "agreement": FLOW_MODEL + EMBED_MODEL,
    "parity": (*FLOW_MODELS, "mcjepa_flow_bidirectional", *EMBED_MODEL),
}
TABLES: dict[str, Callable[[Any], str]] = {
    "flow": flow_table,
    "limits": lambda rows: f"{limits_table(rows)}\n\n![The scenes of the table]({LIMITS_PICTURE})",
    "knn": knn_table,
    "linear": linear_table,
    "segment": segmentation_table,
    "propagate": propagation_table,
    "agreement": agreement_text,
    "parity": lambda rows: parity_table([Parity(**row) for row in rows]),
}


def _parameters(repository: Path) -> Parameters:
    return read_parameters(repository / "mcjepa_flow" / "config.pbtxt")


def kept_results(repository: Path, weights_sha256: str) -> dict[str, Any]:
    """What was measured in a model repository, if on these weights. Raises ValueError for a broken file."""
    path = repository / RESULTS
    if not path.is_file():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        results: dict[str, Any] = stored["results"] if stored["weights_sha256"] == weights_sha256 else {}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: {type(error).__name__}: {error}; remove it to measure anew") from error
    return results
