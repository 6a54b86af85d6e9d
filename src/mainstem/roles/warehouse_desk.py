"""What people ask of a warehouse: how it stands, a load at once, what a load would change, one table from the archive.

Works beside a running worker, and without one. A load of new events is carried out by the worker; here it is asked for.
"""

import asyncio
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
from mainstem.roles.backfill import Backfill, Filled
from mainstem.roles.rooms import open_geo, open_the_ledger, open_the_stream, open_the_workspace
from mainstem.roles.sandboxes import open_transformer, tools_of
from mainstem.roles.warehouses import Tables, tables_of, writer_of
from mainstem.settings import Settings
from mainstem.stream.base import OffsetGone, Stream
from mainstem.warehouse.loader import LoaderRow, WarehouseError
from mainstem.warehouse.measures import TableReport, reports_of
from mainstem.warehouse.rows import RowsRefused
from mainstem.warehouse.schema import Schema, SchemaChange, merged_columns, plan_changes
from mainstem.warehouse.writer import (
    Paid,
    TableStatus,
    failing,
    folder_of,
    request_of,
)
from mainstem.workspace.model import Destination, Workspace

_READ_RECORDS: Final = 500
_READ_BYTES: Final = 4 * 1024 * 1024
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
        again: bool = False,
    ) -> AsyncIterator[Filled]:
        """Load one table's rows (all tables' when `table` is empty) from an archive; yield how far it is, by file.

        Rows that are there already are replaced by themselves (by id), so it may be repeated, and run beside the live
        flow. Loads are named by the archive's files: one that is in is not loaded again. A table that can't be loaded
        does not hold up the others: it is passed over from then on, and told.

        Args:
            again: load too what an earlier backfill has loaded: rows of it were removed since.

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
        judge = self._judge_of(tables.plan)
        events = 0
        name = f"{from_ms}|{to_ms}" + (f"|{self._clock.now_ms()}" if again else "")
        with closing(reader):
            files = [file.name async for file in reader.files(from_ms=from_ms, to_ms=to_ms)]
            loads = self._folder(destination) / "loads"
            with closing(Backfill(tables, loads, table=table.lower(), name=name)) as filling:
                for done, file in enumerate(files, 1):
                    batch: list[Event] = []
                    async for archived in reader.read(file):
                        if not from_ms <= archived.event.received_at_ms < to_ms:
                            continue
                        events += 1
                        batch.append(
                            self._decoder.decode(0, events, events, encode_stored(archived.event))[1]
                        )
                        if len(batch) >= _READ_RECORDS:
                            await asyncio.to_thread(filling.add, [one async for one in _sent(judge, batch)])
                            batch = []
                    await asyncio.to_thread(filling.add, [one async for one in _sent(judge, batch)])
                    await asyncio.to_thread(filling.end_file, file, last=done == len(files))
                    yield Filled(done, len(files), events, filling.rows, filling.already, filling.failed)

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
