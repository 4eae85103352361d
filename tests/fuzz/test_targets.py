"""What coverage_fuzz.py runs for hours, here on its seeds and on damaged ones."""

import importlib.util
import random
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def targets():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        spec = importlib.util.spec_from_file_location("fuzz_targets", BENCHMARKS / "fuzz_targets.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    sys.modules.pop("hostile", None)
    return module


def test_every_reader_reads_its_seeds(targets):
    readable = {seed[0] for seed in targets.seeds() if targets.read(seed)}
    assert readable == set(range(len(targets.READERS)))


def test_damaged_seeds_and_any_bytes(targets, corpus):
    @given(st.sampled_from(targets.seeds()), st.integers(0, 2**32))
    def damaged(seed, number):
        targets.read(corpus.mutate(seed, random.Random(number)))

    @given(st.binary(max_size=300))
    def anything(data):
        targets.read(data)

    damaged()
    anything()


def test_an_error_of_ours_is_an_answer_and_any_other_passes_through(targets, monkeypatch):
    assert not targets.read(b"")
    assert not targets.read(b"\x03not a flo file")

    def broken(data):
        raise ZeroDivisionError

    monkeypatch.setattr(targets, "READERS", (broken,))
    with pytest.raises(ZeroDivisionError):
        targets.read(b"\0")
