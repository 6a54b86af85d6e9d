"""The circuit breaker of one destination: while it is down, nothing is sent but one probe at a time.

A state machine without timers or I/O; `Sender` tells it the time and what happened.

    closed ──(failures in a row, over all keys)──▶ open ──(open time over)──▶ half open: one probe
       ▲                                            ▲                            │
       └────────────── any answer ──────────────────┼────────────────────────────┤
                                                    └── failure, twice as long ──┘

An *answer*, even one that rejects an event, shows that the destination is alive. The time the breaker was
open is no event's fault: `outage_ms` says how much of a span it takes off the retry window.
"""

from collections import deque
from typing import Final, Literal

State = Literal["closed", "open", "half_open"]

_MAX_GROWTH: Final = 10
_REMEMBERED: Final = 512


class Breaker:
    """Times are seconds of the monotonic clock, except where the name says `_ms` (wall clock)."""

    def __init__(self, failures: int, open_s: float) -> None:
        self.state: State = "closed"
        self.since_ms = 0
        """When it last opened or closed."""
        self._limit = failures
        self._base_s = open_s
        self._open_s = open_s
        self._failures = 0
        self._until = 0.0
        self._outages: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)
        self._outage_began_ms = 0

    @property
    def closed(self) -> bool:
        """Whether attempts are free."""
        return self.state == "closed"

    def wait_s(self, now: float) -> float:
        """Return how long until an attempt may start: 0 = now, infinite = when the probe has its result."""
        if self.state == "closed":
            return 0.0
        if self.state == "half_open":
            return float("inf")
        return max(0.0, self._until - now)

    def started(self) -> None:
        """An attempt starts: out of the open state, it is the probe."""
        if self.state == "open":
            self.state = "half_open"

    def abandoned(self) -> None:
        """The probe ended without a result."""
        if self.state == "half_open":
            self.state = "open"

    def answered(self, now_ms: int) -> None:
        """The destination took an attempt or said something about the event: it is alive."""
        self._failures = 0
        if self.state != "closed":
            self._outages.append((self._outage_began_ms, now_ms))
            self.state = "closed"
            self.since_ms = now_ms
            self._open_s = self._base_s

    def failed(self, now: float, now_ms: int) -> None:
        """An attempt found the destination as a whole in trouble."""
        if self.state == "open":
            return  # it had started before
        if self.state == "half_open":
            self._open_s = min(self._open_s * 2, self._base_s * _MAX_GROWTH)
        else:
            self._failures += 1
            if self._failures < self._limit:
                return
            self.since_ms = self._outage_began_ms = now_ms
        self.state = "open"
        self._until = now + self._open_s

    def outage_ms(self, from_ms: int, to_ms: int) -> int:
        """Return how long it was not closed between two moments."""
        total = sum(max(0, min(end, to_ms) - max(begin, from_ms)) for begin, end in self._outages)
        if self.state != "closed":
            total += max(0, to_ms - max(self._outage_began_ms, from_ms))
        return total
