"""The warehouse as a place for batches: a plan's events become rows, and each table's rows are loaded once.

gatherer -> **warehouse writer** -> loader. What is made of a plan are rows by table, gathered on disk (`staging`). They
are written table by table, several at a time where the engine is better for it: the table is changed if it has to be,
the rows are fitted to it and loaded, exactly once by the plan's id. A table that can't be loaded does not hold up the
others: its rows go to the arrears, durably, before the position moves on, and are tried again with every later load, in
order; where no load comes, by the schedule of syncs.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

import msgspec
import xxhash

from mainstem.bulk.errors import BulkError
from mainstem.bulk.plan import DELIVERED, Plan
from mainstem.bulk.writer import Limits, Making, Planned, Urgency
from mainstem.clock import Clock
from mainstem.events.canonical import Event
from mainstem.events.stored import StoredEvent
from mainstem.ledger.base import CountKey
from mainstem.telemetry.log import logger
from mainstem.warehouse.arrears import Arrears, Owed, Trouble
from mainstem.warehouse.fit import WHOLE, Discard, write_parquet
from mainstem.warehouse.lanes import load_in_lanes
from mainstem.warehouse.loader import (
    Compacting,
    Load,
    Loader,
    LoaderSpec,
    Mode,
    StagedTable,
    TableFailed,
)
from mainstem.warehouse.measures import Loaded, Measures, oldest_ms
from mainstem.warehouse.rows import Row, RowsRefused
from mainstem.warehouse.schema import (
    DISCARDS,
    DISCARDS_COLUMNS,
    USERS,
    Columns,
    WidenColumn,
    plan_changes,
)
from mainstem.warehouse.settings import WarehouseSettings, excluded
from mainstem.warehouse.shapes import Shape, Shapes, ToRows
from mainstem.warehouse.spool import LoadFolder
from mainstem.warehouse.staging import Part, TableRows

_log = logger(__name__)

_MAX_CELLS: Final = 3_000_000
"""Values that wait in memory, over all tables of a plan."""
_MAX_WAITING_CELLS: Final = 400_000
"""Values that wait as events, to be made columns."""
_MAX_NAMESPACES: Final = 64
_MOST_PAY_WAIT_S: Final = 3_600.0
_COMPACTED: Final = "compacted"
"""The file that says when joining small files was begun last."""

Decode = Callable[[StoredEvent], Event]


class TableStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A table that could not be loaded, for people."""

    namespace: str
    table: str
    loads: int
    """How many loads of it wait."""
    rows: int
    error: str
    """Why the newest try failed."""
    advice: str
    since_ms: int
    tried_ms: int
    """When it was tried last."""


class Paid(msgspec.Struct, frozen=True, kw_only=True):
    """Loads of a table that waited, and are in now."""

    namespace: str
    table: str
    loads: int
    rows: int


def _nothing(_event: Event) -> None:
    return None


class PlannedRows:
    """The rows of one plan, being made. See `bulk.writer.Making`."""

    def __init__(
        self,
        folder: LoadFolder,
        decode: Decode,
        to_rows: ToRows,
        named: Callable[[str], str],
        shapes: Shapes | None = None,
    ) -> None:
        """
        Args:
            folder: where its files are made.
            shapes: the fast way; None: every event by the rules.
        """
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
        self.add_events(known or self._decode(stored) for stored, _, _, _, known in records)

    def add_events(self, events: Iterable[Event]) -> None:
        """Take events; of one id, the last of the same moment counts."""
        find = self._shapes.find if self._shapes is not None else _nothing
        waiting = self._waiting
        for event in events:
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
                namespace, rows = refusal.namespace, [refused_row(event, str(refusal), self._named)]
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
        self._folder.close()

    def by_namespace(self) -> Mapping[str, Sequence[TableRows]]:
        """Return the tables, by namespace, in the order in which they came up."""
        found: dict[str, list[TableRows]] = {}
        for (namespace, _), rows in self._tables.items():
            found.setdefault(namespace, []).append(rows)
        return found

    @property
    def folder(self) -> Path:
        """Where files of this plan may be made."""
        return self._folder.path

    def _rows(self, namespace: str, table: str) -> TableRows:
        rows = self._tables.get((namespace, table))
        if rows is None:
            rows = self._tables[namespace, table] = TableRows(table, self.folder, f"{len(self._tables):04d}")
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


class _Space(msgspec.Struct):
    """A namespace while its tables are loaded."""

    name: str
    loader: Loader
    arrears: Arrears
    schema: dict[str, Columns]
    """Asked once, not for every table; kept up to date as tables change here."""
    owing: dict[str, str]
    """Tables of which earlier loads wait, with advice."""
    discarding: threading.Lock
    """Held while the discards are loaded, which is the one table that several others' loads write to."""


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
        self._measures = Measures(destination_id, self._folder)
        self._clock = clock
        self._namespaces: set[str] = set()
        """Into which this process has loaded."""
        self._upkeep = spec.upkeep(config) if spec.upkeep is not None else None
        self._to_compact: list[tuple[str, str]] = []
        """Namespaces and tables."""
        self._compacted_ms: int | None = None
        """When joining small files was begun last; None: not asked yet."""
        self._pay_wait_s = self.limits.max_age_s
        self._pay_at = clock.monotonic() + self._pay_wait_s

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

    def ahead(self) -> PlannedRows:
        return self._begin("ahead")

    def begin(self, plan: Plan) -> PlannedRows:
        return self._begin(plan.id)

    def _begin(self, name: str) -> PlannedRows:
        folder = LoadFolder(self._folder / "loads", name)
        return PlannedRows(folder, self._decode, self._to_rows, self._named, self._shapes)

    async def write(self, plan: Plan, made: Making) -> int:
        assert isinstance(made, PlannedRows)  # noqa: S101 - it is ours
        return await asyncio.to_thread(self._write, plan, made)

    async def settled(self, plan: Plan) -> None:
        request_of(self._folder).unlink(missing_ok=True)

    async def upkeep(self) -> None:
        """Pay what tables owe, and join small files; see the parts."""
        await self._pay_when_due()
        await self._compact_when_due()

    async def _pay_when_due(self) -> None:
        """Pay what tables owe, as often as a sync may be due; seldomer while nothing comes of it.

        A load tries what its namespace owes anyway. This is for namespaces to which nothing new comes.
        """
        if self._clock.monotonic() < self._pay_at or self.urgency() == "not now":
            return
        most_s = max(self.limits.max_age_s, _MOST_PAY_WAIT_S)
        in_vain = bool(await asyncio.to_thread(failing, self._folder)) and not await self.pay()
        self._pay_wait_s = min(2 * self._pay_wait_s, most_s) if in_vain else self.limits.max_age_s
        self._pay_at = self._clock.monotonic() + self._pay_wait_s

    async def _compact_when_due(self) -> None:
        """Join the small files of one table, of those that were loaded here since this process began. One at a time, so
        that loads come in between; when it was begun is remembered across processes."""
        every_s = self._upkeep.every_s if self._upkeep is not None else 0.0
        if not every_s or not self._namespaces or self.urgency() == "not now":
            return
        if self._to_compact:
            await asyncio.to_thread(self._compact, *self._to_compact.pop())
            return
        if self._compacted_ms is None:
            self._compacted_ms = await asyncio.to_thread(_noted_ms, self._folder / _COMPACTED)
        now_ms = self._clock.now_ms()
        if now_ms - self._compacted_ms >= every_s * 1000:
            self._compacted_ms = now_ms
            self._to_compact = await asyncio.to_thread(self._tables_to_compact, now_ms)

    async def pay(self) -> Sequence[Paid]:
        """Try again what tables owe, in every namespace; return what is in now that was not. What still is not says why
        (`failing`)."""
        return await asyncio.to_thread(self._pay)

    # ------------------------------------------------------------ in a thread

    def _opened(self, namespace: str) -> contextlib.closing[Loader]:
        return contextlib.closing(self._spec.open(self._config, namespace, self._data_dir))

    def _named(self, name: str) -> str:
        return naming_of(self._spec)(name)

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
        try:
            for namespace, tables in made.by_namespace().items():
                with self._opened(namespace) as loader:
                    written += self._write_namespace(load, namespace, loader, tables, made.folder)
                    self._namespaces.add(namespace)
        except (BulkError, OSError):
            self._measures.broken()
            raise
        finally:
            self._report()
        return written

    def _write_namespace(
        self, load: Load, namespace: str, loader: Loader, tables: Sequence[TableRows], folder: Path
    ) -> int:
        loader.check()
        space = self._space(namespace, loader)
        self._pay_namespace(space)

        def written(its: Loader, rows: TableRows) -> int:
            return self._load_or_owe(load, msgspec.structs.replace(space, loader=its), rows, folder)

        # The discards last: of the other tables' values some may have come to the arrears there.
        last = self._named(DISCARDS)
        return load_in_lanes(
            tables, written, loader, lambda: self._opened(namespace), self._config, last=last
        )

    def _load_or_owe(self, load: Load, space: _Space, rows: TableRows, folder: Path) -> int:
        """Load a table's rows, or put them to the arrears; return how many tables were written."""
        try:
            if rows.table in space.owing:
                raise TableFailed(rows.table, "earlier loads of it wait", space.owing[rows.table])
            return self._load_table(load, space, rows, folder)
        except TableFailed as failed:
            _look_again(space, rows.table)
            self._fall_behind(space.name, failed)
            space.arrears.add(load, rows, str(failed), failed.advice, self._clock.now_ms(), within=folder)
            return 0

    def _load_table(self, load: Load, space: _Space, rows: TableRows, folder: Path) -> int:
        found, discards = load_rows(load, space.loader, rows, folder, self._spec, self._config, space.schema)
        if not found.already:
            self._measures.loaded(space.name, rows.table, load.id, found, self._clock.now_ms())
        if not discards.rows:
            return 1
        with space.discarding:
            return 1 + self._load_or_owe(discards_of(load, rows.table), space, discards, folder)

    def _fall_behind(self, namespace: str, failed: TableFailed) -> None:
        self._measures.failed(failed.table)
        _log.error(
            "table can't be loaded; its rows wait",
            destination=self._destination_id,
            namespace=namespace,
            table=failed.table,
            error=str(failed),
        )

    def _report(self) -> None:
        try:
            self._measures.save()
        except OSError as error:
            # For people's eyes only: no load is to stand still for it.
            _log.warning(
                "the state of tables can't be noted", destination=self._destination_id, error=str(error)
            )

    # ------------------------------------------------------------ small files

    def _tables_to_compact(self, now_ms: int) -> list[tuple[str, str]]:
        noted = self._folder / _COMPACTED
        noted.parent.mkdir(parents=True, exist_ok=True)
        noted.write_text(str(now_ms))
        found: list[tuple[str, str]] = []
        for namespace in sorted(self._namespaces):
            try:
                with self._opened(namespace) as loader:
                    if isinstance(loader, Compacting):
                        found += [(namespace, table) for table in loader.fetch_schema()]
            except BulkError as error:
                self._not_compacted(namespace, "", error)
        return found

    def _compact(self, namespace: str, table: str) -> None:
        assert self._upkeep is not None  # noqa: S101 - it was due
        try:
            with self._opened(namespace) as loader:
                if isinstance(loader, Compacting):
                    done = loader.compact(table, keep=self._upkeep.keep)
                    _log.info(
                        "small files joined",
                        destination=self._destination_id,
                        namespace=namespace,
                        table=table,
                        files_before=done.files_before,
                        files_after=done.files_after,
                    )
        except BulkError as error:
            self._not_compacted(namespace, table, error)

    def _not_compacted(self, namespace: str, table: str, error: BulkError) -> None:
        # What is loaded stands; small files wait for the next time.
        _log.warning(
            "small files were not joined",
            destination=self._destination_id,
            namespace=namespace,
            table=table,
            error=str(error),
        )

    # ------------------------------------------------------------ arrears

    def _space(self, namespace: str, loader: Loader) -> _Space:
        return _Space(
            namespace, loader, self._arrears(namespace), dict(loader.fetch_schema()), {}, threading.Lock()
        )

    def _arrears(self, namespace: str) -> Arrears:
        return Arrears(arrears_of(self._folder, namespace))

    def _pay(self) -> Sequence[Paid]:
        paid: list[Paid] = []
        for namespace in namespaces_in(self._folder):
            arrears = self._arrears(namespace)
            before = {table: arrears.owed(table) for table in arrears.tables()}
            if not before:
                continue
            try:
                self._pay_at_engine(namespace)
            except (BulkError, OSError) as error:
                # Not of one table: all of them wait for it, those of other namespaces may not.
                _log.warning(
                    "what tables owe can't be paid",
                    destination=self._destination_id,
                    namespace=namespace,
                    error=str(error),
                )
                for table in arrears.tables():
                    self._note_trouble(arrears, arrears.owed(table), str(error), "")
            paid += [
                Paid(
                    namespace=namespace,
                    table=table,
                    loads=len(done),
                    rows=sum(one.manifest.rows for one in done),
                )
                for table, owed in before.items()
                if (done := [one for one in owed if not one.waits()])
            ]
        return paid

    def _pay_at_engine(self, namespace: str) -> None:
        try:
            with self._opened(namespace) as loader:
                self._pay_namespace(self._space(namespace, loader))
        finally:
            self._report()

    def _pay_namespace(self, space: _Space) -> None:
        """Try what tables owe; note those that still do."""
        space.arrears.sweep()
        owing = space.arrears.tables()
        if not owing:
            return
        # A folder of our own: another worker may be at the same.
        with contextlib.closing(LoadFolder(self._folder / "loads", "owed")) as made:
            for table in owing:
                self._pay_table(space, table, made.path)

    def _pay_table(self, space: _Space, table: str, folder: Path) -> None:
        """Load what a table owes, oldest first, as far as it goes."""
        for owed in space.arrears.owed(table):
            try:
                self._load_table(owed.manifest.load, space, owed.rows(), folder)
            except (BulkError, OSError) as error:
                if not owed.waits():
                    continue  # another process was faster, and has removed what was read here
                if not isinstance(error, TableFailed):
                    raise
                _look_again(space, table)
                space.owing[table] = error.advice
                self._note_trouble(space.arrears, [owed], str(error), error.advice)
                break
            space.arrears.paid(owed)
            _log.info("waiting rows are in", destination=self._destination_id, table=table)

    def _note_trouble(self, arrears: Arrears, owed: Sequence[Owed], error: str, advice: str) -> None:
        """Note of the first of these why it is not in."""
        for one in owed[:1]:
            try:
                arrears.tried(one, Trouble(error=error, advice=advice, at_ms=self._clock.now_ms()))
            except OSError as trouble:
                if one.waits():
                    _log.warning(
                        "why a table waits can't be noted",
                        destination=self._destination_id,
                        table=one.manifest.table,
                        error=str(trouble),
                    )


def _look_again(space: _Space, table: str) -> None:
    """Learn how a table is that failed: part of its changes may be in."""
    found = space.loader.fetch_schema().get(table)
    if found is not None:
        space.schema[table] = found


def _noted_ms(path: Path) -> int:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return 0  # never, or cut off by a crash: it is due


def load_rows(
    load: Load,
    loader: Loader,
    rows: TableRows,
    folder: Path,
    spec: LoaderSpec,
    config: WarehouseSettings,
    schema: dict[str, Columns] | None = None,
) -> tuple[Loaded, TableRows]:
    """Change a table as its rows need it, fit them to it, load them once. Blocking.

    Returns:
        What came in, and the values that do not fit: rows of the discards, flushed, to be loaded by `discards_of`.
        They are the same however often a load is made. The discards' own are only logged.

    Args:
        rows: flushed.
        folder: where files are made.
        schema: the namespace's tables as they are, kept up to date here; None = the engine is asked.

    Raises:
        TableFailed: this table can't be loaded.
        WarehouseError: the engine failed.
    """
    began = time.monotonic()
    named = naming_of(spec)
    # Long names are cut, and tables may be loaded at the same time.
    digest = xxhash.xxh3_64_hexdigest(rows.table.encode())
    discards = TableRows(named(DISCARDS), folder, f"discards-{digest}")
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
    target = {**rows.columns, **there.get(rows.table, {})}
    widened = [change.column for change in changes if isinstance(change, WidenColumn)]
    if widened:
        # A column with integers that a float would round stays as it is: the engine knows.
        now = loader.fetch_schema().get(rows.table, {})
        target |= {name: now[name] for name in widened if name in now}
    if schema is not None:
        schema[rows.table] = target
    name = f"{quote(rows.table, safe='')[:100]}-{digest}-{load.id.replace('/', '-')}"
    path = folder / f"{name}.parquet"

    def discard(found: Discard) -> None:
        if rows.table == discards.table:
            _log.error("a discard does not fit its table", table=found.table, column=found.column)
            return
        columns = {named(name): kind for name, kind in DISCARDS_COLUMNS.items()}
        discards.add({named(name): value for name, value in found.row().items()}, columns, 0)

    written, count = write_parquet(rows, target, path, named=named, on_discard=discard)
    try:
        mode = _mode_of(rows.table, named, spec, config)
        staged_bytes, oldest = path.stat().st_size, oldest_ms(path, named("received_at"))
        done = loader.load(
            load, StagedTable(table=rows.table, columns=written, path=path, rows=count, mode=mode)
        )
    finally:
        path.unlink(missing_ok=True)
    discards.flush()
    found = Loaded(
        rows=done.rows,
        already=done.already,
        staged_bytes=staged_bytes,
        took_s=time.monotonic() - began,
        oldest_ms=oldest,
    )
    return found, discards


def discards_of(load: Load, table: str) -> Load:
    """Return the load of what of a table's rows did not fit.

    A load of its own for each table: rows may come in by their plan or, later, from the arrears, and a plan that is
    made again must find the discards of each that are in already. Its name is short, whatever the table's is.
    """
    return msgspec.structs.replace(load, id=f"{load.id}/{xxhash.xxh3_64_hexdigest(table.encode())}")


def refused_row(event: Event, why: str, named: Callable[[str], str]) -> Row:
    """Return an event that can't be rows, whole, as a row of the discards."""
    discard = Discard(event.type, event.message_id, WHOLE, event.message, why, None)
    data = discard.row() | {"received_at": event.message.get("receivedAt")}
    return Row(
        table=named(DISCARDS),
        columns={named(name): kind for name, kind in DISCARDS_COLUMNS.items()},
        data={named(name): value for name, value in data.items() if value is not None},
    )


def naming_of(spec: LoaderSpec) -> Callable[[str], str]:
    """Return how an engine spells our own names."""
    return str.upper if spec.capabilities.upper_case else str


def _mode_of(table: str, named: Callable[[str], str], spec: LoaderSpec, config: WarehouseSettings) -> Mode:
    if table == named(USERS):
        return "latest by id"
    if config.dedupe == "none":
        return "append"
    return "replace by id" if spec.capabilities.merges else "append"


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
                trouble = owed[0].trouble()
                found.append(
                    TableStatus(
                        namespace=namespace,
                        table=table,
                        loads=len(owed),
                        rows=sum(one.manifest.rows for one in owed),
                        error=trouble.error,
                        advice=trouble.advice,
                        since_ms=owed[0].manifest.since_ms,
                        tried_ms=trouble.at_ms,
                    )
                )
    return found
