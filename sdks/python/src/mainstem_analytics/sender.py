"""The background thread: puts on the disk what was produced, and sends what is on the disk.

    store -> **sender** -> server

* A burst begins when enough events are there, when the oldest have waited long enough, on flush, and once after the
  start for what an earlier process left. It needs the lease (`lease.py`) and ends when nothing is left.
* One batch is under way at a time, and the next one begins where the last one was settled: the order of the store is
  the order at the server, through every failure.
* Tried again, without a limit of attempts: no answer, 408, 425, 429, 5xx. The pause is a random time up to a bound
  that doubles (full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/); `Retry-After`
  is waited for, whether it is seconds or a date (RFC 9110 §10.2.3).
* A batch refused for good (other 4xx) is halved until the refused event is found; that one is set aside, in its turn.
* 401, 403, 404, 405, 407, 410 and redirects say that key, address or proxy are wrong, not the events: sending pauses,
  loudly, and nothing is set aside.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import random
import threading
import time
import zlib
from collections import deque
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Callable, NamedTuple

from mainstem_analytics.durable_queue import Batch, DurableQueue, Report
from mainstem_analytics.errors import EventRefused, SendFailed, SendingPaused
from mainstem_analytics.lease import Lease
from mainstem_analytics.store import SetAside, StoreUnusable
from mainstem_analytics.transport import Abandoned, Answer, Transport, TransportFailed

_log = logging.getLogger("mainstem_analytics")
BATCH_BYTES = 500_000
_WINDOW_S = 0.02
"""How long events may gather before they are put on the disk: with the commit itself, below 50 ms."""
_BACKOFF_FIRST_S = 0.5
_RETRY_AFTER_MOST_S = 3_600.0
_PAUSE_S = 300.0
_LEASE_POLL_S = 0.05
_LEASE_LOOK_S = 0.5
_STORE_AGAIN_S = 1.0
_STOP_GRACE_S = 1.0
_BREATH_S = 0.01
_AFTER_BUG_S = 1.0
_NEVER = math.inf
_RETRIED = frozenset({408, 425, 429})
_WRONG_ADDRESS = frozenset({401, 403, 404, 405, 407, 410})


class Pace(NamedTuple):
    """When and how much is sent."""

    flush_at: int
    """Events that start a burst, and the most in a batch."""
    flush_interval_s: float
    """The longest that an event waits for others."""
    gzip: bool
    retry_most_s: float
    """The longest pause between two attempts, when the server does not ask for one."""


class Flush:
    """Somebody waits until everything that was there is sent."""

    def __init__(self, number: int) -> None:
        self.number = number
        """The last event to be sent, as the queue counts."""
        self.done = threading.Event()
        self.arrived = False
        """Once done: whether the server has everything."""
        self.target: int | None = None
        """The last chunk of the store to be sent; None = not known yet."""
        self.hurried = False


class Sender:
    """Sends what a queue holds; `start` it, or `work` on the caller's thread."""

    def __init__(
        self,
        queue: DurableQueue,
        lease: Lease | None,
        pace: Pace,
        *,
        make_transport: Callable[[Callable[[], None]], Transport],
        report: Report,
        explain: Callable[..., None],
    ) -> None:
        """
        Args:
            lease: None = nobody else can have this queue.
            make_transport: given what to call while it waits.
        """
        self._queue = queue
        self._lease = lease
        self._pace = pace
        self._make_transport = make_transport
        self._report = report
        self._explain = explain
        self.sent = 0
        self.set_aside = 0
        self.paused: SendingPaused | None = None
        self._random = random.Random()  # noqa: S311 - no secret
        self._begin()

    def _begin(self) -> None:
        self._transport = self._make_transport(self._meanwhile)
        self._wake = threading.Event()
        # Who is the thread, and until when, change together. Reentrant, for a signal's handler.
        self._life = threading.RLock()
        self._thread: threading.Thread | None = None
        self._flushes: deque[Flush] = deque()
        self._stop_at = _NEVER
        self._stopped = False
        self._waiting_since: float | None = None
        self._looked_at = -_NEVER
        self._left_over = False
        """Whether an earlier process left something, or a pause has ended."""
        self._lease_asked_at = -_NEVER
        self._paused_until = -_NEVER
        self._retry_at = -_NEVER
        self._failures = 0
        self._asked_for_quiet = False
        self._suspects = 0
        """How many of the first events were in a batch that was refused as a whole."""
        self._limit = self._pace.flush_at

    # ---- from other threads

    def start(self) -> bool:
        """See that the thread runs; False if the interpreter starts none any more."""
        if self._thread is not None:
            return True
        with self._life:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="mainstem-analytics", daemon=True)
                self._thread = thread
                try:
                    thread.start()
                except RuntimeError:
                    self._thread = None
                    return False
        return True

    @property
    def running(self) -> bool:
        """Whether the thread was started and has not ended."""
        return self._thread is not None

    def is_me(self) -> bool:
        """Whether this is called on the thread itself, by a callback."""
        return self._thread is threading.current_thread()

    def wake(self) -> None:
        """There is something new."""
        if not self._wake.is_set():
            self._wake.set()

    def flush(self) -> Flush:
        """Ask for everything to be sent now; wait for `done` of what this returns."""
        flush = Flush(self._queue.last_number)
        self._flushes.append(flush)
        self._wake.set()
        return flush

    def forget(self, flush: Flush) -> None:
        """Nobody waits for this flush any more."""
        with contextlib.suppress(ValueError):
            self._flushes.remove(flush)

    def resume(self) -> None:
        """End a pause."""
        self._paused_until = -_NEVER
        self._left_over = True
        self._wake.set()

    def stop(self, deadline: float) -> None:
        """End the thread: by the deadline (`time.monotonic`), or as soon as everything is sent or can't be."""
        with self._life:
            self._stop_at = deadline
            thread = self._thread
            if thread is None:
                self._thread = threading.current_thread()
        self._wake.set()
        if thread is None:
            self._run()
        elif thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()) + _STOP_GRACE_S)

    def after_fork_child(self) -> None:
        """The thread stayed with the parent, and so did the connection and the lease."""
        if self._lease is not None:
            self._lease.after_fork_child()
        self._begin()

    # ---- the thread

    def _run(self) -> None:
        try:
            self._looked_at = time.monotonic()
            self._left_over = self._queue.look() > self._queue.last_number
            while not self._stopped:
                try:
                    self._step()
                except Exception:  # noqa: BLE001
                    # A mistake of ours must not end the thread: what is stored would never be sent.
                    _log.exception("sending failed unexpectedly; it goes on")
                    self._retry_at = time.monotonic() + _AFTER_BUG_S
                    self._stopped = time.monotonic() >= self._stop_at
                    time.sleep(_BREATH_S)
        finally:
            self._transport.close()
            if self._lease is not None:
                self._lease.close()
            with self._life:
                self._thread = None
                self._stopped, self._stop_at = False, _NEVER
            self._release_flushes()
            # A call that still saw the thread has left its event to it.
            self._queue.commit()

    def _step(self) -> None:
        if not self._pressed() and self._wake.wait(self._idle_s()):
            self._wake.clear()
            if self._queue.waiting and not self._pressed():
                # Others come; they share the commit.
                time.sleep(_WINDOW_S)
        self._queue.commit()
        if self._waiting_since is None and (self._queue.totals.events or self._queue.waiting):
            self._waiting_since = time.monotonic()
        if self._due():
            self._burst()
        self._answer_flushes()
        if self._stop_at != _NEVER and (self._nothing_to_wait_for() or time.monotonic() >= self._stop_at):
            self._stopped = True
        elif self._pressed():
            # Another process sends, or the disk is in trouble.
            time.sleep(_BREATH_S)

    def _pressed(self) -> bool:
        """Whether somebody waits for us."""
        return bool(self._flushes) or self._stop_at != _NEVER

    def _idle_s(self) -> float:
        """How long there is nothing to do."""
        now = time.monotonic()
        looks_at = self._looked_at + self._pace.flush_interval_s
        if self._waiting_since is not None:
            looks_at = min(looks_at, self._waiting_since + self._pace.flush_interval_s)
        if self._left_over or self._queue.totals.events >= self._pace.flush_at:
            looks_at = now
        idle_s = max(0.0, max(looks_at, self._lease_asked_at + _LEASE_LOOK_S, self._paused_until) - now)
        # What the disk refused is tried again in a while.
        return min(idle_s, _STORE_AGAIN_S) if self._queue.waiting else idle_s

    def _due(self) -> bool:
        now = time.monotonic()
        if self._pressed():
            # Somebody waits: more often than a look that was planned before.
            return now >= self._lease_asked_at + _LEASE_POLL_S
        if now < self._lease_asked_at + _LEASE_LOOK_S:
            return False
        if now < self._paused_until:
            return False
        if (
            self._left_over
            or self._queue.totals.events >= self._pace.flush_at
            or (self._queue.in_memory_only and self._queue.waiting >= self._pace.flush_at)
        ):
            return True
        if self._waiting_since is not None and now - self._waiting_since >= self._pace.flush_interval_s:
            return True
        if now - self._looked_at >= self._pace.flush_interval_s:
            # Another process may have died and left something.
            self._looked_at = now
            return self._queue.look() > 0
        return False

    def _nothing_to_wait_for(self) -> bool:
        if time.monotonic() < self._paused_until:
            return True
        if self._retry_at > self._stop_at:
            self._explain("closing: the server can't be reached before the deadline; everything is kept")
            return True
        return not self._flushes and not self._queue.waiting

    def _meanwhile(self) -> None:
        """What is done while the transport waits."""
        self._queue.commit()
        if time.monotonic() >= self._stop_at:
            raise Abandoned

    # ---- sending

    def _burst(self) -> None:
        """Send until nothing is left, the server does not take it, or there is no time left."""
        if not self._take_lease():
            # Another process sends; it sends ours too.
            self._lease_asked_at = time.monotonic()
            return
        try:
            while time.monotonic() < self._stop_at:
                self._queue.commit()
                self._answer_flushes()
                if not self._await_retry():
                    return
                limit = min(self._limit, self._suspects) if self._suspects else self._pace.flush_at
                batch = self._queue.take(limit, BATCH_BYTES - _ENVELOPE_BYTES)
                if batch is None:
                    self._waiting_since, self._looked_at, self._left_over = None, time.monotonic(), False
                    self._queue.look()
                    return
                if not self._attempt(batch):
                    return
        finally:
            if self._lease is not None:
                self._lease.release()

    def _take_lease(self) -> bool:
        if self._lease is None:
            return True
        try:
            return self._lease.acquire()
        except OSError as error:
            self._explain("no lease: %s", error)
            # The folder has gone: what is in memory is nobody else's.
            return self._queue.in_memory_only

    def _await_retry(self) -> bool:
        """Wait for the next attempt, storing what comes meanwhile; False if it is beyond the time there is."""
        while True:
            left_s = self._retry_at - time.monotonic()
            if left_s <= 0:
                return True
            if self._retry_at > self._stop_at:
                return False
            if not self._asked_for_quiet and any(not flush.hurried for flush in self._flushes):
                for flush in self._flushes:
                    flush.hurried = True
                return True
            if self._wake.wait(min(left_s, 1.0)):
                self._wake.clear()
                time.sleep(min(_WINDOW_S, left_s))
            self._queue.commit()
            self._answer_flushes()

    def _attempt(self, batch: Batch) -> bool:
        """Send one batch; False if sending is to end for now."""
        body = envelope(batch.lines)
        size = len(body)
        if self._pace.gzip:
            body = _gzip(body)
        self._explain("sending %d events, %d bytes, %d on the wire", len(batch.lines), size, len(body))
        try:
            answer = self._transport.post(body, gzipped=self._pace.gzip)
        except Abandoned:
            self._queue.give_back(batch)
            self._explain("closing: no answer before the deadline; the batch is kept and sent again")
            return False
        except TransportFailed as error:
            self._queue.give_back(batch)
            self._fail(str(error), 0, None)
            return True
        return self._judge(batch, answer)

    def _judge(self, batch: Batch, answer: Answer) -> bool:
        status = answer.status
        document = _document(answer.body)
        if 200 <= status < 300 and not answer.body.lstrip().startswith(b"<"):
            self._done(batch, _rejections(document, len(batch.lines), status))
            return True
        words = _words_of(document, answer)
        if 200 <= status < 300:
            # A page for people: whatever answered, it was not a collector of events.
            self._queue.give_back(batch)
            self._fail(f"the answer is a web page, not an acknowledgement: {words}", status, answer)
            return True
        if status in _RETRIED or status >= 500:
            self._queue.give_back(batch)
            self._fail(words, status, answer)
            return True
        if status in _WRONG_ADDRESS or 300 <= status < 400:
            self._queue.give_back(batch)
            self._pause(status, words)
            return False
        self._refused(batch, status, document, words)
        return True

    def _done(self, batch: Batch, rejected: Mapping[int, SetAside]) -> None:
        events = [refused._replace(event=batch.lines[at]) for at, refused in sorted(rejected.items())]
        self._queue.settle(batch, events)
        count = len(batch.lines)
        self.sent += count - len(events)
        self.set_aside += len(events)
        self._failures, self._retry_at, self._asked_for_quiet = 0, -_NEVER, False
        self._suspects = max(0, self._suspects - count)
        self._limit = min(self._limit * 2, self._pace.flush_at)
        if self.paused is not None:
            self.paused = None
            self._explain("the server takes events again")
        self._explain("%d events acknowledged, %d refused and set aside", count - len(events), len(events))
        for refused in events:
            self._report(EventRefused(refused.status, refused.code, refused.reason), (refused.event,))

    def _refused(self, batch: Batch, status: int, document: Mapping[str, Any], words: str) -> None:
        """Find the events that are at fault."""
        count = len(batch.lines)
        rejected = _rejections(document, count, status)
        if len(rejected) == count:
            self._done(batch, rejected)
        elif count == 1:
            code = document.get("code")
            self._done(batch, {0: SetAside(b"", status, code if isinstance(code, str) else "", words)})
        else:
            self._queue.give_back(batch)
            self._suspects = max(self._suspects, count)
            self._limit = count // 2
            self._explain("refused (%d: %s): trying %d of the %d events", status, words, self._limit, count)

    def _fail(self, words: str, status: int, answer: Answer | None) -> None:
        """Plan the next attempt."""
        self._failures += 1
        bound_s = min(self._pace.retry_most_s, _BACKOFF_FIRST_S * 2 ** min(self._failures - 1, 20))
        pause_s = self._random.uniform(0, bound_s)
        asked_s = retry_after_s(answer.headers) if answer is not None else None
        self._asked_for_quiet = asked_s is not None
        if asked_s is not None:
            # A little more, each its own: all clients were asked at once.
            pause_s = min(asked_s, _RETRY_AFTER_MOST_S) + self._random.uniform(0, min(1.0, 0.1 * asked_s))
        self._retry_at = time.monotonic() + pause_s
        self._explain("attempt %d failed (%d: %s): next in %.2f s", self._failures, status, words, pause_s)
        if self._failures == 1:
            self._report(SendFailed(words, status))

    def _pause(self, status: int, words: str) -> None:
        self._paused_until = time.monotonic() + _PAUSE_S
        self._waiting_since = None
        self.paused = SendingPaused(status, words, _PAUSE_S)
        self._report(self.paused)
        self._release_flushes()

    def _release_flushes(self) -> None:
        """Tell those who wait that it was in vain."""
        while self._flushes:
            self._flushes.popleft().done.set()

    # ---- flushes

    def _answer_flushes(self) -> None:
        """Tell those who wait, if what they wait for has gone."""
        if not self._flushes:
            return
        gone_up_to = self._queue.gone_up_to()
        store = self._queue.store
        first, last = 1, 0
        if store is not None:
            try:
                first, last = store.bounds()
            except StoreUnusable as error:
                self._explain("the store can't be read: %s", error)
                return
        for flush in list(self._flushes):
            if flush.target is None and gone_up_to >= flush.number:
                flush.target = last
            if flush.target is not None and first > flush.target:
                self._flushes.remove(flush)
                flush.arrived = True
                flush.done.set()


_HEAD, _MIDDLE, _TAIL = b'{"batch":[', b'],"sentAt":"', b'"}'
_ENVELOPE_BYTES = len(_HEAD) + len(_MIDDLE) + len(_TAIL) + 30


def envelope(lines: list[bytes]) -> bytes:
    """The body of a batch: the events as they were stored, and the client's clock now."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return b"".join((_HEAD, b",".join(lines), _MIDDLE, now.encode(), _TAIL))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """How long `Retry-After` asks to wait; None if it does not, or can't be read.

    A date is compared with the server's own `Date`, so that a wrong clock here does not matter.
    """
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            until = _utc(parsedate_to_datetime(value))
            now = _utc(parsedate_to_datetime(headers["date"]))
        except KeyError:
            now = datetime.now(timezone.utc)
        except (TypeError, ValueError):
            return None
        seconds = (until - now).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _rejections(document: Mapping[str, Any], count: int, status: int) -> dict[int, SetAside]:
    """Which events of a batch the server names as refused (docs/reference/http-api.md)."""
    found: dict[int, SetAside] = {}
    listed = document.get("rejected")
    for item in listed if isinstance(listed, list) else ():
        at = item.get("index") if isinstance(item, dict) else None
        if isinstance(at, int) and 0 <= at < count:
            code, message = item.get("code", ""), item.get("message", "")
            found[at] = SetAside(b"", status, str(code), str(message))
    return found


def _words_of(document: Mapping[str, Any], answer: Answer) -> str:
    message = document.get("message")
    if isinstance(message, str) and message:
        return message[:300]
    location = answer.headers.get("location", "")
    if 300 <= answer.status < 400 and location:
        return f"moved to {location[:200]}: set host to where events are collected"
    return answer.body[:200].decode("utf-8", "replace").strip() or f"status {answer.status}"
