"""API keys: a file of names and hashes, read again whenever it changes.

One key a line, ``NAME SHA256``, the hash in hexadecimal; empty lines and comments (``#``) are skipped.
The keys are 256 random bits, so that one plain hash is enough: there is no dictionary to try.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

PREFIX = "mcj_"  # so that scanners of leaked secrets can tell what they found
_CHECK_INTERVAL_S = 1.0
_LINE = re.compile(r"([A-Za-z0-9._-]{1,64})\s+([0-9a-f]{64})")


class KeyFileError(Exception):
    """The file of keys cannot be used; the message says which line, and why."""


class KeyRing:
    """The keys of one file. A change on disk counts within a second, without a restart.

    If the changed file is broken or gone, the keys read before stay valid, and the log says so: a slip of the
    editor must not lock everybody out. To revoke all keys, stop the server.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._checked = clock()
        self._stamp = _stamp(path)
        self._digests = read_keys(path)

    def identify(self, key: str) -> str | None:
        """The name of a key, or None. Takes the same time for every key that is not there."""
        self._reload()
        presented = hash_key(key).encode()
        found = None
        for name, digest in self._digests.items():  # all of them: leaving early would tell where it was
            if hmac.compare_digest(presented, digest.encode()):
                found = name
        return found

    def _reload(self) -> None:
        now = self._clock()
        if now - self._checked < _CHECK_INTERVAL_S:
            return
        self._checked = now
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._digests = read_keys(self._path)
        except KeyFileError as error:
            logger.error("%s; the keys read before stay valid", error)
        else:
            logger.info("%d API keys read from %s", len(self._digests), self._path)


def read_keys(path: Path) -> dict[str, str]:
    """Hashes by name. Raises KeyFileError; an empty file is an error, too."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"the file of API keys {path} cannot be read: {error}") from error
    digests: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:  # without the line itself: somebody may have put a key there in clear
            raise KeyFileError(f"{path}, line {number}: expected NAME and a SHA-256 in hexadecimal")
        if found[1] in digests:
            raise KeyFileError(f"{path}, line {number}: the name {found[1]} is there twice")
        digests[found[1]] = found[2]
    if not digests:
        raise KeyFileError(f"the file of API keys {path} holds no key")
    return digests


def add_key(path: Path, name: str) -> str:
    """Makes a new key, puts its hash into the file, and returns the key, which is stored nowhere."""
    if not _LINE.fullmatch(f"{name} {'0' * 64}"):
        raise KeyFileError(f"name {name!r}: use 1 to 64 letters, digits, dots, dashes and underscores")
    if path.exists() and path.stat().st_size and name in read_keys(path):
        raise KeyFileError(f"{path} has a key named {name} already")
    key = PREFIX + secrets.token_urlsafe(32)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text and not text.endswith("\n"):
        text += "\n"
    _write(path, f"{text}{name} {hash_key(key)}\n")
    return key


def hash_key(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and readable by the owner only."""
    handle, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
