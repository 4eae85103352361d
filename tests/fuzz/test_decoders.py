"""Whatever the bytes are: a picture of the right kind, or one of our errors that blames the part."""

import asyncio
import random
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, strategies as st
from mcjepa_server import Settings
from mcjepa_server.api import formats
from mcjepa_server.api.formats import choose_format
from mcjepa_server.api.request_body import Form, read_form
from mcjepa_server.decoding.embed_inputs import decode_base64
from mcjepa_server.decoding.images import decode_image
from mcjepa_server.errors import (
    ApiError,
    ImageTooLarge,
    InvalidInput,
    MalformedRequest,
    NotAcceptable,
    UndecodableImage,
)
from mcjepa_server.imaging.limits import PixelBudget
from mcjepa_server.scheduling.byte_budget import ByteBudget
from starlette.requests import Request

LIMIT = 2**20


def decode(data):
    image, error = outcome(lambda: decode_image(data, "part", PixelBudget(LIMIT, LIMIT)))
    if error is not None:
        assert isinstance(error, UndecodableImage | ImageTooLarge | InvalidInput)
        assert error.param == "part"
        assert len(error.message) < 500
        assert not re.search(r"\b0x[0-9a-f]{6}", error.message)  # no addresses of objects
        return None
    assert image.dtype == np.uint8
    assert image.shape == (*image.shape[:2], 3)
    assert image.shape[0] * image.shape[1] <= LIMIT
    return image


def outcome(call):
    """The result, or the error if it is one of ours; any other passes through."""
    try:
        return call(), None
    except ApiError as error:
        return None, error


@given(st.binary(max_size=2000))
@example(b"")
@example(b"\xff\xd8\xff\xe0")
@example(b"P6 16 16 255\n")
def test_any_bytes(data):
    decode(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "PPM"])
def test_damaged_files(corpus, kind):
    valid = corpus.file(kind)
    assert decode(valid) is not None

    @given(st.integers(0, 2**32))
    def damaged(seed):
        decode(corpus.mutate(valid, random.Random(seed)))

    damaged()


def test_hostile_files_are_refused_without_their_memory(corpus, hostile_name):
    data = corpus.images()[hostile_name]
    tracemalloc.start()
    try:
        decode(data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 100 * 2**20


@given(st.text(max_size=200))
@example("data:;base64,")
@example("http://x")
def test_any_text_as_base64(text):
    data, error = outcome(lambda: decode_base64(text, "input[0]"))
    assert isinstance(data, bytes) or error.param == "input[0]"


@given(st.text(max_size=200), st.one_of(st.none(), st.text(max_size=20)))
def test_any_accept_header(accept, requested):
    offer, error = outcome(lambda: choose_format(requested, accept, formats.FLOW))
    assert offer in formats.FLOW or isinstance(error, NotAcceptable)


def test_damaged_multipart(corpus):
    valid = corpus.multipart([("frame1", corpus.file("PNG")), ("frame2", b"x")])
    settings = Settings()

    async def parse(body):
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            return messages.pop()

        kind = f"multipart/form-data; boundary={corpus.BOUNDARY}".encode()
        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind)], "state": {}}
        return await read_form(Request(scope, receive), settings, ByteBudget(10**9))

    loop = asyncio.new_event_loop()
    assert [name for name, _ in loop.run_until_complete(parse(valid)).files] == ["frame1", "frame2"]

    @given(st.integers(0, 2**32))
    def damaged(seed):
        body = corpus.mutate(valid, random.Random(seed))
        form, error = outcome(lambda: loop.run_until_complete(parse(body)))
        assert isinstance(form, Form) or isinstance(error, MalformedRequest)

    damaged()
    loop.close()


def test_the_corpus_is_worth_its_name(corpus):
    """Most of it must be refused, and the rest be small pictures."""
    files = corpus.images()
    passed = [name for name, data in files.items() if decode(data) is not None]
    assert len(passed) < 0.3 * len(files), passed
