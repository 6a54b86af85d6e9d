"""The warehouse as a place for batches: a plan's events become rows, and each table's rows are loaded once.

gatherer -> **warehouse writer** -> loader. What is made of a plan are rows by table, gathered on disk (`staging`). They
are written table by table: the table is changed if it has to be, the rows are fitted to it and loaded, exactly once by
the plan's id. A table that can't be loaded does not hold up the others: its rows go to the arrears, durably, before the
position moves on, and are tried again with every later load, in order.
"""

import asyncio
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

import msgspec

from mainstem.bulk.plan import DELIVERED, Plan
from mainstem.bulk.writer import Limits, Making, Planned, Urgency
from mainstem.clock import Clock
from mainstem.events.canonical import Event
from mainstem.events.stored import StoredEvent
from mainstem.ledger.base import CountKey
from mainstem.telemetry import metrics
from mainstem.telemetry.log import logger
from mainstem.warehouse.arrears import Arrears
from mainstem.warehouse.fit import Discard, write_parquet
from mainstem.warehouse.loader import (
    Load,
    Loader,
    LoaderSpec,
    Mode,
    StagedTable,
    TableFailed,
)
from mainstem.warehouse.rows import Row, RowsRefused
from mainstem.warehouse.schema import (
    DISCARDS,
    DISCARDS_COLUMNS,
    USERS,
    Columns,
    Schema,
    plan_changes,
    widened,
)
from mainstem.warehouse.settings import WarehouseSettings, excluded
from mainstem.warehouse.shapes import Shape, Shapes, ToRows
from mainstem.warehouse.staging import Part, TableRows

_log = logger(__name__)

_MAX_CELLS: Final = 3_000_000
"""Values that wait in memory, over all tables of a plan."""
_MAX_WAITING_CELLS: Final = 400_000
"""Values that wait as events, to be made columns."""
_MAX_NAMESPACES: Final = 64

Decode = Callable[[StoredEvent], Event]


class TableStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A table that could not be loaded, for people."""

    namespace: str
    table: str
    loads: int
    """How many loads of it wait."""
    rows: int
    error: str
    advice: str
    since_ms: int


def _nothing(_event: Event) -> None:
    return None


class PlannedRows:
    """The rows of one plan, being made. See `bulk.writer.Making`."""

    def __init__(
        self,
        folder: Path,
        decode: Decode,
        to_rows: ToRows,
        named: Callable[[str], str],
        shapes: Shapes | None = None,
    ) -> None:
        """
        Args:
            shapes: the fast way; None: every event by the rules.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder = folder
        self._decode = decode
        self._to_rows = to_rows
        self._named = named
        self._shapes = shapes
        self._tables: dict[tuple[str, str], TableRows] = {}
        self._waiting: dict[Shape, tuple[list[int], list[list[Any]]]] = {}
        """Events of a shape: their numbers and their values."""
        self._waiting_cells = 0
        self._number = 0
        self._finished = False

    def add(self, records: Iterable[Planned]) -> None:
        find = self._shapes.find if self._shapes is not None else _nothing
        waiting = self._waiting
        for stored, _, _, _ in records:
            event = self._decode(stored)
            self._number += 1
            if (found := find(event)) is not None:
                shape, values = found
                held = waiting.get(shape)
                if held is None:
                    held = waiting[shape] = ([], [])
                held[0].append(self._number)
                held[1].append(values)
                self._waiting_cells += shape.width
                continue
            try:
                namespace, rows = self._to_rows(event)
            except RowsRefused as refusal:
                namespace, rows = refusal.namespace, [self._refused(event, str(refusal))]
            for row in rows:
                self._rows(namespace, row.table).add(row.data, row.columns, self._number)
        if self._waiting_cells > _MAX_WAITING_CELLS:
            self._to_columns()
        if sum(table.cells for table in self._tables.values()) > _MAX_CELLS:
            self._flush()

    def finish(self) -> None:
        if not self._finished:
            self._flush()
            self._finished = True

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def by_namespace(self) -> Mapping[str, Sequence[TableRows]]:
        """Return the tables, by namespace, in the order in which they came up."""
        found: dict[str, list[TableRows]] = {}
        for (namespace, _), rows in self._tables.items():
            found.setdefault(namespace, []).append(rows)
        return found

    @property
    def folder(self) -> Path:
        """Where files of this plan may be made."""
        return self._folder

    def _rows(self, namespace: str, table: str) -> TableRows:
        rows = self._tables.get((namespace, table))
        if rows is None:
            rows = self._tables[namespace, table] = TableRows(table, self._folder, len(self._tables))
        return rows

    def _flush(self) -> None:
        self._to_columns()
        for table in self._tables.values():
            table.flush()

    def _to_columns(self) -> None:
        """Make columns of what waits as events."""
        waiting, self._waiting, self._waiting_cells = self._waiting, {}, 0
        parts: dict[tuple[str, str], list[Part]] = {}
        for shape, (numbers, rows) in waiting.items():
            columns = list(zip(*rows, strict=True))
            for layout in shape.layouts:
                cells = [(cell, columns[cell.at] if cell.at >= 0 else ()) for cell in layout.cells]
                parts.setdefault((layout.namespace, layout.table), []).append(
                    Part(numbers, cells, layout.also)
                )
        for (namespace, table), found in parts.items():
            assert self._shapes is not None  # noqa: S101 - they are its
            self._rows(namespace, table).add_parts(found, self._shapes.typed)

    def _refused(self, event: Event, why: str) -> Row:
        """An event that can't be rows is kept whole, among the discards."""
        discard = Discard(event.type, event.message_id, "*", event.message, why, None)
        data = discard.row() | {"received_at": event.message.get("receivedAt")}
        return Row(
            table=self._named(DISCARDS),
            columns={self._named(name): kind for name, kind in DISCARDS_COLUMNS.items()},
            data={self._named(name): value for name, value in data.items() if value is not None},
        )


class WarehouseWriter:
    """See `bulk.writer.Writer`."""

    outcomes = frozenset((DELIVERED,))

    def __init__(
        self,
        *,
        destination_id: str,
        spec: LoaderSpec,
        config: WarehouseSettings,
        decode: Decode,
        to_rows: ToRows,
        data_dir: Path,
        clock: Clock,
        shapes: Shapes | None = None,
    ) -> None:
        """
        Args:
            decode: makes the canonical event, enriched as its source says.
            to_rows: the rules of tables and names, compiled.
            data_dir: where rows wait, and arrears are kept: durable, and the same for all workers.
            shapes: the fast way of `to_rows`; None: every event by the rules.
        """
        self._destination_id = destination_id
        self._spec = spec
        self._config = config
        self._decode = decode
        self._to_rows = to_rows
        self._shapes = shapes
        self._data_dir = data_dir
        self._folder = folder_of(data_dir, destination_id)
        self._clock = clock

    @property
    def place(self) -> str:
        return f"{self._spec.title} of {self._destination_id}"

    @property
    def limits(self) -> Limits:
        config = self._config
        return Limits(
            max_events=config.sync_events,
            max_bytes=config.sync_bytes,
            max_age_s=max(config.sync_frequency * 60, self._spec.capabilities.shortest_sync_s),
            max_parts=_MAX_NAMESPACES,
        )

    def part(self, line: CountKey) -> str:
        return line.source_id

    def settings(self) -> bytes:
        # Rows are made by the rules that hold when they are made: a load that is in is not made again.
        return b""

    def urgency(self) -> Urgency:
        if request_of(self._folder).exists():
            return "at once"
        return "not now" if excluded(self._config.exclude_window, self._clock.now_ms()) else "when due"

    def begin(self, plan: Plan) -> PlannedRows:
        folder = self._folder / "loads" / plan.id
        return PlannedRows(folder, self._decode, self._to_rows, self._named, self._shapes)

    async def write(self, plan: Plan, made: Making) -> int:
        assert isinstance(made, PlannedRows)  # noqa: S101 - it is ours
        return await asyncio.to_thread(self._write, plan, made)

    async def settled(self, plan: Plan) -> None:
        request_of(self._folder).unlink(missing_ok=True)
        await asyncio.to_thread(shutil.rmtree, self._folder / "loads" / plan.id, ignore_errors=True)

    async def pay(self) -> int:
        """Try again what tables owe; return how many loads are in now that were not."""
        return await asyncio.to_thread(self._pay)

    # ------------------------------------------------------------ in a thread

    def _named(self, name: str) -> str:
        return name.upper() if self._spec.capabilities.upper_case else name

    def _write(self, plan: Plan, made: PlannedRows) -> int:
        load = Load(
            id=plan.id,
            cursor=self._destination_id,
            sequence=plan.sequence,
            positions=msgspec.json.encode(
                {str(item.partition): item.to_offset for item in plan.ranges}
            ).decode(),
        )
        written = 0
        for namespace, tables in made.by_namespace().items():
            loader = self._spec.open(self._config, namespace, self._data_dir)
            try:
                written += self._write_namespace(load, namespace, loader, tables, made.folder)
            finally:
                loader.close()
        return written

    def _write_namespace(
        self, load: Load, namespace: str, loader: Loader, tables: Sequence[TableRows], folder: Path
    ) -> int:
        loader.check()
        arrears = self._arrears(namespace)
        # Asked once, not for every table; kept up to date as tables change here.
        schema = dict(loader.fetch_schema())
        owing = self._pay_namespace(namespace, loader, schema)
        discards = TableRows(self._named(DISCARDS), folder, 9_999)
        written = 0
        for rows in tables:
            if rows.table == discards.table:
                continue
            try:
                if rows.table in owing:
                    raise TableFailed(rows.table, "earlier loads of it wait", owing[rows.table])
                self._load_table(load, loader, rows, folder, discards, schema)
                written += 1
            except TableFailed as failed:
                # Part of its changes may be in.
                schema.update(loader.fetch_schema())
                self._fall_behind(namespace, failed)
                arrears.add(load, rows, str(failed), failed.advice, self._clock.now_ms())
        refused = [rows for rows in tables if rows.table == discards.table]
        discards.flush()
        for index, rows in enumerate([*refused, *([discards] if discards.rows else [])]):
            # Two sources of discards in one load: each is a load of its own, or the second would count as being in.
            part = msgspec.structs.replace(load, id=f"{load.id}/{index}" if index else load.id)
            try:
                self._load_table(part, loader, rows, folder, None, schema)
                written += 1
            except TableFailed as failed:
                self._fall_behind(namespace, failed)
                arrears.add(part, rows, str(failed), failed.advice, self._clock.now_ms())
        return written

    def _load_table(
        self,
        load: Load,
        loader: Loader,
        rows: TableRows,
        folder: Path,
        discards: TableRows | None,
        schema: dict[str, Columns],
    ) -> None:
        count = load_rows(load, loader, rows, folder, self._spec, self._config, discards, schema)
        metrics.WAREHOUSE_ROWS.labels(self._destination_id, rows.table).inc(count)

    def _fall_behind(self, namespace: str, failed: TableFailed) -> None:
        metrics.WAREHOUSE_FAILURES.labels(self._destination_id, failed.table).inc()
        _log.error(
            "table can't be loaded; its rows wait",
            destination=self._destination_id,
            namespace=namespace,
            table=failed.table,
            error=str(failed),
        )

    # ------------------------------------------------------------ arrears

    def _arrears(self, namespace: str) -> Arrears:
        return Arrears(arrears_of(self._folder, namespace))

    def _pay(self) -> int:
        paid = 0
        for namespace in namespaces_in(self._folder):
            arrears = self._arrears(namespace)
            before = sum(len(arrears.owed(table)) for table in arrears.tables())
            if not before:
                continue
            loader = self._spec.open(self._config, namespace, self._data_dir)
            try:
                self._pay_namespace(namespace, loader, dict(loader.fetch_schema()))
            finally:
                loader.close()
            paid += before - sum(len(arrears.owed(table)) for table in arrears.tables())
        return paid

    def _pay_namespace(self, namespace: str, loader: Loader, schema: dict[str, Columns]) -> dict[str, str]:
        """Try what tables owe; return those that still do, with advice."""
        arrears = self._arrears(namespace)
        owing: dict[str, str] = {}
        for table in arrears.tables():
            for owed in arrears.owed(table):
                folder = owed.folder
                discards = TableRows(self._named(DISCARDS), folder, 9_999)
                try:
                    target = None if table == discards.table else discards
                    self._load_table(owed.manifest.load, loader, owed.rows(), folder, target, schema)
                    discards.flush()
                    if discards.rows:
                        part = msgspec.structs.replace(
                            owed.manifest.load, id=f"{owed.manifest.load.id}/{table}"
                        )
                        self._load_table(part, loader, discards, folder, None, schema)
                except TableFailed as failed:
                    schema.update(loader.fetch_schema())
                    owing[table] = failed.advice
                    break
                arrears.paid(owed)
                _log.info("waiting rows are in", destination=self._destination_id, table=table)
        return owing


def load_rows(
    load: Load,
    loader: Loader,
    rows: TableRows,
    folder: Path,
    spec: LoaderSpec,
    config: WarehouseSettings,
    discards: TableRows | None = None,
    schema: dict[str, Columns] | None = None,
) -> int:
    """Change a table as its rows need it, fit them to it, load them once; return how many came in now. Blocking.

    Args:
        rows: flushed.
        folder: where the file is made.
        discards: takes what does not fit; None = that is only logged (the discards themselves).
        schema: the namespace's tables as they are, kept up to date here; None = the engine is asked.

    Raises:
        TableFailed: this table can't be loaded.
        WarehouseError: the engine failed.
    """
    named = _naming(spec)
    there = loader.fetch_schema() if schema is None else schema
    most = loader.capabilities.max_columns
    if len(rows.columns) > most:
        raise TableFailed(
            rows.table,
            f"{len(rows.columns)} columns, {spec.title} takes {most}",
            "keep what makes the many columns as JSON: `jsonPaths`",
        )
    changes = plan_changes(there, {rows.table: rows.columns}, loader.capabilities.widenings, rows.seen)
    if changes:
        loader.evolve(changes)
    target = target_columns(there, rows, loader.capabilities.widenings)
    if schema is not None:
        schema[rows.table] = target
    path = folder / f"{quote(rows.table, safe='')[:120]}-{load.id.replace('/', '-')}.parquet"

    def discard(found: Discard) -> None:
        if discards is None:
            _log.error("a discard does not fit its table", table=found.table, column=found.column)
            return
        columns = {named(name): kind for name, kind in DISCARDS_COLUMNS.items()}
        discards.add({named(name): value for name, value in found.row().items()}, columns, 0)

    written, count = write_parquet(rows, target, path, named=named, on_discard=discard)
    try:
        mode = _mode_of(rows.table, named, spec, config)
        return loader.load(
            load, StagedTable(table=rows.table, columns=written, path=path, rows=count, mode=mode)
        ).rows
    finally:
        path.unlink(missing_ok=True)


def _naming(spec: LoaderSpec) -> Callable[[str], str]:
    return str.upper if spec.capabilities.upper_case else str


def _mode_of(table: str, named: Callable[[str], str], spec: LoaderSpec, config: WarehouseSettings) -> Mode:
    if table == named(USERS):
        return "latest by id"
    if table == named(DISCARDS) or config.dedupe == "none":
        return "append"
    return "replace by id" if spec.capabilities.merges else "append"


def target_columns(there: Schema, rows: TableRows, widenings: frozenset[Any]) -> Columns:
    """Return a table's columns as they are once its changes are made."""
    target = dict(there.get(rows.table, {}))
    for name, kind in rows.columns.items():
        before = target.get(name)
        if before is None:
            target[name] = kind
        elif (after := widened(before, kind, rows.seen.get(name, frozenset()))) != before and (
            before,
            after,
        ) in widenings:
            target[name] = after
    return target


def folder_of(data_dir: Path, destination_id: str) -> Path:
    """Return where a warehouse's loads and arrears are."""
    return data_dir / "warehouse" / quote(destination_id, safe="")


def arrears_of(folder: Path, namespace: str) -> Path:
    """Return where a namespace's arrears are."""
    return folder / "arrears" / quote(namespace, safe="")


def namespaces_in(folder: Path) -> Sequence[str]:
    """Return the namespaces that may have arrears."""
    root = folder / "arrears"
    return sorted(unquote(path.name) for path in root.iterdir()) if root.is_dir() else []


def request_of(folder: Path) -> Path:
    """Return the file that asks for a load at once."""
    return folder / "sync-now"


def failing(folder: Path) -> Sequence[TableStatus]:
    """Return the tables that owe something, for people. Blocking."""
    found = []
    for namespace in namespaces_in(folder):
        arrears = Arrears(arrears_of(folder, namespace))
        for table in arrears.tables():
            owed = arrears.owed(table)
            if owed:
                first = owed[0].manifest
                found.append(
                    TableStatus(
                        namespace=namespace,
                        table=table,
                        loads=len(owed),
                        rows=sum(one.manifest.rows for one in owed),
                        error=first.error,
                        advice=first.advice,
                        since_ms=first.since_ms,
                    )
                )
    return found
