"""One segment: a SQLite file of batches. Its schema, its rows, and how SQLite's errors are named.

Everything that knows SQL about a segment is here; who writes when is `writer.py` and `upkeep.py`.
"""

import contextlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import apsw
import msgspec
import xxhash
from pyroaring import BitMap

from mainstem.stream.base import NewRecord, Record, StreamCorrupt, StreamError, StreamFull

OFFSET_BITS: Final = 48
"""Record id = partition << 48 | offset: 32,768 partitions, and at a million records a second and partition
offsets last for nine years; a gateway of 50,000 a second has 178."""
OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1
PAGE_BYTES: Final = 8192
"""Measured: fewer writes for large groups than 4096, less written for small ones than 16384."""
SAFE_SQLITE: Final = (3, 51, 3)
"""Before it, a WAL reset may corrupt a database that two connections write or checkpoint
(https://sqlite.org/wal.html#walresetbug)."""

_HEX_DIGITS_AT_ONCE: Final = 16 * 8192

_SCHEMA: Final = """
CREATE TABLE info (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE batches (
  id INTEGER PRIMARY KEY, count INTEGER NOT NULL, min_ms INTEGER NOT NULL, max_ms INTEGER NOT NULL,
  sequence INTEGER NOT NULL, span INTEGER NOT NULL, checksum INTEGER NOT NULL,
  ids BLOB NOT NULL, data BLOB NOT NULL
);
CREATE TABLE tallies (
  tally TEXT, hour INTEGER, appended INTEGER NOT NULL, duplicates INTEGER NOT NULL, PRIMARY KEY (tally, hour)
) WITHOUT ROWID;
CREATE TABLE twins (hash BLOB, id INTEGER, PRIMARY KEY (hash, id)) WITHOUT ROWID;
"""


class SegmentInfo(msgspec.Struct, frozen=True):
    """What is known of a segment without reading its batches."""

    number: int
    path: Path
    firsts: tuple[int, ...]
    """First offset by partition."""
    sequence: int
    """Sequence of the first record."""
    created_ms: int
    closed: bool
    indexed: bool
    nexts: tuple[int, ...] = ()
    """By partition, the offset after the last; only when closed."""
    max_ms: int = 0
    """Newest timestamp; only when closed."""
    count: int = 0
    """Records; only when closed."""


class Batch(msgspec.Struct, frozen=True):
    """The stored records of one partition and commit."""

    id: int
    sequence: int
    order: bytes
    frames: list[NewRecord]

    def record(self, index: int) -> Record:
        """Return one of its records."""
        frame = self.frames[index]
        return Record(
            self.id >> OFFSET_BITS,
            (self.id & OFFSET_MASK) + index,
            frame.key,
            frame.value,
            frame.timestamp_ms,
            self.sequence_of(index),
        )

    def records(self) -> list[Record]:
        """Return all of them."""
        partition, first = self.id >> OFFSET_BITS, self.id & OFFSET_MASK
        order: Sequence[int] = array("I", self.order) if self.order else range(len(self.frames))
        return [
            Record(partition, offset, frame.key, frame.value, frame.timestamp_ms, self.sequence + place)
            for offset, (frame, place) in enumerate(zip(self.frames, order, strict=True), first)
        ]

    def sequence_of(self, index: int) -> int:
        """Return the sequence of one of its records."""
        return self.sequence + (array("I", self.order)[index] if self.order else index)


class BatchRow(msgspec.Struct, frozen=True):
    """A batch as it is inserted."""

    id: int
    count: int
    min_ms: int
    max_ms: int
    sequence: int
    span: int
    ids: bytes
    data: bytes

    def columns(self) -> tuple[int | bytes, ...]:
        return (
            self.id,
            self.count,
            self.min_ms,
            self.max_ms,
            self.sequence,
            self.span,
            checksum(self.ids, self.data),
            self.ids,
            self.data,
        )


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[bytes, list[NewRecord]])


def encode_batch(order: bytes, records: Sequence[NewRecord]) -> bytes:
    """Return the data of a batch: each record's place in its group (empty: 0, 1, 2 …) and the records."""
    return _encoder.encode((order, records))


def checksum(ids: bytes, data: bytes) -> int:
    """Return the 63-bit checksum of a row's blobs."""
    digest = xxhash.xxh3_64(ids)
    digest.update(data)
    return digest.intdigest() >> 1


def refuse_affected_sqlite() -> None:
    """Raise `StreamError` if this SQLite can corrupt a shared WAL database."""
    version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if version < SAFE_SQLITE:
        raise StreamError(
            f"SQLite {apsw.sqlite_lib_version()} has the WAL-reset bug; "
            f"{'.'.join(map(str, SAFE_SQLITE))} or newer is needed (apsw bundles it)"
        )


class SegmentMissing(StreamError):
    """The segment's file is not there: retention dropped it."""


@contextlib.contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into the stream's, naming the file."""
    try:
        yield
    except apsw.FullError as error:
        raise StreamFull(f"{path}: no space left") from error
    except (apsw.CorruptError, apsw.NotADBError, apsw.FormatError) as error:
        raise StreamCorrupt(f"{path}: {error}") from error
    except apsw.CantOpenError as error:
        if not path.exists():
            raise SegmentMissing(f"{path} is not there") from error
        raise StreamError(f"{path}: {error}") from error
    except apsw.IOError as error:
        short = cast("int", getattr(error, "extendedresult", 0)) == apsw.SQLITE_IOERR_SHORT_READ
        if short or getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_CORRUPTFS:
            raise StreamCorrupt(f"{path}: {error}") from error
        raise StreamFull(f"{path}: the disk refused it: {error}") from error
    except apsw.SQLError as error:
        raise StreamCorrupt(f"{path}: {error}") from error
    except apsw.Error as error:
        raise StreamError(f"{path}: {error}") from error


def connect(path: Path, *, create: bool = False, busy_ms: int = 10_000) -> apsw.Connection:
    """Open a database the way every file of the stream is opened: WAL, every commit on stable storage."""
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    connection = apsw.Connection(str(path), flags=flags)
    connection.set_busy_timeout(busy_ms)
    if create:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    # Checkpoints belong to upkeep, never to a commit that somebody waits for.
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("PRAGMA cache_size=-1024")
    return connection


def create_segment(path: Path, number: int, created_ms: int) -> None:
    """Make an empty segment that nobody may use before `start_segment`."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    connection = connect(path, create=True)
    try:
        with connection:
            connection.execute(_SCHEMA)
            set_info(connection, number=number, created_ms=created_ms, closed=0, indexed=0)
    finally:
        connection.close()


def start_segment(connection: apsw.Connection, firsts: Sequence[int], sequence: int) -> None:
    """Say where the segment's offsets begin."""
    with connection:
        set_info(connection, firsts=msgspec.msgpack.encode(firsts), sequence=sequence)


def set_info(connection: apsw.Connection, **values: int | bytes) -> None:
    """Write facts of the segment."""
    connection.executemany("INSERT OR REPLACE INTO info VALUES (?, ?)", list(values.items()))


def read_info(connection: apsw.Connection, path: Path) -> SegmentInfo | None:
    """Return what is known of the segment; None if it was never started."""
    rows = connection.execute("SELECT key, value FROM info WHERE key <> 'fingerprints'").fetchall()
    facts = dict(cast("list[tuple[str, Any]]", rows))
    if "firsts" not in facts:
        return None
    offsets = msgspec.msgpack.Decoder(tuple[int, ...])
    closed = bool(facts["closed"])
    return SegmentInfo(
        facts["number"],
        path,
        offsets.decode(facts["firsts"]),
        facts["sequence"],
        facts["created_ms"],
        closed,
        bool(facts["indexed"]),
        offsets.decode(facts["nexts"]) if closed else (),
        facts["max_ms"] if closed else 0,
        facts["count"] if closed else 0,
    )


def tips(connection: apsw.Connection, info: SegmentInfo) -> tuple[list[int], int]:
    """Return the next offset of every partition, and the next sequence."""
    nexts = list(info.firsts)
    sequence = info.sequence
    for partition in range(len(nexts)):
        low = partition << OFFSET_BITS
        last = connection.execute(
            "SELECT id, count, sequence, span FROM batches WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1",
            (low, low | OFFSET_MASK),
        ).fetchall()
        for id_, count, base, span in cast("list[tuple[int, int, int, int]]", last):
            nexts[partition] = (id_ & OFFSET_MASK) + count
            sequence = max(sequence, base + span)
    return nexts, sequence


def decode_row(path: Path, row: tuple[int, int, int, int, bytes, bytes]) -> Batch:
    """Return a batch of (id, count, sequence, checksum, ids, data).

    Raises:
        StreamCorrupt: the blobs are not what was written.
    """
    id_, count, sequence, expected, ids, data = row
    where = f"{path}: partition {id_ >> OFFSET_BITS}, offset {id_ & OFFSET_MASK}"
    if checksum(ids, data) != expected:
        raise StreamCorrupt(f"{where}: the checksum is not that of the bytes")
    try:
        order, frames = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise StreamCorrupt(f"{where}: {error}") from error
    if len(frames) != count:
        raise StreamCorrupt(f"{where}: {len(frames)} records instead of {count}")
    return Batch(id_, sequence, order, frames)


def batches_from(
    connection: apsw.Connection, path: Path, partition: int, offset: int, limit: int
) -> Iterator[Batch]:
    """Yield the batches of a partition, beginning with the one that holds `offset`, at most `limit`."""
    low = partition << OFFSET_BITS
    rows = connection.execute(
        "SELECT id, count, sequence, checksum, ids, data FROM batches WHERE id >= coalesce("
        "(SELECT id FROM batches WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT 1), ?2)"
        " AND id <= ?3 ORDER BY id LIMIT ?4",
        (low, low | offset, low | OFFSET_MASK, limit),
    )
    for row in rows:
        yield decode_row(path, cast("tuple[int, int, int, int, bytes, bytes]", row))


def batch_holding(connection: apsw.Connection, path: Path, id_: int) -> Batch:
    """Return the batch that holds the record of that id."""
    for batch in batches_from(connection, path, id_ >> OFFSET_BITS, id_ & OFFSET_MASK, 1):
        if batch.id <= id_ < batch.id + len(batch.frames):
            return batch
    raise StreamCorrupt(f"{path}: no batch holds record {id_ >> OFFSET_BITS}:{id_ & OFFSET_MASK}")


def first_batch_since(connection: apsw.Connection, partition: int, timestamp_ms: int) -> int | None:
    """Return the first offset of the first batch that can hold a record as new as `timestamp_ms`."""
    low = partition << OFFSET_BITS
    rows = connection.execute(
        "SELECT id FROM batches WHERE id BETWEEN ? AND ? AND max_ms >= ? ORDER BY id LIMIT 1",
        (low, low | OFFSET_MASK, timestamp_ms),
    ).fetchall()
    return cast("int", rows[0][0]) & OFFSET_MASK if rows else None


def read_tallies(connection: apsw.Connection) -> list[tuple[str, int, int, int]]:
    """Return (tally, hour, appended, duplicates)."""
    rows = connection.execute("SELECT tally, hour, appended, duplicates FROM tallies").fetchall()
    return cast("list[tuple[str, int, int, int]]", rows)


def fingerprints(ids: bytes) -> BitMap:
    """Return the low halves of 8-byte hashes as a set."""
    return BitMap(array("I", memoryview(ids).cast("I")[::2].tolist()))


def index_twins(connection: apsw.Connection) -> None:
    """Give a closed segment its index from hash to record id, and its set of fingerprints.

    It happens inside SQLite and in small steps, so that the interpreter lock is free for those who append.
    """
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS places (i INTEGER PRIMARY KEY)")
    with connection:
        connection.execute("DELETE FROM places")
        connection.execute(
            "INSERT INTO places WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n"
            " WHERE i + 1 < (SELECT max(count) FROM batches)) SELECT i FROM n"
        )
        connection.execute("DELETE FROM twins")
        connection.execute(
            "INSERT INTO twins SELECT substr(ids, 8 * i + 1, 8), id + i FROM batches, places WHERE i < count"
            " AND substr(ids, 8 * i + 1, 8) <> zeroblob(8) ORDER BY 1, 2"
        )
        joined = connection.execute("SELECT group_concat(hex(ids), '') FROM batches").fetchall()[0][0]
        digits = cast("str | None", joined) or ""
        known = BitMap()
        for start in range(0, len(digits), _HEX_DIGITS_AT_ONCE):
            known |= fingerprints(bytes.fromhex(digits[start : start + _HEX_DIGITS_AT_ONCE]))
        set_info(connection, indexed=1, fingerprints=known.serialize())


def read_fingerprints(connection: apsw.Connection) -> BitMap:
    """Return an indexed segment's set of fingerprints."""
    rows = connection.execute("SELECT value FROM info WHERE key = 'fingerprints'").fetchall()
    return BitMap.deserialize(cast("bytes", rows[0][0]))


def indexed_twins(connection: apsw.Connection, hashes: Sequence[bytes]) -> list[int]:
    """Return the ids of the records with one of these hashes, in an indexed segment."""
    marks = ",".join("?" * len(hashes))
    # Only question marks are formatted in.
    rows = connection.execute(f"SELECT id FROM twins WHERE hash IN ({marks})", tuple(hashes))  # noqa: S608
    return [cast("int", row[0]) for row in rows]
