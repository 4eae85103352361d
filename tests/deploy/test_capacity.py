"""The planning of machines on fixed costs, and the simulation against Jackson's formula."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("simpy", reason="simpy is not installed")

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def capacity(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("capacity")
    for name in ("capacity", "capacity_simulation", "common", "serving", "servers"):
        sys.modules.pop(name, None)


@pytest.fixture
def simulation(capacity):
    return sys.modules["capacity_simulation"]


@pytest.fixture
def cost(capacity):
    """15 ms and 225 ms of a core; 0.25 MB there, 2.5 MB back; 2.5 MB to Triton, 5 MB from it."""
    return capacity.Cost(15.0, 225.0, 0.25e6, 2.5e6, 2.5e6, 5e6)


@pytest.fixture
def site(capacity):
    return capacity.Site(
        load=0.5, cores=10, network_gbit=10.0, grpc_ms=5.0, gpu_ms=4.0,
        core_price=0.1, gpu_machine_price=2.0, egress_price=0.1,
    )  # fmt: skip


def test_machines_by_hand(capacity, cost, site):
    found = capacity.plan(cost, site, 1000.0)
    # 240 ms x 1000/s = 240 cores = 24 machines, half loaded
    assert (found["embedded"]["machines"], found["embedded"]["bound_by"]) == (48, "processor")
    assert found["embedded"]["an_hour"] == pytest.approx(48 * 10 * 0.1)
    # 20 ms x 1000/s = 20 cores = 2 machines; (0.25 + 5) MB x 8 x 1000/s = 42 Gbit/s = 4.2 machines
    assert (found["gateways"]["machines"], found["gateways"]["bound_by"]) == (9, "network")
    # 4 GPUs busy, and 40 Gbit/s of flow out of them, which are 4 machines, too
    assert found["tritons"]["machines"] == 8
    assert found["tritons"]["an_hour"] == pytest.approx(16.0)
    # 2.5 MB x 1000/s x 3600 s = 9000 GB
    assert found["traffic"]["egress_an_hour"] == pytest.approx(900.0)
    assert found["traffic"]["to_callers_gbit"] == pytest.approx(20.0)


def test_the_bottleneck_moves(capacity, cost, site):
    def bound(**changes):
        return capacity.plan(cost, dataclasses.replace(site, **changes), 1e5)["tritons"]["bound_by"]

    assert bound(gpu_ms=4.1) == "GPU"
    assert bound(gpu_ms=3.9) == "network"
    assert bound(gpu_ms=3.9, network_gbit=25.0) == "GPU"


def test_no_machine_is_loaded_beyond_the_plan(capacity, cost, site):
    for rate in capacity.RATES:
        found = capacity.plan(cost, site, rate)
        for tier in ("embedded", "gateways", "tritons"):
            assert max(found[tier]["load"].values()) <= site.load + 1e-3
            assert found[tier]["machines"] >= 1


def test_what_is_not_given_is_left_out(capacity, cost):
    found = capacity.plan(cost, capacity.Site(), 10.0)
    assert "tritons" not in found
    assert found["embedded"]["an_hour"] is None
    assert found["traffic"]["egress_an_hour"] is None


def test_earlier_costs_are_taken_as_they_are(capacity, cost, tmp_path):
    file = tmp_path / "earlier.json"
    earlier = {
        "machine": {"cores": 2},
        "frame": "64x64",
        "cost_of_a_pair": {"pair": dataclasses.asdict(cost)},
    }
    file.write_text(json.dumps(earlier | {"plans": {}}))
    assert capacity.read(file) == (earlier, {"pair": cost})


def test_frames_are_padded_to_the_stride(capacity):
    assert [capacity.padded(length) for length in (1, 64, 65, 448, 1080)] == [64, 64, 128, 448, 1088]


def test_waits_of_known_queues(simulation):
    # M/M/1: rho / (1 - rho) services. M/M/2 at 80 %: Erlang's C is 0.7111, the wait C / (2 - 1.6) services.
    assert simulation.mean_wait(0.5, 1.0, 1) == pytest.approx(1.0)
    assert simulation.mean_wait(1.6, 1.0, 2) == pytest.approx(0.7111 / 0.4, rel=1e-3)
    assert simulation.mean_wait(2.0, 1.0, 2) == float("inf")


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_the_simulation_agrees_with_the_formula(simulation, load):
    cell = simulation.Cell(rate=100.0, gateways=3, cores=2, gpus=2, gateway_s=0.06 * load, gpu_s=0.02 * load)
    found = simulation.simulate(cell, requests=10_000, seed=1, in_turn=False)
    assert found.mean_ms == pytest.approx(1000 * simulation.expected_latency(cell), rel=0.1)
    assert found.cores_busy == pytest.approx(load, rel=0.05)
    assert found.gpus_busy == pytest.approx(load, rel=0.05)
    assert found.p50_ms < found.mean_ms < found.p99_ms


def test_in_turn_waits_less_than_by_chance(simulation):
    cell = simulation.Cell(rate=100.0, gateways=1, cores=8, gpus=4, gateway_s=0.001, gpu_s=0.03)
    by_chance = simulation.simulate(cell, requests=5000, in_turn=False)
    assert simulation.simulate(cell, requests=5000, in_turn=True).mean_ms < by_chance.mean_ms


def test_a_simulation_is_repeatable(simulation):
    cell = simulation.Cell(rate=50.0, gateways=2, cores=1, gpus=1, gateway_s=0.01, gpu_s=0.01)
    assert simulation.simulate(cell, 500, seed=3) == simulation.simulate(cell, 500, seed=3)
    assert simulation.simulate(cell, 500, seed=3) != simulation.simulate(cell, 500, seed=4)


def test_a_smaller_cell_keeps_one_of_each(simulation):
    cell = simulation.Cell(rate=50.0, gateways=4, cores=1, gpus=1, gateway_s=0.01, gpu_s=0.01)
    assert (cell.shrunk(0.7).gateways, cell.shrunk(0.7).gpus) == (2, 1)


@pytest.mark.slow
def test_costs_are_measured(capacity, monkeypatch):
    monkeypatch.setattr(capacity, "MODES", {"pair": ("/v1/flow?format=npy&dtype=float16", 2, ".jpg")})
    (cost,) = capacity.measure(128, 64, requests=3).values()
    assert cost.engine_ms > 0
    assert 128 * 64 * 2 * 2 < cost.bytes_out < 128 * 64 * 2 * 2 + 200  # float16 and the header of npy
    assert cost.tensors_in == 2 * 128 * 64 * 3
    assert cost.tensors_out == 128 * 64 * 2 * 4
    assert cost.bytes_in > 500
