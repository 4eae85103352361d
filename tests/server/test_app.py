"""What every reply has in common: ids, trace context, problems, metrics, documentation, and what it loads."""

import re
import subprocess
import sys

import pytest
from mcjepa_server.errors import ApiError, TooLarge
from mcjepa_server.http.middleware import DEFAULTS as SECURITY_HEADERS
from prometheus_client.parser import text_string_to_metric_families

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def subclasses(root):
    return {root}.union(*(subclasses(child) for child in root.__subclasses__()))


def test_every_error_that_is_raised_has_a_status_and_a_code_of_its_own():
    errors = [error for error in subclasses(ApiError) if error not in (ApiError, TooLarge)]
    assert all(400 <= error.status < 600 and error.title for error in errors)
    codes = [error.code for error in errors]
    assert len(codes) == len(set(codes))


def test_request_id_is_echoed(client):
    assert client.get("/healthz", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"


@pytest.mark.parametrize("unfit", ["", "a b", "x" * 129, "a\tb", "\xe9"])
def test_request_id_is_made_up_when_there_is_no_fit_one(client, unfit):
    headers = [(b"X-Request-ID", unfit.encode("latin-1"))]
    given = client.get("/healthz", headers=headers).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", given)
    assert client.get("/healthz").headers["x-request-id"] != given


def test_errors_carry_the_request_id_and_trace(client, check_problem):
    reply = client.get("/nope", headers={"X-Request-ID": "abc-2", "traceparent": TRACE})
    assert check_problem(reply, 404, "not_found")["request_id"] == "abc-2"
    assert reply.headers["traceparent"] == TRACE


@pytest.mark.parametrize("broken", ["junk", TRACE[:-1], TRACE.upper()])
def test_a_broken_traceparent_is_not_passed_on(client, broken):
    assert "traceparent" not in client.get("/healthz", headers={"traceparent": broken}).headers


def test_unknown_paths_and_methods_are_problems(client, check_problem):
    check_problem(client.get("/v2/models"), 404, "not_found")
    check_problem(client.get("/v1/models/nope"), 404, "model_not_found")
    reply = client.delete("/v1/flow")
    check_problem(reply, 405, "method_not_allowed")
    assert reply.headers["allow"] == "POST"


def test_info_publishes_the_limits_in_force(serve):
    client = serve(max_body_bytes=12345, max_frames=7, max_concurrency=2, max_queue=3)
    info = client.get("/v1/info").json()
    assert info["ready"] is True
    assert info["reason"] is None
    assert info["engine"] == "fake"
    assert info["model"]["weights_sha256"] == "0" * 64
    assert info["limits"]["max_body_bytes"] == 12345
    assert info["limits"]["max_frames"] == 7
    assert info["limits"]["max_in_flight"] == 5
    assert info["limits"]["min_side"] == 16
    assert info["limits"]["max_part_headers"] == 8
    assert info["limits"]["max_part_header_bytes"] == 4224
    assert info["limits"]["decode_timeout_s"] == 0  # threads, in these tests, know none
    assert info["formats"]["flow"] == ["flo", "kitti", "npy", "npz", "png", "json"]


def test_models(client):
    body = client.get("/v1/models").json()
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == [
        "mcjepa_flow",
        "mcjepa_flow_balanced",
        "mcjepa_flow_best",
        "mcjepa_flow_bidirectional",
        "mcjepa_embed",
    ]
    assert client.get("/v1/models/mcjepa_embed").json() == body["data"][-1]


def test_metrics_count_replies_failures_and_stages(client, pair):
    client.post("/v1/flow", files=pair)
    client.post("/v1/flow", files={**pair, "frame1": ("1.png", b"junk")})
    client.get("/some/unknown/path")
    text = client.get("/metrics").text
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }

    def requests(status, route, method="POST"):
        labels = (("method", method), ("route", route), ("status", status))
        return samples[("mcjepa_requests_total", *labels)]

    assert requests("200", "/v1/flow") == 1
    assert requests("400", "/v1/flow") == 1
    assert requests("404", "unmatched", "GET") == 1
    assert samples[("mcjepa_request_failures_total", ("code", "undecodable_image"))] == 1
    assert samples[("mcjepa_stage_seconds_count", ("stage", "inference"))] == 1
    assert samples[("mcjepa_stage_seconds_count", ("stage", "decode"))] == 2
    assert samples[("mcjepa_batch_size_count",)] == 4  # three of them by the canary
    assert samples[("mcjepa_ready",)] == 1
    assert samples[("mcjepa_requests_in_flight",)] == 0
    assert "/some/unknown/path" not in text


@pytest.fixture
def schema(client):
    return client.get("/openapi.json").json()


def test_openapi_documents_the_errors_of_every_inference_path(schema):
    for path in ("/v1/flow", "/v1/analyze", "/v1/embeddings"):
        responses = schema["paths"][path]["post"]["responses"]
        for status in (400, 408, 413, 415, 422, 429, 500, 503, 504):
            content = responses[str(status)]["content"]
            assert content["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
        assert "406" in responses or path == "/v1/embeddings"


def test_openapi_never_documents_a_validation_error_that_is_not_sent(schema):
    assert "HTTPValidationError" not in str(schema)


def test_openapi_documents_bodies_parameters_and_headers(schema):
    flow = schema["paths"]["/v1/flow"]["post"]
    body = flow["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert body["required"] == ["frame1", "frame2"]
    parameters = {parameter["name"]: parameter for parameter in flow["parameters"]}
    assert parameters["format"]["schema"]["enum"] == ["flo", "kitti", "npy", "npz", "png", "json"]
    assert parameters["direction"]["schema"]["enum"] == ["forward", "backward", "both"]
    assert "application/x-flo" in flow["responses"]["200"]["content"]
    assert "X-Compute-Size" in flow["responses"]["200"]["headers"]
    embeddings = schema["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]
    assert set(embeddings) == {"application/json", "multipart/form-data"}


def test_openapi_has_every_schema_it_refers_to(schema):
    references = set(re.findall(r"#/components/schemas/(\w+)", str(schema)))
    assert references <= schema["components"]["schemas"].keys()


def test_a_reply_has_exactly_the_headers_it_documents(client, pair, schema):
    documented = {name.lower() for name in schema["paths"]["/v1/flow"]["post"]["responses"]["200"]["headers"]}
    seen = {name for fmt in ("flo", "kitti", "png") for name in flow_headers(client, pair, fmt)}
    seen -= {name.lower() for name in SECURITY_HEADERS}  # of every reply, and for browsers alone
    assert {name for name in seen if name.startswith("x-") or name == "server-timing"} == documented


def flow_headers(client, pair, fmt):
    return client.post(f"/v1/flow?format={fmt}", files=pair).headers


def test_no_request_waits_for_a_thread_before_its_job(client, monkeypatch):
    """FastAPI runs endpoints and dependencies that are no coroutines in threads."""

    async def refuse(function, *args, **kwargs):
        raise AssertionError(f"{function} was given to a thread")

    monkeypatch.setattr("fastapi.routing.run_in_threadpool", refuse)
    monkeypatch.setattr("fastapi.dependencies.utils.run_in_threadpool", refuse)
    assert client.post("/v1/flow").status_code == 415
    assert client.post("/v1/embeddings", json={"input": "x"}).status_code == 400
    assert client.post("/v1/analyze").status_code == 415
    assert client.get("/v1/models").status_code == 200


PAIR_IN_A_NEW_PROCESS = """
import sys
from mcjepa_server import Settings, create_app
from mcjepa_server.engines.fake import FakeEngine
from starlette.testclient import TestClient
with TestClient(create_app(Settings(decode_processes=1), FakeEngine())) as client:
    for query in ("format=flo", "format=npz&direction=both", "format=png"):
        files = {name: open(sys.argv[1], "rb") for name in ("frame1", "frame2")}
        assert client.post(f"/v1/flow?{query}", files=files).status_code == 200
        print(sorted({"cv2", "PIL"} & sys.modules.keys()))
"""


def test_what_few_requests_need_is_loaded_by_them(pair, tmp_path):
    (tmp_path / "frame.png").write_bytes(pair["frame1"][1])
    command = [sys.executable, "-c", PAIR_IN_A_NEW_PROCESS, str(tmp_path / "frame.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == ["[]", "[]", "['cv2']"]
