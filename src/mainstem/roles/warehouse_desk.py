"""What people ask of a warehouse: how it stands, a load at once, what a load would change, one table from the archive.

Works beside a running worker, and without one. A load of new events is carried out by the worker; here it is asked for.
"""

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any, Final

import msgspec

from mainstem.clock import Clock
from mainstem.destinations.catalog import find_spec
from mainstem.errors import SettingsError
from mainstem.events.canonical import Event
from mainstem.events.stored import encode_stored
from mainstem.lake.open import open_archive
from mainstem.ledger.base import Ledger
from mainstem.pipeline.decode import Decoder
from mainstem.pipeline.judge import Judge, judge_by
from mainstem.pipeline.outcome import Send
from mainstem.pipeline.plan import DestinationPlan, compile_plan
from mainstem.pipeline.reading import decode_with
from mainstem.pipeline.transform import Chains
from mainstem.roles.rooms import open_geo, open_the_ledger, open_the_stream, open_the_workspace
from mainstem.roles.sandboxes import open_transformer, tools_of
from mainstem.roles.warehouses import Tables, tables_of, writer_of
from mainstem.settings import Settings
from mainstem.stream.base import OffsetGone, Stream
from mainstem.warehouse.loader import Load, Loader, LoaderRow, WarehouseError
from mainstem.warehouse.measures import TableReport, reports_of
from mainstem.warehouse.rows import RowsRefused
from mainstem.warehouse.schema import Schema, SchemaChange, merged_columns, plan_changes
from mainstem.warehouse.staging import TableRows
from mainstem.warehouse.writer import (
    Paid,
    TableStatus,
    discards_of,
    failing,
    folder_of,
    load_rows,
    naming_of,
    refused_row,
    request_of,
)
from mainstem.workspace.model import Destination, Workspace

_READ_RECORDS: Final = 500
_READ_BYTES: Final = 4 * 1024 * 1024
_BACKFILL_ROWS: Final = 100_000
_POLL_S: Final = 0.5


class WarehouseStatus(msgspec.Struct, kw_only=True):
    """One warehouse, for people."""

    destination_id: str
    title: str
    run_against: str
    """What this engine's loader has been run against."""
    waiting: int
    """Events of the log that are not in it yet."""
    namespaces: Mapping[str, Sequence[LoaderRow]]
    """The newest loads in each namespace, newest first: what the engine says."""
    tables: Mapping[str, Sequence[TableReport]]
    """Each table's newest load, by namespace, newest first: what this installation noted."""
    failing: Sequence[TableStatus]
    error: str = ""
    """Why the engine could not be asked."""
    worker_error: str = ""
    """Why the worker's last attempt to load failed as a whole; it tries again."""


class _Shown(msgspec.Struct):
    """What is read of a flow's status."""

    error: str = ""


class Filled(msgspec.Struct, frozen=True):
    """How far a backfill is."""

    files: int
    of_files: int
    events: int
    """Read from the archive."""
    rows: int
    """Loaded."""


class Desk:
    """A workspace's warehouses, opened."""

    def __init__(
        self,
        settings: Settings,
        workspace: Workspace,
        stream: Stream,
        ledger: Ledger,
        clock: Clock,
        judge_of: Callable[[DestinationPlan], Judge],
        decoder: Decoder,
        chains: Chains,
    ) -> None:
        self._settings = settings
        self._workspace = workspace
        self._stream = stream
        self._ledger = ledger
        self._clock = clock
        self._judge_of = judge_of
        self._decoder = decoder
        self._chains = chains

    @classmethod
    async def open(cls, settings: Settings, clock: Clock, stack: AsyncExitStack) -> "Desk":
        """Open what is asked; it is closed with the stack."""
        workspace = await (await open_the_workspace(settings, clock, stack)).current()
        geo = open_geo(settings, stack)
        transformer = open_transformer(settings, clock, geo, stack)
        return cls(
            settings,
            workspace,
            await open_the_stream(settings, clock, stack),
            await open_the_ledger(settings, stack),
            clock,
            lambda plan: judge_by(plan, transformer, share=False),
            Decoder(workspace.sources, geo),
            Chains(workspace, tools_of(geo)),
        )

    def warehouses(self, wanted: str = "") -> Sequence[Destination]:
        """Return the destinations that are warehouses, or the one that is wanted.

        Raises:
            SettingsError: it is none, or not there.
        """
        found = [item for item in self._workspace.destinations if _is_warehouse(item)]
        if not wanted:
            return found
        for item in found:
            if item.id == wanted:
                return [item]
        known = ", ".join(item.id for item in found) or "none"
        raise SettingsError(f"{wanted}: not a warehouse of the workspace; there are {known}")

    # ------------------------------------------------------------ how it stands

    async def status(self, destination: Destination, *, loads: int = 20) -> WarehouseStatus:
        """Return how a warehouse stands."""
        tables = self._tables(destination)
        found: dict[str, Sequence[LoaderRow]] = {}
        error = ""
        namespaces = sorted(set(tables.namespaces.values()))
        try:
            for namespace in namespaces:
                found[namespace] = await asyncio.to_thread(self._loads, tables, namespace, loads)
        except WarehouseError as trouble:
            error = str(trouble)
        folder = self._folder(destination)
        return WarehouseStatus(
            destination_id=destination.id,
            title=tables.spec.title,
            run_against=tables.spec.run_against,
            waiting=await self.waiting(destination),
            namespaces=found,
            tables={
                namespace: reports
                for namespace in namespaces
                if (reports := await asyncio.to_thread(_newest_first, folder, namespace))
            },
            failing=await self.failing(destination),
            error=error,
            worker_error=await self._worker_error(destination),
        )

    async def failing(self, destination: Destination) -> Sequence[TableStatus]:
        """Return the tables that can't be loaded, and owe something."""
        return await asyncio.to_thread(failing, self._folder(destination))

    def _folder(self, destination: Destination) -> Path:
        return folder_of(self._settings.data_path, destination.id)

    async def _worker_error(self, destination: Destination) -> str:
        shown = (await self._ledger.statuses()).get(destination.id)
        return msgspec.json.decode(shown, type=_Shown).error if shown else ""

    def _loads(self, tables: Tables, namespace: str, limit: int) -> Sequence[LoaderRow]:
        loader = tables.open(namespace)
        try:
            return loader.loads(tables.plan.destination.id, limit=limit)
        finally:
            loader.close()

    async def waiting(self, destination: Destination) -> int:
        """Return how many events of the log are not in a warehouse yet."""
        bounds = await self._stream.bounds()
        positions = await self._ledger.positions(destination.id)
        return sum(
            max(0, bounds[part].next - at.next_offset) for part, at in positions.items() if part in bounds
        )

    # ------------------------------------------------------------ a load at once

    async def ask(self, destination: Destination) -> int:
        """Ask the worker for a load at once, if events wait for one; return how many do."""
        waiting = await self.waiting(destination)
        if waiting:
            request = request_of(self._folder(destination))
            request.parent.mkdir(parents=True, exist_ok=True)
            request.touch()
        return waiting

    async def pay(self, destination: Destination) -> Sequence[Paid]:
        """Load what tables owe, here and now; return what is in. `failing` says what is not, and why.

        A worker may do the same meanwhile: a load is in once, whoever brings it.
        """
        return await writer_of(self._tables(destination), self._clock).pay()

    async def wait(self, destination: Destination, timeout_s: float) -> AsyncIterator[int]:
        """Yield how many events still wait, until none of those that waited at the beginning does.

        Raises:
            TimeoutError: the time is over: no worker runs, or the warehouse does not take it.
        """
        goal = {part: bounds.next for part, bounds in (await self._stream.bounds()).items()}
        async with asyncio.timeout(timeout_s):
            while True:
                positions = await self._ledger.positions(destination.id)
                left = sum(
                    max(0, goal[part] - at.next_offset) for part, at in positions.items() if part in goal
                )
                yield left
                if not left:
                    return
                await asyncio.sleep(_POLL_S)

    # ------------------------------------------------------------ what a load would change

    async def plan(
        self, destination: Destination, *, most: int, on_event: Callable[[], None] = lambda: None
    ) -> tuple[int, Mapping[str, Sequence[SchemaChange]]]:
        """Return how many waiting events were looked at, and what their load would change, by namespace.

        Args:
            on_event: called for each.
        """
        tables = self._tables(destination)
        wanted: dict[str, dict[str, Any]] = {}
        seen = 0
        async for event in self._waiting_events(destination, tables.plan, most):
            seen += 1
            on_event()
            try:
                namespace, rows = tables.to_rows(event)
            except RowsRefused:
                continue
            for row in rows:
                columns = wanted.setdefault(namespace, {}).setdefault(row.table, {})
                wanted[namespace][row.table] = merged_columns(columns, row.columns)
        changes = {
            namespace: await asyncio.to_thread(self._changes, tables, namespace, schema)
            for namespace, schema in wanted.items()
        }
        return seen, changes

    def _changes(self, tables: Tables, namespace: str, wanted: Schema) -> Sequence[SchemaChange]:
        loader = tables.open(namespace)
        try:
            return plan_changes(loader.fetch_schema(), wanted, loader.capabilities.widenings)
        finally:
            loader.close()

    async def _waiting_events(
        self, destination: Destination, plan: DestinationPlan, most: int
    ) -> AsyncIterator[Event]:
        judge = self._judge_of(plan)
        decode = decode_with(self._decoder)
        positions = await self._ledger.positions(destination.id)
        left = most
        for partition, bounds in (await self._stream.bounds()).items():
            at = positions.get(partition)
            offset = max(bounds.earliest, at.next_offset if at is not None else bounds.earliest)
            while offset < bounds.next and left > 0:
                try:
                    records = await self._stream.read(
                        partition, offset, max_records=min(_READ_RECORDS, left), max_bytes=_READ_BYTES
                    )
                except OffsetGone as gone:
                    offset = gone.earliest
                    continue
                if not records:
                    break
                offset = records[-1].offset + 1
                left -= len(records)
                async for event in _sent(judge, [decode(record)[1] for record in records]):
                    yield event

    # ------------------------------------------------------------ one table from the archive

    async def backfill(
        self,
        destination: Destination,
        *,
        table: str,
        archive_id: str,
        from_ms: int,
        to_ms: int,
    ) -> AsyncIterator[Filled]:
        """Load one table's rows (all tables' when `table` is empty) from an archive; yield how far it is, by file.

        Rows that are there already are replaced by themselves (by id), so it may be repeated, and run beside the live
        flow. Loads are named by the archive's files: one that is in is not loaded again.

        Raises:
            SettingsError: there is no such archive.
            WarehouseError: the engine failed; what was loaded before stays.
        """
        tables = self._tables(destination)
        archive = self._workspace.destination(archive_id)
        spec = find_spec(archive.type) if archive is not None else None
        if archive is None or spec is None or spec.kind != "files":
            raise SettingsError(f"--archive {archive_id}: not an archive of the workspace")
        reader = await asyncio.to_thread(open_archive, archive.config, self._settings.data_path)
        folder = self._folder(destination) / "backfill"
        judge = self._judge_of(tables.plan)
        events = rows = number = 0
        wanted = table.lower()
        with closing(reader):
            names = [name async for name in reader.files(from_ms=from_ms, to_ms=to_ms)]
            for done, name in enumerate(names, 1):
                gathered: dict[tuple[str, str], TableRows] = {}
                await asyncio.to_thread(_fresh, folder)
                batch: list[Event] = []
                async for archived in reader.read(name.name):
                    if not from_ms <= archived.event.received_at_ms < to_ms:
                        continue
                    number += 1
                    batch.append(self._decoder.decode(0, number, number, encode_stored(archived.event))[1])
                    if len(batch) >= _READ_RECORDS:
                        await _gather(judge, batch, tables, wanted, gathered, folder)
                        events += len(batch)
                        batch = []
                if batch:
                    await _gather(judge, batch, tables, wanted, gathered, folder)
                    events += len(batch)
                digest = hashlib.sha256(f"{name.name}|{from_ms}|{to_ms}".encode()).hexdigest()[:24]
                load = Load(
                    id=f"backfill-{digest}", cursor=f"backfill:{destination.id}", sequence=0, positions="{}"
                )
                rows += await asyncio.to_thread(self._load, tables, load, gathered, folder)
                yield Filled(done, len(names), events, rows)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _load(
        self, tables: Tables, load: Load, gathered: Mapping[tuple[str, str], TableRows], folder: Path
    ) -> int:
        loaded = 0
        for namespace in sorted({space for space, _ in gathered}):
            loader = tables.open(namespace)
            try:
                loader.check()
                for (space, _), rows in gathered.items():
                    if space == namespace:
                        rows.flush()
                        loaded += _load_whole(tables, load, loader, rows, folder)
            finally:
                loader.close()
        return loaded

    def _tables(self, destination: Destination) -> Tables:
        spec = find_spec(destination.type)
        assert spec is not None  # noqa: S101 - `warehouses` found it
        plan = compile_plan(self._workspace, destination, spec, self._chains)
        return tables_of(plan, self._decoder, self._settings.data_path)


def _newest_first(folder: Path, namespace: str) -> Sequence[TableReport]:
    return sorted(reports_of(folder, namespace).values(), key=lambda one: (-one.loaded_at_ms, one.table))


def _is_warehouse(destination: Destination) -> bool:
    spec = find_spec(destination.type)
    return spec is not None and spec.kind == "tables" and destination.config is not None


async def _sent(judge: Judge, events: Sequence[Event]) -> AsyncIterator[Event]:
    """Yield what is sent of events: themselves, or what transformations made of them."""
    for outcome in await judge(events):
        if isinstance(outcome, Send):
            for event in outcome.transformed or (outcome.event,):
                yield event


def _load_whole(tables: Tables, load: Load, loader: Loader, rows: TableRows, folder: Path) -> int:
    """Load a table's rows, and what of them does not fit."""
    found, discards = load_rows(load, loader, rows, folder, tables.spec, tables.config)
    if discards.rows:
        part = discards_of(load, rows.table)
        load_rows(part, loader, discards, folder, tables.spec, tables.config)
    return found.rows


async def _gather(
    judge: Judge,
    batch: Sequence[Event],
    tables: Tables,
    wanted: str,
    gathered: dict[tuple[str, str], TableRows],
    folder: Path,
) -> None:
    async for event in _sent(judge, batch):
        try:
            namespace, rows = tables.to_rows(event)
        except RowsRefused as refusal:
            namespace, rows = (
                refusal.namespace,
                [refused_row(event, str(refusal), naming_of(tables.spec))],
            )
        for row in rows:
            if wanted and row.table.lower() != wanted:
                continue
            place = (namespace, row.table)
            if place not in gathered:
                gathered[place] = TableRows(row.table, folder, f"{len(gathered):04d}")
            gathered[place].add(row.data, row.columns, event.sequence)


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
