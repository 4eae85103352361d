"""The values of the chart: documented, known to its schema, and refused where they are wrong."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from mcjepa_server import Settings

CHART = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "mcjepa"
#: Set by the chart from values of its own.
DERIVED = {
    "host", "port", "engine", "triton_urls", "model_repository", "api_keys_file", "production",
    "allow_anonymous", "drain_delay_s", "drain_timeout_s",
}  # fmt: skip


def test_helm_has_no_complaint(helm):
    messages = helm.lint(CHART, strict=True)["messages"]
    assert [m for m in messages if m["severity"] > 1] == []


def test_the_schema_knows_every_setting_with_its_bounds():
    schema = json.loads((CHART / "values.schema.json").read_text())
    known = schema["properties"]["gateway"]["properties"]["settings"]["properties"]
    assert known.keys() == Settings.model_fields.keys() - DERIVED
    for name, definition in Settings.model_json_schema()["properties"].items():
        if name in known and definition.get("type") in ("integer", "number", "boolean"):
            bounds = ("type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
            assert known[name] == {key: definition[key] for key in bounds if key in definition}, name


def test_the_schema_and_the_values_have_the_same_names():
    def compare(schema, values, where):
        assert set(schema["properties"]) - {"global"} == set(values), where
        for name, value in values.items():
            inner = schema["properties"][name]
            if isinstance(value, dict) and "properties" in inner and name not in ("settings", "resources"):
                compare(inner, value, f"{where}.{name}")

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    compare(json.loads((CHART / "values.schema.json").read_text()), values, "values")


def test_every_value_has_a_comment():
    lines = (CHART / "values.yaml").read_text().splitlines()
    obvious = re.compile(
        r"\s*(repository|tag|pullPolicy|requests|limits|resources|nodeSelector|tolerations|affinity|image"
        r"|enabled|minReplicas|maxReplicas|port|gpus|interval|matchLabels|drainTimeoutSeconds"
        r"|gateway|triton|kserve|modelRepository|pvc|s3|autoscaling|service|podDisruptionBudget"
        r"|networkPolicy|serviceMonitor):"
    )
    for above, line in pairwise(lines):
        if re.match(r"\s*\w+:", line) and not obvious.match(line):
            assert above.lstrip().startswith("#"), line


@pytest.mark.parametrize(
    "values",
    [
        {"engin": "triton"},
        {"engine": "torchserve"},
        {"gateway": {"settings": {"max_que": 3}}},
        {"gateway": {"settings": {"max_queue": -1}}},
        {"gateway": {"settings": {"max_queue": "many"}}},
        {"gateway": {"settings": {"triton_urls": "gpu:8001"}}},
        {"gateway": {"settings": {"shape_buckets": ["640*384"]}}},
        {"gateway": {"replicas": 0}},
        {"triton": {"gpus": -1}},
        {"triton": {"gpus": 0.5}},
        {"modelRepository": {"source": "ftp"}},
        {"modelRepository": {"source": "s3", "s3": {"url": "https://bucket"}}},
        {"apiKeys": {"hashes": {"alice": "mcj_secret-in-clear"}}},
        {"apiKeys": {"hashes": {"a b": "0" * 64}}},
        {"apiKeys": {"hashes": {"a": "0" * 64 + " expires=soon"}}},
        {"serviceMonitor": {"interval": "often"}},
    ],
)
def test_wrong_values_are_refused(helm, chart, values):
    with pytest.raises(helm.HelmError):
        chart.validate_schema(values)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"engine": "embedded", "modelRepository": {"source": "s3", "s3": {"url": "s3://b/m"}}}, "no bucket"),
        ({"modelRepository": {"source": "s3"}}, "s3.url is needed"),
        ({"modelRepository": {"source": "image"}}, "image.reference is needed"),
        ({"modelRepository": {"pvc": {"claimName": ""}}}, "claimName is needed"),
        ({"apiKeys": {"existingSecret": "a", "hashes": {"alice": "0" * 64}}}, "either"),
        ({"apiKeys": {}}, "no API keys"),
        ({"apiKeys": {"existingSecret": "a", "allowAnonymous": True}}, "either"),
        (
            {"apiKeys": {"allowAnonymous": True}, "gateway": {"settings": {"rate_limit_per_minute": 9}}},
            "each API key",
        ),
        ({"apiKeys": {"existingSecret": "a"}, "serviceMonitor": {"enabled": True}}, "apiKeySecret"),
        ({"gateway": {"autoscaling": {"queueDepth": None, "cpuUtilization": None}}}, "needs queueDepth"),
        ({"gateway": {"autoscaling": {"minReplicas": 11}}}, "above maxReplicas"),
        ({"kserve": {"minReplicas": 9}}, "kserve.minReplicas"),
    ],
)
def test_values_that_are_wrong_together_are_refused(helm, render, values, complaint):
    with pytest.raises(helm.HelmError, match=complaint):
        render(values)
