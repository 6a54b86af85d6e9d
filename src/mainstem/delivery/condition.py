"""The condition of one destination, learnt from the results of its attempts.

attempt -> **condition** -> workers (may one start?), lanes and park (how long does a failed event wait, and
when is it given up?). It holds the breaker, the pacer, and what people are told: the last error and success.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final, get_args

from mainstem.clock import Clock
from mainstem.delivery.breaker import Breaker
from mainstem.delivery.item import Attempt, Item
from mainstem.delivery.pacer import Pacer
from mainstem.destinations.base import Acceptance, Delivered, Delivery, Rejected, Retry
from mainstem.destinations.render import cut
from mainstem.telemetry import metrics
from mainstem.telemetry.log import logger
from mainstem.workspace.model import DeliveryPolicy

_log = logger(__name__)

WINDOW_OVER: Final = "retry window over"
ATTEMPTS_OVER: Final = "attempts used up"
_REMARK_LIMIT: Final = 512


class Condition:
    """Times are seconds of the monotonic clock, except where the name says `_ms` (wall clock)."""

    def __init__(
        self,
        *,
        destination_id: str,
        policy: DeliveryPolicy,
        attempt: Attempt,
        clock: Clock,
        rng: random.Random,
        on_change: Callable[[], None],
        on_recovery: Callable[[], None],
    ) -> None:
        """
        Args:
            on_change: told when attempts may have become free.
            on_recovery: told when the breaker closed.
        """
        self.breaker = Breaker(policy.breaker_failures, policy.breaker_open_s)
        self.pacer = Pacer(policy.rate_per_s)
        self.calm = not self.pacer.active
        """Whether an attempt may start without asking `wait_s`."""
        self.last_success = 0.0
        self.last_delivered_ms = 0
        self.last_error = ""
        self.last_answer = ""
        self.last_error_ms = 0
        self._answered = False
        """Whether the destination has answered since we began."""
        self._destination_id = destination_id
        self._policy = policy
        self._attempt = attempt
        self._clock = clock
        self._rng = rng
        self._on_change = on_change
        self._on_recovery = on_recovery
        self._count_delivered = metrics.ATTEMPTS.labels(destination_id, "delivered").inc
        self._count_retry = metrics.ATTEMPTS.labels(destination_id, "retry").inc
        self._count_rejected = metrics.ATTEMPTS.labels(destination_id, "rejected").inc
        self._count_acceptance = {
            how: metrics.ACCEPTED.labels(destination_id, how).inc for how in get_args(Acceptance)
        }
        self._observe_delay = metrics.DELIVERY_DELAY_SECONDS.labels(destination_id).observe
        self.observe_attempt = metrics.ATTEMPT_SECONDS.labels(destination_id).observe

    # ------------------------------------------------------------ before and around an attempt

    def wait_s(self, now: float) -> float:
        """Return how long until an attempt may start: 0 = now, infinite = when the probe has its result."""
        return max(self.breaker.wait_s(now), self.pacer.wait_s(now))

    def started(self, now: float) -> None:
        """An attempt starts."""
        if not self.calm:
            self.breaker.started()
        self.pacer.started(now)

    def abandoned(self) -> None:
        """What was started ended without a result."""
        self.breaker.abandoned()
        self.look_again()

    async def attempt(self, items: Sequence[Item]) -> Sequence[Delivery]:
        """Make one attempt; a bug in it is a result to be tried again."""
        try:
            results = await self._attempt(items)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Something inside was cancelled, not this worker.
            _log.exception("attempt was cancelled inside", destination=self._destination_id)
            return [Retry("internal error: cancelled")] * len(items)
        except Exception as error:  # noqa: BLE001  one event's trouble must not end the worker
            _log.exception("attempt failed by a bug", destination=self._destination_id)
            return [Retry(f"internal error: {type(error).__name__}")] * len(items)
        if len(results) != len(items):
            _log.error("attempt returned the wrong number of results", destination=self._destination_id)
            return [Retry("internal error: results missing")] * len(items)
        return results

    def describe(self, item: Item) -> str:
        """Return the last request of an item, for its dead letter."""
        try:
            return self._attempt.describe(item)
        except Exception:  # noqa: BLE001  a dead letter without its request is better than none
            _log.exception("request can't be described", destination=self._destination_id)
            return ""

    # ------------------------------------------------------------ what an attempt tells

    def delivered(self, item: Item, result: Delivered, now: float) -> None:
        """The destination took an event."""
        self._count_delivered()
        self._count_acceptance[result.acceptance]()
        if result.warning:
            item.warning = cut(result.warning, _REMARK_LIMIT)
        if self.calm:
            self._answered = True
            self.breaker.answered(0)
        else:
            self._alive()
            self.pacer.succeeded(now)
            self.look_again()
        now_ms = self._clock.now_ms()
        self.last_success = now
        self.last_delivered_ms = now_ms
        self._observe_delay((now_ms - item.event.received_at_ms) / 1000)

    def skipped(self) -> None:
        """A look-up was answered, and there was nothing to send."""
        self._alive()

    def rejected(self, item: Item, result: Rejected) -> None:
        """The destination will never take an event; its last request and the answer are noted in it."""
        self._count_rejected()
        self._alive()
        item.attempts += 1
        item.answer = result.answer
        item.request = self.describe(item)
        self._note_error(result.reason, result.answer)

    def failed(self, item: Item, result: Retry, now: float) -> None:
        """Count a failure, for the destination and for the event."""
        self._count_retry()
        closed_before = self.breaker.closed
        if result.throttled:
            self._alive()
            self.pacer.throttled(now, result.after_s)
        elif result.destination_wide:
            self.breaker.failed(now, self._clock.now_ms())
        else:
            self._alive()
        self.look_again()
        if closed_before and self.breaker.closed:
            item.tries += 1
            if not result.throttled:
                item.attempts += 1
        item.reason, item.answer = result.reason, result.answer
        self._note_error(result.reason, result.answer)
        if closed_before and not self.breaker.closed:
            metrics.BREAKER.labels(self._destination_id).set(1)
            _log.warning(
                "destination down, breaker open", destination=self._destination_id, reason=result.reason
            )

    def _alive(self) -> None:
        self._answered = True
        if self.breaker.closed:
            self.breaker.answered(0)
            return
        self.breaker.answered(self._clock.now_ms())
        metrics.BREAKER.labels(self._destination_id).set(0)
        _log.info("destination answers again, breaker closed", destination=self._destination_id)
        self.look_again()
        self._on_recovery()

    def look_again(self) -> None:
        """Find out whether attempts are free."""
        self.calm = self.breaker.closed and not self.pacer.active
        self._on_change()

    def _note_error(self, reason: str, answer: str) -> None:
        self.last_error, self.last_answer = reason, answer
        self.last_error_ms = self._clock.now_ms()

    # ------------------------------------------------------------ patience

    def backoff_s(self, item: Item, result: Retry) -> float:
        """Return how long a failed event waits."""
        policy = self._policy
        if result.after_s is not None:
            return min(result.after_s, policy.retry_window_s)
        ceiling = min(policy.backoff_max_s, policy.backoff_base_s * 2.0 ** min(item.tries, 40))
        return self._rng.uniform(0, ceiling)

    def over(self, item: Item, result: Retry) -> str:
        """Return why an event that failed is given up, or empty."""
        if not self.breaker.closed:
            return ""
        if result.destination_wide and not self._answered:
            # We have begun in an outage, perhaps a long one: its time is not the event's fault.
            return ""
        policy = self._policy
        if policy.max_attempts and item.attempts >= policy.max_attempts:
            return ATTEMPTS_OVER
        now_ms = self._clock.now_ms()
        tried_ms = now_ms - item.first_attempt_ms - self.breaker.outage_ms(item.first_attempt_ms, now_ms)
        return WINDOW_OVER if tried_ms >= policy.retry_window_s * 1000 else ""

    def stubborn(self, item: Item, failing_since: float, now: float) -> bool:
        """Whether an event keeps failing while others succeed."""
        if not self.breaker.closed or self.last_success <= failing_since:
            return False
        return (
            item.attempts >= self._policy.park_after_attempts
            or now - failing_since >= self._policy.park_after_s
        )
