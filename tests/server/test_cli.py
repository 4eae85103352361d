"""The command, as a process."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from mcjepa_server.cli import main

COMMAND = [sys.executable, "-m", "mcjepa_server"]


@pytest.fixture
def server(repository):
    """A server on a port of its own; its address."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MCJEPA_INTRA_OP_THREADS": "1"}
    command = [*COMMAND, "--port", "0", "--model-repository", str(repository)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        log = []
        for line in process.stderr:
            log.append(line)
            if found := re.search(r"running on (http://\S+)", line):
                yield process, found[1]
                break
        else:
            pytest.fail("".join(log))
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_and_stops_in_order(server, number):
    process, address = server
    with urllib.request.urlopen(f"{address}/readyz", timeout=30) as reply:
        assert json.load(reply) == {"status": "ready"}
    process.send_signal(number)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in log


def test_help_lists_the_options(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    for option in ("--host", "--port", "--engine", "--triton-url", "--model-repository", "MCJEPA_"):
        assert option in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model-repository", "/no/such/folder"], "no model repository at /no/such/folder"),
        (["--port", "99999"], "port"),
        (["--port", "many"], "invalid int value"),
        (["--engine", "torch"], "invalid choice"),
        (["--triton-url", "http://triton:8001"], "is not HOST:PORT"),
    ],
)
def test_wrong_options_end_with_2_and_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert message in lines[0]


def test_a_wrong_variable_is_named(capsys, monkeypatch):
    monkeypatch.setenv("MCJEPA_MAX_FRAMES", "1")
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "max_frames" in capsys.readouterr().err.lower()
