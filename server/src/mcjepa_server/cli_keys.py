"""The command ``mcjepa-server keys``: who may ask."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import date
from pathlib import Path
from typing import Any, get_args

from mcjepa_server.http.keys import KeyFileError, Scope, add_key, parse_date, read_keys, revoke_key, today


def add_commands(commands: Any) -> None:
    """Add ``keys add``, ``keys list`` and ``keys revoke`` to the subcommands of a parser."""
    keys = commands.add_parser("keys", help="add, list and revoke API keys")
    actions = keys.add_subparsers(dest="keys", required=True, metavar="COMMAND")
    for name, text in (
        ("add", "make a key, put its hash into the file, and print it, this once"),
        ("list", "show names, states and what the keys are for"),
        ("revoke", "end a key; a server that runs heeds it within a second"),
    ):
        action = actions.add_parser(name, help=text, description=text.capitalize() + ".")
        action.add_argument(
            "--api-keys-file",
            type=Path,
            metavar="FILE",
            default=argparse.SUPPRESS,
            help="names and hashes of the API keys (default MCJEPA_API_KEYS_FILE)",
        )
        if name != "list":
            action.add_argument("name", metavar="NAME", help="letters, digits, dots, dashes and underscores")
        if name == "add":
            action.add_argument(
                "--expires", type=_date, metavar="YYYY-MM-DD", help="its last day, in UTC (default: none)"
            )
            action.add_argument(
                "--scope",
                choices=get_args(Scope),
                default="all",
                help="metrics: for /metrics alone (default %(default)s)",
            )


def run(arguments: argparse.Namespace, path: Path) -> int:
    """Run one of the commands on a file. Raises KeyFileError."""
    if arguments.keys == "add":
        return add(path, arguments.name, arguments.expires, arguments.scope)
    if arguments.keys == "revoke":
        revoke_key(path, arguments.name)
        sys.stderr.write(f"revoked {arguments.name} in {path}\n")
        return 0
    lines = [
        f"{key.name}\t{key.state(today())}\texpires {key.expires or 'never'}\tscope {key.scope}\n"
        for key in read_keys(path).values()
    ]
    try:
        _print("".join(lines))
    except BrokenPipeError:  # whoever reads has seen enough, as `head`
        pass
    except OSError as error:
        raise KeyFileError(f"the keys cannot be shown: {error}") from error
    return 0


def add(path: Path, name: str, expires: date | None = None, scope: Scope = "all") -> int:
    """Make a key and print it."""
    key = add_key(path, name, expires, scope)
    sys.stderr.write(f"added {name} to {path}; the key is shown this once:\n")
    try:
        _print(key + "\n")
    except OSError as error:
        raise KeyFileError(
            f"the key {name} was added but cannot be shown ({error}); revoke it and add it again"
        ) from error
    return 0


def _print(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:  # Python would try again at its end, and complain
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise


def _date(text: str) -> date:
    try:
        return parse_date(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
