"""The life of the server process."""

import signal
import subprocess
import sys

import pytest
from mcjepa_client import Client


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(start, number):
    running = start()
    with Client(running.url) as client:
        client.wait_until_ready(60)
    assert running.stop(number) == 0
    assert "Traceback" not in running.log


def test_without_models_it_says_what_is_missing(tmp_path):
    command = [
        sys.executable,
        "-m",
        "mcjepa_server",
        "--port",
        "0",
        "--model-repository",
        str(tmp_path / "no"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "--model-repository" in done.stderr
