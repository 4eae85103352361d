"""A server that asks for API keys, and the clients that have one."""

import mcjepa_client
import pytest
from mcjepa_server.http.keys import add_key


@pytest.fixture
def key_file(tmp_path):
    return tmp_path / "keys"


def test_a_client_with_the_key_is_served_and_one_without_is_not(connect, key_file, monkeypatch):
    monkeypatch.setenv("MCJEPA_API_KEY", add_key(key_file, "alice"))
    assert connect(api_keys_file=key_file).info()["ready"]
    monkeypatch.setenv("MCJEPA_API_KEY", "wrong")
    client = connect(api_keys_file=key_file)
    assert client.is_ready()
    with pytest.raises(mcjepa_client.AuthenticationError, match="not known") as refused:
        client.info()
    assert refused.value.code == "unauthorized"


def test_a_key_over_its_rate_is_told_when_to_come_back(connect, key_file, monkeypatch):
    monkeypatch.setenv("MCJEPA_API_KEY", add_key(key_file, "alice"))
    client = connect(api_keys_file=key_file, rate_limit_per_minute=1)
    client.info()
    with pytest.raises(mcjepa_client.RateLimitError) as refused:
        client.info()
    assert 1 <= refused.value.retry_after <= 60
