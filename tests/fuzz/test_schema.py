"""Schemathesis: requests made from the OpenAPI document; every reply is one that it promises."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from mcjepa_server import Settings, create_app
from mcjepa_server.engines.fake import FakeEngine
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)
app = create_app(Settings(decode_processes=0), FakeEngine())
schema = schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.fixture(scope="module", autouse=True)
def _running():
    from starlette.testclient import TestClient

    with TestClient(app):
        yield


@schema.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_document_is_kept(case):
    case.call_and_validate(checks=CHECKS)
