"""API keys: a file of names and hashes, read again whenever it changes.

One key a line, ``NAME SHA256``, the hash in hexadecimal, and perhaps ``expires=YYYY-MM-DD`` (its last day,
UTC), ``scope=metrics`` (it reads /metrics and nothing else) or ``revoked``; empty lines and comments (``#``)
are skipped.
The keys are 256 random bits, so that one plain hash is enough: there is no dictionary to try.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import tempfile
import time
from asyncio import Task, create_task, wait
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

from anyio.to_thread import run_sync

logger = logging.getLogger(__name__)

PREFIX = "mcj_"  # so that scanners of leaked secrets can tell what they found
Scope = Literal["all", "metrics"]
_CHECK_INTERVAL_S = 1.0
_LOCK_S = 10.0
_READ_S = 1.0  # that requests wait for a file that hangs, as on a network, before the old keys count
_MAX_BYTES = 2**20  # of the file, some 10,000 keys
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class KeyFileError(Exception):
    """The file of keys cannot be used; the message says which line, and why."""


@dataclass(frozen=True)
class Key:
    """One line of the file."""

    name: str
    digest: str  # SHA-256 in hexadecimal
    expires: date | None = None  # its last day, in UTC
    scope: Scope = "all"
    revoked: bool = False

    @classmethod
    def parse(cls, line: str) -> Key:
        """Read a line. Raises ValueError, which says nothing of it: there may be a key in clear."""
        name, digest, *options = line.split() if len(line.split()) > 1 else ("", "")
        if not _NAME.fullmatch(name) or not _DIGEST.fullmatch(digest):
            raise ValueError("expected NAME and a SHA-256 in hexadecimal")
        key = cls(name, digest)
        for option in options:
            if option.startswith("expires="):
                key = replace(key, expires=parse_date(option.removeprefix("expires=")))
            elif option == "scope=metrics":
                key = replace(key, scope="metrics")
            elif option == "revoked":
                key = replace(key, revoked=True)
            else:
                raise ValueError("after the hash, expected expires=YYYY-MM-DD, scope=metrics or revoked")
        return key

    @property
    def line(self) -> str:
        options = [f"expires={self.expires}"] if self.expires else []
        options += ["scope=metrics"] if self.scope == "metrics" else []
        options += ["revoked"] if self.revoked else []
        return " ".join([self.name, self.digest, *options])

    def state(self, now: date) -> Literal["active", "expired", "revoked"]:
        """Return whether the key counts on a day."""
        if self.revoked:
            return "revoked"
        return "expired" if self.expires is not None and self.expires < now else "active"


class KeyRing:
    """The keys of one file. A change on disk counts within a second of :meth:`refresh`, without a restart.

    If the changed file is broken, gone or cannot be read in time, the keys read before stay valid, and the
    log says so: a slip of the editor must not lock everybody out. A key that was revoked has a
    line that says so.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._checked = clock()
        self._stamp = _stamp(path)
        self._keys = read_keys(path)
        self._reading: Task[None] | None = None
        self._began = 0.0

    async def refresh(self) -> None:
        """Read a changed file again, in a thread, once a second; wait for it a second at most."""
        now = time.monotonic()
        if self._reading is None or self._reading.done():
            if self._clock() - self._checked < _CHECK_INTERVAL_S:
                return
            self._checked = self._clock()
            self._began = now
            self._reading = create_task(self._read_again())
        left = self._began + _READ_S - now
        if left > 0 and not (await wait({self._reading}, timeout=left))[0]:
            logger.error(
                "the file of API keys %s is not read within %g s; the keys read before stay valid",
                self._path,
                _READ_S,
            )

    def identify(self, key: str) -> Key | None:
        """Return the line of a key, whatever its state, or None. Every line is compared."""
        presented = hash_key(key).encode()
        found = None
        for known in self._keys.values():  # all of them: leaving early would tell where it was
            if hmac.compare_digest(presented, known.digest.encode()):
                found = known
        return found

    async def _read_again(self) -> None:
        try:
            await run_sync(self._reload, abandon_on_cancel=True)
        except RuntimeError as error:
            logger.error("no thread to read %s in: %s; the keys read before stay valid", self._path, error)

    def _reload(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = read_keys(self._path)
        except KeyFileError as error:
            logger.error("%s; the keys read before stay valid", error)
        else:
            logger.info("%d API keys read from %s", len(self._keys), self._path)


def read_keys(path: Path) -> dict[str, Key]:
    """Keys by name. Raises KeyFileError; an empty file is an error, too."""
    keys = _parse(path, _read(path).splitlines())
    if not keys:
        raise KeyFileError(f"the file of API keys {path} holds no key")
    return keys


def add_key(path: Path, name: str, expires: date | None = None, scope: Scope = "all") -> str:
    """Make a new key, put its hash into the file, and return the key, which is stored nowhere.

    It takes the place of one of that name that expired or was revoked. Raises KeyFileError.
    """
    if not _NAME.fullmatch(name):
        raise KeyFileError(f"name {name!r}: use 1 to 64 letters, digits, dots, dashes and underscores")
    if expires is not None and expires < today():
        raise KeyFileError(f"expires {expires}: that day is over; today is {today()} (UTC)")
    secret = PREFIX + secrets.token_urlsafe(32)
    key = Key(name, hash_key(secret), expires, scope)
    with _changed(path, create=True) as lines:
        before = _parse(path, lines).get(name)
        if before is not None and before.state(today()) == "active":
            raise KeyFileError(f"{path} has a key named {name} already")
        lines[:] = [*(line for line in lines if line.split()[:1] != [name]), key.line]
    return secret


def revoke_key(path: Path, name: str) -> Key:
    """Mark a key as revoked. Its line stays: a file without any would count as emptied by mistake.

    Raises KeyFileError if there is no such key.
    """
    with _changed(path, create=False) as lines:
        key = _parse(path, lines).get(name)
        if key is None:
            raise KeyFileError(
                f"{path} has no key named {name}; `mcjepa-server keys list` shows those it has"
            )
        revoked = replace(key, revoked=True)
        lines[:] = [revoked.line if line.split()[:1] == [name] else line for line in lines]
    return revoked


def hash_key(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def today() -> date:
    """The day in UTC, by which keys expire."""
    return datetime.now(UTC).date()


def parse_date(text: str) -> date:
    """Read YYYY-MM-DD. Raises ValueError."""
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        raise ValueError("expected a date as YYYY-MM-DD")
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError("expected a date as YYYY-MM-DD that exists") from None


def _parse(path: Path, lines: Iterable[str]) -> dict[str, Key]:
    keys: dict[str, Key] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            key = Key.parse(line)
        except ValueError as error:
            raise KeyFileError(f"{path}, line {number}: {error}") from None
        if key.name in keys:
            raise KeyFileError(f"{path}, line {number}: the name {key.name} is there twice")
        keys[key.name] = key
    return keys


@contextmanager
def _changed(path: Path, create: bool) -> Iterator[list[str]]:
    """The lines of the file, to be changed by one process at a time, and then written whole or not at all."""
    path = path.resolve()  # a link stays one
    with _locked(path):
        lines = _read(path).splitlines() if path.exists() or not create else []
        yield lines
        _write(path, "".join(f"{line}\n" for line in lines))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Its folder is locked: the file itself is replaced."""
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise KeyFileError(f"the file of API keys {path} cannot be written: {error}") from error
    try:
        _lock(folder, path)
        yield
    finally:
        os.close(folder)


def _lock(folder: int, path: Path) -> None:
    deadline = time.monotonic() + _LOCK_S
    while True:
        try:
            return fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise KeyFileError(
                    f"{path} is being changed by another process for over {_LOCK_S:g} s"
                ) from None
            time.sleep(0.02)
        except OSError as error:  # a file system without locks
            logger.warning("%s cannot be locked (%s): let nobody else change it now", path, error)
            return None


def _read(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # which a pipe would wait for
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise KeyFileError(f"the file of API keys {path} is no regular file")
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise KeyFileError(f"the file of API keys {path} is over the limit, {_MAX_BYTES} bytes")
        return data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"the file of API keys {path} cannot be read: {error}") from error


def _write(path: Path, text: str) -> None:
    """On the disk before it takes the file's place; a new one is readable by its owner only."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                if (before := _status(path)) is not None:
                    os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
                    with suppress(PermissionError):
                        os.fchown(file.fileno(), before.st_uid, before.st_gid)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
            _sync_folder(path.parent)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise KeyFileError(f"the file of API keys {path} cannot be written: {error}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _stamp(path: Path) -> tuple[int, int, int] | None:
    status = _status(path)
    return None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)
