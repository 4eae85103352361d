"""Segmentation by a linear head, on images whose classes are colours."""

import cv2
import numpy as np
import pytest
from mcjepa.data.masks import write_mask
from mcjepa.evaluation.segment import evaluate_segmentation, iou, segmentation_table

COLOURS = np.array([[20, 20, 200], [20, 200, 20], [200, 20, 20]])


class CellColour:
    """Dense features: the mean colour of each cell of 8 px."""

    def features(self, img):
        h, w = (-(-n // 8) for n in img.shape[:2])
        padded = np.pad(img, ((0, 8 * h - img.shape[0]), (0, 8 * w - img.shape[1]), (0, 0)), mode="edge")
        return cv2.resize(padded, (w, h), interpolation=cv2.INTER_AREA).transpose(2, 0, 1).astype(np.float32)


class Blind:
    """Sees nothing at all."""

    def features(self, img):
        return np.zeros((3, -(-img.shape[0] // 8), -(-img.shape[1] // 8)), np.float32)


@pytest.fixture
def folders(tmp_path):
    """Images of 60 x 100 px in vertical bands, class 2 in half of them; a rim that is not judged."""
    for split in ("train", "test"):
        for i in range(6):
            mask = np.zeros((60, 100), np.uint8)
            mask[:, 32:64], mask[:, 64:] = 1, 2 if i % 2 else 0
            colours = COLOURS[mask] + np.random.default_rng(i).integers(-10, 10, (60, 100, 3))
            mask[:2] = 255
            (tmp_path / split).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / split / f"{i}.png"), colours.astype(np.uint8))
            write_mask(tmp_path / f"{split}_masks" / f"{i}.png", mask)
    return [(tmp_path / split, tmp_path / f"{split}_masks") for split in ("train", "test")]


def test_colours_are_segmented_but_for_the_borders_of_cells(folders, tmp_path):
    row = evaluate_segmentation(CellColour(), *folders, pictures=tmp_path / "pictures")
    assert row["miou"] > 90  # scores are interpolated over the cell at a border
    assert (row["classes"], row["train_images"], row["test_images"]) == (3, 6, 6)
    assert len(list((tmp_path / "pictures").iterdir())) == 6
    assert f"| 6 / 6 | 3 | {row['miou']} |" in segmentation_table(row)


def test_features_that_tell_nothing_are_no_better_than_the_most_frequent_class(folders):
    row = evaluate_segmentation(Blind(), *folders)
    assert row["miou"] == row["miou_most_frequent"]
    share = (32 + 36 / 2) / 100  # of class 0
    assert row["miou"] == pytest.approx(100 * share / 3, abs=0.01)
    assert row["iou"] == {"0": pytest.approx(100 * share), "1": 0.0, "2": 0.0}


def test_iou_by_hand_leaves_out_what_is_not_in_the_truth():
    confusion = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    np.testing.assert_allclose(iou(confusion), [6 / 9, 3 / 6, np.nan])


def test_missing_masks_and_other_sizes_are_named(folders, tmp_path):
    train, test = folders
    with pytest.raises(ValueError, match="no mask for any of the 6 images"):
        evaluate_segmentation(CellColour(), train, (test[0], tmp_path))
    write_mask(train[1] / "3.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"3\.png: \(8, 8\), but its image is \(60, 100\)"):
        evaluate_segmentation(CellColour(), train, test)
