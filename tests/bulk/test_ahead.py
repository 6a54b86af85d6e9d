"""A batch that is made while it is gathered, and one that is written while the next is gathered."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from mainstem.bulk.errors import BulkError
from mainstem.bulk.gatherer import Gatherer
from mainstem.bulk.plan import DEAD, DELIVERED, Plan, Verdict
from mainstem.bulk.writer import Limits, Making, Planned, Urgency
from mainstem.clock import Clock, FixedClock
from mainstem.events.stored import StoredEvent, decode_stored
from mainstem.ledger.base import CountKey, DeadFilter
from mainstem.ledger.memory import MemoryLedger
from mainstem.stream.base import Record
from mainstem.stream.memory import MemoryStream
from tests.lake.rig import START_MS, append, event

CURSOR = "tables"
PARTITIONS = 4
BATCH = 40


class Refused(BulkError):
    """The place does not take it now."""


class Made:
    """What was added, by messageId."""

    def __init__(self, place: "Place", *, ahead: bool) -> None:
        self.ids: list[str] = []
        self.ahead = ahead
        self.closed = 0
        self._place = place

    def add(self, records: Iterable[Planned]) -> None:
        for stored, _, _, _, _ in records:
            if self.ahead and stored.message_id == self._place.breaks_at:
                raise OSError("disk full")
            self.ids.append(stored.message_id)

    def finish(self) -> None:
        return

    def close(self) -> None:
        self.closed += 1


class Place:
    """Takes each plan once, by its id, whatever was made of it: as tables do."""

    outcomes = frozenset((DELIVERED,))
    place = "memory"

    def __init__(self, *, makes_ahead: bool = True) -> None:
        self.taken: dict[str, Sequence[str]] = {}
        self.made: list[Made] = []
        self.open = asyncio.Event()
        self.open.set()
        self.refusals = 0
        self.how_urgent: Urgency = "when due"
        self.waiting = 0
        self.breaks_at = ""
        self._makes_ahead = makes_ahead

    @property
    def limits(self) -> Limits:
        return Limits(max_events=BATCH, max_bytes=1 << 30, max_age_s=3600.0)

    def part(self, line: CountKey) -> str:
        return line.source_id

    def settings(self) -> bytes:
        return b""

    def urgency(self) -> Urgency:
        return self.how_urgent

    def ahead(self) -> Made | None:
        return self._begin(ahead=True) if self._makes_ahead else None

    def begin(self, plan: Plan) -> Made:
        return self._begin(ahead=False)

    async def write(self, plan: Plan, made: Making) -> int:
        assert isinstance(made, Made)
        self.waiting += 1
        try:
            await self.open.wait()
        finally:
            self.waiting -= 1
        if self.refusals:
            self.refusals -= 1
            raise Refused("not now")
        self.taken.setdefault(plan.id, tuple(made.ids))
        return 1

    async def upkeep(self) -> None:
        return

    async def settled(self, plan: Plan) -> None:
        return

    async def asked_by(self, gatherer: Gatherer) -> None:
        """Let it go on until it has begun to write."""
        while not self.waiting:
            await gatherer.step()
            await asyncio.sleep(0)

    def ids(self) -> Counter[str]:
        return Counter(one for ids in self.taken.values() for one in ids)

    def _begin(self, *, ahead: bool) -> Made:
        self.made.append(Made(self, ahead=ahead))
        return self.made[-1]


class Log(MemoryStream):
    """Counts what is read."""

    def __init__(self) -> None:
        super().__init__(partitions=PARTITIONS)
        self.given = 0

    async def read(
        self, partition: int, offset: int, *, max_records: int, max_bytes: int
    ) -> Sequence[Record]:
        records = await super().read(partition, offset, max_records=max_records, max_bytes=max_bytes)
        self.given += len(records)
        return records


class Case:
    def __init__(self, folder: Path, place: Place) -> None:
        self.stream = Log()
        self.ledger = MemoryLedger()
        self.place = place
        self.instead: dict[str, tuple[StoredEvent, ...]] = {}
        self.dead: set[str] = set()
        self._folder = folder

    async def gatherer(
        self, partitions: Sequence[int] = range(PARTITIONS), clock: Clock | None = None
    ) -> Gatherer:
        made = Gatherer(
            cursor=CURSOR,
            destination=CURSOR,
            writer=self.place,
            stream=self.stream,
            ledger=self.ledger,
            clock=clock or FixedClock(START_MS),
            judge=self._judge,
            spool_dir=self._folder,
        )
        await made.assign(await self.ledger.open_cursor(CURSOR, dict.fromkeys(partitions, 0)))
        return made

    async def positions(self) -> int:
        """How many records are settled."""
        return sum(at.next_offset for at in (await self.ledger.positions(CURSOR)).values())

    async def _judge(self, records: Sequence[Record]) -> Sequence[Verdict]:
        return [self._verdict(decode_stored(record.value)) for record in records]

    def _verdict(self, stored: StoredEvent) -> Verdict:
        dead = stored.message_id in self.dead
        count = CountKey(stored.source_id, 0, DEAD if dead else DELIVERED, "in the code" if dead else "")
        return Verdict(count, self.instead.get(stored.message_id))


def some(first: int, count: int) -> list[StoredEvent]:
    return [event(number, at_ms=START_MS) for number in range(first, first + count)]


def all_once(count: int) -> Counter[str]:
    return Counter(f"m{number}" for number in range(count))


async def test_what_is_made_ahead_is_not_read_again(tmp_path: Path) -> None:
    case = Case(tmp_path, Place())
    await append(case.stream, some(0, BATCH))
    await (await case.gatherer()).flush_now()
    assert case.place.ids() == all_once(BATCH)
    assert case.stream.given == BATCH
    assert [(one.ahead, one.closed > 0) for one in case.place.made] == [(True, True)]


async def test_a_place_that_needs_the_plan_first_is_given_the_records_again(tmp_path: Path) -> None:
    case = Case(tmp_path, Place(makes_ahead=False))
    await append(case.stream, some(0, BATCH))
    await (await case.gatherer()).flush_now()
    assert case.place.ids() == all_once(BATCH)
    assert case.stream.given == 2 * BATCH


async def test_the_next_plan_is_gathered_while_one_is_written(tmp_path: Path) -> None:
    case = Case(tmp_path, Place())
    case.place.open.clear()
    gatherer = await case.gatherer()
    await append(case.stream, some(0, BATCH))
    await case.place.asked_by(gatherer)
    await append(case.stream, some(BATCH, BATCH // 2))
    await gatherer.step()
    assert gatherer.status().gathered_events == BATCH // 2
    assert await case.positions() == 0
    case.place.open.set()
    await gatherer.flush_now()
    assert case.place.ids() == all_once(BATCH + BATCH // 2)
    assert [len(ids) for ids in case.place.taken.values()] == [BATCH, BATCH // 2]
    assert await case.positions() == BATCH + BATCH // 2
    # Nothing was gathered twice.
    assert case.stream.given == BATCH + BATCH // 2


async def test_no_second_plan_is_made_before_the_first_is_settled(tmp_path: Path) -> None:
    case = Case(tmp_path, Place())
    case.place.open.clear()
    gatherer = await case.gatherer()
    await append(case.stream, some(0, BATCH))
    stop = asyncio.Event()
    running = asyncio.create_task(gatherer.run(stop))
    while not case.place.waiting:
        await asyncio.sleep(0)
    await append(case.stream, some(BATCH, BATCH))
    while gatherer.status().gathered_events < BATCH:
        await asyncio.sleep(0)
    for _ in range(200):
        await asyncio.sleep(0)
    assert case.place.waiting == 1
    planned = sum(at.next_offset for at in (await case.ledger.positions(f"plan:{CURSOR}")).values())
    assert planned == BATCH
    case.place.open.set()
    stop.set()
    await running
    assert case.place.ids() == all_once(2 * BATCH)


async def test_a_write_that_fails_is_repeated_with_what_was_made_and_costs_the_next_plan_nothing(
    tmp_path: Path,
) -> None:
    case = Case(tmp_path, Place())
    case.place.open.clear()
    case.place.refusals = 3
    gatherer = await case.gatherer()
    await append(case.stream, some(0, BATCH))
    await case.place.asked_by(gatherer)
    await append(case.stream, some(BATCH, 5))
    await gatherer.step()
    case.place.open.set()
    for _ in range(3):
        with pytest.raises(Refused):
            await gatherer.flush_now()
    await gatherer.flush_now()
    assert case.place.ids() == all_once(BATCH + 5)
    assert case.stream.given == BATCH + 5
    assert len(case.place.made) == 2


async def test_partitions_are_given_away_only_when_nothing_is_written(tmp_path: Path) -> None:
    case = Case(tmp_path, Place())
    case.place.open.clear()
    gatherer = await case.gatherer()
    await append(case.stream, some(0, BATCH + 10))
    await case.place.asked_by(gatherer)
    revoked = asyncio.create_task(gatherer.revoke(frozenset(range(PARTITIONS))))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not revoked.done()
    case.place.open.set()
    await revoked
    assert not case.place.waiting
    # What was gathered meanwhile is the next owner's.
    await (await case.gatherer()).flush_now()
    assert case.place.ids() == all_once(BATCH + 10)


async def test_the_next_owner_takes_up_what_was_being_written(tmp_path: Path) -> None:
    case = Case(tmp_path, Place())
    case.place.open.clear()
    gatherer = await case.gatherer()
    await append(case.stream, some(0, BATCH + 10))
    await case.place.asked_by(gatherer)
    gatherer.close()
    case.place.open.set()
    await asyncio.sleep(0)
    assert not case.place.taken
    await (await case.gatherer()).flush_now()
    assert case.place.ids() == all_once(BATCH + 10)
    # Made by the plan: what was made ahead went with its maker.
    assert not next(one for one in case.place.made if one.closed == 0 or not one.ahead).ahead


async def test_what_can_not_be_made_ahead_is_made_by_the_plan(tmp_path: Path) -> None:
    case = Case(tmp_path, Place())
    case.place.breaks_at = "m7"
    gatherer = await case.gatherer()
    await append(case.stream, some(0, BATCH))
    with pytest.raises(OSError, match="disk full"):
        await gatherer.flush_now()
    case.place.breaks_at = ""
    await gatherer.flush_now()
    assert case.place.ids() == all_once(BATCH)


class Napping(FixedClock):
    """Remembers how long it was asked to sleep."""

    def __init__(self) -> None:
        super().__init__(START_MS)
        self.naps: list[float] = []

    async def sleep(self, delay_s: float) -> None:
        self.naps.append(delay_s)
        await super().sleep(delay_s)


async def test_while_nothing_may_be_written_no_more_than_a_batch_is_made_and_nobody_spins(
    tmp_path: Path,
) -> None:
    case = Case(tmp_path, Place())
    case.place.how_urgent = "not now"
    clock = Napping()
    gatherer = await case.gatherer(clock=clock)
    await append(case.stream, some(0, BATCH))
    stop = asyncio.Event()
    running = asyncio.create_task(gatherer.run(stop))
    while len(clock.naps) < 5:
        await asyncio.sleep(0)
    await append(case.stream, some(BATCH, 3 * BATCH))
    # Far beyond the age at which it would be written.
    while len(clock.naps) < 5_000:
        await asyncio.sleep(0)
    assert clock.naps == [1.0] * len(clock.naps)
    assert gatherer.status().gathered_events == BATCH
    assert not case.place.taken
    case.place.how_urgent = "when due"
    while case.place.ids().total() < BATCH:
        await asyncio.sleep(0)
    stop.set()
    await running
    await gatherer.flush_now()
    assert case.place.ids() == all_once(4 * BATCH)


async def test_dead_letters_and_what_was_transformed(tmp_path: Path) -> None:
    case = Case(tmp_path, Place())
    events = some(0, BATCH)
    case.dead = {"m3", "m8"}
    case.instead = {"m5": (events[5], events[6]), "m9": ()}
    await append(case.stream, events)
    await (await case.gatherer()).flush_now()
    expected = all_once(BATCH) + Counter(["m6"])
    for gone in ("m3", "m8", "m9"):
        del expected[gone]
    assert case.place.ids() == expected
    dead = await case.ledger.dead(DeadFilter())
    assert {one.message_id for _, one in dead} == case.dead
