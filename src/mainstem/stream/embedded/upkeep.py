"""Upkeep: checkpoints, rotation, indexes, retention, and what commits without a bell.

A thread in every process that appends, waits or belongs to a group. What concerns the files is done by one
process at a time, whichever holds `keeper.lock`; when it dies the next one takes over.

Order of a rotation: make the next file; take `write.lock`; write into the next file where its offsets start;
close the old one in its own transaction. A crash before the last step leaves the old segment active.

Order of a drop: add the segment's books to meta.db together with its number; remove the files. A crash between
leaves files that nobody reads, and the next pass removes them.
"""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import apsw
import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from mainstem.clock import Clock
from mainstem.stream.base import StreamError
from mainstem.stream.embedded.catalog import Catalog, segment_path
from mainstem.stream.embedded.locks import FileLock, WriteLock
from mainstem.stream.embedded.meta import Meta
from mainstem.stream.embedded.segment import (
    PAGE_BYTES,
    SegmentInfo,
    connect,
    create_segment,
    errors_named,
    index_twins,
    newest_since,
    read_info,
    read_tallies,
    set_info,
    start_segment,
    tips,
)
from mainstem.telemetry import metrics

if TYPE_CHECKING:
    from mainstem.stream.embedded.twins_feed import TwinsFeed

_log: FilteringBoundLogger = structlog.get_logger(module=__name__)
_BUSY_PERIOD_S: Final = 0.05
_IDLE_PERIOD_S: Final = 2.0
_QUIET_PASSES: Final = 10
"""While nothing is appended, only every tenth pass does more than look."""
_CHECKPOINT_BYTES: Final = 1 << 20
"""Small bites: a checkpoint's fsync makes commits wait, so it should have little to write."""
_TAIL_BYTES: Final = 1 << 20


class UpkeepLimits(msgspec.Struct, frozen=True, kw_only=True):
    """When segments end, and when they go."""

    segment_bytes: int
    segment_age_ms: int
    retention_bytes: int
    retention_age_ms: int
    retention_force_bytes: int | None
    wal_bytes: int
    min_free_bytes: int


class Upkeep:
    """The thread, and one pass of it for those who can't wait."""

    def __init__(
        self,
        directory: Path,
        catalog: Catalog,
        meta: Meta,
        limits: UpkeepLimits,
        clock: Clock,
        on_tips: Callable[[list[int]], None],
    ) -> None:
        self._directory = directory
        self._catalog = catalog
        self._meta = meta
        self._limits = limits
        self._clock = clock
        self._on_tips = on_tips
        self._write_lock = WriteLock(directory / "write.lock")
        self._keeper_lock = FileLock(directory / "keeper.lock")
        self._keeper = False
        self._pass_lock = threading.Lock()
        self._active: tuple[SegmentInfo, apsw.Connection] | None = None
        self._version = -1
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._refusal: str | None = None
        self._trouble: StreamError | None = None
        self.twins: TwinsFeed | None = None
        """Of the appender in this process, if there is one."""

    @property
    def refusal(self) -> str | None:
        """Why nothing may be appended now; None if it may."""
        return self._refusal

    @property
    def trouble(self) -> StreamError | None:
        """What the last pass failed with."""
        return self._trouble

    def start(self) -> None:
        """Start the thread, once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="stream-upkeep", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread and let go of locks and files."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._pass_lock:
            self._let_go()
            self._write_lock.close()
            self._keeper_lock.close()

    def once(self) -> None:
        """Do everything that is due."""
        with self._pass_lock:
            self._look()
            if self._keep():
                self._rotate_if_due()
                self._index()
                self._retain()
                self._meta.checkpoint()
            if self.twins is not None:
                self.twins.hand_over()

    def look(self) -> None:
        """Find commits without a bell, and see whether there is space."""
        with self._pass_lock:
            self._look()

    # ------------------------------------------------------------ own

    def _run(self) -> None:
        period_s = _IDLE_PERIOD_S
        quiet = 0
        while not self._stop.wait(period_s):
            before = self._version
            try:
                self.look()
                quiet = quiet + 1 if self._version == before else 0
                if quiet % _QUIET_PASSES == 0:
                    self.once()
                self._trouble = None
            except StreamError as error:
                _log.error("stream upkeep failed", error=str(error))
                self._trouble = error
                with self._pass_lock:
                    self._let_go()
            except Exception as error:  # noqa: BLE001 - the next pass must come
                _log.exception("stream upkeep failed unexpectedly")
                self._trouble = StreamError(f"upkeep failed: {error!r}")
                with self._pass_lock:
                    self._let_go()
            period_s = _IDLE_PERIOD_S if quiet else _BUSY_PERIOD_S

    def _keep(self) -> bool:
        if not self._keeper:
            self._keeper = self._keeper_lock.try_take()
        return self._keeper

    def _let_go(self) -> None:
        if self._active is not None:
            self._active[1].close(True)
            self._active = None

    def _open_active(self) -> tuple[SegmentInfo, apsw.Connection]:
        if self._active is None:
            info = self._catalog.refresh()[-1]
            self._active = (info, connect(info.path))
            self._version = -1
        return self._active

    def _look(self) -> None:
        free = shutil.disk_usage(self._directory).free
        self._refusal = None
        if free < self._limits.min_free_bytes:
            self._refusal = (
                f"{self._directory}: {free} bytes are free; below {self._limits.min_free_bytes} nothing is"
                " appended, so that what is stored can still be delivered"
            )
        while True:
            info, connection = self._open_active()
            with errors_named(info.path):
                version = cast("int", connection.execute("PRAGMA data_version").fetchall()[0][0])
                if version == self._version:
                    return
                now = read_info(connection, info.path)
                if now is not None and now.closed:
                    self._let_go()
                    continue
                nexts, _ = tips(connection, info)
            self._on_tips(nexts)
            self._version = version
            return

    def _rotate_if_due(self) -> None:
        info, connection = self._open_active()
        with errors_named(info.path):
            self._checkpoint(connection)
            pages = cast("int", connection.execute("PRAGMA page_count").fetchall()[0][0])
            nexts, _ = tips(connection, info)
            if nexts == list(info.firsts):
                return
            old = self._clock.now_ms() - info.created_ms >= self._limits.segment_age_ms
            if old or pages * PAGE_BYTES >= self._limits.segment_bytes:
                self._rotate(info, connection)

    def _rotate(self, info: SegmentInfo, connection: apsw.Connection) -> None:
        following = segment_path(self._directory, info.number + 1)
        create_segment(following, info.number + 1, self._clock.now_ms())
        sync_directory(self._directory)
        _, seen = tips(connection, info)
        newest = newest_since(connection, info.sequence)
        fresh = connect(following)
        try:
            with self._write_lock, connection:
                self._write_lock.move()
                connection.execute("UPDATE info SET value = 1 WHERE key = 'closed'")
                nexts, sequence = tips(connection, info)
                start_segment(fresh, nexts, sequence)
                count = sequence - info.sequence
                set_info(
                    connection,
                    nexts=msgspec.msgpack.encode(nexts),
                    max_ms=max(newest, newest_since(connection, seen)),
                    count=count,
                )
        finally:
            fresh.close()
        self._let_go()
        self._catalog.refresh()
        _log.info("segment closed", segment=info.number, records=count)

    def _checkpoint(self, connection: apsw.Connection) -> None:
        try:
            self._shorten_log(connection)
        except apsw.BusyError:
            _log.debug("somebody else is in the WAL; it is shortened later")

    def _shorten_log(self, connection: apsw.Connection) -> None:
        log, done = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        least_bytes = _CHECKPOINT_BYTES
        for _ in range(3):
            if (log - done) * PAGE_BYTES < least_bytes:
                break
            # Meanwhile more is appended: each round leaves less.
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            log, done = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
            least_bytes = _TAIL_BYTES
        if log * PAGE_BYTES < self._limits.wal_bytes:
            return
        # What the passive rounds left is little; let appends wait for it once, and the WAL begins anew.
        connection.set_busy_timeout(0)
        try:
            with self._write_lock:
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        finally:
            connection.set_busy_timeout(10_000)

    def _index(self) -> None:
        for info in self._catalog.segments():
            if not info.closed or info.indexed:
                continue
            with errors_named(info.path):
                connection = connect(info.path)
                try:
                    index_twins(connection)
                    connection.set_busy_timeout(0)
                    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                except apsw.BusyError:
                    _log.debug("a reader is in the WAL; it is emptied when the last one closes")
                finally:
                    connection.close()
            self._catalog.refresh()

    # ------------------------------------------------------------ retention

    def _retain(self) -> None:
        for number in self._catalog.numbers():
            if number <= self._meta.dropped():
                remove_segment(segment_path(self._directory, number))
        segments = self._catalog.refresh()
        sizes = {info.number: _size_bytes(info.path) for info in segments}
        total = sum(sizes.values())
        cursors = self._meta.cursors()
        oldest_ms = self._clock.now_ms() - self._limits.retention_age_ms
        blocked = 0
        for info in segments[:-1]:
            if max(info.max_ms, info.created_ms) >= oldest_ms and total <= self._limits.retention_bytes:
                break
            needed_by = _needed_by(info, cursors)
            force = self._limits.retention_force_bytes
            forced = force is not None and total > force
            if blocked or (needed_by and not forced):
                blocked += 1
                continue
            for cursor, records in needed_by.items():
                metrics.RETENTION_FORCED.labels(cursor).inc(records)
                _log.error(
                    "retention dropped records that a cursor still needs", cursor=cursor, records=records
                )
            self._drop(info)
            total -= sizes[info.number]
        metrics.RETENTION_BLOCKED.set(blocked)
        metrics.STREAM_BYTES.set(total)

    def _drop(self, info: SegmentInfo) -> None:
        with errors_named(info.path):
            connection = connect(info.path)
            try:
                tallies = read_tallies(connection)
            finally:
                connection.close()
        self._meta.drop(info.number, tallies)
        remove_segment(info.path)
        self._catalog.refresh()
        _log.info("segment dropped", segment=info.number, records=info.count)


def _needed_by(info: SegmentInfo, cursors: dict[str, dict[int, int]]) -> dict[str, int]:
    """Return how many of the segment's records each cursor has not passed. A partition in which a cursor
    never committed is needed from its beginning."""
    needed: dict[str, int] = {}
    for cursor, offsets in cursors.items():
        left = sum(
            max(0, end - max(first, offsets.get(partition, 0)))
            for partition, (first, end) in enumerate(zip(info.firsts, info.nexts, strict=True))
        )
        if left:
            needed[cursor] = left
    return needed


def _size_bytes(path: Path) -> int:
    files = (path, path.with_name(path.name + "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def remove_segment(path: Path) -> None:
    """Remove a segment's files."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make names in a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
