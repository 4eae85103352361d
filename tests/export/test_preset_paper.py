"""The preset `paper` finds and trains on the public data sets as they are packed: a dry run on miniatures."""

import json
from pathlib import Path

import cv2
import pytest
from mcjepa.config import load_config
from mcjepa.data.batches import open_sources
from mcjepa.train import train

# Frames of each layout, and how many sequences they make
LAYOUTS = {
    "kitti/training/image_2": (["000000_10.png", "000000_11.png", "000001_10.png", "000001_11.png"], 2),
    "kitti/testing/image_2": (["000000_10.png", "000000_11.png"], 1),
    "sintel/training/clean": (
        ["alley_1/frame_0001.png", "alley_1/frame_0002.png", "cave_2/frame_0001.png"],
        1,
    ),
    "sintel/training/final": (["alley_1/frame_0001.png", "alley_1/frame_0002.png"], 1),
    "flyingthings3d/frames_cleanpass/TRAIN": (
        [f"A/0000/{side}/{n:04d}.png" for side in ("left", "right") for n in (6, 7, 8)],
        2,
    ),
    "flyingthings3d/frames_finalpass/TRAIN": ([f"A/0000/left/{n:04d}.png" for n in (6, 7)], 1),
    "flyingchairs/data": ([f"{pair:05d}_img{n}.ppm" for pair in (1, 2, 3) for n in (1, 2)], 3),
    "hd1k/hd1k_input/image_2": ([f"{seq:06d}_{n:04d}.png" for seq in (0, 1) for n in (9, 10, 11)], 2),
}
SMALL = [
    "model.encoder.widths=[8, 8, 12, 16, 16, 16]",
    "model.encoder.depths=[0, 1, 0, 1, 0, 1]",
    "model.flow={match_dim=8, hidden_dim=8, widths=[16]}",
    "model.content={expander_dim=24, image_size=64, embedding_dim=16}",
    "data.workers=0",
    "train.steps=2",
    "train.log_every=1",
    "train.stages=[{crop=[64, 64], batch=0, video_batch=4, image_batch=6, image_crop=64}]",
]


@pytest.fixture
def miniatures(tmp_path, monkeypatch, texture):
    """Each data set with a few frames, and ImageNet with two classes, in data/ of the current folder."""
    monkeypatch.chdir(tmp_path)
    files = [f"{folder}/{name}" for folder, (names, _) in LAYOUTS.items() for name in names]
    files += [
        f"imagenet/train/{wnid}/{wnid}_{n}.JPEG" for wnid in ("n01440764", "n01443537") for n in range(4)
    ]
    for i, file in enumerate(files):
        path = Path("data", file)
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(
            str(path.with_suffix(".jpg" if path.suffix == ".JPEG" else path.suffix)), texture(72, 96, i)
        )
        if path.suffix == ".JPEG":
            path.with_suffix(".jpg").rename(path)
    Path("data/flyingchairs/data/00001_flow.flo").write_bytes(b"not a frame")
    return tmp_path


def test_every_layout_is_split_into_its_sequences(miniatures):
    config = load_config("paper", SMALL)
    assert set(config.data.videos) == {f"data/{folder}" for folder in LAYOUTS}
    sequences = open_sources(config).videos.sequences
    for folder, (_, count) in LAYOUTS.items():
        assert sum(s.name.startswith(f"data/{folder}/") for s in sequences) == count, folder
    names = [[Path(frame.name).name for frame in s.frames] for s in sequences]
    assert ["000000_10.png", "000000_11.png"] in names
    assert ["00002_img1.ppm", "00002_img2.ppm"] in names
    assert ["000001_0009.png", "000001_0010.png", "000001_0011.png"] in names


def test_a_dry_run_trains_content_first_and_then_both(miniatures):
    config = load_config("paper", SMALL)
    last = train(config, miniatures / "run", device="cpu")
    assert last.name == "step-00000002"
    first, second = (json.loads(line) for line in (miniatures / "run/metrics.jsonl").read_text().splitlines())
    assert "grad_content" in first
    assert "grad_flow" not in first  # the warm-up
    assert {"grad_content", "grad_flow", "photometric", "smoothness", "cycle"} <= second.keys()
    assert not any(key.startswith(("known", "distillation")) for key in second)
