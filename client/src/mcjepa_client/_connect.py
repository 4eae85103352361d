"""HTTP clients with the proxies of the environment, and what is wrong with those."""

import ipaddress
import os
import urllib.request
from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

import httpx2

from mcjepa_client._errors import InputError, McjepaError, MissingExtraError, file_error

H = TypeVar("H")


def connect(make: Callable[[], H], make_direct: Callable[[], H], urls: Sequence[str]) -> H:
    """Return `make()`, a client that heeds the proxies of the environment.

    Where it cannot be made and no server is reached through a proxy, return `make_direct()`, which heeds
    none.

    Raises:
        MissingExtraError: a proxy speaks SOCKS, and socksio is not installed.
        InputError: the address of a proxy is none, or a file of certificates cannot be read.
    """
    try:
        return make()
    except OSError as error:
        words = f"the certificates of SSL_CERT_FILE or SSL_CERT_DIR cannot be read: {error}"
        raise file_error(words, error, is_input=True) from error
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        for url in urls:
            setting = _proxy_setting(url)
            if setting is not None:
                raise _proxy_error(url, *setting, error) from error
        return make_direct()


def _proxy_error(url: str, name: str, address: str, error: Exception) -> McjepaError:
    shown = f"{name}={_without_password(address)}, the proxy for {url}"
    if isinstance(error, ImportError):
        return MissingExtraError(f"{shown}, speaks SOCKS, which needs socksio: pip install socksio")
    return InputError(
        f"{shown}, is no address of a proxy ({error}); expected http://HOST:PORT or socks5://HOST:PORT, "
        f"or {urlsplit(url).hostname} in NO_PROXY"
    )


def _proxy_setting(url: str) -> tuple[str, str] | None:
    """Return the name and the value of what sends requests for `url` through a proxy, or None."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    if _is_exempt(parts.hostname or "", parts.netloc, proxies.get("no", "")):
        return None
    for scheme in (parts.scheme, "all"):
        if proxies.get(scheme):
            name = f"{scheme}_proxy"
            return (name.upper() if name.upper() in os.environ else name), proxies[scheme]
    return None


def _is_exempt(host: str, netloc: str, exempt: str) -> bool:
    """Return whether NO_PROXY names the host, or a network that it is in."""
    if urllib.request.proxy_bypass(netloc):
        return True
    for entry in exempt.split(","):
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip().strip("[]"), strict=False):
                return True
        except ValueError:  # a name, of which proxy_bypass has looked at
            continue
    return False


def _without_password(address: str) -> str:
    scheme, separator, rest = address.rpartition("://")
    return scheme + separator + rest.rpartition("@")[2]
