"""Decoding in processes of its own: what a crash, a hang or an error in there does to everybody else."""

import asyncio
import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
from mcjepa_server import Settings, confined, create_app, decoders, workers
from mcjepa_server.accepted import PixelBudget
from mcjepa_server.clips import decode_clip
from mcjepa_server.engines.fake import FakeEngine
from mcjepa_server.errors import DeadlineExceeded, ImageTooLarge, NotReady, UndecodableImage
from mcjepa_server.frames import decode_frame
from mcjepa_server.geometry import Padding, plan_geometry
from mcjepa_server.handover import INLINE_BYTES
from mcjepa_server.images import decode_image
from mcjepa_server.scaling import pack_clip
from prometheus_client import Counter
from starlette.testclient import TestClient


def work(job, processes=1):
    """Runs the coroutine function on decoders; gives its result and the count of failures."""
    failures = Counter("failures", "Of decoders.", registry=None)

    async def main():
        pool = decoders.Decoders(processes, failures)
        await pool.start()
        try:
            return await job(pool)
        finally:
            await pool.stop()

    return asyncio.run(main()), failures._value.get()


def die(_=None):
    os.kill(os.getpid(), signal.SIGSEGV)


def test_a_crash_costs_one_file(encode, picture):
    good = encode(picture())

    async def job(pool):
        others = [
            pool.run(decode_image, good, "other", PixelBudget(10**6, 10**6), param="x") for _ in range(4)
        ]
        crashed, *decoded = await asyncio.gather(
            pool.run(die, param="frame2"), *others, return_exceptions=True
        )
        return crashed, [image.shape for image in decoded]

    (crashed, shapes), failures = work(job, processes=2)
    assert isinstance(crashed, UndecodableImage)
    assert str(crashed) == "frame2 cannot be decoded: the decoder broke down on it"
    assert crashed.param == "frame2"
    assert shapes == [(48, 80, 3)] * 4
    assert failures == 2  # it was tried twice


def test_images_are_those_that_a_thread_decodes(encode, picture):
    files = [encode(picture()), encode(picture(100, 33), "JPEG")]
    budget = PixelBudget(10**6, 10**6)

    async def job(pool):
        return [await pool.run(decode_image, data, "x", budget, param="x") for data in files]

    for found, data in zip(work(job)[0], files, strict=True):
        np.testing.assert_array_equal(found, decode_image(data, "x", PixelBudget(10**6, 10**6)))


def test_the_two_frames_of_a_pair_are_decoded_at_once(encode, picture):
    class Waits:
        """Lets nobody go before two have come."""

        def __init__(self):
            self._both = asyncio.Barrier(2)

        async def run(self, function, *args, param):
            async with asyncio.timeout(20):
                await self._both.wait()
            return function(*args)

    async def scenario():
        first, second = picture(), picture()[::-1]
        files = [("frame1", encode(first)), ("frame2", encode(second))]
        plan = partial(plan_geometry, padding=Padding(64), max_side=1024, max_pixels=10**6)
        clip, geometry = await decode_clip(files, PixelBudget(10**6, 10**6), plan, Waits())
        np.testing.assert_array_equal(clip, pack_clip([first, second], geometry))
        return geometry.padded_width, geometry.padded_height

    assert asyncio.run(scenario()) == (128, 64)


def test_too_many_pixels_are_refused_before_the_rest_is_decoded(encode, picture):
    calls = []

    class Notes:
        async def run(self, function, *args, param):
            calls.append(param)
            return function(*args)

    image = picture()
    files = [(f"frames[{index}]", encode(image)) for index in range(8)]
    budget = PixelBudget(10**6, 8 * image.shape[0] * image.shape[1] - 1)
    plan = partial(plan_geometry, padding=Padding(64), max_side=1024, max_pixels=10**6)
    with pytest.raises(ImageTooLarge, match=r"up to frames\[7\]; .*max_request_pixels"):
        asyncio.run(decode_clip(files, budget, plan, Notes()))
    assert len(calls) <= 2


def test_a_process_killed_from_outside_costs_nothing():
    async def job(pool):
        os.kill(await pool.run(os.getpid, param="x"), signal.SIGKILL)
        return await pool.run(os.getpid, param="x")

    assert work(job)[0] > 0


def test_a_hang_is_ended(monkeypatch):
    async def job(pool):
        monkeypatch.setattr(decoders, "TIMEOUT_S", 0.2)
        first = await asyncio.gather(pool.run(time.sleep, 1000, param="frame1"), return_exceptions=True)
        monkeypatch.setattr(decoders, "TIMEOUT_S", 30)
        return first[0], await pool.run(os.getpid, param="x")

    (hung, alive), failures = work(job)
    assert isinstance(hung, DeadlineExceeded)
    assert "decoding frame1 did not finish within 0.2 s (decode_timeout_s)" in str(hung)
    assert alive > 0
    assert failures == 1


def test_where_no_process_can_be_started_the_server_is_not_ready(monkeypatch, caplog):
    def fail(*_, **__):
        raise OSError("no more processes")

    async def job(pool):
        with pytest.raises(NotReady, match="no process can be started") as caught:
            await pool.run(os.getpid, param="frame1")
        return caught.value.headers

    monkeypatch.setattr(subprocess, "Popen", fail)
    headers, failures = work(job)
    assert headers == {"Retry-After": "5"}
    assert failures == 2
    assert caplog.text.count("no more processes") == 2  # at the start, and then


def test_a_process_that_cannot_be_confined_is_not_used(monkeypatch):
    monkeypatch.setattr(workers, "confine", partial(int, "no limit"))

    async def job(pool):
        with pytest.raises(NotReady):
            await pool.run(os.getpid, param="frame1")

    assert work(job)[1] == 2


def test_stopping_ends_the_processes():
    async def job(pool):
        pid = await pool.run(os.getpid, param="x")
        await pool.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    work(job)


def test_results_and_arguments_of_any_size_cross():
    async def job(pool):
        for size in (0, 1000, INLINE_BYTES, INLINE_BYTES + 1, 10**7):
            data = os.urandom(size)
            assert await pool.run(bytes, data, param="x") == data
            assert await pool.run(bytes.hex, data[: 10**6], param="x") == data[: 10**6].hex()

    work(job)


def test_no_bytes_stay_in_the_shared_file():
    async def job(pool):
        for function in (bytes, len, json.loads):  # large there and back, there alone, and an error
            with suppress(ValueError):
                await pool.run(function, bytes(10**6), param="x")
            (worker,) = pool._idle
            assert os.path.getsize(worker._file.path) == 0

    work(job)


def test_what_cannot_be_pickled_is_an_error_of_its_own_call():
    async def job(pool):
        before = await pool.run(os.getpid, param="x")
        with pytest.raises(Exception, match="pickle"):
            await pool.run(eval, "lambda: 0", param="x")
        return before == await pool.run(os.getpid, param="x")

    assert work(job)[0]


def test_errors_come_back_whole(encode, picture):
    async def job(pool):
        with pytest.raises(ImageTooLarge, match="max_image_pixels") as caught:
            await pool.run(decode_image, encode(picture()), "frame1", PixelBudget(100, 100), param="frame1")
        return caught.value.param

    assert work(job)[0] == "frame1"


def test_a_caller_who_leaves_does_not_end_the_process():
    async def job(pool):
        before = await pool.run(os.getpid, param="x")
        leaving = asyncio.create_task(pool.run(time.sleep, 0.1, param="x"))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        return before == await pool.run(os.getpid, param="x")

    assert work(job)[0]


def limits():
    import resource

    return resource.getrlimit(resource.RLIMIT_AS)[0], resource.getrlimit(resource.RLIMIT_CORE)[0]


def test_a_process_is_bounded_and_light(encode, picture):
    plan = partial(plan_geometry, padding=Padding(64), max_side=1024, max_pixels=10**6)

    async def job(pool):
        budget = PixelBudget(10**6, 10**6)
        await pool.run(decode_frame, encode(picture()), "frame1", budget, plan, param="frame1")
        modules = await pool.run(eval, "set(__import__('sys').modules)", param="x")
        return await pool.run(limits, param="x"), modules

    (bounds, modules), _ = work(job)
    assert bounds == (confined.MEMORY_BYTES, 0)
    heavy = {"asyncio", "cv2", "fastapi", "grpc", "numpy", "onnxruntime", "prometheus_client", "pydantic"}
    assert not modules & heavy


def test_through_the_whole_gateway(pair, check_problem):
    with TestClient(create_app(Settings(decode_processes=1), FakeEngine())) as client:
        assert client.post("/v1/flow", files=pair).status_code == 200
        limits = client.get("/v1/info").json()["limits"]
        assert (limits["decode_processes"], limits["decode_timeout_s"]) == (1, 30)
        assert limits["decode_memory_bytes"] == confined.MEMORY_BYTES
        reply = client.post("/v1/embeddings", files={"images": pair["frame1"]})
        assert reply.status_code == 200
        pair["frame2"] = ("2.png", b"junk")
        body = check_problem(client.post("/v1/flow", files=pair), 400, "undecodable_image")
        assert body["error"]["param"] == "frame2"
