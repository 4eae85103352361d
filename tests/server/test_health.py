"""Liveness and readiness, and every fault of an engine."""

import logging
import subprocess

import pytest
from mcjepa_server import Settings, create_app
from mcjepa_server.engines.fake import FakeEngine
from mcjepa_server.errors import ContractError
from mcjepa_server.scheduling.lifecycle import Service
from starlette.testclient import TestClient


def test_ready_after_the_canary(serve):
    engine = FakeEngine()
    client = serve(engine)
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    assert engine.calls == [(1, 2, 64, 64, 3), (1, 2, 64, 64, 3), (1, 32, 32, 3)]  # one way, then both


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("fail", "not ready"),
        ("nan", "not finite"),
        ("shape", "expected float32"),
        ("hang", "took over 0.2 s"),
    ],
)
def test_an_engine_with_a_fault_never_becomes_ready(serve, pair, check_problem, fault, reason):
    client = serve(FakeEngine(fault=fault), request_timeout_s=0.2)
    reply = client.get("/readyz")
    assert reason in check_problem(reply, 503, "not_ready")["detail"]
    assert int(reply.headers["retry-after"]) >= 1
    assert client.get("/healthz").status_code == 200
    refused = client.post("/v1/flow", files=pair)
    check_problem(refused, 503, "not_ready")
    assert "retry-after" in refused.headers
    info = client.get("/v1/info").json()
    assert info["ready"] is False
    assert reason in info["reason"]


@pytest.mark.parametrize("fault", ["fail", "nan", "shape"])
@pytest.mark.parametrize("path", ["/v1/flow", "/v1/analyze", "/v1/embeddings"])
def test_a_wrong_answer_is_never_sent(serve, pair, check_problem, fault, path):
    engine = FakeEngine()
    client = serve(engine)
    engine.fault = fault
    name = {"/v1/analyze": "frames", "/v1/embeddings": "images"}.get(path)
    files = pair if name is None else [(name, part) for part in pair.values()]
    body = check_problem(client.post(path, files=files), 500, "engine_error")
    assert body["error"]["type"] == "server_error"
    engine.fault = None
    assert client.post(path, files=files).status_code == 200


def test_a_black_image_with_a_zero_embedding_is_not_sent_as_nan(serve, pair, check_problem):
    class Zero(FakeEngine):
        def _mean_colour(self, images):
            return super()._mean_colour(images) * (0 if self.fault_now else 1)

        fault_now = False

    engine = Zero()
    client = serve(engine)
    engine.fault_now = True
    check_problem(client.post("/v1/embeddings", files={"images": pair["frame1"]}), 500, "engine_error")


def test_a_defect_is_a_problem_without_a_trace(serve, pair, check_problem, caplog):
    class Broken(FakeEngine):
        async def infer_flow(self, frames, backward, embed=True, quality="fast"):
            if len(self.calls) > 1:
                raise RuntimeError("secret detail in /some/path")
            return await super().infer_flow(frames, backward, embed, quality)

    client = serve(Broken())
    with caplog.at_level(logging.ERROR):
        reply = client.post("/v1/flow", files=pair, headers={"X-Request-ID": "find-me"})
    body = check_problem(reply, 500, "internal_error")
    assert "secret" not in reply.text
    assert body["request_id"] == "find-me"
    assert "find-me" in caplog.text
    assert "secret detail" in caplog.text


def test_an_engine_that_cannot_be_made_gives_the_reason(serve, check_problem):
    client = serve()
    service = client.app.state.service

    async def refuse():
        raise ContractError("mcjepa_flow: parameter 'stride' is 'x', expected a positive whole number")

    service._engine = None
    service._make_engine = refuse
    client.portal.call(service.check)
    assert "'stride' is 'x'" in check_problem(client.get("/readyz"), 503, "not_ready")["detail"]
    check_problem(client.get("/v1/models"), 503, "not_ready")
    assert client.get("/v1/info").json()["model"] is None


def test_an_unforeseen_failure_to_load_is_not_shown(serve, check_problem):
    client = serve()
    service = client.app.state.service

    async def explode():
        raise RuntimeError("secret")

    service._engine = None
    service._make_engine = explode
    client.portal.call(service.check)
    assert "secret" not in check_problem(client.get("/readyz"), 503, "not_ready")["detail"]


def test_draining_ends_readiness_and_serves_what_still_arrives(serve, pair, check_problem):
    client = serve()
    client.app.state.service.drain()
    assert "draining" in check_problem(client.get("/readyz"), 503, "not_ready")["detail"]
    assert client.get("/v1/info").json()["reason"] == "draining: the server is shutting down"
    reply = client.post("/v1/flow", files=pair)
    assert reply.status_code == 200
    assert reply.headers["connection"] == "close"  # so that the caller's next request goes elsewhere
    assert client.get("/healthz").status_code == 200
    client.portal.call(client.app.state.service.check)
    assert client.get("/readyz").status_code == 503


def fail(*_, **__):
    raise OSError("no more processes")


def test_a_server_that_cannot_decode_is_not_ready_until_it_can(serve, pair, check_problem, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", fail)
        client = serve(decode_processes=1)
        body = check_problem(client.get("/readyz"), 503, "not_ready")
        assert "decode" in body["detail"]
        assert client.get("/v1/info").json()["reason"] == body["detail"]
        assert (
            check_problem(client.post("/v1/flow", files=pair), 503, "not_ready")["detail"] == body["detail"]
        )
        client.portal.call(client.app.state.service.check)
        check_problem(client.get("/readyz"), 503, "not_ready")
        assert client.get("/healthz").status_code == 200  # a restart would start no process either
    client.portal.call(client.app.state.service.check)
    assert client.get("/readyz").status_code == 200
    assert client.post("/v1/flow", files=pair).status_code == 200


def test_a_server_that_loses_its_decoders_is_not_ready_with_the_first_request(
    serve, pair, check_problem, monkeypatch
):
    client = serve(decode_processes=1, readiness_interval_s=1000)
    for worker in client.app.state.service.decoders._idle:
        worker._process.kill()
        worker._process.wait()
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", fail)
        check_problem(client.post("/v1/flow", files=pair), 503, "not_ready")
        check_problem(client.get("/readyz"), 503, "not_ready")


def test_a_failure_of_the_watcher_itself_does_not_end_it(serve, monkeypatch, caplog):
    async def fail(service):
        tries.append(1)
        if len(tries) == 3:
            service.decoders.failure = "seen"
        raise RuntimeError("can't start new thread")

    tries = []
    monkeypatch.setattr(Service, "_look_after", fail)
    client = serve(readiness_interval_s=0.001)
    while client.get("/readyz").status_code == 200:
        pass
    assert "can't start new thread" in caplog.text


@pytest.mark.parametrize("fault", ["hang", "nan"])
def test_an_engine_of_this_process_that_does_not_recover_ends_liveness(serve, check_problem, fault):
    engine = FakeEngine(fault=fault)
    client = serve(engine, request_timeout_s=0.05, readiness_interval_s=1000)
    service = client.app.state.service
    codes = [client.get("/healthz").status_code]
    for _ in range(2):
        client.portal.call(service.check)
        codes.append(client.get("/healthz").status_code)
    assert codes == [200, 200, 503]
    body = check_problem(client.get("/healthz"), 503, "not_ready")
    assert "3 canary" in body["detail"]
    engine.fault = None
    client.portal.call(service.check)
    assert [client.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]


@pytest.mark.parametrize("fault", ["hang", "fail", "nan"])
def test_a_triton_that_is_away_does_not_end_liveness(serve, fault):
    settings = {"triton_urls": "triton:8001", "request_timeout_s": 0.05, "readiness_interval_s": 1000}
    client = serve(FakeEngine(fault=fault), **settings)
    for _ in range(4):
        client.portal.call(client.app.state.service.check)
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_a_model_repository_that_is_wrong_does_not_end_liveness(serve):
    client = serve(readiness_interval_s=1000)
    service = client.app.state.service

    async def refuse():
        raise ContractError("mcjepa_flow: parameter 'stride' is 'x', expected a positive whole number")

    service._engine = None
    service._make_engine = refuse
    for _ in range(4):
        client.portal.call(service.check)
    assert [client.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 503]


def test_the_engine_is_closed_at_the_end():
    engine = FakeEngine()
    with TestClient(create_app(Settings(), engine)) as client:
        client.get("/healthz")
    assert engine.closed
