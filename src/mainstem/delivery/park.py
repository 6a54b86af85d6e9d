"""The park: keys whose events wait in the ledger, and are retried from there in their order.

lanes -> **park** -> (settler) -> ledger -> **park** -> workers -> attempt -> ledger

While a key is parked, none of its events is sent by a lane that is not there already: new ones are parked
behind the others. The first of a key that is due becomes a *turn*, work for a worker: some events of that key,
one after the other, until one has to wait. Turns take half of the workers at most.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from mainstem.clock import Clock
from mainstem.delivery.condition import Condition
from mainstem.delivery.item import Burial, Item, Prepare
from mainstem.delivery.reasons import Reasons
from mainstem.delivery.settle import count_outcomes, remark_on
from mainstem.delivery.watermark import Watermark
from mainstem.delivery.workers import cancel
from mainstem.destinations.base import Delivered, Rejected, Retry, Skip
from mainstem.ledger.base import (
    HOUR_MS,
    CountKey,
    DeadLetter,
    Ledger,
    LedgerError,
    Parked,
    ParkedResult,
)
from mainstem.telemetry import metrics
from mainstem.telemetry.log import logger
from mainstem.transformations.base import SandboxUnavailable

_log = logger(__name__)

_LEDGER_RETRY_S: Final = 0.5
_TURN_EVENTS: Final = 32
"""Parked events of a key that are attempted before their results are stored."""
_LOGIN_WAIT_MS: Final = 1_000
_SANDBOX_WAIT_MS: Final = 1_000


class _Key:
    """A key whose events are in the park."""

    __slots__ = ("generation", "partition", "uncommitted")

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.uncommitted: deque[int] = deque()
        """Sequences of what is parked in memory, not in the ledger yet: it gets there in this order."""
        self.generation = 0
        """Grows with every event that is parked."""


class Turn:
    """A parked key whose head is due: work for a worker, like a lane."""

    __slots__ = ("key",)

    def __init__(self, key: str) -> None:
        self.key = key


class TurnQueue(Protocol):
    """What the park needs of the workers."""

    paused: bool
    stopping: bool
    in_flight: int

    def put(self, work: Turn) -> None: ...

    def withdraw(self, belongs: Callable[[Any], bool]) -> None: ...

    def landed(self) -> None: ...


class LaneHeads(Protocol):
    """What the park needs of the lanes."""

    def __bool__(self) -> bool:
        """Whether there is any lane."""
        ...

    def first(self, key: str) -> Item | None:
        """Return the first event in the lane of a key that is not decided; None without a lane."""
        ...


class Park:
    """Every parked key of a sender's partitions."""

    lanes: LaneHeads
    """To be set before anything is started: lanes and park know one another."""

    def __init__(
        self,
        *,
        cursor: str,
        destination_id: str,
        ledger: Ledger,
        clock: Clock,
        prepare: Prepare,
        poll_s: float,
        most_turns: int,
        condition: Condition,
        reasons: Reasons,
        rules: Reasons,
        workers: TurnQueue,
        marks: Mapping[int, Watermark],
        on_polled: Callable[[], Awaitable[None]],
    ) -> None:
        """
        Args:
            prepare: turns parked events back into items.
            poll_s: how often the ledger is looked at for events that are due or were redriven.
            most_turns: turns at once.
            reasons: of dead letters.
            rules: that events are filtered by.
            marks: the owned partitions.
            on_polled: called after each look at the ledger; may raise LedgerError.
        """
        self.events = 0
        """Events in the park, as far as is known."""
        self._cursor = cursor
        self._destination_id = destination_id
        self._ledger = ledger
        self._clock = clock
        self._prepare = prepare
        self._poll_s = poll_s
        self._most_turns = most_turns
        self._condition = condition
        self._reasons = reasons
        self._rules = rules
        self._workers = workers
        self._marks = marks
        self._on_polled = on_polled
        self._keys: dict[str, _Key] = {}
        self._turns: set[str] = set()
        self._wanted = asyncio.Event()
        self._version = -1
        self._more_due = False
        """Whether the last look found more than there were turns for."""
        self._task: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ which keys are parked

    def __len__(self) -> int:
        return len(self._keys)

    def has(self, key: str) -> bool:
        """Whether a key is parked."""
        return key in self._keys

    def holds(self, item: Item) -> bool:
        """Whether an event has to be parked: behind its own key's, or the same person's before login."""
        keys = self._keys
        return bool(keys) and (item.key in keys or (bool(item.login_key) and item.login_key in keys))

    def admit(self, item: Item) -> None:
        """Note that an event is set aside, behind those of its key that are parked already."""
        parked = self._keys.get(item.key)
        if parked is None:
            parked = self._keys[item.key] = _Key(item.partition)
        parked.uncommitted.append(item.sequence)
        parked.generation += 1

    def committed(self, item: Item) -> None:
        """Note that an event that was admitted is in the ledger, or not ours any more."""
        parked = self._keys.get(item.key)
        if parked is not None and parked.uncommitted:
            parked.uncommitted.popleft()

    def grew(self, events: int) -> None:
        """Note that events came into the ledger's park."""
        self.events += events
        metrics.PARKED.labels(self._destination_id).set(self.events)

    # ------------------------------------------------------------ coming and going

    async def load(self, partitions: Collection[int]) -> None:
        """Learn which keys are parked.

        Raises:
            LedgerError: they can't be read.
        """
        version = await self._ledger.version()
        for key, partition in (await self._read_keys(partitions)).items():
            self._keys.setdefault(key, _Key(partition))
        if self._version < 0:
            self._version = version

    def start(self) -> None:
        """Begin to look for events that are due."""
        self._task = asyncio.create_task(self._poll_forever(), name=f"park {self._cursor}")

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            await cancel([self._task])

    def withdraw(self, partitions: Collection[int]) -> Callable[[], bool]:
        """Start no more turns of partitions; return a function that says whether those under way ended."""

        def belongs(work: object) -> bool:
            if not isinstance(work, Turn):
                return False
            parked = self._keys.get(work.key)
            if parked is not None and parked.partition not in partitions:
                return False
            self._turns.discard(work.key)
            return True

        self._workers.withdraw(belongs)
        keys = {key for key, parked in self._keys.items() if parked.partition in partitions}
        return lambda: not (keys & self._turns)

    def forget(self, partitions: Collection[int]) -> None:
        """End with partitions."""
        for key in [key for key, parked in self._keys.items() if parked.partition in partitions]:
            del self._keys[key]

    # ------------------------------------------------------------ what is due

    def look_soon(self) -> None:
        """Look for events that are due without waiting for the interval."""
        self._wanted.set()

    async def _poll_forever(self) -> None:
        poll_at = self._clock.monotonic() + self._poll_s
        loop = asyncio.get_running_loop()
        while True:
            timer = loop.call_later(max(0.0, poll_at - self._clock.monotonic()), self._wanted.set)
            await self._wanted.wait()
            timer.cancel()
            self._wanted.clear()
            try:
                if self._clock.monotonic() >= poll_at:
                    poll_at = self._clock.monotonic() + self._poll_s
                    await self._poll()
                if self._keys:
                    await self._find_due()
            except LedgerError as error:
                _log.warning("park can't be read", cursor=self._cursor, error=str(error))
                await asyncio.sleep(_LEDGER_RETRY_S)
            except Exception:  # noqa: BLE001  a bug must not end the retries of every parked user unseen
                _log.exception("look at the park failed", cursor=self._cursor)
                await asyncio.sleep(_LEDGER_RETRY_S)

    async def _poll(self) -> None:
        """Bring what is known of the park up to date: that reads every parked key."""
        version = await self._ledger.version()
        if version != self._version:
            for key, partition in (await self._read_keys(self._owned())).items():
                if self._owns(partition):  # it may have been given away meanwhile
                    self._keys.setdefault(key, _Key(partition))
            self._version = version
        events = 0
        if self._keys:
            counts = await self._ledger.parked_keys(self._cursor, partitions=self._owned())
            events = sum(counts.values())
        self.events = events if self._keys else 0
        metrics.PARKED.labels(self._destination_id).set(self.events)
        await self._on_polled()

    def _owns(self, partition: int) -> bool:
        mark = self._marks.get(partition)
        return mark is not None and not mark.dropped

    def _owned(self) -> tuple[int, ...]:
        return tuple(partition for partition in self._marks if self._owns(partition))

    async def _read_keys(self, partitions: Collection[int]) -> dict[str, int]:
        """Return the parked keys with their partitions."""
        return {
            key: partition
            for partition in partitions
            for key in await self._ledger.parked_keys(self._cursor, partitions=(partition,))
        }

    async def _find_due(self) -> None:
        if not self._condition.breaker.closed and (self.lanes or self._turns):
            return  # a lane makes the probe
        most = self._most_turns
        if len(self._turns) >= most:
            return
        self._more_due = False
        due = await self._ledger.parked_due(
            self._cursor,
            self._clock.now_ms(),
            2 * most + len(self._turns),
            partitions=self._owned(),
        )
        for row in due:
            if len(self._turns) >= most:
                self._more_due = True
                return
            # A lane that is still there goes first: its events are older, or were before the redrive.
            if row.key in self._turns or self.lanes.first(row.key) or not self._owns(row.partition):
                continue
            self._keys.setdefault(row.key, _Key(row.partition))
            self._turns.add(row.key)
            self._workers.put(Turn(row.key))

    # ------------------------------------------------------------ a turn

    async def take_turn(self, turn: Turn) -> None:
        """Attempt the parked events of a key in order, until one has to wait; store what became of them."""
        self._workers.in_flight += 1
        more = False
        try:
            more = await self._retry(turn.key)
        except LedgerError as error:
            _log.warning("park can't be read", cursor=self._cursor, error=str(error))
        finally:
            self._turns.discard(turn.key)
            self._condition.abandoned()
            self._workers.landed()
            if more or self._more_due:
                self.look_soon()

    async def _retry(self, key: str) -> bool:
        """Return whether more of the key may be due."""
        parked = self._keys.get(key)
        if parked is None or self.lanes.first(key) is not None:
            return False
        generation, complete = parked.generation, not parked.uncommitted
        rows = await self._ledger.parked(self._cursor, key=key, limit=_TURN_EVENTS)
        results: list[ParkedResult] = []
        for row in rows:
            if self._must_end(row):
                break
            prepared = await self._prepared(row)
            if self._must_end(row):
                break  # transforming it took a while
            now = self._clock.monotonic()
            if results:
                if self._condition.wait_s(now) > 0:
                    break
                self._condition.started(now)
            result = await self._attempt(row, prepared)
            results.append(result)
            if result.fate == "again":
                break
        await self._finish(results)
        finished = sum(result.fate != "again" for result in results)
        self.events = max(0, self.events - finished)
        empty = finished == len(rows) < _TURN_EVENTS
        if empty and complete and self._keys.get(key) is parked and parked.generation == generation:
            # Nothing of it is in the ledger, and nothing is on the way there.
            del self._keys[key]
        return finished == len(rows) and not empty

    def _must_end(self, row: Parked) -> bool:
        return (
            not self._owns(row.partition)
            or self._workers.stopping
            or self._workers.paused
            or row.next_attempt_ms > self._clock.now_ms()
        )

    async def _attempt(self, row: Parked, item: Item | Skip | Burial | None) -> ParkedResult:
        if item is None:
            return self._later(row, _SANDBOX_WAIT_MS)
        if isinstance(item, Skip):
            return ParkedResult(parked=row, fate="filtered", reason=self._rules.shorten(item.rule))
        if isinstance(item, Burial):
            return self._dead(row, None, item.reason, item.detail)
        if item.login_key and await self._login_waits(item):
            return self._later(row, _LOGIN_WAIT_MS)
        condition = self._condition
        item.sent = min(row.sent, len(item.payloads))
        item.attempts = item.tries = row.attempts
        item.first_attempt_ms = row.first_attempt_ms or self._clock.now_ms()
        started = self._clock.monotonic()
        (result,) = await condition.attempt([item])
        now = self._clock.monotonic()
        condition.observe_attempt(now - started)
        if isinstance(result, Delivered):
            condition.delivered(item, result, now)
            now_ms = self._clock.now_ms()
            remark = remark_on(self._cursor, item, now_ms) if item.warning else None
            return ParkedResult(parked=row, fate="delivered", remark=remark)
        if isinstance(result, Skip):
            condition.skipped()
            return ParkedResult(parked=row, fate="filtered", reason=self._rules.shorten(result.rule))
        if isinstance(result, Rejected):
            condition.rejected(item, result)
            return self._dead(row, item, result.reason, result.answer)
        if not isinstance(result, Retry):
            result = Retry("internal error: not a result")
        condition.failed(item, result, now)
        over = condition.over(item, result)
        if over:
            item.request = condition.describe(item)
            return self._dead(row, item, over, result.answer)
        next_ms = self._clock.now_ms() + round(condition.backoff_s(item, result) * 1000)
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

    def _later(self, row: Parked, wait_ms: int) -> ParkedResult:
        """It was not attempted: look again after a while."""
        wait_until = self._clock.now_ms() + wait_ms
        return ParkedResult(parked=msgspec.structs.replace(row, next_attempt_ms=wait_until), fate="again")

    async def _prepared(self, row: Parked) -> Item | Skip | Burial | None:
        """Return the event as it is to be sent now; None while its transformation can't run."""
        try:
            return await self._prepare(row)
        except SandboxUnavailable as error:
            _log.warning("parked event can't be transformed now", cursor=self._cursor, error=str(error))
            return None
        except Exception as error:  # noqa: BLE001  the mapping of one event must not end the worker
            _log.exception("parked event can't be prepared", cursor=self._cursor, offset=row.offset)
            return Burial(f"internal error: {type(error).__name__}")

    async def _login_waits(self, item: Item) -> bool:
        """Whether events of the same person from before login are still to be sent."""
        # Looks backwards only, as everywhere: what was received later is not waited for.
        head = self.lanes.first(item.login_key)
        if head is not None and head.sequence < item.sequence:
            return True
        parked = self._keys.get(item.login_key)
        if parked is not None and parked.uncommitted and parked.uncommitted[0] < item.sequence:
            return True
        first = await self._ledger.parked(self._cursor, key=item.login_key, limit=1)
        return bool(first) and first[0].sequence < item.sequence

    def _dead(self, row: Parked, item: Item | None, reason: str, answer: str) -> ParkedResult:
        short, answer = self._reasons.classify(reason, answer)
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
            request=item.request if item is not None else "",
            answer=answer,
        )
        return ParkedResult(parked=row, fate="dead", reason=short, dead=letter)

    async def _finish(self, results: Sequence[ParkedResult]) -> None:
        """Store results; a ledger that fails is tried until it works, because the destination has acted."""
        while results:
            try:
                await self._ledger.finish_parked(results)
            except LedgerError as error:
                _log.error("ledger does not take results", cursor=self._cursor, error=str(error))
                await asyncio.sleep(_LEDGER_RETRY_S)
                continue
            except Exception:  # noqa: BLE001  without its result, what was sent would be sent again and again
                _log.exception("ledger failed with results", cursor=self._cursor)
                await asyncio.sleep(_LEDGER_RETRY_S)
                continue
            counts: Counter[CountKey] = Counter(
                CountKey(done.parked.source_id, done.parked.received_at_ms // HOUR_MS, done.fate, done.reason)
                for done in results
                if done.fate != "again"
            )
            count_outcomes(self._destination_id, counts)
            return
