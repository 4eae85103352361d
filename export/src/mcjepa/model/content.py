"""Content head: pooled statistics, the whitened embedding, and the expander that VICReg's loss looks at."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mcjepa.distributed import SyncedBatchNorm
from mcjepa.ops import at_least_float32

EXPANDED = (3, 4, 5)  # indices of the levels that the content loss looks at: strides 16, 32, 64
STD_EPS = 1e-4  # inside the square root: its gradient stays finite where a map is constant


def pool(feats: list[Tensor], levels: tuple[int, ...]) -> Tensor:
    """Pyramid -> mean and standard deviation over all positions of some levels (their indices), (B, P)."""
    statistics = []
    for level in levels:
        x = at_least_float32(feats[level])
        mean = x.mean(dim=(2, 3))
        variance = (x - mean[:, :, None, None]).square().mean(dim=(2, 3))
        statistics += [mean, torch.sqrt(variance + STD_EPS)]
    return torch.cat(statistics, dim=1)


def pooled_dim(widths: tuple[int, ...], levels: tuple[int, ...]) -> int:
    """P, the number of statistics that `pool` gives."""
    return 2 * sum(widths[level] for level in levels)


class Whitening(nn.Module):
    """Linear map of pooled statistics (B, P) to embeddings (B, D), fitted to images without labels.

    The D largest principal components, each divided by its variance to the `power`: 0 is PCA, 0.5 gives all
    the same variance. Self-supervised features have a few strong directions that say little (the light, the
    contrast) and drown the others in a cosine. After Jegou and Chum (2012), who whiten retrieval features.
    """

    mean: Tensor  # (P,)
    matrix: Tensor  # (P, D)

    def __init__(self, pooled: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(pooled))
        self.register_buffer("matrix", torch.eye(pooled, dim))

    def forward(self, pooled: Tensor) -> Tensor:
        return (pooled - self.mean) @ self.matrix

    @torch.no_grad()
    def fit(self, pooled: Tensor, power: float) -> None:
        """Fit to (N, P) statistics of N images, N > P for a covariance of full rank."""
        x = pooled.double()
        mean = x.mean(dim=0)
        variances, axes = torch.linalg.eigh((x - mean).T @ (x - mean) / (len(x) - 1))
        dim = self.matrix.shape[1]
        variances, axes = variances.flip(0)[:dim], axes.flip(1)[:, :dim]
        axes = axes * axes.sum(dim=0).sign()  # eigenvectors have no sign of their own
        self.mean.copy_(mean)
        self.matrix.copy_(axes * variances.clamp_min(1e-8) ** -power)


class Expander(nn.Sequential):
    """Three-layer MLP (B, P) -> (B, E) of VICReg (Bardes et al., 2022, section 4.2); training only."""

    def __init__(self, dim: int, expander_dim: int) -> None:
        super().__init__(
            nn.Linear(dim, expander_dim),
            SyncedBatchNorm(expander_dim),
            nn.ReLU(inplace=True),
            nn.Linear(expander_dim, expander_dim),
            SyncedBatchNorm(expander_dim),
            nn.ReLU(inplace=True),
            nn.Linear(expander_dim, expander_dim, bias=False),
        )
