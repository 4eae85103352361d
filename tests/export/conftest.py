"""What the tests of the training package share: textures, small data sets, a small configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mcjepa.config import (
    Config,
    ContentConfig,
    DataConfig,
    EncoderConfig,
    FlowConfig,
    LossConfig,
    ModelConfig,
    StageConfig,
    TrainConfig,
)
from mcjepa.data.draws import Draws

# A program that trains by the configuration in a JSON file, after something was put in its way.
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from mcjepa import checkpoint, train
from mcjepa.config import Config, from_dict

{trap}

if __name__ == "__main__":
    config, run = sys.argv[1:]
    train.train(from_dict(Config, json.loads(Path(config).read_text())), Path(run), device="cpu")
"""


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


def _texture(height: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    layers = [rng.integers(0, 256, (max(height // s, 2), max(width // s, 2), 3)) for s in (4, 12, 32)]
    grown = [cv2.resize(x.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC) for x in layers]
    return np.clip(np.mean(grown, axis=0) * 1.6 - 76, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def texture() -> Callable[[int, int, int], np.ndarray]:
    """texture(height, width, seed) -> uint8 RGB (H, W, 3) with detail from 4 to 32 px."""
    return _texture


@pytest.fixture
def photos() -> torch.Tensor:
    """Six photos as batches on a device hold them: uint8 (6, 3, 96, 144)."""
    return torch.from_numpy(np.stack([_texture(96, 144, i) for i in range(6)])).permute(0, 3, 1, 2)


@pytest.fixture(scope="session")
def draws() -> Callable[..., Draws]:
    """draws(*seed) -> a fresh random stream on the CPU."""
    return lambda *seed: Draws(seed, torch.device("cpu"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Photos, one frame folder and still images, as small files."""
    root = tmp_path_factory.mktemp("data")
    for name in ("photos", "clip", "images"):
        (root / name).mkdir()
    wide = _texture(100, 160, 50)
    for i in range(5):
        cv2.imwrite(str(root / f"photos/{i}.png"), _texture(96, 128, i))
        cv2.imwrite(str(root / f"clip/{i}.png"), wide[5:85, 4 * i : 4 * i + 110])  # moves 4 px a frame
    for i in range(12):
        cv2.imwrite(str(root / f"images/{i}.png"), _texture(72, 72, 100 + i))
    photos, videos, images = ((str(root / name),) for name in ("photos", "clip", "images"))
    return DataConfig(photos, videos, images, video_cache=str(root / "cache"), workers=0)


@pytest.fixture
def small_model() -> ModelConfig:
    return ModelConfig(
        EncoderConfig(widths=(8, 8, 12, 16, 16, 16), depths=(0, 1, 0, 1, 0, 1)),
        FlowConfig(match_dim=8, hidden_dim=8, widths=(16,)),
        ContentConfig(expander_dim=24, embedding_dim=20, image_size=64),
    )


@pytest.fixture
def small_config(small_model: ModelConfig, data: DataConfig) -> Config:
    """A run of 6 steps in two stages, in float32, as quick as it can be with every kind of data in it."""
    first = StageConfig(0.5, (64, 64), batch=2, video_batch=1, max_motion=8.0, image_batch=6, image_crop=64)
    second = replace(first, until=1.0, max_motion=16.0)
    train = TrainConfig(
        steps=6, warmup_steps=2, content_warmup=0.0, bf16=False, log_every=1, stages=(first, second)
    )
    return Config(small_model, LossConfig(), data, train)


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    """script(text) -> a Python file; started as a program, unlike `-c`, it may start worker processes."""

    def write(text: str) -> Path:
        path = tmp_path / "script.py"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def training_program(script: Callable[[str], Path]) -> Callable[[str], Path]:
    """training_program(trap) -> a program `CONFIG.json RUN` that trains, with the code `trap` in its way."""
    return lambda trap: script(PROGRAM.format(trap=trap))
