"""MODEL_CARD.md of a model repository, written from its parameters and from measured results only."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mcjepa.evaluation.embeddings import agreement_text
from mcjepa.evaluation.flow import flow_table
from mcjepa.evaluation.knn import knn_table
from mcjepa.evaluation.limits import limits_table
from mcjepa.evaluation.linear import linear_table
from mcjepa.evaluation.propagate import propagation_table
from mcjepa.evaluation.segment import segmentation_table
from mcjepa.files import write_json, write_text
from mcjepa.parity import Parity, parity_table
from mcjepa.triton_config import Parameters, read_parameters

RESULTS = "results.json"  # beside the card: what was measured on these weights
LIMITS_PICTURE = "limits.jpg"

DATA = """\
Still images: tiny-ImageNet (100 images of each of 200 classes; research use), photographs from ImageNet and
BSDS (research use). Video: DAVIS 2017 train (mostly CC BY 4.0), and 55 short clips from the test data of
open-source projects (Apache-2.0, MIT, CC BY 4.0, and non-commercial ones among them). No labels were used.
Because of the non-commercial sources **these weights are for research use only**; the code is Apache-2.0."""

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
    sha = _parameters(repository).weights_sha256
    kept = _results(repository, sha) | {kind: {"command": command, "result": result}}
    write_json(repository / RESULTS, {"weights_sha256": sha, "results": kept})
    write_text(repository / "MODEL_CARD.md", render(_parameters(repository), kept))


def render(parameters: Parameters, results: Mapping[str, Any]) -> str:
    """The card as Markdown; a figure that was not measured on these weights is not in it."""
    sections = [
        f"# Model card: {parameters.model_version}",
        "One ConvNeXt pyramid trained jointly, without labels, for optical flow and image embeddings, in\n"
        "the manner of MC-JEPA (Bardes, Ponce and LeCun, 2023, arXiv 2307.12698), with known-motion\n"
        "self-supervision on top. The flow of the network is then refined on the frames (variational\n"
        "refinement, Brox et al., 2004), with nothing trained.",
        _contract_section(parameters),
        "## Training\n\n" + parameters.training_summary,
        "## Data and licence\n\n" + DATA,
        *(_result_section(kind, results[kind]) for kind in TITLES if kind in results),
        "## Limits\n\n" + LIMITS,
    ]
    return "\n\n".join(sections) + "\n"


def _contract_section(parameters: Parameters) -> str:
    rows = asdict(parameters)
    rows.pop("training_summary")
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return "## Contract\n\n| parameter | value |\n|---|---|\n" + table


def _result_section(kind: str, entry: Mapping[str, Any]) -> str:
    table = TABLES[kind](entry["result"])
    return f"## {TITLES[kind]}\n\n{table}\n\nReproduce: `{entry['command']}`"


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


def _results(repository: Path, weights_sha256: str) -> dict[str, Any]:
    path = repository / RESULTS
    if not path.is_file():
        return {}
    stored = json.loads(path.read_text())
    results: dict[str, Any] = stored["results"] if stored["weights_sha256"] == weights_sha256 else {}
    return results
