"""What the archive tests share: a log of known events, rules, and the question "exactly once?"."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from mainstem.bulk.gatherer import Gatherer
from mainstem.bulk.plan import Judge, Verdict
from mainstem.bulk.writer import Writer
from mainstem.clock import Clock, FixedClock
from mainstem.destinations import iceberg_archive
from mainstem.destinations.archive import Config
from mainstem.events.ordering import ordering_key
from mainstem.events.stored import StoredEvent, decode_stored, encode_stored
from mainstem.lake.archive_writer import ArchiveWriter
from mainstem.lake.iceberg_writer import IcebergWriter
from mainstem.lake.line import ArchivedEvent
from mainstem.lake.open import open_archive
from mainstem.lake.reader import Archive, ArchiveReader, events_of
from mainstem.lake.store import LocalStore, Store
from mainstem.ledger.base import CountKey, Ledger
from mainstem.ledger.memory import MemoryLedger
from mainstem.stream.base import NewRecord, Record, Stream
from mainstem.stream.memory import MemoryStream

START_MS = 1_795_416_000_000  # 2026-11-23T06:40:00Z
PARTITIONS = 4
CURSOR = "archive"

Evaluate = Callable[[Record], CountKey]
Instead = Callable[[Record], tuple[StoredEvent, ...] | None]


def judge_by(evaluate: Evaluate, instead: Instead) -> Judge:
    """Rules for one record as the archiver takes them."""

    async def verdicts(records: Sequence[Record]) -> Sequence[Verdict]:
        return [Verdict(evaluate(record), instead(record), "in the code") for record in records]

    return verdicts


def event(
    number: int, *, users: int = 7, source: str = "", at_ms: int | None = None, **more: Any
) -> StoredEvent:
    """The event of this number: always the same one. Every 10th was rejected by the gateway."""
    source = source or ("web", "app/1")[number % 2]
    user = f"user-{number % users}"
    body = {
        "type": "track",
        "event": "Order Completed",
        "userId": user,
        "messageId": f"m{number}",
        "big": 12345678901234567890123,
        "n": number,
    }
    rejected = number % 10 == 9
    return StoredEvent(
        source_id=source,
        message_id=f"m{number}",
        type="track",
        # Ten minutes apart per event: a few events make several hours.
        received_at_ms=START_MS + number * 600_000 if at_ms is None else at_ms,
        raw=json.dumps(body).encode(),
        request_ip="10.1.2.3",
        kind="rejected" if rejected else "event",
        reason="userId: too long" if rejected else "",
        **more,
    )


async def append(stream: Stream, events: Iterable[StoredEvent]) -> None:
    """Append events as the gateway does."""
    producer = await stream.producer()
    records = []
    for item in events:
        user = re.search(rb'"userId": "([^"]+)"', item.raw)
        key = ordering_key(item.source_id, user[1].decode() if user else "", "").encode()
        records.append(NewRecord(key=key, value=encode_stored(item), timestamp_ms=item.received_at_ms))
    await producer.append(records)


def keep_all(record: Record) -> CountKey:
    """No rules: rejected stays rejected, the rest is delivered."""
    stored = decode_stored(record.value)
    outcome = "rejected" if stored.kind == "rejected" else "delivered"
    return CountKey(stored.source_id, stored.received_at_ms // 3_600_000, outcome, stored.reason)


def with_rules(record: Record) -> CountKey:
    """Every 7th is filtered, m13 is dead."""
    verdict = keep_all(record)
    number = int(decode_stored(record.value).message_id[1:])
    if verdict.outcome != "delivered":
        return verdict
    if number == 13:
        return CountKey(verdict.source_id, verdict.hour, "dead", "no mapping")
    if number % 7 == 0:
        return CountKey(verdict.source_id, verdict.hour, "filtered", "filter:sevenths")
    return verdict


def as_it_was(_: Record) -> None:
    """No transformations."""
    return


def changed(record: Record) -> tuple[StoredEvent, ...] | None:
    """Every third event is doubled, every third changed, every third left alone."""
    stored = decode_stored(record.value)
    number = int(stored.message_id[1:])
    if number % 3 == 0:
        return None
    parts = range(1, number % 3 + 1)
    return tuple(
        msgspec.structs.replace(stored, raw=b'{"part":%d}' % part, message_id=f"{stored.message_id}:{part}")
        for part in parts
    )


async def all_records(stream: Stream) -> Sequence[Record]:
    records: list[Record] = []
    for partition, held in (await stream.bounds()).items():
        offset = held.earliest
        while offset < held.next:
            some = await stream.read(partition, offset, max_records=1000, max_bytes=1 << 30)
            records.extend(some)
            offset = some[-1].offset + 1
    return records


async def stepped(gatherer: Gatherer) -> bool:
    """One step, and what it began to write is in."""
    more = await gatherer.step()
    await gatherer.written()
    return more


class IcebergPlace(msgspec.Struct, frozen=True):
    """Where an archive's table is, as `Store` is where files are."""

    data_dir: Path
    settings: iceberg_archive.Config = iceberg_archive.Config()

    def config(self, like: Config) -> iceberg_archive.Config:
        """The settings, with the limits of an archive of files."""
        return msgspec.structs.replace(
            self.settings,
            max_events=like.max_events,
            max_bytes=like.max_bytes,
            max_age_s=like.max_age_s,
            include_rejected=like.include_rejected,
        )


Place = Store | IcebergPlace


def opened(place: Place, prefix: str = "") -> Archive:
    """The archive in a place, to be read."""
    if isinstance(place, IcebergPlace):
        return open_archive(place.settings, place.data_dir)
    return ArchiveReader(place, prefix)


def written(place: Place, config: Config, clock: Clock, spool: Path | None) -> Writer:
    """The archive in a place, to be written."""
    if isinstance(place, IcebergPlace):
        return IcebergWriter(place.config(config), place.data_dir, clock, spool)
    return ArchiveWriter(config, place, spool)


class Rig:
    """A log, a ledger, a store; archivers come and go."""

    def __init__(
        self,
        store: Place,
        *,
        spool: Path | None = None,
        ledger: Ledger | None = None,
        stream: Stream | None = None,
        clock: Clock | None = None,
        config: Config | None = None,
        evaluate: Evaluate = keep_all,
        instead: Instead = as_it_was,
    ) -> None:
        self.place = store
        self.clock = clock or FixedClock(START_MS)
        self.stream: Stream = stream or MemoryStream(partitions=PARTITIONS)
        self.ledger: Ledger = ledger or MemoryLedger()
        self.config = config or Config()
        self.evaluate = evaluate
        self.instead = instead
        self.spool = spool

    @property
    def store(self) -> Store:
        """The place, where it is one of files."""
        assert not isinstance(self.place, IcebergPlace)
        return self.place

    def archiver(self, **changed: Any) -> Gatherer:
        place, config = changed.pop("store", self.place), changed.pop("config", self.config)
        parts: dict[str, Any] = {
            "cursor": CURSOR,
            "destination": CURSOR,
            "writer": written(place, config, self.clock, self.spool),
            "stream": self.stream,
            "ledger": self.ledger,
            "clock": self.clock,
            "spool_dir": self.spool,
            "judge": judge_by(changed.pop("evaluate", self.evaluate), changed.pop("instead", self.instead)),
            **changed,
        }
        return Gatherer(**parts)

    async def assigned(self, partitions: Iterable[int] = range(PARTITIONS), **changed: Any) -> Gatherer:
        """An archiver that owns partitions, as the role starts one."""
        archiver = self.archiver(**changed)
        wanted = tuple(partitions)
        ledger = changed.get("ledger", self.ledger)
        positions = await ledger.open_cursor(CURSOR, dict.fromkeys(wanted, 0))
        await archiver.assign({partition: positions[partition] for partition in wanted})
        return archiver

    async def assert_exactly_once(
        self, *, prefixes: Sequence[str] = ("",), evaluate: Evaluate | None = None, settled: bool = True
    ) -> None:
        """The files hold each planned event once, as it was, in order; the books say the same."""
        evaluate = evaluate or self.evaluate
        for rejected in (False, True):
            found: list[ArchivedEvent] = []
            for prefix in prefixes:
                with closing(opened(self.place, prefix)) as reader:
                    found += [item async for item in events_of(reader, rejected=rejected)]
            expected = {
                (record.partition, record.offset): list(
                    self.instead(record) or (decode_stored(record.value),)
                )
                for record in await all_records(self.stream)
                if evaluate(record).outcome == ("rejected" if rejected else "delivered")
            }
            events: dict[tuple[int, int], list[StoredEvent]] = {}
            for item in found:
                events.setdefault((item.partition, item.offset), []).append(item.event)
            assert events == expected
            if len(prefixes) == 1:
                assert_order(found)
        if settled:
            ends = {partition: held.next for partition, held in (await self.stream.bounds()).items()}
            positions = await self.ledger.positions(CURSOR)
            assert {partition: at.next_offset for partition, at in positions.items()} == ends
            books: Mapping[CountKey, int] = Counter(
                evaluate(record) for record in await all_records(self.stream)
            )
            assert dict(await self.ledger.counts(CURSOR)) == dict(books)


def assert_order(found: Sequence[ArchivedEvent]) -> None:
    """Hours come in order; within one, events of a source and partition come in the order of the log."""
    last: dict[tuple[str, int], tuple[int, int]] = {}
    for item in found:
        place = (item.event.source_id, item.partition)
        now = (item.event.received_at_ms // 3_600_000, item.offset)
        assert now >= last.get(place, (-1, -1))
        last[place] = now


async def names(store: Store) -> list[str]:
    return sorted([found.name async for found in store.list("")])


async def contents(store: Store) -> dict[str, bytes]:
    return {name: await store.get(name) for name in await names(store)}


def local(path: Path) -> LocalStore:
    return LocalStore(path / "archive")
