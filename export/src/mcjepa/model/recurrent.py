"""Recurrent matching at stride 16: an update that can leave its start.

After RAFT (Teed and Deng, 2020): all pairs of positions are compared once, and a convolutional GRU looks the
costs up around where the flow points, at several scales and without warping, and corrects the flow, again and
again. The coarse-to-fine head (`flow.py`) keeps a wrong match of stride 32 for ever; this one does not. The
number of iterations is free at inference: fewer are faster, more are more exact.

Two things differ from RAFT: it runs at stride 16 on the frames' projected features, which stride 8 and the
images themselves refine later; and what the context adds to the gates is computed once, not per iteration.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcjepa import ops
from mcjepa.config import EncoderConfig, FlowConfig, RecurrentConfig
from mcjepa.model.flow import FINEST, FlowHead, LevelMatcher, LevelUpdate, to_details, to_finer
from mcjepa.model.matching import standardise
from mcjepa.quality import FAST, Quality

LEVEL = 3  # index of the level of stride 16 in the pyramid
COST_SCALE = 6.0  # of cosines, so that costs and flow reach the update at like sizes
FLOW_SCALE = 0.25  # of the flow in px of stride 16


class RecurrentHead(LevelUpdate):
    """Pyramids of two frames -> flow of frame 1 to 2: iterations at stride 16, then passes at stride 8."""

    def __init__(self, encoder: EncoderConfig, config: FlowConfig) -> None:
        super().__init__(config)
        self.recurrent = RecurrentMatcher(encoder, config.recurrent, config.max_flow)
        self.matcher = LevelMatcher(encoder.widths[FINEST], config, 8)
        self.to_hidden = nn.Conv2d(config.recurrent.state_dim, config.hidden_dim, 1)
        nn.init.zeros_(self.to_hidden.weight)  # the hidden state of a coarse-to-fine head's first level
        nn.init.zeros_(self.to_hidden.bias)  # type: ignore[arg-type]

    def start_from(self, head: FlowHead) -> None:
        """Take over the passes at stride 8 of a trained coarse-to-fine head."""
        for name in ("squeeze", "coarse", "surroundings"):
            getattr(self, name).load_state_dict(getattr(head, name).state_dict())
        self.matcher.load_state_dict(head.matchers[0].state_dict())

    def forward(
        self, feats1: list[Tensor], feats2: list[Tensor], iterations: int | None = None
    ) -> list[Tensor]:
        """feats1, feats2: encoder pyramids, finest first; iterations: as trained by default.

        The flows of all iterations (B, 2, H / 16, W / 16) and passes (B, 2, H / 8, W / 8), px of their grids.
        """
        return self.match(self.project(feats1), self.project(feats2), iterations=iterations)

    def project(self, feats: list[Tensor]) -> list[Tensor]:
        """Pyramid of frames -> what is matched and read of each, at strides 8 and 16, whatever its pair."""
        return [ops.at_least_float32(self.matcher.project(feats[FINEST])), self.recurrent.project(feats)]

    @property
    def finest(self) -> LevelMatcher:
        """Return the matcher of stride 8, which serves enlarged frames, too."""
        return self.matcher

    def match(
        self,
        maps1: list[Tensor],
        maps2: list[Tensor],
        quality: Quality = FAST,
        iterations: int | None = None,
    ) -> list[Tensor]:
        """As forward, of the maps that `project` gives for frame 1 and for frame 2.

        Where the quality has detail passes, a third map of each frame is what `finest.project` gives of it
        enlarged, and the last flows, one a pass, are on the grid of that map.
        """
        levels, state = self.recurrent(maps1[1], maps2[1], iterations or self.config.recurrent.iterations)
        flow, hidden = to_finer(levels[-1], self.to_hidden(state))
        for _ in range(quality.passes):
            flow, hidden = self.repeat(self.matcher, maps1[0], maps2[0], flow, hidden, 1)
            levels.append(flow)
        if quality.detail_passes:
            flow, hidden = to_details(flow, hidden, maps1[-1], quality.detail_scale)
        for _ in range(quality.detail_passes):
            flow, hidden = self.repeat(
                self.matcher, maps1[-1], maps2[-1], flow, hidden, 1, quality.detail_scale
            )
            levels.append(flow)
        return levels


class RecurrentMatcher(nn.Module):
    """Projected features of two frames -> flow of frame 1 to frame 2 after each iteration."""

    def __init__(self, encoder: EncoderConfig, config: RecurrentConfig, max_flow: float) -> None:
        super().__init__()
        self.config, self.limit = config, max_flow / 16
        self.parts = (config.match_dim, config.context_dim, config.state_dim)
        state, looked_up = config.state_dim, len(config.scales) * (2 * config.radius + 1) ** 2
        self.project_16 = nn.Conv2d(encoder.widths[LEVEL], sum(self.parts), 1)
        self.project_32 = nn.Conv2d(encoder.widths[LEVEL + 1], sum(self.parts), 1)
        self.costs = nn.Conv2d(looked_up, 96, 1)
        self.flow = nn.Conv2d(2, 32, 7, padding=3)
        self.motion = nn.Conv2d(96 + 32, 80, 3, padding=1)
        self.context = nn.Conv2d(config.context_dim, 3 * state, 3, padding=1)
        self.gates = nn.Conv2d(state + 80 + 2, 2 * state, 3, padding=1, bias=False)
        self.candidate = nn.Conv2d(state + 80 + 2, state, 3, padding=1, bias=False)
        self.residual = nn.Sequential(
            nn.Conv2d(state, 96, 3, padding=1), nn.ReLU(), nn.Conv2d(96, 2, 3, padding=1)
        )

    def project(self, feats: list[Tensor]) -> Tensor:
        """Pyramid of frames -> what is matched, context and first state: (B, sum(parts), H/16, W/16)."""
        coarse = F.interpolate(
            self.project_32(feats[LEVEL + 1]), scale_factor=2.0, mode="bilinear", align_corners=False
        )
        return ops.at_least_float32(self.project_16(feats[LEVEL]) + coarse)

    def forward(self, map1: Tensor, map2: Tensor, iterations: int) -> tuple[list[Tensor], Tensor]:
        """Maps of `project` of both frames -> flows (B, 2, H/16, W/16) px of that grid, and the last state.

        One flow an iteration; each starts from the one before without gradient, as in RAFT.
        """
        match1, context, state = map1.split(self.parts, dim=1)
        pyramid = self.cost_pyramid(match1, map2[:, : self.parts[0]])
        context, state = self.context(F.relu(context)), torch.tanh(state)
        flow = state.new_zeros(state.shape[0], 2, *state.shape[2:])
        flows = []
        for _ in range(iterations):
            flow, state = self.step(pyramid, context, flow.detach(), state)
            flows.append(flow)
        return flows, ops.at_least_float32(state)

    def cost_pyramid(self, match1: Tensor, match2: Tensor) -> list[Tensor]:
        """Cosines of all positions of both frames, at each scale s: (B * h * w, 1, h / s, w / s)."""
        with torch.autocast(match1.device.type, enabled=False):
            one, two = (ops.normalise(m) for m in standardise(match1, match2))
            b, _, h, w = one.shape
            costs = COST_SCALE * torch.bmm(one.flatten(2).transpose(1, 2), two.flatten(2))
            costs = costs.reshape(b * h * w, 1, h, w)
            return [costs if s == 1 else F.avg_pool2d(costs, s, ceil_mode=True) for s in self.config.scales]

    def step(
        self, pyramid: list[Tensor], context: Tensor, flow: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One iteration: flow (B, 2, h, w) px and state (B, state_dim, h, w) -> the next ones."""
        scales = zip(pyramid, self.config.scales, strict=True)
        costs = torch.cat([lookup(c, flow, s, self.config.radius) for c, s in scales], dim=1)
        told = torch.cat([F.relu(self.costs(costs)), F.relu(self.flow(FLOW_SCALE * flow))], dim=1)
        motion = torch.cat([F.relu(self.motion(told)), FLOW_SCALE * flow], dim=1)
        for_gates, for_candidate = context.split((2 * state.shape[1], state.shape[1]), dim=1)
        update, reset = torch.sigmoid(self.gates(torch.cat([state, motion], dim=1)) + for_gates).chunk(
            2, dim=1
        )
        new = torch.tanh(self.candidate(torch.cat([reset * state, motion], dim=1)) + for_candidate)
        state = (1 - update) * state + update * new
        flow = flow + ops.at_least_float32(self.residual(state))
        return flow.clamp(-self.limit, self.limit), state


def lookup(costs: Tensor, flow: Tensor, scale: int, radius: int) -> Tensor:
    """Costs around where the flow points: costs (B * h * w, 1, h / scale, w / scale), flow (B, 2, h, w) px of
    scale 1 -> (B, (2r+1)^2, h, w), shifts (dx, dy) px of the costs' own scale in the order of
    `ops.shift_vectors`, bilinear, zero outside.
    """
    b, _, h, w = flow.shape
    rows, columns = costs.shape[-2:]
    centre = (ops.pixel_grid(flow) + flow + 0.5) / scale - 0.5  # (B, 2, h, w), (x, y)
    side = 2 * radius + 1
    shifts = ops.shift_vectors(radius, flow).reshape(1, side, side, 2)
    points = centre.permute(0, 2, 3, 1).reshape(b * h * w, 1, 1, 2) + shifts
    extent = points.new_tensor([max(columns - 1, 1), max(rows - 1, 1)])
    seen = F.grid_sample(costs, points * (2 / extent) - 1, align_corners=True)  # (B * h * w, 1, side, side)
    return seen.reshape(b, h, w, side * side).permute(0, 3, 1, 2)
