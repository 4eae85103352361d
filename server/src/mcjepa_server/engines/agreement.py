"""Whether one engine computes what another computes, tried on a moving texture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mcjepa_server.engine import Engine, Uint8Array
from mcjepa_server.errors import EngineError

MOTION = (5, -3)  # px, (dx, dy)


@dataclass(frozen=True)
class Tolerance:
    """What may differ: the flow in the mean, px, and the cosine of embeddings, 1 at most."""

    flow_px: float
    cosine: float


EXACT = Tolerance(flow_px=0.02, cosine=0.9999)  # far below what the models themselves are wrong by
BFLOAT16 = Tolerance(flow_px=0.2, cosine=0.995)  # a few times what its rounding was found to make


async def check_agreement(engine: Engine, reference: Engine, tolerance: Tolerance = EXACT) -> None:
    """Raises EngineError if the flow or the embeddings of ``engine`` are not those of ``reference``."""
    frames = moving_texture(2 * engine.contract.stride, 3 * engine.contract.stride)
    found = await engine.infer_flow(frames, backward=False)
    expected = await reference.infer_flow(frames, backward=False)
    difference = float(np.linalg.norm(found.flow - expected.flow, axis=2).mean())
    if not difference <= tolerance.flow_px:  # NaN compares as false
        raise EngineError(
            f"its flow differs from that of {reference.name} by {difference:.3g} px in the mean, "
            f"the limit is {tolerance.flow_px} px"
        )
    dots = (found.embedding * expected.embedding).sum(-1)
    lengths = np.linalg.norm(found.embedding, axis=-1) * np.linalg.norm(expected.embedding, axis=-1)
    if not (dots >= tolerance.cosine * lengths).all():
        raise EngineError(f"its embeddings differ from those of {reference.name}")


def moving_texture(height: int, width: int) -> Uint8Array:
    """One pair (1, 2, H, W, 3) of a blurred noise that moves by MOTION."""
    dx, dy = MOTION
    noise = np.random.default_rng(0).integers(0, 256, (height + 16, width + 16, 3), np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.0), None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    first = texture[8 : 8 + height, 8 : 8 + width]
    second = texture[8 - dy : 8 - dy + height, 8 - dx : 8 - dx + width]
    pair: Uint8Array = np.stack([first, second])[None].astype(np.uint8)
    return pair
