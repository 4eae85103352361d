"""Buffers that go by a file when they are pickled."""

import os
import pickle

import pytest
from mcjepa_server.handover import INLINE_BYTES, SharedFile, hand_over

LARGE = b"x" * (INLINE_BYTES + 1)


def through(value, file):
    return pickle.loads(pickle.dumps(hand_over(value, file.path)))


@pytest.mark.parametrize("value", [None, 3, "text", ValueError("x"), LARGE[1:], (1, (b"a",))])
def test_small_things_go_by_the_pickle(value):
    file = SharedFile()
    assert repr(through(value, file)) == repr(value)
    assert os.path.getsize(file.path) == 0


def test_large_bytes_go_by_the_file():
    file = SharedFile()
    value = (LARGE, "name", (LARGE + b"y", 1), b"")
    pickled = pickle.dumps(hand_over(value, file.path))
    assert len(pickled) < 1000
    assert pickle.loads(pickled) == value
    assert through(b"z" + LARGE, file) == b"z" + LARGE


def test_a_file_is_empty_after_it_was_cleared_and_ends_with_its_owner():
    file = SharedFile()
    through(LARGE, file)
    assert os.path.getsize(file.path) == len(LARGE)
    file.clear()
    assert os.path.getsize(file.path) == 0
    path = file.path
    del file
    assert not os.path.exists(path)


def test_without_files_in_memory_it_is_a_temporary_one(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    file = SharedFile()
    assert through((LARGE, 1), file) == (LARGE, 1)
    assert [str(path) for path in tmp_path.iterdir()] == [file.path]
    del file
    assert not list(tmp_path.iterdir())
