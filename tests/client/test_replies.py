"""Replies with a success status: what is read from good ones, and that hostile ones never get through."""

import base64
import io
import json
import pickle

import httpx2
import numpy as np
import pytest
from mcjepa_client import InvalidReplyError

IMG = np.zeros((4, 6, 3), np.uint8)
FLOW = np.random.default_rng(0).normal(0, 5, (4, 6, 2)).astype(np.float32)


def reply(content, **headers):
    return httpx2.Response(200, content=content, headers=headers)


def nan_at_end(array):
    array = array.copy()
    array.flat[-1] = np.nan
    return array


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a reply was unpickled",))


def test_flow_is_read_bit_for_bit(scripted, connect, npz):
    meta = json.dumps({"model_version": "nano"})
    body = npz(flow=FLOW, flow_backward=-FLOW, occlusion=FLOW[..., 0] > 0, meta=np.array(meta))
    server = scripted(reply(body, **{"x-request-id": "r1"}))
    result = connect(server).flow(IMG, IMG, direction="both", occlusion=True, max_side=512)
    assert result.flow.tobytes() == FLOW.tobytes()
    assert np.array_equal(result.backward, -FLOW)
    assert np.array_equal(result.occlusion, FLOW[..., 0] > 0)
    assert result.meta == {"model_version": "nano"}
    assert result.request_id == "r1"
    query = dict(server.requests[0].url.params)
    assert query == {"format": "npz", "direction": "both", "occlusion": "true", "max_side": "512"}


def test_meta_may_be_bytes_and_big_endian_arrays_are_numbers_too(scripted, connect, npz):
    meta = np.frombuffer(b'{"a": 1}', np.uint8)
    result = connect(scripted(reply(npz(flow=FLOW.astype(">f4"), meta=meta)))).flow(IMG, IMG)
    assert np.array_equal(result.flow, FLOW)
    assert result.flow.dtype == np.dtype("=f4")
    assert result.meta == {"a": 1}


def pickled_npz():
    buffer = io.BytesIO()
    np.savez(buffer, flow=np.array([Bomb()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


BROKEN_BYTES = {
    "html": lambda whole: b"<html>Sign in to the hotel network</html>",
    "empty": lambda whole: b"",
    "json": lambda whole: b'{"flow": []}',
    "npy instead of npz": lambda whole: npy(FLOW),
    "half": lambda whole: whole[: len(whole) // 2],
    "all but the last byte": lambda whole: whole[:-1],
    "data overwritten": lambda whole: whole[:200] + b"\xff" * 40 + whole[240:],
    "header overwritten": lambda whole: whole[:50] + b"\xff" * 40 + whole[90:],
    "only the magic": lambda whole: b"PK\x03\x04",
    "pickle": lambda whole: pickle.dumps(Bomb()),
    "pickled array in npz": lambda whole: pickled_npz(),
}

WRONG_ARRAYS = {
    "no flow": {"other": FLOW},
    "float64": {"flow": FLOW.astype(np.float64)},
    "text": {"flow": np.array("flow")},
    "channels first": {"flow": FLOW.transpose(2, 0, 1)},
    "no pixels": {"flow": FLOW[:0]},
    "nan": {"flow": nan_at_end(FLOW)},
    "infinite": {"flow": FLOW * np.float32(np.inf)},
    "meta is no json": {"flow": FLOW, "meta": np.array("{")},
    "meta is a list": {"flow": FLOW, "meta": np.array("[]")},
    "meta is numbers": {"flow": FLOW, "meta": np.zeros(3)},
}


@pytest.mark.parametrize("case", BROKEN_BYTES)
def test_broken_bytes_are_refused(scripted, connect, npz, case):
    body = BROKEN_BYTES[case](npz(flow=FLOW))
    server = scripted(reply(body, **{"content-type": "application/x-npz", "x-request-id": "r9"}))
    with pytest.raises(InvalidReplyError, match="npz") as caught:
        connect(server).flow(IMG, IMG)
    assert (caught.value.status_code, caught.value.request_id) == (200, "r9")
    assert caught.value.body == body[:2000]


@pytest.mark.parametrize("case", WRONG_ARRAYS)
def test_wrong_arrays_are_refused(scripted, connect, npz, case):
    with pytest.raises(InvalidReplyError, match="array"):
        connect(scripted(reply(npz(**WRONG_ARRAYS[case])))).flow(IMG, IMG)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"flow_backward": FLOW[:2]},
        {"flow_backward": FLOW},
        {"flow_backward": FLOW, "occlusion": np.zeros((4, 6), np.float32)},
        {"flow_backward": FLOW, "occlusion": np.zeros((6, 4), bool)},
    ],
)
def test_what_was_asked_for_must_be_there(scripted, connect, npz, arrays):
    server = scripted(reply(npz(flow=FLOW, **arrays)))
    with pytest.raises(InvalidReplyError):
        connect(server).flow(IMG, IMG, direction="both", occlusion=True)


def test_analysis_is_read_bit_for_bit(scripted, connect, npz):
    flows, vectors = np.stack([FLOW, -FLOW]), np.eye(3, 5, dtype=np.float32)
    body = npz(flows=flows, flows_backward=2 * flows, occlusion=flows[..., 0] > 0, embeddings=vectors)
    result = connect(scripted(reply(body))).analyze([IMG] * 3, direction="both", occlusion=True)
    assert np.array_equal(result.flows, flows)
    assert np.array_equal(result.embeddings, vectors)
    assert np.array_equal(result[1].flow, -FLOW)
    assert np.array_equal(result[1].backward, -2 * FLOW)
    assert np.array_equal(result[1].occlusion, FLOW[..., 0] < 0)


@pytest.mark.parametrize(("pairs", "rows"), [(1, 3), (3, 3), (2, 2), (2, 4)])
def test_an_analysis_of_another_length_is_refused(scripted, connect, npz, pairs, rows):
    body = npz(flows=np.stack([FLOW] * pairs), embeddings=np.eye(rows, 5, dtype=np.float32))
    with pytest.raises(InvalidReplyError, match="expected float32"):
        connect(scripted(reply(body))).analyze([IMG] * 3)


def b64(*values):
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


def test_embeddings_come_back_in_the_order_of_the_request(scripted, connect, limits):
    data = [{"index": 1, "embedding": b64(0, 1)}, {"index": 0, "embedding": b64(1, 0)}]
    server = scripted(limits(), httpx2.Response(200, json={"data": data, "model": "m"}))
    result = connect(server).embed([b"a", b"b"])
    assert result.embeddings.tolist() == [[1, 0], [0, 1]]
    assert result.embeddings.dtype == np.float32
    assert result.model == "m"


@pytest.mark.parametrize(
    "data",
    [
        None,
        "text",
        [],
        [1],
        [{"index": 1, "embedding": b64(1)}],
        [{"index": 0, "embedding": b64(1)}, {"index": 1, "embedding": b64(1)}],
        [{"index": [], "embedding": b64(1)}],
        [{"embedding": b64(1)}],
        [{"index": 0}],
        [{"index": 0, "embedding": None}],
        [{"index": 0, "embedding": ""}],
        [{"index": 0, "embedding": []}],
        [{"index": 0, "embedding": b64(1)}, {"index": 0, "embedding": b64(2)}],
        [{"index": 0, "embedding": "not base64!"}],
        [{"index": 0, "embedding": "AA!CAPw=="}],  # 1.0, if the stray sign were passed over
        [{"index": 0, "embedding": "YWJj"}],  # three bytes are no float32
        [{"index": 0, "embedding": b64(1, np.nan)}],
        [{"index": 0, "embedding": [1.0, None]}],
        [{"index": 0, "embedding": [1.0, "x"]}],
        [{"index": 0, "embedding": [1.0, 1e999]}],
        [{"index": 0, "embedding": [[1.0], [2.0]]}],
        [{"index": 0, "embedding": {"a": 1}}],
    ],
)
def test_hostile_embeddings_are_refused(scripted, connect, data):
    body = json.dumps({"data": data})
    with pytest.raises(InvalidReplyError):
        connect(scripted(reply(body.encode()))).embed(b"an image")


def test_embeddings_of_different_or_other_sizes_are_refused(scripted, connect, limits):
    data = [{"index": 0, "embedding": b64(1, 0)}, {"index": 1, "embedding": b64(1)}]
    with pytest.raises(InvalidReplyError, match="size"):
        connect(scripted(limits(), httpx2.Response(200, json={"data": data}))).embed([b"a", b"b"])
    with pytest.raises(InvalidReplyError, match="expected 3"):
        connect(scripted(httpx2.Response(200, json={"data": data[:1]}))).embed(b"a", dimensions=3)


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"", b"[]", b"\xff", b"[" * 100_000, b'{"limits": 3}', b'{"limits": {"max_images": 0}}'],
)
def test_an_unusable_info_stops_a_split(scripted, connect, body):
    with pytest.raises(InvalidReplyError):
        connect(scripted(reply(body))).embed([b"a", b"b"])
