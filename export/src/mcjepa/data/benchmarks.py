"""Flow benchmarks with ground truth: a folder with a manifest.json, or one of the four public layouts."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mcjepa.data.files import decode_rgb
from mcjepa.data.flow_files import Kind, read_flow


class FlowSample(NamedTuple):
    """One frame pair with ground truth; nothing is read before it is asked for."""

    dataset: str
    name: str
    img1: Path
    img2: Path
    gt_path: Path
    kind: Kind
    visible_path: Path | None = None  # KITTI: flow of the points seen in both frames; Sintel: occlusion map

    def frames(self) -> tuple[np.ndarray, np.ndarray]:
        """(img1, img2), each uint8 RGB (H, W, 3). Raises ValueError for an unreadable one or two sizes."""
        img1, img2 = _read_rgb(self.img1), _read_rgb(self.img2)
        if img1.shape != img2.shape:
            raise ValueError(f"{self.dataset}/{self.name}: frames of {img1.shape} and {img2.shape}")
        return img1, img2

    def ground_truth(self) -> tuple[np.ndarray, np.ndarray]:
        """(flow float32 (H, W, 2) px, valid bool (H, W)), frame 1 to frame 2."""
        return read_flow(self.gt_path, self.kind)

    def visible(self) -> np.ndarray | None:
        """Bool (H, W): points of frame 1 that frame 2 shows, where the flow is known; None if not stated."""
        if self.visible_path is None:
            return None
        if self.kind == "kitti_png":
            return read_flow(self.visible_path, self.kind)[1]
        return _read_rgb(self.visible_path)[..., 0] == 0  # Sintel: white where occluded


def open_benchmark(path: Path) -> list[FlowSample]:
    """All samples of a benchmark folder, in a fixed order.

    Understands a manifest.json (a list of {dataset, name, kind, img1, img2, gt}), MPI-Sintel, KITTI 2015,
    FlyingChairs and Middlebury, each as its authors pack it. Raises FileNotFoundError where a file of a
    sample is missing, ValueError for a broken manifest or a folder of none of these layouts.
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder (archives have to be unpacked first)")
    for read_layout in LAYOUTS.values():
        if samples := list(read_layout(root)):
            _check_files(samples)
            return samples
    raise ValueError(f"{root}: no benchmark found; expected one of: {'; '.join(LAYOUTS)}")


def _manifest(root: Path) -> Iterator[FlowSample]:
    path = root / "manifest.json"
    if not path.is_file():
        return
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        for entry in entries:
            img1, img2, gt = (root / entry[field] for field in ("img1", "img2", "gt"))
            yield FlowSample(entry["dataset"], entry["name"], img1, img2, gt, _checked_kind(entry["kind"]))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error


def _sintel(root: Path) -> Iterator[FlowSample]:
    for rendering in ("clean", "final"):
        frames = root / "training" / rendering
        for gt in _sorted(root.glob("training/flow/*/frame_*.flo")) if frames.is_dir() else []:
            scene, number = gt.parent.name, int(gt.stem.removeprefix("frame_"))
            img1, img2 = (frames / scene / f"frame_{n:04d}.png" for n in (number, number + 1))
            occlusions = _if_there(root / "training" / "occlusions" / scene / f"{gt.stem}.png")
            yield FlowSample(f"sintel_{rendering}", f"{scene}/{gt.stem}", img1, img2, gt, "flo", occlusions)


def _kitti(root: Path) -> Iterator[FlowSample]:
    for gt in _sorted(root.glob("training/flow_occ/*_10.png")):
        name = gt.stem.removesuffix("_10")
        img1, img2 = (root / "training" / "image_2" / f"{name}_{n}.png" for n in (10, 11))
        seen = _if_there(root / "training" / "flow_noc" / gt.name)
        yield FlowSample("kitti2015", name, img1, img2, gt, "kitti_png", seen)


def _flyingchairs(root: Path) -> Iterator[FlowSample]:
    for gt in _sorted(root.glob("data/*_flow.flo")):
        name = gt.stem.removesuffix("_flow")
        img1, img2 = (gt.with_name(f"{name}_img{n}.ppm") for n in (1, 2))
        yield FlowSample("flyingchairs", name, img1, img2, gt, "flo")


def _middlebury(root: Path) -> Iterator[FlowSample]:
    for gt in _sorted(root.glob("other-gt-flow/*/flow10.flo")):
        scene = gt.parent.name
        img1, img2 = (root / "other-data" / scene / f"frame{n}.png" for n in (10, 11))
        yield FlowSample("middlebury", scene, img1, img2, gt, "flo")


# What a folder is expected to hold -> its reader, which yields nothing for a folder of another layout.
LAYOUTS: dict[str, Callable[[Path], Iterator[FlowSample]]] = {
    "manifest.json": _manifest,
    "MPI-Sintel (training/{clean,final,flow}/SCENE/frame_NNNN)": _sintel,
    "KITTI 2015 (training/{image_2,flow_occ}/NNNNNN_10.png)": _kitti,
    "FlyingChairs (data/NNNNN_{img1.ppm,img2.ppm,flow.flo})": _flyingchairs,
    "Middlebury (other-data/SCENE/frame10.png, other-gt-flow/SCENE/flow10.flo)": _middlebury,
}


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _sorted(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if not path.name.startswith("."))


def _checked_kind(kind: str) -> Kind:
    if kind not in ("flo", "kitti_png"):
        raise ValueError(f"kind {kind!r} is neither 'flo' nor 'kitti_png'")
    return kind  # type: ignore[return-value]


def _check_files(samples: list[FlowSample]) -> None:
    missing = [file for s in samples for file in (s.img1, s.img2, s.gt_path) if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"{missing[0]} is missing ({len(missing)} files in all)")


def _read_rgb(path: Path) -> np.ndarray:
    try:
        return decode_rgb(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
