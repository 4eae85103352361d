"""Training by two processes of `torchrun`: as one with the whole batch; started again after one has died."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mcjepa import checkpoint, distributed, run_folder, train
from mcjepa.config import Config, ConfigError, to_dict

# The second process is killed in the fourth step, and in the next life the first one in the fifth. There the
# second one comes late: the first must not look for it where it was before.
DEATHS = """
import time
me = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]
if me == ("1", "1"):
    time.sleep(3)
step = train.Trainer.train_step
def dying(self, batch):
    if (*me, self.progress.step) in [("0", "1", 3), ("1", "0", 4)]:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch)
train.Trainer.train_step = dying
"""


@pytest.fixture
def config(small_config: Config) -> Config:
    """Known motion and content: what is a plain mean over the batch, or looks at the whole of it."""
    stages = tuple(replace(s, batch=2, video_batch=0, image_batch=6) for s in small_config.train.stages)
    return replace(small_config, train=replace(small_config.train, stages=stages))


@pytest.fixture
def torchrun(training_program: Callable[[str], Path], tmp_path: Path) -> Callable[..., int]:
    """torchrun(config, run, trap, restarts) trains in two processes of one thread each; the exit code."""

    def launch(config: Config, run: Path, trap: str = "", restarts: int = 0) -> int:
        settings = tmp_path / "config.json"
        settings.write_text(json.dumps(to_dict(config)))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        command += [f"--max-restarts={restarts}", str(training_program(trap))]
        done = subprocess.run(
            [*command, str(settings), str(run)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.returncode

    return launch


def metrics(run: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (run / run_folder.METRICS).read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "minutes"} for row in found]


def test_two_processes_train_as_one_with_the_whole_batch(config, tmp_path, torchrun):
    train.train(config, tmp_path / "one", device="cpu")
    assert torchrun(config, tmp_path / "two") == 0
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert len(one) == len(two) == config.train.steps
    assert two[0] == pytest.approx(one[0], rel=1e-4)
    for alone, shared in zip(
        one, two, strict=True
    ):  # roundings grow with the steps, most at stride 32: 2x2 cells
        assert shared == pytest.approx(alone, rel=5e-2)
    weights = [checkpoint.load(tmp_path / name).model.state_dict() for name in ("one", "two")]
    for name, value in weights[0].items():
        if not name.startswith("whitening"):  # axes of nearly equal variances are as good as arbitrary
            torch.testing.assert_close(weights[1][name], value, rtol=1e-2, atol=1e-3, msg=name)


def test_a_run_of_which_processes_died_ends_as_if_unbroken(config, tmp_path, torchrun):
    """After one death torchrun starts both again; after the second, one more than it may, the user does."""
    config = replace(config, train=replace(config.train, checkpoint_minutes=0.0))
    assert torchrun(config, tmp_path / "unbroken") == 0
    assert torchrun(config, tmp_path / "broken", DEATHS, restarts=1) != 0
    assert len(metrics(tmp_path / "broken")) == 4  # the second life has taken a step
    assert torchrun(config, tmp_path / "broken", DEATHS, restarts=1) == 0
    assert metrics(tmp_path / "broken") == metrics(tmp_path / "unbroken")
    hashes = [checkpoint.load(tmp_path / name).weights_sha256 for name in ("unbroken", "broken")]
    assert hashes[0] == hashes[1]


def test_a_batch_that_processes_cannot_share_is_refused_by_name(config, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 4)
    with pytest.raises(ConfigError, match=r"train\.stages\[0\]\.batch .* multiple of the 4 processes, got 2"):
        train._check_parts(config)
