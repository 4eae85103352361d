"""Proxies of the environment: none where none is needed, and what is wrong with them in our own words."""

import os
import sys

import mcjepa_client
import pytest
from mcjepa_client import AsyncClient, Client

pytestmark = pytest.mark.parametrize("cls", [Client, AsyncClient])


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or "SSL_CERT" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setitem(sys.modules, "socksio", None)


def make(cls, url):
    client = cls(url)
    if cls is Client:
        client.close()


@pytest.mark.parametrize("url", ["http://server.test", "https://server.test:8000", "http://127.0.0.1:8000"])
@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_a_socks_proxy_without_its_library_says_what_to_install(cls, url, name, scheme, monkeypatch):
    monkeypatch.setenv(name, f"{scheme}://user:password@proxy.test:1080")
    with pytest.raises(mcjepa_client.MissingExtraError, match=f"{name}={scheme}://proxy.test:1080") as caught:
        make(cls, url)
    assert "pip install socksio" in str(caught.value)
    assert "password" not in str(caught.value)


@pytest.mark.parametrize(
    "proxy", ["socks://proxy.test:1080", "ftp://proxy.test", "http://[::1", "http://proxy.test:port"]
)
def test_a_proxy_that_is_none_is_named(cls, proxy, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(mcjepa_client.InputError, match="HTTP_PROXY"):
        make(cls, "http://server.test")


@pytest.mark.parametrize(
    ("url", "exempt"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1"),
        ("http://127.0.0.1:8000", "localhost, 127.0.0.0/8"),
        ("http://127.0.0.1:8000", "*"),
        ("http://[::1]:8000", "::1"),
        ("http://localhost:8000", "localhost"),
        ("https://a.server.test", ".server.test"),
    ],
)
@pytest.mark.parametrize("proxy", ["socks5://proxy.test:1080", "socks://proxy.test:1080"])
def test_a_server_that_needs_no_proxy_is_not_kept_from_by_one(cls, url, exempt, proxy, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("NO_PROXY", exempt)
    make(cls, url)
    with pytest.raises(mcjepa_client.McjepaError):
        make(cls, [url, "http://elsewhere.test"]) if exempt != "*" else make(cls, "ftp://elsewhere.test")


def test_a_proxy_for_another_scheme_does_no_harm(cls, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.test:1080")
    make(cls, "http://server.test")
    with pytest.raises(mcjepa_client.MissingExtraError):
        make(cls, "https://server.test")


def test_a_proxy_that_works_is_used(cls, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:3128")
    make(cls, "http://server.test")


def test_certificates_that_are_missing_are_named(cls, monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(mcjepa_client.InputError, match="SSL_CERT_FILE"):
        make(cls, "https://server.test")
