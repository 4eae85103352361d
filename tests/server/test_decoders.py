"""Decoding in processes of its own: what a crash, a hang or an error in there does to everybody else."""

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from mcjepa_server import Settings, create_app
from mcjepa_server.decoding import process
from mcjepa_server.decoding.clip import decode_clip
from mcjepa_server.decoding.frames import decode_embed_inputs, decode_frame
from mcjepa_server.decoding.messages import DONE, ERRORS, MAGIC, MAX_TEXT_BYTES, REPLY
from mcjepa_server.decoding.pool import Decoders
from mcjepa_server.decoding.sandbox import landlock_version
from mcjepa_server.engines.fake import FakeEngine
from mcjepa_server.errors import (
    DeadlineExceeded,
    ImageTooLarge,
    InternalError,
    InvalidInput,
    NotReady,
    UndecodableImage,
)
from mcjepa_server.imaging.geometry import Padding, plan_geometry
from mcjepa_server.imaging.limits import PixelBudget
from mcjepa_server.imaging.resize import pack_clip
from prometheus_client import Counter
from starlette.testclient import TestClient

PLAN = partial(plan_geometry, padding=Padding(64, ((128, 64),), 0.5), max_side=1024, max_pixels=10**6)
BUDGET = PixelBudget(10**7, 10**7)

#: A decoder in which a file that begins with # is a program, as hostile as one that has taken it over.
TAKEN_OVER = """
import sys
sys.path[:] = sys.argv[2:]
from mcjepa_server.decoding import messages, worker
decode = messages.decode_frame
def decode_frame(data, *rest):
    if data.startswith(b"#"):
        exec(data.decode(), {})
    return decode(data, *rest)
messages.decode_frame = decode_frame
worker.serve(int(sys.argv[1]))
"""
DIE = b"#\nimport os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"
KILLED = b"#\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)"  # as by the system, for want of memory
HANG = b"#\nimport time\ntime.sleep(1000)"


@pytest.fixture(autouse=True)
def _taken_over(monkeypatch):
    monkeypatch.setattr(process, "_SERVE", TAKEN_OVER)


def work(job, processes=1, **settings):
    """Runs the coroutine function on decoders; gives its result and the count of failures."""
    failures = Counter("failures", "Of decoders.", registry=None)

    async def main():
        pool = Decoders(Settings(decode_processes=processes, **settings), failures)
        await pool.start()
        try:
            return await job(pool)
        finally:
            await pool.stop()

    return asyncio.run(main()), failures._value.get()


def frame(pool, data, param="frame1", budget=BUDGET, plan=PLAN):
    return pool.run(decode_frame, data, param, budget, plan, param=param)


async def told(pool, expression):
    """What an expression is in the process, as text."""
    with pytest.raises(InvalidInput) as caught:
        await frame(
            pool,
            f"#\nimport os, sys\nfrom mcjepa_server.errors import InvalidInput\n"
            f"raise InvalidInput(str({expression}))".encode(),
        )
    return caught.value.message


def pids(pool):
    return [worker.pid for worker in pool._idle]


def test_a_crash_costs_one_file(encode, picture):
    good = encode(picture())

    async def job(pool):
        others = [frame(pool, good, "other") for _ in range(4)]
        crashed, *decoded = await asyncio.gather(frame(pool, DIE, "frame2"), *others, return_exceptions=True)
        return crashed, [(geometry.height, geometry.width) for _, geometry in decoded]

    (crashed, shapes), failures = work(job, processes=2)
    assert isinstance(crashed, UndecodableImage)
    assert crashed.param == "frame2"
    assert shapes == [(48, 80)] * 4
    assert failures == 2  # it was tried twice


@pytest.mark.parametrize(("height", "width"), [(16, 16), (48, 80), (33, 100), (300, 500), (1100, 1300)])
def test_pixels_are_those_that_a_thread_decodes(encode, picture, height, width):
    """Small and large ones, that are scaled or not, of one file or of many."""
    files = tuple(encode(picture(height, width), kind) for kind in ("PNG", "JPEG", "PPM"))
    names = ("a", "b", "c")

    async def job(pool):
        return [await frame(pool, data) for data in files], [
            await pool.run(decode_embed_inputs, files, names, BUDGET, side, param="a") for side in (32, 224)
        ]

    frames, squares = work(job)[0]
    for (pixels, geometry), data in zip(frames, files, strict=True):
        expected, expected_geometry = decode_frame(data, "frame1", BUDGET, PLAN)
        assert geometry == expected_geometry
        assert bytes(pixels) == expected
    assert [bytes(pixels) for pixels, _ in squares] == [
        decode_embed_inputs(files, names, BUDGET, side)[0] for side in (32, 224)
    ]


def test_the_two_frames_of_a_pair_are_decoded_at_once(encode, picture):
    class Waits:
        """Lets nobody go before two have come."""

        def __init__(self):
            self._both = asyncio.Barrier(2)

        async def run(self, function, *args, param):
            async with asyncio.timeout(20):
                await self._both.wait()
            return function(*args)

    async def scenario():
        first, second = picture(), picture()[::-1]
        files = [("frame1", encode(first)), ("frame2", encode(second))]
        plan = partial(plan_geometry, padding=Padding(64), max_side=1024, max_pixels=10**6)
        clip, geometry = await decode_clip(files, PixelBudget(10**6, 10**6), plan, Waits())
        np.testing.assert_array_equal(clip, pack_clip([first, second], geometry))
        return geometry.padded_width, geometry.padded_height

    assert asyncio.run(scenario()) == (128, 64)


def test_too_many_pixels_are_refused_before_the_rest_is_decoded(encode, picture):
    calls = []

    class Notes:
        async def run(self, function, *args, param):
            calls.append(param)
            return function(*args)

    image = picture()
    files = [(f"frames[{index}]", encode(image)) for index in range(8)]
    budget = PixelBudget(10**6, 8 * image.shape[0] * image.shape[1] - 1)
    plan = partial(plan_geometry, padding=Padding(64), max_side=1024, max_pixels=10**6)
    with pytest.raises(ImageTooLarge, match=r"up to frames\[7\]; .*max_request_pixels"):
        asyncio.run(decode_clip(files, budget, plan, Notes()))
    assert len(calls) <= 2


def test_a_process_killed_from_outside_costs_nothing(encode, picture):
    async def job(pool):
        (before,) = pids(pool)
        os.kill(before, signal.SIGKILL)
        await frame(pool, encode(picture()))
        return before, pids(pool)[0]

    (before, after), _ = work(job)
    assert before != after


def test_a_file_whose_process_is_killed_twice_is_not_to_blame(encode, picture):
    async def job(pool):
        with pytest.raises(NotReady) as caught:
            await frame(pool, KILLED)
        await frame(pool, encode(picture()))
        return caught.value.headers, pool.failure

    assert work(job) == (({"Retry-After": "5"}, None), 2)


@pytest.mark.parametrize(
    "end",
    [
        "os.kill(os.getpid(), signal.SIGSEGV)",
        "os.abort()",
        "os._exit(7)",
        "os.close(0), time.sleep(1000)",
    ],
)
def test_a_process_that_ends_by_itself_breaks_down_on_its_file(end, monkeypatch):
    monkeypatch.setattr(process, "_END_S", 0.1)

    async def job(pool):
        with pytest.raises(UndecodableImage) as caught:
            await frame(pool, f"#\nimport os, signal, time\n{end}".encode(), "frame2")
        return caught.value.param

    assert work(job) == ("frame2", 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_ends_no_process_before_the_server_has_drained(number, encode, picture):
    async def job(pool):
        (pid,) = pids(pool)
        os.kill(pid, number)
        await frame(pool, encode(picture()))
        return [pid] == pids(pool)

    assert work(job)[0]


def test_processes_that_died_are_replaced_before_they_are_needed():
    async def job(pool):
        (before,) = pids(pool)
        os.kill(before, signal.SIGKILL)
        os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)
        await pool.start()
        return before, *pids(pool)

    (before, after), _ = work(job)
    assert before != after


def test_a_hang_is_ended(encode, picture):
    async def job(pool):
        (hung,) = await asyncio.gather(frame(pool, HANG, "frame1"), return_exceptions=True)
        pool._timeout_s = 30
        return hung, await frame(pool, encode(picture()))

    (hung, _), failures = work(job, decode_timeout_s=0.2)
    assert isinstance(hung, DeadlineExceeded)
    assert "frame1" in str(hung)
    assert "decode_timeout_s" in str(hung)
    assert failures == 1


def fail(*_, **__):
    raise OSError("no more processes")


def test_where_no_process_can_be_started_nothing_is_ready_until_one_can(monkeypatch, caplog, encode, picture):
    async def job(pool):
        with pytest.raises(NotReady) as caught:
            await frame(pool, encode(picture()))
        assert pool.failure == caught.value.message
        with pytest.raises(NotReady):
            await pool.check(PLAN)
        monkeypatch.undo()
        await pool.check(PLAN)
        assert pool.failure is None
        return caught.value.headers

    monkeypatch.setattr(subprocess, "Popen", fail)
    headers, failures = work(job)
    assert headers == {"Retry-After": "5"}
    assert failures == 4
    assert caplog.text.count("no more processes") == 1


def test_the_next_start_is_enough_to_be_ready_again(monkeypatch):
    async def job(pool):
        before = pool.failure
        monkeypatch.undo()
        await pool.start()
        return before, pool.failure, len(pids(pool))

    monkeypatch.setattr(subprocess, "Popen", fail)
    (before, after, count), _ = work(job, processes=2)
    assert before is not None
    assert (after, count) == (None, 2)


def test_where_one_process_of_two_can_be_started_all_wait_for_it(monkeypatch, encode, picture):
    good = encode(picture())
    popen = subprocess.Popen

    async def job(pool):
        os.kill(pids(pool)[0], signal.SIGKILL)
        os.waitid(os.P_PID, pids(pool)[0], os.WEXITED | os.WNOWAIT)
        monkeypatch.setattr(subprocess, "Popen", fail)
        found = await asyncio.gather(*(frame(pool, good) for _ in range(6)))
        assert (len(found), pool.failure, len(pids(pool))) == (6, None, 1)
        (crashed, *others) = await asyncio.gather(
            *(frame(pool, data) for data in (DIE, good, good)), return_exceptions=True
        )
        assert {type(error) for error in (crashed, *others)} == {NotReady}  # and none waits for ever
        monkeypatch.setattr(subprocess, "Popen", popen)
        await pool.start()
        assert len(await asyncio.gather(*(frame(pool, good) for _ in range(6)))) == 6
        return len(pids(pool)), pool._turns._value, pool._lost_turns

    assert work(job, processes=2)[0] == (2, 2, 0)


def test_a_process_that_cannot_be_confined_is_not_used(monkeypatch):
    monkeypatch.setattr(process, "_SERVE", "raise SystemExit(7)")

    async def job(pool):
        with pytest.raises(NotReady):
            await frame(pool, b"")

    assert work(job)[1] == 2


def test_without_threads_to_wait_in_processes_end_and_none_is_ready(monkeypatch):
    async def refuse(*_):
        raise RuntimeError("can't start new thread")

    async def job(pool):
        with pytest.raises(NotReady):
            await frame(pool, b"")

    monkeypatch.setattr(process, "_SERVE", "raise SystemExit(7)")
    monkeypatch.setattr(process, "run_sync", refuse)
    assert work(job)[1] == 2


def test_stopping_ends_the_processes():
    async def job(pool):
        (pid,) = pids(pool)
        await pool.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    work(job)


PICKLE = b"\x80\x04cos\nsystem\n(S'touch taken'\ntR."
OK = (MAGIC, 1, DONE, 16, 16, 3 * 16 * 16)


def reply(magic, number, status, width, height, size, payload=None):
    return REPLY.pack(magic, number, status, width, height, size) + (
        bytes(size % 10**6) if payload is None else payload
    )


GARBAGE = {
    "no reply": bytes(1000),
    "a pickle": PICKLE + bytes(100),
    "a pickle for pixels": reply(*OK[:5], len(PICKLE), PICKLE),
    "of another call": reply(MAGIC, 2, *OK[2:]),
    "of an earlier call": reply(MAGIC, 0, *OK[2:]),
    "fewer bytes than pixels": reply(*OK[:5], OK[5] - 1),
    "more bytes than pixels": reply(*OK[:5], OK[5] + 1),
    "as many bytes as there can be": reply(*OK[:5], 2**64 - 1),
    "no pixels": reply(*OK[:3], 0, 0, 0),
    "more pixels than asked for": reply(*OK[:3], 2**32 - 1, 2**32 - 1, 3),
    "an unknown status": reply(*OK[:2], 99, 0, 0, 0),
    "a long error": reply(*OK[:2], min(ERRORS), 0, 0, MAX_TEXT_BYTES + 1),
}


@pytest.mark.parametrize("said", GARBAGE.values(), ids=GARBAGE)
def test_an_answer_that_was_not_asked_for_is_an_error_of_its_call_and_the_process_goes(
    said, encode, picture, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    program = f"#\nimport os, time\nos.write(0, {said!r})\ntime.sleep(1000)".encode()

    async def job(pool):
        before = pids(pool)
        with pytest.raises(InternalError) as caught:
            await frame(pool, program, "frame2")
        pixels, _ = await frame(pool, encode(picture()))
        assert not set(before) & set(pids(pool))
        return caught.value.param, bytes(pixels) == picture().tobytes()

    assert work(job) == (("frame2", True), 2)
    assert not list(tmp_path.iterdir())


def test_nothing_that_is_said_unasked_reaches_the_next_call(encode, picture):
    """A second reply, right behind the first, that fits the next call."""
    spare = reply(MAGIC, 1, DONE, 80, 48, 3 * 80 * 48) + reply(MAGIC, 2, DONE, 80, 48, 3 * 80 * 48)
    program = f"#\nimport os, time\nos.write(0, {spare!r})\ntime.sleep(1000)".encode()

    async def job(pool):
        forged, _ = await frame(pool, program)
        assert not any(forged)  # its own call's answer may be anything
        (pixels, _) = await frame(pool, encode(picture()))
        return bytes(pixels) == picture().tobytes()

    assert work(job)[0]


def test_an_error_is_one_of_the_few_that_a_file_can_have_and_its_text_is_bounded():
    async def job(pool):
        with pytest.raises(InvalidInput) as caught:
            await frame(
                pool,
                b"#\nfrom mcjepa_server.errors import InvalidInput\n"
                b"raise InvalidInput('\\nERROR: \\x1b[0m' + 'x' * 10**5, param='another')",
            )
        assert len(caught.value.message) <= MAX_TEXT_BYTES
        assert caught.value.message.isprintable()
        assert caught.value.param == "frame1"
        with pytest.raises(InternalError) as caught:
            await frame(pool, b"#\nraise RuntimeError('secret of /some/path')", "frame2")
        assert "secret" not in caught.value.message
        (before,) = pids(pool)
        await told(pool, "1")
        return before == pids(pool)[0]

    assert work(job)[0]  # none of these ends the process


def test_memory_that_cannot_be_had_is_a_limit_and_names_it():
    async def job(pool):
        with pytest.raises(ImageTooLarge, match=f"{2**29} bytes .decode_memory_bytes") as caught:
            await frame(pool, b"#\nbytearray(2**30)", "frame2")
        return caught.value.param

    assert work(job, decode_memory_bytes=2**29) == ("frame2", 0)


def test_errors_come_back_whole(encode, picture):
    async def job(pool):
        with pytest.raises(ImageTooLarge, match="max_image_pixels") as caught:
            await frame(pool, encode(picture()), budget=PixelBudget(100, 100))
        assert caught.value.param == "frame1"
        files = (encode(picture()), b"junk")
        with pytest.raises(UndecodableImage) as caught:
            await pool.run(decode_embed_inputs, files, ("a", "b"), BUDGET, 32, param="a to b")
        return caught.value.param

    assert work(job)[0] == "b"


def test_a_caller_who_leaves_does_not_end_the_process(encode, picture):
    async def job(pool):
        before = pids(pool)
        leaving = asyncio.create_task(frame(pool, b"#\nimport time\ntime.sleep(0.1)"))
        while not pool._working:
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await frame(pool, encode(picture()))
        return before == pids(pool)

    assert work(job)[0]


def test_a_caller_who_leaves_before_its_turn_is_not_decoded(encode, picture):
    async def job(pool):
        working = asyncio.create_task(frame(pool, b"#\nimport time\ntime.sleep(0.1)"))
        leaving = [asyncio.create_task(frame(pool, HANG)) for _ in range(20)]
        while not pool._working:
            await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        await frame(pool, encode(picture()))
        await asyncio.gather(working, *leaving, return_exceptions=True)

    assert work(job)[1] == 0


def test_a_process_is_confined_and_light(encode, picture, monkeypatch):
    monkeypatch.setenv("SECRET", "of the server")
    inherited, other = os.pipe()
    os.set_inheritable(inherited, True)

    async def job(pool):
        await frame(pool, encode(picture()))
        await pool.check(PLAN)
        limits = "AS", "CORE", "FSIZE", "NOFILE", "NPROC"
        asked = "{name: __import__('resource').getrlimit(getattr(__import__('resource'), 'RLIMIT_' + name)) "
        bounds = eval(await told(pool, f"{asked} for name in {limits}}}"))
        modules = eval(
            await told(pool, "{name for name in sys.modules if '.' not in name and len(name) > 2}")
        )
        opened = eval(
            await told(pool, "sorted(os.listdir('/proc/self/fd'))[:-1]")
        )  # without that of the list
        links = eval(await told(pool, "[os.readlink(f'/proc/self/fd/{fd}') for fd in range(3)]"))
        return bounds, modules, opened, links, eval(await told(pool, "set(os.environ)"))

    try:
        bounds, modules, opened, links, environment = work(job)[0]
    finally:
        os.close(inherited)
        os.close(other)
    assert bounds == {
        "AS": (2**32, 2**32),
        "CORE": (0, 0),
        "FSIZE": (0, 0),
        "NOFILE": (64, 64),
        "NPROC": (0, 0),
    }
    assert {"PIL"} <= modules
    heavy = {
        "asyncio",
        "cv2",
        "fastapi",
        "grpc",
        "numpy",
        "onnxruntime",
        "pickle",
        "prometheus_client",
        "pydantic",
    }
    assert not modules & heavy
    assert opened == ["0", "1", "2"]
    assert links[0].startswith("socket:")
    assert links[1:] == ["/dev/null"] * 2
    of_python = {"LC_CTYPE", "OPENBLAS_NUM_THREADS"}  # which the process sets itself
    assert environment - of_python <= {"LD_LIBRARY_PATH"}


#: A gateway's process, which is as hard to get at, and its decoder, which tells what it was refused.
AS_A_GATEWAY = """
import asyncio, sys
from mcjepa_server import Settings
from mcjepa_server.decoding import process
from mcjepa_server.imaging.limits import PixelBudget
from mcjepa_server.decoding.pool import Decoders
from mcjepa_server.errors import ApiError
from mcjepa_server.decoding.frames import decode_frame
from mcjepa_server.decoding.sandbox import hide_memory
from prometheus_client import CollectorRegistry, Counter, ProcessCollector, generate_latest
sys.path.insert(0, sys.argv[1])
from test_decoders import PLAN, TAKEN_OVER
async def main():
    process._SERVE = TAKEN_OVER
    assert hide_memory()
    pool = Decoders(Settings(decode_processes=1), Counter("f", "f", registry=None))
    try:
        await pool.run(decode_frame, sys.stdin.buffer.read(), "f", PixelBudget(9, 9), PLAN, param="f")
    except ApiError as error:
        print(error)
    await pool.stop()
asyncio.run(main())
registry = CollectorRegistry()
ProcessCollector(registry=registry)
found = generate_latest(registry)
assert all(b"process_" + name in found for name in (b"open_fds", b"max_fds", b"resident_memory_bytes"))
"""
REFUSED = """#
import os, socket
from mcjepa_server.errors import InvalidInput
parent, folder = os.getppid(), {folder!r}
tries = {{
    "memory": lambda: open(f"/proc/{{parent}}/mem", "r+b", 0),
    "environment": lambda: open(f"/proc/{{parent}}/environ").read(),
    "read": lambda: open(folder + "/file").read(),
    "create": lambda: open(folder + "/new", "w"),
    "truncate": lambda: os.truncate(folder + "/file", 0),
    "append": lambda: open(folder + "/file", "a"),
    "remove": lambda: os.remove(folder + "/file"),
    "rename": lambda: os.rename(folder + "/file", folder + "/other"),
    "folder": lambda: os.mkdir(folder + "/more"),
    "run": lambda: os.execv("/bin/true", ["true"]),
    "connect": lambda: socket.create_connection(("127.0.0.1", {port})),
    "listen": lambda: socket.create_server(("127.0.0.1", 0)),
    "signal": lambda: os.kill(parent, 0),
}}
refused = []
for name, one in tries.items():
    try:
        one()
    except PermissionError:
        refused.append(name)
    except OSError:  # of those that were let through, one stands in another's way
        pass
raise InvalidInput(" ".join(refused))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl and Landlock are Linux's")
@pytest.mark.parametrize("version", sorted({0, landlock_version()}))
def test_a_process_that_was_taken_over_does_no_harm_outside(tmp_path, version):
    """Not even as root; without Landlock it may still write, connect and send signals."""
    (tmp_path / "file").write_text("kept")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        program = REFUSED.format(folder=str(tmp_path), port=listening.getsockname()[1])
        gateway = AS_A_GATEWAY
        if not version:
            gateway = gateway.replace(
                "process._SERVE = TAKEN_OVER",
                "process._SERVE = TAKEN_OVER.replace('worker.serve(', "
                "'from mcjepa_server.decoding import sandbox; sandbox._restrict = id; worker.serve(')",
            )
            program = program.replace('os.execv("/bin/true", ["true"])', "None")
        done = subprocess.run(
            [sys.executable, "-c", gateway, os.path.dirname(__file__)],
            input=program.encode(),
            capture_output=True,
            timeout=60,
        )
    refused = set(done.stdout.decode().split())
    expected = {"memory", "environment"}
    if version >= 1:
        expected |= {"create", "append", "remove", "rename", "folder", "run"}
        assert (tmp_path / "file").read_text() == "kept"
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
    if version >= 3:
        expected |= {"truncate"}
    if version >= 4:
        expected |= {"connect", "listen"}
    if version >= 6:
        expected |= {"signal"}
    assert refused == expected, done.stderr


SERVES_NOTHING = """
import ctypes
from mcjepa_server import Settings, cli
cli.make_server = lambda *_: type("Server", (), {"run": lambda *_: None, "is_listening": True})()
assert cli.serve(Settings(), None) == 0
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_the_memory_of_the_command_is_its_own():
    command = [sys.executable, "-c", SERVES_NOTHING]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60).stdout == "0\n"


def test_a_size_is_believed_within_the_budget_of_the_request_alone():
    """Of a decoder that says that a small file is a large one, even one that may come alone."""
    said = reply(*OK[:3], 300, 300, 3 * 300 * 300)
    program = f"#\nimport os, time\nos.write(0, {said!r})\ntime.sleep(1000)".encode()

    async def job(pool):
        for budget in (PixelBudget(300 * 300 - 1, 10**7), PixelBudget(10**5, 2 * 300 * 300 - 1).after(1)):
            with pytest.raises(InternalError):
                await frame(pool, program, budget=budget)
        pixels, _ = await frame(pool, program, budget=PixelBudget(10**5, 2 * 300 * 300).after(1))
        return len(pixels)

    assert work(job)[0] == 3 * 300 * 300


THROUGH_A_GATEWAY = """
import sys
from mcjepa_server import Settings, create_app
from mcjepa_server.engines.fake import FakeEngine
from starlette.testclient import TestClient
with TestClient(create_app(Settings(decode_processes=1), FakeEngine())) as client:
    assert client.get("/readyz").status_code == 200, client.get("/readyz").text
    data = open(sys.argv[1], "rb").read()
    assert client.post("/v1/flow", files={"frame1": data, "frame2": data}).status_code == 200
    print(client.get("/v1/info").json()["limits"]["decode_memory_bytes"])
"""


@pytest.mark.parametrize("limits", [(4_096_000_000, 4_096_000_000), (3_000_000_000, resource.RLIM_INFINITY)])
def test_an_inherited_limit_that_is_smaller_holds(encode, picture, tmp_path, limits):
    """As `ulimit -v` sets it: a process cannot raise it again."""
    (tmp_path / "frame.png").write_bytes(encode(picture(300, 500)))
    done = subprocess.run(
        [sys.executable, "-c", THROUGH_A_GATEWAY, str(tmp_path / "frame.png")],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=partial(resource.setrlimit, resource.RLIMIT_AS, limits),
    )
    assert done.stdout.strip() == str(limits[0]), done.stderr


def test_the_limits_of_memory_and_time_are_settings(encode, picture, monkeypatch):
    monkeypatch.setenv("MCJEPA_DECODE_MEMORY_BYTES", str(2**29))
    monkeypatch.setenv("MCJEPA_DECODE_TIMEOUT_S", "17")
    monkeypatch.setenv("MCJEPA_DECODE_PROCESSES", "1")
    images = {"images": ("1.png", encode(picture(300, 500)))}
    with TestClient(create_app(Settings(), FakeEngine())) as client:
        limits = client.get("/v1/info").json()["limits"]
        assert (limits["decode_memory_bytes"], limits["decode_timeout_s"]) == (2**29, 17)
        assert client.post("/v1/embeddings", files=images).status_code == 200  # the least is enough


def test_through_the_whole_gateway(pair, check_problem):
    with TestClient(create_app(Settings(decode_processes=1), FakeEngine())) as client:
        assert client.post("/v1/flow", files=pair).status_code == 200
        limits = client.get("/v1/info").json()["limits"]
        assert (limits["decode_processes"], limits["decode_timeout_s"]) == (1, 30)
        assert limits["decode_memory_bytes"] == 2**32
        reply = client.post("/v1/embeddings", files={"images": pair["frame1"]})
        assert reply.status_code == 200
        pair["frame2"] = ("2.png", b"junk")
        body = check_problem(client.post("/v1/flow", files=pair), 400, "undecodable_image")
        assert body["error"]["param"] == "frame2"
        pair["frame2"] = ("2.png", f"#\nimport os\nos.write(0, {PICKLE!r} * 9)".encode())
        body = check_problem(client.post("/v1/flow", files=pair), 500, "internal_error")
        assert body["error"]["param"] == "frame2"
