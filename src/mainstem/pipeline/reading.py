"""Reading the log for many cursors at once: one read and one decode for all that stand at the same place.

stream -> **reading** -> plans. `SharedReader` keeps the most recently decoded records, so destinations that
keep up share them, and a destination that lags reads for itself without disturbing the others. `MergedReader`
gives one cursor the records of its partitions in the order of their appends (`Record.sequence`), which keeps
a person's events in order when their key, and so their partition, changes at login.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Final

import msgspec

from mainstem.events.canonical import Event
from mainstem.events.stored import StoredEvent
from mainstem.pipeline.decode import Decoder
from mainstem.stream.base import OffsetGone, Record, Stream

_READ_RECORDS: Final = 256
_READ_BYTES: Final = 1024 * 1024


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """A record with what it means."""

    record: Record
    stored: StoredEvent
    event: Event


DecodeRecord = Callable[[Record], tuple[StoredEvent, Event]]
"""Never raises for bad bytes."""


def decode_with(decoder: Decoder) -> DecodeRecord:
    """Return a decoder of records."""

    def decode(record: Record) -> tuple[StoredEvent, Event]:
        return decoder.decode(
            record.partition,
            record.offset,
            record.sequence,
            record.value,
            key=record.key,
            timestamp_ms=record.timestamp_ms,
        )

    return decode


class SharedReader:
    """One per process: reads and decodes each record once for all cursors near it."""

    def __init__(
        self,
        stream: Stream,
        decode: DecodeRecord,
        *,
        max_cached_records: int = 4096,
        max_cached_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self._stream = stream
        self._decode = decode
        self._max_records = max_cached_records
        self._max_bytes = max_cached_bytes
        self._cached: OrderedDict[tuple[int, int], Decoded] = OrderedDict()
        self._cached_bytes = 0
        self._locks: dict[int, asyncio.Lock] = {}
        self.reads = 0
        """Reads of the stream so far (not served from what was decoded before)."""

    def replace_decode(self, decode: DecodeRecord) -> None:
        """Decode otherwise from now on (another snapshot's enrichment); what was kept is decoded again."""
        self._decode = decode
        self._cached.clear()
        self._cached_bytes = 0

    async def read(self, partition: int, offset: int, *, max_records: int) -> Sequence[Decoded]:
        """Return decoded records from `offset` on; empty at the end.

        Raises:
            OffsetGone: below what the stream still holds.
        """
        hit = self._from_cache(partition, offset, max_records)
        if hit:
            return hit
        lock = self._locks.setdefault(partition, asyncio.Lock())
        async with lock:
            hit = self._from_cache(partition, offset, max_records)
            if hit:
                return hit
            self.reads += 1
            records = await self._stream.read(
                partition, offset, max_records=_READ_RECORDS, max_bytes=_READ_BYTES
            )
            decoded = [self._decoded(record) for record in records]
            self._keep(decoded)
            return decoded[:max_records]

    def decoded(self, records: Sequence[Record]) -> Sequence[Decoded]:
        """Return what records mean that somebody read for himself; decoded once for all who come by here."""
        cached = self._cached
        found: list[Decoded] = []
        fresh: list[Decoded] = []
        for record in records:
            item = cached.get((record.partition, record.offset))
            if item is None:
                item = self._decoded(record)
                fresh.append(item)
            found.append(item)
        if fresh:
            self._keep(fresh)
        return found

    def _decoded(self, record: Record) -> Decoded:
        stored, event = self._decode(record)
        return Decoded(record=record, stored=stored, event=event)

    def _from_cache(self, partition: int, offset: int, max_records: int) -> list[Decoded]:
        found: list[Decoded] = []
        cached = self._cached
        while len(found) < max_records:
            item = cached.get((partition, offset))
            if item is None:
                break
            found.append(item)
            offset += 1
        return found

    def _keep(self, decoded: Sequence[Decoded]) -> None:
        cached = self._cached
        for item in decoded:
            place = (item.record.partition, item.record.offset)
            if place not in cached:
                cached[place] = item
                self._cached_bytes += len(item.record.value)
        while len(cached) > self._max_records or self._cached_bytes > self._max_bytes:
            _, gone = cached.popitem(last=False)
            self._cached_bytes -= len(gone.record.value)


_by_append: Final = attrgetter("record.sequence", "record.timestamp_ms")


class MergedReader:
    """The records of several partitions for one cursor, in the order of their appends.

    Each round looks once at how far every partition reaches and gives everything below that in order before
    it looks again: what is appended later has a later sequence, so the order over rounds holds too.
    """

    def __init__(self, reader: SharedReader, stream: Stream) -> None:
        self._reader = reader
        self._stream = stream
        self._positions: dict[int, int] = {}
        self._limits: dict[int, int] = {}
        self._held: list[Decoded] = []

    @property
    def positions(self) -> Mapping[int, int]:
        """The next offset to give, by partition."""
        behind = dict(self._positions)
        for item in reversed(self._held):
            behind[item.record.partition] = item.record.offset
        return behind

    def assign(self, positions: Mapping[int, int]) -> None:
        """Add partitions, each from its next offset; they are read when what others hold now is given."""
        self.revoke(frozenset(positions))
        self._positions.update(positions)

    def revoke(self, partitions: frozenset[int]) -> None:
        """Stop giving records of these partitions."""
        for partition in partitions:
            self._positions.pop(partition, None)
            self._limits.pop(partition, None)
        self._held = [item for item in self._held if item.record.partition not in partitions]

    async def next(
        self, *, max_records: int = _READ_RECORDS, end: Mapping[int, int] | None = None
    ) -> Sequence[Decoded]:
        """Return the next records in order, about `max_records` of them; empty when there are none now.

        Args:
            end: read only below these offsets (a replay's end).

        Raises:
            OffsetGone: the stream no longer holds what comes next.
        """
        if not self._held and not self._unread():
            await self._look(end)
        # What was read stays in `_held` while more is awaited: an error, a cancellation or a partition that
        # comes or goes meanwhile then loses nothing and gives nothing twice.
        buffered = {item.record.partition for item in self._held}
        for partition in self._unread():
            if partition not in buffered:
                await self._chunk(partition, max_records)
        gathered = sorted(self._held, key=_by_append)
        # Nothing after the smallest last sequence of a partition with more to come is safe to give yet.
        safe: tuple[int, int] | None = None
        if unread := self._unread():
            last = {item.record.partition: item for item in gathered}
            safe = min((_by_append(last[part]) for part in unread if part in last), default=None)
        cut = len(gathered)
        while safe is not None and cut and _by_append(gathered[cut - 1]) > safe:
            cut -= 1
        self._held = gathered[cut:]
        return gathered[:cut]

    def _unread(self) -> list[int]:
        limits = self._limits
        return [part for part, at in self._positions.items() if at < limits.get(part, 0)]

    async def _look(self, end: Mapping[int, int] | None) -> None:
        bounds = await self._stream.bounds()
        for partition, position in self._positions.items():
            if position < bounds[partition].earliest:
                raise OffsetGone(partition, position, bounds[partition].earliest)
            limit = bounds[partition].next
            self._limits[partition] = min(limit, end.get(partition, 0)) if end is not None else limit

    async def _chunk(self, partition: int, max_records: int) -> None:
        position = self._positions.get(partition)
        room = self._limits.get(partition, 0) - position if position is not None else 0
        if position is None or room <= 0:
            return  # revoked, or assigned anew, while another partition was read
        chunk = await self._reader.read(partition, position, max_records=min(max_records, room))
        if self._positions.get(partition) != position:
            return  # likewise, while this one was read
        if chunk:
            self._held.extend(chunk)
            self._positions[partition] = chunk[-1].record.offset + 1
        else:
            # The stream holds nothing there although its bounds say so: look again next time.
            self._limits.pop(partition, None)
