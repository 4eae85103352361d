"""Propagation and J&F on miniature videos whose masks are known exactly."""

import cv2
import numpy as np
import pytest
import torch
from mcjepa.data.composed_videos import write_composed
from mcjepa.data.masks import open_davis, read_mask, write_mask
from mcjepa.evaluation import propagate
from mcjepa.evaluation.jf import boundary, boundary_f, region_similarity
from PIL import Image

STEP = 8  # px a frame, a whole cell


def square(x: int, y: int = 24, side: int = 32) -> np.ndarray:
    mask = np.zeros((96, 160), np.uint8)
    mask[y : y + side, x : x + side] = 1
    return mask


class Perfect:
    """Knows the motion of the square, and sees objects as colours."""

    def flow(self, img1, img2):
        direction = np.sign(
            np.flatnonzero(img2[40, :, 0] > 200).min() - np.flatnonzero(img1[40, :, 0] > 200).min()
        )
        return np.full((*img1.shape[:2], 2), (STEP * direction, 0), np.float32)  # the ground moves along

    def features(self, img):
        cells = cv2.resize(img, (img.shape[1] // 8, img.shape[0] // 8), interpolation=cv2.INTER_AREA)
        feats = np.where(cells[..., :1] > 200, [1.0, 0.0], [0.0, 1.0])
        return feats.transpose(2, 0, 1).astype(np.float32)


@pytest.fixture
def davis(tmp_path):
    """One video of a bright square that moves STEP px a frame over a dark ground."""
    for t in range(5):
        mask = square(24 + STEP * t)
        path = tmp_path / "JPEGImages/480p/square" / f"{t:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.where(mask[..., None] > 0, np.uint8(250), np.uint8(20)).repeat(3, 2))
        write_mask(tmp_path / "Annotations/480p/square" / f"{t:05d}.png", mask)
    return tmp_path


def test_a_perfect_prediction_has_j_and_f_of_one_and_a_worse_one_less(davis):
    video = open_davis(davis)[0]
    truth = [video.mask(t) for t in range(1, 5)]
    np.testing.assert_array_equal(propagate.judge(video, iter(truth)), [[1.0, 1.0]])
    shifted = [np.roll(mask, 4, axis=1) for mask in truth]
    far = [np.roll(mask, 16, axis=1) for mask in truth]
    one, two, three = (propagate.judge(video, iter(m))[0] for m in (truth, shifted, far))
    assert (one > two).all()
    assert (two > three).all()


def test_j_of_shifted_squares_is_the_share_that_overlaps():
    assert region_similarity(square(0) > 0, square(16) > 0) == pytest.approx(16 / 48)
    assert region_similarity(square(0) > 0, square(64) > 0) == 0.0
    nothing = np.zeros((96, 160), bool)
    assert region_similarity(nothing, nothing) == boundary_f(nothing, nothing) == 1.0
    assert boundary_f(nothing, square(0) > 0) == 0.0


def test_f_forgives_as_much_as_the_tolerance_and_no_more():
    reach = int(np.ceil(0.008 * np.hypot(96, 160)))  # 2 px
    truth = square(64) > 0
    assert boundary_f(np.roll(truth, reach, axis=1), truth) == 1.0
    assert boundary_f(np.roll(truth, reach + 1, axis=1), truth) < 0.8
    # the left and the right side of the outline are missed, the others found but for their ends
    sides, outline = 2 * 32, boundary(truth).sum()
    assert boundary_f(np.roll(truth, 8, axis=1), truth) == pytest.approx(
        1 - (sides + 2 * 6) / outline, abs=0.05
    )


def test_both_ways_follow_a_square_exactly_and_zero_flow_does_not(davis):
    rows = {row["method"]: row for row in propagate.evaluate_propagation(Perfect(), davis)}
    assert rows["mcjepa flow"]["jf"] == 100.0
    assert rows["mcjepa features"]["jf"] > 97  # shares of cells are interpolated: corners come out round
    assert 0 < rows["zero flow"]["jf"] < 60
    assert rows["zero flow"]["j"] == pytest.approx(
        100 * np.mean([(32 - s) / (32 + s) for s in (8, 16, 24)]), abs=0.01
    )
    assert (rows["mcjepa flow"]["videos"], rows["mcjepa flow"]["objects"]) == (1, 1)
    assert "| mcjepa flow | 1 | 1 | 100.0 | 100.0 | 100.0 |" in propagate.propagation_table(
        list(rows.values())
    )


def test_propagation_is_a_vote_of_the_most_similar_cells_nearby(monkeypatch):
    """Against a naive loop over all cells of all frames."""
    monkeypatch.setattr(propagate, "RADIUS", 2)
    generator = torch.Generator().manual_seed(0)
    query, *feats = torch.nn.functional.normalize(torch.randn(4, 6, 5, 7, generator=generator), dim=1)
    shares = torch.rand(3, 2, 5, 7, generator=generator)
    result = propagate.propagate(query, torch.stack(feats), shares)
    for y in range(5):
        for x in range(7):
            near = [
                (float(query[:, y, x] @ feats[t][:, v, u]), shares[t, :, v, u])
                for t in range(3)
                for v in range(max(0, y - 2), min(5, y + 3))
                for u in range(max(0, x - 2), min(7, x + 3))
            ]
            best = sorted(near, key=lambda pair: -pair[0])[: propagate.TOP_K]
            weights = torch.tensor([s / propagate.TEMPERATURE for s, _ in best]).softmax(0)
            expected = sum(w * label for w, (_, label) in zip(weights, best, strict=True))
            torch.testing.assert_close(result[:, y, x], expected)


def test_pictures_of_the_best_and_the_worst_are_drawn(davis, tmp_path):
    propagate.evaluate_propagation(Perfect(), davis, pictures=tmp_path / "pictures")
    names = {f"mcjepa-{way}-{which}.png" for way in ("flow", "features") for which in ("best", "worst")}
    assert {p.name for p in (tmp_path / "pictures").iterdir()} == names


def test_the_split_picks_videos_and_faults_are_named(davis):
    (davis / "ImageSets/2017").mkdir(parents=True)
    (davis / "ImageSets/2017/val.txt").write_text("square\n")
    assert [video.name for video in open_davis(davis, "val")] == ["square"]
    with pytest.raises(FileNotFoundError, match=r"test\.txt"):
        open_davis(davis, "test")
    (davis / "Annotations/480p/square/00002.png").unlink()
    with pytest.raises(ValueError, match=r"00002\.png is missing \(1 of 5 masks of square\)"):
        open_davis(davis)
    with pytest.raises(FileNotFoundError, match="DAVIS has JPEGImages/480p"):
        open_davis(davis / "Annotations")


def test_masks_of_a_palette_keep_their_numbers_and_colours_are_refused(tmp_path):
    mask = square(8)
    indexed = Image.fromarray(mask).convert("P")
    indexed.putpalette([10, 20, 30, 200, 0, 0])
    indexed.save(tmp_path / "indexed.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "indexed.png"), mask)
    Image.fromarray(np.dstack([mask] * 3)).save(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match="not RGB"):
        read_mask(tmp_path / "rgb.png")
    (tmp_path / "junk.png").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"junk\.png: cannot be decoded"):
        read_mask(tmp_path / "junk.png")


def test_composed_videos_repeat_move_and_carry_their_objects_along(tmp_path, texture):
    (tmp_path / "photos").mkdir()
    for i in range(6):
        cv2.imwrite(str(tmp_path / f"photos/{i}.png"), texture(120, 160, i))
    for name in ("a", "b"):
        write_composed(tmp_path / name, [tmp_path / "photos"], videos=1)
    first, again = open_davis(tmp_path / "a")[0], open_davis(tmp_path / "b")[0]
    assert len(first.frames) == 16
    np.testing.assert_array_equal(first.frame(3), again.frame(3))
    np.testing.assert_array_equal(first.mask(3), again.mask(3))
    numbers = np.unique(first.mask(0))
    assert len(numbers) > 1
    assert (first.mask(8) != first.mask(0)).any()
    with pytest.raises(FileExistsError, match="not empty"):
        write_composed(tmp_path / "a", [tmp_path / "photos"], videos=1)
