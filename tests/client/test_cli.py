"""The command: files out, one line per error, exit codes."""

import json
import os
import signal
import subprocess
import sys

import httpx2
import numpy as np
import pytest
from mcjepa_client import _client, cli, flow_io

FLOW = np.random.default_rng(0).normal(0, 5, (20, 30, 2)).astype(np.float32)


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs the command in an empty folder against a handler: gives the exit code."""
    (tmp_path / "a.png").write_bytes(b"image a")
    (tmp_path / "b.png").write_bytes(b"image b")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MCJEPA_SERVER", raising=False)
    real = httpx2.Client

    def run(handler, *arguments):
        monkeypatch.setattr(_client.httpx2, "Client", lambda: real(transport=httpx2.MockTransport(handler)))
        return cli.main([str(argument) for argument in arguments])

    return run


@pytest.fixture
def flow_server(scripted, npz):
    return scripted(httpx2.Response(200, content=npz(flow=FLOW, occlusion=FLOW[..., 0] > 0)))


def test_flow_writes_each_format(command, flow_server, tmp_path, capsys):
    for name in ("o.flo", "o.npy", "o.npz", "o.png"):
        assert command(flow_server, "flow", "a.png", "b.png", "-o", name) == 0
        assert (tmp_path / name).stat().st_size > 0
    assert np.array_equal(flow_io.read_flo("o.flo"), FLOW)
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("o.flo: flow of 30x20, longest vector ")
    assert err == ""


def test_flow_passes_its_options_on(command, flow_server):
    arguments = ["--occlusion", "--max-side", 512, "--server", "http://there.test:81"]
    assert command(flow_server, "flow", "a.png", "b.png", "-o", "o.npz", *arguments) == 0
    (request,) = flow_server.requests
    assert request.url.host == "there.test"
    assert dict(request.url.params) == {
        "format": "npz", "direction": "forward", "occlusion": "true", "max_side": "512",
    }  # fmt: skip


def test_kitti_reports_clipped_pixels(command, scripted, npz, capsys):
    server = scripted(httpx2.Response(200, content=npz(flow=FLOW * 0 + 900)))
    assert command(server, "flow", "a.png", "b.png", "-o", "o.png", "--format", "kitti") == 0
    assert "warning: 600 pixels beyond" in capsys.readouterr().err
    assert not flow_io.read_kitti("o.png").valid.any()


def test_embed_writes_one_row_per_image(command, embeddings, limits, capsys):
    def server(request):
        return limits() if request.url.path == "/v1/info" else embeddings([1.0, 0.0, 0.0], [0.0, 1.0, 0.0])

    assert command(server, "embed", "a.png", "b.png", "-o", "e.npy") == 0
    assert np.load("e.npy").tolist() == [[1, 0, 0], [0, 1, 0]]
    assert capsys.readouterr().out == "e.npy: 2 x 3 embeddings of model mcjepa_embed\n"


def test_images_that_cannot_be_read_are_skipped_on_request(command, embeddings, limits, capsys):
    def server(request):
        return limits() if request.url.path == "/v1/info" else embeddings([1.0, 0.0], [0.0, 1.0])

    arguments = ["embed", "a.png", "none.png", "b.png", "-o", "e.npz"]
    assert command(server, *arguments) == 2
    assert "images[1]: cannot read none.png" in capsys.readouterr().err
    assert command(server, *arguments, "--on-error", "skip") == 1
    with np.load("e.npz") as saved:
        assert (saved["embeddings"].tolist(), saved["indices"].tolist()) == ([[1, 0], [0, 1]], [0, 2])
    out, err = capsys.readouterr()
    assert out == "e.npz: 2 x 2 embeddings of model mcjepa_embed\n"
    assert [line.partition(": ")[2].partition(":")[0] for line in err.splitlines()] == ["skipped", "error"]
    assert "images[1]: cannot read none.png" in err


@pytest.mark.parametrize("name", ["caf\udce9.flo", "caf\u00e9 \U0001f600.flo"])
def test_a_name_that_is_no_text_is_written_and_shown(command, flow_server, capsys, name):
    assert command(flow_server, "flow", "a.png", "b.png", "-o", name) == 0
    assert np.array_equal(flow_io.read_flo(name), FLOW)
    assert capsys.readouterr().out.startswith("caf")


def test_info_prints_json(command, scripted, capsys):
    assert command(scripted(httpx2.Response(200, json={"version": "9"})), "info") == 0
    assert json.loads(capsys.readouterr().out) == {"version": "9"}


def test_the_server_comes_from_the_environment(command, scripted, monkeypatch):
    server = scripted(httpx2.Response(200, json={}))
    monkeypatch.setenv("MCJEPA_SERVER", "http://from-environment.test")
    assert command(server, "info") == 0
    assert server.requests[0].url.host == "from-environment.test"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["flow", "a.png", "none.png", "-o", "o.flo"], "img2: cannot read none.png"),
        (["flow", "a.png", "b.png", "-o", "o.txt"], "cannot save flow as 'txt'"),
        (["flow", "a.png", "b.png", "-o", "none/o.flo"], "folder of none/o.flo"),
        (["flow", "a.png", "b.png", "-o", "o.flo", "--occlusion"], "need .npz"),
        (["flow", "a.png", "b.png", "-o", "o.flo", "--direction", "both"], "need .npz"),
        (["flow", "a.png", "b.png", "-o", "o.png", "--max-flow", "-3"], "max_flow"),
        (["flow", "a.png", "b.png", "-o", "o.flo", "--max-side", "0"], "max_side"),
        (["embed", "a.png", "-o", "e.txt"], ".npy, .npz or .json"),
        (["embed", "none.png", "-o", "e.npy"], "cannot read none.png"),
        (["info", "--server", "there:80"], "base_url"),
        (["info", "--timeout", "0"], "timeout"),
        (["info", "--retries", "-1"], "max_retries"),
    ],
)
def test_wrong_usage_is_code_2_and_one_line_and_sends_nothing(command, scripted, capsys, arguments, message):
    server = scripted(httpx2.Response(200))
    assert command(server, *arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("mcjepa-client: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert server.requests == []


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (httpx2.Response(400, content=b"<html>\n\nlong\npage</html>"), 1),
        (httpx2.Response(200, content=b"not\njson"), 1),
        (httpx2.Response(503), 3),
        (httpx2.ConnectError("refused"), 3),
        (httpx2.ReadTimeout("slow"), 3),
    ],
)
def test_failures_have_their_code_and_one_line(command, scripted, capsys, answer, code):
    assert command(scripted(answer), "info", "--retries", "0") == code
    err = capsys.readouterr().err
    assert err.startswith("mcjepa-client: error: ")
    assert err.count("\n") == 1


def test_an_output_that_cannot_be_written_is_code_1(command, flow_server, tmp_path, capsys):
    (tmp_path / "o.flo").mkdir()
    assert command(flow_server, "flow", "a.png", "b.png", "-o", "o.flo") == 1
    assert "o.flo" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("*.tmp")] == []


def test_interruption_is_code_130(command):
    def server(request):
        raise KeyboardInterrupt

    assert command(server, "info") == 130


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["flow", "--help"], ["embed", "--help"], ["info", "--help"]]
)
def test_help_names_the_exit_codes_and_the_server(command, scripted, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        command(scripted(httpx2.Response(200)), *arguments)
    assert caught.value.code == (0 if arguments else 2)
    if arguments:
        out = capsys.readouterr().out
        assert "exit codes:" in out
        assert "MCJEPA_SERVER" in out


def test_version(command, scripted, capsys):
    with pytest.raises(SystemExit):
        command(scripted(httpx2.Response(200)), "--version")
    assert capsys.readouterr().out.startswith("mcjepa-client 0.")


@pytest.mark.parametrize("closed", [(0,), (2,), (0, 1, 2)])
def test_closed_standard_streams_change_no_code(closed):
    """Else a connection or an output file takes the number of a stream that the program writes to."""
    program = "import sys; from mcjepa_client.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, "info", "--server", "http://127.0.0.1:1"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        preexec_fn=lambda: [os.close(descriptor) for descriptor in closed],
    )
    assert done.returncode == 3


#: The command of the package, with another in place of its imports and its work.
INTERRUPTED = """
import atexit, os, signal, sys, types
from mcjepa_client import __main__

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

class Cli(types.ModuleType):
    @property
    def main(self):
        if sys.argv[1] == "imports":
            interrupt()
        return work

def work():
    if sys.argv[1] == "exit":
        atexit.register(interrupt)
        return 0
    try:
        interrupt()
    except KeyboardInterrupt:
        if sys.argv[1] == "cleanup":
            interrupt()
        atexit.register(interrupt)
        sys.stderr.write("mcjepa-client: interrupted\\n")
        return 130

sys.modules["mcjepa_client.cli"] = Cli("cli")
sys.exit(__main__.main())
"""


@pytest.mark.parametrize("when", ["imports", "cleanup", "twice", "exit"])
def test_ctrl_c_at_any_moment_is_one_line_and_code_130(when):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, when], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (130, "mcjepa-client: interrupted\n")


def test_a_command_that_is_not_to_be_interrupted_goes_on():
    """A shell starts what it runs in the background with SIGINT ignored."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "imports"],
        capture_output=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_names_that_are_not_text_are_shown_as_bytes(command, flow_server, scripted, embeddings, capsys):
    flow, vectors = (os.fsdecode(b"\xe9" + kind) for kind in (b".flo", b".npy"))
    assert command(flow_server, "flow", "a.png", "b.png", "-o", flow) == 0
    assert command(scripted(embeddings([1.0])), "embed", "a.png", "-o", vectors) == 0
    assert command(refuse_all, "embed", os.fsdecode(b"\xe8.png"), "-o", vectors) == 2
    out, err = capsys.readouterr()
    assert [line.partition(":")[0] for line in out.splitlines()] == [r"\xe9.flo", r"\xe9.npy"]
    assert r"\xe8.png" in err


def refuse_all(request):
    raise AssertionError("nothing is to be sent")
