"""What docker-compose.yml starts: pinned, guarded, and watched by metrics that exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from mcjepa.triton_serving import BUCKETS
from mcjepa_server import Settings
from mcjepa_server.observability.metrics import Metrics
from prometheus_client import generate_latest


@pytest.fixture
def compose(root):
    return yaml.safe_load((root / "docker-compose.yml").read_text())


def test_every_image_is_pinned(compose):
    images = [service["image"] for service in compose["services"].values() if "image" in service]
    assert len(images) >= 4
    for image in images:
        tag = image.removesuffix("}").rpartition(":")[2]
        assert re.search(r"\d", tag), image


def test_the_gateway_is_guarded(compose, root):
    gateway = compose["services"]["gateway"]
    assert gateway["read_only"] is True
    assert gateway["cap_drop"] == ["ALL"]
    dockerfile = (root / "server" / "Dockerfile").read_text()
    assert re.search(r"^USER 10001", dockerfile, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", dockerfile, re.MULTILINE)
    assert "torch" not in "".join(line for line in dockerfile.splitlines() if not line.startswith("#"))


def test_only_the_gateway_can_be_reached_from_outside(compose):
    published = {name: service.get("ports", []) for name, service in compose["services"].items()}
    outside = [name for name, ports in published.items() if any("127.0.0.1" not in port for port in ports)]
    assert outside == ["gateway"]


def test_the_gateways_settings_are_settings(compose):
    environment = compose["services"]["gateway"]["environment"]
    names = {name.removeprefix("MCJEPA_").lower() for name in environment}
    assert names <= Settings.model_fields.keys()
    buckets = Settings(shape_buckets=environment["MCJEPA_SHAPE_BUCKETS"]).shape_buckets
    assert sorted((h, w) for w, h in buckets) == sorted(BUCKETS), "what the gateway pads to is warmed up"


def test_the_gateway_serves_those_with_keys_alone(compose, root):
    gateway, prometheus = compose["services"]["gateway"], compose["services"]["prometheus"]
    environment = gateway["environment"]
    secret = Path(environment["MCJEPA_API_KEYS_FILE"])
    assert environment["MCJEPA_PRODUCTION"] == "true"
    assert str(secret.parent) == "/run/secrets"
    assert secret.name in gateway["secrets"]
    scrape = yaml.safe_load((root / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    key = Path(scrape["authorization"]["credentials_file"])
    assert key.name in prometheus["secrets"]
    assert {secret.name, key.name} == compose["secrets"].keys()
    ignored = subprocess.run(
        ["git", "check-ignore", "secrets/keys", "secrets/metrics-key"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert len(ignored.stdout.splitlines()) == 2, "a key must not be committed"


def test_the_gateway_has_the_time_to_drain(compose):
    settings = Settings()
    grace = int(compose["services"]["gateway"]["stop_grace_period"].removesuffix("s"))
    assert grace > settings.drain_delay_s + settings.drain_timeout_s


def test_nothing_reports_its_use(compose):
    grafana = compose["services"]["grafana"]["environment"]
    assert grafana["GF_ANALYTICS_REPORTING_ENABLED"] == "false"
    for name in ("triton", "triton-cpu"):
        assert compose["services"][name]["environment"]["ORT_DISABLE_TELEMETRY"] == "1"


def test_the_dashboard_asks_for_metrics_that_exist(root):
    dashboard = json.loads((root / "deploy" / "grafana" / "dashboards" / "mcjepa.json").read_text())
    asked = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    exported = generate_latest(Metrics().registry).decode()
    known = set(re.findall(r"^# TYPE (\w+)", exported, re.MULTILINE))
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bmcjepa_\w+", asked)}
    assert ours
    assert ours <= known


@pytest.mark.parametrize("profile", ["gpu", "cpu", "build"])
def test_docker_compose_accepts_the_file(root, profile):
    command = next((c for c in (["docker-compose"], ["docker", "compose"]) if _works(c)), None)
    if command is None:
        pytest.skip("docker-compose is not installed")
    done = subprocess.run(
        [*command, "--profile", profile, "config", "--quiet"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def _works(command):
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run([*command, "version"], capture_output=True, timeout=60).returncode == 0
