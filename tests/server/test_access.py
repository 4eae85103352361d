"""API keys, rate limit, what browsers are told, and what the log may hold."""

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
import threading
from datetime import date, timedelta

import httpx2
import pytest
from mcjepa_server import Settings, create_app
from mcjepa_server.cli import main
from mcjepa_server.engines.fake import FakeEngine
from mcjepa_server.errors import RateLimited
from mcjepa_server.http import auth, keys
from mcjepa_server.http.auth import Access, RateLimit
from mcjepa_server.http.keys import Key, KeyFileError, KeyRing, add_key, hash_key, read_keys, revoke_key
from mcjepa_server.observability import logs


@pytest.fixture
def key_file(tmp_path):
    return tmp_path / "keys"


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_without_a_file_everybody_may_ask(client, pair):
    assert client.post("/v1/flow", files=pair).status_code == 200


def test_with_a_file_only_its_keys_may(serve, pair, key_file, check_problem):
    alice, bob = add_key(key_file, "alice"), add_key(key_file, "bob")
    client = serve(api_keys_file=key_file)
    for key in (alice, bob):
        assert client.post("/v1/flow", files=pair, headers=bearer(key)).status_code == 200
    missing = client.post("/v1/flow", files=pair)
    assert "Authorization: Bearer KEY" in check_problem(missing, 401, "unauthorized")["detail"]
    assert missing.headers["www-authenticate"] == "Bearer"
    wrong = client.post("/v1/flow", files=pair, headers=bearer(alice + "x"))
    check_problem(wrong, 401, "unauthorized")
    assert "invalid_token" in wrong.headers["www-authenticate"]
    assert alice not in wrong.text


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer ", "Basic abc", "Bearer \xe9\xff", "Bearer " + "a" * 10000]
)
def test_odd_credentials(serve, key_file, check_problem, value):
    add_key(key_file, "alice")
    client = serve(api_keys_file=key_file)
    headers = {"Authorization": value.encode("latin-1")}
    check_problem(client.get("/v1/info", headers=headers), 401, "unauthorized")


def test_the_scheme_is_case_insensitive(serve, key_file):
    key = add_key(key_file, "alice")
    headers = {"Authorization": f"bearer {key}"}
    assert serve(api_keys_file=key_file).get("/v1/info", headers=headers).status_code == 200


def test_every_path_but_the_open_ones_needs_a_key(serve, key_file):
    add_key(key_file, "alice")
    client = serve(api_keys_file=key_file)
    paths = {*client.app.openapi()["paths"], "/", "/docs", "/openapi.json", "/redoc", "/v1/none"}
    reachable = {path for path in paths if client.get(path).status_code != 401}
    assert {"/v1/flow", "/v1/info", "/metrics"} <= paths
    assert reachable == {"/", "/healthz", "/readyz", "/docs", "/openapi.json"}


def test_a_new_key_counts_without_a_restart_and_a_removed_one_no_longer(key_file):
    clock = Clock()
    alice = add_key(key_file, "alice")
    ring = KeyRing(key_file, clock)
    bob = add_key(key_file, "bob")
    assert ring.identify(bob) is None  # the file is looked at once a second
    clock.now += 2
    asyncio.run(ring.refresh())
    assert (ring.identify(alice).name, ring.identify(bob).name) == ("alice", "bob")
    lines = key_file.read_text().splitlines(keepends=True)
    key_file.write_text(lines[1])
    clock.now += 2
    asyncio.run(ring.refresh())
    assert ring.identify(alice) is None
    assert ring.identify(bob).name == "bob"


DAMAGE = {
    "emptied": lambda path: path.write_text(""),
    "no hash": lambda path: path.write_text("alice plainkey\n"),
    "gone": lambda path: path.unlink(),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "too long": lambda path: path.write_text(path.read_text() + "#" * 2**20),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_broken_change_leaves_the_keys_that_were(key_file, caplog, damage):
    clock = Clock()
    alice = add_key(key_file, "alice")
    ring = KeyRing(key_file, clock)
    damage(key_file)
    clock.now += 2
    asyncio.run(ring.refresh())
    assert ring.identify(alice).name == "alice"
    assert "stay valid" in caplog.text
    assert "plainkey" not in caplog.text


@pytest.mark.parametrize("damage", ["a pipe", "a folder", "a device", "too long"])
def test_a_file_that_cannot_be_one_of_keys_is_refused_at_the_start(key_file, damage):
    add_key(key_file, "alice")
    DAMAGE[damage](key_file)
    with pytest.raises(KeyFileError, match=str(key_file)):
        KeyRing(key_file)


def test_a_file_that_hangs_holds_up_nobody_for_long(key_file, caplog, monkeypatch):
    """As on a network that is gone: one thread waits for it, and the keys read before stay valid."""
    clock, hangs, reads = Clock(), threading.Event(), []
    alice = add_key(key_file, "alice")
    ring = KeyRing(key_file, clock)
    monkeypatch.setattr(keys, "_READ_S", 0.05)
    monkeypatch.setattr(keys, "_stamp", lambda path: (reads.append(path), hangs.wait(20), None)[2])

    async def ask():
        for _ in range(3):
            clock.now += 2
            await ring.refresh()
            assert ring.identify(alice).name == "alice"
        hangs.set()
        await ring._reading

    asyncio.run(ask())
    assert len(reads) == 1
    assert "stay valid" in caplog.text


def test_keys_are_hashed_at_rest_and_private(key_file):
    key = add_key(key_file, "alice")
    assert key not in key_file.read_text()
    assert key_file.read_text() == f"alice {hash_key(key)}\n"
    assert key_file.stat().st_mode & 0o077 == 0
    assert re.fullmatch(r"mcj_[A-Za-z0-9_-]{43}", key)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no key"),
        ("# nothing\n", "holds no key"),
        ("alice\n", "line 1: expected NAME and a SHA-256"),
        (f"a {'0' * 64}\na {'1' * 64}\n", "line 2: the name a is there twice"),
        ("\xff", "line 1"),
        (f"a {'0' * 64} expires=2026-02-30\n", "line 1: expected a date"),
        (f"a {'0' * 64} expires=soon\n", "line 1: expected a date"),
        (f"a {'0' * 64} scope=all-of-it\n", "line 1: after the hash, expected"),
    ],
)
def test_broken_files(key_file, text, message):
    key_file.write_text(text)
    with pytest.raises(KeyFileError, match=message):
        keys.read_keys(key_file)


def test_all_hashes_are_compared(key_file, monkeypatch):
    """Leaving at the first that fits would tell by time which one it was."""
    ring_keys = [add_key(key_file, name) for name in "abc"]
    ring = KeyRing(key_file)
    compared = []
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda a, b: compared.append(b) or a == b)
    assert ring.identify(ring_keys[0]).name == "a"
    assert len(compared) == 3


def test_lines_come_back_as_they_were_written():
    for key in (
        Key("a", "0" * 64),
        Key("b.c-d_e", "f" * 64, date(2026, 12, 31), "metrics", True),
        Key("c", "1" * 64, date(2026, 1, 1)),
    ):
        assert Key.parse(key.line) == key


ADD_ONE = """
import sys
from pathlib import Path
from mcjepa_server.http.keys import add_key
for number in range(5):
    add_key(Path(sys.argv[1]), f"{sys.argv[2]}-{number}")
"""


def test_keys_that_are_added_at_once_are_all_kept(key_file):
    command = [sys.executable, "-c", ADD_ONE, str(key_file)]
    adders = [subprocess.Popen([*command, name]) for name in ("a", "b", "c", "d")]
    assert [adder.wait(timeout=60) for adder in adders] == [0] * 4
    assert read_keys(key_file).keys() == {f"{name}-{number}" for name in "abcd" for number in range(5)}
    assert [path.name for path in key_file.parent.iterdir()] == [key_file.name]


def test_a_change_is_on_disk_before_it_takes_the_place_of_the_file(key_file, monkeypatch):
    did = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, f=real, **k: (did.append(n), f(*a, **k))[1])
    add_key(key_file, "alice")
    assert did == ["fsync", "replace", "fsync"]  # the file, and then its folder


def test_comments_mode_and_links_are_kept(key_file, tmp_path):
    real = tmp_path / "real"
    real.write_text(f"# those of the lab\nold {'0' * 64}")
    real.chmod(0o644)
    key_file.symlink_to(real)
    add_key(key_file, "alice")
    revoke_key(key_file, "old")
    lines = real.read_text().splitlines()
    assert lines[:2] == ["# those of the lab", f"old {'0' * 64} revoked"]
    assert lines[2].startswith("alice ")
    assert real.stat().st_mode & 0o777 == 0o644
    assert key_file.is_symlink()


def test_a_file_of_comments_takes_its_first_key(key_file):
    key_file.write_text("# nobody yet\n")
    add_key(key_file, "alice")
    assert read_keys(key_file).keys() == {"alice"}


@pytest.mark.parametrize("last", [True, False])
def test_a_revoked_key_is_refused_without_a_restart_even_if_it_was_the_last(
    serve, key_file, check_problem, last
):
    alice = add_key(key_file, "alice")
    if not last:
        add_key(key_file, "bob")
    client = serve(api_keys_file=key_file)
    assert client.get("/v1/info", headers=bearer(alice)).status_code == 200
    revoke_key(key_file, "alice")
    keyring_of(client)._checked = -10.0
    reply = client.get("/v1/info", headers=bearer(alice))
    check_problem(reply, 401, "unauthorized")
    assert "invalid_token" in reply.headers["www-authenticate"]
    again = add_key(key_file, "alice")
    keyring_of(client)._checked = -10.0
    assert client.get("/v1/info", headers=bearer(again)).status_code == 200
    check_problem(client.get("/v1/info", headers=bearer(alice)), 401, "unauthorized")


def keyring_of(client):
    layer = client.app.middleware_stack
    while not isinstance(layer, Access):
        layer = layer.app
    return layer._keys


def test_a_key_counts_through_its_last_day(serve, key_file, check_problem, monkeypatch):
    alice = add_key(key_file, "alice", expires=keys.today())
    client = serve(api_keys_file=key_file)
    assert client.get("/v1/info", headers=bearer(alice)).status_code == 200
    tomorrow = keys.today() + timedelta(days=1)
    monkeypatch.setattr(auth, "today", lambda: tomorrow)
    body = check_problem(client.get("/v1/info", headers=bearer(alice)), 401, "unauthorized")
    assert str(keys.today()) in body["detail"]
    with pytest.raises(KeyFileError, match="expires"):
        add_key(key_file, "bob", expires=keys.today() - timedelta(days=1))


def test_a_key_for_metrics_reads_them_and_nothing_else(serve, key_file, check_problem, pair):
    scraper, alice = add_key(key_file, "prometheus", scope="metrics"), add_key(key_file, "alice")
    client = serve(api_keys_file=key_file, rate_limit_per_minute=3)
    for _ in range(5):  # a rate is for those who ask for work
        assert client.get("/metrics", headers=bearer(scraper)).status_code == 200
    assert client.get("/metrics", headers=bearer(alice)).status_code == 200
    for reply in (
        client.get("/v1/info", headers=bearer(scraper)),
        client.post("/v1/flow", files=pair, headers=bearer(scraper)),
        client.get("/v1/metrics", headers=bearer(scraper)),
    ):
        check_problem(reply, 403, "forbidden")
    assert "403" in client.app.openapi()["paths"]["/v1/flow"]["post"]["responses"]


def test_the_rate_of_a_key(serve, key_file, check_problem):
    alice, bob = add_key(key_file, "alice"), add_key(key_file, "bob")
    client = serve(api_keys_file=key_file, rate_limit_per_minute=2)
    codes = [client.get("/v1/info", headers=bearer(alice)).status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    refused = client.get("/v1/info", headers=bearer(alice))
    assert "2 requests a minute" in check_problem(refused, 429, "rate_limited")["detail"]
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert client.get("/v1/info", headers=bearer(bob)).status_code == 200


def test_tokens_come_back_evenly():
    clock = Clock()
    rate = RateLimit(60, clock)
    for _ in range(60):
        rate.take("alice")
    with pytest.raises(RateLimited):
        rate.take("alice")
    clock.now += 1
    rate.take("alice")
    with pytest.raises(RateLimited):
        rate.take("alice")
    clock.now += 10**6
    for _ in range(60):
        rate.take("alice")
    with pytest.raises(RateLimited):
        rate.take("alice")


def test_uploads_of_a_key_count_before_they_are_complete(key_file, pair):
    headers = bearer(add_key(key_file, "alice"))
    app = create_app(Settings(api_keys_file=key_file, max_concurrency_per_key=1), FakeEngine())

    async def scenario():
        transport = httpx2.ASGITransport(app)
        begun, go_on = asyncio.Event(), asyncio.Event()
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client,
        ):
            whole = client.build_request("POST", "/v1/flow", files=pair)
            data = whole.read()

            async def slowly():
                yield data[:100]
                begun.set()
                await go_on.wait()
                yield data[100:]

            kind = {"content-type": whole.headers["content-type"]}
            upload = asyncio.create_task(client.post("/v1/flow", content=slowly(), headers=kind))
            await begun.wait()
            refused = await client.post("/v1/flow", files=pair)
            go_on.set()
            return refused, await upload, await client.post("/v1/flow", files=pair)

    refused, uploaded, next_one = asyncio.run(scenario())
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
    assert (uploaded.status_code, next_one.status_code) == (200, 200)


def test_production_needs_keys(capsys, key_file):
    with pytest.raises(SystemExit) as ended:
        main(["--production"])
    assert ended.value.code == 2
    assert "MCJEPA_PRODUCTION needs MCJEPA_API_KEYS_FILE" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["--production", "--api-keys-file", str(key_file), "--engine", "triton"])
    assert ended.value.code == 2
    assert "cannot be read" in capsys.readouterr().err


def test_the_command_makes_a_key(capsys, key_file):
    assert main(["--api-keys-file", str(key_file), "--add-api-key", "alice"]) == 0
    said = capsys.readouterr()
    assert KeyRing(key_file).identify(said.out.strip()).name == "alice"
    for name in ("alice", "a b", ""):
        with pytest.raises(SystemExit):
            main(["--api-keys-file", str(key_file), "--add-api-key", name])


def test_the_command_lists_and_revokes_keys(capsys, key_file, monkeypatch):
    monkeypatch.setenv("MCJEPA_API_KEYS_FILE", str(key_file))
    monkeypatch.setenv("MCJEPA_HOST", "0.0.0.0")  # as in a container
    assert main(["keys", "add", "alice", "--expires", "2999-12-31"]) == 0
    alice = capsys.readouterr().out.strip()
    assert main(["keys", "add", "prometheus", "--scope", "metrics"]) == 0
    assert main(["--add-api-key", "bob"]) == 0
    assert main(["keys", "revoke", "bob"]) == 0
    capsys.readouterr()
    assert main(["keys", "list", "--api-keys-file", str(key_file)]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["alice", "active", "expires 2999-12-31", "scope all"],
        ["prometheus", "active", "expires never", "scope metrics"],
        ["bob", "revoked", "expires never", "scope all"],
    ]
    assert alice not in key_file.read_text()


@pytest.mark.parametrize(("action", "code"), [(["list"], 0), (["add", "bob"], 2)])
def test_nobody_reads_what_the_command_prints(key_file, action, code):
    """As with `keys list | head -1`; a key that nobody saw is an error."""
    add_key(key_file, "alice")
    end, pipe = os.pipe()
    os.close(end)
    command = [sys.executable, "-m", "mcjepa_server", "keys", *action, "--api-keys-file", str(key_file)]
    with os.fdopen(pipe, "w") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["keys", "revoke", "nobody"], "nobody"),
        (["keys", "add", "alice"], "alice"),
        (["keys", "add", "bob", "--expires", "2020-01-01"], "2020-01-01"),
        (["keys", "add", "bob", "--expires", "tomorrow"], "tomorrow"),
        (["keys", "add", "a b"], "a b"),
        (["keys"], "COMMAND"),
    ],
)
def test_what_cannot_be_done_to_keys_ends_with_2_and_changes_nothing(
    capsys, key_file, monkeypatch, arguments, message
):
    monkeypatch.setenv("MCJEPA_API_KEYS_FILE", str(key_file))
    add_key(key_file, "alice")
    before = key_file.read_text()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert key_file.read_text() == before


def test_keys_need_a_file(capsys):
    with pytest.raises(SystemExit):
        main(["keys", "list"])
    assert "MCJEPA_API_KEYS_FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "::",
        "",
        "0",
        "192.0.2.7",
        "fe80::1%lo",
        "::ffff:192.0.2.7",
        "my-host",
        "localhost.evil.org",
    ],
)
def test_an_address_of_others_needs_keys_or_a_word(capsys, monkeypatch, host):
    monkeypatch.setattr("mcjepa_server.cli.serve", lambda *_: 0)
    monkeypatch.setattr("mcjepa_server.cli.bind", lambda *_: [])
    command = ["--host", host, "--engine", "triton"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    for word in (
        "--api-keys-file",
        "MCJEPA_API_KEYS_FILE",
        "--allow-anonymous",
        "MCJEPA_ALLOW_ANONYMOUS",
        host,
    ):
        assert word in line
    assert main([*command, "--allow-anonymous"]) == 0
    monkeypatch.setenv("MCJEPA_ALLOW_ANONYMOUS", "1")
    assert main(command) == 0
    with pytest.raises(SystemExit):  # it does not lift what was asked for
        main([*command, "--production"])


def test_an_address_of_others_with_keys_is_served(monkeypatch, key_file):
    monkeypatch.setattr("mcjepa_server.cli.serve", lambda *_: 0)
    monkeypatch.setattr("mcjepa_server.cli.bind", lambda *_: [])
    add_key(key_file, "alice")
    assert main(["--host", "0.0.0.0", "--engine", "triton", "--api-keys-file", str(key_file)]) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost", "LocalHost."])
def test_the_own_machine_needs_no_keys(monkeypatch, host):
    monkeypatch.setattr("mcjepa_server.cli.serve", lambda *_: 0)
    monkeypatch.setattr("mcjepa_server.cli.bind", lambda *_: [])
    assert main(["--host", host, "--engine", "triton"]) == 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MCJEPA_MAX_QUEUE", "many", "MCJEPA_MAX_QUEUE: Input should be a valid integer"),
        ("MCJEPA_PORT", "99999", "MCJEPA_PORT: Input should be less than or equal to 65535, got '99999'"),
        ("MCJEPA_TRITON_URLS", "http://x", "MCJEPA_TRITON_URLS: 'http://x' is not HOST:PORT"),
        ("MCJEPA_CORS_ORIGINS", "example.org", "MCJEPA_CORS_ORIGINS: 'example.org' is not an origin"),
        ("MCJEPA_RATE_LIMIT_PER_MINUTE", "5", "set MCJEPA_API_KEYS_FILE, too"),
    ],
)
def test_config_errors_name_the_variable(capsys, monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_config_errors_name_the_option(capsys):
    with pytest.raises(SystemExit):
        main(["--triton-url", "nowhere"])
    assert "--triton-urls: 'nowhere' is not HOST:PORT" in capsys.readouterr().err


def test_a_slip_in_a_variable_is_noticed():
    from mcjepa_server.config import unknown_variables

    found = unknown_variables(
        {"MCJEPA_MAX_QEUE": "1", "MCJEPA_PORT": "1", "MCJEPA_API_KEY": "x", "HOME": "/"}
    )
    assert found == ["MCJEPA_MAX_QEUE is set, but there is no such setting; did you mean MCJEPA_MAX_QUEUE?"]


@pytest.mark.parametrize("path", ["/healthz", "/v1/info", "/nowhere", "/metrics"])
def test_replies_tell_browsers_to_be_careful(client, path):
    headers = client.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; frame-ancestors 'none'")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in headers


def test_the_documentation_has_a_policy_of_its_own(client):
    reply = client.get("/docs")
    script = re.search(r"<script>(.*?)</script>", reply.text, re.DOTALL)[1]
    policy = reply.headers["content-security-policy"]
    assert "openapi.json" in script
    assert re.search(r"script-src 'self' 'sha256-[A-Za-z0-9+/=]{44}';", policy)
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]


def test_cors_is_off_until_an_origin_is_named(serve, key_file):
    asking = {"Origin": "https://a.org", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in serve().options("/v1/flow", headers=asking).headers
    add_key(key_file, "alice")
    client = serve(cors_origins="https://a.org, https://b.org", api_keys_file=key_file)
    allowed = client.options("/v1/flow", headers=asking)  # browsers ask this without a key
    assert allowed.headers["access-control-allow-origin"] == "https://a.org"
    other = client.options("/v1/flow", headers={**asking, "Origin": "https://c.org"})
    assert "access-control-allow-origin" not in other.headers


@pytest.fixture
def logged(capsys):
    """Configures the log as the command does; gives a function that returns its lines."""
    before = logging.getLogger().handlers[:]

    def start(form):
        logs.configure(form)
        return lambda: capsys.readouterr().err.splitlines()

    yield start
    logging.basicConfig(handlers=before, force=True, level=logging.WARNING)


def test_the_log_is_json_with_the_request_id_and_without_secrets(serve, pair, key_file, logged):
    lines = logged("json")
    key = add_key(key_file, "alice")
    client = serve(api_keys_file=key_file)
    headers = {**bearer(key), "X-Request-ID": "find-me"}
    pair["frame2"] = ("secret-name.png", b"secret image content")
    assert client.post("/v1/flow?max_side=100", files=pair, headers=headers).status_code == 400
    client.get("/v1/info", headers=bearer("secret-wrong-key"))
    text = lines()
    entries = [json.loads(line) for line in text]
    (entry,) = [entry for entry in entries if entry["request_id"] == "find-me"]
    assert entry["status"] == 400
    assert entry["code"] == "undecodable_image"
    assert entry["api_key"] == "alice"
    assert entry["route"] == "/v1/flow"
    assert {"timestamp", "level", "logger", "milliseconds"} <= entry.keys()
    assert not any("secret" in line or key in line for line in text)


def test_a_path_cannot_forge_a_line(client, logged):
    lines = logged("text")
    client.get("/a%0d%0aERROR: forged")
    assert len([line for line in lines() if "httpx2" not in line]) == 1
