"""From replies to results, each checked against what was asked for."""

from dataclasses import replace

import numpy as np

from mcjepa_client._requests import EmbedLimits
from mcjepa_client._results import AnalyzeResult, Direction, EmbedResult, FlowResult
from mcjepa_client._steps import Reply
from mcjepa_client._video.clips import ClipLimits
from mcjepa_client._wire import (
    read_json,
    read_npz,
    read_vector,
    reject,
    take,
    take_mask,
    take_meta,
)


def read_flow(reply: Reply, direction: Direction, occlusion: bool) -> FlowResult:
    arrays = read_npz(reply)
    flow = take(reply, arrays, "flow", (None, None, 2))
    return FlowResult(
        flow=flow,
        direction="backward" if direction == "backward" else "forward",
        backward=take(reply, arrays, "flow_backward", flow.shape) if direction == "both" else None,
        occlusion=take_mask(reply, arrays, "occlusion", flow.shape[:2]) if occlusion else None,
        meta=take_meta(reply, arrays),
        request_id=reply.request_id,
    )


def read_analysis(reply: Reply, frames: int, direction: Direction, occlusion: bool) -> AnalyzeResult:
    arrays = read_npz(reply)
    flows = take(reply, arrays, "flows", (frames - 1, None, None, 2))
    return AnalyzeResult(
        flows=flows,
        embeddings=take(reply, arrays, "embeddings", (frames, None)),
        backward=take(reply, arrays, "flows_backward", flows.shape) if direction == "both" else None,
        occlusion=take_mask(reply, arrays, "occlusion", flows.shape[:3]) if occlusion else None,
        meta=take_meta(reply, arrays),
        request_id=reply.request_id,
    )


def read_embeddings(reply: Reply, images: int, dimensions: int | None) -> EmbedResult:
    """Rows in the order of the request, whatever the order of the reply."""
    body = read_json(reply)
    items = body.get("data")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        reject(reply, "'data' is not a list of objects")
    by_index = {item["index"]: item.get("embedding") for item in items if type(item.get("index")) is int}
    if len(items) != images or by_index.keys() != set(range(images)):
        reject(reply, f"{len(items)} embeddings for {images} images, or their indices do not match")
    vectors = [read_vector(reply, by_index[index]) for index in range(images)]
    sizes = sorted({vector.size for vector in vectors})
    if len(sizes) != 1 or (dimensions is not None and sizes != [dimensions]):
        reject(reply, f"embeddings of size {sizes}, expected {dimensions or 'one size for all'}")
    model, usage = body.get("model"), body.get("usage")
    return EmbedResult(np.stack(vectors), model if isinstance(model, str) else "", _counts(usage))


def read_limits(reply: Reply) -> EmbedLimits:
    return EmbedLimits(*_limits(reply, "max_images", "max_body_bytes"))


def read_clip_limits(reply: Reply) -> ClipLimits:
    names = ("max_frames", "max_request_pixels", "max_body_bytes", "max_side", "max_compute_pixels")
    limits = ClipLimits(*_limits(reply, *names))
    model = read_json(reply).get("model")  # null where the server is not ready
    side = model.get("smallest_side") if isinstance(model, dict) else None
    return replace(limits, smallest_side=side) if type(side) is int and side > 0 else limits


def _limits(reply: Reply, *names: str) -> list[int]:
    """Limits by name out of a reply of /v1/info, each above zero."""
    limits = read_json(reply).get("limits")
    found = limits if isinstance(limits, dict) else {}
    values = [value for name in names if type(value := found.get(name)) is int and value > 0]
    if len(values) != len(names):
        reject(reply, f"it names no limits {' and '.join(names)}")
    return values


def _counts(usage: object) -> dict[str, int]:
    if not isinstance(usage, dict):
        return {}
    return {name: count for name, count in usage.items() if type(count) is int}
