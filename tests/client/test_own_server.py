"""A server of one's own ends with its owner, and says why when it does not start."""

import os
import signal
import subprocess
import sys

import httpx2
import pytest
from mcjepa_client import Client, ConnectionFailedError, _guard
from mcjepa_client._own_server import OwnServer

# Says that it is there, and stays until it is told to end.
PATIENT = "import signal; print('up', flush=True); signal.pause()"
STUBBORN = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
)
IMPATIENT_GUARD = """
import sys
from mcjepa_client import _guard
_guard._STOP_TIMEOUT = 0.1
sys.exit(_guard.main(sys.argv[1:]))
"""
# What the client asks of a server, and on demand its process id.
SMALL_SERVER = """
import http.server, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())

http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
OWNER = """
import subprocess, sys
subprocess.Popen([sys.executable, *sys.argv[1:]], stdin=subprocess.PIPE).wait()
"""


def test_what_is_guarded_dies_with_an_owner_that_is_killed():
    command = [sys.executable, "-c", OWNER, _guard.__file__, sys.executable, "-c", PATIENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout.readline() == b"up\n"
        owner.kill()
        # The output ends when none of the three processes is left that could write to it.
        assert owner.stdout.read() == b""


@pytest.mark.parametrize("child", [PATIENT, STUBBORN])
def test_closing_the_pipe_ends_it_even_when_it_does_not_listen(child):
    guard = [sys.executable, "-c", IMPATIENT_GUARD, sys.executable, "-c", child]
    with subprocess.Popen(guard, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode != 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_what_is_guarded_dies_with_the_guard():
    """Ray kills the children of an actor: the guard, and not what it guards."""
    guard = [sys.executable, _guard.__file__, sys.executable, "-c", PATIENT]
    with subprocess.Popen(guard, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        process.kill()
        assert process.stdout.read() == b""


def test_the_exit_code_is_handed_on():
    command = [sys.executable, _guard.__file__, sys.executable, "-c", "import sys; sys.exit(7)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.wait(timeout=60) == 7


def test_a_server_that_ends_at_once_is_reported_with_its_last_words():
    program = "import sys; print('there are no models'); sys.exit(3)"
    with pytest.raises(ConnectionFailedError, match=r"exit code 3\n.*there are no models"):
        OwnServer([sys.executable, "-c", program])


def test_a_server_that_is_never_ready_is_given_up_and_ended():
    with pytest.raises(ConnectionFailedError, match="no reply"):
        OwnServer([sys.executable, "-c", PATIENT], start_timeout=0.1)


def test_a_server_that_dies_is_started_again_at_the_same_address():
    server = OwnServer([sys.executable, "-c", SMALL_SERVER])
    first = process_id(server.url)
    os.kill(first, signal.SIGKILL)
    with Client(server.url) as client:
        client.wait_until_ready(60)
    assert process_id(server.url) != first
    server.close()
    with Client(server.url) as client:
        assert not client.is_alive()


def process_id(url):
    reply = httpx2.get(url, trust_env=False, timeout=60)
    return int(reply.content)
