"""API keys, rate limit, what browsers are told, and what the log may hold."""

import json
import logging
import re

import pytest
from mcjepa_server import keys, logs
from mcjepa_server.cli import main
from mcjepa_server.errors import RateLimited
from mcjepa_server.keys import KeyFileError, KeyRing, add_key, hash_key
from mcjepa_server.ratelimit import RateLimit


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
    assert (ring.identify(alice), ring.identify(bob)) == ("alice", "bob")
    lines = key_file.read_text().splitlines(keepends=True)
    key_file.write_text(lines[1])
    clock.now += 2
    assert (ring.identify(alice), ring.identify(bob)) == (None, "bob")


@pytest.mark.parametrize("damage", ["", "alice plainkey\n", None])
def test_a_broken_change_leaves_the_keys_that_were(key_file, caplog, damage):
    clock = Clock()
    alice = add_key(key_file, "alice")
    ring = KeyRing(key_file, clock)
    if damage is None:
        key_file.unlink()
    else:
        key_file.write_text(damage)
    clock.now += 2
    assert ring.identify(alice) == "alice"
    assert "stay valid" in caplog.text
    assert "plainkey" not in caplog.text


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
    assert ring.identify(ring_keys[0]) == "a"
    assert len(compared) == 3


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
    assert KeyRing(key_file).identify(said.out.strip()) == "alice"
    for name in ("alice", "a b", ""):
        with pytest.raises(SystemExit):
            main(["--api-keys-file", str(key_file), "--add-api-key", name])


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
    assert "--triton-url: 'nowhere' is not HOST:PORT" in capsys.readouterr().err


def test_a_slip_in_a_variable_is_noticed():
    from mcjepa_server.startup import unknown_variables

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
