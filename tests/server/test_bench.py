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
    for name in ("common", "embeddings", "engines", "gateways", "in_process", "servers"):
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
    for name, value in {"REST": 0.0, "TURNS": 1, "CROWD": (2, 4)}.items():
        monkeypatch.setattr(gateways, name, value)
    pair = np.random.default_rng(0).integers(0, 256, (2, 64, 128, 3), np.uint8)
    report = gateways.measure(repository, pair, threads=1, clients=[1, 2], each=2)
    for server in ("gateway", "bare FastAPI"):
        row = report["servers"][server]
        assert row["memory_mb"] > 10
        assert row["memory_at_rest_mb"] > 10
        assert row["clients"][2]["runs"] == 4
    assert report["in one process"]["engine"]["runs"] == 2
    json.dumps(report)


@pytest.mark.slow
def test_embeddings(bench, repository, monkeypatch):
    embeddings = bench("embeddings")
    monkeypatch.setattr(embeddings, "TURNS", 1)
    frame = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    report = embeddings.measure(repository, frame, threads=1, each=2)
    for server in ("gateway", "bare FastAPI"):
        assert [found[server]["runs"] for found in report.values()] == [2, 16, 2]
    assert all(found["ratio"] > 0 for found in report.values())
    json.dumps(report)


def test_bars_are_medians_of_the_ratios_of_each_turn(bench):
    gateways = bench("gateways")

    def server(p50, per_s):
        row = {"p50": p50, "per_s": per_s, "cpu_ms_per_request": p50}
        return {1: row, 8: row}

    def turn(slow):
        """All take so many times as long."""
        alone = {"engine": 80, "decode + engine + encode": 100}
        servers = {
            "gateway": server(110 * slow, 9 / slow),
            "a": server(100 * slow, 10 / slow),
            "b": server(200 * slow, 5 / slow),
        }
        return gateways.Turn(
            {name: {"p50": ms * slow, "cpu": ms * slow} for name, ms in alone.items()}, servers
        )

    odd = gateways.Turn(turn(1).alone, turn(1).servers | {"gateway": server(1000, 1.0)})
    assert gateways.bars([turn(1), odd, turn(3)]) == {
        "p50 of one client / decode + engine + encode": 1.1,
        "the same, cpu": 1.1,
        "throughput of 8 clients / the engine's own": 0.72,
        "throughput of 1 clients / the best peer's": 0.9,
        "throughput of 8 clients / the best peer's": 0.9,
    }


def test_memory_is_compared_with_the_leanest_peer(bench):
    found = bench("gateways").compare_memory("memory", {"gateway": 200, "a": 400, "b": 100})
    assert found == {"memory / the leanest peer's": 2.0}


def test_calls_are_compared_within_a_round(bench):
    turns = bench("common").Turns({"a": [1.0, 20.0, 3.0], "b": [2.0, 40.0, 1.0]}, {"a": [1.0], "b": [4.0]})
    assert turns.ratio("a", "b") == 0.5
    assert turns.ratio("a", "b", "cpu") == 0.25
