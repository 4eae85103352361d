"""Several servers in turn."""

import httpx2
import pytest
from mcjepa_client import Client, InputError, ServiceUnavailableError
from mcjepa_client._servers import Servers

A, B = "http://a.test", "http://b.test"


class Fleet:
    """Servers by host; those in `dead` answer 503."""

    def __init__(self):
        self.dead = set()
        self.asked = []

    def __call__(self, request):
        self.asked.append(request.url.host)
        return httpx2.Response(503) if request.url.host in self.dead else httpx2.Response(200, json={})


@pytest.fixture
def fleet():
    return Fleet()


@pytest.fixture
def client(fleet):
    with httpx2.Client(transport=httpx2.MockTransport(fleet)) as http:
        yield Client([A, B], http_client=http)


def test_servers_are_asked_in_turn(client, fleet):
    for _ in range(4):
        client.info()
    assert fleet.asked == ["a.test", "b.test", "a.test", "b.test"]


def test_another_server_is_asked_at_once(client, fleet, naps):
    fleet.dead = {"a.test"}
    client.info()
    assert fleet.asked == ["a.test", "b.test"]
    assert naps == [0.0]


def test_a_server_that_failed_rests(client, fleet, naps):
    fleet.dead = {"a.test"}
    for _ in range(4):
        client.info()
    assert fleet.asked == ["a.test", "b.test", "b.test", "b.test", "b.test"]


def test_when_all_fail_the_error_is_raised(client, fleet, naps):
    fleet.dead = {"a.test", "b.test"}
    with pytest.raises(ServiceUnavailableError):
        client.info()
    assert len(fleet.asked) == 3


def test_the_server_with_the_least_to_do_is_asked():
    servers = Servers([A, B])
    assert [servers.pick(), servers.pick()] == [A, B]
    servers.done(B, answered=True)
    assert servers.pick() == B


@pytest.mark.parametrize("given", [f"{A},{B}", f" {A} , {B}/ ", [A, B], [A, B, A]])
def test_addresses(given):
    assert Client(given).base_urls == (A, B)
    assert Client(given).base_url == A


def test_addresses_from_the_environment(monkeypatch):
    monkeypatch.setenv("MCJEPA_SERVER", f"{A},{B}")
    assert Client().base_urls == (A, B)


@pytest.mark.parametrize("given", [",", ["ftp://x"], f"{A},nonsense"])
def test_wrong_addresses_are_refused(given):
    with pytest.raises(InputError, match="base_url"):
        Client(given)
