"""Training by several processes, started by `torchrun`: every process has a part of each batch.

What a batch gives must not depend on how many processes share it. Three things see to that: gradients are
averaged over the processes, batch norms take their statistics over all of them, and VICReg's loss looks at
the embeddings of all (Bardes, Ponce and LeCun, 2022, appendix). Alone, a process does none of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.nn.functional import all_gather, all_reduce
from torch.distributed.rendezvous import rendezvous

TIMEOUT = timedelta(minutes=10)  # that they wait for each other: the first one alone saves


@contextmanager
def processes(device: torch.device) -> Iterator[torch.device]:
    """Join the others, as `torchrun` has set them up, and leave in the end; yields the own device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    _join("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _join(backend: str) -> None:
    """Exchange addresses with the others, in a store of `torchrun`.

    When `torchrun --max-restarts` starts all processes again, the addresses of the dead ones are still in its
    store (torch 2.13), and who reads one before its owner has written the new one waits for nobody. So each
    life has keys of its own. It is known by its number only where one `torchrun` counts: on one machine.
    """
    if os.environ.get("LOCAL_WORLD_SIZE") != os.environ["WORLD_SIZE"]:
        dist.init_process_group(backend, timeout=TIMEOUT)
        return
    store, me, all_of_us = next(rendezvous("env://", timeout=TIMEOUT))
    store = PrefixStore(f"life-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(backend, store=store, rank=me, world_size=all_of_us, timeout=TIMEOUT)


def rank() -> int:
    """Number of this process, 0 for the one that writes files and shows progress."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait_for_all() -> None:
    """Return when every process has come here."""
    if world() > 1:
        dist.barrier()


def agree(share: float, stop: bool, device: torch.device) -> tuple[float, bool]:
    """The largest share and whether any process is to stop: each has its own clock and its own signals."""
    if world() == 1:
        return share, stop
    values = torch.tensor([share, float(stop)], dtype=torch.float64, device=device)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return float(values[0]), bool(values[1])


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in one exchange."""
    if world() == 1 or not tensors:
        return
    flat = torch.cat([t.reshape(-1) for t in tensors]).div_(world())
    dist.all_reduce(flat)
    for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def gather(x: Tensor) -> Tensor:
    """The rows (B, D) of all processes in their order, (world * B, D); gradients find their way back."""
    return torch.cat(all_gather(x)) if world() > 1 else x


class SyncedBatchNorm(nn.BatchNorm1d):
    """Batch norm over the batches of all processes; torch's SyncBatchNorm does the same, but on GPUs only."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) -> the same, in float32 at least while several train."""
        if not self.training or world() == 1:
            return super().forward(x)
        x = x.float()
        mean, square = all_reduce(torch.stack([x.mean(0), x.square().mean(0)]) / world())
        variance = square - mean.square()
        count = world() * len(x)
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        return (x - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        momentum = cast(float, self.momentum)
        cast(Tensor, self.running_mean).lerp_(mean, momentum)
        cast(Tensor, self.running_var).lerp_(variance, momentum)
        cast(Tensor, self.num_batches_tracked).add_(1)
