"""How fast one destination is sent to: its configured rate, and what its 429 answers teach.

Without a configured rate and without 429, it does nothing. Some destinations throttle single users: a 429
slows only its own user down, until more than a fifth of the attempts of the last second or two are answered
so. Then Retry-After pauses the whole destination, and the rate falls, once a second at most, to seven tenths
of what it was (multiplicative decrease); each quiet second raises it by a twentieth of the rate at which the
trouble began (additive increase), until it is out of the way again.
"""

from typing import Final

_DECREASE: Final = 0.7
_INCREASE: Final = 0.05
_STEP_S: Final = 1.0
_SHARE: Final = 0.2
_SHORTEST_S: Final = 0.05
_FEWEST: Final = 5
"""Fewer 429 than this in a second or two say nothing about a rate."""
# Timers are late by milliseconds: what was missed by that may be caught up, and no more.
_CATCH_UP_S: Final = 0.02


class Pacer:
    """Times are seconds of the monotonic clock."""

    def __init__(self, rate_per_s: float = 0.0) -> None:
        self._configured = rate_per_s
        self._learnt = 0.0
        self._ceiling = 0.0
        self._next = 0.0
        self._pause_until = 0.0
        self._changed_at = 0.0
        self._second_began = 0.0
        self._second_count = 0
        self._second_throttled = 0
        self._last_count = 0
        self._last_throttled = 0

    @property
    def rate_per_s(self) -> float:
        """Requests a second at most, 0 = no limit."""
        if self._learnt and self._configured:
            return min(self._learnt, self._configured)
        return self._learnt or self._configured

    @property
    def active(self) -> bool:
        """Whether `wait_s` may be anything but 0."""
        return bool(self._configured or self._learnt or self._pause_until)

    def wait_s(self, now: float) -> float:
        """Return how long until the next attempt may start."""
        wait = 0.0
        if self._pause_until:
            wait = self._pause_until - now
            if wait <= 0:
                self._pause_until = 0.0
        if self._configured or self._learnt:
            wait = max(wait, self._next - now)
        return max(0.0, wait)

    def started(self, now: float) -> None:
        """An attempt starts."""
        if now - self._second_began >= _STEP_S:
            fresh = now - self._second_began < 2 * _STEP_S
            self._last_count = self._second_count if fresh else 0
            self._last_throttled = self._second_throttled if fresh else 0
            self._second_began = now
            self._second_count = self._second_throttled = 0
        self._second_count += 1
        rate = self.rate_per_s
        if rate:
            self._next = max(self._next, now - _CATCH_UP_S) + 1 / rate

    def throttled(self, now: float, after_s: float | None) -> None:
        """The destination said to slow down."""
        self._second_throttled += 1
        throttled = self._last_throttled + self._second_throttled
        if throttled <= _SHARE * (self._last_count + self._second_count):
            return
        if after_s:
            self._pause_until = max(self._pause_until, now + after_s)
        if throttled < _FEWEST or (self._learnt and now - self._changed_at < _STEP_S):
            return
        if not self._learnt:
            lately = self._second_count / max(_SHORTEST_S, now - self._second_began)
            self._ceiling = max(self._last_count, lately, 1.0)
            if self._configured:
                self._ceiling = min(self._ceiling, self._configured)
        self._learnt = max(1.0, (self._learnt or self._ceiling) * _DECREASE)
        self._changed_at = now

    def succeeded(self, now: float) -> None:
        """The destination took an attempt."""
        if not self._learnt or now - self._changed_at < _STEP_S:
            return
        self._changed_at = now
        self._learnt += max(1.0, self._ceiling * _INCREASE)
        if self._learnt >= self._ceiling * 2 or (self._configured and self._learnt >= self._configured):
            self._learnt = 0.0
