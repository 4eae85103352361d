"""Results: saving in every format, pictures, warping, cosines."""

import json

import cv2
import numpy as np
import pytest
from mcjepa_client import (
    AnalyzeResult,
    EmbedResult,
    FlowResult,
    InputError,
    cosine_similarity,
    flow_io,
    flow_viz,
)

FLOW = np.random.default_rng(0).normal(0, 5, (70, 90, 2)).astype(np.float32)


def ramp(height=20, width=30):
    y, x = np.mgrid[:height, :width]
    return np.dstack([x * 4, y * 4, x + y]).astype(np.uint8)


def constant(dx, dy, height=20, width=30):
    return FlowResult(np.tile(np.float32([dx, dy]), (height, width, 1)))


def test_flo_and_npy_hold_every_bit(tmp_path):
    result = FlowResult(FLOW)
    assert flow_io.read_flo(result.save(tmp_path / "a.flo")).tobytes() == FLOW.tobytes()
    assert np.load(result.save(str(tmp_path / "a.NPY"))).tobytes() == FLOW.tobytes()


def test_npz_holds_everything_without_pickle(tmp_path):
    mask = FLOW[..., 0] > 0
    path = FlowResult(FLOW, backward=-FLOW, occlusion=mask, meta={"a": 1}).save(tmp_path / "a.npz")
    with np.load(path, allow_pickle=False) as archive:
        assert sorted(archive.files) == ["flow", "flow_backward", "meta", "occlusion"]
        assert np.array_equal(archive["flow_backward"], -FLOW)
        assert np.array_equal(archive["occlusion"], mask)
        assert json.loads(str(archive["meta"])) == {"a": 1}


def test_png_is_the_picture_and_kitti_is_kitti(tmp_path):
    result = FlowResult(FLOW)
    picture = cv2.imread(str(result.save(tmp_path / "a.png", max_flow=20)))[..., ::-1]
    assert np.array_equal(picture, flow_viz.flow_picture(FLOW, 20))
    assert np.array_equal(result.to_image(20), flow_viz.flow_to_color(FLOW, 20))
    kitti = flow_io.read_kitti(result.save(tmp_path / "b.png", format="kitti"))
    assert kitti.valid.all()
    assert np.abs(kitti.flow - FLOW).max() <= 1 / 128


def test_kitti_warns_of_what_it_cannot_hold(tmp_path):
    with pytest.warns(UserWarning, match="600 pixels beyond"):
        constant(900, 0).save(tmp_path / "a.png", format="kitti")


@pytest.mark.parametrize(
    ("name", "format"), [("a.txt", None), ("a", None), ("a.flo", "exr"), ("a.kitti.x", None)]
)
def test_unknown_formats_are_refused_and_nothing_is_written(tmp_path, name, format):
    with pytest.raises(InputError, match="cannot save"):
        FlowResult(FLOW).save(tmp_path / name, format=format)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        FlowResult(FLOW).save(tmp_path / "none" / "a.flo")


def test_warp_by_whole_pixels_shifts():
    image = ramp()
    warped = constant(3, -2).warp(image)
    assert np.array_equal(warped[2:, :-3], image[:-2, 3:])  # out[y, x] = image[y - 2, x + 3]
    assert not warped[:1].any()
    assert not warped[:, -2:].any()


def test_warp_by_half_a_pixel_averages_neighbours():
    image = ramp()
    expected = (image[:, :-1, 0].astype(float) + image[:, 1:, 0]) / 2
    assert np.abs(constant(0.5, 0).warp(image)[:, :-1, 0] - expected).max() <= 1


def test_warp_undoes_the_motion_that_the_flow_describes():
    texture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    img1, img2 = texture[5:25, 5:35], texture[8:28, 1:31]  # the content moves by (+4, -3)
    warped = constant(4, -3).warp(np.ascontiguousarray(img2))
    assert np.array_equal(warped[3:, :-4], img1[3:, :-4])


def test_warp_leaves_unknown_pixels_black():
    flow = np.zeros((20, 30, 2), np.float32)
    flow[4, 5], flow[6, 7] = np.nan, 1e10
    warped = FlowResult(flow).warp(np.full((20, 30), 200, np.uint8))
    assert np.argwhere(warped == 0).tolist() == [[4, 5], [6, 7]]


@pytest.mark.parametrize("image", [ramp(10, 30), ramp().astype(np.float32), ramp()[..., :2]])
def test_warp_refuses_other_images(image):
    with pytest.raises(InputError, match="image"):
        constant(0, 0).warp(image)


def test_embeddings_are_saved_in_three_formats(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    result = EmbedResult(vectors, "m", {"total_tokens": 3})
    assert np.load(result.save(tmp_path / "e.npy")).tobytes() == vectors.tobytes()
    with np.load(result.save(tmp_path / "e.npz"), allow_pickle=False) as archive:
        assert np.array_equal(archive["embeddings"], vectors)
        assert json.loads(str(archive["meta"]))["model"] == "m"
    body = json.loads(result.save(tmp_path / "e.json").read_text())
    assert np.array_equal(np.float32(body["embeddings"]), vectors)
    with pytest.raises(InputError, match=r"\.npy"):
        result.save(tmp_path / "e.csv")


def test_analysis_is_saved_whole(tmp_path):
    flows, vectors = np.stack([FLOW, -FLOW]), np.eye(3, dtype=np.float32)
    result = AnalyzeResult(flows, vectors, backward=-flows, meta={"frames": 3})
    with np.load(result.save(tmp_path / "a.npz"), allow_pickle=False) as archive:
        assert sorted(archive.files) == ["embeddings", "flows", "flows_backward", "meta"]
        assert np.array_equal(archive["flows"], flows)
    with pytest.raises(InputError, match=r"\.npz"):
        result.save(tmp_path / "a.npy")


def test_analysis_is_a_row_of_pairs():
    result = AnalyzeResult(np.stack([FLOW, -FLOW]), np.eye(3, dtype=np.float32))
    assert len(result) == 2
    assert [np.array_equal(pair.flow, flow) for pair, flow in zip(result, result.flows, strict=True)] == [
        True
    ] * 2
    assert np.array_equal(result[-1].flow, -FLOW)
    assert result[0].backward is None
    assert np.array_equal(result.similarity(), np.eye(3))


def test_cosines():
    rows = np.array([[1, 0], [5, 5], [-2, 0], [0, 0]], np.float32)
    expected = [[1, 0.5**0.5, -1, 0], [0.5**0.5, 1, -(0.5**0.5), 0], [-1, -(0.5**0.5), 1, 0], [0, 0, 0, 0]]
    assert cosine_similarity(rows) == pytest.approx(np.array(expected), abs=1e-6)
    assert np.array_equal(EmbedResult(rows).similarity(), cosine_similarity(rows))


def test_rows_are_of_all_images_unless_some_were_skipped():
    assert EmbedResult(np.eye(3, dtype=np.float32)).indices.tolist() == [0, 1, 2]
    assert EmbedResult(np.eye(2, dtype=np.float32), indices=np.array([0, 2])).indices.tolist() == [0, 2]
