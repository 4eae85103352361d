"""Batches: the same for the same seed and step, whoever makes them; a missing data set is named."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mcjepa.config import Config, RenderConfig, to_dict
from mcjepa.data.batches import Batch, Sources, StepBatches, batches, open_sources
from mcjepa.data.files import FileRef
from mcjepa.data.images import ImageSet
from mcjepa.data.known_motion import Pairs

# A program that takes one of many batches, and still holds the others when it is done.
PROGRAM = """
import json, sys
from pathlib import Path
from mcjepa.config import Config, from_dict
from mcjepa.data.batches import batches, open_sources

if __name__ == "__main__":
    config = from_dict(Config, json.loads(Path(sys.argv[1]).read_text()))
    taken = batches(open_sources(config), config.train.stages[0], config, range(10**9))
    next(taken)
"""

KNOWN = {"known1", "known2", "truth", "visible"}
TAUGHT = {"teacher1", "teacher2", "student1", "student2", "corner"}


def make(config: Config, steps: range) -> list[Batch]:
    return list(batches(open_sources(config), config.train.stages[0], config, steps))


def equal(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def with_data(config: Config, **changes: object) -> Config:
    return replace(config, data=replace(config.data, **changes))


def with_loss(config: Config, **changes: float) -> Config:
    return replace(config, loss=replace(config.loss, **changes))


def test_shapes_and_types(small_config):
    stage = replace(small_config.train.stages[0], crop=(64, 128), image_crop=64)
    config = replace(small_config, train=replace(small_config.train, stages=(stage,)))
    (batch,) = make(config, range(3, 4))
    shapes = {k: (tuple(v.shape), v.dtype) for k, v in batch.items()}
    frame, byte = (64, 128), torch.uint8
    assert shapes == {
        "known1": ((2, 3, *frame), byte),
        "known2": ((2, 3, *frame), byte),
        "truth": ((2, 2, *frame), torch.float32),
        "visible": ((2, 1, *frame), torch.bool),
        "video1": ((1, 3, *frame), byte),
        "video2": ((1, 3, *frame), byte),
        "teacher1": ((1, 3, 128, 192), byte),
        "teacher2": ((1, 3, 128, 192), byte),
        "student1": ((1, 3, *frame), byte),
        "student2": ((1, 3, *frame), byte),
        "corner": ((1, 2), torch.int64),
        "view1": ((6, 3, 64, 64), byte),
        "view2": ((6, 3, 64, 64), byte),
    }


def test_a_batch_is_a_function_of_seed_and_step(small_config):
    whole, part = make(small_config, range(4)), make(small_config, range(2, 4))
    assert equal(whole[2], part[0])
    assert equal(whole[3], part[1])
    assert not equal(whole[2], whole[3])
    other = replace(small_config, train=replace(small_config.train, seed=1))
    assert not equal(make(other, range(2, 3))[0], part[0])


def test_a_kind_of_data_is_the_same_whichever_others_are_in_use(small_config):
    def one(config: Config, **stage: int) -> Batch:
        stages = (replace(config.train.stages[0], **stage),)
        return make(replace(config, train=replace(config.train, stages=stages)), range(3, 4))[0]

    joint = one(small_config)
    parts = [
        one(with_loss(small_config, flow=0.0)),
        one(with_loss(small_config, content=0.0), batch=0),
        one(with_loss(small_config, content=0.0), video_batch=0),
    ]
    assert sorted(key for part in parts for key in part) == sorted(joint)
    assert all(torch.equal(part[key], joint[key]) for part in parts for key in part)


def test_no_two_kinds_of_data_draw_the_same_numbers(small_config, monkeypatch):
    streams, default_rng = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: streams.append(seed) or default_rng(seed))
    make(small_config, range(2))
    drawn = {tuple(default_rng(seed).integers(2**62, size=2)) for seed in streams}
    assert len(drawn) == len(streams)


def test_processes_share_a_batch_without_changing_it(small_config):
    stage = replace(small_config.train.stages[0], batch=4, video_batch=2, image_batch=6)
    sources = open_sources(small_config)
    whole = StepBatches(sources, stage, small_config)[5]
    parts = [StepBatches(sources, stage, small_config, process, 2)[5] for process in range(2)]
    assert equal(whole, {k: torch.cat([parts[0][k], parts[1][k]]) for k in whole})


def test_a_worker_makes_the_same_batches(small_config):
    steps = range(1, 4)
    here, there = make(small_config, steps), make(with_data(small_config, workers=1), steps)
    assert all(equal(a, b) for a, b in zip(here, there, strict=True))


class Deadly:
    """What ends the process that unpickles it."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (3,)


def test_a_worker_that_dies_while_starting_is_an_error(small_config):
    """With sources that do not fit into a pipe: a megabyte of names, most of which it does not get to see."""
    files = [FileRef(Path("nowhere"), f"{i:030d}.png") for i in range(25_000)]
    sources = Sources(photos=Deadly(), videos=None, images=ImageSet(files))
    config = with_data(small_config, workers=1)
    with pytest.raises(RuntimeError, match=r"worker .* exited unexpectedly"):
        list(batches(sources, config.train.stages[0], config, range(2)))
    assert multiprocessing.active_children() == []


def test_a_worker_that_hangs_is_an_error_and_is_ended(small_config, tmp_path, monkeypatch):
    """On a picture that never arrives, as on a network folder that is gone: here a pipe nobody writes to."""
    os.mkfifo(tmp_path / "0.png")
    monkeypatch.setattr("mcjepa.data.batches.WORKER_TIMEOUT", 4)
    config = with_data(small_config, workers=1, images=(str(tmp_path),))
    with pytest.raises(RuntimeError, match="timed out after 4 seconds"):
        make(config, range(1))
    assert multiprocessing.active_children() == []


def test_what_a_worker_raises_comes_through(small_config, tmp_path):
    (tmp_path / "0.png").write_bytes(b"no picture")
    config = with_data(small_config, workers=1, images=(str(tmp_path),))
    with pytest.raises(ValueError, match="none of 1 images is readable"):
        make(config, range(1))
    assert multiprocessing.active_children() == []


def test_workers_end_with_the_use_of_their_batches(small_config):
    config = with_data(small_config, workers=2)
    endless = batches(open_sources(config), config.train.stages[0], config, range(10**9))
    next(endless)
    assert len(multiprocessing.active_children()) == 2
    endless.close()
    assert multiprocessing.active_children() == []


def test_a_program_that_ends_amid_its_batches_ends(small_config, tmp_path, script):
    settings = tmp_path / "config.json"
    settings.write_text(json.dumps(to_dict(with_data(small_config, workers=1))))
    command = [sys.executable, str(script(PROGRAM)), str(settings)]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=60, check=True)


def test_images_are_rgb(small_config, tmp_path):
    red = np.zeros((80, 80, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "red.png"), red)
    config = with_data(small_config, photos=(str(tmp_path),))
    (batch,) = make(config, range(1))
    means = batch["known2"].float().mean(dim=(0, 2, 3))
    assert means[0] > 2 * max(means[1], means[2])


def test_video_pairs_are_one_frame_apart_and_cropped_alike(small_config):
    """The clip moves 4 px a frame: the second frame is the first, shifted by 4 px to either side."""
    shifts = set()
    for batch in make(small_config, range(12)):
        first, second = batch["video1"][0].float(), batch["video2"][0].float()
        gaps = {
            shift: (first[:, :, 8 + shift : 56 + shift] - second[:, :, 8:56]).abs().max().item()
            for shift in range(-8, 9)
        }
        assert min(gaps.values()) == 0
        shifts.add(min(gaps, key=gaps.__getitem__))
    assert shifts == {4, -4}


def test_frames_smaller_than_the_crop_are_enlarged(small_config):
    stage = replace(small_config.train.stages[0], crop=(192, 256))
    config = replace(small_config, train=replace(small_config.train, stages=(stage,)))
    assert make(config, range(1))[0]["video1"].shape == (1, 3, 192, 256)


def test_more_images_a_step_than_there_are(small_config):
    stage = replace(small_config.train.stages[0], image_batch=20)
    config = replace(small_config, train=replace(small_config.train, stages=(stage,)))
    assert make(config, range(1))[0]["view1"].shape[0] == 20


@pytest.mark.parametrize("name", ["photos", "videos", "images"])
def test_a_data_set_that_is_needed_and_not_given_is_an_error_that_names_it(small_config, name):
    with pytest.raises(ValueError, match=rf"data\.{name} is empty"):
        open_sources(with_data(small_config, **{name: ()}))


def test_data_that_no_loss_needs_is_neither_asked_for_nor_loaded(small_config):
    content_only = with_data(with_loss(small_config, flow=0.0), photos=(), videos=())
    assert set(make(content_only, range(1))[0]) == {"view1", "view2"}
    flow_only = with_data(with_loss(small_config, content=0.0), images=())
    assert set(make(flow_only, range(1))[0]) == KNOWN | {"video1", "video2"} | TAUGHT
    untaught = with_loss(flow_only, distillation=0.0)
    assert not TAUGHT & set(make(untaught, range(1))[0])
    stage = replace(small_config.train.stages[0], video_batch=0)
    known_only = replace(flow_only, train=replace(flow_only.train, stages=(stage,)))
    assert set(make(with_data(known_only, videos=()), range(1))[0]) == KNOWN


def test_a_student_sees_a_part_of_the_teachers_frames_in_another_light(small_config):
    (batch,) = make(small_config, range(1))
    (h, w), (y, x) = small_config.train.stages[0].crop, batch["corner"][0].tolist()
    for i in "12":
        seen = batch[f"teacher{i}"][0, :, y : y + h, x : x + w].float()
        changed = batch[f"student{i}"][0].float()
        assert np.corrcoef(seen.flatten(), changed.flatten())[0, 1] > 0.9


def test_an_empty_folder_is_an_error(small_config, tmp_path):
    with pytest.raises(ValueError, match="no images in"):
        open_sources(with_data(small_config, photos=(str(tmp_path),)))


def test_a_share_of_known_motion_pairs_is_rendered(small_config, monkeypatch):
    """The composed ones stay what they are without; the rendered ones come with the switches given."""
    made = []

    def render(photos, number, size, max_motion, draws, config):
        made.append((number, size, max_motion, config))
        img1, img2 = torch.zeros(2, 1, 3, *size, dtype=torch.uint8)
        return Pairs(img1, img2, torch.zeros(1, 2, *size), torch.ones(1, 1, *size, dtype=torch.bool))

    monkeypatch.setattr("mcjepa.data.batches.render_pairs", render)
    stage = replace(small_config.train.stages[0], batch=8, video_batch=0)
    sources = open_sources(small_config)
    rendering = RenderConfig(fog=False)
    data = replace(small_config.data, rendered=0.5, rendering=rendering)
    usual = StepBatches(sources, stage, small_config)[3]
    assert not made
    mixed = StepBatches(sources, stage, replace(small_config, data=data))[3]
    composed = mixed["known1"].flatten(1).any(1).bool()
    assert 0 < int((~composed).sum()) == len(made) < 8
    assert torch.equal(mixed["known1"][composed], usual["known1"][composed])
    assert torch.equal(mixed["truth"][composed], usual["truth"][composed])
    assert made[0] == (1, stage.crop, stage.max_motion, rendering)
