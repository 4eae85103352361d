"""`manifest.jsonl`: what a folder of results was made from and with, and the checksums of all that is in it.

Lines of JSON:
    {"type": "video", "manifest": 1, "source", "settings", "clip_frames", "size", "damage", "model"}
    {"type": "frame", "frame", "timestamp", "flow_p99_px", "files": {PATH: SHA-256}}     one a selected frame
    {"type": "end", "status": "complete" or "partial", "error", "frames", "flows", "flow_scale_px", "files"}
"size" is [width, height] of the frames that were computed; "damage" is what was passed over before the first
of them, or null. Bytes of a name that are not UTF-8 are written as \\xNN. No time of day and no machine is
named, so the same video computed twice gives the same bytes.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mcjepa_client._errors import InputError
from mcjepa_client._files import open_atomic
from mcjepa_client._video.container import ContainerSource
from mcjepa_client._video.frames import Source
from mcjepa_client._video.images import AnimationSource, ImageSource
from mcjepa_client._video.names import printable

MANIFEST_FILE = "manifest.jsonl"
VERSION = 1
Record = dict[str, Any]


def describe_source(source: Source) -> Record:
    """Name and SHA-256 of what the frames come from.

    Of image files: of their names and the SHA-256 of each. Raises InputError for what cannot be read twice.
    """
    if isinstance(source, ImageSource):
        digest = hashlib.sha256()
        for file in source.files:
            digest.update(os.fsencode(file.name) + f"\0{file_sha256(file)}\n".encode())
        return {"name": Path(source.name).name, "images": len(source.files), "sha256": digest.hexdigest()}
    if not isinstance(source, ContainerSource | AnimationSource) or not Path(source.address).is_file():
        raise InputError(f"source: {source.name} cannot be read twice; record it to a file first")
    path = Path(source.address)
    return {"name": printable(path.name), "bytes": path.stat().st_size, "sha256": file_sha256(path)}


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, records: Iterable[Record]) -> None:
    with open_atomic(folder / MANIFEST_FILE) as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


def read_ends(folder: Path) -> tuple[Record, Record] | None:
    """The first and the last record of a folder's manifest, None where there is none."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as file:
            first = json.loads(file.readline())
            last = json.loads(deque(file, maxlen=1).pop())
    except (ValueError, IndexError) as error:
        raise InputError(f"out: {path} is not a manifest: {error}") from error
    return first, last


def check_same(folder: Path, found: Record, wanted: Record) -> None:
    """Raises InputError, with what differs, unless both describe the same computation."""
    names = ("manifest", "source", "settings")
    different = [
        f"{key} {_show(a, key)} is now {_show(b, key)}"
        for name in names
        for a, b in [(_as_dict(found.get(name), name), _as_dict(wanted.get(name), name))]
        for key in sorted({*a, *b})
        if a.get(key) != b.get(key)
    ]
    if different:
        raise InputError(f"out: {folder} was made differently: {'; '.join(different)}")


def _as_dict(value: object, name: str) -> Record:
    return value if isinstance(value, dict) else {name: value}


def _show(record: Record, key: str) -> str:
    return json.dumps(record.get(key))[:80]
