"""Flow and embeddings of RGB arrays on top of an engine: size planning, clips, checks, normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial

import numpy as np
from anyio.to_thread import run_sync
from numpy.typing import NDArray

from mcjepa_server.config import Settings
from mcjepa_server.engines.base import Engine, FlowOutput
from mcjepa_server.engines.contract import EMBED, flow_model
from mcjepa_server.errors import ContractError, EngineError, InvalidInput
from mcjepa_server.imaging.geometry import Geometry, Padding, Plan, plan_geometry, split_clip
from mcjepa_server.imaging.occlusion import occlusion_mask
from mcjepa_server.imaging.resize import unpack_flow
from mcjepa_server.scheduling.admission import Work
from mcjepa_server.types import FAST, FloatArray, Quality, Uint8Array

#: Wraps one call of the engine; the gateway's takes a slot, measures, and counts failures.
Slot = Callable[[Work], AbstractAsyncContextManager[None]]
#: px; no motion in an image is longer, and float32 stays exact enough and far from its end.
MAX_FLOW = 1e6


@dataclass(frozen=True)
class FlowOptions:
    """What a request asks of the flow of N frames."""

    backward: bool = False
    occlusion: bool = False
    embed: bool = False
    quality: Quality = FAST

    @property
    def both(self) -> bool:
        """Whether flow is needed in both directions."""
        return self.backward or self.occlusion


@dataclass(frozen=True)
class FlowResult:
    """Flow of N frames at the caller's size."""

    flows: FloatArray  # (N-1, H, W, 2) px, (dx, dy), frame i -> i+1
    flows_backward: FloatArray | None  # (N-1, H, W, 2) px, frame i+1 -> i
    occlusion: NDArray[np.bool_] | None  # (N-1, H, W), True where frame i is not seen in frame i+1
    embeddings: FloatArray | None  # (N, D), unit length


class Pipeline:
    """Runs requests on one engine. ``slot`` is entered around every engine call with the work it is."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        stride, smallest = engine.contract.stride, engine.contract.smallest_side
        self._padding = Padding(stride, settings.shape_buckets, settings.max_bucket_overhead, smallest)
        for w, h in settings.shape_buckets:
            if w % stride or h % stride:
                raise ContractError(f"shape_buckets: {w}x{h} is not a multiple of the stride {stride}")
            if min(w, h) < self._padding.least:
                raise ContractError(
                    f"shape_buckets: {w}x{h} is too small; this model needs {self._padding.least} px a side"
                )
        if settings.max_compute_pixels < (2 * smallest) ** 2:
            raise ContractError(
                f"max_compute_pixels is {settings.max_compute_pixels}; "
                f"this model needs at least {(2 * smallest) ** 2}"
            )

    def quality(self, wanted: Quality | None) -> Quality:
        """Return the quality of a request, None being the server's. Raises InvalidInput if there is none."""
        quality = wanted or self._settings.quality
        served = self._engine.contract.qualities
        if quality not in served:
            raise InvalidInput(
                f"quality is {quality!r}; this server's models have {', '.join(served)}", param="quality"
            )
        return quality

    def planner(self, max_side: int | None) -> Plan:
        """Chooses sizes for frames of any size; ``max_side`` of the request, or else of the settings.

        It can be pickled, so that another process can plan.
        """
        return partial(
            plan_geometry,
            padding=self._padding,
            max_side=max_side or self._settings.max_side,
            max_pixels=self._settings.max_compute_pixels,
        )

    def flow_work(self, frames: int, geometry: Geometry, options: FlowOptions) -> Work:
        """What the flow of so many frames costs."""
        model = flow_model(options.quality) + "_bidirectional" * options.both
        return Work(model, frames, frames * geometry.padded_width * geometry.padded_height)

    def flow_turn(self, frames: int, geometry: Geometry, options: FlowOptions) -> Work:
        """What the longest part of it costs, after which others have their turn."""
        return self.flow_work(min(frames, self._longest(geometry)), geometry, options)

    def embed_work(self, images: int) -> Work:
        return Work(EMBED, images, images * self._engine.contract.embed_image_size**2)

    async def flow(
        self, clip: Uint8Array, geometry: Geometry, options: FlowOptions, slot: Slot
    ) -> FlowResult:
        """Flow between neighbours of the N >= 2 frames of a clip (1, N, padded H, padded W, 3)."""
        fields = _Fields(clip.shape[1] - 1, geometry, options)
        for part in split_clip(clip.shape[1], self._longest(geometry)):
            frames = clip[:, part]
            async with slot(self.flow_work(frames.shape[1], geometry, options)):
                outputs = await self._infer(frames, options)
            await run_sync(fields.add, outputs)
        return fields.result()

    def _longest(self, geometry: Geometry) -> int:
        """Return how many frames have the engine in one turn."""
        return max(2, self._settings.max_clip_pixels // (geometry.padded_width * geometry.padded_height))

    async def _infer(self, clip: Uint8Array, options: FlowOptions) -> list[FlowOutput]:
        """In pieces, one after the other in the same slot.

        Two clips in turn would end at the same time, and leave the engine idle until the next two have come.
        With both directions a piece has as many flows in half the frames.
        """
        parts = []
        longest = self._engine.clip_frames
        if options.both:
            longest = max(2, (longest + 1) // 2)
        for piece in split_clip(clip.shape[1], longest):
            frames = clip[:, piece]
            output = await self._engine.infer_flow(frames, options.both, options.embed, options.quality)
            size = self._engine.contract.embedding_size
            await run_sync(check_flow, output, frames.shape, size, options)  # a clip's takes 10 ms
            parts.append(output)
        return parts

    async def embed(self, images: Uint8Array, slot: Slot) -> FloatArray:
        """Embeddings (N, D) of unit length of squares (N, S, S, 3), S being the contract's."""
        size = self._engine.contract.max_batch_size
        parts = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            async with slot(self.embed_work(len(batch))):
                output = await self._engine.infer_embed(batch)
                check_shape("embedding", output.embedding, (len(batch), self._engine.contract.embedding_size))
                parts.append(normalise(output.embedding))
        return _join(parts)


def check_flow(output: FlowOutput, clip: tuple[int, ...], embedding_size: int, options: FlowOptions) -> None:
    """Raises EngineError unless every output has its shape and can be sent. ``clip`` is (B, N, H, W, 3)."""
    b, n, h, w, _ = clip
    check_output("flow", output.flow, (b, n - 1, 2, h, w))
    if options.embed:
        check_output("embedding", output.embedding, (b, n, embedding_size))
    if options.both:
        check_output("flow_backward", output.flow_backward, (b, n - 1, 2, h, w))


def check_shape(name: str, array: FloatArray | None, shape: tuple[int, ...]) -> FloatArray:
    """The array. Raises EngineError if there is none, or of another shape or type."""
    if array is None or array.shape != shape or array.dtype != np.float32:
        found = "nothing" if array is None else f"{array.dtype} {array.shape}"
        raise EngineError(f"the engine answered {name} with {found}, expected float32 {shape}")
    return array


def check_output(name: str, answered: FloatArray | None, shape: tuple[int, ...]) -> None:
    """Raises EngineError unless it is there in this shape, and its numbers can be sent."""
    array = check_shape(name, answered, shape)
    if not (array.min() >= -MAX_FLOW and array.max() <= MAX_FLOW):  # NaN compares as false
        raise EngineError(f"the engine answered {name} with numbers that are not finite or beyond any use")


def normalise(embeddings: FloatArray) -> FloatArray:
    """Rows (N, D) to unit length. Raises EngineError for a row without a direction."""
    lengths = np.sqrt(np.einsum("nd,nd->n", embeddings, embeddings))[:, None]
    if not (lengths.min() > 0 and lengths.max() < np.inf):  # NaN compares as false
        raise EngineError(
            f"the engine answered embeddings of lengths {lengths.min():g} to {lengths.max():g}; "
            "a length must be finite and over 0"
        )
    unit: FloatArray = embeddings / lengths
    return unit


class _Fields:
    """Flow at the caller's size, filled as the engine gives it, so that nothing is there twice."""

    def __init__(self, pairs: int, geometry: Geometry, options: FlowOptions) -> None:
        shape = (pairs, geometry.height, geometry.width)
        self._geometry = geometry
        self._flows = np.empty((*shape, 2), np.float32)
        self._backward = np.empty((*shape, 2), np.float32) if options.backward else None
        self._occlusion = np.empty(shape, np.bool_) if options.occlusion else None
        self._embeddings: list[FloatArray] = []
        self._filled = 0

    def add(self, outputs: Sequence[FlowOutput]) -> None:
        """Scale the next flows back, and find what is occluded."""
        for output in outputs:
            if output.embedding is not None:
                self._embeddings.append(output.embedding[0])
            for index in range(output.flow.shape[1]):
                self._add_pair(output, index)

    def _add_pair(self, output: FlowOutput, index: int) -> None:
        raw, place = slice(index, index + 1), slice(self._filled, self._filled + 1)
        flow = unpack_flow(output.flow[0, raw], self._geometry, self._flows[place])
        if output.flow_backward is not None and (self._backward is not None or self._occlusion is not None):
            target = None if self._backward is None else self._backward[place]
            back = unpack_flow(output.flow_backward[0, raw], self._geometry, target)
            if self._occlusion is not None:
                self._occlusion[self._filled] = occlusion_mask(flow[0], back[0])
        self._filled += 1

    def result(self) -> FlowResult:
        return FlowResult(self._flows, self._backward, self._occlusion, _embeddings(self._embeddings))


def _embeddings(parts: Sequence[FloatArray]) -> FloatArray | None:
    """Of clips that overlap by one frame, whose embedding is taken once."""
    return normalise(np.concatenate([parts[0], *(part[1:] for part in parts[1:])])) if parts else None


def _join(parts: Sequence[FloatArray]) -> FloatArray:
    """Along the first axis; the only one as it is."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
