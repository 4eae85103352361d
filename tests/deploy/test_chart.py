"""What the chart renders: valid for Kubernetes, in accord with the gateway and with docker-compose.yml."""

import math
import re
import textwrap
from datetime import date
from pathlib import Path

import pytest
import yaml
from mcjepa.triton_serving import BUCKETS
from mcjepa_server import Settings, create_app
from mcjepa_server.engines.fake import FakeEngine
from mcjepa_server.http.keys import read_keys
from mcjepa_server.observability.metrics import Metrics
from prometheus_client import generate_latest

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "mcjepa"
CUSTOM_KINDS = {"ServiceMonitor", "InferenceService"}
KUBERNETES = ("1.27", "1.37")  # the oldest that Chart.yaml admits, and the newest with a schema


def of(objects, kind, name=None):
    found = [o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"])]
    assert len(found) == 1, (kind, name, found)
    return found[0]


def pod(objects, kind):
    return of(objects, kind)["spec"]["template"]["spec"]


def gateway_settings(objects, monkeypatch):
    """What the gateway makes of its ConfigMap, in an environment without other settings."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"MCJEPA_{name.upper()}", raising=False)
    for name, value in of(objects, "ConfigMap")["data"].items():
        monkeypatch.setenv(name, value)
    return Settings()


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_accepts_every_object(rendered, version):
    validate = pytest.importorskip("kubernetes_validate", reason=".ci/run installs kubernetes-validate")
    own = [o for o in rendered if o["kind"] not in CUSTOM_KINDS]
    assert len(own) >= 3
    for found in own:
        validate.validate(found, version, strict=True)


def test_the_values_in_the_documentation_are_valid(render):
    validate = pytest.importorskip("kubernetes_validate", reason=".ci/run installs kubernetes-validate")
    text = (ROOT / "docs" / "deploy.md").read_text()
    blocks = [textwrap.dedent(block) for block in re.findall(r" *```yaml\n(.*?)```", text, re.DOTALL)]
    (values,) = [yaml.safe_load(block) for block in blocks if "modelRepository" in block]
    objects = render(values)
    assert pod(objects, "StatefulSet")["initContainers"][0]["image"].startswith("registry.example.org/")
    for found in objects:
        validate.validate(found, KUBERNETES[-1], strict=True)


def test_kubernetes_refuses_a_slip(render):
    validate = pytest.importorskip("kubernetes_validate", reason=".ci/run installs kubernetes-validate")
    deployment = of(render({}), "Deployment")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
    with pytest.raises(validate.ValidationError):
        validate.validate(deployment, KUBERNETES[-1], strict=True)


def test_no_two_objects_have_one_name(rendered):
    names = [(o["kind"], o["metadata"]["name"]) for o in rendered]
    assert len(names) == len(set(names))


def test_every_variable_is_a_setting_and_every_value_is_taken(rendered, monkeypatch):
    data = of(rendered, "ConfigMap")["data"]
    assert {name.removeprefix("MCJEPA_").lower() for name in data} <= Settings.model_fields.keys()
    settings = gateway_settings(rendered, monkeypatch)
    assert settings.host == "0.0.0.0"
    assert settings.uses_triton == any("8001" in value for value in data.values())


def test_numbers_and_lists_keep_their_values(render, monkeypatch):
    given = {
        "max_body_bytes": 67108864, "max_bucket_overhead": 0.125, "tracing": True, "max_queue": 0,
        "shape_buckets": ["640x384"], "cors_origins": ["https://a.example", "https://b.example"],
    }  # fmt: skip
    settings = gateway_settings(render({"gateway": {"settings": given}}), monkeypatch)
    assert settings.max_body_bytes == 67108864
    assert settings.max_bucket_overhead == 0.125
    assert settings.tracing is True
    assert settings.max_queue == 0
    assert settings.shape_buckets == ((640, 384),)
    assert settings.cors_origins == ("https://a.example", "https://b.example")


def test_every_probe_of_the_gateway_is_a_route(rendered):
    container = pod(rendered, "Deployment")["containers"][0]
    paths = create_app(Settings(), FakeEngine()).openapi()["paths"].keys()
    asked = {
        kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")
    }
    assert set(asked.values()) <= paths
    assert asked["liveness"] != asked["readiness"], "a gateway without Triton is not ready, but alive"


def test_the_metric_of_the_autoscaler_is_exported(render):
    metrics = of(render({}), "HorizontalPodAutoscaler")["spec"]["metrics"]
    names = [metric["pods"]["metric"]["name"] for metric in metrics if metric["type"] == "Pods"]
    assert names == ["mcjepa_queue_depth"]
    assert f"\n{names[0]} " in generate_latest(Metrics().registry).decode()


def test_the_autoscaler_alone_says_how_many(render):
    assert "replicas" not in of(render({}), "Deployment")["spec"]
    fixed = render({"gateway": {"autoscaling": {"enabled": False}, "replicas": 5}})
    assert of(fixed, "Deployment")["spec"]["replicas"] == 5
    assert not [o for o in fixed if o["kind"] == "HorizontalPodAutoscaler"]


def test_the_grace_period_outlasts_the_drain(rendered, monkeypatch):
    settings = gateway_settings(rendered, monkeypatch)
    grace = pod(rendered, "Deployment")["terminationGracePeriodSeconds"]
    assert isinstance(grace, int)
    assert grace > settings.drain_delay_s + math.ceil(settings.drain_timeout_s)


def test_a_request_may_use_its_whole_time_while_draining(render, monkeypatch):
    settings = gateway_settings(render({}), monkeypatch)
    assert settings.drain_timeout_s >= settings.request_timeout_s


def test_an_update_takes_no_gateway_before_another_is_ready(rendered):
    spec = of(rendered, "Deployment")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_kubernetes_does_not_set_settings(rendered):
    """A Service named mcjepa would set MCJEPA_PORT to tcp://..., which is no port."""
    assert pod(rendered, "Deployment")["enableServiceLinks"] is False
    assert of(rendered, "ConfigMap")["data"]["MCJEPA_PORT"] == "8000"


def test_containers_can_do_little(rendered):
    for found in rendered:
        if found["kind"] not in ("Deployment", "StatefulSet"):
            continue
        spec = found["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


def test_every_mount_has_its_volume(rendered):
    for found in rendered:
        if found["kind"] not in ("Deployment", "StatefulSet"):
            continue
        spec = found["spec"]["template"]["spec"]
        containers = [*spec["containers"], *spec.get("initContainers", [])]
        mounted = {mount["name"] for container in containers for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}


def test_the_user_is_that_of_the_image(render):
    (user,) = re.findall(r"^USER (\d+):(\d+)", (ROOT / "server" / "Dockerfile").read_text(), re.MULTILINE)
    context = pod(render({}), "Deployment")["securityContext"]
    assert (str(context["runAsUser"]), str(context["runAsGroup"])) == user


def test_gateways_know_every_triton_by_its_own_name(render, monkeypatch):
    objects = render({"triton": {"replicas": 3}})
    urls = gateway_settings(objects, monkeypatch).triton_urls
    triton = of(objects, "StatefulSet")
    service = of(objects, "Service", triton["spec"]["serviceName"])
    assert service["spec"]["clusterIP"] == "None"
    name = triton["metadata"]["name"]
    assert urls == tuple(
        f"{name}-{i}.{service['metadata']['name']}.prod.svc.cluster.local:8001" for i in range(3)
    )


def test_another_number_of_tritons_restarts_the_gateways(render):
    def checksum(values):
        template = of(render(values), "Deployment")["spec"]["template"]
        return template["metadata"]["annotations"]["checksum/settings"]

    assert checksum({}) == checksum({"triton": {"gpus": 4}})
    assert checksum({}) != checksum({"triton": {"replicas": 3}})


def test_triton_is_started_as_by_docker_compose(render):
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    container = pod(render({}), "StatefulSet")["containers"][0]
    assert container["args"] == compose["services"]["triton"]["command"]
    assert container["image"] in compose["services"]["triton"]["image"]
    assert {port["containerPort"] for port in container["ports"]} == {8000, 8001, 8002}


def test_frames_are_padded_to_what_triton_has_warmed_up(render, monkeypatch):
    buckets = gateway_settings(render({}), monkeypatch).shape_buckets
    assert sorted((h, w) for w, h in buckets) == sorted(BUCKETS)


def test_gpus_are_requested_and_limited(render):
    def resources(gpus):
        return pod(render({"triton": {"gpus": gpus}}), "StatefulSet")["containers"][0]["resources"]

    assert resources(2)["limits"]["nvidia.com/gpu"] == resources(2)["requests"]["nvidia.com/gpu"] == 2
    assert "nvidia.com/gpu" not in resources(0)["limits"]


def test_models_come_from_where_the_values_say(render):
    def triton(repository):
        spec = pod(render({"modelRepository": repository}), "StatefulSet")
        return spec, spec["containers"][0], {volume["name"]: volume for volume in spec["volumes"]}

    _, container, volumes = triton({"pvc": {"claimName": "weights", "subPath": "nano"}})
    assert volumes["models"]["persistentVolumeClaim"] == {"claimName": "weights", "readOnly": True}
    assert {"name": "models", "mountPath": "/models", "readOnly": True, "subPath": "nano"} in container[
        "volumeMounts"
    ]

    bucket = {"source": "s3", "s3": {"url": "s3://b/nano", "existingSecret": "keys"}}
    _, container, volumes = triton(bucket)
    assert "--model-repository=s3://b/nano" in container["args"]
    assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
    assert "models" not in volumes

    spec, container, volumes = triton({"source": "image", "image": {"reference": "registry/models:1"}})
    assert spec["initContainers"][0]["image"] == "registry/models:1"
    assert volumes["models"] == {"name": "models", "emptyDir": {}}


def test_the_embedded_engine_needs_no_triton(render, monkeypatch):
    objects = render({"engine": "embedded"})
    assert not [o for o in objects if "triton" in o["metadata"]["name"]]
    mounts = pod(objects, "Deployment")["containers"][0]["volumeMounts"]
    repository = gateway_settings(objects, monkeypatch).model_repository
    assert str(repository) in {mount["mountPath"] for mount in mounts}


def test_kserve_takes_the_place_of_triton(render, monkeypatch):
    objects = render({"engine": "kserve", "kserve": {"maxReplicas": 3}})
    assert not [o for o in objects if o["kind"] == "StatefulSet"]
    inference = of(objects, "InferenceService")
    model = inference["spec"]["predictor"]["model"]
    assert model["storageUri"] == "pvc://mcjepa-models/"
    assert model["resources"]["limits"]["nvidia.com/gpu"] == 1
    service = of(objects, "Service", "demo-mcjepa-kserve")
    assert service["spec"]["selector"] == {
        "serving.kserve.io/inferenceservice": inference["metadata"]["name"]
    }
    assert service["spec"]["ports"][0]["targetPort"] == model["ports"][0]["containerPort"]
    urls = gateway_settings(objects, monkeypatch).triton_urls
    assert urls == ("demo-mcjepa-kserve.prod.svc.cluster.local:8001",) * 3


def test_the_gateway_reads_the_keys_of_the_secret(render, monkeypatch, tmp_path):
    bob = "0" * 64 + " expires=2999-12-31 scope=metrics"
    objects = render({"apiKeys": {"hashes": {"alice": "a" * 64, "bob": bob}}})
    secret = of(objects, "Secret")
    path = tmp_path / "keys"
    path.write_text(secret["stringData"]["keys"])
    keys = read_keys(path)
    assert {name: key.digest for name, key in keys.items()} == {"alice": "a" * 64, "bob": "0" * 64}
    assert (keys["bob"].expires, keys["bob"].scope) == (date(2999, 12, 31), "metrics")

    spec = pod(objects, "Deployment")
    (volume,) = [v["secret"] for v in spec["volumes"] if v["name"] == "keys"]
    (mount,) = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "keys"]
    settings = gateway_settings(objects, monkeypatch)
    assert volume["secretName"] == secret["metadata"]["name"]
    assert str(settings.api_keys_file) == f"{mount['mountPath']}/{volume['items'][0]['path']}"
    assert "subPath" not in mount, "a changed Secret would never arrive"
    assert settings.production is True


def test_the_gateway_is_told_whether_it_may_serve_everybody(rendered, monkeypatch):
    settings = gateway_settings(rendered, monkeypatch)
    assert settings.allow_anonymous == (settings.api_keys_file is None)


def test_no_runtime_of_models_reports_its_use(render):
    stateful, served = render({}), render({"engine": "kserve"})
    container = pod(stateful, "StatefulSet")["containers"][0]
    model = of(served, "InferenceService")["spec"]["predictor"]["model"]
    for found in (container, model):
        assert {"name": "ORT_DISABLE_TELEMETRY", "value": "1"} in found["env"]
    for name in ("server/Dockerfile", "deploy/triton/Dockerfile"):
        assert "ORT_DISABLE_TELEMETRY=1" in (ROOT / name).read_text()


def test_prometheus_has_a_key_where_there_are_keys(render):
    objects = render(
        {
            "apiKeys": {"existingSecret": "keys"},
            "serviceMonitor": {"enabled": True, "apiKeySecret": {"name": "mine", "key": "token"}},
        }
    )
    gateway = of(objects, "ServiceMonitor", "demo-mcjepa-gateway")["spec"]
    assert gateway["endpoints"][0]["authorization"] == {"credentials": {"name": "mine", "key": "token"}}
    triton = of(objects, "ServiceMonitor", "demo-mcjepa-triton")["spec"]
    assert "authorization" not in triton["endpoints"][0]
    for spec in (gateway, triton):
        wanted = spec["selector"]["matchLabels"].items()
        services = [o for o in objects if o["kind"] == "Service"]
        selected = [o for o in services if wanted <= o["metadata"]["labels"].items()]
        assert len(selected) == 1
        assert spec["endpoints"][0]["port"] in {port["name"] for port in selected[0]["spec"]["ports"]}


def test_selectors_find_the_pods_they_mean(render):
    objects = render({})
    labels = {
        kind: of(objects, kind)["spec"]["template"]["metadata"]["labels"]
        for kind in ("Deployment", "StatefulSet")
    }

    def chosen(selector):
        return [kind for kind, found in labels.items() if selector.items() <= found.items()]

    for found in objects:
        spec, name = found.get("spec", {}), found["metadata"]["name"]
        kind = ["StatefulSet"] if name.endswith("-triton") else ["Deployment"]
        if found["kind"] == "Service":
            assert chosen(spec["selector"]) == kind
        elif found["kind"] == "NetworkPolicy":
            assert chosen(spec["podSelector"]["matchLabels"]) == kind
        elif found["kind"] in ("PodDisruptionBudget", "Deployment", "StatefulSet"):
            assert chosen(spec["selector"]["matchLabels"]) == kind


def test_only_gateways_reach_triton_and_gateways_reach_little_else(render):
    objects = render({})
    gateway = of(objects, "NetworkPolicy", "demo-mcjepa-gateway")["spec"]
    triton = of(objects, "NetworkPolicy", "demo-mcjepa-triton")["spec"]
    callers = [rule for rule in triton["ingress"] if {"port": 8001, "protocol": "TCP"} in rule["ports"]]
    assert [rule["from"] for rule in callers] == [[{"podSelector": gateway["podSelector"]}]]
    assert {port["port"] for rule in triton["ingress"] for port in rule["ports"]} == {8001, 8002}
    assert "Egress" in triton["policyTypes"]
    assert "egress" not in triton
    assert {port["port"] for rule in gateway["egress"] for port in rule["ports"]} == {53, 8001}
    assert {port["port"] for rule in gateway["ingress"] for port in rule["ports"]} == {8000}


def test_at_most_one_member_of_each_kind_is_evicted(render):
    budgets = [o for o in render({}) if o["kind"] == "PodDisruptionBudget"]
    assert {o["metadata"]["name"] for o in budgets} == {"demo-mcjepa-gateway", "demo-mcjepa-triton"}
    assert {o["spec"]["maxUnavailable"] for o in budgets} == {1}


def test_the_chart_has_the_version_of_the_gateway():
    from mcjepa_server import __version__

    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__
