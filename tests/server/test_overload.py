"""Full queue, deadlines, callers that go away, and how readiness follows the engine."""

import asyncio
import base64
from contextlib import asynccontextmanager

import httpx2
import pytest
from mcjepa_server import Settings, create_app
from mcjepa_server.api import formats
from mcjepa_server.api.responses import reply_bytes
from mcjepa_server.decoding.process import Worker
from mcjepa_server.engines.fake import FakeEngine
from mcjepa_server.errors import ClientClosedRequest, EngineError, Overloaded, RateLimited
from mcjepa_server.imaging.geometry import Geometry
from mcjepa_server.observability.timing import Timings
from mcjepa_server.scheduling.admission import Admission, Work
from mcjepa_server.scheduling.lifecycle import Service
from mcjepa_server.scheduling.pipeline import FlowOptions
from mcjepa_server.scheduling.request import inference_request
from starlette.requests import Request


@asynccontextmanager
async def running(engine, **settings):
    """The app with its lifespan, an async client, and its service; one inference at once."""
    app = create_app(Settings(**{"max_concurrency": 1, **settings}), engine)
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client, app.state.service


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


def test_a_full_queue_answers_429_and_recovers(pair, check_problem):
    async def scenario():
        engine = FakeEngine()
        async with running(engine, max_queue=1) as (client, service):
            engine.fault = "hang"
            calls = len(engine.calls)
            held = [asyncio.create_task(client.post("/v1/flow", files=pair)) for _ in range(2)]
            await until(lambda: len(engine.calls) > calls and service.admission.waiting == 1)
            assert service.metrics.registry.get_sample_value("mcjepa_queue_depth") == 1
            refused = await client.post("/v1/flow", files=pair)
            still_alive = await client.get("/healthz")
            for task in held:
                task.cancel()
            await asyncio.gather(*held, return_exceptions=True)
            engine.fault = None
            return refused, still_alive, await client.post("/v1/flow", files=pair)

    refused, still_alive, served = asyncio.run(scenario())
    body = check_problem(refused, 429, "overloaded")
    assert "2 requests are in flight; the limit is 2" in body["detail"]
    assert body["error"]["type"] == "rate_limit_error"
    assert int(refused.headers["retry-after"]) >= 1
    assert still_alive.status_code == 200
    assert served.status_code == 200


PAIR_PIXELS = 2 * 64 * 128  # what the pair of the fixtures is padded to


def hold(pair, *, held, then, **settings):
    """Requests that hang in the engine or wait for it; then what another one is answered."""

    async def scenario():
        engine = FakeEngine()
        async with running(engine, **settings) as (client, service):
            assert (await client.post("/v1/flow", files=pair)).status_code == 200
            engine.fault = "hang"
            calls = len(engine.calls)
            tasks = [asyncio.create_task(client.post("/v1/flow", files=pair)) for _ in range(held)]
            # else the next request might be the one that comes to the engine first
            decoded = min(held, 2)  # one at the engine, one ahead
            await until(
                lambda: (
                    len(engine.calls) > calls
                    and service.admission.waiting == held - 1
                    and service.admission.pixels == decoded * PAIR_PIXELS
                )
            )
            reply = await then(client, service)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return reply, service.admission

    reply, admission = asyncio.run(scenario())
    assert (admission.inside, admission.pixels, admission.expected_wait) == (0, 0, 0)
    return reply


def test_the_queue_is_bounded_in_pixels(pair, check_problem):
    async def once_more(client, _):
        return await client.post("/v1/flow", files=pair)

    reply = hold(pair, held=2, then=once_more, max_queue_pixels=2 * PAIR_PIXELS)
    detail = check_problem(reply, 429, "overloaded")["detail"]
    assert f"about {PAIR_PIXELS} pixels computed besides the about {2 * PAIR_PIXELS}" in detail
    assert "(max_queue_pixels)" in detail
    assert int(reply.headers["retry-after"]) >= 1


def test_what_a_decoded_request_costs_is_known():
    admission = Admission(Settings(max_queue_pixels=5000))
    with admission.enter() as one, admission.enter() as two:
        admission.reserve(one, Work("mcjepa_flow", 2, 4000))
        with pytest.raises(
            Overloaded, match="needs 1001 pixels computed besides the 4000 of those in flight"
        ):
            admission.reserve(two, Work("mcjepa_flow", 2, 1001))
        admission.reserve(two, Work("mcjepa_flow", 2, 1000))


def test_who_is_not_decoded_yet_counts_as_the_average(pair, check_problem):
    async def once_more(client, _):
        return await client.post("/v1/flow", files=pair)

    reply = hold(pair, held=3, then=once_more, max_queue_pixels=4 * PAIR_PIXELS - 1)
    detail = check_problem(reply, 429, "overloaded")["detail"]
    assert f"about {PAIR_PIXELS} pixels computed besides the about {3 * PAIR_PIXELS}" in detail


def test_few_of_those_who_wait_are_decoded(pair):
    async def scenario():
        engine = FakeEngine()
        async with running(engine, max_concurrency=2) as (client, service):
            decoded = []
            run = service.decoders.run

            async def note(*args, param):
                decoded.append(param)
                return await run(*args, param=param)

            service.decoders.run = note
            engine.fault = "hang"
            calls = len(engine.calls)
            tasks = [asyncio.create_task(client.post("/v1/flow", files=pair)) for _ in range(8)]
            admission = service.admission
            await until(lambda: len(engine.calls) == calls + 2 and admission.pixels == 4 * PAIR_PIXELS)
            for _ in range(20):
                await asyncio.sleep(0)
            assert (admission.inside, admission.waiting, len(decoded)) == (8, 6, 2 * 4)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            engine.fault = None
            again = await asyncio.gather(*(client.post("/v1/flow", files=pair) for _ in range(8)))
            return [reply.status_code for reply in again]

    assert asyncio.run(scenario()) == [200] * 8  # whoever left, in the queue or not, gave back its turn


def test_the_queue_is_bounded_in_expected_seconds(pair, check_problem):
    async def once_more(client, service):
        service.admission._seconds = 12.0
        reply = await client.post("/v1/flow", files=pair)
        service.admission._seconds = 0.0
        return reply

    reply = hold(pair, held=1, then=once_more, max_queue_wait_s=10)
    assert "about 12.0 s for the engine; the limit is 10 s (max_queue_wait_s)" in reply.json()["detail"]
    check_problem(reply, 429, "overloaded")
    assert reply.headers["retry-after"] == "12"


def test_nobody_waits_longer_than_the_queue_may(pair, check_problem):
    async def once_more(client, _):
        return await client.post("/v1/flow", files=pair)

    reply = hold(pair, held=1, then=once_more, max_queue_wait_s=0.05)
    assert "has waited as long as it may" in check_problem(reply, 429, "overloaded")["detail"]


def test_an_idle_server_takes_what_is_over_the_queue(pair, serve):
    assert serve(max_queue_pixels=4096).post("/v1/flow", files=pair).status_code == 200


def test_the_expected_wait_follows_what_inferences_took():
    admission = Admission(Settings(max_concurrency=2))
    work = Work("mcjepa_flow", 2, 1000)
    with admission.enter() as place:
        admission.reserve(place, work)
        assert admission.expected_wait == 0  # nothing is known yet
    admission.update_cost_model(work, 1.0)
    admission.update_cost_model(work, 2.0)
    with admission.enter() as place:
        admission.reserve(place, Work("mcjepa_flow", 2, 4000))
        assert admission.expected_wait == pytest.approx(4 * 1.2 / 2)
    assert admission.expected_wait == 0


def test_one_key_cannot_take_all_places():
    admission = Admission(Settings(max_concurrency_per_key=1))
    with admission.arrive("alice"):
        with pytest.raises(RateLimited, match=r"the limit is 1 \(max_concurrency_per_key\)"):
            admission.check("alice")
        with admission.arrive("bob"):
            admission.check()
    admission.check("alice")


def test_a_caller_says_how_long_it_waits(serve, pair, check_problem):
    engine = FakeEngine()
    client = serve(engine, failures_to_unready=1)
    engine.fault = "hang"
    reply = client.post("/v1/flow", files=pair, headers={"X-Request-Timeout": "0.2"})
    assert "0.2 s (X-Request-Timeout)" in check_problem(reply, 504, "deadline_exceeded")["detail"]
    assert client.get("/readyz").status_code == 200  # a hurried caller proves nothing about the engine


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", ""])
def test_a_wrong_timeout_is_refused(client, pair, check_problem, value):
    reply = client.post("/v1/flow", files=pair, headers={"X-Request-Timeout": value})
    body = check_problem(reply, 422, "invalid_input")
    assert body["error"]["param"] == "X-Request-Timeout"


def test_a_longer_timeout_does_not_stretch_the_servers(serve, pair):
    engine = FakeEngine()
    client = serve(engine, request_timeout_s=0.2)
    engine.fault = "hang"
    reply = client.post("/v1/flow", files=pair, headers={"X-Request-Timeout": "1000"})
    assert "0.2 s (request_timeout_s)" in reply.json()["detail"]


def test_the_engine_never_sees_a_request_whose_deadline_passed_in_the_queue(pair):
    async def scenario():
        engine = FakeEngine()
        async with running(engine) as (client, _):
            engine.fault = "hang"
            calls = len(engine.calls)
            first = asyncio.create_task(client.post("/v1/flow", files=pair))
            await until(lambda: len(engine.calls) > calls)
            late = await client.post("/v1/flow", files=pair, headers={"X-Request-Timeout": "0.1"})
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            engine.fault = None
            assert (await client.post("/v1/flow", files=pair)).status_code == 200
            return late.status_code, len(engine.calls) - calls

    assert asyncio.run(scenario()) == (504, 2)


def test_those_who_wait_for_a_broken_engine_are_sent_away(pair):
    class FailsLater(FakeEngine):
        async def infer_flow(self, frames, backward, embed=True, quality="fast"):
            if self.fault == "fail":
                self.calls.append(frames.shape)
                await self.release.wait()
            return await super().infer_flow(frames, backward, embed, quality)

    async def scenario():
        engine = FailsLater()
        engine.release = asyncio.Event()
        async with running(engine, failures_to_unready=1, readiness_interval_s=1000) as (client, service):
            engine.fault = "fail"
            tasks = [asyncio.create_task(client.post("/v1/flow", files=pair)) for _ in range(3)]
            await until(lambda: service.admission.waiting == 2)
            engine.release.set()
            return sorted(reply.status_code for reply in await asyncio.gather(*tasks))

    assert asyncio.run(scenario()) == [500, 503, 503]


def test_an_idle_engine_that_hangs_is_found(pair):
    async def scenario():
        engine = FakeEngine()
        settings = {"readiness_interval_s": 0.01, "canary_interval_s": 0.02, "request_timeout_s": 0.2}
        async with running(engine, **settings) as (client, service):
            engine.fault = "hang"
            await until(lambda: service.reason is not None)
            return (await client.get("/readyz")).json()["detail"]

    assert "canary inference took over" in asyncio.run(scenario())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"intra_op_threads": 1}, 1),
        ({"intra_op_threads": 8}, 2),
        ({"intra_op_threads": 8, "max_concurrency": 4}, 4),
        ({"intra_op_threads": 8, "engine": "openvino"}, 1),
        ({"intra_op_threads": 8, "engine": "triton"}, 32),
        ({"intra_op_threads": 8, "triton_urls": ("a:1",)}, 32),
    ],
)
def test_so_many_inferences_run_at_once_as_the_engine_gains_from(settings, expected):
    assert Settings(**settings).max_concurrency == expected


def test_memory_is_given_back_between_requests_also_by_an_engine_that_fails_to(pair):
    class Keeps(FakeEngine):
        asked = 0

        async def trim_memory(self):
            self.asked += 1
            raise EngineError("kept")

    async def scenario():
        engine = Keeps()
        async with running(engine, readiness_interval_s=0.01) as (client, _):
            await until(lambda: engine.asked >= 3)
            return (await client.post("/v1/flow", files=pair)).status_code

    assert asyncio.run(scenario()) == 200


def test_engine_calls_never_exceed_max_concurrency(pair):
    class Counting(FakeEngine):
        inside = most = 0

        async def infer_flow(self, frames, backward, embed=True, quality="fast"):
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(0.05)  # longer than decoding takes
            self.inside -= 1
            return await super().infer_flow(frames, backward, embed, quality)

    async def scenario():
        engine = Counting()
        async with running(engine, max_concurrency=2) as (client, _):
            replies = await asyncio.gather(*(client.post("/v1/flow", files=pair) for _ in range(12)))
        return engine.most, {reply.status_code for reply in replies}

    assert asyncio.run(scenario()) == (2, {200})


@pytest.mark.parametrize("path", ["/v1/flow", "/v1/analyze", "/v1/embeddings"])
def test_a_request_past_its_deadline_is_504(serve, pair, check_problem, path):
    engine = FakeEngine()
    client = serve(engine, request_timeout_s=0.5)
    engine.fault = "hang"
    name = {"/v1/analyze": "frames", "/v1/embeddings": "images"}.get(path)
    files = pair if name is None else [(name, part) for part in pair.values()]
    body = check_problem(client.post(path, files=files), 504, "deadline_exceeded")
    assert "0.5 s (request_timeout_s)" in body["detail"]


def test_a_caller_that_goes_away_frees_its_place(pair):
    async def scenario():
        engine = FakeEngine()
        async with running(engine) as (client, service):
            engine.fault = "hang"
            calls = len(engine.calls)
            request = client.build_request("POST", "/v1/flow", files=pair)
            status = await leave_early(client, request, lambda: len(engine.calls) > calls)
            return status, service.admission.inside

    assert asyncio.run(scenario()) == (499, 0)


def test_who_leaves_as_the_work_ends_has_the_result():
    """Nobody is cancelled then who would no longer expect it, as while the reply is sent."""
    gone = asyncio.Event()

    async def receive():
        await gone.wait()
        return {"type": "http.disconnect"}

    async def scenario():
        request = Request({"type": "http", "state": {}}, receive)
        async with inference_request(request, Service(Settings(), None)):
            gone.set()
            await asyncio.sleep(0)  # the server hears of it now, and would act next
        await asyncio.sleep(0.01)
        return "done"

    assert asyncio.run(scenario()) == "done"


def test_a_connection_that_breaks_is_a_caller_who_left():
    async def receive():
        raise ConnectionResetError

    async def scenario():
        request = Request({"type": "http", "state": {}}, receive)
        async with inference_request(request, Service(Settings(), None)):
            await asyncio.sleep(20)

    with pytest.raises(ClientClosedRequest):
        asyncio.run(scenario())


async def leave_early(client, request, started):
    """Sends a whole request, and disconnects once ``started``. Returns the status nobody sees."""
    body = [{"type": "http.request", "body": request.read(), "more_body": False}]
    statuses = []

    async def receive():
        if body:
            return body.pop()
        await until(started)
        return {"type": "http.disconnect"}

    async def send(message):
        statuses.append(message.get("status"))

    scope = {
        "type": "http",
        "method": "POST",
        "path": request.url.path,
        "query_string": b"",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
    }
    await client._transport.app(scope, receive, send)
    return statuses[0]


def test_hanging_in_a_row_ends_readiness_until_a_canary_passes(serve, pair, check_problem):
    engine = FakeEngine()
    client = serve(engine, request_timeout_s=0.2, failures_to_unready=2, readiness_interval_s=1000)
    engine.fault = "hang"
    for _ in range(2):
        check_problem(client.post("/v1/flow", files=pair), 504, "deadline_exceeded")
    body = check_problem(client.get("/readyz"), 503, "not_ready")
    assert "deadline passed during inference" in body["detail"]
    client.portal.call(client.app.state.service.check)
    assert "canary" in client.get("/readyz").json()["detail"]
    engine.fault = None
    client.portal.call(client.app.state.service.check)
    assert client.get("/readyz").status_code == 200
    assert client.post("/v1/flow", files=pair).status_code == 200


def test_readiness_comes_back_by_itself(pair):
    async def scenario():
        engine = FakeEngine(fault="fail")
        async with running(engine, readiness_interval_s=0.01) as (client, service):
            before = (await client.get("/readyz")).status_code
            engine.fault = None
            await until(lambda: service.reason is None)
            return before, (await client.post("/v1/flow", files=pair)).status_code

    assert asyncio.run(scenario()) == (503, 200)


def test_one_success_in_between_keeps_it_ready(serve, pair):
    engine = FakeEngine()
    client = serve(engine, failures_to_unready=2, readiness_interval_s=1000)
    for fault in ("fail", None, "fail"):
        engine.fault = fault
        client.post("/v1/flow", files=pair)
    assert client.get("/readyz").status_code == 200


def test_bad_input_never_ends_readiness(serve, pair):
    client = serve(failures_to_unready=1)
    pair["frame1"] = ("1.png", b"junk")
    assert client.post("/v1/flow", files=pair).status_code == 400
    assert client.get("/readyz").status_code == 200


def bodies(pair):
    """One request for each way in which images arrive."""
    data = pair["frame1"][1]
    text = base64.b64encode(data).decode()
    return {
        "flow": ("/v1/flow", {"files": pair}),
        "analyze": ("/v1/analyze", {"files": [("frames", part) for part in pair.values()]}),
        "files": ("/v1/embeddings", {"files": [("images", part) for part in pair.values()]}),
        "text": ("/v1/embeddings", {"json": {"input": text}}),
        "texts": ("/v1/embeddings", {"json": {"input": [{"image": text}, text]}}),
    }


@pytest.mark.parametrize("kind", ["flow", "analyze", "files", "text", "texts"])
def test_a_body_counts_until_its_images_are_decoded(pair, kind):
    async def scenario():
        engine = FakeEngine()
        path, arguments = bodies(pair)[kind]
        size = len(httpx2.Request("POST", "http://test", **arguments).read())
        async with running(engine, max_buffered_bytes=2 * size - 1) as (client, service):
            engine.fault = "hang"
            calls = len(engine.calls)
            first = asyncio.create_task(client.post(path, **arguments))
            await until(lambda: len(engine.calls) > calls)
            used = service.bodies.used
            second = asyncio.create_task(client.post(path, **arguments))  # one more than may be held
            await until(lambda: service.admission.waiting == 1)
            for task in (first, second):
                task.cancel()
            await asyncio.gather(first, second, return_exceptions=True)
            return used, service.bodies.used

    assert asyncio.run(scenario()) == (0, 0)


@pytest.mark.parametrize("kind", ["flow", "analyze", "files", "texts"])
def test_who_hangs_up_before_its_images_are_decoded_costs_no_decoder(pair, kind, monkeypatch):
    calls = 0
    go_on = None
    call = Worker.call

    async def slow(self, *args):
        nonlocal calls
        calls += 1
        await go_on.wait()
        return await call(self, *args)

    async def scenario():
        nonlocal go_on
        go_on = asyncio.Event()
        engine = FakeEngine()
        async with running(engine, max_concurrency=20, decode_processes=1) as (client, service):
            monkeypatch.setattr(Worker, "call", slow)
            path, arguments = bodies(pair)[kind]
            request = client.build_request("POST", path, **arguments)
            admission = service.admission
            all_wait = asyncio.Event()
            leave = [asyncio.create_task(leave_early(client, request, all_wait.is_set)) for _ in range(20)]
            await until(lambda: admission.inside == 20 and calls)
            all_wait.set()
            statuses = await asyncio.gather(*leave)
            assert (admission.inside, service.bodies.used) == (0, 0)
            go_on.set()
            reply = await client.post(path, **arguments)
            return set(statuses), reply.status_code

    assert asyncio.run(scenario()) == ({499}, 200)
    assert calls <= 3  # the one that had begun, and those of the last request


def test_a_large_reply_waits_until_another_is_read():
    async def scenario():
        admission = Admission(Settings(max_concurrency=1, max_queue=9, max_reply_bytes=1000))
        work = Work("mcjepa_flow", 2, 1000)
        admission.update_cost_model(work, 5.0)
        with admission.enter() as small, admission.enter() as second, admission.enter() as third:
            admission.reserve(second, work)
            with admission.enter() as first:
                await admission.reserve_reply(Timings(), first, 900)
                waiting = [
                    asyncio.create_task(admission.reserve_reply(Timings(), place, size))
                    for place, size in ((second, 800), (third, 101))
                ]
                await asyncio.sleep(0)
                await admission.reserve_reply(Timings(), small, 100)  # the share of a place
                assert not any(task.done() for task in waiting)  # first come first served
                assert admission.expected_wait == 0  # nobody waits for those at the engine
                admission.shrink_reply(first, 300)
                await asyncio.sleep(0)
                assert admission.reply_bytes == 300
            await asyncio.gather(*waiting)
            assert (admission.reply_bytes, admission.expected_wait) == (901, 5.0)
        assert admission.reply_bytes == 0

    asyncio.run(scenario())


def test_who_waits_for_room_and_leaves_is_passed_over():
    async def scenario():
        admission = Admission(Settings(max_concurrency=1, max_queue=9, max_reply_bytes=1000))
        with admission.enter() as first, admission.enter() as second, admission.enter() as third:
            await admission.reserve_reply(Timings(), first, 700)
            leaves = asyncio.create_task(admission.reserve_reply(Timings(), second, 900))
            stays = asyncio.create_task(admission.reserve_reply(Timings(), third, 300))
            await asyncio.sleep(0)
            leaves.cancel()
            await stays
            assert admission.reply_bytes == 1000

    asyncio.run(scenario())


def test_a_reply_that_finds_no_room_in_time_is_refused(pair, check_problem):
    async def scenario():
        engine = FakeEngine()
        settings = {"max_reply_bytes": 40_000, "max_queue_wait_s": 0.05, "max_concurrency": 2}
        async with running(engine, **settings) as (client, service):
            engine.fault = "hang"
            calls = len(engine.calls)
            first = asyncio.create_task(client.post("/v1/flow", files=pair))
            await until(lambda: len(engine.calls) > calls)
            assert service.admission.reply_bytes == 80 * 48 * 8
            refused = await client.post("/v1/flow", files=pair)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            assert service.admission.reply_bytes == 0
            engine.fault = None
            assert (await client.post("/v1/flow", files=pair)).status_code == 200
            return refused

    reply = asyncio.run(scenario())
    assert "(max_reply_bytes)" in check_problem(reply, 429, "overloaded")["detail"]
    assert int(reply.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("path", "query", "each"),
    [
        ("flow", "", 8),
        ("flow", "direction=backward&format=npy&dtype=float16", 12),
        ("flow", "occlusion=true&format=npz", 17),
        ("flow", "direction=both&occlusion=true&format=npz", 17),
        ("flow", "format=png", 24),
        ("analyze", "direction=both", 16),
        ("analyze", "direction=both&occlusion=true&dtype=float16", 25),
    ],
)
def test_a_reply_that_never_fits_is_refused(serve, pair, check_problem, path, query, each):
    files = pair if path == "flow" else [("frames", part) for part in pair.values()]
    size = 80 * 48 * each
    engine = FakeEngine()
    client = serve(engine, max_reply_bytes=size - 1)
    calls = len(engine.calls)
    body = check_problem(client.post(f"/v1/{path}?{query}", files=files), 422, "invalid_input")
    assert f"take {size} bytes" in body["detail"]
    assert f"the limit is {size - 1} (max_reply_bytes)" in body["detail"]
    assert len(engine.calls) == calls
    assert serve(max_reply_bytes=size).post(f"/v1/{path}?{query}", files=files).status_code == 200


def test_default_limits_allow_32_frames_of_full_hd_both_ways():
    geometry = Geometry(1920, 1080, 1024, 576, 1024, 576)
    options = FlowOptions(backward=True, occlusion=True)
    assert reply_bytes(32, geometry, options, formats.Npz(), "float16") <= Settings().max_reply_bytes


def test_a_long_analysis_counts_with_one_turn(pair):
    """Others have the engine in between."""

    class Slow(FakeEngine):
        go_on = None

        async def infer_flow(self, frames, backward, embed=True, quality="fast"):
            if self.go_on is not None:
                self.calls.append(frames.shape)
                await self.go_on.acquire()
            return await super().infer_flow(frames, backward, embed, quality)

    async def scenario():
        engine = Slow()
        async with running(engine, max_clip_pixels=2 * 64 * 128, max_queue_wait_s=10) as (client, service):
            admission = service.admission
            admission.update_cost_model(Work("mcjepa_flow", 2, PAIR_PIXELS), 9.0)
            engine.go_on = asyncio.Semaphore(0)
            frames = [("frames", pair["frame1"])] * 9
            analysis = asyncio.create_task(client.post("/v1/analyze", files=frames))
            calls = len(engine.calls)
            await until(lambda: len(engine.calls) > calls)
            found = [(admission.expected_wait, admission.pixels)]
            engine.go_on.release()
            await until(lambda: len(engine.calls) == calls + 3)  # each is noted twice
            found.append(admission.pixels)
            one = asyncio.create_task(client.post("/v1/flow", files=pair))
            await until(lambda: admission.waiting == 1)
            engine.go_on = None
            analysis.cancel()
            await asyncio.gather(analysis, return_exceptions=True)
            return found, (await one).status_code

    found, status = asyncio.run(scenario())
    assert found == [(pytest.approx(9.0), 9 * 64 * 128), 7 * 64 * 128]
    assert status == 200
