"""One clock, passed in, so that the pure core is repeatable and tests own time."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the rest of Mainstem may know about time."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch (wall clock, may step)."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never stepping back: for durations and deadlines."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait for `delay_s` seconds of this clock's time."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)


class FixedClock:
    """A clock that stands still until it is told to move: dry runs, replays of one moment, tests."""

    def __init__(self, now_ms: int = 0) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic(self) -> float:
        return self._now_ms / 1000

    async def sleep(self, delay_s: float) -> None:
        self.advance(delay_s)
        await asyncio.sleep(0)

    def advance(self, delay_s: float) -> None:
        """Move the clock forward by `delay_s` seconds."""
        self._now_ms += round(delay_s * 1000)


def iso_from_ms(at_ms: int) -> str:
    """Return `at_ms` as RFC 3339 in UTC with milliseconds, as the Segment spec writes times."""
    seconds, ms = divmod(at_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ms:03d}Z"
