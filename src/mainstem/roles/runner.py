"""The cursor loop: one destination's way through the log, from its position to its settled position.

reading -> judge (rules, transformations, mapping) -> **runner** -> sender. One runner per destination for the
live flow, and one per running replay; each has its own cursor, window and lanes, so none of them can hold up
another.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Final

from mainstem.clock import Clock
from mainstem.delivery.item import Burial, Item
from mainstem.delivery.sender import Sender
from mainstem.destinations.base import Call, Dialogue, Payload, Request, Skip, StreamMessage
from mainstem.destinations.kit.batching import body_length
from mainstem.events.canonical import Event
from mainstem.ledger.base import (
    HOUR_MS,
    CountKey,
    Ledger,
    LedgerError,
    Parked,
    Position,
    Settlement,
)
from mainstem.pipeline.decode import Decoder
from mainstem.pipeline.judge import Judge
from mainstem.pipeline.outcome import DEAD, FILTERED, REJECTED, Dead, Filtered, Outcome, Refused, Send
from mainstem.pipeline.reading import Decoded, MergedReader, SharedReader
from mainstem.stream.base import OffsetGone, Stream, StreamError
from mainstem.telemetry.log import logger
from mainstem.transformations.base import SandboxUnavailable

_log = logger(__name__)

_IDLE_WAIT_S: Final = 2.0
_READ_RECORDS: Final = 200
_RETRY_FIRST_S: Final = 0.1
_RETRY_MOST_S: Final = 5.0

GONE: Final = "dropped by retention"
"""The reason in the books of records that the hard limit of retention dropped before they were delivered."""


class Rules:
    """What a flow judges events by: replaced as a whole when the workspace changes."""

    __slots__ = ("decoder", "judge")

    def __init__(self, judge: Judge, decoder: Decoder) -> None:
        self.judge = judge
        self.decoder = decoder

    async def prepare(self, parked: Parked) -> Item | Skip | Burial:
        """Turn a parked event back into an item, by the rules that hold now.

        Raises:
            SandboxUnavailable: its transformation can't run now.
        """
        _, event = self.decoder.decode(parked.partition, parked.offset, parked.sequence, parked.value)
        (outcome,) = await self.judge([event])
        match outcome:
            case Send():
                return make_item(event, outcome, parked.value)
            case Filtered(rule=rule):
                return Skip(rule)
            case Refused(reason=reason):
                return Burial(reason)
            case Dead(reason=reason, detail=detail):
                return Burial(reason, detail)


def make_item(event: Event, outcome: Send, value: bytes) -> Item:
    """Return an event on its way; its place in the log is the event's."""
    payloads = outcome.payloads
    return Item(
        partition=event.partition,
        offset=event.offset,
        sequence=event.sequence,
        key=event.key,
        login_key=event.login_key,
        event=event,
        value=value,
        payloads=payloads,
        # One payload is about as long as the event, and the window is bounded by that already.
        extra_bytes=sum(map(_length, payloads)) if len(payloads) > 1 else 0,
    )


def _length(payload: Payload) -> int:
    match payload:
        case Request(body=body):
            return len(body)
        case StreamMessage(value=value):
            return len(value)
        case Call(body=call_body):
            return body_length(payload) if call_body is not None else 0
        case Dialogue():
            return 0  # made anew for each attempt


def offer(sender: Sender, event: Event, value: bytes, outcome: Outcome) -> None:
    """Give one event to a sender, with what the rules say about it."""
    match outcome:
        case Send():
            sender.offer(make_item(event, outcome, value))
        case Filtered(rule=rule):
            sender.skip(event.partition, event.offset, _count(event, FILTERED, rule))
        case Refused(reason=reason):
            sender.skip(event.partition, event.offset, _count(event, REJECTED, reason_class(reason)))
        case Dead(reason=reason, detail=detail):
            sender.bury(make_item(event, Send(event=event), value), reason, detail)


def reason_class(reason: str) -> str:
    """Return the part of a reason that the books count by: `event_too_large: the event has 9 bytes …`."""
    return reason.partition(":")[0]


def _count(event: Event, outcome: str, reason: str) -> CountKey:
    return CountKey(event.source_id, event.received_at_ms // HOUR_MS, outcome, reason)


class Runner:
    """Moves one cursor. Create, then `assign` partitions as they come; `drain` at the end."""

    def __init__(
        self,
        *,
        cursor: str,
        rules: Rules,
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
        self._rules = rules
        self._merged = MergedReader(reader, stream)
        self._stream = stream
        self._ledger = ledger
        self._clock = clock
        self._end = end
        self._task: asyncio.Task[None] | None = None
        self._owned: set[int] = set()
        self._taken: Sequence[Decoded] = ()
        """Read and not yet offered: they are being judged, or wait for a sandbox."""
        self._let_go_meanwhile: set[int] = set()
        """Partitions given away since `_taken` was read: nothing of them is offered any more, even if they come
        back, because they are then read again from their position."""
        self._stopping = False
        """Beside the cancellation of the task: under Python 3.11 a `wait_for` that ends in the same moment
        swallows it (https://github.com/python/cpython/issues/81839)."""
        self.failure = ""
        """Why it does not get on now; empty while it does. It goes on trying."""

    async def assign(self, positions: Mapping[int, Position]) -> None:
        """Take over partitions at these positions."""
        await self.sender.start(positions)
        self._owned |= positions.keys()
        self._merged.assign({partition: at.next_offset for partition, at in positions.items()})
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"runner {self.cursor}")

    async def revoke(self, partitions: frozenset[int]) -> None:
        """Give partitions away: nothing of them is read any more, what is in flight is settled."""
        self._owned -= partitions
        await self._let_go(partitions)

    async def drain(self, timeout_s: float) -> None:
        """Stop reading, finish what is in flight, settle, stop."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.sender.drain(timeout_s)

    async def _run(self) -> None:
        """Go on for ever. Trouble of this destination's flow stays in this flow, and says so."""
        retry_s = _RETRY_FIRST_S
        while not self._stopping:
            try:
                await self._regain()
                await self._step()
                retry_s, self.failure = _RETRY_FIRST_S, ""
                continue
            except OffsetGone as gone:
                error: Exception | None = await self._tried(self._pass_over(gone))
                if error is None:
                    continue
            except (StreamError, LedgerError, SandboxUnavailable) as trouble:
                error = trouble
                _log.error("cursor can't go on now", cursor=self.cursor, error=str(error))
            except Exception as bug:  # noqa: BLE001 - a bug met by one event must not end the flow unseen
                error = bug
                _log.exception("cursor failed and begins again at its position", cursor=self.cursor)
                # Part of a batch may have been offered: only the ledger knows where to go on.
                await self._tried(self._let_go(frozenset(self._owned)))
            self.failure = f"{type(error).__name__}: {error}"
            await self._clock.sleep(retry_s)
            retry_s = min(_RETRY_MOST_S, retry_s * 2)

    async def _tried(self, doing: Coroutine[None, None, None]) -> Exception | None:
        try:
            await doing
        except (StreamError, LedgerError) as error:
            _log.error("cursor can't go on now", cursor=self.cursor, error=str(error))
            return error
        return None

    async def _let_go(self, partitions: frozenset[int]) -> None:
        self._let_go_meanwhile |= partitions
        self._merged.revoke(partitions)
        await self.sender.revoke(partitions)

    async def _regain(self) -> None:
        """Take up again what the sender gave up although it is ours: after a failure, or a fence."""
        lost = self._owned - self.sender.positions.keys()
        if not lost:
            return
        self._let_go_meanwhile |= lost
        self._merged.revoke(frozenset(lost))
        found = await self._ledger.positions(self.cursor)
        positions = {part: at for part, at in found.items() if part in lost & self._owned}
        await self.sender.start(positions)
        gone = positions.keys() - self._owned
        self._merged.assign({part: at.next_offset for part, at in positions.items() if part not in gone})
        if gone:
            await self.sender.revoke(gone)

    async def _step(self) -> None:
        await self.sender.wait_room()
        self._forget_taken()
        if not self._taken:
            self._taken = await self._merged.next(max_records=_READ_RECORDS, end=self._end)
            self._let_go_meanwhile.clear()
        if not self._taken:
            await self._stream.wait(self._merged.positions, timeout_s=_IDLE_WAIT_S)
            return
        # This may take a while, and partitions may come and go in it; delivery goes on.
        taken = self._taken
        outcomes = await self._rules.judge([decoded.event for decoded in taken])
        self._taken = ()
        gone = self._let_go_meanwhile
        for decoded, outcome in zip(taken, outcomes, strict=True):
            if not gone or decoded.record.partition not in gone:
                offer(self.sender, decoded.event, decoded.record.value, outcome)
        # Cached reads do not yield: let answers and other destinations in between batches.
        await asyncio.sleep(0)

    def _forget_taken(self) -> None:
        gone = self._let_go_meanwhile
        if gone and self._taken:
            self._taken = [decoded for decoded in self._taken if decoded.record.partition not in gone]

    async def _pass_over(self, gone: OffsetGone) -> None:
        """Go on behind what the operator's hard limit dropped; the books say how much that was."""
        partition = gone.partition
        await self._let_go(frozenset({partition}))
        at = (await self._ledger.positions(self.cursor))[partition]
        lost = gone.earliest - at.next_offset
        if lost > 0 and partition in self._owned:
            _log.error(
                "events were dropped by retention before they were delivered",
                cursor=self.cursor,
                partition=partition,
                events=lost,
            )
            await self._ledger.settle(
                [
                    Settlement(
                        cursor=self.cursor,
                        partition=partition,
                        from_offset=at.next_offset,
                        next_offset=gone.earliest,
                        counts={CountKey("", self._clock.now_ms() // HOUR_MS, DEAD, GONE): lost},
                    )
                ]
            )
        # The sender let the partition go: `_regain` takes it up again, where the ledger is now.
