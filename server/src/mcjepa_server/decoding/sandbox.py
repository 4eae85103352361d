"""What Linux lets a process give up for good: privileges, and others' say over its own memory.

Each is given up where the system and its kernel know how, and quietly kept where they do not.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any

_SET_DUMPABLE, _SET_NO_NEW_PRIVILEGES = 4, 38  # of prctl(2)
_CAPABILITIES_VERSION = 0x20080522
#: Capabilities that are kept: a server of root may read its libraries with them alone.
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1 << 1, 1 << 2
_CREATE_RULESET, _RESTRICT_SELF = 444, 446  # system calls, of the same number on all machines
#: What Landlock takes away from files, by the version that knows it: to run or write them and to change
#: folders; to move into another folder; to truncate; to control devices. Reading stays.
_FILES = {1: 0b1_1111_1111_0011, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_TCP = {4: 0b11}  # to bind and to connect
_OUTSIDE = {6: 0b11}  # abstract Unix sockets of others, and signals to them


def hide_memory() -> bool:
    """Let no other process of this user read or change this one's memory; it writes no core, either.

    Returns False where that is not to be had. A process with CAP_SYS_PTRACE, as of root, still can.
    """
    libc = _libc()
    return libc is not None and libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0) == 0


def give_up_privileges() -> None:
    """Give up for good what can be: new privileges by programs, capabilities but for reading, and, by
    Landlock, writing files, running programs, TCP, signals and the memory of processes outside."""
    libc = _libc()
    if libc is None:
        return
    libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    _drop_capabilities(libc)
    _restrict(libc)


def landlock_version() -> int:
    """Return the version of the kernel's Landlock, 0 where there is none."""
    libc = _libc()
    return 0 if libc is None else _version(libc)


def _libc() -> Any:
    if os.uname().sysname != "Linux":
        return None
    try:
        return ctypes.CDLL(None)
    except OSError:
        return None


def _drop_capabilities(libc: Any) -> None:
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITIES_VERSION, 0))
    found = ctypes.create_string_buffer(24)  # effective, permitted and inheritable, of 32 bits, twice
    if libc.capget(header, found) == 0:
        kept = struct.unpack_from("=I", found, 4)[0] & (_DAC_OVERRIDE | _DAC_READ_SEARCH)
        libc.capset(header, struct.pack("=6I", kept, kept, 0, 0, 0, 0))


def _version(libc: Any) -> int:
    version: int = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    return max(0, version)


def _restrict(libc: Any) -> None:
    version = _version(libc)
    if not version:
        return
    denied = [
        sum(bits for since, bits in rights.items() if since <= version) for rights in (_FILES, _TCP, _OUTSIDE)
    ]
    rules = struct.pack("=3Q", *denied)
    descriptor = libc.syscall(_CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), ctypes.c_uint32(0))
    if descriptor >= 0:
        libc.syscall(_RESTRICT_SELF, descriptor, ctypes.c_uint32(0))
        os.close(descriptor)
