"""Loads of tables that failed while the others went on: kept on disk, in order, until they are in.

writer -> **arrears** -> loader. One folder a table; in it one folder a load, with the rows as they were gathered (not
yet fitted: the table may look different by then) and a manifest. A load is in the arrears before the position moves on,
and leaves them when its rows are in the table; loading is idempotent by the load's id, so a crash in between is
harmless.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

import msgspec

from mainstem.warehouse.loader import Load
from mainstem.warehouse.schema import Columns, ColumnType
from mainstem.warehouse.staging import TableRows

_MANIFEST: Final = "manifest.json"


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


class Owed(msgspec.Struct, frozen=True):
    """A load of a table that is not in yet."""

    folder: Path
    manifest: Manifest

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
        return sorted(
            unquote(path.name) for path in self._folder.iterdir() if path.is_dir() and any(path.iterdir())
        )

    def owed(self, table: str) -> Sequence[Owed]:
        """Return what a table owes, oldest first."""
        folder = self._folder / quote(table, safe="")
        found = []
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            manifest = path / _MANIFEST
            if (
                manifest.is_file()
            ):  # else a crash left it half made: its load is still open, and makes it again
                found.append(Owed(path, msgspec.json.decode(manifest.read_bytes(), type=Manifest)))
        return found

    def add(self, load: Load, rows: TableRows, error: str, advice: str, now_ms: int) -> None:
        """Keep a load of a table, durably; once, however often it is called.

        Raises:
            OSError: the disk does not take it.
        """
        folder = self._folder / quote(rows.table, safe="") / f"{load.sequence:012d}-{load.id}"
        if (folder / _MANIFEST).is_file():
            return
        folder.mkdir(parents=True, exist_ok=True)
        chunks = []
        for path, kinds in rows.kept_chunks():
            _copy(path, folder / path.name)
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
        made = folder / f"{_MANIFEST}.new"
        with made.open("wb") as file:
            file.write(msgspec.json.encode(manifest))
            file.flush()
            os.fsync(file.fileno())
        made.replace(folder / _MANIFEST)
        for place in (folder, folder.parent, folder.parent.parent):
            _sync(place)

    def paid(self, owed: Owed) -> None:
        """Remove a load that is in its table."""
        (owed.folder / _MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(owed.folder, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reading, target.open("wb") as writing:
        shutil.copyfileobj(reading, writing)
        writing.flush()
        os.fsync(writing.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
