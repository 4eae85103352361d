"""Images of one request to squares: small files together, in order, and each with its own error."""

import asyncio
import base64
from contextlib import aclosing

import cv2
import numpy as np
import pytest
from mcjepa_server.decoding import embed_inputs as module
from mcjepa_server.decoding.embed_inputs import MOST_A_CALL, embed_batches
from mcjepa_server.decoding.images import decode_image
from mcjepa_server.errors import DeadlineExceeded, ImageTooLarge, UndecodableImage
from mcjepa_server.imaging import limits
from mcjepa_server.imaging.limits import PixelBudget
from mcjepa_server.imaging.resize import resize_square

SIDE = 32
BUDGET = PixelBudget(10**6, 10**6)
CRASHES = b"the decoder breaks down on this"


class Decoders:
    """Decodes here, notes the files of each call, and breaks down like a process does."""

    def __init__(self):
        self.calls = []

    async def run(self, function, files, *args, param):
        self.calls.append(len(files))
        if CRASHES in files:
            raise UndecodableImage(f"{param} cannot be decoded: the decoder broke down on it", param=param)
        return function(files, *args)


def decode(images, decoders, size=64, budget=BUDGET):
    async def batches():
        return [batch async for batch in embed_batches(images, size, budget, SIDE, decoders)]

    return np.concatenate(asyncio.run(batches()))


@pytest.fixture
def files(encode, picture):
    return [encode(np.roll(picture(), shift, axis=1)) for shift in range(2 * MOST_A_CALL + 1)]


def named(files):
    return [(f"images[{index}]", data) for index, data in enumerate(files)]


def expected(data):
    return resize_square(decode_image(data, "x", PixelBudget(10**6, 10**6)), SIDE)


def test_small_files_share_calls_and_stay_in_order(files):
    decoders = Decoders()
    found = decode(named(files), decoders)
    np.testing.assert_array_equal(found, [expected(data) for data in files])
    assert decoders.calls == [MOST_A_CALL, MOST_A_CALL, 1]


@pytest.mark.parametrize(("count", "calls"), [(1, [1]), (2, [2]), (3, [2, 1]), (4, [2, 2]), (9, [5, 4])])
def test_each_process_has_an_equal_share(files, count, calls):
    decoders = Decoders()
    assert len(decode(named(files[:count]), decoders)) == count
    assert decoders.calls == calls


def test_batches_are_full_in_order_and_few_are_decoded_ahead(files):
    decoders = Decoders()

    async def first_of(size):
        async with aclosing(embed_batches(named(files), size, BUDGET, SIDE, decoders)) as batches:
            return await anext(batches)

    np.testing.assert_array_equal(asyncio.run(first_of(5)), [expected(data) for data in files[:5]])
    assert sum(decoders.calls) <= 5 + 2 * 3  # the batch, and the calls that were begun meanwhile
    np.testing.assert_array_equal(decode(named(files), decoders, 5), decode(named(files), Decoders()))


def test_base64_is_decoded_first(files):
    texts = [base64.b64encode(data).decode() for data in files]
    np.testing.assert_array_equal(decode(named(texts), Decoders()), decode(named(files), Decoders()))


def test_files_that_are_large_together_go_apart(files, monkeypatch):
    monkeypatch.setattr(module, "BYTES_A_CALL", len(files[0]) + len(files[1]))
    decoders = Decoders()
    found = decode(named([*files[:2], files[2] + bytes(10**4), files[3]]), decoders)
    np.testing.assert_array_equal(found, [expected(data) for data in files[:4]])
    assert decoders.calls == [2, 1, 1]


def test_a_file_that_breaks_the_decoder_is_found_among_others(files):
    files[2] = CRASHES
    decoders = Decoders()
    with pytest.raises(
        UndecodableImage, match=r"^images\[2\] cannot be decoded: the decoder broke"
    ) as caught:
        decode(named(files[:6]), decoders)
    assert caught.value.param == "images[2]"
    assert sorted(decoders.calls) == [1, 1, 1, 3, 3]  # up to it one by one


def test_after_a_timeout_nothing_is_decoded_again(files):
    class Slow(Decoders):
        async def run(self, function, files, *args, param):
            self.calls.append(len(files))
            raise DeadlineExceeded(f"decoding {param} did not finish")

    decoders = Slow()
    with pytest.raises(DeadlineExceeded):
        decode(named(files[:6]), decoders)
    assert set(decoders.calls) == {3}
    assert len(decoders.calls) <= 2


class AtOnce(Decoders):
    """Lets others begin before a call ends, as those of two processes do."""

    async def run(self, function, files, *args, param):
        self.calls.append(len(files))
        for _ in range(100):
            await asyncio.sleep(0)
        return function(files, *args)


@pytest.mark.parametrize("decoders", [Decoders, AtOnce])
@pytest.mark.parametrize("count", [2, 3, 9])
def test_the_pixels_of_a_request_are_counted_over_all_its_calls(files, monkeypatch, decoders, count):
    monkeypatch.setattr(limits, "UNCOUNTED", 48 * 80 - 100)  # of 80x48 px
    fits = PixelBudget(10**6, 100 * count)
    assert len(decode(named(files[:count]), decoders(), budget=fits)) == count
    for size in (64, 4, 2):
        with pytest.raises(ImageTooLarge, match=r"the limit is \d+ \(max_request_pixels\)"):
            decode(named(files[:count]), decoders(), size, fits._replace(max_request=100 * count - 1))


def test_images_of_ordinary_size_are_not_counted(files):
    small = PixelBudget(10**6, 0)
    assert len(decode(named(files), Decoders(), budget=small)) == len(files)


def test_a_jpeg_counts_as_large_as_it_is_decoded(encode, picture, monkeypatch):
    image = cv2.resize(picture(75, 100), (800, 600))
    monkeypatch.setattr(limits, "UNCOUNTED", 200 * 150)
    assert len(decode(named([encode(image, "JPEG")] * 3), Decoders(), budget=PixelBudget(10**6, 0))) == 3
    with pytest.raises(ImageTooLarge) as caught:
        decode(named([encode(image)]), Decoders(), budget=PixelBudget(10**6, 0))
    assert caught.value.param == "images[0]"


def test_the_first_bad_file_is_named(files):
    files[1], files[3] = b"junk", b""
    with pytest.raises(UndecodableImage, match="not a readable image") as caught:
        decode(named(files), Decoders())
    assert caught.value.param == "images[1]"


def test_a_large_jpeg_gives_nearly_the_square_of_the_whole_file(encode, picture):
    data = encode(cv2.resize(picture(75, 100), (800, 600), interpolation=cv2.INTER_CUBIC), "JPEG", quality=95)
    (found,) = decode(named([data]), Decoders())
    difference = found.astype(float) - expected(data)
    assert np.abs(difference).mean() < 1.5
    assert difference.any()  # it was decoded smaller
