"""meta.db: what belongs to the stream and not to one segment: its shape, its cursors, the dropped segments' books."""

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, TypeVar, cast

import apsw

from mainstem.stream.base import StreamCorrupt, StreamError
from mainstem.stream.embedded.segment import connect, errors_named

FORMAT: Final = 3

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cursors (
  cursor TEXT, partition INTEGER, next INTEGER NOT NULL, PRIMARY KEY (cursor, partition)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tallies (
  tally TEXT, hour INTEGER, appended INTEGER NOT NULL, duplicates INTEGER NOT NULL, PRIMARY KEY (tally, hour)
) WITHOUT ROWID;
"""
ADD_TALLY: Final = (
    "INSERT INTO tallies VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
    " appended = appended + excluded.appended, duplicates = duplicates + excluded.duplicates"
)

Tally = tuple[str, int, int, int]
T = TypeVar("T")


class Meta:
    """The open meta.db; usable from any thread."""

    def __init__(self, path: Path, partitions: int) -> None:
        self._path = path
        self._lock = threading.Lock()
        with errors_named(path):
            self._connection = connect(path, create=True)
            # Ask for the write lock first: a look that turns into a write gives up at once when another process
            # wrote in between (SQLITE_BUSY_SNAPSHOT), whatever the time-out.
            self._connection.transaction_mode = "IMMEDIATE"
            with self._connection:
                self._connection.execute(_SCHEMA)
                self._connection.executemany(
                    "INSERT OR IGNORE INTO facts VALUES (?, ?)",
                    [("format", FORMAT), ("partitions", partitions), ("dropped", 0), ("made", 0)],
                )
        self.partitions = self._fact("partitions")
        if self._fact("format") != FORMAT:
            raise StreamError(f"{path}: format {self._fact('format')}; this version reads {FORMAT}")
        if not 1 <= self.partitions < 1 << 15:
            raise StreamCorrupt(f"{path}: {self.partitions} partitions")

    def dropped(self) -> int:
        """Return the number of the last segment that retention dropped; 0 if none."""
        return self._fact("dropped")

    def made(self) -> bool:
        """Tell whether the first segment was made: from then on there is always one."""
        return bool(self._fact("made"))

    def set_made(self) -> None:
        """Note that the first segment was made."""
        self._do(lambda c: c.execute("UPDATE facts SET value = 1 WHERE key = 'made'").fetchall())

    def cursors(self) -> dict[str, dict[int, int]]:
        """Return every cursor."""
        rows = self._do(lambda c: c.execute("SELECT cursor, partition, next FROM cursors").fetchall())
        found: dict[str, dict[int, int]] = {}
        for cursor, partition, offset in cast("list[tuple[str, int, int]]", rows):
            found.setdefault(cursor, {})[partition] = offset
        return found

    def commit(self, cursor: str, next_offsets: Mapping[int, int]) -> None:
        """Move a cursor."""
        rows = [(cursor, partition, offset) for partition, offset in next_offsets.items()]

        def write(connection: apsw.Connection) -> None:
            with connection:
                connection.executemany("INSERT OR REPLACE INTO cursors VALUES (?, ?, ?)", rows)

        self._do(write)

    def forget(self, cursor: str) -> None:
        """Remove a cursor."""
        self._do(lambda c: c.execute("DELETE FROM cursors WHERE cursor = ?", (cursor,)).fetchall())

    def tallies(self) -> tuple[int, list[Tally]]:
        """Return the last dropped segment and the tallies of all dropped segments, of one moment."""

        def read(connection: apsw.Connection) -> tuple[int, list[Tally]]:
            with connection:
                dropped = connection.execute("SELECT value FROM facts WHERE key = 'dropped'").fetchall()
                rows = connection.execute("SELECT tally, hour, appended, duplicates FROM tallies").fetchall()
            return cast("int", dropped[0][0]), cast("list[Tally]", rows)

        return self._do(read)

    def drop(self, number: int, tallies: Iterable[Tally]) -> None:
        """Take over the books of a segment that is about to be dropped."""

        def write(connection: apsw.Connection) -> None:
            with connection:
                connection.executemany(ADD_TALLY, tallies)
                connection.execute("UPDATE facts SET value = ? WHERE key = 'dropped'", (number,))

        self._do(write)

    def checkpoint(self) -> None:
        """Move the WAL into the file as far as nobody stands in the way."""
        self._do(lambda c: c.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _fact(self, key: str) -> int:
        rows = self._do(lambda c: c.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchall())
        return cast("int", rows[0][0])

    def _do(self, work: Callable[[apsw.Connection], T]) -> T:
        with self._lock, errors_named(self._path):
            return work(self._connection)
