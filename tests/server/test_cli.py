"""The command, as a process."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from mcjepa_server import Settings, __main__ as command, cli
from mcjepa_server.cli import main
from mcjepa_server.http import listening

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


#: The command on an engine without weights, which may be told never to return.
FAKE = """
import sys, threading
from mcjepa_server import Settings, __main__, cli, create_app
from mcjepa_server.engines.fake import FakeEngine
class Engine(FakeEngine):
    async def infer_embed(self, images):
        if "hang" in sys.argv:
            threading.Thread(target=threading.Event().wait).start()
        return await super().infer_embed(images)
def serve():
    settings = Settings(port=0, decode_processes=0, drain_delay_s=0.1)
    cli._LAST_THREADS_S = 0.1
    sockets = cli.bind(settings.host, settings.port)
    if "taken" in sys.argv:  # between the two, by one who listens at once
        other = sockets[0].__class__()
        other.setsockopt(1, 2, 1)  # SO_REUSEADDR, as for our own
        other.bind(sockets[0].getsockname())
        other.listen()
    return cli.serve(settings, create_app(settings, Engine()), sockets)
cli.main = serve
sys.exit(__main__.main())
"""


@pytest.fixture
def fake():
    """Starts a server on the fake engine; gives the process and its address."""
    started = []

    def start(*arguments, closed=()):
        process = subprocess.Popen(
            [sys.executable, "-c", FAKE, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: [os.close(descriptor) for descriptor in closed],
        )
        started.append(process)
        unheard = 2 in closed or "taken" in arguments
        return process, [] if unheard else wait_until_it_runs(process)

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_until_it_runs(process):
    log = []
    for line in process.stderr:
        log.append(line)
        if "running on" in line:
            return log
    pytest.fail("".join(log))


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGTERM, signal.SIGTERM], 0),
        ([signal.SIGINT, signal.SIGINT], 130),
        ([signal.SIGTERM, signal.SIGINT, signal.SIGINT], 130),
    ],
)
def test_signals_end_it_without_a_trace_and_with_a_code(fake, signals, code):
    process, log = fake()
    upload = (
        begin_upload(log[-1]) if code == 130 else None
    )  # else it may have ended in order before the next signal
    for number in signals:
        process.send_signal(number)
        wait_until_it_is_seen(process, number)
    _, log = process.communicate(timeout=30)
    if upload is not None:
        upload.close()
    assert process.returncode == code, log
    assert "Traceback" not in log


def begin_upload(line):
    """Open a request that the server waits for, and return its connection."""
    port = int(re.search(r"http://127\.0\.0\.1:(\d+)", line)[1])
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(
        b"POST /v1/embeddings HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n"
    )
    assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
    return connection


def wait_until_it_is_seen(process, number):
    """A signal that is still pending swallows the next of its kind."""
    bit = 1 << (number - 1)
    while process.poll() is None:
        with open(f"/proc/{process.pid}/status") as status:
            found = re.search(r"ShdPnd:\s*([0-9a-f]+)", status.read())
        if not found or not int(found[1], 16) & bit:
            return


@pytest.mark.parametrize(
    ("closed", "number"), [((0,), signal.SIGTERM), ((1,), signal.SIGINT), ((0, 1, 2), signal.SIGTERM)]
)
def test_closed_standard_streams_do_no_harm(fake, closed, number):
    process, _ = fake(closed=closed)
    if 2 in closed:  # it cannot say that it runs
        wait_until_it_listens(process)
    links = [os.readlink(f"/proc/{process.pid}/fd/{descriptor}") for descriptor in closed]
    process.send_signal(number)
    _, log = process.communicate(timeout=30)
    assert links == ["/dev/null"] * len(closed)
    assert process.returncode == 0, log
    assert "Traceback" not in log


def wait_until_it_listens(process):
    while process.poll() is None:
        inodes = set()
        for name in os.listdir(f"/proc/{process.pid}/fd"):
            with contextlib.suppress(OSError):
                inodes.add(os.readlink(f"/proc/{process.pid}/fd/{name}").removeprefix("socket:[").rstrip("]"))
        with open("/proc/net/tcp") as table:
            if any(row.split()[3] == "0A" and row.split()[9] in inodes for row in table):
                return


def test_an_inference_that_never_returns_does_not_keep_the_process(fake):
    process, _ = fake("hang")
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "never returned" in log


def test_an_interrupt_before_the_start_is_one_line():
    program = (
        "import mcjepa_server.__main__ as m, signal, sys\n"
        "m.can_start_threads = lambda _: signal.raise_signal(signal.SIGINT)\n"
        "sys.exit(m.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 130
    assert len(done.stderr.splitlines()) == 1


def test_without_room_for_threads_it_says_so_in_one_line(repository):
    """As `ulimit -u 6`; root has no such limit, so that it is another user's."""
    command = [*COMMAND, "--port", "0", "--model-repository", str(repository)]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv, to become a user who has a limit, is not installed")
        capabilities = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        command = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", *capabilities, *command]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (6, 6)),
    )
    if "setpriv:" in done.stderr:
        pytest.skip(f"another user cannot be had here: {done.stderr}")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "ulimit -u" in line


def test_without_room_for_files_it_says_so_in_one_line():
    limit = (32, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    done = subprocess.run(
        COMMAND,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit),
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "ulimit -n" in line


@pytest.mark.parametrize("error", [MemoryError(), OSError(24, "Too many open files"), ImportError("no cv2")])
def test_what_is_not_to_be_had_is_one_line(monkeypatch, capsys, error):
    def fail():
        raise error

    monkeypatch.setattr(cli, "main", fail)
    assert command.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert type(error).__name__ in line


@pytest.fixture
def taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_port_in_use_ends_with_1_and_one_line_before_anything_is_loaded(repository, taken):
    command = [*COMMAND, "--port", str(taken), "--model-repository", str(repository)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    for word in (f"127.0.0.1:{taken}", "--port", "MCJEPA_PORT"):
        assert word in line


def test_an_address_that_is_taken_while_the_models_are_loaded_ends_with_1(fake):
    process, _ = fake("taken")
    _, log = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in log
    assert "cannot listen" in log


@pytest.mark.parametrize(
    ("host", "error"),
    [
        ("no.such.host.invalid", socket.gaierror(socket.EAI_NONAME, "Name or service not known")),
        ("127.0.0.1", PermissionError(13, "Permission denied")),
        ("a" * 300, None),
        ("192.0.2.7", None),  # of no machine
    ],
)
def test_an_address_that_cannot_be_had_ends_with_1_and_one_line(capsys, monkeypatch, repository, host, error):
    def refuse(*_, **__):
        raise error

    if error is not None:
        monkeypatch.setattr(
            *((socket, "getaddrinfo") if host != "127.0.0.1" else (listening, "_bind_one")), refuse
        )
    command = ["--host", host, "--port", "80", "--allow-anonymous", "--model-repository", str(repository)]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{host}:80" in line
    assert "--host" in line


def test_every_address_of_a_name_is_listened_at(monkeypatch):
    two = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("127.0.0.2", "127.0.0.3")]
    away = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [*two, away, two[0]])
    sockets = listening.bind("both", 0)
    assert [one.getsockname()[0] for one in sockets] == ["127.0.0.2", "127.0.0.3"]
    for one in sockets:
        one.close()


def test_a_model_repository_that_cannot_be_read_ends_with_2_and_one_line(capsys, monkeypatch, tmp_path):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(SystemExit) as ended:
        main(["--model-repository", str(tmp_path)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path) in line
    assert "MCJEPA_MODEL_REPOSITORY" in line


def test_the_readme_has_every_exit_code(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    codes = set(re.findall(r"^  (\d+)  ", capsys.readouterr().out, re.MULTILINE))
    readme = (Path(__file__).parents[2] / "server" / "README.md").read_text()
    assert codes == set(re.findall(r"^\| (\d+) \|", readme, re.MULTILINE))
    assert codes >= {"0", "1", "2", "130"}


def test_every_setting_has_an_option(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    assert {f"--{name.replace('_', '-')}" for name in Settings.model_fields} <= set(
        re.findall(r"--[\w-]+", text)
    )


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
        (["--port", "99999"], "--port: Input should be less than or equal to 65535, got '99999'"),
        (["--port", "many"], "--port: Input should be a valid integer"),
        (["--engine", "torch"], "--engine: Input should be 'auto'"),
        (["--triton-url", "http://triton:8001"], "is not HOST:PORT"),
        (["--max-queue-wait-s", "0"], "--max-queue-wait-s: Input should be greater than 0, got '0'"),
        (["--shape-buckets", "9"], "is not WIDTHxHEIGHT"),
    ],
)
def test_wrong_options_end_with_2_and_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert message in lines[0]
    assert "default factory" not in lines[0]


def test_a_wrong_variable_is_named(capsys, monkeypatch):
    monkeypatch.setenv("MCJEPA_MAX_FRAMES", "1")
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "max_frames" in capsys.readouterr().err.lower()
