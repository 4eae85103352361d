"""The folder of results of one video, and the one in which they come to be."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mcjepa_client._errors import InputError
from mcjepa_client._files import PathLike
from mcjepa_client._video.journal import check_unused
from mcjepa_client._video.manifest import MANIFEST_FILE, Record, check_same, read_ends

JOURNAL_FILE = "journal.jsonl"
VECTOR_FILE = "embeddings.f32"
PARTIAL = ".partial"
_MAX_NAME = 255  # bytes of a name, on the file systems in use


class Folder:
    """OUT, which has a manifest when it is complete, and the folder that holds unfinished work.

    That is OUT.partial, which becomes OUT in one step. Where OUT is there already (an empty folder, a mount
    point, the current folder), or its name leaves no room for more, it is OUT/.partial, and what is in it is
    moved to OUT, the manifest last. Raises InputError for a path that cannot be one of a folder.
    """

    def __init__(self, out: PathLike) -> None:
        self.out = Path(out)
        try:
            self._real = Path(os.path.realpath(out))
        except ValueError as error:
            raise InputError(f"out: {os.fspath(out)!r} is no path: {error}") from error
        for path in (self._real, *self._real.parents):
            if path.is_symlink():  # in a real path only if it leads nowhere
                raise InputError(f"out: {path} is a symbolic link that leads to itself")
        name = self._real.name + PARTIAL
        self._in_place = self._real.is_dir() or len(os.fsencode(name)) > _MAX_NAME
        self.work = self._real / PARTIAL if self._in_place else self._real.with_name(name)

    def finished(self, header: Record) -> Record | None:
        """The last record of the manifest when OUT holds the results that `header` describes.

        Raises InputError when it holds anything else.
        """
        ends = read_ends(self._real)
        if ends is None:
            if not self._is_free(self._real):
                raise InputError(f"out: {self.out} exists and is not a folder of results")
            return None
        check_same(self.out, ends[0], header)
        return ends[1]

    def composed(self, header: Record) -> bool:
        """Whether all is done in the folder of unfinished work but to move it."""
        ends = read_ends(self.work)
        if ends is not None:
            check_same(self.work, ends[0], header)
        return ends is not None

    def discard(self) -> None:
        """Remove what earlier runs left.

        Raises InputError for a folder that holds something else, or in which another process is at work.
        """
        for folder in (self._real, self.work):
            ours = (folder / MANIFEST_FILE).is_file() or (folder / JOURNAL_FILE).is_file()
            if not ours and not self._is_free(folder):
                raise InputError(f"out: {folder} is not a folder of results, so it is not overwritten")
            check_unused(folder / JOURNAL_FILE)
        remove_contents(self._real)
        shutil.rmtree(self.work, ignore_errors=True)

    def remove_fragments(self) -> None:
        """Files that a crash left half written: they have names of their own."""
        for path in files_of(self.work):
            if path.suffix == ".partial" or (path.name.startswith(".") and path.suffix == ".tmp"):
                path.unlink()

    def publish(self) -> None:
        """The unfinished work becomes OUT. Two processes may be at it.

        The journal goes last: it is locked.
        """
        (self.work / VECTOR_FILE).unlink(missing_ok=True)
        try:
            if self._in_place:
                names = set(os.listdir(self.work)) - {JOURNAL_FILE}
                for name in sorted(names, key=lambda name: (name == MANIFEST_FILE, name)):
                    os.rename(self.work / name, self._real / name)
            else:
                os.rename(self.work, self._real)
        except FileNotFoundError:
            if read_ends(self._real) is None:
                raise
        self.tidy()

    def tidy(self) -> None:
        """Remove what is left of the work where all is done."""
        (self._real / JOURNAL_FILE).unlink(missing_ok=True)
        if self._in_place:
            (self.work / JOURNAL_FILE).unlink(missing_ok=True)
            with suppress(OSError):  # another process may just have begun there
                self.work.rmdir()

    def abandon(self) -> None:
        """Remove the unfinished work, which another process has done in the meantime."""
        shutil.rmtree(self.work, ignore_errors=True)

    def _is_free(self, folder: Path) -> bool:
        """Whether nothing is there, or only unfinished work, perhaps half moved."""
        if not folder.exists():
            return True
        moving = folder == self._real and (folder / PARTIAL / MANIFEST_FILE).is_file()
        return folder.is_dir() and (moving or set(os.listdir(folder)) <= {PARTIAL})


def remove_contents(folder: Path) -> None:
    """Empty a folder, which may be a mount point or the current one."""
    for path in folder.iterdir() if folder.is_dir() else []:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def files_of(folder: Path, without: tuple[str, ...] = ()) -> Iterator[Path]:
    """All files of a folder and its subfolders, but for subfolders whose relative path begins with `without`.

    `Path.rglob` would hold every path that it has given, and a store has several for each frame.
    """
    for parent, folders, files in os.walk(folder):
        place = Path(parent).relative_to(folder)
        folders[:] = [name for name in folders if not (place / name / "_").as_posix().startswith(without)]
        yield from (Path(parent, name) for name in files)
