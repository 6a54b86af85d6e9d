"""Every crash, every failure, every pair of workers: the archive holds each event exactly once.

The proof is in `mainstem.bulk.plan`; here each of its sentences is attacked.
"""

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import msgspec
import pytest

from mainstem.bulk.errors import BulkError, PlanBroken
from mainstem.bulk.gatherer import Gatherer
from mainstem.clock import FixedClock
from mainstem.destinations.archive import Config
from mainstem.lake.errors import LakeError, StoreUnavailable
from mainstem.lake.store import LocalStore, Store, open_store
from mainstem.ledger.base import LedgerError, Position
from mainstem.stream.base import StreamError
from tests.components.s3 import S3Server
from tests.lake import killed
from tests.lake.conftest import s3_config
from tests.lake.rig import (
    CURSOR,
    PARTITIONS,
    START_MS,
    Rig,
    append,
    changed,
    contents,
    event,
    keep_all,
    local,
    with_rules,
)

T = TypeVar("T")
Point = Callable[[str, Literal["before", "after"]], Awaitable[None]]


class Crash(BaseException):
    """The process is gone: nothing of it runs any more (BaseException: no handler of ours takes it)."""


class PointedStore:
    """A store that calls `point` before and after each operation."""

    def __init__(self, store: Store, point: Point) -> None:
        self._store = store
        self._point = point

    @property
    def location(self) -> str:
        return self._store.location

    async def put(self, name: str, content: BinaryIO) -> None:
        await self._point("put", "before")
        await self._store.put(name, content)
        await self._point("put", "after")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class PointedLedger:
    """A ledger that calls `point` before and after each operation that the archiver uses."""

    def __init__(self, ledger: Any, point: Point) -> None:
        self._ledger = ledger
        self._point = point

    async def _at(self, name: str, call: Awaitable[T]) -> T:
        try:
            await self._point(name, "before")
        except BaseException:
            asyncio.ensure_future(call).cancel()
            raise
        result = await call
        await self._point(name, "after")
        return result

    async def open_cursor(self, cursor: str, starts: Mapping[int, int]) -> Mapping[int, Position]:
        return await self._at("open", self._ledger.open_cursor(cursor, starts))

    async def positions(self, cursor: str) -> Mapping[int, Position]:
        return await self._at("positions", self._ledger.positions(cursor))

    async def settle(self, settlements: Sequence[Any]) -> None:
        await self._at("settle", self._ledger.settle(settlements))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


class CountDown:
    """Does something at the n-th point."""

    def __init__(self, at: int, error: Callable[[str], BaseException]) -> None:
        self._left = at
        self._error = error
        self.reached = ""

    async def __call__(self, name: str, when: Literal["before", "after"]) -> None:
        self._left -= 1
        if self._left == 0:
            self.reached = f"{when} {name}"
            raise self._error(name)


async def flush_until_crash(rig: Rig, point: Point) -> None:
    """Archive with a process that ends when `point` says so (its temporary files end with it)."""
    store, ledger = PointedStore(rig.store, point), PointedLedger(rig.ledger, point)
    archiver = await rig.assigned(store=store, ledger=ledger)
    try:
        await archiver.flush_now()
    finally:
        archiver.close()


CONFIG = Config(formats=("jsonl", "parquet"), max_events=9)
EVENTS = 24
MOST_STEPS = 200


def in_memory(folder: Path) -> Store:
    return open_store(Config(url="memory:"), folder)


async def test_a_crash_at_every_step(tmp_path: Path) -> None:
    reached = set()
    for at in range(1, MOST_STEPS):
        rig = Rig(
            in_memory(tmp_path), config=CONFIG, evaluate=with_rules, instead=changed, spool=tmp_path / "spool"
        )
        await append(rig.stream, [event(number) for number in range(EVENTS)])
        point = CountDown(at, lambda name: Crash(name))
        try:
            await flush_until_crash(rig, point)
        except Crash:
            reached.add(point.reached)
        else:
            break
        # Another process, and after the crash more has come.
        await append(rig.stream, [event(number) for number in range(EVENTS, EVENTS + 5)])
        await (await rig.assigned()).flush_now()
        await rig.assert_exactly_once()
    else:
        pytest.fail("the run has more steps than were tried")
    assert reached == {
        f"{when} {name}" for when in ("before", "after") for name in ("open", "positions", "settle", "put")
    }


async def test_a_failure_at_every_step(tmp_path: Path) -> None:
    """The same archiver goes on, not knowing whether what failed had been done."""

    def failure(name: str) -> BaseException:
        return StoreUnavailable("full") if name == "put" else LedgerError("busy")

    for at in range(1, MOST_STEPS):
        rig = Rig(
            in_memory(tmp_path), config=CONFIG, evaluate=with_rules, instead=changed, spool=tmp_path / "spool"
        )
        await append(rig.stream, [event(number) for number in range(EVENTS)])
        point = CountDown(at, failure)
        parts: dict[str, Any] = {
            "store": PointedStore(rig.store, point),
            "ledger": PointedLedger(rig.ledger, point),
        }
        try:
            archiver = await rig.assigned(**parts)
        except LedgerError:
            archiver = await rig.assigned(**parts)
        try:
            await archiver.flush_now()
        except (LakeError, LedgerError):
            await archiver.flush_now()
        if not point.reached:
            break
        await rig.assert_exactly_once()
    else:
        pytest.fail("the run has more steps than were tried")


async def test_run_rides_out_a_store_that_is_down(tmp_path: Path) -> None:
    clock = FixedClock(START_MS)
    failures = list(range(20))

    async def down(name: str, when: str) -> None:
        if name == "put" and when == "before" and failures:
            failures.pop()
            raise StoreUnavailable("503")

    rig = Rig(local(tmp_path), config=CONFIG, clock=clock)
    await append(rig.stream, [event(number) for number in range(EVENTS)])
    archiver = await rig.assigned(store=PointedStore(rig.store, down), chance=random.Random(1))
    stop = asyncio.Event()
    running = asyncio.create_task(archiver.run(stop))
    seen = 0
    while archiver.status().written_events == 0:
        await asyncio.sleep(0)
        seen = max(seen, archiver.status().failures)
        if failures:
            assert (await rig.ledger.positions(CURSOR))[0].next_offset == 0
    assert seen >= 5
    stop.set()
    await running
    await (await rig.assigned()).flush_now()
    await rig.assert_exactly_once()
    assert clock.now_ms() > START_MS


async def test_an_s3_server_that_is_killed_and_comes_back(s3_server: S3Server, tmp_path: Path) -> None:
    with S3Server(tmp_path / "own") as server:
        server.create_bucket("archive")
        rig = Rig(open_store(s3_config(server, "archive"), tmp_path), config=CONFIG)
        await append(rig.stream, [event(number) for number in range(EVENTS)])
        archiver = await rig.assigned()
        stop = asyncio.Event()
        server.kill9()
        running = asyncio.create_task(archiver.run(stop))
        while archiver.status().failures < 3:
            await asyncio.sleep(0.01)
        assert (await rig.ledger.counts(CURSOR)) == {}
        await asyncio.to_thread(server.restart)
        while archiver.status().written_events == 0:
            await asyncio.sleep(0.01)
        stop.set()
        await running
        await (await rig.assigned()).flush_now()
        await rig.assert_exactly_once()


async def test_a_drain_into_a_dead_store_ends_and_the_next_start_finishes(tmp_path: Path) -> None:
    async def dead(name: str, when: str) -> None:
        if name == "put":
            raise StoreUnavailable("gone")

    rig = Rig(local(tmp_path))
    await append(rig.stream, [event(number) for number in range(EVENTS)])
    archiver = await rig.assigned(store=PointedStore(rig.store, dead))
    await archiver.step()
    assert archiver.status().gathered_events == EVENTS
    stop = asyncio.Event()
    stop.set()
    await archiver.run(stop)
    assert "gone" in archiver.status().error
    await (await rig.assigned()).flush_now()
    await rig.assert_exactly_once()


@pytest.mark.parametrize(
    "changed",
    [
        Config(formats=("parquet",), max_events=9),
        Config(prefix="new", max_events=9),
        Config(include_rejected=False, max_events=9),
        Config(compression_level=9, max_events=3),
    ],
)
@pytest.mark.parametrize("rules", [keep_all, with_rules])
async def test_settings_and_rules_that_change_between_crash_and_restart(
    tmp_path: Path, changed: Config, rules: Any
) -> None:
    """The open plan is finished as it was planned, so each event is in the archive once all the same."""
    rig = Rig(local(tmp_path), config=Config(max_events=1))
    await append(rig.stream, [event(number) for number in range(EVENTS)])
    point = CountDown(6 * PARTITIONS, lambda name: Crash(name))
    with pytest.raises(Crash):
        await flush_until_crash(rig, point)
    planned = {
        partition: at.next_offset for partition, at in (await rig.ledger.positions(f"plan:{CURSOR}")).items()
    }
    settled = {partition: at.next_offset for partition, at in (await rig.ledger.positions(CURSOR)).items()}
    assert planned != settled

    await (await rig.assigned(config=changed, evaluate=rules)).flush_now()

    def by_then(record: Any) -> Any:
        verdict = keep_all(record) if record.offset < planned[record.partition] else rules(record)
        if (
            not changed.include_rejected
            and verdict.outcome == "rejected"
            and record.offset >= planned[record.partition]
        ):
            return msgspec.structs.replace(verdict, outcome="left out")
        return verdict

    await rig.assert_exactly_once(prefixes=["", "new"], evaluate=by_then, settled=False)


class Interleaving:
    """Lets one of several workers go on at a time, in a seeded order, stopping before and after each operation.

    One may also be stopped for good, as a machine that hangs, and come back at the end as a fenced worker.
    """

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._waiting: list[asyncio.Future[None]] = []
        self._changed = asyncio.Event()

    async def point(self, name: str, when: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._changed.set()
        await turn

    async def drive(self, workers: Sequence[asyncio.Task[None]]) -> None:
        while unfinished := [worker for worker in workers if not worker.done()]:
            while len(self._waiting) < len(unfinished):
                self._changed.clear()
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait([changed, *unfinished], return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                unfinished = [worker for worker in workers if not worker.done()]
            if self._waiting:
                self._chance.shuffle(self._waiting)
                self._waiting.pop().set_result(None)


async def _until_done(archiver: Gatherer) -> None:
    for _ in range(200):
        try:
            await archiver.flush_now()
        except (BulkError, LedgerError, StreamError):
            continue
        return
    raise AssertionError("no progress")


@pytest.mark.parametrize("seed", range(40))
async def test_workers_that_all_believe_they_own_the_partitions(tmp_path: Path, seed: int) -> None:
    """Worse than the stream allows (at most one of them is not fenced), in any interleaving."""
    chance = random.Random(seed)
    rig = Rig(in_memory(tmp_path), evaluate=with_rules, instead=changed, spool=tmp_path / "spool")
    await append(rig.stream, [event(number) for number in range(EVENTS)])
    turns = Interleaving(seed)
    workers = []
    for _ in range(3):
        owned = sorted(chance.sample(range(PARTITIONS), chance.randint(2, PARTITIONS)))
        archiver = await rig.assigned(
            owned,
            config=Config(max_events=chance.randint(1, 9)),
            store=PointedStore(rig.store, turns.point),
        )
        archiver._ledger = PointedLedger(rig.ledger, turns.point)
        workers.append(asyncio.create_task(_until_done(archiver)))
    await asyncio.wait_for(turns.drive(workers), 60)
    await asyncio.gather(*workers)
    await (await rig.assigned()).flush_now()
    await rig.assert_exactly_once()


async def test_a_fenced_worker_that_wakes_up_late_changes_nothing(tmp_path: Path) -> None:
    woken = asyncio.Event()
    asleep = asyncio.Event()

    async def sleeps(name: str, when: str) -> None:
        if name == "put" and when == "before":
            asleep.set()
            await woken.wait()

    rig = Rig(local(tmp_path), instead=changed, spool=tmp_path / "spool")
    await append(rig.stream, [event(number) for number in range(EVENTS)])
    old = await rig.assigned(store=PointedStore(rig.store, sleeps))
    flushing = asyncio.create_task(old.flush_now())
    await asleep.wait()
    # Its partitions go to two others, each with a part of its open plan.
    await (await rig.assigned([0, 1])).flush_now()
    await (await rig.assigned([2, 3])).flush_now()
    await rig.assert_exactly_once()
    before = await contents(rig.store)
    woken.set()
    await flushing
    assert await contents(rig.store) == before
    await rig.assert_exactly_once()


async def test_after_a_failure_another_workers_plan_is_not_taken_for_ones_own(tmp_path: Path) -> None:
    rig = Rig(in_memory(tmp_path))
    await append(rig.stream, [event(number) for number in range(EVENTS)])
    point = CountDown(1, lambda name: StoreUnavailable("full"))
    first = await rig.assigned(store=PointedStore(rig.store, point))
    with pytest.raises(StoreUnavailable):
        await first.flush_now()
    await (await rig.assigned()).flush_now()
    await append(rig.stream, [event(number) for number in range(EVENTS, 2 * EVENTS)])
    crash = CountDown(1, lambda name: Crash(name))
    crashed = await rig.assigned(store=PointedStore(rig.store, crash))
    with pytest.raises(Crash):
        await crashed.flush_now()
    crashed.close()
    await first.flush_now()
    await rig.assert_exactly_once()


async def test_a_log_that_gives_other_bytes_is_noticed(tmp_path: Path) -> None:
    rig = Rig(local(tmp_path))
    await append(rig.stream, [event(number) for number in range(EVENTS)])
    point = CountDown(11, lambda name: Crash(name))
    with pytest.raises(Crash):
        await flush_until_crash(rig, point)
    assert point.reached == "before put"
    assert (await rig.ledger.positions(f"plan:{CURSOR}"))[0].next_offset > 0
    other = Rig(rig.store, ledger=rig.ledger)
    await append(other.stream, [event(number + 100) for number in range(40)])
    with pytest.raises(PlanBroken, match=r"other records than were planned|the log ends at"):
        await (await other.assigned()).flush_now()


async def test_kill_9_at_random_moments(tmp_path: Path) -> None:
    """A real process, a real ledger on disk, a real folder; killed between any two steps, or within one."""
    chance = random.Random(20261123)
    kills = 0
    for _ in range(7):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.lake.killed", str(tmp_path), stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        for _ in range(chance.randint(1, 40)):
            if not await process.stdout.readline():
                break
        else:
            process.send_signal(signal.SIGKILL)
            kills += 1
        await process.wait()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert kills >= 3
    rig = await killed.rig(tmp_path)
    await (await rig.assigned()).flush_now()
    await rig.assert_exactly_once()
    await rig.ledger.close()
    store = rig.store
    assert isinstance(store, LocalStore)
    await store.check()
    assert list((tmp_path / "archive" / ".tmp").iterdir()) == []
