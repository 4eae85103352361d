"""Many videos, one after the other: what they are, and what became of each."""

import codecs
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mcjepa_client._errors import ConnectionFailedError, InputError, McjepaError, ServiceUnavailableError
from mcjepa_client._video.images import natural_order
from mcjepa_client._video.journal import FolderInUseError
from mcjepa_client._video.names import printable
from mcjepa_client._video.process import ProcessResult

VIDEO_SUFFIXES = frozenset({
    ".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv",
    ".ts", ".webm", ".wmv", ".y4m",
})  # fmt: skip
Status = Literal["done", "skipped", "failed", "not started"]


@dataclass(frozen=True)
class Entry:
    """A video, and the name of its folder under OUT: its relative path, suffix included."""

    name: str
    source: Path


@dataclass(frozen=True)
class Outcome:
    """What became of one entry. `frames` counts what was read of a damaged one too."""

    name: str
    status: Status
    frames: int = 0
    seconds: float = 0.0
    message: str = ""
    is_unreachable: bool = False  # it failed because no server could be reached


def find_entries(path: Path, out: Path) -> list[Entry]:
    """The videos of a folder and its subfolders but `out`, or those a text file names, one on a line.

    Lines that are empty or begin with # do not count; relative paths are relative to the text file.
    Raises InputError when there are none, or two would have the same folder.
    """
    if path.is_dir():
        entries = list(_in_folder(path, out))
    elif path.is_file():
        entries = list(_in_list(path))
    else:
        raise InputError(f"batch: there is no {printable(path)}")
    if not entries:
        raise InputError(f"batch: there are no videos in {printable(path)}")
    _check_names(entries, out)
    return entries


def _in_folder(folder: Path, out: Path) -> Iterator[Entry]:
    """All but what is in `out`, where that is a folder inside: results have videos too."""
    inside = out.resolve() != folder.resolve() and out.resolve().is_relative_to(folder.resolve())
    for path in sorted(folder.rglob("*"), key=natural_order):
        relative = path.relative_to(folder)
        left_out = inside and (folder.resolve() / relative).is_relative_to(out.resolve())
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() and not left_out and not hidden:
            yield Entry(relative.as_posix(), path)


def _in_list(file: Path) -> Iterator[Entry]:
    data = file.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell writes it
        text = data.decode("utf-16", "replace")
    else:
        text = os.fsdecode(data.removeprefix(codecs.BOM_UTF8))
    if "\0" in text:
        raise InputError(f"batch: {printable(file)} is not a list of paths, one on a line; is it a video?")
    for line in (line.strip() for line in re.split(r"\r\n|\n|\r", text)):
        if line and not line.startswith("#"):
            path = Path(line)
            inside = not path.is_absolute() and ".." not in path.parts
            yield Entry(path.as_posix() if inside else path.name, file.parent / path)


def _check_names(entries: Iterable[Entry], out: Path) -> None:
    seen: dict[str, Path] = {}
    for entry in entries:
        name, source = printable(entry.name), printable(entry.source)
        if entry.name in seen:
            raise InputError(
                f"batch: {printable(seen[entry.name])} and {source} would both be written to {name}"
            )
        if (out / entry.name).resolve() == entry.source.resolve():
            raise InputError(f"batch: the results of {source} would be written to the video itself: {out}")
        seen[entry.name] = entry.source


def run_batch(entries: list[Entry], process: Callable[[Entry], ProcessResult]) -> Iterator[Outcome]:
    """Process all entries, whatever becomes of each. Only servers that are gone end it early."""
    for place, entry in enumerate(entries):
        began = time.monotonic()
        try:
            result = process(entry)
        except (ConnectionFailedError, ServiceUnavailableError) as error:
            yield replace(_failed(entry, began, error), is_unreachable=True)
            yield from (Outcome(printable(other.name), "not started") for other in entries[place + 1 :])
            return
        except FolderInUseError as error:
            yield replace(_failed(entry, began, error), status="skipped")
        except Exception as error:  # whatever it is, the others go on
            yield _failed(entry, began, error)
        else:
            status: Status = "skipped" if result.was_done else "done"
            yield Outcome(printable(entry.name), status, result.frames, time.monotonic() - began)


def _failed(entry: Entry, began: float, error: Exception) -> Outcome:
    frames = getattr(error, "frames", 0)
    known = isinstance(error, McjepaError | OSError)
    message = str(error) if known else f"{type(error).__name__}: {error}"
    return Outcome(printable(entry.name), "failed", frames, time.monotonic() - began, message)


def table(outcomes: list[Outcome]) -> str:
    """A summary to read: a line for each video, then how many of each kind."""
    width = max(len(outcome.name) for outcome in outcomes)
    lines = [f"{'video':<{width}}  {'result':<11}  {'frames':>7}  {'seconds':>8}"]
    for outcome in outcomes:
        counts = f"{outcome.frames:>7}  {outcome.seconds:>8.1f}"
        line = f"{outcome.name:<{width}}  {outcome.status:<11}  {counts}  {outcome.message}"
        lines.append(line.rstrip())
    kinds = ("done", "skipped", "failed", "not started")
    counted = {kind: sum(outcome.status == kind for outcome in outcomes) for kind in kinds}
    lines.append(", ".join(f"{count} {kind}" for kind, count in counted.items() if count))
    return "\n".join(lines)
