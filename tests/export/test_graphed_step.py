"""A training step recorded as a CUDA graph does what the step does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mcjepa.data.batches import open_sources
from mcjepa.data.device_batches import DeviceBatches
from mcjepa.train import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA GPU")


def test_a_recorded_step_trains_as_the_step_itself(small_config, tmp_path):
    stages = tuple(replace(stage, video_batch=0) for stage in small_config.train.stages)
    data = replace(small_config.data, on_device=True)
    config = replace(small_config, data=data, train=replace(small_config.train, stages=stages))
    cuda = torch.device("cuda")
    made = DeviceBatches(open_sources(config), config, cuda)
    batches = [made.batch(stages[0], step) for step in range(8)]
    losses = []
    for graphed in (True, False):
        torch.manual_seed(0)
        trainer = Trainer(config, tmp_path, cuda)
        assert trainer.graphed is not None
        if not graphed:
            trainer.graphed = None
        losses.append([float(trainer.train_step(batch)["known_motion"]) for batch in batches])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
