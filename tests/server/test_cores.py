"""Cores to compute on, by what Linux says of them."""

import os

import pytest
from mcjepa_server import config


@pytest.mark.parametrize(
    ("siblings", "allowed", "expected"),
    [
        (["0", "1"], 2, 2),
        (["0,2", "1,3", "0,2", "1,3"], 4, 2),  # two threads a core
        (["0-1", "0-1"], 2, 1),
        (["0", "1", "2", "3"], 1, 1),  # of which it may use one
        ([], 3, 3),  # nothing is known of them
    ],
)
def test_threads_of_one_core_count_once(siblings, allowed, expected, tmp_path, monkeypatch):
    for number, text in enumerate(siblings):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{text}\n")
    (tmp_path / "cpufreq").mkdir()
    monkeypatch.setattr(config, "TOPOLOGY", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)), raising=False)
    assert config.usable_cores() == expected


def test_there_is_one_at_least():
    assert 1 <= config.usable_cores() <= os.cpu_count()
