"""The producer of a process: the event loop's side of group commit, and the thread that commits.

gateway -> **writer** -> appender. `submit` only appends to a deque. All that waits (bounded) becomes one durable
transaction: one fsync for all. While it is committed, the next group gathers. `Submissions` is what every writer
shares; `ThreadWriter` commits in a thread of this process, `writer_process.ProcessWriter` in a process of its own.
"""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

from mainstem.clock import Clock
from mainstem.stream.base import (
    AppendResult,
    Done,
    NewRecord,
    StreamClosed,
    StreamError,
    StreamFull,
    StreamOverloaded,
)
from mainstem.stream.embedded.appender import Appender, WriterLimits
from mainstem.telemetry import metrics

_log: FilteringBoundLogger = structlog.get_logger(module=__name__)
_RECORD_OVERHEAD_BYTES: Final = 64
_ONE: Final = AppendResult(1)

Call = tuple[Sequence[NewRecord], Done, int]
"""What was submitted at once, who is told, and its bytes."""


class Submissions:
    """What waits to be stored, and telling those who wait. Belongs to one event loop."""

    def __init__(self, limits: WriterLimits) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._pending: deque[Call] = deque()
        self._closing = False
        # An attribute, not a property: the gateway asks before every request.
        self.backlog_bytes = 0
        self.on_commit: Callable[[], None] = lambda: None

    def submit(self, records: Sequence[NewRecord], done: Done) -> None:
        if self._closing:
            raise StreamClosed("the producer is closed")
        if self.backlog_bytes >= self._limits.max_backlog_bytes:
            raise StreamOverloaded(f"{self.backlog_bytes} bytes wait to be stored")
        size = 0
        for record in records:
            size += len(record.value) + _RECORD_OVERHEAD_BYTES
        self.backlog_bytes += size
        pending = self._pending
        pending.append((records, done, size))
        if len(pending) == 1:
            self._more()

    async def append(self, records: Sequence[NewRecord]) -> AppendResult:
        future: asyncio.Future[AppendResult] = self._loop.create_future()

        def done(result: AppendResult | StreamError) -> None:
            if future.done():
                return
            if isinstance(result, StreamError):
                future.set_exception(result)
            else:
                future.set_result(result)

        self.submit(records, done)
        return await future

    async def close(self) -> None:
        raise NotImplementedError

    def _more(self) -> None:
        """Something was submitted, and nothing waited before."""
        raise NotImplementedError

    def _take(self) -> list[Call]:
        """Return the next group."""
        group: list[Call] = []
        size = records = 0
        limits, pending = self._limits, self._pending
        while pending and size < limits.group_bytes and records < limits.group_records:
            call = pending.popleft()
            group.append(call)
            size += call[2]
            records += len(call[0])
        return group

    def _finish(self, group: Sequence[Call], outcome: set[int] | StreamError) -> None:
        """Tell everybody in a group; `outcome` are the indexes of its duplicates, or why nothing was stored."""
        size = sum([call[2] for call in group])
        self.backlog_bytes -= size
        metrics.BACKLOG_BYTES.set(self.backlog_bytes)
        results: Sequence[AppendResult | StreamError]
        if isinstance(outcome, StreamError):
            results = [outcome] * len(group)
        else:
            calls = [call[0] for call in group]
            results = _results(calls, outcome)
            metrics.APPENDED.inc(sum(map(len, calls)) - len(outcome))
            metrics.APPENDED_BYTES.inc(size)
        for (_, done, _), result in zip(group, results, strict=True):
            try:
                done(result)
            except Exception:  # noqa: BLE001 - one caller's bug must not cost the other callers their answer
                _log.exception("a submitter's callback failed")
        if not isinstance(outcome, StreamError):
            self.on_commit()


class ThreadWriter(Submissions):
    """Commits in a thread of this process."""

    def __init__(
        self, appender: Appender, limits: WriterLimits, clock: Clock, may_append: Callable[[], str | None]
    ) -> None:
        super().__init__(limits)
        self._appender = appender
        self._clock = clock
        self._may_append = may_append
        self._bells: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._idle = False
        self._ended = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="stream-writer", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._bells.put(False)
        await asyncio.shield(self._ended)

    def _more(self) -> None:
        if self._idle:
            self._idle = False
            self._bells.put(True)

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        while True:
            if not self._pending:
                if self._closing:
                    break
                self._idle = True
                if not self._pending:
                    self._bells.get()
                self._idle = False
                continue
            group = self._take()
            outcome = self._commit(list(chain.from_iterable([call[0] for call in group])))
            self._loop.call_soon_threadsafe(self._finish, group, outcome)
        self._loop.call_soon_threadsafe(self._ended.set_result, None)

    def _commit(self, records: list[NewRecord]) -> set[int] | StreamError:
        if not records:
            return set()
        refusal = self._may_append()
        if refusal is not None:
            return StreamFull(refusal)
        began = self._clock.monotonic()
        try:
            refused = self._appender.append(records)
        except StreamError as error:
            _log.error("append failed", error=str(error), records=len(records))
            return error
        except Exception as error:  # noqa: BLE001 - the thread must live, and every call must be answered
            _log.exception("append failed unexpectedly")
            return StreamError(f"append failed: {error!r}")
        metrics.COMMIT_SECONDS.observe(self._clock.monotonic() - began)
        metrics.COMMITS.inc()
        return refused


def _results(calls: Sequence[Sequence[NewRecord]], refused: set[int]) -> list[AppendResult]:
    if not refused:
        return [_ONE if len(call) == 1 else AppendResult(len(call)) for call in calls]
    results: list[AppendResult] = []
    start = 0
    for call in calls:
        twice = tuple(index - start for index in range(start, start + len(call)) if index in refused)
        results.append(AppendResult(len(call) - len(twice), twice))
        start += len(call)
    return results
