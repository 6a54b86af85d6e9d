"""The lanes: one queue per ordering key, one attempt of a key at a time, in the order of the log.

offer -> **lanes** -> workers -> attempt -> **lanes**: delivered, dead, parked, or tried again.

A lane is in exactly one of these places: ready (queued for the workers), in flight, waiting (its head failed
and is tried again later), or behind the barrier at login (its head's `Item.after` is not decided). A lane
without events is removed.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Sequence
from typing import Final

from mainstem.clock import Clock
from mainstem.delivery.condition import Condition
from mainstem.delivery.item import DEAD, DELIVERED, DROPPED, FILTERED, PARKED, PENDING, Item
from mainstem.delivery.park import Park, Turn
from mainstem.delivery.reasons import Reasons
from mainstem.delivery.settle import Settler
from mainstem.delivery.watermark import Watermark
from mainstem.delivery.workers import Workers
from mainstem.destinations.base import Delivered, Delivery, Rejected, Retry, Skip
from mainstem.telemetry.log import logger
from mainstem.workspace.model import DeliveryPolicy

_log = logger(__name__)

_LOOK_AGAIN_S: Final = 0.02
"""How often, at most, a lane that waits is looked at for the park."""


class Lane:
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


class Lanes:
    """Every lane of a sender."""

    def __init__(
        self,
        *,
        destination_id: str,
        policy: DeliveryPolicy,
        max_batch: int,
        clock: Clock,
        workers: Workers[Lane | Turn],
        condition: Condition,
        settler: Settler,
        park: Park,
        reasons: Reasons,
    ) -> None:
        """
        Args:
            max_batch: events of one attempt at most.
        """
        self._by_key: dict[str, Lane] = {}
        self._destination_id = destination_id
        self._park_after_s = policy.park_after_s
        self._max_batch = max_batch
        self._clock = clock
        self._workers = workers
        self._condition = condition
        self._settler = settler
        self._park = park
        self._reasons = reasons
        self._waiting: list[tuple[float, int, Lane]] = []
        self._waiting_n = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        """When it looks: uvloop gives timers below a millisecond a handle that does not know."""

    # ------------------------------------------------------------ coming and going

    def offer(self, item: Item) -> None:
        """Take an event to deliver."""
        mark = self._settler.note(item)
        if mark is None:
            return
        if self._park.holds(item):
            self._set_aside(item, self._clock.now_ms())
            return
        key, login_key = item.key, item.login_key
        lane = self._by_key.get(key)
        if lane is None:
            lane = self._by_key[key] = Lane(key, mark)
        if login_key:
            before = self._by_key.get(login_key)
            if before is not None and before is not lane:
                item.after = before.queue[-1]
        lane.queue.append(item)
        if len(lane.queue) == 1:
            self._make_ready(lane)

    def bury(self, item: Item, reason: str, detail: str = "") -> None:
        """Take an event that can't be sent at all."""
        if self._settler.note(item) is not None:
            item.answer = detail
            self._kill(item, reason)

    def __len__(self) -> int:
        return len(self._by_key)

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def first(self, key: str) -> Item | None:
        """Return the first event in the lane of a key that is not decided; None without a lane."""
        lane = self._by_key.get(key)
        return None if lane is None else lane.queue[0]

    def drop(self, mark: Watermark) -> None:
        """Take the lanes of a partition out of the window; what is in flight stays until it ends."""
        mark.dropped = True
        dropped = [lane for lane in self._by_key.values() if lane.mark is mark]
        for lane in dropped:
            del self._by_key[lane.key]
        self._workers.withdraw(lambda work: isinstance(work, Lane) and work.mark.dropped)
        for lane in dropped:
            while len(lane.queue) > lane.taken:
                self._decide(lane.queue.pop(), DROPPED)

    def stop(self) -> None:
        """Look at nothing that waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ------------------------------------------------------------ an attempt

    async def send(self, lane: Lane, now: float) -> None:
        """Make one attempt with the head of a ready lane (and what else fits into it)."""
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
        self._workers.in_flight += 1
        for one in lanes:
            one.mark.in_flight += 1
        results: Sequence[Delivery] | None = None
        try:
            results = await self._condition.attempt(items)
        finally:
            for one in lanes:
                one.mark.in_flight -= 1
            self._workers.landed()
            if results is None:  # cancelled
                self._condition.abandoned()
        ended = self._clock.monotonic()
        self._condition.observe_attempt(ended - now)
        index = 0
        for one in lanes:
            taken = one.taken
            self._conclude(one, items[index : index + taken], results[index : index + taken], ended)
            index += taken

    def _fill(self, lanes: list[Lane]) -> list[Item]:
        """Return the items of one batch: from the heads of `lanes`, to which ready lanes are added."""
        items: list[Item] = []
        ready = self._workers.ready
        lane = lanes[0]
        while True:
            lane.taken = 0
            for item in lane.queue:
                if len(items) == self._max_batch or (lane.taken and item.after is not None):
                    break
                items.append(item)
                lane.taken += 1
            if len(items) == self._max_batch or not ready:
                return items
            further = ready[0]
            if not isinstance(further, Lane):
                return items
            ready.popleft()
            lane = further
            lanes.append(lane)

    def _conclude(self, lane: Lane, items: Sequence[Item], results: Sequence[Delivery], now: float) -> None:
        """Take the results of an attempt to the lane it was made for."""
        lane.taken = 0
        queue = lane.queue
        again: list[tuple[Item, Retry]] = []
        for item, result in zip(items, results, strict=True):
            queue.popleft()
            if type(result) is Delivered:
                self._condition.delivered(item, result, now)
                self._decide(item, DELIVERED)
            elif isinstance(result, Skip):
                self._condition.skipped()
                item.reason = self._reasons.shorten(result.rule)
                self._decide(item, FILTERED)
            elif isinstance(result, Rejected):
                self._condition.rejected(item, result)
                self._kill(item, result.reason)
            else:
                retry = result if isinstance(result, Retry) else Retry("internal error: not a result")
                self._condition.failed(item, retry, now)
                again.append((item, retry))
        if again:
            queue.extendleft(item for item, _ in reversed(again))
            if lane.mark.dropped:
                for item, _ in again:
                    self._decide(item, DROPPED)
            else:
                self._hold(lane, again[0][1], now)
            return
        lane.failing_since = 0.0
        if lane.mark.dropped:
            return
        if queue:
            self._make_ready(lane)
        else:
            del self._by_key[lane.key]

    def _hold(self, lane: Lane, result: Retry, now: float) -> None:
        """Decide what a lane does whose head failed: die, be parked, or wait."""
        head = lane.queue[0]
        condition = self._condition
        if not condition.breaker.closed and result.after_s is None:
            # The breaker is the back-off: any lane may make the probe, in turn.
            lane.failing_since = 0.0
            self._make_ready(lane)
            return
        lane.failing_since = lane.failing_since or now
        lane.due = now + condition.backoff_s(head, result)
        over = condition.over(head, result)
        if over:
            head.request = condition.describe(head)
            lane.queue.popleft()
            lane.failing_since = 0.0
            self._kill(head, over)
            if lane.queue:
                self._make_ready(lane)
            else:
                del self._by_key[lane.key]
        elif condition.stubborn(head, lane.failing_since, now):
            self._park_lane(lane)
        else:
            self._wait(lane, now)

    # ------------------------------------------------------------ ready, or behind the barrier at login

    def _make_ready(self, lane: Lane) -> None:
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
            if before.fate == PARKED and self._park.has(head.login_key):
                self._park_lane(lane)
                return
        self._workers.put(lane)

    def _decide(self, item: Item, fate: int) -> None:
        item.fate = fate
        self._settler.decided()
        if item.followers is not None:
            followers, item.followers = item.followers, None
            for key in followers:
                lane = self._by_key.get(key)
                if lane is not None and lane.queue[0].after is item:
                    self._make_ready(lane)

    def _kill(self, item: Item, reason: str) -> None:
        item.reason, item.answer = self._reasons.classify(reason, item.answer)
        item.decided_at_ms = self._clock.now_ms()
        self._decide(item, DEAD)

    def _set_aside(self, item: Item, now_ms: int) -> None:
        self._park.admit(item)
        item.decided_at_ms = now_ms
        self._decide(item, PARKED)

    def _park_lane(self, lane: Lane) -> None:
        """Set a lane aside: its head is retried from the park, everything behind it waits there."""
        del self._by_key[lane.key]
        now_ms = self._clock.now_ms()
        wait_s = max(0.0, lane.due - self._clock.monotonic())
        lane.queue[0].next_attempt_ms = now_ms + round(wait_s * 1000)
        if lane.failing_since:
            _log.info(
                "user parked",
                destination=self._destination_id,
                events=len(lane.queue),
                reason=self._condition.last_error,
            )
        for item in lane.queue:
            item.after = None
            self._set_aside(item, now_ms)
        lane.queue.clear()

    # ------------------------------------------------------------ lanes that wait

    def _wait(self, lane: Lane, now: float) -> None:
        """Look at a lane again when its head is due, or when it may have become a case for the park."""
        again_s = max(_LOOK_AGAIN_S, self._park_after_s / 4)
        look_at = min(lane.due, max(lane.failing_since + self._park_after_s, now + again_s))
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
            if lane.mark.dropped or self._workers.stopping:
                continue
            if lane.due <= now:
                self._make_ready(lane)
            elif self._condition.stubborn(lane.queue[0], lane.failing_since, now):
                self._park_lane(lane)
            else:
                self._wait(lane, now)
        self._arm_timer(now)
