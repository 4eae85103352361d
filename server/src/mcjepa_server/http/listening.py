"""The address that the server listens at: taken before anything is loaded, so that an error comes at once."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

#: Of one address of several that a name has: this machine does not have it.
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class AddressError(Exception):
    """Nothing can listen there; the message says why."""


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches the address. Of names, localhost alone is taken to be one."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to each address of the host, which listen when the server has started.

    Raises AddressError.
    """
    sockets: list[socket.socket] = []
    problem: OSError | None = None
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                sockets.append(_bind_one(family, kind, protocol, address))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                problem = error
        if problem is not None and not sockets:
            raise problem
    except (OSError, UnicodeError) as error:
        for one in sockets:
            one.close()
        words = error.strerror if isinstance(error, OSError) else "it is no name of a host"
        raise AddressError(
            f"cannot listen at {host}:{port}: {words}; choose another with --host (MCJEPA_HOST) and "
            "--port (MCJEPA_PORT)"
        ) from None
    return sockets


def check_listening(sockets: Sequence[socket.socket]) -> None:
    """Raise OSError unless each of them listens: uvloop closes one that cannot, and does not say so."""
    if not all(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for one in sockets):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _bind_one(family: int, kind: int, protocol: int, address: Any) -> socket.socket:
    one = socket.socket(family, kind, protocol)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # else :: would take the port of 0.0.0.0, too
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
    except BaseException:
        one.close()
        raise
    return one
