"""Flow: known errors come out as they are, on tiny benchmarks made here."""

import json

import cv2
import numpy as np
import pytest
from mcjepa.data.benchmarks import open_benchmark
from mcjepa.data.flow_files import write_flo, write_kitti
from mcjepa.evaluation.flow import evaluate_flow, flow_table
from mcjepa.pictures import pad_to_stride, to_square
from mcjepa.predictors import CLASSICAL, dis_flow, zero_flow
from mcjepa.quality import FAST


class FixedModels:
    """Answers every pair with (3, 4) px."""

    qualities = (FAST,)

    def flow(self, img1, img2, quality=FAST):
        return np.full((*img1.shape[:2], 2), (3.0, 4.0), np.float32)


@pytest.fixture
def benchmark_folder(tmp_path):
    """Two data sets of one pair each, true flow (3, 4) and (0, 0)."""
    entries = []
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    for name, motion in (("moving", (3.0, 4.0)), ("still", (0.0, 0.0))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
        write_flo(tmp_path / f"{name}.flo", np.full((48, 64, 2), motion, np.float32))
        files = {"img1": f"{name}.png", "img2": f"{name}.png", "gt": f"{name}.flo"}
        entries.append({"dataset": name, "name": name, "kind": "flo", "h": 48, "w": 64} | files)
    (tmp_path / "manifest.json").write_text(json.dumps(entries))
    return tmp_path


def test_flow_rows_hold_each_method_on_each_data_set(benchmark_folder):
    rows = evaluate_flow(FixedModels(), [benchmark_folder])
    epe = {(r["dataset"], r["method"]): r["epe"] for r in rows}
    assert epe["moving", "mcjepa fast"] == 0.0
    assert epe["moving", "zero"] == 5.0
    assert epe["still", "mcjepa fast"] == 5.0
    assert {r["epe_noc"] for r in rows} == {None}  # a manifest does not state it
    assert epe["still", "zero"] == 0.0
    assert epe["all pairs", "mcjepa fast"] == 2.5
    assert {r["method"] for r in rows} == {*CLASSICAL, "mcjepa fast"}
    table = flow_table(rows)
    assert (
        f"| {benchmark_folder.name} | all pairs | mcjepa fast | 2 | 2.5 | 2.5 | 0.0 | 50.0 | 50.0 | 50.0 |"
        in table
    )
    assert f"| {benchmark_folder.name} | all pairs | mcjepa fast | 2.5 |" in table  # all of it moves slowly


def manifest_of_errors(folder, errors):
    """A benchmark on whose pairs `FixedModels` is off by what is given: (data set, px) a pair."""
    folder.mkdir()
    cv2.imwrite(str(folder / "image.png"), np.zeros((48, 64, 3), np.uint8))
    entries = []
    for i, (dataset, error) in enumerate(errors):
        write_flo(folder / f"{i}.flo", np.full((48, 64, 2), (3.0, 4.0 + error), np.float32))
        files = {"img1": "image.png", "img2": "image.png", "gt": f"{i}.flo"}
        entries.append({"dataset": dataset, "name": str(i), "kind": "flo", "h": 48, "w": 64} | files)
    (folder / "manifest.json").write_text(json.dumps(entries))
    return folder


def test_pairs_count_alike_and_so_do_data_sets(tmp_path):
    benchmarks = [
        manifest_of_errors(tmp_path / "one", [("a", 1.0), ("a", 4.0), ("a", 16.0), ("b", 2.0)]),
        manifest_of_errors(tmp_path / "two", [("c", 2.0), ("c", 8.0)]),
    ]
    rows = evaluate_flow(FixedModels(), benchmarks)
    found = {(r["benchmark"], r["dataset"]): r for r in rows if r["method"] == "mcjepa fast"}
    figures = ("pairs", "epe", "median_epe", "geo_epe", "fl_all")
    assert {key: tuple(row[name] for name in figures) for key, row in found.items()} == {
        ("one", "a"): (3, 7.0, 4.0, 4.0, 66.667),
        ("one", "b"): (1, 2.0, 2.0, 2.0, 0.0),
        ("one", "all pairs"): (4, 5.75, 3.0, 3.364, 50.0),
        ("one", "mean of sets"): (4, 4.5, 3.0, 2.828, 33.334),
        ("two", "c"): (2, 5.0, 5.0, 4.0, 50.0),
        ("two", "all pairs"): (2, 5.0, 5.0, 4.0, 50.0),
        ("two", "mean of sets"): (2, 5.0, 5.0, 4.0, 50.0),
    }


def test_two_benchmarks_of_one_name_are_refused(benchmark_folder):
    with pytest.raises(ValueError, match="name of its own"):
        evaluate_flow(FixedModels(), [benchmark_folder, benchmark_folder])


def test_occluded_points_are_told_apart_where_the_data_set_knows_them(tmp_path):
    """KITTI: the true flow is (3, 4) on the left, which both frames show, and (0, 0) on the right."""
    training = tmp_path / "training"
    for folder in ("image_2", "flow_occ", "flow_noc"):
        (training / folder).mkdir(parents=True)
    for n in (10, 11):
        cv2.imwrite(str(training / f"image_2/000000_{n}.png"), np.zeros((48, 64, 3), np.uint8))
    left = np.arange(64)[None, :].repeat(48, 0) < 16
    gt = np.where(left[..., None], np.float32([3, 4]), np.float32(0))
    write_kitti(training / "flow_occ/000000_10.png", gt)
    write_kitti(training / "flow_noc/000000_10.png", gt, left)
    rows = {r["method"]: r for r in evaluate_flow(FixedModels(), [tmp_path]) if r["dataset"] == "kitti2015"}
    assert (rows["mcjepa fast"]["epe_noc"], rows["mcjepa fast"]["epe_occ"], rows["mcjepa fast"]["epe"]) == (
        0.0,
        5.0,
        3.75,
    )
    assert (rows["zero"]["epe_noc"], rows["zero"]["epe_occ"]) == (5.0, 0.0)
    assert "| occluded" in flow_table(list(rows.values()))


def test_sintel_marks_occluded_points_white(tmp_path):
    training = tmp_path / "training"
    for folder in ("clean/alley", "final/alley", "flow/alley", "occlusions/alley"):
        (training / folder).mkdir(parents=True)
    for rendering in ("clean", "final"):
        for n in (1, 2):
            cv2.imwrite(
                str(training / f"{rendering}/alley/frame_000{n}.png"), np.zeros((48, 64, 3), np.uint8)
            )
    write_flo(training / "flow/alley/frame_0001.flo", np.zeros((48, 64, 2), np.float32))
    hidden = np.zeros((48, 64), np.uint8)
    hidden[:, :5] = 255
    cv2.imwrite(str(training / "occlusions/alley/frame_0001.png"), hidden)
    for sample in open_benchmark(tmp_path):
        np.testing.assert_array_equal(sample.visible(), hidden == 0)


def test_pictures_show_the_best_and_the_worst_pair(benchmark_folder, tmp_path):
    evaluate_flow(FixedModels(), [benchmark_folder], tmp_path / "pictures")
    best, worst = (cv2.imread(str(tmp_path / f"pictures/flow-{n}-1.png")) for n in ("best", "worst"))
    assert best.shape == worst.shape
    assert best[-1, 630].tolist() != worst[-1, 630].tolist()  # in the error map: 0 px and 5 px


def test_baselines_on_a_shifted_texture():
    texture = cv2.GaussianBlur(np.random.default_rng(4).integers(0, 255, (140, 180, 3), np.uint8), (0, 0), 3)
    img1, img2 = texture[10:130, 10:170], texture[10:130, 8:168]  # what is at x in img1 is at x + 2 in img2
    assert np.abs(dis_flow(img1, img2)[20:-20, 20:-20] - (2.0, 0.0)).mean() < 0.3
    assert not zero_flow(img1, img2).any()


def test_padding_repeats_the_border_and_squares_take_the_whole_image():
    image = np.random.default_rng(5).integers(0, 255, (70, 130, 3), np.uint8)
    padded = pad_to_stride(image)
    assert padded.shape == (128, 192, 3)
    assert (padded[:70, :130] == image).all()
    assert (padded[100, :130] == image[69]).all()
    assert to_square(image, 64).shape == (64, 64, 3)
    assert to_square(image[:16, :100], 64).shape == (64, 64, 3)
