"""Pictures of results: what went in, the truth, the prediction and the error, side by side with captions.

All pictures are uint8 RGB (H, W, 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mcjepa.files import write_atomic

WIDTH = 420  # px of one panel
CAPTION = 22  # px


def write_panels(path: Path, panels: Sequence[tuple[str, np.ndarray]], columns: int = 3) -> None:
    """Write captioned pictures of one size, so many a row, as one in the format of the path's suffix."""
    cells = [_captioned(caption, picture) for caption, picture in panels]
    cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
    rows = [np.hstack(cells[i : i + columns]) for i in range(0, len(cells), columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, cv2.imencode(path.suffix, np.vstack(rows)[..., ::-1])[1].tobytes())


def flow_colours(flow: np.ndarray, limit: float) -> np.ndarray:
    """Flow (H, W, 2) px: the hue is its direction, the saturation its length, full at `limit` px."""
    length = np.linalg.norm(flow, axis=-1) / max(limit, 1e-6)
    hue = np.degrees(np.arctan2(flow[..., 1], flow[..., 0])) % 360
    hsv = np.dstack([hue, np.clip(length, 0, 1), np.ones_like(length)]).astype(np.float32)
    return (cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8)


def error_colours(error: np.ndarray, valid: np.ndarray, limit: float) -> np.ndarray:
    """Errors (H, W) from dark (0) to yellow (`limit` and more); grey where not `valid`."""
    scaled = np.clip(error / limit * 255, 0, 255).astype(np.uint8)
    coloured = cv2.applyColorMap(scaled, cv2.COLORMAP_INFERNO)[..., ::-1]
    return np.where(valid[..., None], coloured, np.uint8(128))


def mask_colours(img: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Class or object numbers (H, W) over a picture (H, W, 3); 0 stays clear, 255 is white."""
    numbers = np.arange(256, dtype=np.float32)
    hsv = np.dstack([(numbers * 137.5) % 360, np.full(256, 0.8), np.ones(256)]).astype(np.float32)
    palette = (cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0] * 255).astype(np.uint8)
    palette[255] = 255
    blended = cv2.addWeighted(img, 0.4, palette[mask], 0.6, 0)
    return np.where((mask > 0)[..., None], blended, img)


def _captioned(caption: str, picture: np.ndarray) -> np.ndarray:
    h, w = picture.shape[:2]
    how = cv2.INTER_AREA if w > WIDTH else cv2.INTER_NEAREST
    picture = cv2.resize(picture, (WIDTH, max(1, round(h * WIDTH / w))), interpolation=how)
    bar = np.zeros((CAPTION, WIDTH, 3), np.uint8)
    cv2.putText(bar, caption, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return np.vstack([bar, picture])
