"""Known-motion pairs: how long one takes, what each switch costs, and a sheet of them to look at.

python benchmarks/synthetic_pairs.py PHOTOS... [--pairs 30] [--max-motion 100] [--switches] [--sheet FILE.jpg]

PHOTOS are image folders, tars or video files. Seconds are those of one thread, for pairs of 448x640 that are
composed one by one, as workers compose them. The sheet shows frame 1, frame 2, the flow and what is visible.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import fields, replace
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from mcjepa.config import SyntheticConfig
from mcjepa.data.draws import Draws
from mcjepa.data.images import open_images
from mcjepa.data.known_motion import PHOTOS, Pairs, as_photo, compose_pairs
from torch import Tensor

SIZE = (448, 640)
MOST_PHOTOS = 60
ACROSS, DOWN = 2, 10  # pairs of a sheet
NONE = SyntheticConfig(**{f.name: 0.0 for f in fields(SyntheticConfig)})


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    photos = read_photos(args.photos)
    usual, plain = (_seconds(photos, args, config) for config in (SyntheticConfig(), NONE))
    print(f"{usual:.3f} s a pair, {plain:.3f} with all off")
    if args.switches:
        for name in (f.name for f in fields(SyntheticConfig)):
            taken = _seconds(photos, args, replace(NONE, **{name: 1.0}))
            print(f"{name:14s} {taken - plain:+.3f} s where it is always on")
    if args.sheet:
        rows = [_picture(_compose(photos, args, seed, SyntheticConfig())) for seed in range(ACROSS * DOWN)]
        columns = [np.concatenate(rows[i * DOWN : (i + 1) * DOWN], 0) for i in range(ACROSS)]
        cv2.imwrite(str(args.sheet), np.concatenate(columns, 1)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


def read_photos(paths: list[Path]) -> Tensor:
    """Up to MOST_PHOTOS pictures, evenly spread over images and videos: uint8 (N, 3, *PHOTO)."""
    found: list[np.ndarray] = []
    for path in paths:
        if path.suffix in (".mp4", ".webm"):
            with av.open(str(path)) as video:
                found += [as_photo(frame.to_ndarray(format="rgb24")) for frame in video.decode(video=0)]
        else:
            images = open_images([path])
            found += [as_photo(images[i]) for i in range(0, len(images), -(-len(images) // MOST_PHOTOS))]
    chosen = found[:: -(-len(found) // MOST_PHOTOS)]
    return torch.from_numpy(np.stack(chosen)).permute(0, 3, 1, 2).contiguous()


def _compose(photos: Tensor, args: argparse.Namespace, seed: int, config: SyntheticConfig) -> Pairs:
    draws = Draws((args.seed, seed), torch.device("cpu"))
    mine = photos[draws.fork("photos").distinct(PHOTOS, len(photos))]
    return compose_pairs(mine, 1, SIZE, args.max_motion, draws, config)


def _seconds(photos: Tensor, args: argparse.Namespace, config: SyntheticConfig) -> float:
    start = time.process_time()
    for seed in range(args.pairs):
        _compose(photos, args, seed, config)
    return (time.process_time() - start) / int(args.pairs)


def _picture(pairs: Pairs) -> np.ndarray:
    """A pair in a row, at a quarter of its height: uint8 RGB."""
    x, y = pairs.flow[0].numpy()
    angle = np.degrees(np.arctan2(y, x)) % 360 / 2
    length = np.hypot(x, y)
    strong = np.clip(255 * length / max(float(np.percentile(length, 99)), 1.0), 0, 255)
    hsv = np.stack([angle, strong, np.full_like(angle, 255)], -1).astype(np.uint8)
    frames = [img[0].permute(1, 2, 0).numpy() for img in (pairs.img1, pairs.img2)]
    visible = np.repeat(255 * pairs.visible[0].permute(1, 2, 0).numpy().astype(np.uint8), 3, 2)
    row = np.concatenate([*frames, cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), visible], 1)
    return cv2.resize(row, None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--pairs", type=int, default=30, help="that are timed (default: 30)")
    parser.add_argument("--max-motion", type=float, default=100.0, help="px (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--switches", action="store_true", help="time each switch by itself")
    parser.add_argument("--sheet", type=Path, help="write a JPEG of pairs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
