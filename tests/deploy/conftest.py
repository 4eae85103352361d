"""The Helm chart, rendered by Helm itself; no cluster is needed."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "mcjepa"
#: Sets of values between which every branch of the templates is rendered.
VALUES = {
    "defaults": {},
    "two GPUs and a folder of a claim": {
        "modelRepository": {"pvc": {"claimName": "weights", "subPath": "nano"}},
        "triton": {"gpus": 2, "replicas": 3, "runtimeClassName": "nvidia", "extraArgs": ["--log-verbose=1"]},
        "imagePullSecrets": ["registry"],
    },
    "bucket": {
        "modelRepository": {
            "source": "s3",
            "s3": {"url": "s3://https://minio.storage:9000/models/nano", "existingSecret": "bucket"},
        },
    },
    "image of models": {"modelRepository": {"source": "image", "image": {"reference": "registry/models:1"}}},
    "kserve": {
        "engine": "kserve",
        "modelRepository": {"source": "s3", "s3": {"url": "s3://models/nano"}},
        "kserve": {"serviceAccountName": "reader"},
    },
    "kserve on a claim": {"engine": "kserve"},
    "embedded": {
        "engine": "embedded",
        "gateway": {"settings": {"max_concurrency": 2, "intra_op_threads": 1}},
    },
    "keys": {
        "apiKeys": {"hashes": {"alice": "0" * 64, "prometheus": "1" * 64}},
        "gateway": {"settings": {"rate_limit_per_minute": 600, "max_body_bytes": 67108864}},
        "serviceMonitor": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "apiKeySecret": {"name": "prometheus-key", "key": "key"},
        },
    },
    "fixed number, open, of another's secret": {
        "apiKeys": {"existingSecret": "our-keys"},
        "gateway": {
            "autoscaling": {"enabled": False},
            "replicas": 5,
            "drainDelaySeconds": 2.5,
            "tolerations": [{"key": "spot", "operator": "Exists"}],
            "nodeSelector": {"pool": "cpu"},
        },
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
    },
    "for everybody": {"apiKeys": {"allowAnonymous": True}},
    "guarded": {
        "networkPolicy": {
            "clients": [
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}
            ],
            "extraEgress": [{"ports": [{"port": 4318, "protocol": "TCP"}]}],
        },
        "gateway": {"affinity": {"podAntiAffinity": {}}, "autoscaling": {"queueDepth": None}},
    },
}


@pytest.fixture(scope="session")
def helm():
    return pytest.importorskip("helm_python", reason="Helm is not installed: .ci/run installs its bindings")


@pytest.fixture(scope="session")
def chart(helm):
    with helm.Chart.load(CHART) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def render(chart):
    """The objects that values give, in the namespace prod and under the release name demo."""

    def documents(values):
        values = {"apiKeys": {"existingSecret": "keys"}, **values}
        chart.validate_schema(values)
        files = chart.render(values, name="demo", namespace="prod")
        texts = [text for name, text in files.items() if name.endswith(".yaml")]
        return [found for text in texts for found in yaml.safe_load_all(text) if found]

    return documents


@pytest.fixture(params=VALUES)
def rendered(render, request):
    return render(VALUES[request.param])
