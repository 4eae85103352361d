"""MCJEPA: one encoder trained for motion and content (Bardes, Ponce and LeCun, 2023, arXiv 2307.12698)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcjepa import ops
from mcjepa.config import ModelConfig
from mcjepa.model.content import EXPANDED, Expander, Whitening, pool, pooled_dim
from mcjepa.model.encoder import Encoder
from mcjepa.model.flow import FINEST, FlowHead
from mcjepa.model.recurrent import RecurrentHead
from mcjepa.model.refinement import Refinement
from mcjepa.quality import FAST, TRAINED, Quality

STRIDE = 64  # height and width of every input are multiples of it
MEAN = (0.485, 0.456, 0.406)  # RGB, of values in 0 .. 1 (ImageNet)
STD = (0.229, 0.224, 0.225)


@dataclass
class FlowOutput:
    """flow (B, 2, H, W) px; levels: those on the way, coarse to fine, (B, 2, H/s, W/s) px of their own grids.

    The last level has stride 8, of the enlarged frames where the quality has detail passes.
    """

    flow: Tensor
    levels: list[Tensor]


class Normalisation(nn.Module):
    """RGB 0 .. 255 (B, 3, H, W), uint8 or float -> mean 0 and deviation 1 over ImageNet."""

    mean: Tensor  # (1, 3, 1, 1), of values 0 .. 255
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1) * 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(STD).reshape(1, 3, 1, 1) * 255.0, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) / self.std


class MCJEPA(nn.Module):
    """Encoder, flow head, content head. Inputs are uint8 or float RGB, values 0 .. 255, (B, 3, H, W)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.normalise = Normalisation()
        self.encoder = Encoder(config.encoder)
        self.read: nn.Module = nn.Identity()  # of a pyramid; model/folding.py has another
        self.flow_head = FlowHead(config.encoder, config.flow)
        recurrent = config.flow.recurrent.iterations > 0
        self.recurrent_head = RecurrentHead(config.encoder, config.flow) if recurrent else None
        self.refinement = Refinement(config.flow.max_flow)
        widths, content = config.encoder.widths, config.content
        self.whitening = Whitening(pooled_dim(widths, content.levels), content.embedding_dim)
        self.expander = Expander(pooled_dim(widths, EXPANDED), content.expander_dim)

    def encode(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB 0 .. 255, H and W multiples of 64 -> six levels, strides 2 .. 64, finest first."""
        return self.encoder(self.normalise(images))

    @property
    def head(self) -> FlowHead | RecurrentHead:
        """Return the head that the flow comes from."""
        return self.recurrent_head or self.flow_head

    def details(self, images: Tensor, scale: float) -> Tensor:
        """Frames (B, 3, H, W) RGB 0 .. 255 -> what the head matches of them enlarged, (B, C, s H/8, s W/8).

        scale: s; s times 64 is a multiple of 32.
        """
        enlarged = F.interpolate(images.float(), scale_factor=scale, mode="bilinear", align_corners=False)
        feats = self.encoder(self.normalise(enlarged), levels=FINEST + 1)
        return ops.at_least_float32(self.head.finest.project(feats[FINEST]))

    def flow(
        self,
        feats1: list[Tensor],
        feats2: list[Tensor],
        quality: Quality = TRAINED,
        details: tuple[Tensor, Tensor] | None = None,
    ) -> FlowOutput:
        """Two pyramids -> flow of frame 1 to frame 2, (B, 2, H, W) px, before refinement: what is trained.

        details: of both frames, as `details` gives them, for a quality with detail passes.
        """
        maps1, maps2 = self.head.project(feats1), self.head.project(feats2)
        if details is not None:
            maps1, maps2 = [*maps1, details[0]], [*maps2, details[1]]
        levels = self.head.match(maps1, maps2, quality)
        size = [2 * side for side in feats1[0].shape[-2:]]
        scale = 8 / quality.detail_scale
        flow = F.interpolate(scale * levels[-1], size=size, mode="bilinear", align_corners=False)
        return FlowOutput(flow, levels)

    def embed(self, feats: list[Tensor]) -> Tensor:
        """Pyramid -> embedding (B, D), not normalised."""
        return self.whitening(pool(self.read(feats), self.config.content.levels))

    def expand(self, feats: list[Tensor]) -> Tensor:
        """Pyramid -> expanded statistics (B, E), where the content loss is taken."""
        return self.expander(pool(feats, EXPANDED))

    def forward(self, img1: Tensor, img2: Tensor, quality: Quality = FAST) -> FlowOutput:
        """Two frames (B, 3, H, W) RGB 0 .. 255 -> flow, refined; both go through the encoder as one batch."""
        images = torch.cat([img1, img2])
        b = img1.shape[0]
        maps = self.head.project(self.encode(images))
        if quality.detail_passes:
            maps.append(self.details(images, quality.detail_scale))
        levels = self.head.match([m[:b] for m in maps], [m[b:] for m in maps], quality)
        with torch.autocast(img1.device.type, enabled=False):  # bfloat16 would round the flow
            grey1, grey2 = self.refinement.grey(img1), self.refinement.grey(img2)
            return FlowOutput(self.refinement(grey1, grey2, levels[-1], quality.detail_scale), levels)
