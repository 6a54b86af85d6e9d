"""The cursor loop: what retention dropped is counted, trouble passes, a bug in one event's rules stops one flow."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mainstem.delivery.item import Item
from mainstem.events.canonical import Event
from mainstem.ledger.base import CountKey, LedgerBusy, Position, Settlement
from mainstem.ledger.memory import MemoryLedger
from mainstem.pipeline.outcome import Filtered, Outcome
from mainstem.roles.runner import GONE, Rules, Runner, reason_class
from mainstem.stream.base import Record, StreamCorrupt
from mainstem.stream.memory import MemoryStream
from mainstem.testing.sink import Sink
from tests.roles.rig import PARTITIONS, FastClock, rig, track, until, webhook, workspace


def test_books_count_by_the_class_of_a_reason() -> None:
    assert reason_class("event_too_large: the event has 9 bytes") == "event_too_large"
    assert reason_class("missing_ids") == "missing_ids"


async def test_what_the_hard_limit_of_retention_dropped_is_dead_in_the_books(tmp_path: Path) -> None:
    stream = MemoryStream(partitions=PARTITIONS)
    async with Sink() as sink:
        # Registered at its beginning and then stopped: retention passes it.
        off, on = workspace(webhook(sink.url, enabled=False)), workspace(webhook(sink.url))
        async with rig(off, tmp_path, stream=stream) as running:
            first = await running.worker()
            await running.stop(first)
            await running.send([track(f"u{number}", 1) for number in range(40)])
            await stream.forget("hook")
            bounds = await stream.bounds()
            dropped = sum(at.next - 1 for at in bounds.values())
            for partition, at in bounds.items():
                stream.drop_before(partition, at.next - 1)
            await running.told.tell(on)
            await running.worker()
            found = await running.settled(received=40)
            assert (found.dead, found.delivered) == (dropped, 40 - dropped)
            assert sum(line.dead.get(GONE, 0) for line in found.lines) == dropped
            assert sink.count == 40 - dropped


class _Failing(MemoryStream):
    """A stream that cannot be read for a while."""

    broken = 3

    async def read(
        self, partition: int, offset: int, *, max_records: int, max_bytes: int
    ) -> Sequence[Record]:
        found = await super().read(partition, offset, max_records=max_records, max_bytes=max_bytes)
        if found and self.broken and partition == PARTITIONS - 1:
            self.broken -= 1
            raise StreamCorrupt("segment 7, byte 9: not what was written")
        return found


async def test_a_read_that_fails_is_tried_again_and_loses_nothing_of_other_partitions(tmp_path: Path) -> None:
    stream = _Failing(partitions=PARTITIONS)
    async with Sink() as sink, rig(workspace(webhook(sink.url)), tmp_path, stream=stream) as running:
        await running.send([track(f"u{number % 20}", number) for number in range(60)])
        await running.worker()
        await running.settled(received=60)
        assert stream.broken == 0
        assert sorted(request.json()["properties"]["n"] for request in sink.requests) == list(range(60))


class _Busy(MemoryLedger):
    """A ledger that others hold for a while."""

    busy = 0

    async def positions(self, cursor: str) -> Mapping[int, Position]:
        if self.busy:
            self.busy -= 1
            raise LedgerBusy("held by another process")
        return await super().positions(cursor)


async def test_partitions_that_cannot_be_taken_over_now_are_taken_over_later(tmp_path: Path) -> None:
    ledger = _Busy()
    async with Sink() as sink, rig(workspace(webhook(sink.url)), tmp_path, ledger=ledger) as running:
        worker = running.worker()
        ledger.busy = 0
        started = await worker
        await running.stop(started)
        ledger.busy = 3
        await running.send([track("ann", 1)])
        with pytest.raises(LedgerBusy):
            await running.worker()  # the process ends, and is started again by its supervisor
        ledger.busy = 0
        await running.worker()
        ledger.busy = 4
        await running.send([track("ann", 2)])
        await until("all is delivered", lambda: sink.count == 2)


async def test_a_fenced_partition_that_is_still_ours_is_taken_up_again(tmp_path: Path) -> None:
    async with Sink() as sink, rig(workspace(webhook(sink.url)), tmp_path) as running:
        await running.worker()
        await running.send([track("ann", 1)])
        await running.settled(received=1)
        # Somebody else settles the next event, behind the worker's back.
        (partition,) = [part for part, at in (await running.stream.bounds()).items() if at.next]
        await running.ledger.settle(
            [
                Settlement(
                    cursor="hook",
                    partition=partition,
                    from_offset=1,
                    next_offset=2,
                    counts={CountKey("web", 0, "filtered", "elsewhere"): 1},
                )
            ]
        )
        await running.send([track("ann", 2), track("ann", 3)])
        found = await running.settled(received=3)
        assert found.delivered == 2
        assert [request.json()["messageId"] for request in sink.requests][-1] == "ann-3"


class _Sender:
    """Notes what it is offered."""

    def __init__(self) -> None:
        self.positions: dict[int, int] = {}
        self.skipped: list[int] = []
        self.begun = 0

    async def start(self, positions: Mapping[int, Position]) -> None:
        self.begun += 1
        self.positions.update({part: at.next_offset for part, at in positions.items()})

    async def revoke(self, partitions: frozenset[int]) -> None:
        for partition in partitions:
            self.positions.pop(partition, None)

    async def drain(self, timeout_s: float) -> None:
        return

    async def wait_room(self) -> None:
        return

    def offer(self, item: Item) -> None:
        raise AssertionError("everything is filtered")

    def skip(self, partition: int, offset: int, count: CountKey) -> None:
        self.skipped.append(offset)


async def test_rules_that_raise_begin_again_at_the_position_and_say_so(tmp_path: Path) -> None:
    known = workspace(webhook("http://127.0.0.1:9"))
    async with rig(known, tmp_path) as running:
        await running.send([track("ann", number) for number in range(5)])
        positions = await running.ledger.open_cursor("c", dict.fromkeys(range(PARTITIONS), 0))
        broken = asyncio.Event()

        async def judge(events: Sequence[Event]) -> Sequence[Outcome]:
            if not broken.is_set() and any(event.message_id == "ann-2" for event in events):
                raise ZeroDivisionError("a bug")
            return [Filtered("all") for _ in events]

        sender: Any = _Sender()
        around = running.around()
        runner = Runner(
            cursor="c",
            rules=Rules(judge, _decoder(around)),
            sender=sender,
            reader=around.reader,
            stream=running.stream,
            ledger=running.ledger,
            clock=FastClock(),
        )
        await runner.assign(positions)
        await until("it fails", lambda: runner.failure)
        assert runner.failure == "ZeroDivisionError: a bug"
        broken.set()
        await until("it went on", lambda: 4 in sender.skipped)
        await until("it is well", lambda: not runner.failure)
        assert sender.begun >= 2
        await runner.drain(1)


def _decoder(_: Any) -> Any:
    return None
