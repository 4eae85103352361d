"""The folder of results of one video, and the one beside it in which they come to be."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mcjepa_client._errors import InputError
from mcjepa_client._files import PathLike
from mcjepa_client._video.manifest import MANIFEST_FILE, Record, check_same, read_ends

JOURNAL_FILE = "journal.jsonl"
VECTOR_FILE = "embeddings.f32"


class Folder:
    """OUT, which is either complete or not there, and OUT.partial, which holds unfinished work."""

    def __init__(self, out: PathLike) -> None:
        self.out = Path(out)
        self.work = self.out.with_name(self.out.name + ".partial")

    def finished(self, header: Record) -> Record | None:
        """The last record of the manifest when OUT holds the results that `header` describes.

        Raises InputError when it holds anything else.
        """
        ends = read_ends(self.out)
        if ends is None:
            if not _is_free(self.out):
                raise InputError(f"out: {self.out} exists and is not a folder of results")
            return None
        check_same(self.out, ends[0], header)
        return ends[1]

    def composed(self, header: Record) -> bool:
        """Whether all is done in OUT.partial but to move it."""
        ends = read_ends(self.work)
        if ends is not None:
            check_same(self.work, ends[0], header)
        return ends is not None

    def discard(self) -> None:
        """Remove what earlier runs left. Raises InputError for a folder that holds something else."""
        for folder in (self.out, self.work):
            ours = (folder / MANIFEST_FILE).is_file() or (folder / JOURNAL_FILE).is_file()
            if not ours and not _is_free(folder):
                raise InputError(f"out: {folder} is not a folder of results, so it is not overwritten")
        for folder in (self.out, self.work):
            shutil.rmtree(folder, ignore_errors=True)

    def remove_fragments(self) -> None:
        """Files that a crash left half written: they have names of their own."""
        for path in files_of(self.work):
            if path.suffix == ".partial" or (path.name.startswith(".") and path.suffix == ".tmp"):
                path.unlink()

    def publish(self) -> None:
        """OUT.partial becomes OUT."""
        for name in (JOURNAL_FILE, VECTOR_FILE):
            (self.work / name).unlink(missing_ok=True)
        if self.out.is_dir():
            self.out.rmdir()  # empty: see `finished`
        os.rename(self.work, self.out)


def files_of(folder: Path, without: tuple[str, ...] = ()) -> Iterator[Path]:
    """All files of a folder and its subfolders, but for subfolders whose relative path begins with `without`.

    `Path.rglob` would hold every path that it has given, and a store has several for each frame.
    """
    for parent, folders, files in os.walk(folder):
        place = Path(parent).relative_to(folder)
        folders[:] = [name for name in folders if not (place / name / "_").as_posix().startswith(without)]
        yield from (Path(parent, name) for name in files)


def _is_free(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
