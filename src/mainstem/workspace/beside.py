"""Files that a workspace document refers to: code of transformations and libraries, beside it.

A document never names a place outside its own folder, so what it means can be kept whole: the last good copy
holds these files too. A loader asks a `Beside`; which files it asked for, found or not, is what is watched.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

MAX_FILE_BYTES: Final = 1024 * 1024

Stamp = tuple[int, int, int, int]
"""What changes when a file does."""


class Beside(Protocol):
    """Answers for paths that `inside` has accepted. Never raises."""

    def read(self, path: str) -> bytes | None:
        """Return the file's content (at most one byte more than `MAX_FILE_BYTES`), None if it can't be read."""
        ...

    def names(self, folder: str) -> tuple[str, ...]:
        """Return the sorted names of what is in a folder; none if there is no such folder."""
        ...

    def absent(self, path: str) -> str:
        """Say why `read` gave nothing: `there is no file code.js beside the document`."""
        ...


def inside(path: str) -> str | None:
    """Return the path in plain form, None unless it is a relative one that stays in the folder."""
    if not path or "\\" in path or "\0" in path:
        return None
    plain = PurePosixPath(path)
    if plain.is_absolute() or ".." in plain.parts or not plain.parts:
        return None
    return str(plain)


class NothingBeside:
    """For documents that come alone."""

    def read(self, path: str) -> bytes | None:
        return None

    def names(self, folder: str) -> tuple[str, ...]:
        return ()

    def absent(self, path: str) -> str:
        return f"no file stands beside this document, so {path} can't be read"


NOTHING_BESIDE: Final = NothingBeside()


class FolderBeside:
    """The folder of a document on disk. Remembers what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, bytes | None] = {}
        self._listed: dict[str, tuple[str, ...]] = {}
        self.stamps: dict[str, Stamp | None] = {}
        """Of each path asked for, taken before it was read: what came later differs from it."""

    def read(self, path: str) -> bytes | None:
        if path not in self._read:
            self.stamps.setdefault(path, stamp(self._folder / path))
            try:
                with (self._folder / path).open("rb") as file:
                    self._read[path] = file.read(MAX_FILE_BYTES + 1)
            except OSError:
                self._read[path] = None
        return self._read[path]

    def names(self, folder: str) -> tuple[str, ...]:
        if folder not in self._listed:
            self.stamps.setdefault(folder, stamp(self._folder / folder))
            try:
                self._listed[folder] = tuple(sorted(item.name for item in (self._folder / folder).iterdir()))
            except OSError:
                self._listed[folder] = ()
        return self._listed[folder]

    def absent(self, path: str) -> str:
        return f"there is no file {path} beside the document that can be read"

    def files(self) -> dict[str, bytes]:
        """Return every file that was read, by path."""
        return {path: data for path, data in self._read.items() if data is not None}

    def content(self) -> list[tuple[str, bytes | tuple[str, ...] | None]]:
        """Return all that was asked for with what it was: equal for equal content."""
        return [*sorted(self._read.items()), *sorted(self._listed.items())]

    def now(self) -> dict[str, Stamp | None]:
        """Return the stamps as they are now."""
        return {path: stamp(self._folder / path) for path in self.stamps}

    def again(self) -> "FolderBeside":
        """Return a new look at all that this one was asked for."""
        fresh = FolderBeside(self._folder)
        for path in self._read:
            fresh.read(path)
        for folder in self._listed:
            fresh.names(folder)
        return fresh


class FilesBeside:
    """Files at hand: of a last good copy, or fetched from a control plane. Remembers what it was asked for."""

    def __init__(self, files: Mapping[str, bytes], reasons: Mapping[str, str] | None = None) -> None:
        """`reasons` says of some paths why they are not among `files`."""
        self._files = files
        self._reasons = reasons or {}
        self.asked: dict[str, bool] = {}

    @property
    def missed(self) -> tuple[str, ...]:
        """The paths that were asked for and not there."""
        return tuple(path for path, found in self.asked.items() if not found)

    def read(self, path: str) -> bytes | None:
        found = self._files.get(path)
        self.asked[path] = found is not None
        return found

    def names(self, folder: str) -> tuple[str, ...]:
        prefix = folder.rstrip("/") + "/"
        inner = {path[len(prefix) :].partition("/")[0] for path in self._files if path.startswith(prefix)}
        return tuple(sorted(inner))

    def absent(self, path: str) -> str:
        return self._reasons.get(path) or f"{path} can't be had"


def stamp(path: Path) -> Stamp | None:
    """Return what changes when the file or folder does; None while it can't be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
