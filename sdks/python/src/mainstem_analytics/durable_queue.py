"""From the calls to the disk: what was produced and is not stored yet, and how it comes into the store.

    caller -> **pending, in memory** -> store -> sender

`put` is what a call costs: a line is added to a list. `commit` puts everything pending on the disk with one
transaction; the background thread does that within the window of `durability="batch"`, the calls themselves with
`durability="call"`, where threads that call at the same time share one commit.

Where the disk can't be written (full, read-only, gone) events stay pending, within the same bound, are sent from
there, and are stored as soon as that works again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import Callable, Protocol

from mainstem_analytics.errors import AnalyticsError, EventsDropped, StoreDamaged, StoreFailed
from mainstem_analytics.store import Entry, SetAside, Store, StoreUnusable, Totals

_RETRY_STORE_S = 1.0
_ASK_AGAIN_S = 0.05
_TELL_AGAIN_S = 60.0
_REFUSALS = 256


class Report(Protocol):
    """Tells the program of something; called without any lock held."""

    def __call__(self, error: AnalyticsError, lines: tuple[bytes, ...] = ()) -> None: ...


@dataclass
class Batch:
    """The first events of the queue, taken to be sent."""

    lines: list[bytes]
    stored: list[Entry] = field(default_factory=list)
    """Their places in the store; empty if they are in memory only."""


class DurableQueue:
    """Pending events, and the store behind them."""

    def __init__(
        self,
        store: Store | None,
        *,
        max_events: int,
        max_bytes: int,
        refuse_newest: bool,
        max_age_s: float,
        report: Report,
        explain: Callable[..., None],
    ) -> None:
        """
        Args:
            store: None = there is no place for one; everything is in memory.
            report: gets what was dropped and what failed.
            explain: gets each step, as a format and its arguments.
        """
        self.store = store
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._refuse_newest = refuse_newest
        self._max_age_s = max_age_s
        self._report = report
        self._explain = explain
        self.dropped = 0
        self._failed_at: float | None = None if store is not None else 0.0
        self._told_at: float | None = None
        self._forked = False
        self._begin()

    def _begin(self) -> None:
        # Reentrant, for a signal handler of the program's that calls us while it interrupts a call.
        self._lock = threading.RLock()
        self._commit_lock = threading.Lock()
        self._pending: deque[bytes] = deque()
        self._bytes = 0
        """Of what is pending or being committed."""
        self._busy_events = 0
        """How many are being committed, or are being sent from memory."""
        self._put = 0
        self._sending_from_memory = False
        self._asked_at = 0.0
        self._refused: deque[tuple[int, int]] = deque(maxlen=_REFUSALS)
        """The numbers of events that found no room when they were committed: after the first, up to the last."""

    # ---- in

    def put(self, line: bytes) -> int:
        """Add an event; returns its number, by which `commit_up_to` knows it, or 0 if the queue is full."""
        if self._refuse_newest and self._full(len(line)):
            return 0
        with self._lock:
            waiting = len(self._pending) + self._busy_events
            self._pending.append(line)
            self._bytes += len(line)
            self._put += 1
            if waiting < self._max_events and self._bytes <= self._max_bytes:
                return self._put
            dropped = self._drop_pending()
            number = self._put
        self._tell_dropped(dropped)
        return number

    def _full(self, size: int) -> bool:
        """Whether there is no room for an event of this size; asks the store anew, now and then, before it says so."""
        for again in (True, False):
            totals = self.totals
            with self._lock:
                events, held = self.waiting + totals.events, self._bytes + totals.bytes
            if events < self._max_events and held + size <= self._max_bytes:
                return False
            now = time.monotonic()
            if again and now - self._asked_at >= _ASK_AGAIN_S:
                # Another process may have sent what this one knows of.
                self._asked_at = now
                self.look()
        return True

    def _drop_pending(self) -> int:
        """Drop the oldest of what is pending, down to the bound."""
        dropped = 0
        while len(self._pending) > 1 and (
            len(self._pending) + self._busy_events > self._max_events or self._bytes > self._max_bytes
        ):
            self._bytes -= len(self._pending.popleft())
            dropped += 1
        return dropped

    def _tell_dropped(self, count: int, reason: str = "queue full") -> None:
        if count:
            self.dropped += count
            self._report(EventsDropped(count, reason))

    @property
    def totals(self) -> Totals:
        """What the store holds, as last seen."""
        return self.store.known if self.store is not None else Totals(0, 0)

    @property
    def last_number(self) -> int:
        """The number of the newest event."""
        return self._put

    def gone_up_to(self) -> int:
        """Every event up to this number has left the memory: it is on the disk, sent or dropped."""
        with self._lock:
            return self._put - self.waiting

    @property
    def waiting(self) -> int:
        """How many events are not on the disk yet."""
        return len(self._pending) + self._busy_events

    @property
    def in_memory_only(self) -> bool:
        """Whether the store could not be written when that was last tried."""
        return self._failed_at is not None

    # ---- to the disk

    def commit(self) -> None:
        """Put everything pending on the disk, if there is anything and the disk takes it."""
        if self._pending and self._may_try():
            with self._commit_lock:
                told = self._commit()
            self._tell(told)

    def commit_up_to(self, number: int) -> bool:
        """Return once the event of this number is on the disk; False if it is not put there."""
        told: list[AnalyticsError] = []
        with self._commit_lock:
            # Whoever had the lock before has stored what was pending then: ours, too, perhaps.
            if self.gone_up_to() < number:
                told = self._commit()
            done = self.gone_up_to() >= number
            done = done and not any(first < number <= last for first, last in self._refused)
        self._tell(told)
        return done

    def _may_try(self) -> bool:
        return self._failed_at is None or time.monotonic() - self._failed_at >= _RETRY_STORE_S

    def _commit(self, *, again: bool = True) -> list[AnalyticsError]:
        """Commit; returns what is to be told once no lock is held."""
        if self.store is None or self._sending_from_memory:
            return []
        with self._lock:
            lines, self._pending = self._pending, deque()
            self._busy_events += len(lines)
            last = self._put
        if not lines:
            return []
        size = sum(map(len, lines))
        try:
            appended = self.store.append(list(lines))
        except StoreUnusable as error:
            self._put_back(lines)
            told = self._went_wrong(error, writing=True)
            if again and any(isinstance(found, StoreDamaged) for found in told):
                # In place of the damaged file there is none now: a new one takes them.
                told += self._commit(again=False)
            return told
        except BaseException:
            # A signal's handler has raised in the middle of it, as Celery's soft time limit does. If that was behind
            # the commit they are stored twice, and the server knows them by their messageIds.
            self._put_back(lines)
            raise
        with self._lock:
            self._busy_events = 0
            self._bytes -= size
        self._explain("stored %d events; the store holds %d, %d bytes", len(lines), *appended.totals)
        told = []
        if self._failed_at is not None:
            self._failed_at = self._told_at = None
            self._explain("the store can be written again")
        if appended.refused:
            self._refused.append((last - appended.refused, last))
        lost = appended.dropped + appended.refused
        if lost:
            self.dropped += lost
            told.append(EventsDropped(lost, "queue full"))
        return told

    def _put_back(self, lines: deque[bytes]) -> None:
        """These are not stored: they are first again."""
        with self._lock:
            lines.extend(self._pending)
            self._pending = lines
            self._busy_events = 0

    def _went_wrong(self, error: StoreUnusable, *, writing: bool = False) -> list[AnalyticsError]:
        """Note it; returns what is to be told.

        Args:
            writing: events could not be stored, so that they are in memory only.
        """
        now = time.monotonic()
        told: list[AnalyticsError] = []
        if self.store is not None and self.store.moved_to is not None:
            moved_to, self.store.moved_to = self.store.moved_to, None
            return [StoreDamaged(str(moved_to), str(error))]
        if self._told_at is None or now - self._told_at >= _TELL_AGAIN_S:
            self._told_at = now
            told.append(StoreFailed(str(error)))
        if writing:
            self._failed_at = now
        return told

    def _tell(self, errors: list[AnalyticsError]) -> None:
        for error in errors:
            self._report(error)

    # ---- out: the sender's thread alone

    def take(self, max_events: int, max_bytes: int) -> Batch | None:
        """The first events of the queue, or None if there are none."""
        if self.store is not None:
            try:
                taken = self.store.take(max_events, max_bytes, max_age_s=self._max_age_s)
            except StoreUnusable as error:
                self._tell(self._went_wrong(error))
            else:
                self._tell_dropped(taken.too_old, "too old")
                if taken.entries:
                    return Batch([entry.line for entry in taken.entries], taken.entries)
        if not self.in_memory_only:
            return None
        with self._commit_lock, self._lock:
            lines: list[bytes] = []
            size = 0
            for line in islice(self._pending, max_events):
                size += len(line) + 1
                if lines and size > max_bytes:
                    break
                lines.append(line)
            for _ in lines:
                self._pending.popleft()
            self._busy_events += len(lines)
            # While these are under way nothing behind them may be stored: if they come back they are first again.
            self._sending_from_memory = bool(lines)
        return Batch(lines) if lines else None

    def settle(self, batch: Batch, set_aside: list[SetAside]) -> None:
        """Remove what the server has answered for."""
        if not batch.stored:
            with self._lock:
                self._sending_from_memory = False
                self._busy_events = 0
                self._bytes -= sum(map(len, batch.lines))
            return
        assert self.store is not None  # noqa: S101 - for the type checker
        try:
            self.store.settle(batch.stored, set_aside)
        except StoreUnusable as error:
            self._tell(self._went_wrong(error))

    def give_back(self, batch: Batch) -> None:
        """The batch was not taken by the server: it is the first again."""
        if not batch.stored:
            with self._lock:
                self._pending.extendleft(reversed(batch.lines))
                self._busy_events = 0
                self._sending_from_memory = False

    def look(self) -> int:
        """How many events are there to be sent, of all processes."""
        if self.store is not None:
            try:
                self.store.totals()
            except StoreUnusable as error:
                self._tell(self._went_wrong(error))
        return self.totals.events + (self.waiting if self.in_memory_only else 0)

    def purge(self) -> int:
        """Forget everything that was not sent; returns how many events that were."""
        with self._commit_lock:
            with self._lock:
                purged = len(self._pending)
                self._bytes -= sum(map(len, self._pending))
                self._pending.clear()
            told: list[AnalyticsError] = []
            if self.store is not None:
                try:
                    purged += self.store.purge()
                except StoreUnusable as error:
                    told = self._went_wrong(error)
        self._tell(told)
        return purged

    # ---- forks

    def before_fork(self) -> None:
        """See `Store.before_fork`."""
        self._forked = self.store.before_fork() if self.store is not None else False

    def after_fork_parent(self) -> None:
        """Go on."""
        if self.store is not None:
            self.store.after_fork_parent(self._forked)

    def after_fork_child(self) -> None:
        """What is pending is the parent's, who still has it."""
        if self.store is not None:
            self.store.after_fork_child()
        self._begin()
