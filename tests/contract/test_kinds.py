"""Images as PIL images and arrays give what their own files give."""

import io

import numpy as np
import pytest
from mcjepa_client import BadRequestError
from PIL import Image

RANDOM = np.random.default_rng(0)
SIXTEEN_BITS = RANDOM.integers(0, 65536, (48, 80)).astype(np.uint16)
COLORS = Image.fromarray(RANDOM.integers(0, 256, (48, 80, 3), np.uint8))
TRANSPARENT = Image.fromarray(RANDOM.integers(0, 256, (48, 80, 4), np.uint8))


def file_of(image, format="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def opened(data):
    return Image.open(io.BytesIO(data))


SIXTEEN = file_of(Image.fromarray(SIXTEEN_BITS))
JPEG = file_of(COLORS.convert("CMYK"), "JPEG")
KINDS = {
    "I;16": (Image.fromarray(SIXTEEN_BITS), SIXTEEN),
    "I;16B": (Image.fromarray(SIXTEEN_BITS.astype(">u2")), SIXTEEN),
    "I, opened": (opened(file_of(Image.fromarray(SIXTEEN_BITS), "PPM")), SIXTEEN),
    "16 bits, opened": (opened(SIXTEEN), SIXTEEN),
    "CMYK": (opened(JPEG), JPEG),
    **{
        f"{image.mode}, {bands}": (image, file_of(image))
        for image, bands in [
            (COLORS.convert("1"), "plain"),
            (COLORS.convert("L"), "plain"),
            (TRANSPARENT.convert("LA"), "transparent"),
            (COLORS.quantize(16), "plain"),
            (TRANSPARENT.quantize(16), "transparent"),
            (COLORS, "plain"),
            (TRANSPARENT, "transparent"),
        ]
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_pil_image_is_what_its_file_is(client, kind):
    image, data = KINDS[kind]
    assert np.array_equal(client.flow(image, image).flow, client.flow(data, data).flow)
    assert np.array_equal(client.embed(image).embeddings, client.embed(data).embeddings)
    analyses = client.analyze([image, image]), client.analyze([data, data])
    assert np.array_equal(analyses[0].flows, analyses[1].flows)


@pytest.mark.parametrize("array", [SIXTEEN_BITS, SIXTEEN_BITS.astype(">u2"), SIXTEEN_BITS > 30_000])
def test_an_array_is_what_its_file_is(client, array):
    data = file_of(Image.fromarray(array if array.dtype == bool else array.astype(np.uint16)))
    assert np.array_equal(client.flow(array, data).flow, client.flow(data, data).flow)


def test_the_async_client_converts_alike(run_async, client):
    image, data = KINDS["I;16"]

    async def call(other):
        return await other.flow(image, image)

    assert np.array_equal(run_async(call).flow, client.flow(data, data).flow)


def test_a_broken_file_among_many_is_named_and_can_be_skipped(connect, tmp_path):
    files = []
    for number in range(7):
        files.append(tmp_path / f"{number}.png")
        files[-1].write_bytes(file_of(COLORS) if number not in (2, 4) else file_of(COLORS)[:700])
    client = connect(max_images=3)
    with pytest.raises(BadRequestError) as caught:
        client.embed(files)
    assert (caught.value.status_code, caught.value.index, caught.value.path) == (400, 2, str(files[2]))
    result = client.embed(files, on_error="skip")
    assert result.indices.tolist() == [0, 1, 3, 5, 6]
    assert [(error.index, error.path) for error in result.failed] == [(2, str(files[2])), (4, str(files[4]))]
    assert np.array_equal(result.embeddings, client.embed([files[0]] * 5).embeddings)
