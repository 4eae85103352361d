"""What a server tells others, and what it leaves behind: nothing."""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from importlib.util import find_spec

import pytest

ENGINES = ("onnxruntime", "openvino")
#: Opened for writing, they lead to no file that stays.
PASSING = re.compile(r'"/(dev|proc)/')


@pytest.fixture(params=ENGINES)
def engine(request):
    if find_spec(request.param) is None:  # which does not import it
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture
def serve_once(repository, engine, tmp_path):
    """Starts a server as a process, in an empty home, asks it, stops it. The folders to stay empty."""
    home, cache, temporary = tmp_path / "home", tmp_path / "compiled", tmp_path / "tmp"
    for folder in (home, cache, temporary):
        folder.mkdir(mode=0o700)

    def run(*prefix):
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MCJEPA_", "XDG_", "ORT_")) and name != "CI"
        }
        environment |= {"HOME": str(home), "TMPDIR": str(temporary), "MCJEPA_ENGINE_CACHE": str(cache)}
        environment |= {"MCJEPA_INTRA_OP_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [*prefix, sys.executable, "-m", "mcjepa_server", "--port", "0", "--engine", engine]
        command += ["--model-repository", str(repository)]
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=environment, cwd=home
        ) as process:
            log = []
            for line in process.stderr:
                log.append(line)
                if found := re.search(r"running on (http://\S+)", line):
                    break
            else:
                pytest.fail("".join(log))
            with urllib.request.urlopen(f"{found[1]}/readyz", timeout=60) as reply:
                assert reply.status == 200
            pid = int(re.search(r"server process \[(\d+)\]", "".join(log))[1])
            os.kill(pid, signal.SIGTERM)  # strace has none of it
            process.communicate(timeout=60)
        return [home, temporary], cache

    return run


def test_nothing_is_left_in_the_home_of_the_user(serve_once):
    folders, _ = serve_once()
    assert [str(path) for folder in folders for path in folder.rglob("*")] == []


def test_nobody_is_called_and_no_file_is_written(serve_once, tmp_path):
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    watched = (
        "connect,sendto,sendmsg,sendmmsg,open,openat,creat,mkdir,mkdirat,rename,renameat2,unlink,unlinkat"
    )
    _, cache = serve_once("strace", "-f", "-qq", "-e", f"trace={watched}", "-o", str(trace))
    calls = trace.read_text().splitlines()
    if not any("openat(" in line for line in calls):
        pytest.skip("strace may not trace here")
    outside = [line for line in calls if "sa_family=AF_INET" in line and "127.0.0.1" not in line]
    written = [
        line
        for line in calls
        if re.search(r"O_CREAT|O_WRONLY|O_RDWR|creat\(|mkdir|rename|unlink", line)
        and not PASSING.search(line)
        and str(cache) not in line
        and "= -1" not in line
    ]
    assert outside == []
    assert written == []
