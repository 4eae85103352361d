"""A running Triton against the ONNX files of a model repository on the CPU. Needs no torch.

The input is the same picture shifted by a few pixels, made of smoothed noise, so that no data is needed where
engines are built.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tritonclient.grpc import InferenceServerClient, InferInput

from mcjepa.errors import McjepaError
from mcjepa.triton_serving import BUCKETS
from mcjepa.triton_variants import models_of, read_config

FLOW_LIMIT = 0.05  # px, of the mean difference of the vectors: what half precision may cost
EMBEDDING_LIMIT = 1e-3  # cosine distance
TIMEOUT_S = 120.0


class ServedParityError(McjepaError):
    """What Triton serves is not what was exported."""


@dataclass(frozen=True)
class Difference:
    """Of one model at one size. flow_px is the mean over the vectors, None where there is no flow."""

    model: str
    shape: tuple[int, ...]
    flow_px: float | None
    embedding_cosine: float

    @property
    def passed(self) -> bool:
        """False, too, where a number is not finite."""
        return (self.flow_px or 0.0) < FLOW_LIMIT and self.embedding_cosine < EMBEDDING_LIMIT


def check_served(url: str, repository: Path) -> list[Difference]:
    """Every model at every bucket. Raises ServedParityError, with all of them, if one is over the limits."""
    with InferenceServerClient(url) as client:
        found = [one for name in models_of(repository) for one in _check_model(client, repository / name)]
    if not all(one.passed for one in found):
        raise ServedParityError(
            f"limits: {FLOW_LIMIT} px in the mean, cosine {EMBEDDING_LIMIT}\n" + "\n".join(map(str, found))
        )
    return found


def _check_model(client: InferenceServerClient, folder: Path) -> list[Difference]:
    config = read_config(folder / "config.pbtxt")
    name = config.input[0].name
    session = ort.InferenceSession(str(folder / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
    outputs = [output.name for output in config.output]
    found = []
    for batch in sample_batches(name, list(config.input[0].dims)):
        expected = dict(zip(outputs, session.run(outputs, {name: batch}), strict=True))
        tensor = InferInput(name, list(batch.shape), "UINT8")
        tensor.set_data_from_numpy(batch)
        reply = client.infer(config.name, [tensor], client_timeout=TIMEOUT_S)
        served = {output: reply.as_numpy(output) for output in outputs}
        found.append(compare(config.name, batch.shape, expected, served))
    return found


def sample_batches(name: str, dims: list[int]) -> list[np.ndarray]:
    """(1, 2, H, W, 3) uint8 for each bucket, or one batch of images (2, S, S, 3)."""
    if name != "frames":
        return [_shifted_noise(*dims[:2])]
    return [_shifted_noise(h, w)[None] for h, w in BUCKETS]


def compare(
    model: str, shape: tuple[int, ...], expected: dict[str, np.ndarray], served: dict[str, np.ndarray]
) -> Difference:
    """The largest of the mean differences of the flows (..., 2, H, W), and of the cosine distances."""
    flows = [name for name in expected if name.startswith("flow")]
    gaps = [float(np.linalg.norm(expected[n] - served[n], axis=-3).mean()) for n in flows]
    a, b = (arrays["embedding"].astype(np.float64) for arrays in (expected, served))
    cosine = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return Difference(model, shape, float(np.max(gaps)) if gaps else None, float((1 - cosine).max()))


def _shifted_noise(height: int, width: int) -> np.ndarray:
    """(2, H, W, 3) uint8: noise in blocks of 8 px, and the same 3 px to the left and 2 px up."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    picture = coarse.repeat(8, axis=0).repeat(8, axis=1)
    return np.stack([picture[:height, :width], picture[2 : height + 2, 3 : width + 3]])
