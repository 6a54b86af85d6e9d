"""Reads segments in worker threads; every thread has its own few open files."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar, cast

import apsw

from mainstem.stream.base import Bounds, Found, OffsetGone, Record
from mainstem.stream.embedded.cache import Extent
from mainstem.stream.embedded.catalog import Catalog
from mainstem.stream.embedded.meta import Meta, Tally
from mainstem.stream.embedded.segment import (
    SegmentInfo,
    SegmentMissing,
    batch_holding,
    batches_from,
    connect,
    decode_row,
    errors_named,
    first_batch_since,
    indexed_twins,
    read_info,
    read_tallies,
    tips,
)
from mainstem.stream.embedded.twins import YoungIds

_OPEN_FILES: Final = 8
_EXTENT_BATCHES: Final = 512
_EXTENT_BYTES: Final = 512 << 10
T = TypeVar("T")


class Reader:
    """Everything that is read from segments, blocking."""

    def __init__(self, catalog: Catalog, meta: Meta) -> None:
        self._catalog = catalog
        self._meta = meta
        self._local = threading.local()
        self._all: list[apsw.Connection] = []
        self._all_lock = threading.Lock()

    def extent(self, partition: int, offset: int) -> Extent:
        """Read from `offset` on; an extent without records is the end of the partition.

        Raises:
            OffsetGone: `offset` is below the earliest held.
        """
        while True:
            info = self._segment_of(partition, offset)
            try:
                extent = self._with(info, lambda c, info=info: _read_extent(c, info.path, partition, offset))  # type: ignore[misc]
            except SegmentMissing:
                self._catalog.refresh()
                continue
            if extent.records or self._is_last(info):
                return extent

    def bounds(self) -> dict[int, Bounds]:
        """Return the bounds of every partition."""
        while True:
            segments = self._catalog.refresh()
            last = segments[-1]
            try:
                nexts, _ = self._with(last, lambda c, last=last: tips(c, last))  # type: ignore[misc]
            except SegmentMissing:
                continue
            return {
                partition: Bounds(first, offset)
                for partition, (first, offset) in enumerate(zip(segments[0].firsts, nexts, strict=True))
            }

    def offset_at(self, partition: int, timestamp_ms: int) -> int:
        """Return the first offset of the first batch that can be as new as the timestamp."""
        for info in self._catalog.refresh():
            if info.closed and info.max_ms < timestamp_ms:
                continue
            try:
                found = self._with(info, lambda c: first_batch_since(c, partition, timestamp_ms))
            except SegmentMissing:
                continue
            if found is not None:
                return found
        return self.bounds()[partition].next

    def find(self, dedup_key: bytes, hash_: int) -> list[Found]:
        """Return where a key was appended, oldest first."""
        found: list[tuple[int, Found]] = []
        for info in self._catalog.refresh():
            try:
                found += self._with(info, lambda c, info=info: _find_in(c, info, dedup_key, hash_))  # type: ignore[misc]
            except SegmentMissing:
                continue
        return [where for _, where in sorted(found, key=lambda pair: pair[0])]

    def tallies(self) -> list[Tally]:
        """Return the books of all segments, held and dropped."""
        while True:
            dropped, rows = self._meta.tallies()
            try:
                for info in self._catalog.refresh():
                    if info.number > dropped:
                        rows = rows + self._with(info, read_tallies)
            except SegmentMissing:
                continue
            if self._meta.dropped() == dropped:
                return rows

    def verify(self) -> int:
        """Read every batch and compare its checksum; return how many records there are.

        Raises:
            StreamCorrupt: names the file and the place.
        """
        count = 0
        for info in self._catalog.refresh():
            try:
                count += self._with(info, lambda c, info=info: _verify(c, info))  # type: ignore[misc]
            except SegmentMissing:
                continue
        return count

    def close(self) -> None:
        """Close all files; no read is under way."""
        with self._all_lock:
            for connection in self._all:
                connection.close(True)
            self._all.clear()

    # ------------------------------------------------------------ own

    def _segment_of(self, partition: int, offset: int) -> SegmentInfo:
        for look_again in (True, False):
            segments = self._catalog.segments()
            for info in reversed(segments):
                if info.firsts[partition] <= offset:
                    beyond = not info.closed and info.number == segments[-1].number
                    if beyond or offset < info.nexts[partition]:
                        return info
                    break
            else:
                if not look_again:
                    raise OffsetGone(partition, offset, segments[0].firsts[partition])
            if look_again:
                self._catalog.refresh()
        return self._catalog.segments()[-1]

    def _is_last(self, info: SegmentInfo) -> bool:
        """Tell whether the segment found without the offset is still the one that is appended to."""
        now = self._with(info, lambda c: read_info(c, info.path))
        if now is not None and now.closed and not info.closed:
            self._catalog.refresh()
            return False
        return True

    def _with(self, info: SegmentInfo, work: Callable[[apsw.Connection], T]) -> T:
        opened: OrderedDict[int, apsw.Connection] | None = getattr(self._local, "opened", None)
        if opened is None:
            opened = self._local.opened = OrderedDict()
        with errors_named(info.path):
            connection = opened.pop(info.number, None)
            if connection is None:
                connection = connect(info.path)
                with self._all_lock:
                    self._all.append(connection)
            opened[info.number] = connection
            while len(opened) > _OPEN_FILES:
                _, old = opened.popitem(last=False)
                with self._all_lock:
                    self._all.remove(old)
                old.close(True)
            return work(connection)


def _read_extent(connection: apsw.Connection, path: Path, partition: int, offset: int) -> Extent:
    records: list[Record] = []
    size = 0
    for batch in batches_from(connection, path, partition, offset, _EXTENT_BATCHES):
        records += batch.records()
        size += sum(len(frame.value) + len(frame.key) for frame in batch.frames)
        if size >= _EXTENT_BYTES:
            break
    if not records or records[-1].offset < offset:
        return Extent(partition, offset, [], 0)
    return Extent(partition, records[0].offset, records, size)


def _find_in(
    connection: apsw.Connection, info: SegmentInfo, dedup_key: bytes, hash_: int
) -> list[tuple[int, Found]]:
    if info.indexed:
        ids = indexed_twins(connection, [hash_.to_bytes(8, "little")])
    else:
        young = YoungIds()
        for id_, hashes in connection.execute("SELECT id, ids FROM batches"):
            young.extend(cast("int", id_), cast("bytes", hashes))
        ids = young.find([hash_])
    found: list[tuple[int, Found]] = []
    for id_ in ids:
        batch = batch_holding(connection, info.path, id_)
        index = id_ - batch.id
        if batch.frames[index].dedup_key == dedup_key:
            record = batch.record(index)
            found.append((record.sequence, Found(record.partition, record.offset)))
    return found


def _verify(connection: apsw.Connection, info: SegmentInfo) -> int:
    count = 0
    rows = connection.execute("SELECT id, count, sequence, checksum, ids, data FROM batches ORDER BY id")
    for row in rows:
        batch = decode_row(info.path, cast("tuple[int, int, int, int, bytes, bytes]", row))
        count += len(batch.frames)
    return count
