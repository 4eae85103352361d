"""Types and names that every part of the server uses."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Uint8Array = NDArray[np.uint8]
FloatArray = NDArray[np.float32]
Buffers = tuple[bytes | memoryview, ...]  # one after the other; memory of arrays, not copied

#: How much is computed for a flow. A model repository may lack all but the first.
Quality = Literal["fast", "balanced", "best"]
FAST: Quality = "fast"
BETTER: tuple[Quality, ...] = ("balanced", "best")
QUALITIES: tuple[Quality, ...] = (FAST, *BETTER)
