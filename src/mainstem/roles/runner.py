"""The cursor loop: one destination's way through the log, from its position to its settled position.

reading -> plan (pure) -> **runner** -> sender. One runner per destination for the live flow, and one per
running replay; each has its own cursor, window and lanes, so none of them can hold up another.
"""

import asyncio
from collections.abc import Callable, Mapping

from mainstem.clock import Clock
from mainstem.delivery.sender import Item, Sender
from mainstem.events.canonical import Event
from mainstem.ledger.base import CountKey, Ledger, Position
from mainstem.pipeline.outcome import FILTERED, REJECTED, Dead, Filtered, Outcome, Refused, Send
from mainstem.pipeline.reading import Decoded, MergedReader, SharedReader
from mainstem.stream.base import OffsetGone, Stream
from mainstem.telemetry.log import logger

_log = logger(__name__)

Evaluate = Callable[[Event], Outcome]

_IDLE_WAIT_S = 1.0
_READ_RECORDS = 200
_GONE_RETRY_S = 30.0


class Runner:
    """Moves one cursor. Create, `start`, then `assign` partitions as they come; `drain` at the end."""

    def __init__(
        self,
        *,
        cursor: str,
        evaluate: Evaluate,
        sender: Sender,
        reader: SharedReader,
        stream: Stream,
        ledger: Ledger,
        clock: Clock,
        end: Mapping[int, int] | None = None,
    ) -> None:
        """
        Args:
            end: stop below these offsets (a replay); None = go on for ever.
        """
        self.cursor = cursor
        self.sender = sender
        self.gone: str = ""
        """Why the runner can't go on, when the stream no longer holds what it needs."""
        self._evaluate = evaluate
        self._merged = MergedReader(reader, stream)
        self._stream = stream
        self._ledger = ledger
        self._clock = clock
        self._end = end
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._changed = asyncio.Event()

    async def assign(self, positions: Mapping[int, Position]) -> None:
        """Take over partitions at these positions."""
        await self.sender.start(positions)
        self._merged.assign({partition: at.next_offset for partition, at in positions.items()})
        self._changed.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"runner {self.cursor}")

    async def revoke(self, partitions: frozenset[int]) -> None:
        """Give partitions away: nothing of them is read any more, what is in flight is settled."""
        self._merged.revoke(partitions)
        await self.sender.revoke(partitions)

    async def drain(self, timeout_s: float) -> None:
        """Stop reading, finish what is in flight, settle, stop."""
        self._stopping = True
        self._changed.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.sender.drain(timeout_s)

    @property
    def finished(self) -> bool:
        """Whether everything below `end` has been read and settled (never, without an end)."""
        if self._end is None:
            return False
        settled = self.sender.positions
        return all(settled.get(partition, 0) >= self._end.get(partition, 0) for partition in settled)

    async def _run(self) -> None:
        while not self._stopping:
            try:
                await self._step()
            except OffsetGone as error:
                # The hard limit of retention has dropped what this cursor needed: say so until someone acts.
                self.gone = str(error)
                _log.error("destination needs events that are gone", cursor=self.cursor, error=str(error))
                await self._clock.sleep(_GONE_RETRY_S)

    async def _step(self) -> None:
        await self.sender.wait_room()
        batch = await self._merged.next(max_records=_READ_RECORDS, end=self._end)
        if not batch:
            self._changed.clear()
            waiting = asyncio.ensure_future(self._changed.wait())
            try:
                await self._stream.wait(self._merged.positions, timeout_s=_IDLE_WAIT_S)
            finally:
                waiting.cancel()
            return
        for decoded in batch:
            self._offer(decoded)
        # Cached reads do not yield: let answers and other destinations in between batches.
        await asyncio.sleep(0)

    def _offer(self, decoded: Decoded) -> None:
        event = decoded.event
        record = decoded.record
        outcome = self._evaluate(event)
        match outcome:
            case Send():
                self.sender.offer(_item(decoded, outcome))
            case Filtered(rule=rule):
                self.sender.skip(record.partition, record.offset, _count(event, FILTERED, rule))
            case Refused(reason=reason):
                self.sender.skip(record.partition, record.offset, _count(event, REJECTED, reason))
            case Dead(reason=reason):
                self.sender.bury(_item(decoded, Send(event=event)), reason)


def _item(decoded: Decoded, send: Send) -> Item:
    record, event = decoded.record, send.event
    return Item(
        partition=record.partition,
        offset=record.offset,
        sequence=record.sequence,
        key=event.key,
        login_key=event.login_key,
        event=event,
        value=record.value,
        payloads=send.payloads,
    )


def _count(event: Event, outcome: str, reason: str) -> CountKey:
    return CountKey(event.source_id, event.received_at_ms // 3_600_000, outcome, reason)
