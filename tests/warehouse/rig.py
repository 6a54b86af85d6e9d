"""A warehouse over a log in memory: events in, rows out, with faults wherever they are wanted."""

import contextlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mainstem.bulk.errors import BulkError
from mainstem.bulk.gatherer import Gatherer
from mainstem.bulk.plan import Verdict
from mainstem.clock import Clock, FixedClock
from mainstem.events.canonical import Event, canonical_event
from mainstem.events.ordering import ordering_key
from mainstem.events.stored import StoredEvent, decode_stored, encode_stored
from mainstem.ledger.base import CountKey, Ledger, LedgerError
from mainstem.ledger.memory import MemoryLedger
from mainstem.stream.base import NewRecord, Record, Stream
from mainstem.stream.memory import MemoryStream
from mainstem.warehouse.kinds import kept
from mainstem.warehouse.loader import Loader, LoaderSpec
from mainstem.warehouse.loaders import duckdb
from mainstem.warehouse.naming import engine_of
from mainstem.warehouse.rows import Facts, Row, RowsRefused, compile_rows, options_of
from mainstem.warehouse.settings import WarehouseSettings
from mainstem.warehouse.shapes import Shapes
from mainstem.warehouse.writer import WarehouseWriter

PARTITIONS = 4
START_MS = 1_795_416_000_000
CURSOR = "house"

Fault = Callable[[str], None]
"""Called with the name of each step (`before load tracks`, `after evolve` …); raises to fail there."""


class Broken(BulkError):
    """What the tests break things with."""


def track(number: int, *, name: str = "Order Completed", user: str = "", **properties: Any) -> StoredEvent:
    """A track: always the same one for a number."""
    body = {
        "type": "track",
        "event": name,
        "userId": user or f"user-{number % 7}",
        "messageId": f"m{number}",
        "properties": {"n": number, **properties},
    }
    return _stored(number, "track", body)


def identify(number: int, user: str, **traits: Any) -> StoredEvent:
    """An identify."""
    return _stored(
        number, "identify", {"type": "identify", "userId": user, "messageId": f"m{number}", "traits": traits}
    )


def _stored(number: int, kind: str, body: Mapping[str, Any]) -> StoredEvent:
    return StoredEvent(
        source_id="web",
        message_id=f"m{number}",
        type=kind,
        received_at_ms=START_MS + number * 1000,
        raw=msgspec.json.encode(body),
    )


class _Watched:
    """A loader whose every step may fail, before it or after it."""

    def __init__(self, inner: Loader, fault: Fault) -> None:
        self._inner = inner
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in ("check", "fetch_schema", "evolve", "load", "close"):
            return found

        def step(*arguments: Any) -> Any:
            what = f"{name} {arguments[1].table}" if name == "load" else name
            if name != "close":
                self._fault(f"before {what}")
            result = found(*arguments)
            if name != "close":
                try:
                    self._fault(f"after {what}")
                except BaseException:
                    raise
            return result

        return step


class Rig:
    """One warehouse in a folder."""

    def __init__(
        self,
        folder: Path,
        *,
        config: WarehouseSettings | None = None,
        fault: Fault = lambda _: None,
        stream: Stream | None = None,
        ledger: Ledger | None = None,
        clock: Clock | None = None,
        spec: LoaderSpec = duckdb.SPEC,
        namespace: str = "shop",
    ) -> None:
        self.folder = folder
        self.config = config or duckdb.Config(sync_frequency=0.0001)
        self.fault = fault
        self.stream: Stream = stream or MemoryStream(partitions=PARTITIONS)
        self.ledger: Ledger = ledger or MemoryLedger()
        self.clock = clock or FixedClock(START_MS)
        self._spec = spec
        self._namespace = namespace
        self._compiled = compile_rows(options_of(self.config, spec.provider))

    def writer(self) -> WarehouseWriter:
        """A writer, as a process that just started has one."""

        def open_(config: Any, namespace: str, data_dir: Path) -> Loader:
            self.fault("before open")
            return _Watched(self._spec.open(config, namespace, data_dir), self.fault)

        spec: LoaderSpec = msgspec.structs.replace(self._spec, open=open_)
        return WarehouseWriter(
            destination_id=CURSOR,
            spec=spec,
            config=self.config,
            decode=canonical_event,
            to_rows=self._to_rows,
            shapes=Shapes(self._to_rows, kept(engine_of(self._spec.provider)), worth_it=3),
            data_dir=self.folder,
            clock=self.clock,
        )

    def _to_rows(self, event: Event) -> tuple[str, Sequence[Row]]:
        try:
            return self._namespace, self._compiled(event.message, Facts(source_id="web"))
        except RowsRefused as refusal:
            refusal.namespace = self._namespace
            raise

    async def gatherer(self, partitions: Iterable[int] = range(PARTITIONS)) -> Gatherer:
        """A gatherer that owns partitions."""

        async def judge(records: Sequence[Record]) -> Sequence[Verdict]:
            stored = [decode_stored(record.value) for record in records]
            return [
                Verdict(CountKey(one.source_id, one.received_at_ms // 3_600_000, "delivered"))
                for one in stored
            ]

        made = Gatherer(
            cursor=CURSOR,
            destination=CURSOR,
            writer=self.writer(),
            stream=self.stream,
            ledger=self.ledger,
            clock=self.clock,
            judge=judge,
            spool_dir=self.folder / "spool",
        )
        wanted = tuple(partitions)
        positions = await self.ledger.open_cursor(CURSOR, dict.fromkeys(wanted, 0))
        await made.assign({partition: positions[partition] for partition in wanted})
        return made

    async def append(self, events: Iterable[StoredEvent]) -> None:
        """Append events as the gateway does."""
        producer = await self.stream.producer()
        records = []
        for stored in events:
            event = canonical_event(stored)
            key = ordering_key(stored.source_id, event.user_id, event.anonymous_id).encode()
            records.append(
                NewRecord(key=key, value=encode_stored(stored), timestamp_ms=stored.received_at_ms)
            )
        await producer.append(records)

    async def load(self, *, tries: int = 1) -> None:
        """Load what waits; a try that fails is one of a process that ended there."""
        for attempt in range(tries):
            try:
                await (await self.gatherer()).flush_now()
                return
            except (BulkError, LedgerError, OSError):
                if attempt + 1 == tries:
                    raise

    def rows(self, sql: str) -> list[Any]:
        """Ask the warehouse."""
        with contextlib.closing(duckdb.DuckdbLoader(self.folder / "warehouse.duckdb", "shop")) as loader:
            return [tuple(row) for row in loader.query(sql)]

    def ids(self, table: str) -> Counter[str]:
        """The messageIds in a table, and how often."""
        return Counter(row[0] for row in self.rows(f"SELECT id FROM shop.{table}"))

    def wipe(self) -> None:
        """Remove what a process leaves in its spool when it is killed."""
        shutil.rmtree(self.folder / "warehouse" / CURSOR / "loads", ignore_errors=True)
