"""The embedded back end as `base.Stream`: opens the directory, and puts its parts together."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal, ParamSpec, TypeVar

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger
from xxhash import xxh3_64_intdigest

from mainstem.clock import Clock
from mainstem.stream.base import (
    Bounds,
    Capabilities,
    Found,
    NotOwner,
    OffsetGone,
    OnAssign,
    OnRevoke,
    Record,
    StreamClosed,
    StreamCorrupt,
    StreamFull,
)
from mainstem.stream.embedded.appender import Appender, WriterLimits
from mainstem.stream.embedded.cache import Extent, ExtentCache, Stretch
from mainstem.stream.embedded.catalog import Catalog, segment_path
from mainstem.stream.embedded.group import FileMembership
from mainstem.stream.embedded.heads import Heads
from mainstem.stream.embedded.locks import FileLock
from mainstem.stream.embedded.meta import Meta
from mainstem.stream.embedded.reader import Reader
from mainstem.stream.embedded.segment import (
    connect,
    create_segment,
    errors_named,
    refuse_affected_sqlite,
    start_segment,
)
from mainstem.stream.embedded.twins_feed import TwinsFeed
from mainstem.stream.embedded.upkeep import Upkeep, UpkeepLimits, sync_directory
from mainstem.stream.embedded.writer import Submissions, ThreadWriter
from mainstem.stream.embedded.writer_process import ProcessWriter

_log: FilteringBoundLogger = structlog.get_logger(module=__name__)
_POLL_MIN_S: Final = 0.001
_POLL_MAX_S: Final = 0.1
P = ParamSpec("P")
T = TypeVar("T")


class EmbeddedLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the embedded stream."""

    segment_bytes: int = 256 << 20
    """A segment is closed when it has grown to this."""
    segment_age_s: float = 3600
    """A segment is closed when it is this old."""
    retention_bytes: int = 20 << 30
    """Above this the oldest segments are dropped, unless a cursor needs them. The deduplication window is never
    longer than what is held."""
    retention_age_s: float = 7 * 86_400
    """Segments with nothing younger than this are dropped, unless a cursor needs them."""
    retention_force_bytes: int | None = None
    """Above this even segments that a cursor needs are dropped: events are lost, and it is logged and counted.
    None: never."""
    dedup_window_s: float = 86_400
    """A record is a duplicate if its twin's timestamp is less than this before its own."""
    dedup_max_ids: int = 20_000_000
    """At most so many ids are remembered (and those of the active segment); costs 2 to 7 bytes each in every
    process that appends. The window is shorter when it holds more."""
    max_backlog_bytes: int = 64 << 20
    """What one process may have waiting to be stored."""
    group_bytes: int = 2 << 20
    """A commit takes no further call once it has this."""
    group_records: int = 2_000
    """A commit takes no further call once it has this."""
    wal_bytes: int = 32 << 20
    """The write-ahead log of the active segment begins anew at about this size. From then on its blocks are
    written again instead of the file growing: half the time and half the CPU of a commit's fsync."""
    min_free_bytes: int = 64 << 20
    """Nothing is appended while the disk has less: the pipeline can still write its books and drain."""
    cache_bytes: int = 32 << 20
    """Decoded records kept for readers at about the same place."""
    writer: Literal["thread", "process"] = "thread"
    """What commits. A process of its own shares no interpreter lock with a busy event loop: for gateways."""


class EmbeddedStream:
    """A stream in a directory. Made by `open_embedded`."""

    def __init__(
        self,
        directory: Path,
        meta: Meta,
        catalog: Catalog,
        heads: Heads,
        clock: Clock,
        limits: EmbeddedLimits,
    ) -> None:
        self._directory = directory
        self._meta = meta
        self._catalog = catalog
        self._heads = heads
        self._clock = clock
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(catalog, meta)
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="stream-reader")
        self._cache = ExtentCache(meta.partitions, limits.cache_bytes)
        self._reading: dict[int | tuple[int, int], asyncio.Task[Stretch | None]] = {}
        self._producer: Submissions | None = None
        self._producer_lock = asyncio.Lock()
        self._appender: Appender | None = None
        self._members: list[tuple[str, FileMembership]] = []
        self._waiters: set[asyncio.Future[None]] = set()
        self._poller: asyncio.Task[None] | None = None
        self._closed = False
        self._writer_limits = WriterLimits(
            max_backlog_bytes=limits.max_backlog_bytes,
            group_bytes=limits.group_bytes,
            group_records=limits.group_records,
            dedup_window_ms=round(limits.dedup_window_s * 1000),
            dedup_max_ids=limits.dedup_max_ids,
        )
        upkeep_limits = UpkeepLimits(
            segment_bytes=limits.segment_bytes,
            segment_age_ms=round(limits.segment_age_s * 1000),
            retention_bytes=limits.retention_bytes,
            retention_age_ms=round(limits.retention_age_s * 1000),
            retention_force_bytes=limits.retention_force_bytes,
            wal_bytes=limits.wal_bytes,
            min_free_bytes=limits.min_free_bytes,
        )
        self._upkeep = Upkeep(directory, catalog, meta, upkeep_limits, clock, self._on_tips)

    @property
    def partitions(self) -> int:
        return self._meta.partitions

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(durable=True, deduplicates=True, finds=True, many_processes=True)

    async def producer(self) -> Submissions:
        """Return the writing end: one for the whole process, with a thread or a process that commits."""
        self._refuse_if_closed()
        async with self._producer_lock:
            if self._producer is None:
                start = self._start_process if self._limits.writer == "process" else self._start_thread
                self._producer = await start()
                self._producer.on_commit = self._wake
                self._upkeep.start()
            return self._producer

    async def _start_thread(self) -> ThreadWriter:
        self._heads.claim()
        limits = self._writer_limits
        appender = Appender(self._directory, self._catalog, self._heads, limits)
        try:
            await self._in_thread(appender.prepare)
        except BaseException:
            appender.close()
            raise
        self._appender = appender
        self._upkeep.twins = TwinsFeed(appender, self._catalog, self._clock, limits)
        return ThreadWriter(appender, limits, self._clock, lambda: self._upkeep.refusal)

    async def _start_process(self) -> ProcessWriter:
        writer = ProcessWriter(
            self._directory, self.partitions, self._writer_limits, self._clock, lambda: self._upkeep.refusal
        )
        await writer.start()
        return writer

    # ------------------------------------------------------------ reading

    async def read(
        self, partition: int, offset: int, *, max_records: int, max_bytes: int
    ) -> Sequence[Record]:
        self._refuse_if_closed()
        if offset < self._catalog.segments()[0].firsts[partition]:
            await self._in_thread(self._catalog.refresh)
            earliest = self._catalog.segments()[0].firsts[partition]
            raise OffsetGone(partition, offset, earliest)
        taken: list[Record] = []
        size = 0
        while len(taken) < max_records:
            extent = self._cache.find(partition, offset)
            if extent is None:
                if offset >= self._heads.nexts()[partition]:
                    break
                if taken:
                    # Enough for one call; what follows is read when it is asked for.
                    break
                extent = await self._load(partition, offset)
                if extent is None:
                    break
            for record in extent.records[
                offset - extent.first : offset - extent.first + max_records - len(taken)
            ]:
                size += len(record.key) + len(record.value)
                if taken and size > max_bytes:
                    return taken
                taken.append(record)
            offset = taken[-1].offset + 1
        return taken

    async def _load(self, partition: int, offset: int) -> Extent | None:
        """Read until the offset is held; None if it is not there.

        Whoever reads on from the end of the same stretch shares one read, whatever its partition.
        """
        while True:
            sequence = self._cache.end_at(partition, offset)
            key = (partition, offset) if sequence is None else sequence
            reading = self._reading.get(key)
            if reading is None:
                reading = self._loop.create_task(self._fetch(key, partition, offset, sequence))
                self._reading[key] = reading
            stretch = await asyncio.shield(reading)
            if stretch is None:
                return None
            for extent in stretch.extents:
                if extent.partition == partition and extent.first <= offset < extent.next:
                    return extent
            if stretch.nexts[partition] != offset:
                return None
            self._refuse_if_closed()

    async def _fetch(
        self, key: int | tuple[int, int], partition: int, offset: int, sequence: int | None
    ) -> Stretch | None:
        """Read a stretch, and keep it before anybody can see that it was read.

        With a callback of the read instead, whoever came between its end and the callback would find the finished
        read and the old cache, again and again: awaiting what is finished never gives the loop its turn.
        """
        try:
            self._refuse_if_closed()
            stretch = await self._loop.run_in_executor(
                self._threads, self._reader.stretch, partition, offset, sequence
            )
        finally:
            del self._reading[key]
        if stretch is not None:
            self._cache.add(stretch)
        return stretch

    async def wait(self, positions: Mapping[int, int], *, timeout_s: float) -> bool:
        self._refuse_if_closed()
        if self._has_any(positions):
            return True
        self._upkeep.start()
        deadline = self._loop.time() + timeout_s
        while True:
            waiter = self._loop.create_future()
            self._waiters.add(waiter)
            if self._poller is None or self._poller.done():
                self._poller = asyncio.create_task(self._poll())
            try:
                # Not `wait_for`: it swallows a cancellation that comes as the waiter is woken (Python 3.11).
                async with asyncio.timeout_at(deadline):
                    await waiter
            except TimeoutError:
                return self._has_any(positions)
            finally:
                self._waiters.discard(waiter)
            self._refuse_if_closed()
            if self._has_any(positions):
                return True

    async def _poll(self) -> None:
        """Listen to other processes' bells while somebody waits: often after a ring, seldom when it is quiet."""
        pause_s = _POLL_MIN_S
        while self._waiters and not self._closed:
            if self._heads.changed():
                pause_s = _POLL_MIN_S
                self._wake()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.2, _POLL_MAX_S)

    async def bounds(self) -> Mapping[int, Bounds]:
        self._refuse_if_closed()
        bounds = await self._in_thread(self._reader.bounds)
        self._cache.drop_before([bounds[partition].earliest for partition in range(self.partitions)])
        return bounds

    async def offset_at(self, partition: int, timestamp_ms: int) -> int:
        return await self._in_thread(self._reader.offset_at, partition, timestamp_ms)

    async def find(self, dedup_key: bytes) -> Sequence[Found]:
        if not dedup_key:
            return []
        return await self._in_thread(self._reader.find, dedup_key, xxh3_64_intdigest(dedup_key) or 1)

    # ------------------------------------------------------------ cursors and groups

    async def committed(self, cursor: str) -> Mapping[int, int]:
        return (await self._in_thread(self._meta.cursors)).get(cursor, {})

    async def commit(self, cursor: str, next_offsets: Mapping[int, int]) -> None:
        self._refuse_if_closed()
        members = [member for group, member in self._members if group == cursor]
        if members:
            owned = frozenset[int]().union(*(member.partitions for member in members))
            foreign = sorted(next_offsets.keys() - owned)
            if foreign:
                raise NotOwner(f"group {cursor!r}: partitions {foreign} are owned by no member here")
        await self._in_thread(self._meta.commit, cursor, dict(next_offsets))

    async def cursors(self) -> Mapping[str, Mapping[int, int]]:
        return await self._in_thread(self._meta.cursors)

    async def forget(self, cursor: str) -> None:
        await self._in_thread(self._meta.forget, cursor)

    async def join(
        self, group: str, *, on_assign: OnAssign, on_revoke: OnRevoke, seat: str = ""
    ) -> FileMembership:
        self._refuse_if_closed()
        member = FileMembership(self._directory, group, self.partitions, on_assign, on_revoke, seat)
        self._members.append((group, member))
        await member.start()
        self._upkeep.start()
        return member

    # ------------------------------------------------------------ books and health

    async def tallies(self) -> Mapping[tuple[str, int], int]:
        counts: Counter[tuple[str, int]] = Counter()
        for tally, hour, appended, _ in await self._in_thread(self._reader.tallies):
            counts[tally, hour] += appended
        return dict(+counts)

    async def duplicates(self) -> Mapping[tuple[str, int], int]:
        counts: Counter[tuple[str, int]] = Counter()
        for tally, hour, _, duplicates in await self._in_thread(self._reader.tallies):
            counts[tally, hour] += duplicates
        return dict(+counts)

    async def check(self) -> None:
        self._refuse_if_closed()
        await self._in_thread(self._upkeep.look)
        if self._upkeep.refusal is not None:
            raise StreamFull(self._upkeep.refusal)
        if self._upkeep.trouble is not None:
            raise self._upkeep.trouble
        bounds = await self._in_thread(self._reader.bounds)
        for partition, held in bounds.items():
            for offset in {held.earliest, held.next - 1} if held.next > held.earliest else ():
                await self._in_thread(self._reader.probe, partition, offset)

    async def verify(self) -> int:
        """Read everything and compare checksums; return the number of records held.

        Raises:
            StreamCorrupt: names the file and the place.
        """
        return await self._in_thread(self._reader.verify)

    async def upkeep(self) -> None:
        """Do now what is due: rotation, indexes, retention. Otherwise a thread does it every second."""
        await self._in_thread(self._upkeep.once)
        firsts = self._catalog.segments()[0].firsts
        self._cache.drop_before(firsts)

    async def close(self) -> None:
        if self._closed:
            return
        if self._producer is not None:
            await self._producer.close()
        for _, member in self._members:
            await member.leave()
        self._closed = True
        self._wake()
        if self._poller is not None:
            self._poller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poller
        await self._loop.run_in_executor(None, self._close_files)

    # ------------------------------------------------------------ own

    def _close_files(self) -> None:
        self._threads.shutdown()
        self._upkeep.stop()
        if self._appender is not None:
            self._appender.close()
        self._reader.close()
        self._meta.close()
        self._heads.close()

    def _has_any(self, positions: Mapping[int, int]) -> bool:
        nexts = self._heads.nexts()
        return any(nexts[partition] > offset for partition, offset in positions.items())

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _on_tips(self, nexts: list[int]) -> None:
        """From the upkeep thread: what the database says."""

        def take() -> None:
            if not self._closed:
                self._heads.raise_to(nexts)
                self._wake()

        with contextlib.suppress(RuntimeError):
            # The loop is gone when the process ends without `close`.
            self._loop.call_soon_threadsafe(take)

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._refuse_if_closed()
        return await self._loop.run_in_executor(self._threads, lambda: work(*args, **kwargs))

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StreamClosed("the stream is closed")


async def open_embedded(
    directory: Path, *, partitions: int, clock: Clock, limits: EmbeddedLimits | None = None
) -> EmbeddedStream:
    """Open, or make, the stream in a directory.

    `partitions` counts when it is made; afterwards the directory's own number holds.

    Raises:
        StreamCorrupt: a file is damaged or missing; the text names it.
        StreamError: this SQLite may corrupt the files, or a newer version wrote them.
    """
    refuse_affected_sqlite()
    if not 1 <= partitions < 1 << 15:
        raise ValueError("a stream has 1 to 32767 partitions")
    limits = limits or EmbeddedLimits()
    meta, catalog, heads = await asyncio.to_thread(_open_files, directory, partitions, clock)
    if meta.partitions != partitions:
        _log.warning("the stream keeps its partitions", partitions=meta.partitions, asked=partitions)
    stream = EmbeddedStream(directory, meta, catalog, heads, clock, limits)
    try:
        bounds = await stream.bounds()
    except BaseException:
        await stream.close()
        raise
    heads.raise_to([bounds[partition].next for partition in range(meta.partitions)])
    return stream


def _open_files(directory: Path, partitions: int, clock: Clock) -> tuple[Meta, Catalog, Heads]:
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / "write.lock")
    try:
        with lock:
            meta = Meta(directory / "meta.db", partitions)
            try:
                catalog = Catalog(directory, meta)
                if not catalog.refresh():
                    if meta.made():
                        missing = segment_path(directory, meta.dropped() + 1)
                        raise StreamCorrupt(f"{missing} is missing, and so is every other segment")
                    _make_first(directory, meta, clock)
                    catalog.refresh()
                if not meta.made():
                    meta.set_made()
                heads = Heads(directory, meta.partitions)
            except BaseException:
                meta.close()
                raise
    finally:
        lock.close()
    return meta, catalog, heads


def _make_first(directory: Path, meta: Meta, clock: Clock) -> None:
    path = segment_path(directory, 1)
    create_segment(path, 1, clock.now_ms())
    with errors_named(path):
        connection = connect(path)
        try:
            start_segment(connection, [0] * meta.partitions, 0)
        finally:
            connection.close()
    sync_directory(directory)
