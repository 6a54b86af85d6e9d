"""The sender of one cursor: order per user, retries, parking, the books. The heart of delivery.

runner -> **sender** -> attempt -> destination. The runner offers the events of its partitions in the order of
the log; the sender attempts them, decides what becomes of each, and moves the cursor's position in the
ledger together with the books.

Promises
--------
* One event of a key (a *lane*) is in flight at a time, in the order of the log, for every user, always. An
  event that carries both ids of a person waits for the events the same person sent before login
  (`Item.login_key`); see docs/concepts/ordering.md.
* An event that is to be tried again holds its lane, not the others. Where others succeed meanwhile, the whole
  lane is *parked* after a while: stored in the ledger, retried from there in order, so that the position
  moves on.
* A record is settled once: delivered, filtered, rejected, parked or dead, with its line in the books, in the
  transaction that moves the position. What was in flight in a crash is sent again.
* An outage of the whole destination opens the breaker: the position stops, nothing is parked or given up for
  it, and its time is taken off the retry windows.
* Memory is bounded by `DeliveryPolicy.window` and `window_bytes` of unsettled events; what the ledger can't
  take stays in that window and is tried again.

All methods belong to one event loop. One task per worker, one for settling, one for the park; none per event.
"""

import asyncio
import contextlib
import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import msgspec

from mainstem.clock import Clock
from mainstem.delivery.breaker import Breaker, State
from mainstem.delivery.item import DEAD, DELIVERED, DROPPED, PARKED, PENDING, Attempt, Item, Prepare
from mainstem.delivery.pacer import Pacer
from mainstem.delivery.watermark import Watermark
from mainstem.destinations.base import Delivered, Delivery, DestinationSpec, Refusal, Rejected, Retry, Skip
from mainstem.ledger.base import (
    HOUR_MS,
    CountKey,
    DeadLetter,
    Fenced,
    Ledger,
    LedgerError,
    Parked,
    ParkedResult,
    Position,
    Settlement,
)
from mainstem.telemetry import metrics
from mainstem.telemetry.log import logger
from mainstem.workspace.model import Destination

__all__ = ["Attempt", "DestinationStatus", "Item", "Prepare", "Sender"]

_log = logger(__name__)

OnSettled = Callable[[Mapping[int, int]], None]
"""Told the new next offsets by partition, after they are durable."""

_SETTLE_AT_ONCE: Final = 1_000
"""Decided events that are settled without waiting for the interval."""
_SETTLE_LIMIT: Final = 5_000
"""Events of one partition in one transaction, about."""
_LEDGER_RETRY_S: Final = 0.5
_TURN_EVENTS: Final = 32
"""Parked events of a key that are attempted before their results are stored."""
_REASONS: Final = 100
"""Different reasons one sender puts in the books; later new ones are counted together."""
_REASON_LIMIT: Final = 120
_LOGIN_WAIT_MS: Final = 1_000
_LOOK_AGAIN_S: Final = 0.02
"""How often, at most, a lane that waits is looked at for the park."""

WINDOW_OVER: Final = "retry window over"
ATTEMPTS_OVER: Final = "attempts used up"
OTHER_REASONS: Final = "other reasons"


class DestinationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The condition of a sender, for people."""

    cursor: str
    breaker: State
    breaker_since_ms: int
    paused: bool
    window: int
    """Events read and not settled."""
    window_bytes: int
    in_flight: int
    lanes: int
    """Users with events in the window that are not decided."""
    parked_keys: int
    parked_events: int
    rate_per_s: float
    """The limit in force, 0 = none."""
    last_error: str
    last_answer: str
    last_error_ms: int
    last_delivered_ms: int


class _Lane:
    """The queue of one ordering key."""

    __slots__ = ("due", "failing_since", "key", "mark", "queue", "taken")

    def __init__(self, key: str, mark: Watermark) -> None:
        self.key = key
        self.mark = mark
        self.queue: deque[Item] = deque()
        self.taken = 0
        """How many from the head are in flight."""
        self.failing_since = 0.0
        """Monotonic; 0 = the head has not failed."""
        self.due = 0.0
        """When the head is tried again."""


class _ParkedKey:
    """A key whose events are in the park: none of it is sent by a lane that is not there already."""

    __slots__ = ("generation", "partition", "uncommitted")

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.uncommitted = 0
        """Parked in memory, not in the ledger yet."""
        self.generation = 0
        """Grows with every event that is parked."""


class _Turn:
    """A parked key whose head is due: work for a worker, like a lane."""

    __slots__ = ("key",)

    def __init__(self, key: str) -> None:
        self.key = key


class _Batch:
    """What was taken from the watermarks and is not in the ledger yet."""

    __slots__ = ("counts", "items", "settlements", "tried")

    def __init__(self) -> None:
        self.settlements: list[Settlement] = []
        self.items: list[Item] = []
        self.counts: Counter[CountKey] = Counter()
        self.tried = False


class Sender:
    """Delivers one cursor's events to one destination."""

    def __init__(
        self,
        *,
        cursor: str,
        destination: Destination,
        spec: DestinationSpec,
        attempt: Attempt,
        prepare: Prepare,
        ledger: Ledger,
        clock: Clock,
        rng: random.Random,
        on_settled: OnSettled | None = None,
        settle_every_s: float = 0.1,
        poll_s: float = 1.0,
    ) -> None:
        """
        Args:
            cursor: the name in the ledger.
            prepare: turns parked events back into items.
            rng: for the jitter.
            on_settled: told positions after they are durable (to let stream retention go on).
            settle_every_s: how long decided events wait for the next transaction.
            poll_s: how often the park is looked at for events that are due or were redriven.
        """
        self.cursor = cursor
        self.destination = destination
        self._policy = destination.delivery
        self._attempt = attempt
        self._prepare = prepare
        self._ledger = ledger
        self._clock = clock
        self._rng = rng
        self._on_settled = on_settled
        self._settle_every_s = settle_every_s
        self._poll_s = poll_s
        self._concurrency = self._policy.concurrency or spec.default_concurrency
        self._max_batch = max(1, spec.default_max_batch)
        self._breaker = Breaker(self._policy.breaker_failures, self._policy.breaker_open_s)
        self._pacer = Pacer(self._policy.rate_per_s)

        self._marks: dict[int, Watermark] = {}
        self._lanes: dict[str, _Lane] = {}
        self._ready: deque[_Lane | _Turn] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._waiting: list[tuple[float, int, _Lane]] = []
        self._waiting_n = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        """When it looks: uvloop gives timers below a millisecond a handle that does not know."""
        self._gate_timer: asyncio.TimerHandle | None = None
        self._calm = not self._pacer.active
        self._tasks: list[asyncio.Task[None]] = []
        self._in_flight = 0
        self._landed = asyncio.Event()
        self._stopping = False
        self._paused = False

        self._window = 0
        self._window_bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._decided = 0
        # A small window must not wait for the interval to be emptied.
        self._settle_at_once = max(1, min(_SETTLE_AT_ONCE, self._policy.window // 4))
        self._settle_wanted = asyncio.Event()
        self._settle_timer: asyncio.TimerHandle | None = None
        self._settling = asyncio.Lock()
        self._batch: _Batch | None = None

        self._parked: dict[str, _ParkedKey] = {}
        self._parked_events = 0
        self._turns: set[str] = set()
        self._poll_wanted = asyncio.Event()
        self._ledger_version = -1
        self._reasons: set[str] = set()

        self._last_success = 0.0
        self._last_delivered_ms = 0
        self._last_error = ""
        self._last_answer = ""
        self._last_error_ms = 0
        self._shown: tuple[object, ...] = ()

        id_ = destination.id
        self._count_delivered = metrics.ATTEMPTS.labels(id_, "delivered").inc
        self._count_retry = metrics.ATTEMPTS.labels(id_, "retry").inc
        self._count_rejected = metrics.ATTEMPTS.labels(id_, "rejected").inc
        self._observe_attempt = metrics.ATTEMPT_SECONDS.labels(id_).observe
        self._observe_delay = metrics.DELIVERY_DELAY_SECONDS.labels(id_).observe

    # ------------------------------------------------------------ coming and going

    async def start(self, positions: Mapping[int, Position]) -> None:
        """Take over partitions at these positions; more may be added by further calls.

        Raises:
            LedgerError: the parked keys can't be read; nothing was taken over.
        """
        fresh = [partition for partition in positions if partition not in self._marks]
        version = await self._ledger.version()
        await self._load_parked(fresh)
        if self._ledger_version < 0:
            self._ledger_version = version
        for partition in fresh:
            self._marks[partition] = Watermark(partition, positions[partition].next_offset)
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._settle_forever(), name=f"settle {self.cursor}"),
                asyncio.create_task(self._poll_forever(), name=f"park {self.cursor}"),
                *(
                    asyncio.create_task(self._work(), name=f"send {self.cursor} {n}")
                    for n in range(self._concurrency)
                ),
            ]
            metrics.BREAKER.labels(self.destination.id).set(0)

    def pause(self) -> None:
        """Start no new attempts; what is in flight goes on."""
        self._paused = True

    def resume(self) -> None:
        """Go on after `pause`."""
        self._paused = False
        self._kick()

    async def drain(self, timeout_s: float) -> None:
        """Start nothing new, let what is in flight finish, settle, stop. What is not settled in time will be
        offered again by the next owner."""
        deadline = self._clock.monotonic() + timeout_s
        self._stopping = True
        await self._wait_landed(lambda: self._in_flight == 0, timeout_s)
        workers = self._tasks[2:]
        await _cancel(workers)
        async with self._settling:
            await _cancel(self._tasks[:2])
        self._tasks = []
        for timer in (self._timer, self._gate_timer, self._settle_timer):
            if timer is not None:
                timer.cancel()
        while True:
            left_s = deadline - self._clock.monotonic()
            if await self._settle_all() or left_s <= 0:
                break
            await asyncio.sleep(min(_LEDGER_RETRY_S, left_s))
        with contextlib.suppress(LedgerError):
            await self._show_status()

    async def revoke(self, partitions: Collection[int]) -> None:
        """Give partitions away: let what is in flight in them finish, settle, forget them."""
        going = [self._marks[partition] for partition in partitions if partition in self._marks]
        for mark in going:
            self._drop_lanes(mark)
        keys = {key for key, parked in self._parked.items() if parked.partition in partitions}

        def landed() -> bool:
            return all(mark.in_flight == 0 for mark in going) and not (keys & self._turns)

        # An attempt has its own time-out; the margin is for settling.
        await self._wait_landed(landed, self._policy.timeout_s + 5.0)
        if not await self._settle_all():
            _log.warning("partitions given away unsettled", cursor=self.cursor, partitions=sorted(partitions))
            if self._batch is not None:
                # The next owner begins where the ledger is; a late success of ours would fence it.
                self._strip(self._batch, partitions)
        for mark in going:
            self._forget(mark)

    async def _wait_landed(self, landed: Callable[[], bool], timeout_s: float) -> None:
        """Wait until `landed`, which can only become true when an attempt ends."""
        try:
            async with asyncio.timeout(timeout_s):
                while not landed():
                    self._landed.clear()
                    await self._landed.wait()
        except TimeoutError:
            _log.warning("attempts in flight did not end in time", cursor=self.cursor, count=self._in_flight)

    @property
    def positions(self) -> Mapping[int, int]:
        """The next offset of every owned partition, as settled in the ledger."""
        return {partition: mark.settled_offset for partition, mark in self._marks.items()}

    def status(self) -> DestinationStatus:
        """Return the condition now."""
        return DestinationStatus(
            cursor=self.cursor,
            breaker=self._breaker.state,
            breaker_since_ms=self._breaker.since_ms,
            paused=self._paused,
            window=self._window,
            window_bytes=self._window_bytes,
            in_flight=self._in_flight,
            lanes=len(self._lanes),
            parked_keys=len(self._parked),
            parked_events=self._parked_events,
            rate_per_s=self._pacer.rate_per_s,
            last_error=self._last_error,
            last_answer=self._last_answer,
            last_error_ms=self._last_error_ms,
            last_delivered_ms=self._last_delivered_ms,
        )

    # ------------------------------------------------------------ the runner's side

    @property
    def room(self) -> bool:
        """Whether more may be offered. One batch beyond it does no harm."""
        return self._room.is_set()

    async def wait_room(self) -> None:
        """Wait until more may be offered."""
        await self._room.wait()

    def offer(self, item: Item) -> None:
        """Take an event to deliver: in the order of offsets within a partition, of sequence between them."""
        mark = self._note(item)
        if mark is None:
            return
        key, login_key = item.key, item.login_key
        if self._parked and (key in self._parked or (login_key and login_key in self._parked)):
            self._park(item, self._clock.now_ms())
            return
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(key, mark)
        if login_key:
            before = self._lanes.get(login_key)
            if before is not None and before is not lane:
                item.after = before.queue[-1]
        lane.queue.append(item)
        if len(lane.queue) == 1:
            self._make_ready(lane)

    def skip(self, partition: int, offset: int, count: CountKey) -> None:
        """Note a record that goes nowhere: filtered, or rejected by the gateway."""
        mark = self._marks.get(partition)
        if mark is not None and not mark.dropped:
            mark.skip(offset, count)
            self._note_decided()

    def bury(self, item: Item, reason: str) -> None:
        """Note an event that can't be sent at all (the mapping refused it): a dead letter."""
        if self._note(item) is not None:
            self._kill(item, reason)

    def _note(self, item: Item) -> Watermark | None:
        mark = self._marks.get(item.partition)
        if mark is None or mark.dropped:
            return None
        mark.add(item)
        self._window += 1
        self._window_bytes += len(item.value)
        if self._window >= self._policy.window or self._window_bytes >= self._policy.window_bytes:
            self._room.clear()
        return mark

    # ------------------------------------------------------------ workers

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            now = self._clock.monotonic()
            turn = self._take(now)
            if turn is None:
                idle = loop.create_future()
                self._idle.append(idle)
                await idle
                continue
            if self._idle and self._ready:
                self._kick()
            try:
                if type(turn) is _Lane:
                    await self._send(turn, now)
                elif isinstance(turn, _Turn):
                    await self._retry_parked(turn.key)
            except Exception:  # noqa: BLE001  a bug stops the lane, not the worker, and it is loud
                _log.exception("delivery worker failed", cursor=self.cursor)

    def _take(self, now: float) -> _Lane | _Turn | None:
        """Return the next lane or parked key to work on, if an attempt may start now."""
        if not self._ready or self._stopping or self._paused:
            return None
        if not self._calm:
            wait_s = self._wait_s(now)
            if wait_s > 0:
                self._open_gate_in(wait_s)
                return None
        turn = self._ready.popleft()
        self._breaker.started()
        self._pacer.started(now)
        return turn

    def _wait_s(self, now: float) -> float:
        return max(self._breaker.wait_s(now), self._pacer.wait_s(now))

    def _open_gate_in(self, wait_s: float) -> None:
        if wait_s == float("inf") or self._gate_timer is not None:
            return

        def open_gate() -> None:
            self._gate_timer = None
            self._kick()

        self._gate_timer = asyncio.get_running_loop().call_later(wait_s, open_gate)

    def _kick(self) -> None:
        """Wake one idle worker; it wakes the next if there is more to do."""
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():
                idle.set_result(None)
                return

    def _make_ready(self, lane: _Lane) -> None:
        """Queue a lane for the workers, unless its head has to wait for the events before login."""
        head = lane.queue[0]
        before = head.after
        if before is not None:
            if before.fate == PENDING:
                if before.followers is None:
                    before.followers = []
                before.followers.append(lane.key)
                return
            head.after = None
            if before.fate == PARKED and head.login_key in self._parked:
                self._park_lane(lane)
                return
        self._ready.append(lane)
        if self._idle:
            self._kick()

    async def _send(self, lane: _Lane, now: float) -> None:
        """Make one attempt with the head of a lane (and what else fits into it)."""
        lanes = [lane]
        if self._max_batch == 1:
            items = [lane.queue[0]]
            lane.taken = 1
        else:
            items = self._fill(lanes)
        now_ms = self._clock.now_ms()
        for item in items:
            if not item.first_attempt_ms:
                item.first_attempt_ms = now_ms
        self._in_flight += 1
        for one in lanes:
            one.mark.in_flight += 1
        results: Sequence[Delivery] | None = None
        try:
            results = await self._try(items)
        finally:
            self._in_flight -= 1
            for one in lanes:
                one.mark.in_flight -= 1
            self._landed.set()
            if results is None:  # cancelled
                self._breaker.abandoned()
        ended = self._clock.monotonic()
        self._observe_attempt(ended - now)
        index = 0
        for one in lanes:
            taken = one.taken
            self._conclude(one, items[index : index + taken], results[index : index + taken], ended)
            index += taken

    def _fill(self, lanes: list[_Lane]) -> list[Item]:
        """Return the items of one batch: from the heads of `lanes`, to which ready lanes are added."""
        items: list[Item] = []
        lane = lanes[0]
        while True:
            lane.taken = 0
            for item in lane.queue:
                if len(items) == self._max_batch or (lane.taken and item.after is not None):
                    break
                items.append(item)
                lane.taken += 1
            if len(items) == self._max_batch or not self._ready or isinstance(self._ready[0], _Turn):
                return items
            lane = self._ready.popleft()  # type: ignore[assignment]
            lanes.append(lane)

    async def _try(self, items: Sequence[Item]) -> Sequence[Delivery]:
        try:
            results = await self._attempt(items)
        except Exception as error:  # noqa: BLE001  one event's trouble must not end the worker
            _log.exception("attempt failed by a bug", cursor=self.cursor, destination=self.destination.id)
            return [Retry(f"internal error: {type(error).__name__}")] * len(items)
        if len(results) != len(items):
            _log.error("attempt returned the wrong number of results", cursor=self.cursor)
            return [Retry("internal error: results missing")] * len(items)
        return results

    def _conclude(self, lane: _Lane, items: Sequence[Item], results: Sequence[Delivery], now: float) -> None:
        """Take the results of an attempt to the lane it was made for."""
        lane.taken = 0
        queue = lane.queue
        again: list[tuple[Item, Retry]] = []
        for item, result in zip(items, results, strict=True):
            queue.popleft()
            if type(result) is Delivered:
                self._delivered(item, result, now)
            elif isinstance(result, Rejected):
                self._rejected(item, result)
            elif isinstance(result, Retry):
                self._note_failure(item, result, now)
                again.append((item, result))
        if again:
            queue.extendleft(item for item, _ in reversed(again))
            if not lane.mark.dropped:
                self._hold(lane, again[0][1], now)
            return
        lane.failing_since = 0.0
        if lane.mark.dropped:
            return
        if queue:
            self._make_ready(lane)
        else:
            del self._lanes[lane.key]

    # ------------------------------------------------------------ what becomes of an item

    def _delivered(self, item: Item, result: Delivered, now: float) -> None:
        self._count_delivered()
        self._alive()
        if not self._calm:
            self._pacer.succeeded(now)
            self._recalm()
        now_ms = self._clock.now_ms()
        self._last_success = now
        self._last_delivered_ms = now_ms
        self._observe_delay((now_ms - item.event.received_at_ms) / 1000)
        self._decide(item, DELIVERED)

    def _rejected(self, item: Item, result: Rejected) -> None:
        self._count_rejected()
        self._alive()
        item.answer = result.answer
        item.attempts += 1
        item.request = self._attempt.describe(item)
        self._note_error(result.reason, result.answer)
        self._kill(item, result.reason)

    def _kill(self, item: Item, reason: str) -> None:
        item.reason, item.answer = self._reason_class(reason, item.answer)
        item.decided_at_ms = self._clock.now_ms()
        self._decide(item, DEAD)

    def _decide(self, item: Item, fate: int) -> None:
        item.fate = fate
        self._note_decided()
        if item.followers is not None:
            followers, item.followers = item.followers, None
            for key in followers:
                lane = self._lanes.get(key)
                if lane is not None and lane.queue[0].after is item:
                    self._make_ready(lane)

    def _note_failure(self, item: Item, result: Retry, now: float) -> None:
        """Count a failure, for the destination and for the event."""
        self._count_retry()
        closed_before = self._breaker.closed
        if result.throttled:
            self._alive()
            self._pacer.throttled(now, result.after_s)
        elif result.destination_wide:
            self._breaker.failed(now, self._clock.now_ms())
        else:
            self._alive()
        self._recalm()
        if closed_before and self._breaker.closed:
            item.tries += 1
            if not result.throttled:
                item.attempts += 1
        item.reason, item.answer = result.reason, result.answer
        self._note_error(result.reason, result.answer)
        if closed_before and not self._breaker.closed:
            metrics.BREAKER.labels(self.destination.id).set(1)
            _log.warning(
                "destination down, breaker open", destination=self.destination.id, reason=result.reason
            )

    def _hold(self, lane: _Lane, result: Retry, now: float) -> None:
        """Decide what a lane does whose head failed: die, be parked, or wait."""
        head = lane.queue[0]
        if not self._breaker.closed and result.after_s is None:
            # The breaker is the back-off: any lane may make the probe, in turn.
            lane.failing_since = 0.0
            self._make_ready(lane)
            return
        lane.failing_since = lane.failing_since or now
        lane.due = now + self._backoff_s(head, result)
        if self._breaker.closed:
            over = self._over(head)
            if over:
                head.request = self._attempt.describe(head)
                lane.queue.popleft()
                lane.failing_since = 0.0
                self._kill(head, over)
                if lane.queue:
                    self._make_ready(lane)
                else:
                    del self._lanes[lane.key]
                return
            if self._stubborn(lane, now):
                self._park_lane(lane)
                return
        self._wait(lane, now)

    def _backoff_s(self, item: Item, result: Retry) -> float:
        policy = self._policy
        if result.after_s is not None:
            return min(result.after_s, policy.retry_window_s)
        ceiling = min(policy.backoff_max_s, policy.backoff_base_s * 2.0 ** min(item.tries, 40))
        return self._rng.uniform(0, ceiling)

    def _over(self, item: Item) -> str:
        """Return why an event is given up, or empty."""
        policy = self._policy
        if policy.max_attempts and item.attempts >= policy.max_attempts:
            return ATTEMPTS_OVER
        now_ms = self._clock.now_ms()
        tried_ms = now_ms - item.first_attempt_ms - self._breaker.outage_ms(item.first_attempt_ms, now_ms)
        return WINDOW_OVER if tried_ms >= policy.retry_window_s * 1000 else ""

    def _stubborn(self, lane: _Lane, now: float) -> bool:
        """Whether this lane keeps failing while others succeed."""
        if not self._breaker.closed or self._last_success <= lane.failing_since:
            return False
        return (
            lane.queue[0].attempts >= self._policy.park_after_attempts
            or now - lane.failing_since >= self._policy.park_after_s
        )

    def _alive(self) -> None:
        if self._breaker.closed:
            self._breaker.answered(0)
            return
        self._breaker.answered(self._clock.now_ms())
        metrics.BREAKER.labels(self.destination.id).set(0)
        _log.info("destination answers again, breaker closed", destination=self.destination.id)
        self._recalm()
        self._poll_wanted.set()

    def _recalm(self) -> None:
        self._calm = self._breaker.closed and not self._pacer.active
        if self._ready and self._idle:
            self._kick()

    def _note_error(self, reason: str, answer: str) -> None:
        self._last_error, self._last_answer = reason, answer
        self._last_error_ms = self._clock.now_ms()

    def _reason_class(self, reason: str, answer: str) -> tuple[str, str]:
        """Return the reason as the books count it, and the answer, with the reason in front if it was cut."""
        short = reason[:_REASON_LIMIT]
        if short in self._reasons or len(self._reasons) < _REASONS:
            self._reasons.add(short)
            return short, answer if short == reason else f"{reason}: {answer}"
        return OTHER_REASONS, f"{reason}: {answer}"

    # ------------------------------------------------------------ lanes that wait

    def _wait(self, lane: _Lane, now: float) -> None:
        """Look at a lane again when its head is due, or when it may have become a case for the park."""
        park_after_s = self._policy.park_after_s
        again_s = max(_LOOK_AGAIN_S, park_after_s / 4)
        look_at = min(lane.due, max(lane.failing_since + park_after_s, now + again_s))
        self._waiting_n += 1
        heapq.heappush(self._waiting, (look_at, self._waiting_n, lane))
        self._arm_timer(now)

    def _arm_timer(self, now: float) -> None:
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        when = loop.time() + max(0.0, self._waiting[0][0] - now)
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer_at = when
        self._timer = loop.call_at(when, self._look_at_waiting)

    def _look_at_waiting(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            lane = heapq.heappop(self._waiting)[2]
            if lane.mark.dropped or self._stopping:
                continue
            if lane.due <= now:
                self._make_ready(lane)
            elif self._stubborn(lane, now):
                self._park_lane(lane)
            else:
                self._wait(lane, now)
        self._arm_timer(now)

    def _drop_lanes(self, mark: Watermark) -> None:
        """Take the lanes of a partition out of the window; what is in flight stays until it ends."""
        mark.dropped = True
        dropped = [lane for lane in self._lanes.values() if lane.mark is mark]
        for lane in dropped:
            del self._lanes[lane.key]
        keep: deque[_Lane | _Turn] = deque()
        for turn in self._ready:
            if isinstance(turn, _Lane):
                if not turn.mark.dropped:
                    keep.append(turn)
            elif (parked := self._parked.get(turn.key)) is None or parked.partition == mark.partition:
                self._turns.discard(turn.key)
            else:
                keep.append(turn)
        self._ready = keep
        for lane in dropped:
            while len(lane.queue) > lane.taken:
                self._decide(lane.queue.pop(), DROPPED)

    def _forget(self, mark: Watermark) -> None:
        self._marks.pop(mark.partition, None)
        for key in [key for key, parked in self._parked.items() if parked.partition == mark.partition]:
            del self._parked[key]
        items, _ = mark.drop()
        self._release(items)

    # ------------------------------------------------------------ settling

    def _note_decided(self) -> None:
        self._decided += 1
        if self._decided >= self._settle_at_once:
            self._settle_wanted.set()
        elif self._settle_timer is None:
            self._settle_timer = asyncio.get_running_loop().call_later(
                self._settle_every_s, self._settle_wanted.set
            )

    async def _settle_forever(self) -> None:
        while True:
            await self._settle_wanted.wait()
            self._settle_wanted.clear()
            if self._settle_timer is not None:
                self._settle_timer.cancel()
                self._settle_timer = None
            self._decided = 0
            if not await self._settle_all():
                self._settle_timer = asyncio.get_running_loop().call_later(
                    _LEDGER_RETRY_S, self._settle_wanted.set
                )

    async def _settle_all(self) -> bool:
        """Settle what is finished; False when the ledger can't take it now."""
        async with self._settling:
            while True:
                batch = self._batch = self._batch or self._collect()
                if batch is None:
                    return True
                try:
                    if batch.settlements:
                        await self._ledger.settle(batch.settlements)
                except Fenced as error:
                    self._fenced(batch, error)
                    continue
                except LedgerError as error:
                    batch.tried = True
                    _log.error("ledger does not take settlements", cursor=self.cursor, error=str(error))
                    return False
                self._batch = None
                self._settled(batch)

    def _collect(self) -> _Batch | None:
        batch = _Batch()
        for mark in self._marks.values():
            from_offset = mark.next_offset
            items, counts = mark.take(_SETTLE_LIMIT)
            if mark.next_offset == from_offset:
                continue
            delivered: Counter[tuple[str, int]] = Counter()
            park: list[Parked] = []
            bury: list[DeadLetter] = []
            for item in items:
                if item.fate == DELIVERED:
                    event = item.event
                    delivered[event.source_id, event.received_at_ms // HOUR_MS] += 1
                elif item.fate == PARKED:
                    park.append(self._parked_row(item))
                else:
                    letter = self._letter(item)
                    bury.append(letter)
                    counts[letter.count_key] += 1
            for (source_id, hour), events in delivered.items():
                counts[CountKey(source_id, hour, "delivered")] += events
            batch.items += items
            batch.counts.update(counts)
            batch.settlements.append(
                Settlement(
                    cursor=self.cursor,
                    partition=mark.partition,
                    from_offset=from_offset,
                    next_offset=mark.next_offset,
                    counts=counts,
                    park=park,
                    bury=bury,
                )
            )
        return batch if batch.settlements else None

    def _settled(self, batch: _Batch) -> None:
        moved: dict[int, int] = {}
        for step in batch.settlements:
            moved[step.partition] = step.next_offset
            mark = self._marks.get(step.partition)
            if mark is not None:
                mark.settled_offset = step.next_offset
            self._parked_events += len(step.park)
        self._release(batch.items)
        self._count_outcomes(batch.counts)
        metrics.PARKED.labels(self.destination.id).set(self._parked_events)
        if self._on_settled is not None and moved:
            self._on_settled(moved)

    def _release(self, items: Sequence[Item]) -> None:
        """Free the window of items that are settled or not ours any more."""
        for item in items:
            self._window_bytes -= len(item.value)
            if item.fate == PARKED:
                parked = self._parked.get(item.key)
                if parked is not None:
                    parked.uncommitted -= 1
        self._window -= len(items)
        if self._window < self._policy.window and self._window_bytes < self._policy.window_bytes:
            self._room.set()

    def _count_outcomes(self, counts: Mapping[CountKey, int]) -> None:
        totals: Counter[tuple[str, str, str]] = Counter()
        for line, events in counts.items():
            totals[line.source_id, line.outcome, line.reason] += events
        for (source_id, outcome, reason), events in totals.items():
            metrics.OUTCOMES.labels(source_id, self.destination.id, outcome, reason).inc(events)

    def _fenced(self, batch: _Batch, error: Fenced) -> None:
        """Another worker settles a partition: give it up, loudly. Or it is our own step, whose success the
        ledger could not report."""
        ours = [step for step in batch.settlements if step.partition == error.partition]
        if batch.tried and any(step.next_offset == error.found for step in ours):
            # One transaction: if one of them is there, all are.
            self._batch = None
            self._settled(batch)
            return
        _log.error("another worker owns this partition now", cursor=self.cursor, error=str(error))
        self._strip(batch, (error.partition,))
        mark = self._marks.get(error.partition)
        if mark is not None:
            self._drop_lanes(mark)
            self._forget(mark)

    def _strip(self, batch: _Batch, partitions: Collection[int]) -> None:
        """Take partitions out of what is to be settled."""
        for step in batch.settlements:
            if step.partition in partitions:
                batch.counts.subtract(step.counts)
        batch.counts = +batch.counts
        batch.settlements = [step for step in batch.settlements if step.partition not in partitions]
        self._release([item for item in batch.items if item.partition in partitions])
        batch.items = [item for item in batch.items if item.partition not in partitions]

    def _letter(self, item: Item) -> DeadLetter:
        event = item.event
        return DeadLetter(
            cursor=self.cursor,
            destination_id=self.destination.id,
            key=item.key,
            sequence=item.sequence,
            partition=item.partition,
            offset=item.offset,
            value=item.value,
            source_id=event.source_id,
            message_id=event.message_id,
            event_type=event.type,
            event_name=event.name,
            received_at_ms=event.received_at_ms,
            died_at_ms=item.decided_at_ms,
            reason=item.reason,
            attempts=item.attempts,
            request=item.request,
            answer=item.answer,
        )

    # ------------------------------------------------------------ the park

    def _park(self, item: Item, now_ms: int) -> None:
        """Set one event aside, behind those of its key that are parked already."""
        parked = self._parked.get(item.key)
        if parked is None:
            parked = self._parked[item.key] = _ParkedKey(item.partition)
        parked.uncommitted += 1
        parked.generation += 1
        item.decided_at_ms = now_ms
        self._decide(item, PARKED)

    def _park_lane(self, lane: _Lane) -> None:
        """Set a lane aside: its head is retried from the park, everything behind it waits there."""
        del self._lanes[lane.key]
        now_ms = self._clock.now_ms()
        wait_s = max(0.0, lane.due - self._clock.monotonic())
        lane.queue[0].next_attempt_ms = now_ms + round(wait_s * 1000)
        if lane.failing_since:
            _log.info(
                "user parked",
                destination=self.destination.id,
                events=len(lane.queue),
                reason=self._last_error,
            )
        for item in lane.queue:
            item.after = None
            self._park(item, now_ms)
        lane.queue.clear()

    def _parked_row(self, item: Item) -> Parked:
        return Parked(
            cursor=self.cursor,
            destination_id=self.destination.id,
            key=item.key,
            sequence=item.sequence,
            partition=item.partition,
            offset=item.offset,
            value=item.value,
            source_id=item.event.source_id,
            message_id=item.event.message_id,
            received_at_ms=item.event.received_at_ms,
            parked_at_ms=item.decided_at_ms,
            attempts=item.attempts,
            sent=item.sent,
            first_attempt_ms=item.first_attempt_ms,
            next_attempt_ms=item.next_attempt_ms,
            reason=item.reason,
            answer=item.answer,
        )

    async def _load_parked(self, partitions: Collection[int]) -> None:
        """Learn which keys are parked: at the start, and when letters were redriven."""
        for partition in partitions:
            for key in await self._ledger.parked_keys(self.cursor, partitions=(partition,)):
                if key not in self._parked:
                    self._parked[key] = _ParkedKey(partition)

    async def _poll_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            timer = loop.call_later(self._poll_s, self._poll_wanted.set)
            await self._poll_wanted.wait()
            timer.cancel()
            self._poll_wanted.clear()
            try:
                await self._poll()
            except LedgerError as error:
                _log.warning("park can't be read", cursor=self.cursor, error=str(error))
                await asyncio.sleep(_LEDGER_RETRY_S)

    async def _poll(self) -> None:
        version = await self._ledger.version()
        if version != self._ledger_version:
            await self._load_parked(tuple(self._marks))
            self._ledger_version = version
        if self._parked:
            counts = await self._ledger.parked_keys(self.cursor, partitions=tuple(self._marks))
            self._parked_events = sum(counts.values())
            metrics.PARKED.labels(self.destination.id).set(self._parked_events)
            await self._find_due()
        await self._show_status()

    async def _find_due(self) -> None:
        if not self._breaker.closed and (self._lanes or self._turns):
            return  # a lane makes the probe
        most = max(1, self._concurrency // 2)
        if len(self._turns) >= most:
            return
        due = await self._ledger.parked_due(
            self.cursor, self._clock.now_ms(), 2 * most + len(self._turns), partitions=tuple(self._marks)
        )
        for row in due:
            if len(self._turns) >= most:
                return
            # A lane that is still there goes first: its events are older, or were before the redrive.
            if row.key in self._turns or row.key in self._lanes or row.partition not in self._marks:
                continue
            self._parked.setdefault(row.key, _ParkedKey(row.partition))
            self._turns.add(row.key)
            self._ready.append(_Turn(row.key))
            self._kick()

    async def _retry_parked(self, key: str) -> None:
        """Attempt the parked events of a key in order, until one has to wait; store what became of them."""
        self._in_flight += 1
        more = False
        try:
            more = await self._take_turn(key)
        except LedgerError as error:
            _log.warning("park can't be read", cursor=self.cursor, error=str(error))
        finally:
            self._in_flight -= 1
            self._turns.discard(key)
            self._breaker.abandoned()
            self._recalm()
            self._landed.set()
            if more:
                self._poll_wanted.set()

    async def _take_turn(self, key: str) -> bool:
        parked = self._parked.get(key)
        if parked is None or key in self._lanes:
            return False
        generation, complete = parked.generation, parked.uncommitted == 0
        rows = await self._ledger.parked(self.cursor, key=key, limit=_TURN_EVENTS)
        results: list[ParkedResult] = []
        for row in rows:
            now = self._clock.monotonic()
            mine = row.partition in self._marks and not self._marks[row.partition].dropped
            if not mine or self._stopping or self._paused or row.next_attempt_ms > self._clock.now_ms():
                break
            if results:
                if self._wait_s(now) > 0:
                    break
                self._breaker.started()
                self._pacer.started(now)
            result = await self._attempt_parked(row)
            results.append(result)
            if result.fate == "again":
                break
        await self._finish_parked(results)
        finished = sum(result.fate != "again" for result in results)
        self._parked_events = max(0, self._parked_events - finished)
        empty = finished == len(rows) < _TURN_EVENTS
        if empty and complete and self._parked.get(key) is parked and parked.generation == generation:
            # Nothing of it is in the ledger, and nothing is on the way there.
            del self._parked[key]
        return finished == len(rows) and not empty

    async def _attempt_parked(self, row: Parked) -> ParkedResult:
        try:
            item = self._prepare(row)
        except Exception as error:  # noqa: BLE001  the mapping of one event must not end the worker
            _log.exception("parked event can't be prepared", cursor=self.cursor, offset=row.offset)
            item = Refusal(f"internal error: {type(error).__name__}")
        if isinstance(item, Skip):
            return ParkedResult(parked=row, fate="filtered", reason=item.rule)
        if isinstance(item, Refusal):
            return self._parked_dead(row, None, item.reason, "")
        if item.login_key and await self._login_waits(item):
            wait_until = self._clock.now_ms() + _LOGIN_WAIT_MS
            return ParkedResult(parked=msgspec.structs.replace(row, next_attempt_ms=wait_until), fate="again")
        item.sent = min(row.sent, len(item.payloads))
        item.attempts = item.tries = row.attempts
        item.first_attempt_ms = row.first_attempt_ms or self._clock.now_ms()
        started = self._clock.monotonic()
        (result,) = await self._try([item])
        now = self._clock.monotonic()
        self._observe_attempt(now - started)
        if isinstance(result, Delivered):
            self._delivered_from_park(item, now)
            return ParkedResult(parked=row, fate="delivered")
        if isinstance(result, Rejected):
            self._count_rejected()
            self._alive()
            item.attempts += 1
            self._note_error(result.reason, result.answer)
            return self._parked_dead(row, item, result.reason, result.answer)
        self._note_failure(item, result, now)
        over = self._over(item) if self._breaker.closed else ""
        if over:
            return self._parked_dead(row, item, over, result.answer)
        next_ms = self._clock.now_ms() + round(self._backoff_s(item, result) * 1000)
        again = msgspec.structs.replace(
            row,
            attempts=item.attempts,
            sent=item.sent,
            first_attempt_ms=item.first_attempt_ms,
            next_attempt_ms=next_ms,
            reason=result.reason,
            answer=result.answer,
        )
        return ParkedResult(parked=again, fate="again")

    def _delivered_from_park(self, item: Item, now: float) -> None:
        self._count_delivered()
        self._alive()
        self._pacer.succeeded(now)
        now_ms = self._clock.now_ms()
        self._last_success = now
        self._last_delivered_ms = now_ms
        self._observe_delay((now_ms - item.event.received_at_ms) / 1000)

    def _parked_dead(self, row: Parked, item: Item | None, reason: str, answer: str) -> ParkedResult:
        short, answer = self._reason_class(reason, answer)
        letter = DeadLetter(
            cursor=row.cursor,
            destination_id=row.destination_id,
            key=row.key,
            sequence=row.sequence,
            partition=row.partition,
            offset=row.offset,
            value=row.value,
            source_id=row.source_id,
            message_id=row.message_id,
            event_type=item.event.type if item is not None else "",
            event_name=item.event.name if item is not None else "",
            received_at_ms=row.received_at_ms,
            died_at_ms=self._clock.now_ms(),
            reason=short,
            attempts=item.attempts if item is not None else row.attempts,
            request=self._attempt.describe(item) if item is not None else "",
            answer=answer,
        )
        return ParkedResult(parked=row, fate="dead", reason=short, dead=letter)

    async def _login_waits(self, item: Item) -> bool:
        """Whether events of the same person from before login are still to be sent."""
        if item.login_key in self._lanes:
            return True
        first = await self._ledger.parked(self.cursor, key=item.login_key, limit=1)
        return bool(first) and first[0].sequence < item.sequence

    async def _finish_parked(self, results: Sequence[ParkedResult]) -> None:
        """Store results; a ledger that fails is tried until it works, because the destination has acted."""
        while results:
            try:
                await self._ledger.finish_parked(results)
            except LedgerError as error:
                _log.error("ledger does not take results", cursor=self.cursor, error=str(error))
                await asyncio.sleep(_LEDGER_RETRY_S)
                continue
            counts: Counter[CountKey] = Counter(
                CountKey(done.parked.source_id, done.parked.received_at_ms // HOUR_MS, done.fate, done.reason)
                for done in results
                if done.fate != "again"
            )
            self._count_outcomes(counts)
            return

    async def _show_status(self) -> None:
        """Keep the destination's condition in the ledger when it changed, for people who look from outside."""
        if self.cursor != self.destination.id:
            return
        shown = (self._breaker.state, self._last_error, self._paused, self._pacer.rate_per_s > 0)
        if shown != self._shown:
            await self._ledger.put_status(self.destination.id, msgspec.json.encode(self.status()))
            self._shown = shown


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
