"""Loads of tables that failed while the others went on: kept on disk, in order, until they are in.

writer -> **arrears** -> loader. One folder a table; in it one folder a load, with the rows as they were gathered (not
yet fitted: the table may look different by then) and a manifest. A load is in the arrears before the position moves on,
and leaves them when its rows are in the table; loading is idempotent by the load's id, so a crash in between is
harmless.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote
from uuid import uuid4

import msgspec
import xxhash

from mainstem.bulk.folders import make_folder, sync_folder
from mainstem.warehouse.loader import Load
from mainstem.warehouse.schema import Columns, ColumnType
from mainstem.warehouse.staging import TableRows

_MANIFEST: Final = "manifest.json"
_TROUBLE: Final = "trouble.json"
_MAX_FOLDER: Final = 200
"""Bytes of a folder's name; file systems take 255."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a load of a table is, and why it is not in."""

    load: Load
    table: str
    rows: int
    columns: Columns
    seen: Mapping[str, frozenset[ColumnType]] = {}
    chunks: tuple[tuple[str, Columns], ...]
    error: str
    advice: str
    since_ms: int


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """Why a table could not be loaded when it was tried last."""

    error: str
    advice: str
    at_ms: int


class Owed(msgspec.Struct, frozen=True):
    """A load of a table that is not in yet."""

    folder: Path
    manifest: Manifest

    def waits(self) -> bool:
        """Tell whether it still does: another process may have brought it in."""
        return (self.folder / _MANIFEST).is_file()

    def trouble(self) -> Trouble:
        """Return why it is not in, as far as is known by now."""
        try:
            return msgspec.json.decode((self.folder / _TROUBLE).read_bytes(), type=Trouble)
        except (FileNotFoundError, msgspec.DecodeError):
            # It was not tried again yet, or a power cut has taken what nobody synced.
            first = self.manifest
            return Trouble(error=first.error, advice=first.advice, at_ms=first.since_ms)

    def rows(self) -> TableRows:
        """Return its rows, as they were gathered."""
        return TableRows.kept(
            self.manifest.table,
            [(self.folder / name, kinds) for name, kinds in self.manifest.chunks],
            self.manifest.columns,
            self.manifest.seen,
            self.manifest.rows,
        )


class Arrears:
    """The arrears of one namespace. Blocking."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tables(self) -> Sequence[str]:
        """Return the tables that owe something."""
        if not self._folder.is_dir():
            return []
        first = (next(_owed_in(path), None) for path in self._folder.iterdir() if path.is_dir())
        return sorted(owed.manifest.table for owed in first if owed is not None)

    def owed(self, table: str) -> Sequence[Owed]:
        """Return what a table owes, oldest first."""
        folder = self._folder / _folder_name(table)
        return list(_owed_in(folder)) if folder.is_dir() else []

    def add(self, load: Load, rows: TableRows, error: str, advice: str, now_ms: int, *, within: Path) -> None:
        """Keep a load of a table, durably; once, however often it is called.

        Args:
            within: a folder of this load's own, in which it is made: whole, or not there.

        Raises:
            OSError: the disk does not take it.
        """
        folder = self._folder / _folder_name(rows.table) / f"{load.sequence:012d}-{quote(load.id, safe='')}"
        if (folder / _MANIFEST).is_file():
            return
        made = within / f"owed-{uuid4().hex}"
        made.mkdir()
        chunks = []
        for path, kinds in rows.kept_chunks():
            _copy(path, made / path.name)
            chunks.append((path.name, kinds))
        manifest = Manifest(
            load=load,
            table=rows.table,
            rows=rows.rows,
            columns=rows.columns,
            seen=rows.seen,
            chunks=tuple(chunks),
            error=error,
            advice=advice,
            since_ms=now_ms,
        )
        with (made / _MANIFEST).open("wb") as file:
            file.write(msgspec.json.encode(manifest))
            file.flush()
            os.fsync(file.fileno())
        sync_folder(made)
        make_folder(folder.parent)
        # What is there is what is left of one that was paid.
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
        sync_folder(folder.parent)

    def tried(self, owed: Owed, trouble: Trouble) -> None:
        """Note why a load is still not in. For people's eyes only: it is not synced.

        Raises:
            OSError: the disk does not take it, or the load was paid meanwhile.
        """
        made = owed.folder / f"{_TROUBLE}.{os.getpid()}"
        made.write_bytes(msgspec.json.encode(trouble))
        made.replace(owed.folder / _TROUBLE)

    def sweep(self) -> None:
        """Remove what is left of loads that were paid by somebody who was killed meanwhile."""
        for path in self._folder.glob("*/*"):
            if not (path / _MANIFEST).is_file():
                shutil.rmtree(path, ignore_errors=True)

    def paid(self, owed: Owed) -> None:
        """Remove a load that is in its table."""
        (owed.folder / _MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(owed.folder, ignore_errors=True)


def _owed_in(folder: Path) -> Iterator[Owed]:
    for path in sorted(folder.iterdir()):
        try:
            content = (path / _MANIFEST).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue  # paid, or half removed
        yield Owed(path, msgspec.json.decode(content, type=Manifest))


def _folder_name(table: str) -> str:
    """Return a table's folder; a long name is cut and told apart, the manifests have it whole."""
    name = quote(table, safe="")
    if len(name) <= _MAX_FOLDER:
        return name
    return f"{name[: _MAX_FOLDER - 17]}-{xxhash.xxh3_64_hexdigest(table.encode())}"


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reading, target.open("wb") as writing:
        shutil.copyfileobj(reading, writing)
        writing.flush()
        os.fsync(writing.fileno())
