"""Random numbers for a whole batch at once, drawn on the device where they are used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from zlib import crc32

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """The random stream of one kind of data at one step; the same numbers each time on the same device."""

    seed: Sequence[int]
    device: torch.device

    @cached_property
    def generator(self) -> torch.Generator:
        state = np.random.SeedSequence(self.seed).generate_state(1, np.uint64)
        return torch.Generator(self.device).manual_seed(int(state[0] >> np.uint64(1)))

    @cached_property
    def host(self) -> np.random.Generator:
        """For numbers that decide shapes, which must not wait for the device."""
        return np.random.default_rng(self.seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device) * (high - low) + low

    def log_uniform(self, *shape: int, low: float, high: float) -> Tensor:
        return self.uniform(*shape, low=math.log(low), high=math.log(high)).exp()

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)

    def chance(self, *shape: int, p: float) -> Tensor:
        """True with probability `p`."""
        return self.uniform(*shape) < p

    def sign(self, *shape: int) -> Tensor:
        """-1.0 or 1.0."""
        return 1.0 - 2.0 * self.chance(*shape, p=0.5).float()

    def integers(self, *shape: int, low: int, high: int) -> Tensor:
        """From low to high - 1, int64."""
        return torch.randint(low, high, shape, generator=self.generator, device=self.device)

    def fork(self, name: str) -> Draws:
        """A stream of its own, so that what one part draws leaves the numbers of the others as they are."""
        return Draws((*self.seed, crc32(name.encode())), self.device)

    def chosen(self, of: int, p: float) -> np.ndarray:
        """Numbers of range(of), each with probability `p`, in order: known to the host, int64."""
        return np.flatnonzero(self.host.random(of) < p)

    def send(self, numbers: np.ndarray) -> Tensor:
        """An array of the host, on the device, without waiting for what that is doing."""
        return torch.from_numpy(numbers).to(self.device, non_blocking=True)

    def rows(self, of: int, p: float) -> Tensor:
        """`chosen`, as an index on the device; effects on all pixels are computed for these alone."""
        return self.send(self.chosen(of, p))

    def distinct(self, number: int, of: int) -> Tensor:
        """`number` of range(of), none twice as long as there are enough: int64 (number,)."""
        rounds = max(-(-number // of), 1)
        orders = [torch.randperm(of, generator=self.generator, device=self.device) for _ in range(rounds)]
        return torch.cat(orders)[:number]


@cache
def constant(values: tuple[float | tuple[float, ...], ...], device: torch.device) -> Tensor:
    """A small float32 tensor, sent once: each copy to a GPU waits until all work given to it is done."""
    return torch.tensor(values, dtype=torch.float32, device=device)
