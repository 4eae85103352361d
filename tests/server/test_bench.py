"""`make bench` in small: a benchmark that nobody runs is soon one that does not run."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino", reason="OpenVINO is not installed")

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    """Imports a module of benchmarks/."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in ("common", "engines", "gateways"):
        sys.modules.pop(name, None)


def test_engines_and_their_peers(bench, repository):
    engines = bench("engines")
    frames = np.random.default_rng(0).integers(0, 256, (16, 448, 1024, 3), np.uint8)
    report = engines.measure(repository, frames, threads=1, rounds=1)
    assert {"pair, onnxruntime", "pair, openvino", "DIS medium", "Farneback"} <= report["times_ms"].keys()
    assert all(row["cpu"] >= 0 and row["runs"] for row in report["times_ms"].values())
    assert report["roofline"]["gmac"] == 0  # of a model without weights
    json.dumps(report)


@pytest.mark.slow
def test_gateways(bench, repository):
    gateways = bench("gateways")
    pair = np.random.default_rng(0).integers(0, 256, (2, 64, 128, 3), np.uint8)
    report = gateways.measure(repository, pair, threads=1, clients=[1, 2], each=2)
    for server in ("gateway", "bare FastAPI"):
        assert report[server]["memory_mb"] > 10
        assert report[server]["2 clients"]["runs"] == 4
    json.dumps(report)
