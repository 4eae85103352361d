"""A training step as a CUDA graph: to launch the many small kernels of a step takes longer than they do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
WARM_UP = 3  # steps before recording, in which libraries choose their kernels


class GraphedStep:
    """Calls `update(batch)` for the first batches of each kind, then records it, then replays the record.

    update: from tensors on a CUDA device to others there, without a look at any value; what else it reads is
    recorded as it was. The tensors it returns are overwritten by the next call.
    """

    def __init__(self, update: Callable[[Tensors], Tensors]) -> None:
        self.update = update
        self.stream = torch.cuda.Stream()
        self.kind: object = None
        self.calls = 0  # of this kind
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: Tensors = {}
        self.outputs: Tensors = {}

    def __call__(self, batch: Tensors, kind: object) -> Tensors:
        """One step; batches of a kind have the same keys and shapes, and are treated alike by `update`."""
        if kind != self.kind:
            self.kind, self.calls, self.graph = kind, 0, None
        self.calls += 1
        if self.calls <= WARM_UP:
            return self._call(batch)
        if self.graph is None:
            self._record(batch)
        for name, values in batch.items():
            self.inputs[name].copy_(values)
        assert self.graph is not None
        self.graph.replay()
        return self.outputs

    def _call(self, batch: Tensors) -> Tensors:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):  # where it is recorded later
            outputs = self.update(batch)
        torch.cuda.current_stream().wait_stream(self.stream)
        return outputs

    def _record(self, batch: Tensors) -> None:
        self.inputs = {name: values.clone() for name, values in batch.items()}
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.outputs = self.update(self.inputs)
