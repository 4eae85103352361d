"""Errors of the real server arrive as the right class, with their details."""

import cv2
import mcjepa_client
import numpy as np
import pytest
from mcjepa_client.flow_io import encode_png
from mcjepa_server.engines.fake import FakeEngine

IMG = np.zeros((32, 32, 3), np.uint8)
PNG = encode_png(IMG)


@pytest.mark.parametrize(
    ("call", "kind", "code", "param"),
    [
        (lambda c: c.flow(PNG, b"no image"), mcjepa_client.BadRequestError, "undecodable_image", "frame2"),
        (lambda c: c.flow(PNG[:60], PNG), mcjepa_client.BadRequestError, "undecodable_image", "frame1"),
        (
            lambda c: c.flow(PNG, encode_png(IMG[:20])),
            mcjepa_client.UnprocessableEntityError,
            "invalid_input",
            None,
        ),
        (
            lambda c: c.flow(IMG[:4], IMG[:4]),
            mcjepa_client.UnprocessableEntityError,
            "invalid_input",
            "frame1",
        ),
        (
            lambda c: c.flow(IMG, IMG, max_side=3),
            mcjepa_client.UnprocessableEntityError,
            "invalid_input",
            "max_side",
        ),
        (lambda c: c.analyze([IMG] * 33), mcjepa_client.UnprocessableEntityError, "invalid_input", "frames"),
        (lambda c: c.embed(b"no image"), mcjepa_client.BadRequestError, "undecodable_image", None),
        (
            lambda c: c.embed(IMG, dimensions=9),
            mcjepa_client.UnprocessableEntityError,
            "invalid_input",
            "dimensions",
        ),
    ],
)
def test_bad_requests(client, call, kind, code, param):
    with pytest.raises(kind) as caught:
        call(client)
    error = caught.value
    assert error.code == code
    if param is not None:
        assert error.param == param
    assert error.request_id
    assert error.body["status"] == error.status_code


def test_too_many_bytes_and_pixels_name_their_limit(connect):
    with pytest.raises(mcjepa_client.PayloadTooLargeError, match="max_body_bytes"):
        connect(max_body_bytes=100).flow(IMG, IMG)
    with pytest.raises(mcjepa_client.PayloadTooLargeError, match="max_image_pixels"):
        connect(max_image_pixels=1000).flow(IMG, IMG)


@pytest.mark.parametrize("fault", ["nan", "shape", "fail"])
def test_an_engine_that_goes_wrong_is_an_error_and_never_a_reply(connect, fault):
    engine = FakeEngine()
    client = connect(engine)
    engine.fault = fault
    with pytest.raises(mcjepa_client.InternalServerError) as caught:
        client.flow(IMG, IMG)
    assert caught.value.code == "engine_error"


def test_a_server_past_its_deadline_is_a_gateway_timeout(connect):
    engine = FakeEngine()
    client = connect(engine, request_timeout_s=0.05)
    engine.fault = "hang"
    with pytest.raises(mcjepa_client.GatewayTimeoutError):
        client.flow(IMG, IMG)


def test_a_server_without_models_is_alive_and_not_ready(connect):
    client = connect(FakeEngine(fault="nan"))
    assert client.is_alive()
    assert not client.is_ready()
    with pytest.raises(mcjepa_client.ServiceUnavailableError) as caught:
        client.flow(IMG, IMG)
    assert caught.value.retry_after is not None
    assert client.info()["ready"] is False


def test_a_path_prefix_that_is_wrong_is_not_found(client):
    wrong = mcjepa_client.Client("http://testserver/nothing-here", http_client=client._http)
    with pytest.raises(mcjepa_client.NotFoundError):
        wrong.info()


def test_info_models_and_limits(client):
    info = client.info()
    assert (info["engine"], info["ready"]) == ("fake", True)
    assert info["limits"]["max_images"] == 2048
    assert [model["id"] for model in client.models()] == [
        "mcjepa_flow",
        "mcjepa_flow_balanced",
        "mcjepa_flow_best",
        "mcjepa_flow_bidirectional",
        "mcjepa_embed",
    ]
    client.wait_until_ready(1)


def test_a_jpeg_goes_as_it_is(client):
    ok, data = cv2.imencode(".jpg", np.zeros((32, 48, 3), np.uint8))
    assert ok
    assert client.flow(data.tobytes(), data.tobytes()).flow.shape == (32, 48, 2)
