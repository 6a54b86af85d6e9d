"""The ledger in one SQLite file: for one machine, any number of processes.

delivery -> **ledger.db**. WAL with synchronous=FULL: every settlement is on stable storage before the call
returns. NORMAL would be consistent too (SQLite rolls back whole transactions, so a position never outlives
its dead letters), but stream retention and archive files act on what was settled and cannot be rolled back
with it. Group commit makes the difference small: one writer thread takes all waiting calls of this process
into one transaction, each inside its own savepoint, so that a fenced call costs the others nothing.

    position    (cursor, partition)            how far, and the owner's note
    count       (cursor, source, hour, ...)    the books
    parked      (cursor, key, place)           events set aside, in order; place = sequence, partition, offset
    parked_key  (cursor, key)                  one row a parked key: how many, and when its first is due
    dead        (id)                           dead letters
    remark      (id)                           what destinations said about events that they took, bounded
    replay, status, meta

apsw and not the standard library's module: https://sqlite.org/wal.html#walresetbug
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw
import msgspec

from mainstem.ledger.base import (
    HOUR_MS,
    MOST_REMARKS,
    CountKey,
    DeadFilter,
    DeadLetter,
    Fenced,
    LedgerBusy,
    LedgerError,
    Parked,
    ParkedResult,
    Position,
    Remark,
    Replay,
    Settlement,
    parked_from_dead,
)

_T = TypeVar("_T")

SCHEMA_VERSION: Final = 2
_APPLICATION_ID: Final = 0x4D53_4C47  # "MSLG"

_REMARK_SCHEMA: Final = """
CREATE TABLE remark (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    cursor TEXT NOT NULL, source_id TEXT NOT NULL, message_id TEXT NOT NULL, at_ms INTEGER NOT NULL, text TEXT NOT NULL
);
CREATE INDEX remark_message ON remark (message_id);
"""
_SCHEMA: Final = """
CREATE TABLE position (
    cursor TEXT NOT NULL, partition INTEGER NOT NULL,
    start_offset INTEGER NOT NULL, next_offset INTEGER NOT NULL, note BLOB NOT NULL,
    PRIMARY KEY (cursor, partition)
) WITHOUT ROWID;
CREATE TABLE count (
    cursor TEXT NOT NULL, source_id TEXT NOT NULL, hour INTEGER NOT NULL,
    outcome TEXT NOT NULL, reason TEXT NOT NULL, events INTEGER NOT NULL,
    PRIMARY KEY (cursor, source_id, hour, outcome, reason)
) WITHOUT ROWID;
CREATE TABLE parked (
    cursor TEXT NOT NULL, destination_id TEXT NOT NULL, key TEXT NOT NULL, sequence INTEGER NOT NULL,
    partition INTEGER NOT NULL, offset INTEGER NOT NULL, value BLOB NOT NULL, source_id TEXT NOT NULL,
    message_id TEXT NOT NULL, received_at_ms INTEGER NOT NULL, parked_at_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL, sent INTEGER NOT NULL, first_attempt_ms INTEGER NOT NULL,
    next_attempt_ms INTEGER NOT NULL, reason TEXT NOT NULL, answer TEXT NOT NULL
);
CREATE UNIQUE INDEX parked_place ON parked (cursor, key, sequence, partition, offset);
CREATE INDEX parked_message ON parked (cursor, message_id);
CREATE TABLE parked_key (
    cursor TEXT NOT NULL, key TEXT NOT NULL, partition INTEGER NOT NULL,
    events INTEGER NOT NULL, next_attempt_ms INTEGER NOT NULL,
    PRIMARY KEY (cursor, key)
) WITHOUT ROWID;
CREATE INDEX parked_key_due ON parked_key (cursor, next_attempt_ms, partition);
CREATE TABLE dead (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    cursor TEXT NOT NULL, destination_id TEXT NOT NULL, key TEXT NOT NULL, sequence INTEGER NOT NULL,
    partition INTEGER NOT NULL, offset INTEGER NOT NULL, value BLOB NOT NULL, source_id TEXT NOT NULL,
    message_id TEXT NOT NULL, event_type TEXT NOT NULL, event_name TEXT NOT NULL,
    received_at_ms INTEGER NOT NULL, died_at_ms INTEGER NOT NULL, reason TEXT NOT NULL,
    attempts INTEGER NOT NULL, request TEXT NOT NULL, answer TEXT NOT NULL
);
CREATE INDEX dead_destination ON dead (destination_id, id);
CREATE INDEX dead_message ON dead (message_id, id);
CREATE INDEX dead_time ON dead (died_at_ms);
CREATE TABLE replay (
    id TEXT PRIMARY KEY, created_at_ms INTEGER NOT NULL, body BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE status (destination_id TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('commands', 0);
"""

_PARKED_FIELDS: Final = Parked.__struct_fields__
_DEAD_FIELDS: Final = DeadLetter.__struct_fields__
_PARKED_COLUMNS: Final = ", ".join(_PARKED_FIELDS)
_DEAD_COLUMNS: Final = ", ".join(_DEAD_FIELDS)
_AT_PLACE: Final = "cursor = ? AND key = ? AND sequence = ? AND partition = ? AND offset = ?"

_INSERT_PARKED: Final = (
    f"INSERT OR IGNORE INTO parked ({_PARKED_COLUMNS}) VALUES ({', '.join('?' * len(_PARKED_FIELDS))})"  # noqa: S608
)
_INSERT_DEAD: Final = f"INSERT INTO dead ({_DEAD_COLUMNS}) VALUES ({', '.join('?' * len(_DEAD_FIELDS))})"  # noqa: S608
_ADD_COUNT: Final = (
    "INSERT INTO count VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET events = events + excluded.events"
)

_Call = Callable[[apsw.Connection], Any]


class SqliteLedger:
    """See `base.Ledger`. Open it with `open_ledger`."""

    def __init__(self, path: Path, writer: "_Writer", reader: apsw.Connection) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="ledger-read")

    async def open_cursor(self, cursor: str, starts: Mapping[int, int]) -> Mapping[int, Position]:
        rows = [(cursor, partition, start, start, b"") for partition, start in starts.items()]

        def call(db: apsw.Connection) -> Mapping[int, Position]:
            db.executemany("INSERT OR IGNORE INTO position VALUES (?, ?, ?, ?, ?)", rows)
            return _positions(db, cursor).get(cursor, {})

        return await self._write(call)

    async def positions(self, cursor: str) -> Mapping[int, Position]:
        return await self._read(lambda db: _positions(db, cursor).get(cursor, {}))

    async def cursors(self) -> Mapping[str, Mapping[int, Position]]:
        return await self._read(_positions)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        await self._write(lambda db: _settle(db, settlements))

    async def forget(self, cursor: str) -> None:
        def call(db: apsw.Connection) -> None:
            for table in ("position", "count", "parked", "parked_key"):
                db.execute(f"DELETE FROM {table} WHERE cursor = ?", (cursor,))  # noqa: S608
            _note_command(db)

        await self._write(call)

    async def counts(self, cursor: str) -> Mapping[CountKey, int]:
        def call(db: apsw.Connection) -> Mapping[CountKey, int]:
            rows = db.execute(
                "SELECT source_id, hour, outcome, reason, events FROM count WHERE cursor = ? AND events > 0",
                (cursor,),
            )
            return {CountKey(source, hour, outcome, reason): n for source, hour, outcome, reason, n in rows}

        return await self._read(call)

    async def parked_keys(
        self, cursor: str, *, partitions: Collection[int] | None = None
    ) -> Mapping[str, int]:
        only, values = _only(partitions)

        def call(db: apsw.Connection) -> Mapping[str, int]:
            sql = f"SELECT key, events FROM parked_key WHERE cursor = ?{only}"  # noqa: S608
            return dict(db.execute(sql, (cursor, *values)))

        return await self._read(call)

    async def parked_due(
        self, cursor: str, now_ms: int, limit: int, *, partitions: Collection[int] | None = None
    ) -> Sequence[Parked]:
        only, values = _only(partitions)

        def call(db: apsw.Connection) -> Sequence[Parked]:
            keys: list[Any] = db.execute(
                f"SELECT key FROM parked_key WHERE cursor = ? AND next_attempt_ms <= ?{only}"  # noqa: S608
                " ORDER BY next_attempt_ms LIMIT ?",
                (cursor, now_ms, *values, limit),
            ).fetchall()
            heads = (_head(db, cursor, key) for (key,) in keys)
            return [head for head in heads if head is not None]

        return await self._read(call)

    async def parked(
        self, cursor: str, *, key: str = "", message_id: str = "", limit: int = 1000
    ) -> Sequence[Parked]:
        where, values = "cursor = ?", [cursor]
        if key:
            where, values = where + " AND key = ?", [*values, key]
        if message_id:
            where, values = where + " AND message_id = ?", [*values, message_id]

        def call(db: apsw.Connection) -> Sequence[Parked]:
            rows = db.execute(
                f"SELECT {_PARKED_COLUMNS} FROM parked WHERE {where}"  # noqa: S608
                " ORDER BY key, sequence, partition, offset LIMIT ?",
                (*values, limit),
            )
            return [_parked(row) for row in rows]

        return await self._read(call)

    async def finish_parked(self, results: Sequence[ParkedResult]) -> None:
        def call(db: apsw.Connection) -> None:
            for result in results:
                _finish(db, result)

        await self._write(call)

    async def dead(
        self, where: DeadFilter, *, limit: int = 1000, after_id: int = 0
    ) -> Sequence[tuple[int, DeadLetter]]:
        wheres: list[str] = ["id > ?"]
        values: list[str | int] = [after_id]
        for sql, value in (
            ("destination_id = ?", where.destination_id),
            ("source_id = ?", where.source_id),
            ("message_id = ?", where.message_id),
            ("event_type = ?", where.event_type),
            ("event_name = ?", where.event_name),
            ("instr(reason, ?) > 0", where.reason_contains),
            ("died_at_ms >= ?", where.died_from_ms),
            ("died_at_ms < ?", where.died_to_ms),
        ):
            if value is not None and value != "":
                wheres.append(sql)
                values.append(value)

        def call(db: apsw.Connection) -> Sequence[tuple[int, DeadLetter]]:
            rows = db.execute(
                f"SELECT id, {_DEAD_COLUMNS} FROM dead WHERE {' AND '.join(wheres)}"  # noqa: S608
                " ORDER BY id LIMIT ?",
                (*values, limit),
            )
            return [(row[0], _dead(row[1:])) for row in rows]

        return await self._read(call)

    async def remarks(self, cursor: str, message_id: str) -> Sequence[Remark]:
        def call(db: apsw.Connection) -> Sequence[Remark]:
            rows = db.execute(
                "SELECT cursor, source_id, message_id, at_ms, text FROM remark"
                " WHERE message_id = ? AND cursor = ? ORDER BY id",
                (message_id, cursor),
            )
            return [
                Remark(cursor=c, source_id=source, message_id=message, at_ms=at_ms, text=text)
                for c, source, message, at_ms, text in rows
            ]

        return await self._read(call)

    async def redrive(self, ids: Sequence[int], now_ms: int) -> int:
        return await self._write(lambda db: _redrive(db, ids, now_ms))

    async def version(self) -> int:
        return await self._read(_commands)

    async def put_replay(self, replay: Replay) -> None:
        def call(db: apsw.Connection) -> None:
            row = db.execute("SELECT body FROM replay WHERE id = ?", (replay.id,)).fetchone()
            before = None if row is None else _replay(row[0])
            if before is not None and before.state in ("done", "failed", "cancelled"):
                return
            db.execute(
                "INSERT OR REPLACE INTO replay VALUES (?, ?, ?)",
                (replay.id, replay.created_at_ms, msgspec.json.encode(replay)),
            )
            if before is None or before.state != replay.state:
                _note_command(db)

        await self._write(call)

    async def replays(self) -> Sequence[Replay]:
        def call(db: apsw.Connection) -> Sequence[Replay]:
            return [
                _replay(body) for (body,) in db.execute("SELECT body FROM replay ORDER BY created_at_ms, id")
            ]

        return await self._read(call)

    async def put_status(self, destination_id: str, status: bytes) -> None:
        await self._write(
            lambda db: db.execute("INSERT OR REPLACE INTO status VALUES (?, ?)", (destination_id, status))
        )

    async def statuses(self) -> Mapping[str, bytes]:
        return await self._read(lambda db: dict(db.execute("SELECT destination_id, body FROM status")))

    async def check(self) -> None:
        # A write that changes nothing still needs the lock, the disk and an intact file.
        await self._write(
            lambda db: db.execute("UPDATE meta SET value = value WHERE name = 'commands'").fetchall()
        )

    async def close(self) -> None:
        await asyncio.to_thread(self._writer.close)
        await asyncio.to_thread(self._reading.shutdown)
        self._reader.close()

    async def _write(self, call: Callable[[apsw.Connection], _T]) -> _T:
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._writer.submit(call, future)
        return await future

    async def _read(self, call: Callable[[apsw.Connection], _T]) -> _T:
        def run() -> _T:
            with _as_ledger_errors(self._path):
                # One read transaction: several statements see one state.
                self._reader.execute("BEGIN")
                try:
                    return call(self._reader)
                finally:
                    self._reader.execute("COMMIT")

        try:
            return await asyncio.get_running_loop().run_in_executor(self._reading, run)
        except RuntimeError as error:  # the executor was shut down
            raise LedgerError(f"{self._path}: the ledger is closed") from error


async def open_ledger(path: Path, *, busy_timeout_s: float = 10.0) -> SqliteLedger:
    """Open the ledger, making it if need be.

    Args:
        path: of the file; its folder exists. Two more files appear beside it while it is open.
        busy_timeout_s: how long a call waits for another process before it raises `LedgerBusy`.

    Raises:
        LedgerError: it can't be opened, is not a ledger, or a newer version wrote it.
    """

    def connect() -> tuple[apsw.Connection, apsw.Connection]:
        with _as_ledger_errors(path):
            return _connect(path, busy_timeout_s, prepare=True), _connect(path, busy_timeout_s)

    writing, reading = await asyncio.to_thread(connect)
    return SqliteLedger(path, _Writer(path, writing), reading)


def _connect(path: Path, busy_timeout_s: float, *, prepare: bool = False) -> apsw.Connection:
    db = apsw.Connection(str(path))
    try:
        db.set_busy_timeout(round(busy_timeout_s * 1000))
        if prepare:
            _prepare(path, db, busy_timeout_s)
        db.execute("PRAGMA synchronous = FULL")
    except BaseException:
        db.close()
        raise
    return db


def _prepare(path: Path, db: apsw.Connection, busy_timeout_s: float) -> None:
    deadline = time.monotonic() + busy_timeout_s
    while True:
        try:
            (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone() or ("",)
            break
        except apsw.BusyError:
            # The switch to WAL does not wait for the busy time-out when another process is switching too.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    if mode != "wal":
        raise LedgerError(f"{path}: the file system does not support SQLite's WAL (mode {mode})")
    with _immediate(db):
        (version,) = db.execute("PRAGMA user_version").fetchone() or (0,)
        (application,) = db.execute("PRAGMA application_id").fetchone() or (0,)
        if version > SCHEMA_VERSION:
            raise LedgerError(
                f"{path}: written by a newer Mainstem (schema {version}, this one knows {SCHEMA_VERSION})"
            )
        if version == 0:
            if db.execute("SELECT 1 FROM sqlite_schema").fetchone():
                raise LedgerError(f"{path}: a SQLite file, but not a ledger")
            db.execute(_SCHEMA)
            db.execute(_REMARK_SCHEMA)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        elif application != _APPLICATION_ID:
            raise LedgerError(f"{path}: a SQLite file, but not a ledger")
        elif version == 1:
            db.execute(_REMARK_SCHEMA)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextmanager
def _immediate(db: apsw.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextmanager
def _as_ledger_errors(path: Path) -> Iterator[None]:
    """Turn the driver's errors into ours; everything else passes."""
    try:
        yield
    except apsw.BusyError as error:
        raise LedgerBusy(f"{path}: another process holds it: {error}") from error
    except apsw.Error as error:
        raise LedgerError(f"{path}: {type(error).__name__}: {error}") from error


# ---------------------------------------------------------------- the writer


_Waiting = tuple[_Call, "asyncio.Future[Any]"]
_Answer = tuple["asyncio.Future[Any]", Any, BaseException | None]


class _Writer:
    """One thread, one connection: takes whatever calls are waiting into one transaction."""

    _MAX_GROUP = 256

    def __init__(self, path: Path, db: apsw.Connection) -> None:
        self._path = path
        self._db = db
        self._calls: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="ledger-write", daemon=True)
        self._thread.start()

    def submit(self, call: _Call, future: "asyncio.Future[Any]") -> None:
        with self._lock:
            if self._closed:
                raise LedgerError(f"{self._path}: the ledger is closed")
            self._calls.put((call, future))

    def close(self) -> None:
        """Finish what was submitted, then close the file."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._calls.put(None)
        self._thread.join()

    def _run(self) -> None:
        ending = False
        while not ending:
            group: list[_Waiting] = []
            waiting = self._calls.get()
            while waiting is not None:
                group.append(waiting)
                if len(group) == self._MAX_GROUP:
                    break
                try:
                    waiting = self._calls.get_nowait()
                except queue.Empty:
                    break
            ending = waiting is None
            if group:
                _tell(self._commit(group))
        self._db.close()

    def _commit(self, group: list[_Waiting]) -> list[_Answer]:
        answers: list[_Answer] = []
        try:
            with _as_ledger_errors(self._path), _immediate(self._db):
                for call, future in group:
                    answers.append(self._call(call, future))
        except Exception as error:  # noqa: BLE001  the thread must live: the callers get it
            return [(future, None, error) for _, future in group]
        return answers

    def _call(self, call: _Call, future: "asyncio.Future[Any]") -> _Answer:
        self._db.execute("SAVEPOINT one")
        try:
            with _as_ledger_errors(self._path):
                result = call(self._db)
        except Exception as error:  # it belongs to the caller, who gets it
            if not self._db.in_transaction:
                raise  # SQLite gave the whole transaction up (disk full): nobody's call was written
            self._db.execute("ROLLBACK TO one")
            self._db.execute("RELEASE one")
            return future, None, error
        self._db.execute("RELEASE one")
        return future, result, None


def _tell(answers: Sequence[_Answer]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Answer]] = {}
    for answer in answers:
        by_loop.setdefault(answer[0].get_loop(), []).append(answer)
    for loop, of_loop in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, of_loop)


def _resolve(answers: Sequence[_Answer]) -> None:
    for future, result, error in answers:
        if future.done():
            continue  # its caller was cancelled; what was written stays written
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)


# ---------------------------------------------------------------- statements


def _positions(db: apsw.Connection, cursor: str = "") -> dict[str, dict[int, Position]]:
    found: dict[str, dict[int, Position]] = {}
    where, values = ("WHERE cursor = ?", (cursor,)) if cursor else ("", ())
    for name, partition, start, next_offset, note in db.execute(
        f"SELECT cursor, partition, start_offset, next_offset, note FROM position {where}"  # noqa: S608
        " ORDER BY cursor, partition",
        values,
    ):
        found.setdefault(name, {})[partition] = Position(start, next_offset, note)
    return found


def _settle(db: apsw.Connection, settlements: Sequence[Settlement]) -> None:
    for step in settlements:
        moved = db.execute(
            "UPDATE position SET next_offset = ?, note = coalesce(?, note)"
            " WHERE cursor = ? AND partition = ? AND next_offset = ? RETURNING 1",
            (step.next_offset, step.note, step.cursor, step.partition, step.from_offset),
        ).fetchall()
        if not moved:
            found = _positions(db, step.cursor).get(step.cursor, {}).get(step.partition)
            raise Fenced(
                step.cursor, step.partition, step.from_offset, None if found is None else found.next_offset
            )
        if step.counts:
            db.executemany(
                _ADD_COUNT,
                [
                    (step.cursor, line.source_id, line.hour, line.outcome, line.reason, events)
                    for line, events in step.counts.items()
                ],
            )
        for parked in step.park:
            _park(db, parked)
        if step.bury:
            db.executemany(_INSERT_DEAD, [msgspec.structs.astuple(letter) for letter in step.bury])
        _remark(db, step.remarks)


def _park(db: apsw.Connection, parked: Parked) -> bool:
    """Insert a parked event; False when that event is parked already."""
    db.execute(_INSERT_PARKED, msgspec.structs.astuple(parked))
    if not db.changes():
        return False
    _shift_key(db, parked.cursor, parked.key, 1)
    return True


def _shift_key(db: apsw.Connection, cursor: str, key: str, events: int) -> None:
    """Bring the row of a parked key up to date after `events` came (or, negative, went)."""
    head = db.execute(
        "SELECT partition, next_attempt_ms FROM parked WHERE cursor = ? AND key = ?"
        " ORDER BY sequence, partition, offset LIMIT 1",
        (cursor, key),
    ).fetchone()
    if head is None:
        db.execute("DELETE FROM parked_key WHERE cursor = ? AND key = ?", (cursor, key))
        return
    partition, next_attempt_ms = head
    db.execute(
        "INSERT INTO parked_key VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " events = events + excluded.events, partition = excluded.partition,"
        " next_attempt_ms = excluded.next_attempt_ms",
        (cursor, key, partition, events, next_attempt_ms),
    )


def _head(db: apsw.Connection, cursor: str, key: str) -> Parked | None:
    row = db.execute(
        f"SELECT {_PARKED_COLUMNS} FROM parked WHERE cursor = ? AND key = ?"  # noqa: S608
        " ORDER BY sequence, partition, offset LIMIT 1",
        (cursor, key),
    ).fetchone()
    return None if row is None else _parked(row)


def _finish(db: apsw.Connection, result: ParkedResult) -> None:
    parked = result.parked
    place = (parked.cursor, parked.key, parked.sequence, parked.partition, parked.offset)
    if result.fate == "again":
        db.execute(
            "UPDATE parked SET attempts = ?, sent = ?, first_attempt_ms = ?, next_attempt_ms = ?,"  # noqa: S608
            f" reason = ?, answer = ? WHERE {_AT_PLACE}",
            (
                parked.attempts,
                parked.sent,
                parked.first_attempt_ms,
                parked.next_attempt_ms,
                parked.reason,
                parked.answer,
                *place,
            ),
        )
        if db.changes():
            _shift_key(db, parked.cursor, parked.key, 0)
        return
    db.execute(f"DELETE FROM parked WHERE {_AT_PLACE}", place)  # noqa: S608
    if not db.changes():
        return
    _shift_key(db, parked.cursor, parked.key, -1)
    hour = parked.received_at_ms // HOUR_MS
    db.execute(_ADD_COUNT, (parked.cursor, parked.source_id, hour, result.fate, result.reason, 1))
    if result.dead is not None:
        db.execute(_INSERT_DEAD, msgspec.structs.astuple(result.dead))
    if result.remark is not None:
        _remark(db, [result.remark])


def _remark(db: apsw.Connection, remarks: Sequence[Remark]) -> None:
    if not remarks:
        return
    db.executemany(
        "INSERT INTO remark (cursor, source_id, message_id, at_ms, text) VALUES (?, ?, ?, ?, ?)",
        [msgspec.structs.astuple(one) for one in remarks],
    )
    db.execute("DELETE FROM remark WHERE id <= ?", (db.last_insert_rowid() - MOST_REMARKS,))


def _redrive(db: apsw.Connection, ids: Sequence[int], now_ms: int) -> int:
    moved = 0
    for id_ in ids:
        row = db.execute(f"DELETE FROM dead WHERE id = ? RETURNING {_DEAD_COLUMNS}", (id_,)).fetchall()  # noqa: S608
        if not row:
            continue
        letter = _dead(row[0])
        line = letter.count_key
        db.execute(
            "UPDATE count SET events = events - 1 WHERE cursor = ? AND source_id = ? AND hour = ?"
            " AND outcome = ? AND reason = ? AND events > 0",
            (letter.cursor, line.source_id, line.hour, line.outcome, line.reason),
        )
        moved += _park(db, parked_from_dead(letter, now_ms))
    _note_command(db)
    return moved


def _note_command(db: apsw.Connection) -> None:
    db.execute("UPDATE meta SET value = value + 1 WHERE name = 'commands'")


def _commands(db: apsw.Connection) -> int:
    row = db.execute("SELECT value FROM meta WHERE name = 'commands'").fetchone()
    return 0 if row is None else int(row[0])


def _only(partitions: Collection[int] | None) -> tuple[str, tuple[int, ...]]:
    if partitions is None:
        return "", ()
    return f" AND partition IN ({', '.join('?' * len(partitions))})", tuple(partitions)


def _parked(row: Sequence[Any]) -> Parked:
    return Parked(**dict(zip(_PARKED_FIELDS, row, strict=True)))


def _dead(row: Sequence[Any]) -> DeadLetter:
    return DeadLetter(**dict(zip(_DEAD_FIELDS, row, strict=True)))


def _replay(body: bytes) -> Replay:
    return msgspec.json.decode(body, type=Replay)
