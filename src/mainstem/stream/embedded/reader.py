"""Reads segments in worker threads; every thread has its own few open files."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeVar, cast

import apsw

from mainstem.stream.base import Bounds, Found, OffsetGone, Record, StreamCorrupt
from mainstem.stream.embedded.cache import Extent, Stretch
from mainstem.stream.embedded.catalog import Catalog
from mainstem.stream.embedded.meta import Meta, Tally
from mainstem.stream.embedded.segment import (
    PAGE_BYTES,
    SegmentInfo,
    SegmentMissing,
    commit_at,
    commit_holding,
    commits_from,
    connect,
    errors_named,
    first_offset_since,
    ids_from,
    indexed_twins,
    read_info,
    read_tallies,
    tips,
)
from mainstem.stream.embedded.twins import YoungIds

_OPEN_FILES: Final = 8
_STRETCH_BYTES: Final = 512 << 10
T = TypeVar("T")


class Reader:
    """Everything that is read from segments, blocking."""

    def __init__(self, catalog: Catalog, meta: Meta) -> None:
        self._catalog = catalog
        self._meta = meta
        self._local = threading.local()
        self._all: list[apsw.Connection] = []
        self._all_lock = threading.Lock()

    def stretch(self, partition: int, offset: int, sequence: int | None) -> Stretch | None:
        """Read whole commits on from the one that holds `offset`; None if there is none.

        Args:
            partition: where.
            offset: where.
            sequence: of a commit before which the offset is not, where one is known: nothing is searched then.

        Raises:
            OffsetGone: `offset` is below the earliest held.
        """
        while True:
            info = self._segment_from(sequence) if sequence is not None else None
            start = None if info is None else sequence
            if info is None:
                info = self._segment_of(partition, offset)
            try:
                stretch = self._with(
                    info,
                    lambda c, info=info, start=start: _read_stretch(  # type: ignore[misc]
                        c, info, commit_at(c, info, partition, offset) if start is None else start
                    ),
                )
            except SegmentMissing:
                self._catalog.refresh()
                continue
            if stretch is not None:
                return stretch
            if self._is_last(info):
                return None

    def probe(self, partition: int, offset: int) -> None:
        """Read the one commit that holds `offset`.

        Raises:
            StreamError: it can't be read.
        """
        info = self._segment_of(partition, offset)
        with contextlib.suppress(SegmentMissing):
            self._with(info, lambda c: commit_holding(c, info, commit_at(c, info, partition, offset)))

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
        """Return the partition's offset at the first commit that can be as new as the timestamp."""
        for info in self._catalog.refresh():
            if info.closed and info.max_ms < timestamp_ms:
                continue
            try:
                found = self._with(
                    info,
                    lambda c, info=info: first_offset_since(c, info, partition, timestamp_ms),  # type: ignore[misc]
                )
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
        """Read every commit and compare its checksum; return how many records there are.

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

    def _segment_from(self, sequence: int) -> SegmentInfo | None:
        """Return the segment that holds a sequence, or will; None if it is dropped."""
        for info in reversed(self._catalog.segments()):
            if info.sequence <= sequence:
                return info
        return None

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


def _read_stretch(connection: apsw.Connection, info: SegmentInfo, sequence: int) -> Stretch | None:
    records: list[list[Record]] = [[] for _ in info.firsts]
    nexts: list[int] = []
    end = sequence
    size = 0
    for commit in commits_from(connection, info, sequence):
        nexts = commit.add_to(records)
        end = commit.sequence + len(commit.frames)
        size += sum([len(frame.value) + len(frame.key) for frame in commit.frames])
        if size >= _STRETCH_BYTES:
            break
    if not nexts:
        return None
    extents = [
        Extent(
            partition, found[0].offset, found, sum([len(record.value) + len(record.key) for record in found])
        )
        for partition, found in enumerate(records)
        if found
    ]
    return Stretch(end, nexts, extents)


def _find_in(
    connection: apsw.Connection, info: SegmentInfo, dedup_key: bytes, hash_: int
) -> list[tuple[int, Found]]:
    if info.indexed:
        sequences = indexed_twins(connection, [hash_])
    else:
        young = YoungIds()
        for sequence, hashes, _ in ids_from(connection, info, info.sequence):
            young.extend(sequence, hashes)
        sequences = young.find([hash_])
    found: list[tuple[int, Found]] = []
    for sequence in sequences:
        commit = commit_holding(connection, info, sequence)
        index = sequence - commit.sequence
        if commit.frames[index].dedup_key == dedup_key:
            record = commit.record(index)
            found.append((sequence, Found(record.partition, record.offset)))
    return found


def _verify(connection: apsw.Connection, info: SegmentInfo) -> int:
    _verify_size(connection, info)
    sequence, nexts = info.sequence, list(info.firsts)
    for commit in commits_from(connection, info, info.sequence):
        if commit.sequence != sequence or commit.firsts != nexts:
            raise StreamCorrupt(f"{info.path}: commit {commit.sequence} does not continue the one before")
        for partition in commit.places:
            nexts[partition] += 1
        sequence += len(commit.frames)
    if info.closed and (sequence != info.sequence + info.count or tuple(nexts) != info.nexts):
        raise StreamCorrupt(f"{info.path}: it ends at {sequence}, not where it was closed")
    return sequence - info.sequence


def _verify_size(connection: apsw.Connection, info: SegmentInfo) -> None:
    """A cut file may have lost pages that no commit lies in (counts, the index): SQLite would notice later."""
    log = info.path.with_name(info.path.name + "-wal")
    if not info.closed or (log.exists() and log.stat().st_size):
        return  # pages may be in the write-ahead log still
    pages = cast("int", connection.execute("PRAGMA page_count").fetchall()[0][0])
    size = info.path.stat().st_size
    if size < pages * PAGE_BYTES:
        raise StreamCorrupt(f"{info.path}: cut: {size} bytes of {pages * PAGE_BYTES}")
