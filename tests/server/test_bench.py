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
    for name in ("common", "embeddings", "engines", "gateways"):
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
def test_gateways(bench, repository, monkeypatch):
    gateways = bench("gateways")
    monkeypatch.setattr(gateways, "REST", 0.0)
    pair = np.random.default_rng(0).integers(0, 256, (2, 64, 128, 3), np.uint8)
    report = gateways.measure(repository, pair, threads=1, clients=[1, 2], each=2)
    for server in ("gateway", "bare FastAPI"):
        assert report[server]["memory_mb"] > 10
        assert report[server]["memory_at_rest_mb"] > 10
        assert report[server]["2 clients"]["runs"] == 4
    alone = gateways.direct(repository, pair, threads=1, rounds=1)
    assert alone["decode + engine + encode"]["runs"] == alone["engine"]["runs"] == 1
    json.dumps(gateways.bars(report, alone))


@pytest.mark.slow
def test_embeddings(bench, repository):
    embeddings = bench("embeddings")
    frame = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    report = embeddings.measure(repository, frame, threads=1, each=2)
    assert report.keys() == {"gateway", "bare FastAPI"}
    for rows in report.values():
        assert [row["runs"] for row in rows.values()] == [2, 16, 2]
    json.dumps(report)


def test_bars_compare_with_the_best_peer(bench):
    def server(p50, per_s, memory_mb):
        row = {"p50": p50, "per_s": per_s, "cpu_ms_per_request": p50}
        return {"1 clients": row, "8 clients": row, "memory_mb": memory_mb, "memory_at_rest_mb": 150}

    servers = {"gateway": server(110, 9.0, 200), "a": server(100, 10.0, 400), "b": server(200, 5.0, 100)}
    alone = {"engine": {"p50": 80, "cpu": 80}, "decode + engine + encode": {"p50": 100, "cpu": 100}}
    assert bench("gateways").bars(servers, alone) == {
        "p50 of one client / decode + engine + encode": 1.1,
        "the same, cpu": 1.1,
        "throughput of 8 clients / the engine's own": 0.72,
        "memory / the leanest peer's": 2.0,
        "the same, at rest": 1.0,
        "throughput of 1 clients / the best peer's": 0.9,
        "throughput of 8 clients / the best peer's": 0.9,
    }
