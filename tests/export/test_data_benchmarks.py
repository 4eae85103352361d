"""Benchmark folders: each public layout is found and paired right, anything else is an error."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcjepa.data.benchmarks import open_benchmark
from mcjepa.data.flow_files import write_flo, write_kitti


def picture(path: Path, value: int, shape: tuple[int, int] = (4, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*shape, 3), value, np.uint8))


def truth(path: Path, value: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write = write_flo if path.suffix == ".flo" else write_kitti
    write(path, np.full((4, 6, 2), value, np.float32))


def build_sintel(root: Path) -> None:
    for scene in ("alley_1", "market_2"):
        for number in (1, 2, 3):
            for rendering, base in (("clean", 10), ("final", 20)):
                picture(root / f"training/{rendering}/{scene}/frame_{number:04d}.png", base + number)
        for number in (1, 2):
            truth(root / f"training/flow/{scene}/frame_{number:04d}.flo", number)


def build_kitti(root: Path) -> None:
    for name in ("000000", "000001"):
        picture(root / f"training/image_2/{name}_10.png", 11)
        picture(root / f"training/image_2/{name}_11.png", 12)
        truth(root / f"training/flow_occ/{name}_10.png", 1)


def build_flyingchairs(root: Path) -> None:
    for name in ("00001", "00002"):
        picture(root / f"data/{name}_img1.ppm", 11)
        picture(root / f"data/{name}_img2.ppm", 12)
        truth(root / f"data/{name}_flow.flo", 1)


def build_middlebury(root: Path) -> None:
    for name in ("Grove2", "Urban2"):
        picture(root / f"other-data/{name}/frame10.png", 11)
        picture(root / f"other-data/{name}/frame11.png", 12)
        truth(root / f"other-gt-flow/{name}/flow10.flo", 1)


def build_manifest(root: Path) -> None:
    build_kitti(root)
    entries = [
        {"dataset": "mine", "name": name, "kind": "kitti_png", "h": 4, "w": 6}
        | {f"img{n}": f"training/image_2/{name}_1{n - 1}.png" for n in (1, 2)}
        | {"gt": f"training/flow_occ/{name}_10.png"}
        for name in ("000000", "000001")
    ]
    (root / "manifest.json").write_text(json.dumps(entries))


EXPECTED = {
    build_sintel: [
        (f"sintel_{rendering}", f"{scene}/frame_000{number}", base + number, base + number + 1, float(number))
        for rendering, base in (("clean", 10), ("final", 20))
        for scene in ("alley_1", "market_2")
        for number in (1, 2)
    ],
    build_kitti: [("kitti2015", name, 11, 12, 1.0) for name in ("000000", "000001")],
    build_flyingchairs: [("flyingchairs", name, 11, 12, 1.0) for name in ("00001", "00002")],
    build_middlebury: [("middlebury", name, 11, 12, 1.0) for name in ("Grove2", "Urban2")],
    build_manifest: [("mine", name, 11, 12, 1.0) for name in ("000000", "000001")],
}


@pytest.mark.parametrize("build", EXPECTED)
def test_layouts_are_found_and_paired(tmp_path, build):
    build(tmp_path)
    found = []
    for sample in open_benchmark(tmp_path):
        img1, img2 = sample.frames()
        flow, valid = sample.ground_truth()
        assert img1.shape == img2.shape == (4, 6, 3)
        assert valid.all()
        found.append((sample.dataset, sample.name, img1[0, 0, 0], img2[0, 0, 0], flow[0, 0, 0]))
    assert found == EXPECTED[build]


def test_a_missing_file_is_found_on_opening(tmp_path):
    build_kitti(tmp_path)
    (tmp_path / "training/image_2/000001_11.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"000001_11\.png is missing \(1 files in all\)"):
        open_benchmark(tmp_path)


def test_a_foreign_folder_says_what_was_expected(tmp_path):
    with pytest.raises(ValueError, match=r"manifest\.json.*Sintel.*KITTI.*FlyingChairs.*Middlebury"):
        open_benchmark(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        open_benchmark(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "[1]", "3", '[{"dataset": "x"}]'])
def test_a_broken_manifest_is_an_error_naming_it(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json: "):
        open_benchmark(tmp_path)


def test_a_manifest_with_an_unknown_kind_is_an_error(tmp_path):
    build_manifest(tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace("kitti_png", "exr"))
    with pytest.raises(ValueError, match="kind 'exr'"):
        open_benchmark(tmp_path)


def test_frames_of_two_sizes_or_unreadable_ones_are_errors(tmp_path):
    build_kitti(tmp_path)
    picture(tmp_path / "training/image_2/000000_11.png", 12, shape=(5, 6))
    (tmp_path / "training/image_2/000001_11.png").write_bytes(b"junk")
    first, second = open_benchmark(tmp_path)
    with pytest.raises(ValueError, match="kitti2015/000000: frames of"):
        first.frames()
    with pytest.raises(ValueError, match=r"000001_11\.png: cannot be decoded"):
        second.frames()


def test_the_development_pairs_are_readable():
    folder = os.environ.get("MCJEPA_FLOW_DEV")
    if not folder:
        pytest.skip("MCJEPA_FLOW_DEV does not name the unpacked flow_dev folder")
    samples = open_benchmark(Path(folder))
    assert len(samples) == 19
    for sample in samples:
        (img1, _), (flow, valid) = sample.frames(), sample.ground_truth()
        assert flow.shape[:2] == img1.shape[:2] == valid.shape
        assert valid.any()
        assert 0.1 < np.abs(flow[valid]).mean() < 200
