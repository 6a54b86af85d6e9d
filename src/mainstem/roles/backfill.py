"""A backfill of a warehouse: events of an archive become rows, and are loaded some files at a time.

desk -> **backfill** -> lanes -> loader. A table that can't be loaded is passed over, and told.
"""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from mainstem.events.canonical import Event
from mainstem.roles.warehouses import Tables
from mainstem.warehouse.lanes import load_in_lanes
from mainstem.warehouse.loader import Load, Loader, TableFailed
from mainstem.warehouse.rows import Row, RowsRefused
from mainstem.warehouse.schema import DISCARDS
from mainstem.warehouse.spool import LoadFolder
from mainstem.warehouse.staging import TableRows
from mainstem.warehouse.writer import PlannedRows, discards_of, load_rows, naming_of


class Filled(msgspec.Struct, frozen=True):
    """How far a backfill is."""

    files: int
    of_files: int
    events: int
    """Read from the archive."""
    rows: int
    """Loaded."""
    already: int
    """Rows that an earlier backfill of the same files and times has loaded."""
    failed: Mapping[tuple[str, str], TableFailed]
    """Tables that can't be loaded, or whose discards can't, by namespace and table."""


class Backfill:
    """Rows of some files at a time, being gathered and loaded. Blocking."""

    def __init__(self, tables: Tables, loads: Path, *, table: str, name: str) -> None:
        """
        Args:
            loads: the folder of loads, in which each of these has one of its own.
            table: the only one, in lower case; empty = all.
            name: of what is asked for. Loads are named by it and by their files: one that is in is not loaded again.
        """
        self.rows = 0
        """See `Filled`, as what follows."""
        self.already = 0
        self.failed: dict[tuple[str, str], TableFailed] = {}
        self._tables = tables
        self._table = table
        self._name = name
        self._loads = loads
        replaces = tables.config.dedupe == "id" and tables.spec.capabilities.merges
        # A load costs an engine the same for few rows as for many. But where rows are only added, what is in is known
        # file by file: others may be in reach the next time.
        self._at_once = tables.config.sync_events if replaces else 0
        self._files: list[str] = []
        """That were gathered since the last load."""
        self._events = 0
        """Of them."""
        self._discarding = threading.Lock()
        self._noting = threading.Lock()
        self._rows = self._begin()

    def _begin(self) -> PlannedRows:
        tables = self._tables
        return PlannedRows(
            LoadFolder(self._loads, "backfill"),
            tables.decode,
            self._rows_of_one if self._table else tables.to_rows,
            naming_of(tables.spec),
            None if self._table else tables.shapes,
        )

    def _rows_of_one(self, event: Event) -> tuple[str, Sequence[Row]]:
        try:
            namespace, rows = self._tables.to_rows(event)
        except RowsRefused as refusal:
            if self._table == DISCARDS:
                raise
            return refusal.namespace, ()
        return namespace, [row for row in rows if row.table.lower() == self._table]

    def add(self, events: Sequence[Event]) -> None:
        """Take what is sent of a file's events."""
        self._events += len(events)
        self._rows.add_events(events)

    def end_file(self, name: str, *, last: bool) -> None:
        """A file is through: load what was gathered, if it is enough.

        Raises:
            WarehouseError: the engine failed.
        """
        self._files.append(name)
        if last or self._events >= self._at_once:
            self._load()

    def _load(self) -> None:
        digest = hashlib.sha256("|".join([*self._files, self._name]).encode()).hexdigest()[:24]
        cursor = f"backfill:{self._tables.plan.destination.id}"
        load = Load(id=f"backfill-{digest}", cursor=cursor, sequence=0, positions="{}")
        self._rows.finish()
        for namespace, found in self._rows.by_namespace().items():
            self._load_namespace(load, namespace, found)
        self._rows.close()
        self._rows = self._begin()
        self._files, self._events = [], 0

    def _load_namespace(self, load: Load, namespace: str, found: Sequence[TableRows]) -> None:
        def work(loader: Loader, rows: TableRows) -> int:
            return self._load_table(load, namespace, loader, rows)

        tables = self._tables
        with closing(tables.open(namespace)) as loader:
            loader.check()
            self.rows += load_in_lanes(
                found,
                work,
                loader,
                lambda: closing(tables.open(namespace)),
                tables.config,
                last=naming_of(tables.spec)(DISCARDS),
            )

    def _load_table(self, load: Load, namespace: str, loader: Loader, rows: TableRows) -> int:
        """Load a table's rows, and what of them does not fit; return how many rows came in."""
        if (namespace, rows.table) in self.failed:
            return 0
        tables, folder = self._tables, self._rows.folder
        try:
            found, discards = load_rows(load, loader, rows, folder, tables.spec, tables.config)
            if discards.rows:
                with self._discarding:
                    part = discards_of(load, rows.table)
                    load_rows(part, loader, discards, folder, tables.spec, tables.config)
        except TableFailed as failed:
            self.failed[namespace, rows.table] = failed
            return 0
        if found.already:
            with self._noting:
                self.already += rows.rows
        return found.rows

    def close(self) -> None:
        """Let go of what was gathered and not loaded."""
        self._rows.close()
