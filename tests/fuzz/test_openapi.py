"""The description of the API against the API: requests made from the schema, replies held against it."""

import pytest
from hypothesis import given, settings, strategies as st
from mcjepa_server import Settings, create_app
from mcjepa_server.engines.fake import FakeEngine

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")
#: A request takes longer here than in the other tests.
SOME = settings(max_examples=max(25, settings.default.max_examples // 4))
Mode = schemathesis.GenerationMode


def application():
    return create_app(Settings(decode_processes=0), FakeEngine())


PATHS = application().openapi()["paths"]
OPERATIONS = [(path, method) for path, methods in PATHS.items() for method in methods]
#: Only they have something that can be sent wrong.
WITH_BODY = [(path, method) for path, method in OPERATIONS if "requestBody" in PATHS[path][method]]


@pytest.fixture
def api():
    """The schema as served by an application that was started as a server starts it."""
    return schemathesis.openapi.from_asgi("/openapi.json", application())


def no_failure_of_the_server(context, response, case):
    """Of the errors from 500 up, only the deadline that the request itself has set."""
    assert response.status_code < 500 or (response.status_code == 504 and "X-Request-Timeout" in case.headers)


#: Not among them that a valid request is accepted: in the schema an image is any string of bytes.
CHECKS = [
    no_failure_of_the_server,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.missing_required_header,
    checks.unsupported_method,
]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_valid_requests(api, corpus, path, method):
    seen = set()

    @SOME
    @given(api[path][method].as_strategy(generation_mode=Mode.POSITIVE), st.booleans())
    def run(case, real):
        if real:
            case.body = with_images(case.body, corpus.file("PNG"))
            case.headers.pop("X-Request-Timeout", None)  # most are over before an inference
            if isinstance(case.body, dict):  # by the schema any name is a model, and most are not known
                case.body = {k: v for k, v in case.body.items() if k not in ("model", "dimensions")}
        seen.add(case.call_and_validate(checks=CHECKS).status_code)

    run()
    assert (404 if "{" in path else 200) in seen, "no request came through"


def with_images(body, image):
    """A multipart body with pictures in place of any bytes."""
    if isinstance(body, dict):
        return {name: with_images(value, image) for name, value in body.items()}
    if isinstance(body, list):
        return [with_images(value, image) for value in body]
    return type(body)(image) if hasattr(body, "data") else body


@pytest.mark.parametrize(("path", "method"), WITH_BODY)
def test_requests_against_the_schema(api, path, method):
    seen = set()

    @SOME
    @given(api[path][method].as_strategy(generation_mode=Mode.NEGATIVE))
    def run(case):
        seen.add(case.call_and_validate(checks=[*CHECKS, checks.negative_data_rejection]).status_code)

    run()
    assert 422 in seen, "no request got as far as its contents"
