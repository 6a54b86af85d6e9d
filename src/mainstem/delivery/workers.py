"""The workers of one sender: a bounded number of attempts at once, none before the destination may have it.

lanes, park -> **workers** -> attempts. Work is started in the order it became ready; who makes it ready and
what it does is not the workers' business.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Generic, TypeVar

from mainstem.clock import Clock
from mainstem.delivery.condition import Condition
from mainstem.telemetry.log import logger

_log = logger(__name__)

Work = TypeVar("Work")


class Workers(Generic[Work]):
    """The queue of what is ready, and the tasks that take from it."""

    def __init__(self, *, name: str, clock: Clock) -> None:
        """
        Args:
            name: of the tasks, and in the log.
        """
        self._name = name
        self._clock = clock
        self.ready: deque[Work] = deque()
        self.paused = False
        """Whether nothing new is started for now."""
        self.stopping = False
        """Whether nothing new is started any more."""
        self.in_flight = 0
        """Pieces of work under way that may reach the destination."""
        self._idle: list[asyncio.Future[None]] = []
        self._gate_timer: asyncio.TimerHandle | None = None
        self._gate_at = 0.0
        """When it opens."""
        self._landed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(
        self, count: int, condition: Condition, do: Callable[[Work, float], Coroutine[None, None, None]]
    ) -> None:
        """Begin.

        Args:
            condition: says when an attempt may start.
            do: does a piece of work; given the monotonic time.
        """
        self._tasks = [
            asyncio.create_task(self._work(condition, do), name=f"send {self._name} {n}")
            for n in range(count)
        ]

    def put(self, work: Work) -> None:
        """Queue a piece of work that is ready."""
        self.ready.append(work)
        if self._idle:
            self._kick()

    def withdraw(self, belongs: Callable[[Work], bool]) -> None:
        """Take work out of the queue."""
        self.ready = deque(work for work in self.ready if not belongs(work))

    def look_again(self) -> None:
        """An attempt may be free to start now."""
        if self.ready and self._idle:
            self._kick()

    def resume(self) -> None:
        """Go on after a pause."""
        self.paused = False
        self._kick()

    def landed(self) -> None:
        """A piece of work that was counted in `in_flight` ended."""
        self.in_flight -= 1
        self._landed.set()

    async def wait_landed(self, landed: Callable[[], bool], timeout_s: float) -> None:
        """Wait until `landed`, which can only become true when a piece of work ends."""
        try:
            async with asyncio.timeout(timeout_s):
                while not landed():
                    self._landed.clear()
                    await self._landed.wait()
        except TimeoutError:
            _log.warning("attempts in flight did not end in time", cursor=self._name, count=self.in_flight)

    async def stop(self, timeout_s: float) -> None:
        """Start nothing new, let what is under way end, or cancel it when the time is over."""
        self.stopping = True
        await self.wait_landed(lambda: self.in_flight == 0, timeout_s)
        await cancel(self._tasks)
        self._tasks = []
        if self._gate_timer is not None:
            self._gate_timer.cancel()

    async def _work(
        self, condition: Condition, do: Callable[[Work, float], Coroutine[None, None, None]]
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            now = self._clock.monotonic()
            if not self._may_start(condition, now):
                idle = loop.create_future()
                self._idle.append(idle)
                await idle
                continue
            work = self.ready.popleft()
            condition.started(now)
            if self._idle and self.ready:
                self._kick()
            try:
                await do(work, now)
            except Exception:  # noqa: BLE001  a bug stops the lane, not the worker, and it is loud
                _log.exception("delivery worker failed", cursor=self._name)

    def _may_start(self, condition: Condition, now: float) -> bool:
        if not self.ready or self.stopping or self.paused:
            return False
        if not condition.calm:
            wait_s = condition.wait_s(now)
            if wait_s > 0:
                self._open_gate_in(wait_s)
                return False
        return True

    def _open_gate_in(self, wait_s: float) -> None:
        if wait_s == float("inf"):
            return
        when = asyncio.get_running_loop().time() + wait_s
        if self._gate_timer is not None:
            if self._gate_at <= when:
                return
            self._gate_timer.cancel()
        self._gate_at = when

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


async def cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
