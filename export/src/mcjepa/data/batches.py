"""Training batches: a pure function of (seed, step, stage), so that a resumed run sees the same."""

from __future__ import annotations

import atexit
import pickle
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import NamedTemporaryFile

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mcjepa import distributed
from mcjepa.config import PAPER_VIDEO_TERMS, Config, StageConfig, in_use
from mcjepa.data.augment import two_views
from mcjepa.data.draws import Draws
from mcjepa.data.images import ImageSet, open_images
from mcjepa.data.known_motion import PHOTOS, as_photo, compose_pairs
from mcjepa.data.light import relight_pairs
from mcjepa.data.rendered import render_pairs
from mcjepa.data.video import FramePairs, open_pairs

Batch = dict[str, Tensor]

WORKER_TIMEOUT = 300  # s without a batch, the first one included, after which a worker counts as hung
TEACHER_MARGIN = 64  # px of height and width by which a teacher sees more of a frame, a multiple of 64
# kinds of data: each draws from a random stream of its own
KNOWN_MOTION, VIDEO, VIEWS, DISTILLATION, IMAGES = range(5)


@dataclass(frozen=True)
class Sources:
    """The opened data sets of a run; None where no term needs them."""

    photos: ImageSet | None
    videos: FramePairs | None
    images: ImageSet | None


def open_sources(config: Config) -> Sources:
    """Open what the configuration names. Raises ValueError naming the setting of a needed set not given."""
    loss, data = config.loss, config.data
    flow, content = loss.flow > 0, loss.content > 0
    photos = flow and any(s.batch for s in config.train.stages)
    videos = flow and any(s.video_batch for s in config.train.stages)
    for needed, name in ((photos, "photos"), (videos, "videos"), (content, "images")):
        if needed and not getattr(data, name):
            raise ValueError(f"data.{name} is empty, but the losses in use need it")
    paths = [[Path(p) for p in group] for group in (data.photos, data.videos, data.images)]
    return Sources(
        photos=open_images(paths[0]) if photos else None,
        videos=open_pairs(paths[1], Path(data.video_cache), data.video_short_side) if videos else None,
        images=open_images(paths[2]) if content else None,
    )


class StepBatches(Dataset[Batch]):
    """Item `step` is this process's part of that step's batch: flow pairs and two views of images, uint8.

    A kind of data is the same at a step whichever of the others are in use, so that joint training and flow
    or content alone can be compared; and so is each example, however many processes share the batch.

    known1, known2 (K, 3, h, w), truth (K, 2, h, w) px, visible (K, 1, h, w) bool, whether frame 2 shows a
    pixel of frame 1; video1, video2 (V, 3, h, w);
    teacher1, teacher2 (V, 3, h + 64, w + 64), student1, student2 (V, 3, h, w) in another light,
    corner (V, 2) px, (y, x), of the student's crop in the teacher's; view1, view2 (N, 3, s, s).
    """

    def __init__(
        self, sources: Sources, stage: StageConfig, config: Config, process: int = 0, processes: int = 1
    ) -> None:
        self.sources, self.stage, self.loss, self.data = sources, stage, config.loss, config.data
        self.seed, self.view_min_area = config.train.seed, config.data.view_min_area
        self.process, self.processes = process, processes

    def __getitem__(self, step: int) -> Batch:
        def rngs(kind: int, number: int) -> list[np.random.Generator]:
            """One an example of this process: those of a batch of `number` are dealt out in equal parts."""
            part = number // self.processes
            mine = range(self.process * part, (self.process + 1) * part)
            return [np.random.default_rng([self.seed, step, kind, i]) for i in mine]

        stage = self.stage
        batch: Batch = {}
        if self.sources.photos is not None and stage.batch:
            batch |= self._known_motion(self.sources.photos, rngs(KNOWN_MOTION, stage.batch))
        if self.sources.videos is not None and stage.video_batch:
            if in_use(self.loss, PAPER_VIDEO_TERMS):
                batch |= self._video(self.sources.videos, rngs(VIDEO, stage.video_batch))
            if self.loss.distillation > 0:
                batch |= self._distillation(self.sources.videos, rngs(DISTILLATION, stage.video_batch))
        if self.sources.images is not None:
            batch |= self._views(self.sources.images, step, rngs(VIEWS, stage.image_batch))
        return batch

    def _known_motion(self, photos: ImageSet, rngs: list[np.random.Generator]) -> Batch:
        """Pairs composed or rendered one by one, each from photos of its own."""
        made = []
        for rng in rngs:
            picks = rng.integers(len(photos), size=PHOTOS)
            mine = stack([as_photo(photos[int(i)]) for i in picks])
            like = (mine, 1, self.stage.crop, self.stage.max_motion, _draws(rng))
            if rng.random() < self.data.rendered:
                made.append(render_pairs(*like, self.data.rendering))
            else:
                made.append(compose_pairs(*like, self.data.synthetic))
        known1, known2 = torch.cat([p.img1 for p in made]), torch.cat([p.img2 for p in made])
        truth, visible = torch.cat([p.flow for p in made]), torch.cat([p.visible for p in made])
        return {"known1": known1, "known2": known2, "truth": truth, "visible": visible}

    def _video(self, videos: FramePairs, rngs: list[np.random.Generator]) -> Batch:
        pairs = [_random_crop(*_pick(videos, rng), self.stage.crop, rng) for rng in rngs]
        return {"video1": stack([p[0] for p in pairs]), "video2": stack([p[1] for p in pairs])}

    def _distillation(self, videos: FramePairs, rngs: list[np.random.Generator]) -> Batch:
        (h, w), margin = self.stage.crop, TEACHER_MARGIN
        wide = [_random_crop(*_pick(videos, rng), (h + margin, w + margin), rng) for rng in rngs]
        corners = np.array([rng.integers(margin + 1, size=2) for rng in rngs])
        changed = []
        for pair, (y, x), rng in zip(wide, corners, rngs, strict=True):
            crops = [stack([img[y : y + h, x : x + w]]).float() for img in pair]
            changed.append(relight_pairs(crops[0], crops[1], _draws(rng)))
        return {
            "teacher1": stack([p[0] for p in wide]),
            "teacher2": stack([p[1] for p in wide]),
            "student1": torch.cat([p[0] for p in changed]),
            "student2": torch.cat([p[1] for p in changed]),
            "corner": torch.from_numpy(corners),
        }

    def _views(self, images: ImageSet, step: int, rngs: list[np.random.Generator]) -> Batch:
        number, size, first = self.stage.image_batch, self.stage.image_crop, self.process * len(rngs)
        whole = np.random.default_rng([self.seed, step, IMAGES, 0])  # no image twice in the whole batch
        picks = whole.choice(len(images), size=number, replace=len(images) < number)[first:][: len(rngs)]
        views = [
            two_views(images[int(i)], rng, size, self.view_min_area)
            for i, rng in zip(picks, rngs, strict=True)
        ]
        return {"view1": stack([v[0] for v in views]), "view2": stack([v[1] for v in views])}


class FiledBatches(Dataset[Batch]):
    """A StepBatches for worker processes, read from a pickle file by each.

    Handed over directly it would go through a pipe whose other end the parent holds open too: with a list of
    files longer than the pipe, a worker that died while starting would leave the parent waiting for ever.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @cached_property
    def batches(self) -> StepBatches:
        made: StepBatches = pickle.loads(Path(self.path).read_bytes())
        return made

    def __getitem__(self, step: int) -> Batch:
        return self.batches[step]


def batches(sources: Sources, stage: StageConfig, config: Config, steps: range) -> Iterator[Batch]:
    """The batches of `steps` in order, made in `data.workers` processes ahead of their use.

    Of several training processes each gets its part. Raises RuntimeError where a worker died or hangs, and
    what a worker raised.
    """
    made = StepBatches(sources, stage, config, distributed.rank(), distributed.world())
    if config.data.workers:
        yield from _by_workers(made, steps, config.data.workers)
    else:
        yield from map(made.__getitem__, steps)


def _by_workers(made: StepBatches, steps: range, workers: int) -> Iterator[Batch]:
    others = active_children()
    with NamedTemporaryFile(prefix="mcjepa-") as file:
        pickle.dump(made, file)
        file.flush()
        loader = DataLoader(
            FiledBatches(file.name),
            batch_size=None,
            sampler=steps,  # type: ignore[arg-type]
            num_workers=workers,
            multiprocessing_context="spawn",  # a fork would inherit the video decoder's locks
            prefetch_factor=4,
            timeout=WORKER_TIMEOUT,
            worker_init_fn=_prepare_worker,
        )
        iterator = iter(loader)
        end = partial(_kill, [child for child in active_children() if child not in others])
        atexit.register(end)  # where an error that nobody caught still holds this generator
        try:
            yield from iterator
        finally:
            end()
            atexit.unregister(end)


def _kill(workers: list[BaseProcess]) -> None:
    """End workers, hung ones too: they are deaf to SIGTERM, and a program waits for them at its end."""
    for worker in workers:
        with suppress(RuntimeError):  # the loader raises at the death of a worker, whoever caused it
            worker.kill()
            worker.join()


def stack(arrays: list[np.ndarray]) -> Tensor:
    """Arrays (H, W, C) -> tensor (B, C, H, W), channels last in memory."""
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def _draws(rng: np.random.Generator) -> Draws:
    """A stream that follows from the state of another one."""
    return Draws((int(rng.integers(2**63)),), torch.device("cpu"))


def _pick(videos: FramePairs, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return videos[int(rng.integers(len(videos)))]


def _random_crop(
    img1: np.ndarray, img2: np.ndarray, crop: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The same crop (h, w) of two frames, enlarged where they are smaller; half of the time mirrored."""
    h, w = crop
    scale = max(h / img1.shape[0], w / img1.shape[1], 1.0)
    if scale > 1.0:
        size = (max(w, round(img1.shape[1] * scale)), max(h, round(img1.shape[0] * scale)))
        img1, img2 = cv2.resize(img1, size), cv2.resize(img2, size)
    y, x = rng.integers(img1.shape[0] - h + 1), rng.integers(img1.shape[1] - w + 1)
    step = int(rng.choice([-1, 1]))
    return img1[y : y + h, x : x + w][:, ::step], img2[y : y + h, x : x + w][:, ::step]


def _prepare_worker(_worker: int) -> None:
    """One thread; and deaf to what ends a run: the training process saves, then ends its workers itself."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C and schedulers signal the whole process group
        signal.signal(number, signal.SIG_IGN)
