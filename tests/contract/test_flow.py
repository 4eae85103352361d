"""/v1/flow: what the engine gave is what the caller of the SDK gets, bit for bit."""

import cv2
import mcjepa_client
import numpy as np
import pytest
from mcjepa_client import flow_io


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 19), (63, 65), (64, 64), (48, 80), (129, 31)])
def test_every_size_comes_back_exactly(client, frames, flow_of, height, width):
    img1, img2 = frames(2, height, width)
    result = client.flow(img1, img2)
    assert result.flow.tobytes() == flow_of(img1).tobytes()
    assert result.flow.shape == (height, width, 2)


def test_backward_is_the_flow_of_the_second_frame(client, frames, flow_of):
    img1, img2 = frames()
    result = client.flow(img1, img2, direction="backward")
    assert result.flow.tobytes() == flow_of(img2).tobytes()
    assert (result.direction, result.backward) == ("backward", None)


def test_both_hold_both(client, frames, flow_of):
    img1, img2 = frames()
    result = client.flow(img1, img2, direction="both")
    assert result.flow.tobytes() == flow_of(img1).tobytes()
    assert result.backward.tobytes() == flow_of(img2).tobytes()
    assert result.occlusion is None


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_occlusion_comes_with_every_direction(client, frames, direction):
    still = np.zeros((32, 32, 3), np.uint8)  # the fake engine answers black with no motion
    result = client.flow(still, still, direction=direction, occlusion=True)
    assert result.occlusion.shape == (32, 32)
    assert not result.occlusion.any()
    img1, img2 = frames()  # random flows do not agree
    assert client.flow(img1, img2, direction=direction, occlusion=True).occlusion.mean() > 0.5


def test_max_side_changes_the_computation_and_not_the_size(client, frames):
    engine_sizes = []
    img1, img2 = frames(2, 200, 300)
    for max_side in (None, 100):
        result = client.flow(img1, img2, max_side=max_side)
        engine_sizes.append((result.meta["computed_width"], result.meta["computed_height"]))
        assert result.flow.shape == (200, 300, 2)
    assert engine_sizes == [(300, 200), (100, 67)]


def test_a_color_image_scales_its_vectors(client):
    red = np.zeros((100, 200, 3), np.uint8)
    red[..., 0] = 160  # 10 px at the computed size
    result = client.flow(red, red, max_side=100)
    assert np.allclose(result.flow, [20, 0])


def test_files_bytes_grey_and_arrays_are_the_same_image(client, frames, tmp_path):
    grey, _ = (frame[..., 0] for frame in frames())
    path = tmp_path / "grey.png"
    cv2.imwrite(str(path), grey)
    expected = client.flow(np.dstack([grey] * 3), grey).flow
    for image in (grey, path, str(path), path.read_bytes()):
        assert np.array_equal(client.flow(image, grey).flow, expected)


def test_meta_and_request_id_name_the_model_and_the_request(client, frames):
    result = client.flow(*frames())
    assert result.meta["model_version"] == "fake-0"
    assert (result.meta["width"], result.meta["height"]) == (80, 48)
    assert result.request_id


def post(client, frames, **params):
    """The server's own files, without the SDK in between."""
    files = [
        (name, ("x", flow_io.encode_png(img))) for name, img in zip(("frame1", "frame2"), frames, strict=True)
    ]
    response = client._http.post("/v1/flow", params=params, files=files)
    assert response.status_code == 200
    return response


def test_flow_files_of_the_server_and_of_the_sdk_are_equal(client, frames):
    images = frames()
    result = client.flow(*images)
    assert post(client, images, format="flo").content == flow_io.encode_flo(result.flow)
    kitti = flow_io.decode_kitti(post(client, images, format="kitti").content)
    ours = flow_io.decode_kitti(flow_io.encode_kitti(result.flow)[0])
    assert np.array_equal(kitti.flow, ours.flow)
    assert np.array_equal(kitti.valid, ours.valid)


@pytest.mark.parametrize("max_flow", [None, 7.5])
def test_colors_of_the_server_and_of_the_sdk_are_equal(client, frames, max_flow):
    images = frames()
    params = {"format": "png"} if max_flow is None else {"format": "png", "max_flow": max_flow}
    theirs = cv2.imdecode(np.frombuffer(post(client, images, **params).content, np.uint8), cv2.IMREAD_COLOR)
    ours = client.flow(*images).to_image(max_flow)
    assert np.abs(theirs[..., ::-1].astype(int) - ours).max() <= 1  # float32 there, float64 here


def test_async_gives_the_same(run_async, frames, flow_of):
    img1, img2 = frames()
    result = run_async(lambda c: c.flow(img1, img2, direction="both", occlusion=True))
    assert result.flow.tobytes() == flow_of(img1).tobytes()
    assert result.backward.tobytes() == flow_of(img2).tobytes()


@pytest.mark.parametrize("quality", ["fast", "balanced", "best"])
def test_the_quality_asked_for_is_computed(client, run_async, frames, quality):
    images = frames()
    assert client.flow(*images, quality=quality).meta["quality"] == quality
    assert client.analyze(images, quality=quality).meta["quality"] == quality

    async def use(client):
        return await client.flow(*images, quality=quality)

    assert run_async(use).meta["quality"] == quality


def test_without_a_quality_it_is_the_server_s(connect, frames):
    assert connect(quality="balanced").flow(*frames()).meta["quality"] == "balanced"


def test_an_unknown_quality_is_named_before_anything_is_sent(client, frames):
    with pytest.raises(mcjepa_client.InputError, match="quality"):
        client.flow(*frames(), quality="ultra")
