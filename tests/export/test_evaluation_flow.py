"""Flow: known errors come out as they are, on tiny benchmarks made here."""

import json

import cv2
import numpy as np
import pytest
from mcjepa.data.flow_files import write_flo
from mcjepa.evaluation.flow import evaluate_flow, flow_table
from mcjepa.predictors import dis_flow, pad_to_stride, to_square, zero_flow


class FixedModels:
    """Answers every pair with (3, 4) px."""

    def flow(self, img1, img2):
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
    rows = evaluate_flow(FixedModels(), benchmark_folder)
    epe = {(r["dataset"], r["method"]): r["epe"] for r in rows}
    assert epe["moving", "mcjepa"] == 0.0
    assert epe["moving", "zero"] == 5.0
    assert epe["still", "mcjepa"] == 5.0
    assert epe["still", "zero"] == 0.0
    assert epe["all", "mcjepa"] == 2.5
    assert {r["method"] for r in rows} == {"zero", "DIS medium", "mcjepa"}
    table = flow_table(rows)
    assert "| all | 2 | mcjepa | 2.5 | 2.5 | 50.0 | 50.0 |" in table


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
