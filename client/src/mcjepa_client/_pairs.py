"""Results that hold a flow, whichever call they come from."""

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

from mcjepa_client._errors import InputError
from mcjepa_client._warp import check_size
from mcjepa_client.flow_io import Flow, check_flow


class HasFlow(Protocol):
    """The results of `flow`, the pairs of `analyze` and the frames of `video`."""

    @property
    def flow(self) -> Flow | None: ...


def flows(results: Iterable[HasFlow]) -> Iterator[tuple[HasFlow, Flow]]:
    """Each result with its flow, checked, up to the last frame of a video, which has none.

    Raises InputError, naming the result, when a flow is missing before the end or differs in size.
    """
    size = ended = None
    for index, result in enumerate(results):
        if ended is not None:
            raise InputError(f"results[{ended}]: only the last frame may lack a flow")
        if result.flow is None:
            ended = index
            continue
        flow = check_flow(result.flow)
        size = size or flow.shape[:2]
        check_size(flow, size, f"results[{index}].flow")
        yield result, flow


def backward_flow(result: HasFlow) -> Flow | None:
    """The flow from the second frame to the first, if it was asked for."""
    backward = getattr(result, "flow_backward", None)
    if backward is None:
        backward = getattr(result, "backward", None)
    return None if backward is None else check_flow(np.asarray(backward))
