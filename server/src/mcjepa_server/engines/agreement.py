"""Whether one engine computes what another computes, tried on a moving texture."""

from __future__ import annotations

import cv2
import numpy as np

from mcjepa_server.engine import Engine, Uint8Array
from mcjepa_server.errors import EngineError

MAX_MEAN_DIFFERENCE = 0.02  # px: far below what the models themselves are wrong by
MIN_COSINE = 0.9999
MOTION = (5, -3)  # px, (dx, dy)


async def check_agreement(engine: Engine, reference: Engine) -> None:
    """Raises EngineError if the flow or the embeddings of ``engine`` are not those of ``reference``."""
    frames = moving_texture(2 * engine.contract.stride, 3 * engine.contract.stride)
    found = await engine.infer_flow(frames, backward=False)
    expected = await reference.infer_flow(frames, backward=False)
    difference = float(np.linalg.norm(found.flow - expected.flow, axis=2).mean())
    if not difference <= MAX_MEAN_DIFFERENCE:  # NaN compares as false
        raise EngineError(
            f"its flow differs from that of {reference.name} by {difference:.3g} px in the mean, "
            f"the limit is {MAX_MEAN_DIFFERENCE} px"
        )
    dots = (found.embedding * expected.embedding).sum(-1)
    lengths = np.linalg.norm(found.embedding, axis=-1) * np.linalg.norm(expected.embedding, axis=-1)
    if not (dots >= MIN_COSINE * lengths).all():
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
