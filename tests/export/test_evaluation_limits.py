"""The hard scenes: their truth is exact, errors are of the judged part, and the card shows them."""

import numpy as np
import pytest
from mcjepa.evaluation.limits import evaluate_limits, limits_table, scenes
from mcjepa.model_card import LIMITS_PICTURE, render
from mcjepa.triton_config import Parameters


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (272, 640, 3), np.uint8)


def test_a_judged_point_that_is_not_hidden_looks_the_same_where_its_flow_points(picture):
    made = list(scenes(picture))
    assert len(made) == 5
    for scene in made[:4]:
        ys, xs = np.nonzero(scene.judged)
        dx, dy = scene.flow[ys, xs].T.astype(int)
        inside = (xs + dx >= 0) & (xs + dx < scene.img1.shape[1])
        assert inside.sum() > 100
        there = scene.img2[(ys + dy)[inside], (xs + dx)[inside]]
        np.testing.assert_array_equal(scene.img1[ys[inside], xs[inside]], there, err_msg=scene.name)


def test_what_is_hidden_rests_and_is_not_there_in_frame_2(picture):
    scene = list(scenes(picture))[4]
    assert not scene.flow[scene.judged].any()
    same = (scene.img1 == scene.img2).all(-1)
    assert same[scene.judged].mean() < 0.1
    assert scene.judged.sum() > 1000


class Still:
    """Answers every pair with no motion, but for one point that no scene judges."""

    def flow(self, img1, _img2):
        flow = np.zeros((*img1.shape[:2], 2), np.float32)
        flow[0, 0] = 1000.0
        return flow


def test_errors_are_of_the_judged_part(picture, tmp_path):
    rows = evaluate_limits(Still(), picture, tmp_path / "limits.jpg")
    assert [row["mcjepa"] for row in rows[1:]] == [row["zero"] for row in rows[1:]] == [40.0, 12.0, 24.0, 0.0]
    assert rows[0]["mcjepa"] > rows[0]["zero"] == 140.0  # there everything is judged
    assert (tmp_path / "limits.jpg").stat().st_size > 10_000


def test_the_card_shows_the_scenes(picture):
    rows = evaluate_limits(Still(), picture)
    parameters = Parameters("nano-1", "0" * 64, "384", "128", training_summary="", license="MIT")
    entry = {"command": "mcjepa evaluate limits bikes.mp4", "result": rows, "models": "ab"}
    card = render(parameters, {"limits": entry}, {"limits": "ab"})
    assert limits_table(rows) in card
    assert f"]({LIMITS_PICTURE})" in card
    assert "| an object of 16 px moves by 40 px | 40.0 |" in card
