"""POST /v1/embeddings: OpenAI's shape, multipart, and what is refused."""

import asyncio
import base64
import json

import httpx2
import numpy as np
import openai
import pytest
from mcjepa_server import Settings, create_app
from mcjepa_server.api.embeddings import parse_request
from mcjepa_server.api.schemas import EmbeddingRequest
from mcjepa_server.engines.fake import FakeEngine
from mcjepa_server.errors import InvalidInput, MalformedRequest
from mcjepa_server.imaging.resize import resize_square


def as_uri(data):
    return "data:image/png;base64," + base64.b64encode(data).decode()


def expected_embedding(image):
    """Of the fake engine: the mean colour, then ones, to unit length."""
    mean = resize_square(image, 32).mean(axis=(0, 1), dtype=np.float32)
    vector = np.concatenate([mean, np.ones(5, np.float32)])
    return vector / np.linalg.norm(vector)


@pytest.fixture
def images(picture):
    return [picture(), picture()[:, ::-1].copy(), np.full((200, 16, 3), 9, np.uint8)]


@pytest.fixture
def uris(images, encode):
    return [as_uri(encode(image)) for image in images]


def test_reply_has_the_shape_of_openai(client, images, uris):
    body = client.post("/v1/embeddings", json={"model": "mcjepa_embed", "input": uris}).json()
    assert body["object"] == "list"
    assert body["model"] == "mcjepa_embed"
    assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert [item["object"] for item in body["data"]] == ["embedding"] * 3
    assert [item["index"] for item in body["data"]] == [0, 1, 2]
    for item, image in zip(body["data"], images, strict=True):
        np.testing.assert_allclose(item["embedding"], expected_embedding(image), rtol=1e-5)


def test_every_way_to_send_an_image_gives_the_same(client, encode, picture, uris):
    data = encode(picture())
    bare = base64.b64encode(data).decode()
    wrapped = base64.encodebytes(data).decode()  # with line breaks
    forms = [uris[0], bare, wrapped, {"image": uris[0]}, {"image": bare}, uris[0].replace("data:", "DATA:")]
    body = client.post("/v1/embeddings", json={"input": forms}).json()
    assert len(body["data"]) == len(forms)
    assert all(item["embedding"] == body["data"][0]["embedding"] for item in body["data"])
    multipart = client.post("/v1/embeddings", files=[("images", ("1.png", data))]).json()
    assert multipart["data"][0]["embedding"] == body["data"][0]["embedding"]
    for single in (bare, {"image": bare}):
        assert client.post("/v1/embeddings", json={"input": single}).json() == multipart


def test_base64_is_the_same_numbers_as_float(client, uris):
    def data(encoding):
        reply = client.post("/v1/embeddings", json={"input": uris, "encoding_format": encoding})
        return [item["embedding"] for item in reply.json()["data"]]

    packed = [np.frombuffer(base64.b64decode(text), "<f4") for text in data("base64")]
    np.testing.assert_array_equal(packed, np.array(data("float"), np.float32))
    np.testing.assert_allclose(np.linalg.norm(packed, axis=1), 1, rtol=1e-6)


def test_dimensions_truncates_and_normalises_again(client, uris):
    whole = client.post("/v1/embeddings", json={"input": uris[0]}).json()["data"][0]["embedding"]
    cut = client.post("/v1/embeddings", json={"input": uris[0], "dimensions": 2}).json()["data"][0][
        "embedding"
    ]
    np.testing.assert_allclose(cut, np.array(whole[:2]) / np.linalg.norm(whole[:2]), rtol=1e-6)


def test_requests_larger_than_the_batch_are_split(serve, encode, images):
    engine = FakeEngine()
    client = serve(engine)
    files = [("images", ("x.png", encode(images[index % 3]))) for index in range(10)]
    data = client.post("/v1/embeddings", files=files).json()["data"]
    assert [shape[0] for shape in engine.calls[-3:]] == [4, 4, 2]
    for index, item in enumerate(data):
        np.testing.assert_allclose(item["embedding"], expected_embedding(images[index % 3]), rtol=1e-5)


def test_multipart_takes_the_same_options(client, encode, picture):
    reply = client.post(
        "/v1/embeddings",
        files=[("images", ("1.png", encode(picture())))],
        data={"model": "mcjepa_embed", "encoding_format": "base64", "dimensions": "3"},
    )
    assert len(base64.b64decode(reply.json()["data"][0]["embedding"])) == 12


def test_headers_of_a_reply(client, uris):
    headers = client.post("/v1/embeddings", json={"input": uris}).headers
    assert headers["x-model-version"] == "fake-0"
    assert float(headers["x-inference-time"]) >= 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [1, 2, 3]}, "input"),
        ({"input": None}, "input"),
        ({"input": [{"text": "a"}]}, "input"),
        ({"input": [{"image": 1}]}, "input"),
        ({"input": [{"image": "aGk=", "text": "a"}]}, "input"),
        ({"input": "aGk=", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "aGk=", "dimensions": 0}, "dimensions"),
        ({"input": "aGk=", "dimensions": 9}, "dimensions"),
        ({"input": "aGk=", "dimension": 2}, "dimension"),
        ([], None),
        ("text", None),
    ],
)
def test_what_does_not_fit_the_schema(client, check_problem, body, param):
    problem = check_problem(client.post("/v1/embeddings", json=body), 422, "invalid_input")
    assert problem["error"]["param"] == param


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"NaN]", b"[" * 100_000])
def test_what_is_not_json(client, check_problem, data):
    reply = client.post("/v1/embeddings", content=data, headers={"Content-Type": "application/json"})
    check_problem(reply, 400, "malformed_request")


@pytest.mark.parametrize("text", ["a cat on a mat", "aGk", "data:image/png;base64,!!", "aGk=", "", "é"])
def test_what_is_not_an_image(client, check_problem, uris, text):
    problem = check_problem(
        client.post("/v1/embeddings", json={"input": [uris[0], text]}), 400, "undecodable_image"
    )
    assert problem["error"]["param"] == "input[1]"


@pytest.mark.parametrize("url", ["http://example.com/a.png", "HTTPS://example.com/a", "file:///etc/passwd"])
def test_urls_are_refused_with_a_reason(client, check_problem, url):
    problem = check_problem(client.post("/v1/embeddings", json={"input": url}), 422, "invalid_input")
    assert "fetches no URLs" in problem["detail"]


def test_a_data_uri_that_is_not_base64(client, check_problem):
    problem = check_problem(
        client.post("/v1/embeddings", json={"input": "data:text/plain,hello"}), 422, "invalid_input"
    )
    assert ";base64," in problem["detail"]


def test_an_unknown_model(client, check_problem, uris):
    reply = client.post("/v1/embeddings", json={"input": uris, "model": "text-embedding-3-small"})
    problem = check_problem(reply, 404, "model_not_found")
    assert "mcjepa_embed" in problem["detail"]


def test_too_many_images(serve, check_problem, uris):
    problem = check_problem(
        serve(max_images=2).post("/v1/embeddings", json={"input": uris}), 422, "invalid_input"
    )
    assert "3 images; the limit is 2 (max_images)" in problem["detail"]


@pytest.mark.parametrize("item", ['"aGk="', '""', "1", "[]", "{}", "null", '{"image": "aGk="}'])
def test_items_are_counted_before_they_are_looked_at(client, check_problem, monkeypatch, item):
    monkeypatch.setattr(EmbeddingRequest, "model_validate", None)
    body = '{"input": [' + ", ".join([item] * 20_000) + "]}"
    reply = client.post("/v1/embeddings", content=body, headers={"Content-Type": "application/json"})
    problem = check_problem(reply, 422, "invalid_input")
    assert problem["error"]["param"] == "input"
    assert "20000 images; the limit is 2048 (max_images)" in problem["detail"]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b'{"input": [' + b"1," * 10**6 + b"1]}", InvalidInput),
        (b'{"input": "aGk=", ' + b'"a":1,' * 10**6 + b'"b":1}', InvalidInput),
        (b"[" * 2 * 10**6, MalformedRequest),
        (b'{"a":' * 10**6, MalformedRequest),
    ],
    ids=["items", "members", "lists", "objects"],
)
def test_large_bodies_of_many_values_are_not_parsed(monkeypatch, data, error):
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(error):
        parse_request(data, 64)


@pytest.mark.parametrize(
    "member", ['"%x":1', '"%x":{"a":[1,2]}', '"input%d":"aGk="'], ids=["numbers", "nested", "texts"]
)
def test_unknown_members_are_one_error_before_validation(client, check_problem, monkeypatch, member):
    monkeypatch.setattr(EmbeddingRequest, "model_validate", None)
    body = '{"input":"aGk=",' + ",".join(member % index for index in range(20_000)) + "}"
    reply = client.post("/v1/embeddings", content=body, headers={"Content-Type": "application/json"})
    problem = check_problem(reply, 422, "invalid_input")
    assert problem["error"]["param"] in ("0", "input0")
    assert len(reply.content) < 2000


def test_a_body_of_half_a_mebibyte_of_values_is_not_parsed(monkeypatch):
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(InvalidInput):
        parse_request(b'{"input":["a",' + b"1," * 2**18 + b"1]}", 2048)


@pytest.mark.parametrize("name", ["a" * 10_000, "\\ud800", "", "\u00e9" * 100])
def test_the_name_of_an_unknown_member_is_any_text(client, check_problem, name):
    body = f'{{"input":"aGk=","{name}":1}}'.encode()
    reply = client.post("/v1/embeddings", content=body, headers={"Content-Type": "application/json"})
    problem = check_problem(reply, 422, "invalid_input")
    assert len(problem["error"]["param"]) < 100


@pytest.mark.parametrize("wrap", ["{}", "[{}]"])
def test_unknown_members_of_an_image_are_one_error(wrap):
    item = "{" + ",".join(f'"{index}":1' for index in range(20_000)) + "}"
    with pytest.raises(InvalidInput) as caught:
        parse_request(f'{{"input":{wrap.replace("{}", item)}}}'.encode(), 2048)
    assert caught.value.param == "input"
    assert len(str(caught.value)) < 1000


def test_a_large_body_of_as_many_images_as_may_be_is_parsed():
    uri = "data:image/png;base64," + "a" * 30_000
    data = json.dumps({"input": [{"image": uri}] * 64, "model": None}).encode()
    assert parse_request(data, 64).items == [uri] * 64


@pytest.mark.parametrize("send_as", ["json", "multipart"])
def test_many_images_come_back_in_order(client, encode, send_as):
    files = [encode(np.full((16, 16, 3), shade, np.uint8)) for shade in range(1, 201)]
    if send_as == "json":
        reply = client.post("/v1/embeddings", json={"input": [as_uri(data) for data in files]})
    else:
        reply = client.post("/v1/embeddings", files=[("images", ("x.png", data)) for data in files])
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert body["usage"]["total_tokens"] == 200
    assert [item["index"] for item in body["data"]] == list(range(200))
    for shade, item in enumerate(body["data"], start=1):
        image = np.full((16, 16, 3), shade, np.uint8)
        np.testing.assert_allclose(item["embedding"], expected_embedding(image), rtol=1e-5)


def test_a_request_of_many_images_leaves_room_for_others(encode):
    """Its cost in the queue is that of one part, and whoever waits has the next turn of the engine."""
    one = as_uri(encode(np.full((16, 16, 3), 9, np.uint8)))

    class Waiting(FakeEngine):
        async def infer_embed(self, images):
            while len(self.calls) == len(before) and not app.state.service.admission.waiting:
                await asyncio.sleep(0)  # the first batch ends when the other request waits
            return await super().infer_embed(images)

    engine = Waiting()
    before = [None] * 99
    app = create_app(Settings(max_concurrency=1, max_queue_pixels=40 * 32 * 32), engine)

    async def ask():
        nonlocal before
        transport = httpx2.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client,
        ):
            before = list(engine.calls)
            many = asyncio.create_task(client.post("/v1/embeddings", json={"input": [one] * 100}))
            while not app.state.service.admission.pixels:
                await asyncio.sleep(0)
            few = await client.post("/v1/embeddings", json={"input": one})
            return few.status_code, (await many).status_code

    assert asyncio.run(ask()) == (200, 200)
    sizes = [shape[0] for shape in engine.calls[len(before) :]]
    assert 1 in sizes[:2]
    assert sum(sizes) == 101


def test_the_deadline_holds_between_the_parts(serve, check_problem, encode):
    class Hanging(FakeEngine):
        async def infer_embed(self, images):
            if len(self.calls) > 12:
                await asyncio.Event().wait()
            return await super().infer_embed(images)

    one = as_uri(encode(np.full((16, 16, 3), 9, np.uint8)))
    reply = serve(Hanging()).post(
        "/v1/embeddings", json={"input": [one] * 100}, headers={"X-Request-Timeout": "0.5"}
    )
    check_problem(reply, 504, "deadline_exceeded")


@pytest.mark.parametrize("name", ["model", "encoding_format", "dimensions", "modality", "input_type", "user"])
def test_null_is_the_default(client, uris, name):
    expected = client.post("/v1/embeddings", json={"input": uris}).json()
    assert client.post("/v1/embeddings", json={"input": uris, name: None}).json() == expected


def test_what_other_clients_send_is_ignored(client, uris):
    extra = {"user": "me", "input_type": "passage", "modality": "image"}
    assert client.post("/v1/embeddings", json={"input": uris, **extra}).status_code == 200


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1, 2], [3]]])
def test_token_ids_are_refused_as_such(client, check_problem, tokens):
    problem = check_problem(client.post("/v1/embeddings", json={"input": tokens}), 422, "invalid_input")
    assert problem["error"]["param"] == "input"
    assert "token" in problem["detail"]


def test_multipart_without_images(client, check_problem):
    reply = client.post("/v1/embeddings", files={"image": ("1.png", b"x")})
    assert check_problem(reply, 422, "invalid_input")["error"]["param"] == "image"
    reply = client.post("/v1/embeddings", files={"model": (None, "mcjepa_embed")})
    assert "'images' is missing" in check_problem(reply, 422, "invalid_input")["detail"]


def test_an_image_of_one_side_under_the_minimum(client, encode, check_problem):
    data = encode(np.zeros((1, 1, 3), np.uint8))
    problem = check_problem(client.post("/v1/embeddings", json={"input": as_uri(data)}), 422, "invalid_input")
    assert "1x1" in problem["detail"]


@pytest.fixture
def official(client):
    """The official client, in this process."""
    client.base_url = "http://testserver/v1/"
    with openai.OpenAI(api_key="unused", base_url=client.base_url, http_client=client, max_retries=0) as sdk:
        yield sdk


def test_the_official_client_float_and_base64_agree(official, uris, images):
    by_default = official.embeddings.create(model="mcjepa_embed", input=uris)  # asks for base64
    as_float = official.embeddings.create(model="mcjepa_embed", input=uris, encoding_format="float")
    for packed, plain, image in zip(by_default.data, as_float.data, images, strict=True):
        np.testing.assert_array_equal(np.float32(packed.embedding), np.float32(plain.embedding))
        np.testing.assert_allclose(plain.embedding, expected_embedding(image), rtol=1e-5)
    assert by_default.usage.total_tokens == 3


def test_the_official_client_with_dimensions_and_single_input(official, uris):
    reply = official.embeddings.create(model="mcjepa_embed", input=uris[0], dimensions=4, user="me")
    assert len(reply.data[0].embedding) == 4


def test_the_official_client_lists_models(official):
    assert "mcjepa_embed" in [model.id for model in official.models.list()]
    assert official.models.retrieve("mcjepa_embed").owned_by == "mcjepa"


def test_the_official_client_understands_our_errors(official, uris):
    with pytest.raises(openai.NotFoundError) as caught:
        official.embeddings.create(model="nope", input=uris)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id
    with pytest.raises(openai.BadRequestError, match="not base64"):
        official.embeddings.create(model="mcjepa_embed", input="a cat")
