"""The stream in memory: the semantics of `base` in one process, without a disk.

Used by dry runs and tests, and as the model that the durable back ends are compared with. Everything happens
on one event loop; "durable" means applied, in the loop's next turn.
"""

import asyncio
import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from mainstem.clock import Clock, SystemClock
from mainstem.stream.base import (
    AppendResult,
    Bounds,
    Capabilities,
    Done,
    Found,
    NewRecord,
    NotOwner,
    OffsetGone,
    OnAssign,
    OnRevoke,
    Record,
    StreamClosed,
    StreamError,
    StreamOverloaded,
    partition_of,
)

_HOUR_MS = 3_600_000
_DAY_S = 86_400.0


class _Twin(msgspec.Struct, frozen=True):
    """Where, and when, a deduplication key was appended."""

    found: Found
    timestamp_ms: int


class MemoryStream:
    """A stream that ends with its process.

    Args:
        partitions: how many partitions.
        clock: not needed by the semantics (times are the records'); taken so that all back ends open alike.
        dedup_window_s: a record is a duplicate if its twin's timestamp is less than this before its own.
        max_backlog_bytes: bound of what one producer may have waiting.
    """

    def __init__(
        self,
        *,
        partitions: int = 8,
        clock: Clock | None = None,
        dedup_window_s: float = _DAY_S,
        max_backlog_bytes: int = 64 << 20,
    ) -> None:
        if partitions < 1:
            raise ValueError("a stream has at least one partition")
        self._clock = clock or SystemClock()
        self._window_ms = round(dedup_window_s * 1000)
        self._max_backlog_bytes = max_backlog_bytes
        self._held: list[list[Record]] = [[] for _ in range(partitions)]
        self._earliest = [0] * partitions
        self._sequence = 0
        self._twins: dict[bytes, list[_Twin]] = {}
        self._tallies: Counter[tuple[str, int]] = Counter()
        self._duplicates: Counter[tuple[str, int]] = Counter()
        self._cursors: dict[str, dict[int, int]] = {}
        self._groups: dict[str, list[_Member]] = {}
        self._producers: list[_MemoryProducer] = []
        self._waiters: set[asyncio.Future[None]] = set()
        self._closed = False

    @property
    def partitions(self) -> int:
        return len(self._held)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(durable=False, deduplicates=True, finds=True, many_processes=False)

    async def producer(self) -> "_MemoryProducer":
        self._refuse_if_closed()
        producer = _MemoryProducer(self, self._max_backlog_bytes)
        self._producers.append(producer)
        return producer

    async def read(
        self, partition: int, offset: int, *, max_records: int, max_bytes: int
    ) -> Sequence[Record]:
        self._refuse_if_closed()
        earliest = self._earliest[partition]
        if offset < earliest:
            raise OffsetGone(partition, offset, earliest)
        taken: list[Record] = []
        size = 0
        for record in self._held[partition][offset - earliest : offset - earliest + max_records]:
            size += len(record.key) + len(record.value)
            if taken and size > max_bytes:
                break
            taken.append(record)
        return taken

    async def wait(self, positions: Mapping[int, int], *, timeout_s: float) -> bool:
        async def until_some() -> None:
            while not self._has_any(positions):
                self._refuse_if_closed()
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.add(waiter)
                try:
                    await waiter
                finally:
                    self._waiters.discard(waiter)

        self._refuse_if_closed()
        if self._has_any(positions):
            return True
        try:
            # Not `wait_for`: it swallows a cancellation that comes as the waiter is woken (Python 3.11).
            async with asyncio.timeout(timeout_s):
                await until_some()
        except TimeoutError:
            return False
        return True

    async def bounds(self) -> Mapping[int, Bounds]:
        self._refuse_if_closed()
        return {
            partition: Bounds(self._earliest[partition], self._next(partition)) for partition in self._all()
        }

    async def offset_at(self, partition: int, timestamp_ms: int) -> int:
        self._refuse_if_closed()
        held = self._held[partition]
        newest_so_far: list[int] = []
        for record in held:
            newest_so_far.append(max(record.timestamp_ms, newest_so_far[-1] if newest_so_far else 0))
        return self._earliest[partition] + bisect.bisect_left(newest_so_far, timestamp_ms)

    async def committed(self, cursor: str) -> Mapping[int, int]:
        self._refuse_if_closed()
        return dict(self._cursors.get(cursor, {}))

    async def commit(self, cursor: str, next_offsets: Mapping[int, int]) -> None:
        self._refuse_if_closed()
        members = self._groups.get(cursor)
        if members is not None:
            owned = frozenset[int]().union(*(member.partitions for member in members))
            foreign = sorted(next_offsets.keys() - owned)
            if foreign:
                raise NotOwner(f"group {cursor!r}: partitions {foreign} are owned by no member here")
        self._cursors.setdefault(cursor, {}).update(next_offsets)

    async def cursors(self) -> Mapping[str, Mapping[int, int]]:
        self._refuse_if_closed()
        return {name: dict(offsets) for name, offsets in self._cursors.items()}

    async def forget(self, cursor: str) -> None:
        self._refuse_if_closed()
        self._cursors.pop(cursor, None)

    async def join(
        self, group: str, *, on_assign: OnAssign, on_revoke: OnRevoke, seat: str = ""
    ) -> "_Member":
        self._refuse_if_closed()
        member = _Member(self, group, on_assign, on_revoke, seat)
        self._groups.setdefault(group, []).append(member)
        await self._rebalance(group)
        return member

    async def find(self, dedup_key: bytes) -> Sequence[Found]:
        self._refuse_if_closed()
        return [twin.found for twin in self._held_twins(dedup_key)]

    async def tallies(self) -> Mapping[tuple[str, int], int]:
        self._refuse_if_closed()
        return dict(self._tallies)

    async def duplicates(self) -> Mapping[tuple[str, int], int]:
        self._refuse_if_closed()
        return dict(self._duplicates)

    async def check(self) -> None:
        self._refuse_if_closed()

    async def close(self) -> None:
        if self._closed:
            return
        for producer in self._producers:
            await producer.close()
        for members in list(self._groups.values()):
            for member in list(members):
                await member.leave()
        self._closed = True
        self._wake()

    def drop_before(self, partition: int, offset: int) -> int:
        """Drop records below `offset` that no cursor needs; return the earliest offset now held.

        What retention does in the durable back ends, for tests of readers that fall behind.
        """
        needed = (cursor.get(partition, 0) for cursor in self._cursors.values())
        until = min([offset, self._next(partition), *needed])
        dropped = max(0, until - self._earliest[partition])
        del self._held[partition][:dropped]
        self._earliest[partition] += dropped
        return self._earliest[partition]

    # ------------------------------------------------------------ for the producer and members

    def apply(self, records: Sequence[NewRecord]) -> AppendResult:
        """Append one call's records."""
        duplicates: list[int] = []
        for index, record in enumerate(records):
            hour = (record.tally, record.timestamp_ms // _HOUR_MS)
            twins = self._held_twins(record.dedup_key)
            if twins and twins[-1].timestamp_ms > record.timestamp_ms - self._window_ms:
                duplicates.append(index)
                self._duplicates[hour] += 1
                continue
            partition = partition_of(record.key, self.partitions)
            offset = self._next(partition)
            self._held[partition].append(
                Record(partition, offset, record.key, record.value, record.timestamp_ms, self._sequence)
            )
            self._sequence += 1
            self._tallies[hour] += 1
            if record.dedup_key:
                twin = _Twin(Found(partition, offset), record.timestamp_ms)
                self._twins.setdefault(record.dedup_key, []).append(twin)
        self._wake()
        return AppendResult(len(records) - len(duplicates), tuple(duplicates))

    async def depart(self, group: str, member: "_Member") -> None:
        """Take a member out of its group and share its partitions among the others."""
        members = self._groups.get(group, [])
        if member not in members:
            return
        members.remove(member)
        await member.take_away(member.partitions)
        if members:
            await self._rebalance(group)
        else:
            del self._groups[group]

    # ------------------------------------------------------------ own

    async def _rebalance(self, group: str) -> None:
        first = {member.seat: member for member in reversed(self._groups[group])}
        members = [
            member for member in self._groups[group] if not member.seat or first[member.seat] is member
        ]
        share, extra = divmod(self.partitions, len(members))
        quotas = [share + (1 if index < extra else 0) for index in range(len(members))]
        for member, quota in zip(members, quotas, strict=True):
            await member.take_away(frozenset(sorted(member.partitions)[quota:]))
        free = sorted(self._all_set().difference(*(member.partitions for member in members)))
        for member, quota in zip(members, quotas, strict=True):
            lacking = quota - len(member.partitions)
            await member.give(frozenset(free[:lacking]))
            free = free[lacking:]

    def _held_twins(self, dedup_key: bytes) -> list[_Twin]:
        """Return the twins that are still held: a dropped record's key is forgotten with it."""
        twins = self._twins.get(dedup_key, ()) if dedup_key else ()
        return [twin for twin in twins if twin.found.offset >= self._earliest[twin.found.partition]]

    def _all(self) -> Iterable[int]:
        return range(self.partitions)

    def _all_set(self) -> frozenset[int]:
        return frozenset(self._all())

    def _next(self, partition: int) -> int:
        return self._earliest[partition] + len(self._held[partition])

    def _has_any(self, positions: Mapping[int, int]) -> bool:
        return any(self._next(partition) > offset for partition, offset in positions.items())

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StreamClosed("the stream is closed")


class _MemoryProducer:
    """The writing end: what is submitted in one turn of the loop is applied in the next."""

    def __init__(self, stream: MemoryStream, max_backlog_bytes: int) -> None:
        self._stream = stream
        self._max_backlog_bytes = max_backlog_bytes
        self._backlog_bytes = 0
        self._pending: list[tuple[Sequence[NewRecord], Done]] = []
        self._closed = False

    @property
    def backlog_bytes(self) -> int:
        return self._backlog_bytes

    def submit(self, records: Sequence[NewRecord], done: Done) -> None:
        if self._closed:
            raise StreamClosed("the producer is closed")
        if self._backlog_bytes >= self._max_backlog_bytes:
            raise StreamOverloaded(f"{self._backlog_bytes} bytes wait to be stored")
        self._backlog_bytes += sum(len(record.key) + len(record.value) for record in records)
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._flush)
        self._pending.append((records, done))

    async def append(self, records: Sequence[NewRecord]) -> AppendResult:
        future: asyncio.Future[AppendResult] = asyncio.get_running_loop().create_future()

        def done(result: AppendResult | StreamError) -> None:
            if future.cancelled():
                return
            if isinstance(result, StreamError):
                future.set_exception(result)
            else:
                future.set_result(result)

        self.submit(records, done)
        return await future

    async def close(self) -> None:
        self._closed = True
        self._flush()

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        self._backlog_bytes = 0
        for records, done in pending:
            done(self._stream.apply(records))


class _Member:
    """One member of a group, in this process."""

    def __init__(
        self, stream: MemoryStream, group: str, on_assign: OnAssign, on_revoke: OnRevoke, seat: str
    ) -> None:
        self.seat = seat
        self._stream = stream
        self._group = group
        self._on_assign = on_assign
        self._on_revoke = on_revoke
        self._partitions: frozenset[int] = frozenset()

    @property
    def partitions(self) -> frozenset[int]:
        return self._partitions

    async def leave(self) -> None:
        await self._stream.depart(self._group, self)

    async def give(self, partitions: frozenset[int]) -> None:
        """Own more partitions."""
        if partitions:
            self._partitions |= partitions
            await self._on_assign(partitions)

    async def take_away(self, partitions: frozenset[int]) -> None:
        """Own fewer partitions, once the owner has let go of them."""
        if partitions:
            await self._on_revoke(partitions)
            self._partitions -= partitions
