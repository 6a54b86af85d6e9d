"""Settling: from what was decided in memory to the position and the books in the ledger, in one transaction.

runner -> **settler** (notes the records, in order) … lanes decide … **settler** -> ledger -> stream retention.

A record is taken from its partition's watermark when everything before it is decided, and is in exactly one
batch. A batch that the ledger did not take, or may have taken without being able to say so, is tried again as
it is. A partition whose position in the ledger is not where we left it belongs to somebody else: it is given up.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import msgspec

from mainstem.clock import Clock
from mainstem.delivery.item import DELIVERED, FILTERED, PARKED, Item
from mainstem.delivery.reasons import Reasons
from mainstem.delivery.watermark import Watermark
from mainstem.delivery.workers import cancel
from mainstem.ledger.base import (
    HOUR_MS,
    CountKey,
    DeadLetter,
    Fenced,
    Ledger,
    LedgerError,
    Parked,
    Remark,
    Settlement,
)
from mainstem.telemetry import metrics
from mainstem.telemetry.log import logger
from mainstem.workspace.model import DeliveryPolicy

_log = logger(__name__)

OnSettled = Callable[[Mapping[int, int]], None]
"""Told the new next offsets by partition, after they are durable."""

_SETTLE_AT_ONCE: Final = 1_000
"""Decided events that are settled without waiting for the interval."""
_SETTLE_LIMIT: Final = 5_000
"""Events of one partition in one transaction, about."""
_LEDGER_RETRY_S: Final = 0.5


class _Batch:
    """What was taken from the watermarks and is not in the ledger yet."""

    __slots__ = ("counts", "items", "settlements", "tried")

    def __init__(self) -> None:
        self.settlements: list[Settlement] = []
        self.items: list[Item] = []
        self.counts: Counter[CountKey] = Counter()
        self.tried = False


class Settler:
    """The owned partitions' records that are not settled, and the way into the ledger."""

    def __init__(
        self,
        *,
        cursor: str,
        destination_id: str,
        policy: DeliveryPolicy,
        ledger: Ledger,
        clock: Clock,
        rules: Reasons,
        every_s: float,
        on_settled: OnSettled | None,
        on_parked: Callable[[int], None],
        on_unparked: Callable[[Item], None],
        on_lost: Callable[[Watermark], None],
    ) -> None:
        """
        Args:
            rules: bounds what skipped records are counted by.
            every_s: how long decided events wait for the next transaction.
            on_settled: told positions after they are durable.
            on_parked: told how many events are in the park now that were not.
            on_unparked: told each parked event that is in the ledger now, or not ours any more.
            on_lost: told when another worker settles a partition; nothing of it is noted after that.
        """
        self.marks: dict[int, Watermark] = {}
        """The owned partitions."""
        self.window = 0
        """Events noted and not settled."""
        self.window_bytes = 0
        self._lingering: list[Watermark] = []
        """Given up with attempts still in flight."""
        self._cursor = cursor
        self._destination_id = destination_id
        self._limit = policy.window
        self._limit_bytes = policy.window_bytes
        self._ledger = ledger
        self._clock = clock
        self._rules = rules
        self._every_s = every_s
        self._on_settled = on_settled
        self._on_parked = on_parked
        self._on_unparked = on_unparked
        self._on_lost = on_lost
        self._room = asyncio.Event()
        self._room.set()
        self._decided = 0
        # A small window must not wait for the interval to be emptied.
        self._at_once = max(1, min(_SETTLE_AT_ONCE, policy.window // 4))
        self._wanted = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._settling = asyncio.Lock()
        self._batch: _Batch | None = None
        self._task: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ noting

    @property
    def room(self) -> bool:
        """Whether the window has room."""
        return self._room.is_set()

    async def wait_room(self) -> None:
        """Wait until the window has room."""
        await self._room.wait()

    def note(self, item: Item) -> Watermark | None:
        """Note an event that is to be decided; None if its partition is not ours."""
        mark = self.marks.get(item.partition)
        if mark is None or mark.dropped:
            return None
        mark.add(item)
        self.window += 1
        self.window_bytes += len(item.value) + item.extra_bytes
        if self.window >= self._limit or self.window_bytes >= self._limit_bytes:
            self._room.clear()
        return mark

    def skip(self, partition: int, offset: int, count: CountKey) -> None:
        """Note a record that needs no delivery."""
        mark = self.marks.get(partition)
        if mark is not None and not mark.dropped:
            reason = self._rules.shorten(count.reason)
            if reason is not count.reason:
                count = msgspec.structs.replace(count, reason=reason)
            mark.skip(offset, count)
            self.decided()

    def decided(self) -> None:
        """One more record is decided: settle soon."""
        self._decided += 1
        if self._decided >= self._at_once:
            self._wanted.set()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self._wanted.set)

    # ------------------------------------------------------------ coming and going

    @property
    def positions(self) -> Mapping[int, int]:
        """The next offset of every owned partition, as settled in the ledger."""
        return {partition: mark.settled_offset for partition, mark in self.marks.items()}

    def landed(self, partitions: Collection[int]) -> bool:
        """Whether nothing is in flight of the time before, in partitions that were given up."""
        self._lingering = [mark for mark in self._lingering if mark.in_flight]
        return not any(mark.partition in partitions for mark in self._lingering)

    def open(self, partition: int, next_offset: int) -> None:
        """Begin with a partition at its position."""
        self.marks[partition] = Watermark(partition, next_offset)

    def forget(self, marks: Collection[Watermark]) -> None:
        """End with partitions, settled or not: the next owner begins where the ledger is."""
        partitions = {mark.partition for mark in marks}
        if self._batch is not None:
            # A late success of ours would fence the next owner.
            self._strip(self._batch, partitions)
        for mark in marks:
            if mark.in_flight:
                self._lingering.append(mark)
            if self.marks.get(mark.partition) is mark:
                del self.marks[mark.partition]
            self._release(mark.drop())

    def start(self) -> None:
        """Begin to settle what is decided."""
        self._task = asyncio.create_task(self._settle_forever(), name=f"settle {self._cursor}")

    async def stop(self, deadline: float) -> None:
        """Settle what is decided, until the monotonic deadline at most, and no more."""
        async with self._settling:  # between two transactions
            if self._task is not None:
                await cancel([self._task])
        if self._timer is not None:
            self._timer.cancel()
        while not await self.settle():
            left_s = deadline - self._clock.monotonic()
            if left_s <= 0:
                return
            await asyncio.sleep(min(_LEDGER_RETRY_S, left_s))

    async def _settle_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._decided = 0
            if not await self.settle():
                self._timer = loop.call_later(_LEDGER_RETRY_S, self._wanted.set)

    # ------------------------------------------------------------ settling

    async def settle(self) -> bool:
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
                    _log.error("ledger does not take settlements", cursor=self._cursor, error=str(error))
                    return False
                except Exception:  # noqa: BLE001  a bug must not end the settling unseen
                    batch.tried = True
                    _log.exception("settling failed", cursor=self._cursor)
                    return False
                self._batch = None
                self._settled(batch)

    def _collect(self) -> _Batch | None:
        batch = _Batch()
        for mark in self.marks.values():
            from_offset = mark.next_offset
            items, counts = mark.take(_SETTLE_LIMIT)
            if mark.next_offset == from_offset:
                continue
            delivered: Counter[tuple[str, int]] = Counter()
            park: list[Parked] = []
            bury: list[DeadLetter] = []
            remarks: list[Remark] = []
            for item in items:
                if item.fate == DELIVERED:
                    event = item.event
                    delivered[event.source_id, event.received_at_ms // HOUR_MS] += 1
                    if item.warning:
                        remarks.append(remark_on(self._cursor, item, self._clock.now_ms()))
                elif item.fate == FILTERED:
                    event = item.event
                    hour = event.received_at_ms // HOUR_MS
                    counts[CountKey(event.source_id, hour, "filtered", item.reason)] += 1
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
                    cursor=self._cursor,
                    partition=mark.partition,
                    from_offset=from_offset,
                    next_offset=mark.next_offset,
                    counts=counts,
                    park=park,
                    bury=bury,
                    remarks=remarks,
                )
            )
        return batch if batch.settlements else None

    def _settled(self, batch: _Batch) -> None:
        moved: dict[int, int] = {}
        parked = 0
        for step in batch.settlements:
            moved[step.partition] = step.next_offset
            mark = self.marks.get(step.partition)
            if mark is not None:
                mark.settled_offset = step.next_offset
            parked += len(step.park)
        self._release(batch.items)
        count_outcomes(self._destination_id, batch.counts)
        self._on_parked(parked)
        if self._on_settled is not None and moved:
            try:
                self._on_settled(moved)
            except Exception:  # noqa: BLE001  the listener's trouble is not the cursor's
                _log.exception("listener to positions failed", cursor=self._cursor)

    def _release(self, items: Sequence[Item]) -> None:
        """Free the window of items that are settled or not ours any more."""
        for item in items:
            self.window_bytes -= len(item.value) + item.extra_bytes
            if item.fate == PARKED:
                self._on_unparked(item)
        self.window -= len(items)
        if self.window < self._limit and self.window_bytes < self._limit_bytes:
            self._room.set()

    def _fenced(self, batch: _Batch, error: Fenced) -> None:
        """Another worker settles a partition: give it up, loudly. Or it is our own step, whose success the
        ledger could not report."""
        ours = [step for step in batch.settlements if step.partition == error.partition]
        if batch.tried and any(step.next_offset == error.found for step in ours):
            # One transaction: if one of them is there, all are.
            self._batch = None
            self._settled(batch)
            return
        _log.error("another worker owns this partition now", cursor=self._cursor, error=str(error))
        self._strip(batch, (error.partition,))
        mark = self.marks.get(error.partition)
        if mark is not None:
            self._on_lost(mark)

    def _strip(self, batch: _Batch, partitions: Collection[int]) -> None:
        """Take partitions out of what is to be settled."""
        for step in batch.settlements:
            if step.partition in partitions:
                batch.counts.subtract(step.counts)
        batch.counts = +batch.counts
        batch.settlements = [step for step in batch.settlements if step.partition not in partitions]
        self._release([item for item in batch.items if item.partition in partitions])
        batch.items = [item for item in batch.items if item.partition not in partitions]

    # ------------------------------------------------------------ rows

    def _letter(self, item: Item) -> DeadLetter:
        event = item.event
        return DeadLetter(
            cursor=self._cursor,
            destination_id=self._destination_id,
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

    def _parked_row(self, item: Item) -> Parked:
        return Parked(
            cursor=self._cursor,
            destination_id=self._destination_id,
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


def remark_on(cursor: str, item: Item, now_ms: int) -> Remark:
    """Return what a destination said about an event that it took."""
    return Remark(
        cursor=cursor,
        source_id=item.event.source_id,
        message_id=item.event.message_id,
        at_ms=now_ms,
        text=item.warning,
    )


def count_outcomes(destination_id: str, counts: Mapping[CountKey, int]) -> None:
    """Add lines of the books to the metric."""
    totals: Counter[tuple[str, str, str]] = Counter()
    for line, events in counts.items():
        totals[line.source_id, line.outcome, line.reason] += events
    for (source_id, outcome, reason), events in totals.items():
        metrics.OUTCOMES.labels(source_id, destination_id, outcome, reason).inc(events)
