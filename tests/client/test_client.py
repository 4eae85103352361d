"""What the client sends, how it splits, and what it refuses to send."""

import asyncio
import base64
import io
import json
from pathlib import Path

import httpx2
import mcjepa_client
import numpy as np
import pytest
from mcjepa_client import AsyncClient, Client, InputError, _base
from PIL import Image

IMG = np.zeros((4, 6, 3), np.uint8)
ONE_IMAGE = [
    "one.png", Path("one.png"), b"file", bytearray(b"file"), memoryview(b"file"), io.BytesIO(b"file"), IMG,
    IMG[..., 0], Image.new("L", (8, 8)),
]  # fmt: skip


def refuse(request):
    raise AssertionError(f"{request.url} was asked although the arguments are wrong")


def inputs(request):
    return [base64.b64decode(item) for item in json.loads(request.content)["input"]]


def embedding_server(images=64, size=2**26):
    """A handler with limits that answers each image b"N" with the vector (N, 1)."""
    requests = []

    def answer(request):
        if request.url.path == "/v1/info":
            return httpx2.Response(200, json={"limits": {"max_images": images, "max_body_bytes": size}})
        requests.append(request)
        assert len(request.content) <= size
        rows = [np.array([int(item[:4]), 1], "<f4").tobytes() for item in inputs(request)]
        data = [{"index": i, "embedding": base64.b64encode(row).decode()} for i, row in enumerate(rows)]
        usage = {"prompt_tokens": len(rows), "total_tokens": len(rows)}
        return httpx2.Response(200, json={"data": data, "model": "m", "usage": usage})

    return answer, requests


def test_flow_sends_two_parts_under_their_names(scripted, connect, npz):
    server = scripted(httpx2.Response(200, content=npz(flow=np.zeros((4, 6, 2), np.float32))))
    result = connect(server, headers={"Authorization": "Bearer k"}).flow(b"first image", b"second image")
    (request,) = server.requests
    assert (request.method, str(request.url)) == (
        "POST", "http://server.test/v1/flow?format=npz&direction=forward",
    )  # fmt: skip
    first, second = request.content.split(b'; name="frame2"')
    assert b'; name="frame1"; filename=' in first
    assert b"first image" in first
    assert b"second image" in second
    assert request.headers["authorization"] == "Bearer k"
    assert request.headers["user-agent"].startswith("mcjepa-client/")
    assert (result.direction, result.backward, result.occlusion) == ("forward", None, None)


def test_a_backward_result_says_so(scripted, connect, npz):
    server = scripted(httpx2.Response(200, content=npz(flow=np.zeros((4, 6, 2), np.float32))))
    assert connect(server).flow(IMG, IMG, direction="backward").direction == "backward"


def test_analyze_sends_its_frames_in_order(scripted, connect, npz):
    flows, vectors = np.zeros((2, 4, 6, 2), np.float32), np.eye(3, dtype=np.float32)
    server = scripted(httpx2.Response(200, content=npz(flows=flows, embeddings=vectors)))
    connect(server).analyze(iter([b"one", b"two", b"three"]))
    content = server.requests[0].content
    assert content.count(b'name="frames"') == 3
    assert content.index(b"one") < content.index(b"two") < content.index(b"three")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.flow("missing.png", IMG), "img1.*missing.png"),
        (lambda c: c.flow(IMG, IMG.astype(float)), "img2.*float64"),
        (lambda c: c.flow(IMG, IMG[:3]), "differ in size"),
        (lambda c: c.flow(IMG, IMG, direction="sideways"), "sideways"),
        (lambda c: c.flow(IMG, IMG, max_side=0), "max_side"),
        (lambda c: c.flow(IMG, IMG, max_side=100.5), "max_side"),
        (lambda c: c.flow(IMG, IMG, max_side=True), "max_side"),
        (lambda c: c.analyze([IMG]), "2 or more, got 1"),
        (lambda c: c.analyze([]), "2 or more, got 0"),
        (lambda c: c.analyze([IMG, IMG], direction="backward"), "backward"),
        (lambda c: c.analyze([IMG, None]), r"frames\[1\].*NoneType"),
        (lambda c: c.embed([]), "got none"),
        (lambda c: c.embed(7), "int"),
        (lambda c: c.embed([7]), r"images\[0\].*int"),
        (lambda c: c.embed(IMG, dimensions=0), "dimensions"),
        (lambda c: c.embed(IMG, on_error="ignore"), "on_error.*ignore"),
        (lambda c: c.embed({"a": IMG}), "dict"),
        (lambda c: c.embed(io.StringIO("text")), "images.*rb"),
        (lambda c: c.embed("none.png"), "none.png"),
        (lambda c: c.embed(b""), "empty"),
        (lambda c: c.analyze(None), "NoneType"),
        (lambda c: c.analyze({1: IMG, 2: IMG}), "dict"),
        *((lambda c, one=one: c.analyze(one), "2 or more, got 1") for one in ONE_IMAGE),
        (lambda c: c.wait_until_ready(0), "timeout"),
        (lambda c: c.wait_until_ready(float("nan")), "timeout"),
    ],
)
def test_wrong_arguments_are_refused_before_sending(connect, call, message):
    with pytest.raises(InputError, match=message):
        call(connect(refuse))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "server:8000"}, "base_url"),
        ({"base_url": "ftp://server"}, "base_url"),
        ({"base_url": "http://"}, "base_url"),
        ({"base_url": "http://[::1"}, "base_url"),
        ({"base_url": "http://server:eighty"}, "base_url"),
        ({"base_url": "http://server:99999"}, "base_url"),
        ({"base_url": "http://server?a=b"}, "base_url"),
        ({"base_url": "http://" + "ü" * 70}, "base_url"),
        ({"base_url": 8000}, "base_url"),
        ({"base_url": b"http://server"}, "base_url"),
        ({"base_url": [None]}, "base_url"),
        ({"headers": {"X-Name": "Jürgen"}}, "X-Name"),
        ({"headers": {"X-Name": "a\r\nX-Other: b"}}, "X-Name"),
        ({"headers": {"X-Name": 7}}, "X-Name"),
        ({"headers": {"X Name": "a"}}, "X Name"),
        ({"headers": {"": "a"}}, "headers"),
        ({"headers": [("X-Name", "a")]}, "headers"),
        ({"api_key": 7}, "api_key"),
        ({"timeout": "5"}, "timeout"),
        ({"max_retries": 1.5}, "max_retries"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"max_retries": -1}, "max_retries"),
    ],
)
@pytest.mark.parametrize("cls", [Client, AsyncClient])
def test_wrong_configuration_is_refused_at_once(cls, options, message):
    with pytest.raises(InputError, match=message):
        cls(**options)


def test_the_server_comes_from_the_argument_then_the_environment(monkeypatch):
    monkeypatch.delenv("MCJEPA_SERVER", raising=False)
    with Client() as client:
        assert client.base_url == "http://127.0.0.1:8000"
    monkeypatch.setenv("MCJEPA_SERVER", "https://elsewhere.test/prefix/")
    with Client() as client:
        assert client.base_url == "https://elsewhere.test/prefix"
    with Client("http://here.test") as client:
        assert client.base_url == "http://here.test"


def test_many_images_are_split_by_the_servers_limit_and_joined_in_order(connect):
    answer, requests = embedding_server(images=3)
    result = connect(answer).embed([b"%04d" % n for n in range(8)])
    assert [len(inputs(request)) for request in requests] == [3, 3, 2]
    assert result.embeddings[:, 0].tolist() == list(range(8))
    assert result.usage == {"prompt_tokens": 8, "total_tokens": 8}


def test_a_request_has_64_images_at_most_whatever_the_server_takes(connect):
    answer, requests = embedding_server(images=1000)
    assert len(connect(answer).embed([b"%04d" % n for n in range(130)])) == 130
    assert [len(inputs(request)) for request in requests] == [64, 64, 2]


def test_large_images_are_split_by_the_servers_body_limit(connect):
    answer, requests = embedding_server(size=20_000)
    images = [b"%04d" % n + bytes(4_000) for n in range(7)]
    assert connect(answer).embed(images).embeddings[:, 0].tolist() == list(range(7))
    assert [len(inputs(request)) for request in requests] == [3, 3, 1]


def test_an_image_beyond_the_body_limit_goes_alone_for_the_server_to_judge(connect, problem):
    answer, requests = embedding_server(size=10_000)

    def server(request):
        if len(request.content) > 10_000:
            return problem(413, "body_too_large")
        return answer(request)

    with pytest.raises(mcjepa_client.PayloadTooLargeError):
        connect(server).embed([b"0000", b"0001" + bytes(20_000), b"0002"])
    assert [len(inputs(request)) for request in requests] == [1]


def test_the_limits_are_asked_for_once_and_not_for_one_image(connect):
    answer, _ = embedding_server()
    paths = []

    def server(request):
        paths.append(request.url.path)
        return answer(request)

    client = connect(server)
    client.embed(b"0001")
    assert paths == ["/v1/embeddings"]
    client.embed([b"0001", b"0002"])
    client.embed([b"0001", b"0002"])
    assert paths[1:] == ["/v1/info", "/v1/embeddings", "/v1/embeddings"]


@pytest.mark.parametrize(
    ("images", "count"),
    [
        (IMG, 1),
        (IMG[..., 0], 1),
        (np.stack([IMG, IMG]), 2),
        ([IMG], 1),
        ((IMG, b"file"), 2),
        (iter([b"a", b"b", b"c"]), 3),
        (__file__, 1),
        (Path(__file__), 1),
        (b"one\ntwo\nthree", 1),
        (memoryview(b"file"), 1),
        (io.BytesIO(b"one\ntwo\nthree"), 1),
        (Image.new("L", (8, 8)), 1),
        (IMG[None, ..., 0].repeat(3, axis=0), 3),
        ([__file__, io.BytesIO(b"b"), Path(__file__)], 3),
        ((Path(__file__) for _ in range(2)), 2),
        (np.array([__file__, __file__]), 2),
    ],
)
def test_one_image_or_many(connect, embeddings, limits, images, count):
    def server(request):
        if request.url.path == "/v1/info":
            return limits()
        return embeddings(*([1.0, 0.0] for _ in json.loads(request.content)["input"]))

    assert len(connect(server).embed(images)) == count


def test_an_open_file_is_sent_whole(scripted, connect, embeddings):
    with open(__file__, "rb") as file:
        server = scripted(embeddings([1.0, 0.0]))
        connect(server).embed(file)
    assert inputs(server.requests[0]) == [Path(__file__).read_bytes()]


def picky_server(images=3, size=2**26):
    """As `embedding_server`, but it refuses an image b"...bad" as the real one does."""
    answer, requests = embedding_server(images, size)

    def server(request):
        if request.url.path == "/v1/info":
            return answer(request)
        if len(request.content) > size:
            return httpx2.Response(413, json={"error": {"message": "the body is too large"}})
        for position, item in enumerate(inputs(request)):
            if item.endswith(b"bad"):
                param = f"input[{position}]"
                error = {"message": f"{param} is not a readable image", "code": "bad", "param": param}
                return httpx2.Response(400, json={"error": error})
        return answer(request)

    return server, requests


@pytest.fixture
def files(tmp_path):
    """Eight files, of which number 4 and 5 are broken and number 6 is missing."""
    for number in (0, 1, 2, 3, 7):
        (tmp_path / f"{number}.png").write_bytes(b"%04d" % number)
    for number in (4, 5):
        (tmp_path / f"{number}.png").write_bytes(b"%04dbad" % number)
    return [tmp_path / f"{number}.png" for number in range(8)]


def test_a_broken_image_among_many_is_named(connect, files):
    server, _ = picky_server()
    with pytest.raises(mcjepa_client.BadRequestError, match=r"images\[4\].*4\.png.*not a readable") as caught:
        connect(server).embed(files)
    assert (caught.value.index, caught.value.path) == (4, str(files[4]))
    with pytest.raises(mcjepa_client.InputError) as caught:
        connect(server).embed(files[6:])
    assert (caught.value.index, caught.value.path) == (0, str(files[6]))
    with pytest.raises(mcjepa_client.BadRequestError, match=r"images\[1\]") as caught:
        connect(server).embed([b"0000", b"0001bad"])
    assert (caught.value.index, caught.value.path) == (1, None)


def test_the_rest_is_kept_on_request(connect, files):
    server, _ = picky_server()
    result = connect(server).embed(iter(files), on_error="skip")
    assert result.embeddings[:, 0].tolist() == [0, 1, 2, 3, 7]
    assert result.indices.tolist() == [0, 1, 2, 3, 7]
    assert [(error.index, error.path) for error in result.failed] == [
        (number, str(files[number])) for number in (4, 5, 6)
    ]
    assert [isinstance(error, FileNotFoundError) for error in result.failed] == [False, False, True]
    assert result.usage["total_tokens"] == 5


def test_an_image_that_is_too_large_is_skipped_too(connect):
    server, _ = picky_server(size=10_000)
    result = connect(server).embed([b"0000", b"0001" + bytes(20_000), b"0002"], on_error="skip")
    assert result.indices.tolist() == [0, 2]
    assert [(type(error), error.index) for error in result.failed] == [
        (mcjepa_client.PayloadTooLargeError, 1)
    ]


def test_nothing_is_left_when_all_are_broken(connect, files, tmp_path):
    server, _ = picky_server()
    result = connect(server).embed([files[4], "none.png"], on_error="skip")
    assert (len(result), result.indices.tolist(), len(result.failed)) == (0, [], 2)
    assert result.embeddings.dtype == np.float32
    result.save(tmp_path / "none.npz")


def test_other_errors_end_a_call_that_skips(connect, scripted, problem):
    for answer, kind in (
        (problem(401), mcjepa_client.AuthenticationError),
        (problem(500), mcjepa_client.InternalServerError),
        (httpx2.ConnectError("refused"), mcjepa_client.ConnectionFailedError),
    ):
        with pytest.raises(kind):
            connect(scripted(answer), max_retries=0).embed(b"0000", on_error="skip")


def test_frames_that_are_refused_are_named(connect, scripted, files):
    def refusal(param):
        error = {"message": f"{param} is not a readable image", "code": "bad", "param": param}
        return scripted(httpx2.Response(400, json={"error": error}))

    with pytest.raises(mcjepa_client.BadRequestError, match=r"img2 .*1\.png") as caught:
        connect(refusal("frame2")).flow(files[0], files[1])
    assert (caught.value.index, caught.value.path) == (None, str(files[1]))
    with pytest.raises(mcjepa_client.BadRequestError, match=r"frames\[2\] .*2\.png") as caught:
        connect(refusal("frames[2]")).analyze(files[:4])
    assert (caught.value.index, caught.value.path) == (2, str(files[2]))
    with pytest.raises(mcjepa_client.InputError, match=r"frames\[1\].*6\.png") as caught:
        connect(refuse).analyze([files[0], files[6]])
    assert (caught.value.index, caught.value.path) == (1, str(files[6]))


def test_each_image_that_a_message_names_has_the_callers_name(connect, scripted, files):
    def refusal(message, param):
        error = {"message": message, "code": "invalid_input", "param": param}
        return scripted(httpx2.Response(422, json={"error": error}))

    with pytest.raises(mcjepa_client.UnprocessableEntityError) as caught:
        connect(refusal("frame1 is 2x2 and frame2 is 3x3", "frame2")).flow(files[0], b"x")
    assert str(caught.value) == f"422: img1 ({files[0]}) is 2x2 and img2 is 3x3"
    message = "frames[0] is 2x2 and frames[1] is 3x3"
    with pytest.raises(mcjepa_client.UnprocessableEntityError) as caught:
        connect(refusal(message, "frames[1]")).analyze([b"x", files[1]])
    assert str(caught.value) == f"422: frames[0] is 2x2 and frames[1] ({files[1]}) is 3x3"
    assert (caught.value.index, caught.value.path) == (1, str(files[1]))


def test_dimensions_are_passed_on(scripted, connect, embeddings):
    server = scripted(embeddings([1.0, 0.0]))
    connect(server).embed(IMG, dimensions=np.int64(2))
    body = json.loads(server.requests[0].content)
    assert (body["dimensions"], body["encoding_format"]) == (2, "base64")


def test_models_are_listed(scripted, connect):
    server = scripted(httpx2.Response(200, json={"data": [{"id": "mcjepa_flow"}]}))
    assert connect(server).models() == [{"id": "mcjepa_flow"}]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (httpx2.Response(200), True),
        (httpx2.Response(503), False),
        (httpx2.Response(404), False),
        (httpx2.ConnectError("refused"), False),
    ],
)
def test_probes_never_raise(scripted, connect, answer, expected):
    server = scripted(answer)
    assert connect(server).is_alive() is expected
    assert connect(server).is_ready() is expected
    assert [request.url.path for request in server.requests] == ["/healthz", "/readyz"]


def test_waiting_ends_when_the_server_is_ready(scripted, connect, problem, naps):
    server = scripted(httpx2.ConnectError("refused"), problem(503), problem(503), httpx2.Response(200))
    connect(server).wait_until_ready()
    assert len(naps) == 3


def test_waiting_ends_with_the_reason_when_time_is_up(scripted, connect, problem, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    with pytest.raises(mcjepa_client.ServiceUnavailableError, match="what went wrong"):
        connect(scripted(problem(503))).wait_until_ready(10)
    assert 9 < now[0] <= 10


def test_waiting_ends_at_once_when_it_is_no_server_of_ours(scripted, connect, problem, naps):
    with pytest.raises(mcjepa_client.NotFoundError):
        connect(scripted(problem(404))).wait_until_ready()
    assert naps == []


def test_a_client_closes_its_own_connections_only(scripted):
    own = Client()
    http = own._http
    own.close()
    assert http.is_closed
    with httpx2.Client(transport=httpx2.MockTransport(scripted(httpx2.Response(200)))) as http:
        with Client(http_client=http):
            pass
        assert not http.is_closed


def test_every_request_has_a_timeout(scripted, connect):
    server = scripted(httpx2.Response(200, json={}))
    connect(server, timeout=7.0).info()
    timeout = server.requests[0].extensions["timeout"]
    assert timeout == {"connect": 7.0, "read": 7.0, "write": 7.0, "pool": 7.0}
    connect(server).info()
    assert server.requests[1].extensions["timeout"] == {
        "connect": 10.0,
        "read": 90.0,
        "write": 90.0,
        "pool": 90.0,
    }


def test_the_async_client_does_the_same(scripted, problem, monkeypatch, npz):
    naps = []

    async def sleep(seconds):
        naps.append(seconds)

    monkeypatch.setattr("anyio.sleep", sleep)
    monkeypatch.setattr("random.random", lambda: 0.0)
    flow = np.ones((4, 6, 2), np.float32)
    server = scripted(
        httpx2.ConnectError("refused"),
        problem(429, retry_after="4"),
        httpx2.Response(200, content=npz(flow=flow)),
    )

    async def call():
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(server))
        async with http, AsyncClient("http://server.test", http_client=http) as client:
            return await client.flow(IMG, IMG)

    assert np.array_equal(asyncio.run(call()).flow, flow)
    assert naps == [0.5, 4.0]


def test_the_async_client_splits_and_raises_alike(connect, problem):
    answer, requests = embedding_server(images=2)

    async def call():
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
            client = AsyncClient("http://server.test", http_client=http)
            with pytest.raises(InputError, match=r"missing\.png"):
                await client.flow("missing.png", IMG)
            skipped = await client.embed([b"0000", "missing.png", b"0002"], on_error="skip")
            assert (skipped.indices.tolist(), skipped.failed[0].index) == ([0, 2], 1)
            requests.clear()
            return await client.embed([b"0000", b"0001", b"0002"])

    assert asyncio.run(call()).embeddings[:, 0].tolist() == [0, 1, 2]
    assert len(requests) == 2


def test_the_async_clients_other_methods(scripted):
    server = scripted(httpx2.Response(200, json={"data": [{"id": "m"}], "version": "1"}))

    async def call():
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(server)) as http:
            client = AsyncClient("http://server.test", http_client=http)
            await client.wait_until_ready()
            return (
                await client.info(),
                await client.models(),
                await client.is_alive(),
                await client.is_ready(),
            )

    info, models, alive, ready = asyncio.run(call())
    assert (info["version"], models, alive, ready) == ("1", [{"id": "m"}], True, True)


@pytest.mark.parametrize(
    ("given", "variable", "headers", "sent"),
    [
        (None, None, None, None),
        ("k1", None, None, "Bearer k1"),
        (None, "k2", None, "Bearer k2"),
        ("k1", "k2", None, "Bearer k1"),
        ("k1", None, {"authorization": "Basic x"}, "Basic x"),
    ],
)
def test_the_api_key_that_is_sent(scripted, connect, monkeypatch, given, variable, headers, sent):
    if variable is not None:
        monkeypatch.setenv("MCJEPA_API_KEY", variable)
    server = scripted(httpx2.Response(200, json={}))
    connect(server, api_key=given, headers=headers).info()
    assert server.requests[0].headers.get("authorization") == sent


@pytest.mark.parametrize("key", ["a b", "a\nb", "schlüssel"])
def test_a_key_that_is_none_is_refused_without_showing_it(key):
    with pytest.raises(mcjepa_client.InputError, match="api_key") as refused:
        mcjepa_client.Client(api_key=key)
    assert key not in str(refused.value)


def server_with_limits(npz, body_bytes):
    """A server that names its limits, and what it was asked for: the path, and the bytes of the body."""
    asked = []
    names = ("max_frames", "max_request_pixels", "max_body_bytes", "max_side", "max_compute_pixels")
    limits = dict(zip(names, (32, 2**26, body_bytes, 64, 2**20), strict=True))

    def answer(request):
        asked.append((request.url.path, len(request.content)))
        if request.url.path == "/v1/info":
            return httpx2.Response(200, json={"limits": limits, "model": {"smallest_side": 16}})
        return httpx2.Response(200, content=npz(flow=np.ones((32, 64, 2), np.float32)))

    return answer, asked


def test_frames_too_large_to_send_are_not_sent_whole_first(connect, npz, monkeypatch):
    monkeypatch.setattr(_base, "_LARGE_BODY", 10_000)
    frames = np.random.default_rng(0).integers(0, 256, (2, 128, 256, 3), np.uint8)
    server, asked = server_with_limits(npz, 20_000)
    flow = connect(server).flow(*frames).flow
    assert (flow.shape, np.unique(flow).tolist()) == ((128, 256, 2), [4.0])  # px of the frames
    assert [path for path, _ in asked] == ["/v1/info", "/v1/flow"]
    assert asked[1][1] < 20_000


def test_frames_that_may_be_sent_cost_no_further_request(connect, npz):
    server, asked = server_with_limits(npz, 10)
    connect(server).flow(np.zeros((32, 64), np.uint8), np.zeros((32, 64), np.uint8))
    assert [path for path, _ in asked] == ["/v1/flow"]
