"""How fast training goes: seconds a step and frame pairs a second by threads, and whether data keeps up.

python benchmarks/training.py [--preset nano] [--stage -1] [--steps 5] [--threads 1 2] [--output FILE]

One stage of a preset, on frames of a video as photos and as still images. The steps are timed on batches
made beforehand, the making of batches on its own: in one thread, as a worker does it (data keeps up where it
takes less than a step, shared between `data.workers`), or on the device, which it keeps from the next step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from common import machine, read_frames, write_json
from mcjepa.config import Config, StageConfig, load_config
from mcjepa.data.batches import Batch, StepBatches, open_sources
from mcjepa.data.device_batches import DeviceBatches
from mcjepa.train import Trainer

WARM_UP = 4  # steps that are not timed; on a GPU the fourth is recorded


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        config = _config(args.preset, args.stage, Path(folder))
        stage = config.train.stages[0]
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        made, seconds = _make(config, stage, args.steps + WARM_UP, device)
        steps = {t: _step_seconds(config, made, t, device, Path(folder)) for t in args.threads}
    pairs, images = stage.batch + stage.video_batch, stage.image_batch
    result = machine(max(args.threads)) | {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "preset": args.preset,
        "crop": stage.crop,
        "pairs": pairs,
        "images": images,
        "seconds_to_make_a_batch": round(seconds, 3),
        "seconds_a_step": {t: round(s, 3) for t, s in steps.items()},
    }
    _show(result, 1 if config.data.on_device else max(config.data.workers, 1))
    if args.output:
        write_json(args.output, result)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--stage", type=int, default=-1, help="which stage of the preset (default: the last)")
    parser.add_argument("--steps", type=int, default=5, help="timed, after some to warm up (default: 5)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--output", type=Path, help="write the numbers as JSON")
    return parser.parse_args()


def _config(preset: str, stage: int, folder: Path) -> Config:
    """One stage of a preset, on frames written to a folder."""
    for i, frame in enumerate(read_frames(16)):
        cv2.imwrite(str(folder / f"{i:02d}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    config = load_config(preset)
    paths = (str(folder),)
    data = replace(config.data, photos=paths, videos=paths, images=paths, video_cache=str(folder / "cache"))
    stages = (replace(config.train.stages[stage], until=1.0),)
    return replace(config, data=data, train=replace(config.train, stages=stages, content_warmup=0.0))


def _make(config: Config, stage: StageConfig, count: int, device: torch.device) -> tuple[list[Batch], float]:
    """Batches, and the median seconds that one takes."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    sources = open_sources(config)
    make: Callable[[int], Batch]
    if config.data.on_device:
        make = partial(DeviceBatches(sources, config, device).batch, stage)
    else:
        make = StepBatches(sources, stage, config).__getitem__
    made, times = [], []
    for step in range(count):
        began = time.perf_counter()
        made.append(make(step))
        _wait(device)
        times.append(time.perf_counter() - began)
    return made, statistics.median(times)


def _step_seconds(
    config: Config, made: list[Batch], threads: int, device: torch.device, folder: Path
) -> float:
    """Median seconds of a training step after those that warm up."""
    torch.set_num_threads(threads)
    trainer, times = Trainer(config, folder, device), []
    for batch in made:
        began = time.perf_counter()
        trainer.train_step(batch)
        _wait(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[WARM_UP:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _show(result: dict[str, Any], makers: int) -> None:
    print({k: v for k, v in result.items() if not k.startswith("seconds")})
    print(f"a batch of data: {result['seconds_to_make_a_batch']:.3g} s")
    print("| threads | s a step | pairs/s | images/s | data takes, of a step |")
    print("|---|---|---|---|---|")
    for threads, seconds in result["seconds_a_step"].items():
        share = result["seconds_to_make_a_batch"] / makers / seconds
        rates = f"{result['pairs'] / seconds:.1f} | {result['images'] / seconds:.0f}"
        print(f"| {threads} | {seconds:.3g} | {rates} | {100 * share:.0f} % |")


if __name__ == "__main__":
    main()
