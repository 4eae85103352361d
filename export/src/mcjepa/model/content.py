"""Content head: pooled embedding, and the expander on which VICReg's loss is taken."""

from __future__ import annotations

from torch import Tensor, nn


def pool(feats: list[Tensor]) -> Tensor:
    """Embedding: global average of the last level, (B, D, H/64, W/64) -> (B, D), not normalised."""
    return feats[-1].mean(dim=(2, 3))


class Expander(nn.Sequential):
    """Three-layer MLP (B, D) -> (B, E) of VICReg (Bardes et al., 2022, section 4.2); training only."""

    def __init__(self, dim: int, expander_dim: int) -> None:
        super().__init__(
            nn.Linear(dim, expander_dim),
            nn.BatchNorm1d(expander_dim),
            nn.ReLU(inplace=True),
            nn.Linear(expander_dim, expander_dim),
            nn.BatchNorm1d(expander_dim),
            nn.ReLU(inplace=True),
            nn.Linear(expander_dim, expander_dim, bias=False),
        )
