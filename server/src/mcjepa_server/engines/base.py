"""What the gateway asks of an engine. Engines live in ``mcjepa_server.engines``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mcjepa_server.types import FAST, FloatArray, Quality, Uint8Array

if TYPE_CHECKING:  # the processes that decode images want the array types alone
    from mcjepa_server.engines.contract import Contract


@dataclass(frozen=True)
class FlowOutput:
    """Answer to a batch of clips, as the model gave it: unchecked, embeddings not normalised."""

    flow: FloatArray  # (B, N-1, 2, H, W) px, (dx, dy), frame i -> i+1
    flow_backward: FloatArray | None  # (B, N-1, 2, H, W) px, frame i+1 -> i
    embedding: FloatArray | None  # (B, N, D)


@dataclass(frozen=True)
class EmbedOutput:
    """Answer to a batch of images, as the model gave it."""

    embedding: FloatArray  # (B, D)


class Engine(Protocol):
    """Runs the exported models. Inputs have already been padded and batched to what the contract asks.

    An engine raises :class:`mcjepa_server.errors.EngineError` when a call fails and
    :class:`mcjepa_server.errors.NotReady` when it cannot serve at all. Calls may be cancelled.
    """

    @property
    def name(self) -> str: ...

    @property
    def contract(self) -> Contract: ...

    @property
    def clip_frames(self) -> int:
        """Frames of a clip that one call is given at most, 2 or more: what the engine is fastest with.

        Half of them where both directions are asked for.
        """
        ...

    async def infer_flow(
        self, frames: Uint8Array, backward: bool, embed: bool = True, quality: Quality = FAST
    ) -> FlowOutput:
        """``frames`` is (B, N, H, W, 3) RGB, N >= 2, H and W multiples of ``contract.stride``.

        Without ``backward`` or ``embed`` that output is None. ``quality`` is one of ``contract.qualities``.
        """
        ...

    async def infer_embed(self, images: Uint8Array) -> EmbedOutput:
        """``images`` is (B, S, S, 3) RGB with S = ``contract.embed_image_size``."""
        ...

    async def ready(self) -> bool:
        """Whether inference can be tried at all; says nothing about its quality (the canary does)."""
        ...

    async def trim_memory(self) -> None:
        """Memory that no call uses at the moment goes back to the system."""
        ...

    async def close(self) -> None: ...


def both_ways(frames: Uint8Array) -> Uint8Array:
    """Clips (B, N, H, W, 3) and the same in reverse, (2B, N, H, W, 3): for models of one direction."""
    return np.concatenate([frames, frames[:, ::-1]])


def from_both_ways(output: FlowOutput) -> FlowOutput:
    """Return the answer to clips from the one to :func:`both_ways` of them."""
    forward, backward = np.split(output.flow, 2)
    embedding = None if output.embedding is None else np.split(output.embedding, 2)[0]
    return FlowOutput(forward, backward[:, ::-1], embedding)
