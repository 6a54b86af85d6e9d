"""One segment: a SQLite file of commits. Its schema, its rows, and how SQLite's errors are named.

Everything that knows SQL about a segment is here; who writes when is `writer.py` and `upkeep.py`.
"""

import contextlib
import sys
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import apsw
import msgspec
import xxhash
from pyroaring import BitMap

from mainstem.stream.base import NewRecord, Record, StreamCorrupt, StreamError, StreamFull

PAGE_BYTES: Final = 8192
"""Measured: fewer writes for large groups than 4096, less written for small ones than 16384."""
SAFE_SQLITE: Final = (3, 51, 3)
"""Before it, a WAL reset may corrupt a database that two connections write or checkpoint
(https://sqlite.org/wal.html#walresetbug)."""

_HASHES_AT_ONCE: Final = 1000
"""SQLite takes 32,766 parameters at most."""

_SCHEMA: Final = """
CREATE TABLE info (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE commits (
  sequence INTEGER PRIMARY KEY, count INTEGER NOT NULL, max_ms INTEGER NOT NULL, checksum INTEGER NOT NULL,
  firsts BLOB NOT NULL, places BLOB NOT NULL, ids BLOB NOT NULL, data BLOB NOT NULL, tallies TEXT NOT NULL
);
CREATE TABLE tallies (
  tally TEXT, hour INTEGER, appended INTEGER NOT NULL, duplicates INTEGER NOT NULL, PRIMARY KEY (tally, hour)
) WITHOUT ROWID;
CREATE TRIGGER count_commit AFTER INSERT ON commits BEGIN
  INSERT INTO tallies SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each(NEW.tallies) WHERE true
  ON CONFLICT DO UPDATE SET appended = appended + excluded.appended,
    duplicates = duplicates + excluded.duplicates;
END;
CREATE TABLE twins (hash BLOB, sequence INTEGER, PRIMARY KEY (hash, sequence)) WITHOUT ROWID;
"""


class SegmentInfo(msgspec.Struct, frozen=True):
    """What is known of a segment without reading its commits."""

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


class Commit(msgspec.Struct, frozen=True):
    """The stored records of one commit, in the order of the calls."""

    sequence: int
    firsts: Sequence[int]
    """By partition, the offset of its first record here or later."""
    places: Sequence[int]
    """The partition of each record."""
    frames: list[NewRecord]

    def record(self, index: int) -> Record:
        """Return one of its records."""
        partition, frame = self.places[index], self.frames[index]
        return Record(
            partition,
            self.firsts[partition] + self.places[:index].count(partition),
            frame.key,
            frame.value,
            frame.timestamp_ms,
            self.sequence + index,
        )

    def add_to(self, records: Sequence[list[Record]]) -> list[int]:
        """Add its records to the lists of their partitions; return the next offset of every partition."""
        nexts = list(self.firsts)
        for sequence, (partition, frame) in enumerate(
            zip(self.places, self.frames, strict=True), self.sequence
        ):
            offset = nexts[partition]
            nexts[partition] = offset + 1
            records[partition].append(
                Record(partition, offset, frame.key, frame.value, frame.timestamp_ms, sequence)
            )
        return nexts


_Row = tuple[int, int, int, bytes, bytes, bytes, bytes]

_ROW: Final = "SELECT sequence, count, checksum, firsts, places, ids, data FROM commits "

INSERT_COMMIT: Final = "INSERT INTO commits VALUES (?,?,?,?,?,?,?,?,?)"
"""One statement is the whole transaction, counts included: the interpreter lock is given up and won back once.
Takes what `commit_row` returns. The commit of the highest sequence is always the last leaf of the tree: what
a commit writes is its own bytes."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[NewRecord])


def pack(records: Sequence[NewRecord]) -> bytes:
    """Return records as they lie in a commit, and travel to a writer's process."""
    return _encoder.encode(records)


def unpack(data: bytes) -> list[NewRecord]:
    """Return packed records.

    Raises:
        msgspec.DecodeError: the bytes are not packed records.
    """
    return _decoder.decode(data)


def commit_row(
    sequence: int,
    firsts: Sequence[int],
    places: Sequence[int],
    hashes: Sequence[int],
    records: Sequence[NewRecord],
    tallies: Sequence[tuple[str, int, int, int]],
    packed: bytes | None = None,
) -> tuple[int | bytes | str, ...]:
    """Return a commit as it is inserted; `firsts` count from the beginning of the segment, `tallies` are
    (tally, hour, appended, duplicates), `packed` is `pack(records)` if that is there already."""
    blobs = (
        array("I", firsts).tobytes(),
        array("H", places).tobytes(),
        _big_endian(array("Q", hashes)).tobytes(),
        packed or pack(records),
    )
    newest = max([record.timestamp_ms for record in records])
    counts = msgspec.json.encode(tallies).decode()
    return (sequence, len(records), newest, _checksum(*blobs), *blobs, counts)


def _checksum(*blobs: bytes) -> int:
    """Return the 63-bit checksum of a row's blobs."""
    digest = xxhash.xxh3_64()
    for blob in blobs:
        digest.update(blob)
    return digest.intdigest() >> 1


def hashes_of(ids: bytes) -> "array[int]":
    """Return the hashes that are packed in a row."""
    return _big_endian(array("Q", ids))


def _big_endian(values: "array[int]") -> "array[int]":
    """Turn values to big-endian, or back, in place. In this order SQLite sorts them as the numbers they are."""
    if sys.byteorder == "little":
        values.byteswap()
    return values


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
    connection.execute("PRAGMA temp_store=MEMORY")
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
    rows = connection.execute(
        "SELECT sequence, count, firsts, places FROM commits ORDER BY sequence DESC LIMIT 1"
    ).fetchall()
    if not rows:
        return list(info.firsts), info.sequence
    sequence, count, firsts, places = cast("tuple[int, int, bytes, bytes]", rows[0])
    return nexts_after(info, firsts, places), sequence + count


def nexts_after(info: SegmentInfo, firsts: bytes, places: bytes) -> list[int]:
    """Return the next offset of every partition after a commit."""
    nexts = _firsts(info, firsts)
    for partition in array("H", places):
        nexts[partition] += 1
    return nexts


def _firsts(info: SegmentInfo, firsts: bytes) -> list[int]:
    return [start + offset for start, offset in zip(info.firsts, array("I", firsts), strict=True)]


def _decode(info: SegmentInfo, row: _Row) -> Commit:
    """Return the commit of a row.

    Raises:
        StreamCorrupt: the blobs are not what was written.
    """
    sequence, count, expected, *blobs = row
    where = f"{info.path}: commit {sequence}"
    if _checksum(*blobs) != expected:
        raise StreamCorrupt(f"{where}: the checksum is not that of the bytes")
    firsts, places, _, data = blobs
    try:
        frames = _decoder.decode(data)
        commit = Commit(sequence, _firsts(info, firsts), array("H", places), frames)
    except ValueError as error:
        raise StreamCorrupt(f"{where}: {error}") from error
    if not len(frames) == len(commit.places) == count:
        raise StreamCorrupt(f"{where}: {len(frames)} records instead of {count}")
    return commit


def commits_from(connection: apsw.Connection, info: SegmentInfo, sequence: int) -> Iterator[Commit]:
    """Yield the commits that begin at a sequence or after it."""
    for row in connection.execute(_ROW + "WHERE sequence >= ? ORDER BY sequence", (sequence,)):
        yield _decode(info, cast("_Row", row))


def commit_holding(connection: apsw.Connection, info: SegmentInfo, sequence: int) -> Commit:
    """Return the commit that holds the record of that sequence."""
    rows = connection.execute(
        _ROW + "WHERE sequence <= ? ORDER BY sequence DESC LIMIT 1", (sequence,)
    ).fetchall()
    if rows:
        commit = _decode(info, cast("_Row", rows[0]))
        if sequence < commit.sequence + len(commit.frames):
            return commit
    raise StreamCorrupt(f"{info.path}: no commit holds record {sequence}")


def commit_at(connection: apsw.Connection, info: SegmentInfo, partition: int, offset: int) -> int:
    """Return the sequence of the commit that holds, or would hold, an offset that the segment may have.

    Offsets grow with sequences, so it halves the range until one commit is left. Each step reads the beginning
    of one row, never its data.
    """
    end = connection.execute("SELECT max(sequence) + 1 FROM commits").fetchall()[0][0]
    low = found = info.sequence
    high = cast("int | None", end) or low
    wanted = offset - info.firsts[partition]
    while low < high:
        rows = connection.execute(
            "SELECT sequence, count, substr(firsts, ?, 4) FROM commits WHERE sequence <= ?"
            " ORDER BY sequence DESC LIMIT 1",
            (4 * partition + 1, (low + high) // 2),
        ).fetchall()
        if not rows:
            raise StreamCorrupt(f"{info.path}: no commit holds record {(low + high) // 2}")
        sequence, count, first = cast("tuple[int, int, bytes]", rows[0])
        if int.from_bytes(first, sys.byteorder) <= wanted:
            found, low = sequence, max(low + 1, sequence + count)
        else:
            high = min(high - 1, sequence)
    return found


def first_offset_since(
    connection: apsw.Connection, info: SegmentInfo, partition: int, timestamp_ms: int
) -> int | None:
    """Return the partition's offset at the first commit that can hold a record as new as `timestamp_ms`."""
    rows = connection.execute(
        "SELECT firsts FROM commits WHERE max_ms >= ? ORDER BY sequence LIMIT 1", (timestamp_ms,)
    ).fetchall()
    return _firsts(info, cast("bytes", rows[0][0]))[partition] if rows else None


def newest_since(connection: apsw.Connection, sequence: int) -> int:
    """Return the newest timestamp of the commits from a sequence on; 0 if there are none."""
    rows = connection.execute("SELECT max(max_ms) FROM commits WHERE sequence >= ?", (sequence,)).fetchall()
    return cast("int | None", rows[0][0]) or 0


def ids_from(
    connection: apsw.Connection, info: SegmentInfo, sequence: int
) -> Iterator[tuple[int, "array[int]", list[int]]]:
    """Yield, from a sequence on, each commit's sequence, hashes, and the next offsets after it."""
    rows = connection.execute(
        "SELECT sequence, firsts, places, ids FROM commits WHERE sequence >= ? ORDER BY sequence", (sequence,)
    )
    for first, firsts, places, ids in cast("Iterator[tuple[int, bytes, bytes, bytes]]", rows):
        yield first, hashes_of(ids), nexts_after(info, firsts, places)


def read_tallies(connection: apsw.Connection) -> list[tuple[str, int, int, int]]:
    """Return (tally, hour, appended, duplicates)."""
    rows = connection.execute("SELECT tally, hour, appended, duplicates FROM tallies").fetchall()
    return cast("list[tuple[str, int, int, int]]", rows)


def index_twins(connection: apsw.Connection) -> None:
    """Give a closed segment its index from hash to the record's sequence, and its set of fingerprints.

    It happens inside SQLite and in small steps, so that the interpreter lock is free for those who append.
    """
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS places (i INTEGER PRIMARY KEY)")
    with connection:
        connection.execute("DELETE FROM places")
        connection.execute(
            "INSERT INTO places WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n"
            " WHERE i + 1 < (SELECT max(count) FROM commits)) SELECT i FROM n"
        )
        connection.execute("DELETE FROM twins")
        connection.execute(
            "INSERT INTO twins SELECT substr(ids, 8 * i + 1, 8), sequence + i FROM commits CROSS JOIN places"
            " WHERE i < count AND substr(ids, 8 * i + 1, 8) <> zeroblob(8) ORDER BY 1, 2"
        )
        set_info(connection, indexed=1, fingerprints=_fingerprints(connection).serialize())


def _fingerprints(connection: apsw.Connection) -> BitMap:
    """Return the upper halves of the hashes. In ascending order: a set of many containers grows only at its end
    without moving them all."""
    known = BitMap()
    for byte in range(256):
        joined = connection.execute(
            "SELECT group_concat(hex(substr(hash, 1, 4)), '') FROM"
            " (SELECT hash FROM twins WHERE hash >= ? AND hash < ? ORDER BY hash)",
            (bytes([byte]), bytes([byte, *b"\xff" * 8])),
        ).fetchall()[0][0]
        known.update(_big_endian(array("I", bytes.fromhex(cast("str | None", joined) or ""))))
    return known


def read_fingerprints(connection: apsw.Connection) -> BitMap:
    """Return an indexed segment's set of fingerprints."""
    rows = connection.execute("SELECT value FROM info WHERE key = 'fingerprints'").fetchall()
    return BitMap.deserialize(cast("bytes", rows[0][0]))


def indexed_twins(connection: apsw.Connection, hashes: Sequence[int]) -> list[int]:
    """Return the sequences of the records with one of these hashes, in an indexed segment."""
    found: list[int] = []
    for start in range(0, len(hashes), _HASHES_AT_ONCE):
        some = tuple(value.to_bytes(8, "big") for value in hashes[start : start + _HASHES_AT_ONCE])
        marks = ",".join("?" * len(some))
        # Only question marks are formatted in.
        rows = connection.execute(f"SELECT sequence FROM twins WHERE hash IN ({marks})", some)  # noqa: S608
        found += [cast("int", row[0]) for row in rows]
    return found
