"""The local store: a queue of events in an SQLite file that several processes share.

    caller -> **store** -> sender -> server

Events lie in chunks: one row is what one commit brought, one JSON object a line, in the order of the calls. `state`
says how much of the first chunk is settled already, so that an acknowledged batch costs one small transaction, and how
many events and bytes there are, so that the bound is exact for all processes together and costs no scan.

    id  chunks.body                      state.done = 1
    17  event event event event          <- the first is settled
    18  event
    19  event event

Who appends: every process. Who takes and settles: the one that holds the lease (`lease.py`). A crash between the
server's acknowledgement and `settle` means that the batch is sent again with the same messageIds, and the server
recognises them.

Journal mode DELETE with `synchronous=EXTRA`: a commit is on the disk when it returns, also through a power cut right
after it (https://www.sqlite.org/pragma.html#pragma_synchronous). Not WAL: SQLite before 3.51.3 can corrupt a WAL
database that several connections write (https://www.sqlite.org/wal.html#walresetbug), Python brings whatever SQLite
the system has, and processes with different ones may meet on one store.

Writers of several processes take turns by a lock of ours: SQLite's waiting is polling, ever more slowly, and who
waits could starve while another one commits without a pause. Whoever has the turn waits for the transaction in
progress alone, and passes the turn on as soon as its own has begun.

An SQLite connection must not cross a fork (https://www.sqlite.org/howtocorrupt.html, 2.6), nor may a new one be
opened in a child while the parent had a transaction open at the fork: the child's copy of SQLite's table of locks would
say that it holds them. So `before_fork` waits for the transaction in progress and closes the connection.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mainstem_analytics.lease import Lease, exclusively

_VERSION = 1
_BUSY_TIMEOUT_S = 10.0
_POLL_S = 0.001
_FORK_WAIT_S = 10.0
_CHUNK_EVENTS = 500
_CHUNK_BYTES = 256 * 1024
_SET_ASIDE_MOST = 1_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS chunks(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  stored_at REAL NOT NULL,   -- Unix seconds
  boot TEXT NOT NULL,        -- which run of the machine `uptime_s` belongs to
  uptime_s REAL NOT NULL,
  events INTEGER NOT NULL,
  body BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS state(
  one INTEGER PRIMARY KEY CHECK (one = 1),
  done INTEGER NOT NULL,
  events INTEGER NOT NULL,
  bytes INTEGER NOT NULL
);
INSERT OR IGNORE INTO state VALUES (1, 0, 0, 0);
CREATE TABLE IF NOT EXISTS set_aside(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at REAL NOT NULL,
  status INTEGER NOT NULL,
  code TEXT NOT NULL,
  reason TEXT NOT NULL,
  event BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS facts(name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class Totals(NamedTuple):
    """What the store holds, of all processes."""

    events: int
    bytes: int


class Appended(NamedTuple):
    """What an append did."""

    totals: Totals
    dropped: int
    """Oldest events that went to make room."""
    refused: int
    """Of the events to append, the last so many were not taken."""


class Entry(NamedTuple):
    """One event and its place."""

    line: bytes
    chunk: int
    after: int
    """How many events of its chunk are settled once it is."""


class SetAside(NamedTuple):
    """An event that the server will never take, and its words."""

    event: bytes
    status: int
    code: str
    reason: str


@dataclass
class Taken:
    """The first events of the queue, still in it."""

    entries: list[Entry] = field(default_factory=list)
    too_old: int = 0
    """So many were dropped before these, for their age."""


class StoreUnusable(Exception):
    """The store can't be read or written at the moment."""


class Store:
    """One store file, for one process: any thread may use it."""

    def __init__(self, path: Path, *, max_events: int, max_bytes: int, refuse_newest: bool = False) -> None:
        """
        Args:
            max_events: the bound, for all processes together.
            max_bytes: the same, of the events' JSON.
            refuse_newest: what to do at the bound: take nothing new, instead of dropping the oldest.
        """
        self.path = path
        self.moved_to: Path | None = None
        """Where a damaged file was moved; the reader of this resets it."""
        self.known = Totals(0, 0)
        """What was there when that was last seen; other processes change it."""
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._refuse_newest = refuse_newest
        self._lock = threading.Lock()
        self._turn = Lease(path.with_suffix(".turn"))
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._skip = (0, 0)
        """(chunk, done): up to here everything is acknowledged, written down or not."""
        self._owed: list[tuple[int, int, int]] = []
        """(chunk, done after it, bytes) of events whose removal could not be written down yet."""
        self._owed_aside: list[SetAside] = []
        self._read: tuple[int, list[bytes]] = (0, [])
        """The chunk that was read last: bodies never change."""
        self._forked_badly = False
        self._boot = _boot_id()

    # ---- in

    def append(self, lines: Sequence[bytes]) -> Appended:
        """Add events; when this returns they are on the disk.

        Raises:
            StoreUnusable: None of them is.
        """
        with self._transaction() as sql:
            (events, size) = sql.execute("SELECT events, bytes FROM state").fetchone()
            refused = dropped = 0
            if self._refuse_newest:
                kept = self._fitting(lines, events, size)
                refused = len(lines) - len(kept)
            else:
                # Were there more new ones than there is room at all, the oldest of them would be dropped too.
                kept = lines[len(lines) - len(self._fitting(lines[::-1], 0, 0)) :]
                dropped = len(lines) - len(kept)
                # And if one of those goes, so does all that is older.
                keep_events, keep_bytes = self._max_events - len(kept), self._max_bytes - sum(map(len, kept))
                room = (0, 0) if dropped else (keep_events, keep_bytes)
                fell, lost_bytes = self._drop(sql, *room, events, size)
                events, size, dropped = events - fell, size - lost_bytes, dropped + fell
            now, uptime_s = time.time(), time.monotonic()
            sql.executemany(
                "INSERT INTO chunks(stored_at, boot, uptime_s, events, body) VALUES (?, ?, ?, ?, ?)",
                [(now, self._boot, uptime_s, len(chunk), b"\n".join(chunk)) for chunk in _chunks(kept)],
            )
            totals = Totals(events + len(kept), size + sum(map(len, kept)))
            sql.execute("UPDATE state SET events = ?, bytes = ?", totals)
            # Within the lock, so that what is known last is what was true last.
            self.known = totals
        return Appended(totals, dropped, refused)

    def _fitting(self, lines: Sequence[bytes], events: int, size: int) -> Sequence[bytes]:
        """As many from the front as fit beside what is there."""
        for at, line in enumerate(lines):
            events, size = events + 1, size + len(line)
            if events > self._max_events or size > self._max_bytes:
                return lines[:at]
        return lines

    @staticmethod
    def _drop(
        sql: sqlite3.Connection, keep_events: int, keep_bytes: int, events: int, size: int
    ) -> tuple[int, int]:
        """Drop the oldest until no more than this is left; returns how many events and bytes went."""
        dropped = lost_bytes = 0
        while events - dropped > keep_events or size - lost_bytes > keep_bytes:
            (done,) = sql.execute("SELECT done FROM state").fetchone()
            row = sql.execute("SELECT id, body FROM chunks ORDER BY id LIMIT 1").fetchone()
            if row is None:
                break
            lines = row[1].split(b"\n")
            while done < len(lines) and (events - dropped > keep_events or size - lost_bytes > keep_bytes):
                dropped, lost_bytes, done = dropped + 1, lost_bytes + len(lines[done]), done + 1
            if done == len(lines):
                sql.execute("DELETE FROM chunks WHERE id = ?", (row[0],))
                done = 0
            sql.execute("UPDATE state SET done = ?", (done,))
        return dropped, lost_bytes

    # ---- out

    def take(self, max_events: int, max_bytes: int, *, max_age_s: float) -> Taken:
        """The first events, which stay in the queue until they are settled; drops what is too old.

        Args:
            max_bytes: of JSON, a comma after each event counted; the first event is given whatever its size.

        Raises:
            StoreUnusable: It can't be read.
        """
        taken = Taken(too_old=self._drop_old(max_age_s))
        with self._connected() as sql:
            (done,) = sql.execute("SELECT done FROM state").fetchone()
            size, after = 0, 0
            while len(taken.entries) < max_events:
                row = sql.execute(
                    "SELECT id FROM chunks WHERE id > ? ORDER BY id LIMIT 1", (after,)
                ).fetchone()
                if row is None:
                    break
                after = row[0]
                if self._read[0] != after:
                    (body,) = sql.execute("SELECT body FROM chunks WHERE id = ?", (after,)).fetchone()
                    self._read = (after, body.split(b"\n"))
                lines = self._read[1]
                if after < self._skip[0]:
                    done = len(lines)
                elif after == self._skip[0]:
                    done = max(done, self._skip[1])
                for at in range(done, len(lines)):
                    size += len(lines[at]) + 1
                    if taken.entries and (size > max_bytes or len(taken.entries) == max_events):
                        return taken
                    taken.entries.append(Entry(lines[at], after, at + 1))
                done = 0
        return taken

    def _drop_old(self, max_age_s: float) -> int:
        """Drop what has been there for too long: only whole chunks are looked at, which are of one moment."""
        now, uptime_s = time.time(), time.monotonic()
        dropped = 0
        with self._connected() as sql:
            old = _oldest_age_s(sql, now, uptime_s, self._boot) > max_age_s
        while old:
            with self._transaction() as sql:
                old = _oldest_age_s(sql, now, uptime_s, self._boot) > max_age_s
                if old:
                    (number, body) = sql.execute("SELECT id, body FROM chunks ORDER BY id LIMIT 1").fetchone()
                    (done,) = sql.execute("SELECT done FROM state").fetchone()
                    lines = body.split(b"\n")[done:]
                    sql.execute("DELETE FROM chunks WHERE id = ?", (number,))
                    sql.execute(
                        "UPDATE state SET done = 0, events = events - ?, bytes = bytes - ?",
                        (len(lines), sum(map(len, lines))),
                    )
                    dropped += len(lines)
        return dropped

    def settle(self, entries: Sequence[Entry], set_aside: Sequence[SetAside] = ()) -> Totals:
        """Remove events that the server has answered for, and keep those that it refused beside the queue.

        If this fails it is made up for by the next call; until then this process does not give them out again. A
        later one would, and the server knows their messageIds.

        Raises:
            StoreUnusable: It could not be written.
        """
        self._owed += [(entry.chunk, entry.after, len(entry.line)) for entry in entries]
        self._owed_aside += set_aside
        last_chunk, last_after, _ = self._owed[-1]
        self._skip = (last_chunk, last_after)
        with self._transaction() as sql:
            head = sql.execute("SELECT min(id) FROM chunks").fetchone()[0]
            (done,) = sql.execute("SELECT done FROM state").fetchone()
            # Whatever was dropped while the batch was under way is counted as dropped already.
            left = [owed for owed in self._owed if head is not None and owed[:2] > (head, done)]
            if left:
                sql.execute("DELETE FROM chunks WHERE id < ?", (last_chunk,))
                (count,) = sql.execute("SELECT events FROM chunks WHERE id = ?", (last_chunk,)).fetchone()
                whole = last_after == count
                if whole:
                    sql.execute("DELETE FROM chunks WHERE id = ?", (last_chunk,))
                sql.execute(
                    "UPDATE state SET done = ?, events = events - ?, bytes = bytes - ?",
                    (0 if whole else last_after, len(left), sum(size for _, _, size in left)),
                )
            for refused in self._owed_aside:
                sql.execute(
                    "INSERT INTO set_aside(at, status, code, reason, event) VALUES (?, ?, ?, ?, ?)",
                    (time.time(), refused.status, refused.code, refused.reason, refused.event),
                )
                sql.execute(
                    "DELETE FROM set_aside WHERE id <= (SELECT max(id) FROM set_aside) - ?",
                    (_SET_ASIDE_MOST,),
                )
            totals = self.known = Totals(*sql.execute("SELECT events, bytes FROM state").fetchone())
        self._owed, self._owed_aside = [], []
        return totals

    def purge(self) -> int:
        """Remove everything that was not sent, set aside or not; returns how many events that were."""
        with self._transaction() as sql:
            (events,) = sql.execute("SELECT events FROM state").fetchone()
            (refused,) = sql.execute("SELECT count(*) FROM set_aside").fetchone()
            sql.execute("DELETE FROM chunks")
            sql.execute("DELETE FROM set_aside")
            sql.execute("UPDATE state SET done = 0, events = 0, bytes = 0")
            self.known = Totals(0, 0)
        return int(events) + int(refused)

    # ---- questions

    def totals(self) -> Totals:
        """What is there. Raises: StoreUnusable."""
        with self._connected() as sql:
            self.known = Totals(*sql.execute("SELECT events, bytes FROM state").fetchone())
            return self.known

    def bounds(self) -> tuple[int, int]:
        """The ids of the first and the last chunk; the first is larger if there is none. Raises: StoreUnusable."""
        with self._connected() as sql:
            (first,) = sql.execute("SELECT min(id) FROM chunks").fetchone()
            row = sql.execute("SELECT seq FROM sqlite_sequence WHERE name = 'chunks'").fetchone()
        last = 0 if row is None else int(row[0])
        return (last + 1 if first is None else int(first), last)

    def set_aside(self) -> list[SetAside]:
        """The refused events, oldest first; at most the last 1,000 are kept. Raises: StoreUnusable."""
        with self._connected() as sql:
            rows = sql.execute("SELECT event, status, code, reason FROM set_aside ORDER BY id").fetchall()
        return [SetAside(*row) for row in rows]

    def clear_set_aside(self) -> int:
        """Forget the refused events; returns how many there were. Raises: StoreUnusable."""
        with self._transaction() as sql:
            return sql.execute("DELETE FROM set_aside").rowcount

    def fact(self, name: str) -> str | None:
        """A small text kept beside the queue. Raises: StoreUnusable."""
        with self._connected() as sql:
            row = sql.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def keep_fact(self, name: str, value: str | None) -> None:
        """Keep a text, or forget it. Raises: StoreUnusable."""
        with self._transaction() as sql:
            if value is None:
                sql.execute("DELETE FROM facts WHERE name = ?", (name,))
            else:
                sql.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    # ---- the connection

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        with self._lock:
            self._disconnect()
            self._turn.close()

    def before_fork(self) -> bool:
        """Wait for the transaction in progress, close, and keep everybody out until after the fork."""
        held = self._lock.acquire(timeout=_FORK_WAIT_S)
        if held:
            self._disconnect()
        self._forked_badly = not held
        return held

    def after_fork_parent(self, held: bool) -> None:
        """Go on."""
        self._forked_badly = False
        if held:
            self._lock.release()

    def after_fork_child(self) -> None:
        """Begin anew. Where the parent could not be waited for, this process leaves the file alone."""
        self._lock = threading.Lock()
        self._connection = None
        self._turn.after_fork_child()

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._open()
            except (sqlite3.Error, OSError) as error:
                self._judge(error)
                raise StoreUnusable(_words(error)) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connected() as sql:
            self._begin(sql)
            try:
                yield sql
                sql.execute("COMMIT")
            except BaseException:
                if sql.in_transaction:
                    sql.execute("ROLLBACK")
                raise

    def _begin(self, sql: sqlite3.Connection) -> None:
        """Begin to write, in turn."""
        deadline = time.monotonic() + _BUSY_TIMEOUT_S
        try:
            while not self._turn.acquire():
                _wait(deadline)
            sql.execute("PRAGMA busy_timeout = 0")
            while True:
                try:
                    # IMMEDIATE: two that have read and want to write could not both wait.
                    sql.execute("BEGIN IMMEDIATE")
                    break
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error):
                        raise
                    _wait(deadline)
            sql.execute(f"PRAGMA busy_timeout = {int(_BUSY_TIMEOUT_S * 1000)}")
        finally:
            self._turn.release()

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        if self._forked_badly:
            raise OSError("forked while the store was in use: this process keeps its events in memory")
        if not self.path.exists():
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        # Threads take turns by our lock.
        sql = sqlite3.connect(
            self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        try:
            sql.execute("PRAGMA journal_mode = DELETE").fetchone()
            sql.execute("PRAGMA synchronous = EXTRA")
            (version,) = sql.execute("PRAGMA user_version").fetchone()
            if version == 0:
                sql.execute("BEGIN IMMEDIATE")
                for statement in _SCHEMA.split(";\n"):
                    sql.execute(statement)
                sql.execute(f"PRAGMA user_version = {_VERSION}")
                sql.execute("COMMIT")
            elif version > _VERSION:
                raise OSError(f"the store was made by a newer version of this library (layout {version})")
            self._inode = self.path.stat().st_ino
        except BaseException:
            sql.close()
            raise
        self._connection = sql
        return sql

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._read = (0, [])
        if connection is not None:
            connection.close()

    def _judge(self, error: Exception) -> None:
        """After a failure: connect anew next time, and if the file itself is bad, get it out of the way."""
        inode = self._inode
        try:
            self._disconnect()
        except sqlite3.Error as closing:
            raise StoreUnusable(_words(closing)) from error
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(
            error, (sqlite3.OperationalError, sqlite3.IntegrityError, sqlite3.ProgrammingError)
        ):
            try:
                exclusively(self.path.with_suffix(".repair"), lambda: self._move_away(inode))
            except OSError as moving:
                raise StoreUnusable(_words(moving)) from error

    def _move_away(self, inode: int) -> None:
        """Rename a file that is no database, unless another process has done it already."""
        if inode and self.path.exists() and self.path.stat().st_ino != inode:
            return
        moved_to = self.path.with_suffix(f".damaged-{uuid.uuid4().hex[:8]}")
        self.path.rename(moved_to)
        # It belongs to the old file: beside a new one it would be played into that.
        Path(f"{self.path}-journal").unlink(missing_ok=True)
        self.moved_to = moved_to
        self._skip, self._owed, self._owed_aside = (0, 0), [], []


def _wait(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise OSError(f"the store was locked by another process for {_BUSY_TIMEOUT_S:g} s")
    time.sleep(_POLL_S)


def _chunks(lines: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    start, size = 0, 0
    for at, line in enumerate(lines):
        if at > start and (at - start == _CHUNK_EVENTS or size + len(line) > _CHUNK_BYTES):
            yield lines[start:at]
            start, size = at, 0
        size += len(line)
    if start < len(lines):
        yield lines[start:]


def _oldest_age_s(sql: sqlite3.Connection, now: float, uptime_s: float, boot: str) -> float:
    """How long the first chunk has been there.

    By the clock that nobody sets, as long as the machine has not been started anew; else by the calendar's, and
    if that was set back meanwhile, not at all.
    """
    row = sql.execute("SELECT stored_at, boot, uptime_s FROM chunks ORDER BY id LIMIT 1").fetchone()
    if row is None:
        return 0.0
    return float(uptime_s - row[2] if row[1] == boot else max(0.0, now - row[0]))


def _boot_id() -> str:
    """What tells this run of the machine from the next; a process's own where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return uuid.uuid4().hex


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
