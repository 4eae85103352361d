"""Joint training: every step one batch of frame pairs and one of still images, through the same encoder.

Runs in one process, or in several under `torchrun`, which then share every batch (see distributed.py).
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from mcjepa import checkpoint, distributed, losses, ops, run_folder
from mcjepa.config import Config, ConfigError, StageConfig, to_dict, validate
from mcjepa.data.batches import Batch, Sources, batches, open_sources
from mcjepa.data.device_batches import DeviceBatches
from mcjepa.errors import McjepaError
from mcjepa.graphed_step import GraphedStep
from mcjepa.model import MCJEPA
from mcjepa.pairs import count, pairs, video_batch
from mcjepa.quality import TRAINED, Quality, quality_named
from mcjepa.whiten import fit_whitening

ENDLESS = 10**9  # steps, for runs that end by the clock


class TrainingDiverged(McjepaError):
    """A loss is no longer finite; the last checkpoint is from before."""


@dataclass
class Progress:
    """Where a run stands; share runs from 0 to 1, by steps or by the clock."""

    config: Config
    step: int = 0
    minutes: float = 0.0  # of earlier parts of the run
    started: float = 0.0  # time.monotonic() of this part

    def spent(self) -> float:
        return self.minutes + (time.monotonic() - self.started) / 60

    def share(self) -> float:
        train = self.config.train
        done = self.spent() / train.minutes if train.minutes > 0 else self.step / train.steps
        return min(done, 1.0)


def train(config: Config, run: Path, init: Path | None = None, device: str | None = None) -> Path:
    """Train to the end of the schedule in folder `run`, resuming from its newest checkpoint if there is one.

    init: a checkpoint whose weights (not the optimiser) a fresh run starts from. Returns the last checkpoint.
    SIGTERM and Ctrl-C write a checkpoint and end the run; the same command continues it. Raises ConfigError
    for a value out of its limits, RunLockedError where another run trains in the folder, ValueError where
    the run's checkpoint has another configuration, TrainingDiverged on a loss that is not finite.
    """
    validate(config)  # else its checkpoints could not be loaded again
    torch.manual_seed(config.train.seed)
    wanted = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with distributed.processes(wanted) as target, _held(run):
        _check_parts(config)
        trainer = Trainer(config, run, target)
        trainer.restore(init)
        return trainer.run_to_end(open_sources(config))


@contextmanager
def _held(run: Path) -> Iterator[None]:
    """The run's folder, for the first of the processes that train in it together."""
    with run_folder.locked(run) if distributed.rank() == 0 else nullcontext():
        distributed.wait_for_all()
        yield


def _check_parts(config: Config) -> None:
    """Raise ConfigError where the processes could not share a batch equally."""
    for i, stage in enumerate(config.train.stages):
        for name in ("batch", "video_batch", "image_batch"):
            if getattr(stage, name) % distributed.world():
                raise ConfigError(
                    f"train.stages[{i}].{name} must be a multiple of the {distributed.world()} processes, "
                    f"got {getattr(stage, name)}"
                )


class Trainer:
    """Model, optimiser and progress of one run."""

    def __init__(self, config: Config, run: Path, device: torch.device) -> None:
        self.config, self.run, self.device = config, run, device
        model = MCJEPA(config.model).to(device)
        self.model: MCJEPA = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        freeze(self.model, config.train.frozen)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.shared = {id(p) for p in self.model.encoder.parameters()}
        self.average = AveragedModel(
            self.model, multi_avg_fn=get_ema_multi_avg_fn(config.train.ema_decay), use_buffers=True
        )
        cuda = device.type == "cuda"
        self.lr = torch.tensor(config.train.lr, device=device)
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.model, config.train.weight_decay), lr=self.lr, capturable=cuda
        )
        # batches made here all look alike, which a record of the step needs
        graphed = cuda and config.data.on_device and distributed.world() == 1
        self.graphed = GraphedStep(self._update) if graphed else None
        self.progress = Progress(config)
        self.share = 0.0  # of the run that is done, as all processes have it
        self.stop = False

    def averaged(self) -> MCJEPA:
        """The model with the averaged weights: what is saved, exported, and teaches."""
        return cast(MCJEPA, self.average.module)

    def restore(self, init: Path | None) -> None:
        """Continue the run's newest checkpoint, or start, from the weights of `init` if given."""
        found = checkpoint.steps(self.run)
        if found:
            self._resume(found[-1])
        elif init is not None:
            start_from(self.model, checkpoint.load(init).model)
            self.averaged().load_state_dict(self.model.state_dict())

    def _resume(self, path: Path) -> None:
        saved = checkpoint.load(path)
        if _identity(saved.config) != _identity(self.config):
            raise ValueError(f"{path} was trained with another configuration; choose another run folder")
        state = checkpoint.load_training_state(path)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.averaged().load_state_dict(saved.model.state_dict())
        self.average.n_averaged.fill_(saved.step)
        self.progress = Progress(self.config, saved.step, saved.minutes)

    def run_to_end(self, sources: Sources) -> Path:
        """Run all stages; always leaves a checkpoint of the last step."""
        if distributed.rank() == 0:
            run_folder.keep_metrics(self.run, self.progress.step)
        self.images = sources.images
        self.made_here = (
            DeviceBatches(sources, self.config, self.device) if self.config.data.on_device else None
        )
        self.progress.started = time.monotonic()
        self._agree()
        previous = {s: signal.signal(s, self._request_stop) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            with self._metrics() as metrics, self._bar() as bar:
                for stage in self.config.train.stages:
                    self._run_stage(stage, sources, metrics, bar)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        last = self._save()
        distributed.wait_for_all()
        return last

    def _check_finite(self, terms: dict[str, Tensor]) -> None:
        if not torch.isfinite(torch.stack(list(terms.values()))).all():
            raise TrainingDiverged(f"step {self.progress.step}: " + _format(terms))

    def _request_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stop = True

    def _agree(self) -> None:
        self.share, self.stop = distributed.agree(self.progress.share(), self.stop, self.device)

    def _metrics(self) -> TextIO:
        return (self.run / run_folder.METRICS if distributed.rank() == 0 else Path(os.devnull)).open("a")

    def _bar(self) -> tqdm[Any]:
        by_clock = self.config.train.minutes > 0
        total = self.config.train.minutes if by_clock else self.config.train.steps
        form = "{percentage:3.0f}% |{bar}| {n:.1f}/{total:.0f} " + ("min" if by_clock else "steps")
        form += " [{elapsed} spent, {remaining} left] {postfix}"
        initial = self.progress.minutes if by_clock else self.progress.step
        return tqdm(
            total=total,
            initial=min(initial, total),
            bar_format=form,
            mininterval=5,
            maxinterval=30,
            disable=distributed.rank() > 0,
        )

    def _run_stage(self, stage: StageConfig, sources: Sources, metrics: TextIO, bar: tqdm[Any]) -> None:
        if self.stop or self.share >= stage.until:
            return
        train = self.config.train
        last = ENDLESS if train.minutes > 0 else round(stage.until * train.steps)
        saved = time.monotonic()
        steps = range(self.progress.step, last)
        here = self.made_here
        for batch in here.batches(stage, steps) if here else batches(sources, stage, self.config, steps):
            terms = self.train_step(batch)
            self.progress.step += 1
            self._agree()
            self._report(terms, stage, metrics, bar)
            ends = self.stop or self.share >= stage.until
            due = time.monotonic() - saved > 60 * train.checkpoint_minutes
            if due or ends:
                self._check_finite(terms)  # a recorded step does not look itself
            if due:
                self._save()
                saved = time.monotonic()
            if ends:
                return

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """One optimiser step on both losses; returns the weighted terms and the norms of their gradients."""
        self.model.train()
        batch = {k: v.to(self.device, non_blocking=True) for k, v in batch.items()}
        self.lr.fill_(learning_rate(self.config, self.progress.step, self.share))
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr  # a resumed optimiser has brought its own
        if self.graphed is None:
            terms = self._update(batch)
        else:
            key = (self._flow_is_due(), self._quality().name, *((k, v.shape) for k, v in batch.items()))
            terms = self.graphed(batch, key)
        self.average.update_parameters(self.model)
        return terms

    def _update(self, batch: Batch) -> dict[str, Tensor]:
        """The step itself; where it is recorded, it must not look at any value."""
        terms: dict[str, Tensor] = {}
        gradients: list[Tensor | None] = [None] * len(self.parameters)
        if self._flow_is_due():
            terms |= self._accumulate(gradients, self.flow_terms(batch), self.config.loss.flow, "grad_flow")
        if "view1" in batch:
            terms |= self._accumulate(
                gradients, self.content_terms(batch), self.config.loss.content, "grad_content"
            )
        if self.graphed is None:
            self._check_finite(terms)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        return terms

    def _flow_is_due(self) -> bool:
        """Flow waits for the content warm-up, where there is content to warm up with."""
        loss, warmup = self.config.loss, self.config.train.content_warmup
        return loss.flow > 0 and (loss.content <= 0 or self.share >= warmup)

    def _accumulate(
        self, gradients: list[Tensor | None], terms: dict[str, Tensor], weight: float, name: str
    ) -> dict[str, Tensor]:
        """Add the gradient of one group, scaled on its own: else the larger group drowns the other one."""
        self.optimizer.zero_grad(set_to_none=True)
        losses.total(terms, weight).backward()  # type: ignore[no-untyped-call]
        distributed.average([p.grad for p in self.parameters if p.grad is not None])
        # the limit scales with the weight: else scaling would undo loss.flow and loss.content
        limit = self.config.train.clip_norm * weight
        if self.config.train.balance == "clip":
            norm = nn.utils.clip_grad_norm_(self.parameters, limit)
        else:
            norm = self._normalise(limit)
        for i, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                gradients[i] = parameter.grad if gradients[i] is None else gradients[i] + parameter.grad
        return {k: v.detach() for k, v in terms.items()} | {name: norm}

    def _normalise(self, size: float) -> Tensor:
        """Scale all gradients so that those of the encoder have norm `size`; returns what it was."""
        shared = [p.grad for p in self.parameters if p.grad is not None and id(p) in self.shared]
        norm = nn.utils.get_total_norm(shared)
        torch._foreach_mul_([p.grad for p in self.parameters if p.grad is not None], size / (norm + 1e-8))
        return norm

    def flow_terms(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms of L_flow, in one pass: video pairs both ways, the others forward."""
        known, student, video = (count(batch, k) for k in ("known1", "student1", "video1"))
        frames = [batch[k + i] for k in ("known", "student", "video") for i in "12" if k + i in batch]
        with self._autocast():
            images = torch.cat(frames).contiguous(memory_format=torch.channels_last)
            both = [pairs(f, known, student, video) for f in self.model.encode(images)]
            feats1, feats2 = [first for first, _ in both], [second for _, second in both]
            quality, details = self._quality(), None
            if quality.detail_passes:
                found = self.model.details(images, quality.detail_scale)
                details = pairs(found, known, student, video)
            out = self.model.flow(feats1, feats2, quality, details)
        terms: dict[str, Tensor] = {}
        if video:
            terms |= losses.video_terms(
                video_batch(batch, feats1, feats2, out.flow, known + student, video), self.config.loss
            )
        if student:
            taught = losses.distillation(out.flow[known : known + student], *self.teach(batch))
            terms["distillation"] = self.config.loss.distillation * taught
        if known:
            levels = [f[:known] for f in out.levels]
            terms |= losses.known_motion_terms(out.flow[:known], levels, batch["truth"], self.config.loss)
        return terms

    def _quality(self) -> Quality:
        """Return the quality of this step."""
        names = self.config.train.qualities
        return quality_named(names[self.progress.step % len(names)]) if names else TRAINED

    @torch.no_grad()
    def teach(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the averaged weights see in the wider frames, cut to the student's crop.

        -> flow (V, 2, h, w) px, and visible (V, 1, h, w), 1.0 where it can be trusted.
        """
        teacher = self.averaged().eval()
        with self._autocast():
            feats = teacher.encode(torch.cat([batch["teacher1"], batch["teacher2"]]))
            v = count(batch, "teacher1")
            one, two = [f[:v] for f in feats], [f[v:] for f in feats]
            flow12, flow21 = teacher.flow(one, two).flow, teacher.flow(two, one).flow
        visible = ops.occlusion_mask(flow12, flow21)
        h, w = batch["student1"].shape[-2:]
        cut = [
            (f[:, y : y + h, x : x + w], m[:, y : y + h, x : x + w])
            for f, m, (y, x) in zip(flow12, visible, batch["corner"].tolist(), strict=True)
        ]
        return torch.stack([f for f, _ in cut]), torch.stack([m for _, m in cut])

    def content_terms(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms of L_content on two views of the still images."""
        views = torch.cat([batch["view1"], batch["view2"]]).contiguous(memory_format=torch.channels_last)
        with self._autocast():
            z = self.model.expand(self.model.encode(views))
        z1, z2 = (distributed.gather(view) for view in z.float().chunk(2))
        return losses.content_terms(z1, z2, self.config.loss)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.bf16)

    def _report(self, terms: dict[str, Tensor], stage: StageConfig, metrics: TextIO, bar: tqdm[Any]) -> None:
        by_clock = self.config.train.minutes > 0
        bar.n = min(self.progress.spent(), bar.total) if by_clock else self.progress.step
        bar.update(0)
        if self.progress.step % self.config.train.log_every:
            return
        self._check_finite(terms)
        distributed.average(list(terms.values()))
        row = {
            "step": self.progress.step,
            "minutes": self.progress.spent(),
            "max_motion": stage.max_motion,
            "lr": float(self.lr),
        }
        metrics.write(run_folder.metrics_row(row | {k: float(v) for k, v in terms.items()}))
        metrics.flush()
        bar.set_postfix_str(_format(terms))

    def _save(self) -> Path:
        """Write a checkpoint in the first process; the others wait for it at the next step."""
        if distributed.rank() > 0:
            return self.run
        if self.images is not None:
            fit_whitening(self.averaged(), self.images)
        return checkpoint.save(
            self.run,
            self.averaged(),
            self.config,
            self.progress.step,
            self.progress.spent(),
            {"optimizer": self.optimizer.state_dict(), "model": self.model.state_dict()},
        )


def freeze(model: MCJEPA, parts: Sequence[str]) -> None:
    """Keep the named parts of the model ("encoder", "recurrent_head.matcher") as they are in training."""
    for part in parts:
        try:
            model.get_submodule(part).requires_grad_(False)
        except AttributeError as error:
            known = ", ".join(name for name, _ in model.named_children())
            raise ConfigError(
                f"train.frozen: {part!r} is no part of the model; its parts: {known}"
            ) from error


def start_from(model: MCJEPA, trained: MCJEPA) -> None:
    """Take over the weights of `trained`; a recurrent head new to it starts from its flow head."""
    weights = trained.state_dict()
    if model.recurrent_head is not None and trained.recurrent_head is None:
        model.recurrent_head.start_from(trained.flow_head)
        weights |= {k: v for k, v in model.state_dict().items() if k.startswith("recurrent_head.")}
    model.load_state_dict(weights)


def learning_rate(config: Config, step: int, share: float) -> float:
    """Linear warm-up over train.warmup_steps, then cosine to zero over the run (`share` of it is done)."""
    warm = min(1.0, (step + 1) / max(config.train.warmup_steps, 1))
    return config.train.lr * warm * 0.5 * (1 + math.cos(math.pi * share))


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels only, not on norms, biases, scales and temperatures."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1]
    plain = [p for p in trained if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _identity(config: Config) -> dict[str, Any]:
    """What must agree for a run to be resumed: all but the length of the run and the data's whereabouts."""
    tree = to_dict(replace(config, data=checkpoint.data_by_name(config.data)))
    for key in ("video_cache", "workers", "on_device"):
        tree["data"].pop(key)
    for key in ("steps", "minutes", "checkpoint_minutes", "log_every"):
        tree["train"].pop(key)
    return tree


def _format(terms: dict[str, Tensor]) -> str:
    return " ".join(f"{k} {float(v):.3g}" for k, v in terms.items())
