"""The appender: one group of records into one durable transaction of the active segment.

writer -> **appender** -> segment. It knows every id before it appends, so "is it a duplicate?" and the append
are one step for all processes.

SQLite releases the interpreter lock in every step and must win it back from whatever else runs here, so the
number of statements matters: a commit is one, whatever its size.
"""

import queue
from collections import Counter
from pathlib import Path
from typing import Final, cast

import apsw
import msgspec
from pyroaring import BitMap
from xxhash import xxh3_64_intdigest as hash_of

from mainstem.stream.base import NewRecord, StreamError, StreamFull
from mainstem.stream.embedded.catalog import Catalog
from mainstem.stream.embedded.heads import Heads
from mainstem.stream.embedded.locks import WriteLock
from mainstem.stream.embedded.meta import ADD_TALLY
from mainstem.stream.embedded.segment import (
    INSERT_COMMIT,
    Commit,
    SegmentInfo,
    SegmentMissing,
    commit_holding,
    commit_row,
    connect,
    errors_named,
    ids_from,
    indexed_twins,
    read_fingerprints,
    read_info,
)
from mainstem.stream.embedded.twins import Fingerprints, YoungIds

_HOUR_MS: Final = 3_600_000


class WriterLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the writing end."""

    max_backlog_bytes: int
    group_bytes: int
    group_records: int
    dedup_window_ms: int
    dedup_max_ids: int


class Appender:
    """Appends groups to the active segment. Used by one thread at a time; processes take turns by `write.lock`."""

    def __init__(self, directory: Path, catalog: Catalog, heads: Heads, limits: WriterLimits) -> None:
        self._partitions = len(catalog.segments()[-1].firsts)
        self._catalog = catalog
        self._heads = heads
        self._limits = limits
        self._lock = WriteLock(directory / "write.lock")
        self._fingerprints = Fingerprints()
        self._merged: tuple[BitMap, int] | None = None
        self._indexed: queue.SimpleQueue[tuple[int, BitMap]] = queue.SimpleQueue()
        self._young: dict[int, YoungIds] = {}
        self._closed: dict[int, tuple[SegmentInfo, apsw.Connection]] = {}
        self._active: tuple[SegmentInfo, apsw.Connection] | None = None
        self._cursor: apsw.Cursor | None = None
        self._turn = -1
        self._nexts: list[int] = []
        self._sequence = 0
        self._loaded = False

    def append(self, records: list[NewRecord], packed: bytes | None = None) -> set[int]:
        """Append the records in one transaction; return, when they are on stable storage, the indexes of those
        that had been appended before.

        `packed` is `segment.pack(records)` if the caller has it already.

        Raises:
            StreamError: nothing of it was stored.
        """
        hashes = [(hash_of(record.dedup_key) or 1) if record.dedup_key else 0 for record in records]
        try:
            with self._lock:
                info = self._catch_up()
                refused = self._duplicates(records, hashes)
                self._turn = self._lock.move()
                self._insert(info, records, hashes, refused, packed)
        except StreamFull:
            # Memory moves only after a commit, so it is still true; look at the file once more all the same.
            self._turn = -1
            raise
        except BaseException:
            # Begin again from the files.
            self._let_go()
            raise
        return refused

    def prepare(self) -> None:
        """Load what deduplication needs, before the first append waits for it."""
        try:
            with self._lock:
                self._catch_up()
        except BaseException:
            self._let_go()
            raise

    def take_merged(self, merged: BitMap, through: int) -> None:
        """Take, from another thread, a freshly merged set of fingerprints; used from the next append on."""
        self._merged = (merged, through)

    def take_indexed(self, number: int, fingerprints: BitMap) -> None:
        """Take, from another thread, the fingerprints of a segment that has an index now."""
        self._indexed.put((number, fingerprints))

    def unindexed(self) -> list[int]:
        """Return the closed segments whose ids are held here because they had no index."""
        return [number for number in list(self._young) if number in self._closed]

    def wants_merge(self) -> bool:
        """Tell whether so many segments were closed since the last merge that another one pays."""
        return self._fingerprints.parts() > 3

    def close(self) -> None:
        """Close all files."""
        self._let_go()
        self._lock.close()

    # ------------------------------------------------------------ the transaction

    def _catch_up(self) -> SegmentInfo:
        """Return the active segment, knowing all that was committed to it. Call it under the lock, which nobody
        else writes without: no transaction is needed to look and then insert."""
        while not self._indexed.empty():
            number, fingerprints = self._indexed.get()
            if self._young.pop(number, None) is not None:
                self._fingerprints.add(number, fingerprints)
        if self._merged is not None:
            self._fingerprints.replace(*self._merged)
            self._merged = None
        if not self._loaded:
            self._load()
        while True:
            assert self._active is not None  # noqa: S101 - _load and _follow leave one
            info, connection = self._active
            turn = self._lock.turn
            if turn == self._turn:
                return info
            with errors_named(info.path):
                now = self._read_fresh(info, connection)
            if not now.closed:
                self._turn = turn
                return info
            self._follow(now, connection)

    def _read_fresh(self, info: SegmentInfo, connection: apsw.Connection) -> SegmentInfo:
        """Take in what other processes appended to the segment; return what it is now."""
        young = self._young_of(info.number)
        for sequence, hashes, nexts in ids_from(connection, info, self._sequence):
            young.extend(sequence, hashes)
            self._sequence = sequence + len(hashes)
            self._nexts = nexts
        now = read_info(connection, info.path)
        if now is None:
            raise StreamError(f"{info.path}: its start is gone")
        return now

    def _insert(
        self,
        info: SegmentInfo,
        records: list[NewRecord],
        hashes: list[int],
        refused: set[int],
        packed: bytes | None,
    ) -> None:
        tallies = _counted(records, refused)
        if refused:
            hashes = [value for index, value in enumerate(hashes) if index not in refused]
            records = [record for index, record in enumerate(records) if index not in refused]
            packed = None
        count = self._partitions
        places = [hash_of(record.key) % count for record in records]
        nexts = self._nexts.copy()
        for partition in places:
            nexts[partition] += 1
        with errors_named(info.path):
            if records:
                firsts = [offset - first for offset, first in zip(self._nexts, info.firsts, strict=True)]
                row = commit_row(self._sequence, firsts, places, hashes, records, tallies, packed)
                self._writing().execute(INSERT_COMMIT, row)
            elif tallies:
                with self._writing().connection:
                    self._writing().executemany(ADD_TALLY, tallies)
        self._nexts = nexts
        if records:
            self._young_of(info.number).extend(self._sequence, hashes)
            self._sequence += len(records)
            self._heads.ring(nexts)

    def _writing(self) -> apsw.Cursor:
        """The cursor of the active segment, whose statements stay prepared."""
        if self._cursor is None:
            assert self._active is not None  # noqa: S101 - caught up
            self._cursor = self._active[1].cursor()
        return self._cursor

    # ------------------------------------------------------------ duplicates

    def _duplicates(self, records: list[NewRecord], hashes: list[int]) -> set[int]:
        """Return the indexes of records whose twin is in the window, in the log or earlier in the group."""
        stored = set(self._fingerprints.among(hashes))
        for young in self._young.values():
            stored.update(young.among(hashes))
        repeated: set[int] = set()
        if len(set(hashes)) != len(hashes):
            repeated = {value for value, times in Counter(hashes).items() if times > 1 and value}
        if not stored and not repeated:
            return set()
        suspects = [index for index, value in enumerate(hashes) if value in stored or value in repeated]
        since = min(records[index].timestamp_ms for index in suspects) - self._limits.dedup_window_ms
        keys = {records[index].dedup_key for index in suspects}
        newest = self._newest_twins(stored, keys, since) if stored else {}
        refused: set[int] = set()
        for index in suspects:
            record = records[index]
            twin_ms = newest.get(record.dedup_key)
            if twin_ms is not None and twin_ms > record.timestamp_ms - self._limits.dedup_window_ms:
                refused.add(index)
            else:
                newest[record.dedup_key] = record.timestamp_ms
        return refused

    def _newest_twins(self, hashes: set[int], keys: set[bytes], since_ms: int) -> dict[bytes, int]:
        """Return, for each key that was appended before, the timestamp of its last append."""
        last: dict[bytes, tuple[int, int]] = {}
        for info, connection in [
            *self._closed.values(),
            cast("tuple[SegmentInfo, apsw.Connection]", self._active),
        ]:
            if info.closed and info.max_ms <= since_ms:
                continue
            try:
                with errors_named(info.path):
                    for sequence, key, at_ms in self._twins_in(info, connection, hashes, keys):
                        if sequence >= last.get(key, (-1, 0))[0]:
                            last[key] = (sequence, at_ms)
            except SegmentMissing:
                continue
        return {key: at_ms for key, (_, at_ms) in last.items()}

    def _twins_in(
        self, info: SegmentInfo, connection: apsw.Connection, hashes: set[int], keys: set[bytes]
    ) -> list[tuple[int, bytes, int]]:
        young = self._young.get(info.number)
        found = indexed_twins(connection, list(hashes)) if young is None else young.find(hashes)
        twins: list[tuple[int, bytes, int]] = []
        commit: Commit | None = None
        for sequence in sorted(found):
            if commit is None or sequence >= commit.sequence + len(commit.frames):
                commit = commit_holding(connection, info, sequence)
            frame = commit.frames[sequence - commit.sequence]
            if frame.dedup_key in keys:
                twins.append((sequence, frame.dedup_key, frame.timestamp_ms))
        return twins

    # ------------------------------------------------------------ which segments

    def _load(self) -> None:
        """Read everything from the files."""
        segments = self._catalog.refresh()
        active = segments[-1]
        with errors_named(active.path):
            connection = connect(active.path)
            self._active = (active, connection)
            self._nexts = list(active.firsts)
            self._sequence = active.sequence
        ids = 0
        for info in reversed(segments[:-1]):
            ids += info.count
            if ids > self._limits.dedup_max_ids:
                break
            with errors_named(info.path):
                closed = connect(info.path)
                self._closed[info.number] = (info, closed)
                if info.indexed:
                    self._fingerprints.add(info.number, read_fingerprints(closed))
                else:
                    self._load_young(info, closed)
        self._closed = dict(sorted(self._closed.items()))
        self._turn = -1
        self._loaded = True

    def _load_young(self, info: SegmentInfo, connection: apsw.Connection) -> None:
        young = self._young_of(info.number)
        for sequence, hashes, _ in ids_from(connection, info, info.sequence):
            young.extend(sequence, hashes)

    def _young_of(self, number: int) -> YoungIds:
        young = self._young.get(number)
        if young is None:
            young = self._young[number] = YoungIds()
        return young

    def _follow(self, closed: SegmentInfo, connection: apsw.Connection) -> None:
        """Go on to the segment after the one that was found closed."""
        segments = {info.number: info for info in self._catalog.refresh()}
        self._active = None
        self._cursor = None
        following = segments.get(closed.number + 1)
        if following is None:
            # It is long gone: begin again from the files.
            connection.close()
            self._let_go()
            self._load()
            return
        self._closed[closed.number] = (closed, connection)
        self._forget_old(segments)
        with errors_named(following.path):
            self._active = (following, connect(following.path))
        self._turn = -1
        self._nexts = list(following.firsts)
        self._sequence = following.sequence

    def _forget_old(self, held: dict[int, SegmentInfo]) -> None:
        """Close segments that were dropped, or that are beyond the bound of ids."""
        ids = 0
        for number in sorted(self._closed, reverse=True):
            info, connection = self._closed[number]
            ids += info.count
            if number not in held or ids > self._limits.dedup_max_ids:
                connection.close()
                del self._closed[number]
                self._young.pop(number, None)

    def _let_go(self) -> None:
        connections = [connection for _, connection in self._closed.values()]
        if self._active is not None:
            connections.append(self._active[1])
        for connection in connections:
            connection.close(True)
        self._closed.clear()
        self._young.clear()
        self._fingerprints = Fingerprints()
        self._active = None
        self._cursor = None
        self._loaded = False


def _counted(records: list[NewRecord], refused: set[int]) -> list[tuple[str, int, int, int]]:
    """Return (tally, hour, appended, duplicates)."""
    times = [record.timestamp_ms for record in records]
    hour = min(times) // _HOUR_MS
    if not refused and hour == max(times) // _HOUR_MS:
        return [(tally, hour, count, 0) for tally, count in Counter([r.tally for r in records]).items()]
    places = [(record.tally, record.timestamp_ms // _HOUR_MS) for record in records]
    duplicates = Counter([places[index] for index in refused])
    return [
        (*place, count - duplicates[place], duplicates[place]) for place, count in Counter(places).items()
    ]
