"""Makes the generators of broken input in benchmarks/ importable, and bounds how long hypothesis searches."""

import importlib.util
import os
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "mcjepa",
    deadline=None,  # a busy machine is no defect
    derandomize=True,
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("mcjepa")


def _load(name):
    path = Path(__file__).resolve().parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hostile = _load("hostile")


@pytest.fixture(scope="session")
def corpus():
    return hostile


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("MCJEPA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MCJEPA_DECODE_PROCESSES", "0")


def pytest_generate_tests(metafunc):
    if "hostile_name" in metafunc.fixturenames:
        metafunc.parametrize("hostile_name", sorted(hostile.images()))
