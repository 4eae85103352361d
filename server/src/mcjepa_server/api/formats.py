"""The formats that flow is replied in, and which of them a request gets (RFC 9110, 12.5.1).

A new format is one subclass of :class:`ResponseFormat` here: it registers itself, and the endpoints, the
OpenAPI document and ``/v1/info`` have it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mcjepa_server.api import flow_encoding
from mcjepa_server.api.flow_encoding import FlowType
from mcjepa_server.api.schemas import AnalyzeSummary, FlowSummary, Meta, PairSummary, VectorStats
from mcjepa_server.errors import NotAcceptable
from mcjepa_server.scheduling.pipeline import FlowResult
from mcjepa_server.types import Buffers, FloatArray

#: A weight: 0 to 1, with three digits at most (RFC 9110, 12.4.2).
_WEIGHT = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")

#: Every format, in the order in which they are offered.
FLOW: list[ResponseFormat] = []


@dataclass(frozen=True)
class EncodeOptions:
    """What a request asks of the reply beside its format."""

    dtype: FlowType = "float32"
    max_flow: float | None = None  # px drawn at full saturation


class ResponseFormat(ABC):
    """A format that flow is replied in."""

    name: ClassVar[str]  # of ``?format=``
    media_type: ClassVar[str]
    schema: ClassVar[str | None] = None  # of JSON: the model of a flow reply
    aliases: ClassVar[tuple[str, ...]] = ()  # what else in ``Accept`` stands for it
    by_accept: ClassVar[bool] = True
    extension: ClassVar[str | None] = None  # of a file
    multi_field: ClassVar[bool] = False  # holds both directions, occlusion, and clips
    supports_float16: ClassVar[bool] = False
    working_bytes: ClassVar[int] = 0  # a pixel of one flow, beside it, while a reply is made

    def __init_subclass__(cls) -> None:
        FLOW.append(cls())

    @abstractmethod
    def encode_flow(
        self, result: FlowResult, options: EncodeOptions, meta: Meta
    ) -> tuple[Buffers, dict[str, str]]:
        """Return the body and the headers of its own for the flow of one pair."""

    def encode_clip(self, result: FlowResult, options: EncodeOptions, meta: Meta) -> Buffers:
        """Return the body for the flows and the embeddings of N frames; of formats with several fields."""
        raise NotImplementedError(self.name)


class Flo(ResponseFormat):
    """Middlebury .flo."""

    name = "flo"
    media_type = "application/x-flo"
    aliases = ("application/octet-stream",)
    extension = "flo"

    def encode_flow(
        self, result: FlowResult, options: EncodeOptions, meta: Meta
    ) -> tuple[Buffers, dict[str, str]]:
        return flow_encoding.encode_flo(result.flows[0]), {}


class Kitti(ResponseFormat):
    """KITTI's 16-bit PNG: a plain PNG by its type, so ``Accept`` cannot tell it from the colour picture."""

    name = "kitti"
    media_type = "image/png"
    by_accept = False
    extension = "png"
    working_bytes = 40

    def encode_flow(
        self, result: FlowResult, options: EncodeOptions, meta: Meta
    ) -> tuple[Buffers, dict[str, str]]:
        body, clipped = flow_encoding.encode_kitti(result.flows[0])
        return (body,), {"X-Flow-Clipped-Pixels": str(clipped)}


class Npy(ResponseFormat):
    """NumPy's array."""

    name = "npy"
    media_type = "application/x-npy"
    extension = "npy"
    supports_float16 = True

    def encode_flow(
        self, result: FlowResult, options: EncodeOptions, meta: Meta
    ) -> tuple[Buffers, dict[str, str]]:
        return flow_encoding.encode_npy(flow_encoding.flow_as(result.flows[0], options.dtype)), {}


class Npz(ResponseFormat):
    """NumPy's archive of arrays, with ``meta`` as JSON text, which NumPy reads without pickle."""

    name = "npz"
    media_type = "application/x-npz"
    extension = "npz"
    multi_field = True
    supports_float16 = True

    def encode_flow(
        self, result: FlowResult, options: EncodeOptions, meta: Meta
    ) -> tuple[Buffers, dict[str, str]]:
        arrays = self._arrays(result, options)
        first = {name: None if array is None else array[0] for name, array in arrays.items()}
        renamed = {"flow": first.pop("flows"), "flow_backward": first.pop("flows_backward")}
        return self._archive(meta, renamed | first), {}

    def encode_clip(self, result: FlowResult, options: EncodeOptions, meta: Meta) -> Buffers:
        return self._archive(meta, {**self._arrays(result, options), "embeddings": result.embeddings})

    def _arrays(self, result: FlowResult, options: EncodeOptions) -> dict[str, NDArray[Any] | None]:
        backward = result.flows_backward
        return {
            "flows": flow_encoding.flow_as(result.flows, options.dtype),
            "flows_backward": None if backward is None else flow_encoding.flow_as(backward, options.dtype),
            "occlusion": result.occlusion,
        }

    def _archive(self, meta: Meta, arrays: dict[str, NDArray[Any] | None]) -> Buffers:
        present = {name: array for name, array in arrays.items() if array is not None}
        return flow_encoding.encode_npz({**present, "meta": np.array(meta.model_dump_json())})


class Png(ResponseFormat):
    """A picture in the colours of Baker et al., 2007."""

    name = "png"
    media_type = "image/png"
    extension = "png"
    working_bytes = 16

    def encode_flow(
        self, result: FlowResult, options: EncodeOptions, meta: Meta
    ) -> tuple[Buffers, dict[str, str]]:
        body, scale = flow_encoding.encode_png(result.flows[0], options.max_flow)
        return (body,), {"X-Flow-Max": f"{scale:.6g}"}


class Json(ResponseFormat):
    """A summary in numbers, without the field."""

    name = "json"
    media_type = "application/json"
    schema = "FlowSummary"
    multi_field = True
    working_bytes = 16

    def encode_flow(
        self, result: FlowResult, options: EncodeOptions, meta: Meta
    ) -> tuple[Buffers, dict[str, str]]:
        summary = FlowSummary(meta=meta, **pair_summary(result, 0).model_dump())
        return (summary.model_dump_json().encode(),), {}

    def encode_clip(self, result: FlowResult, options: EncodeOptions, meta: Meta) -> Buffers:
        assert result.embeddings is not None, "an analysis asks for them"
        pairs = [pair_summary(result, index) for index in range(len(result.flows))]
        summary = AnalyzeSummary(meta=meta, pairs=pairs, embeddings=result.embeddings.tolist())
        return (summary.model_dump_json().encode(),)


#: Formats of replies with several fields.
ANALYZE = [offer for offer in FLOW if offer.multi_field]


def pair_summary(result: FlowResult, index: int) -> PairSummary:
    return PairSummary(
        flow=vector_stats(result.flows[index]),
        flow_backward=None if result.flows_backward is None else vector_stats(result.flows_backward[index]),
        occluded_fraction=None if result.occlusion is None else float(result.occlusion[index].mean()),
    )


def vector_stats(flow: FloatArray) -> VectorStats:
    magnitude = np.hypot(flow[..., 0], flow[..., 1])
    dx, dy = flow.mean(axis=(0, 1), dtype=np.float64)
    return VectorStats(
        mean=(float(dx), float(dy)),
        mean_magnitude=float(magnitude.mean(dtype=np.float64)),
        median_magnitude=float(np.median(magnitude)),
        max_magnitude=float(magnitude.max()),
    )


def choose_format(
    requested: str | None, accept: str | None, offers: Sequence[ResponseFormat]
) -> ResponseFormat:
    """Return the format a request wants, the first one when it does not care.

    ``?format=`` goes before ``Accept``. Raises NotAcceptable with the list.
    """
    if requested is not None:
        for offer in offers:
            if offer.name == requested:
                return offer
        raise NotAcceptable(f"format {requested!r} is not on offer; {_list(offers)}", param="format")
    if not accept:
        return offers[0]
    ranges = _parse_accept(accept)
    best = max(offers, key=lambda offer: _quality(offer, ranges))  # the first of equals
    if _quality(best, ranges) == 0:
        raise NotAcceptable(f"nothing matches Accept: {accept[:200]}; {_list(offers)}", param="Accept")
    return best


def _list(offers: Sequence[ResponseFormat]) -> str:
    names = ", ".join(f"{offer.name} ({offer.media_type})" for offer in offers)
    return f"choose one of {names}"


def _parse_accept(accept: str) -> list[tuple[str, float]]:
    """Return the media ranges with their q, but for those whose q is no weight. Ignores other parameters."""
    ranges = []
    for item in accept.split(","):
        media, *parameters = (part.strip() for part in item.split(";"))
        weights = [
            value.strip()
            for name, _, value in (parameter.partition("=") for parameter in parameters)
            if name.strip().lower() == "q"
        ]
        if media and all(map(_WEIGHT.fullmatch, weights)):
            ranges.append((media.lower(), float(weights[0]) if weights else 1.0))
    return ranges


def _quality(offer: ResponseFormat, ranges: Sequence[tuple[str, float]]) -> float:
    """q of the most specific range that matches the offer, 0 if none does."""
    if not offer.by_accept:
        return 0.0
    found: tuple[int, float] = (0, 0.0)
    for media, quality in ranges:
        found = max(found, (_specificity(media, offer), quality), key=lambda pair: pair[0])
    return found[1] if found[0] else 0.0


def _specificity(media: str, offer: ResponseFormat) -> int:
    if media == offer.media_type or media in offer.aliases:
        return 3
    if media == offer.media_type.split("/")[0] + "/*":
        return 2
    return 1 if media == "*/*" else 0
