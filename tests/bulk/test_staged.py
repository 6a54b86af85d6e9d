"""What transformations made of records: written as it was when the plan was noted, whatever the code says later."""

import os
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import msgspec
import pytest

from mainstem.bulk.errors import PlanBroken
from mainstem.bulk.staged import StagedReader, Staging, folder_of, path_of, sweep
from mainstem.clock import FixedClock
from mainstem.destinations.archive import Config
from mainstem.events.stored import StoredEvent, decode_stored
from mainstem.lake.errors import StoreUnavailable
from mainstem.lake.reader import ArchiveReader, events_of
from mainstem.stream.base import Record
from mainstem.transformations.base import SandboxUnavailable
from tests.lake.rig import START_MS, Rig, append, as_it_was, changed, event, local
from tests.lake.test_exactly_once import CountDown, Crash, PointedStore


def staged_files(spool: Path) -> list[Path]:
    return sorted((spool / "staged").rglob("*.*"))


async def test_a_plan_is_carried_out_as_the_code_was_when_it_was_made(tmp_path: Path) -> None:
    calls = count()

    def never_the_same(record: Record) -> tuple[StoredEvent, ...]:
        stored, call = decode_stored(record.value), next(calls)
        return tuple(
            msgspec.structs.replace(
                stored, raw=b'{"call":%d}' % call, message_id=f"{stored.message_id}:{part}"
            )
            for part in range(2)
        )

    spool = tmp_path / "spool"
    rig = Rig(
        local(tmp_path), instead=never_the_same, spool=spool, config=Config(formats=("jsonl", "parquet"))
    )
    await append(rig.stream, [event(number) for number in range(40)])
    crash = CountDown(4, lambda name: Crash(name))
    first = await rig.assigned(store=PointedStore(rig.store, crash))
    with pytest.raises(Crash):
        await first.flush_now()
    first.close()
    planned = next(calls)
    assert staged_files(spool)
    await (await rig.assigned()).flush_now()
    reader = ArchiveReader(rig.store)
    found = [item async for item in events_of(reader)]
    assert next(calls) == planned + 1  # nobody asked the code again
    by_place: dict[tuple[int, int], list[StoredEvent]] = defaultdict(list)
    for item in found:
        by_place[item.partition, item.offset].append(item.event)
    assert len(by_place) == 36  # every tenth was rejected
    for parts in by_place.values():
        assert [part.message_id[-2:] for part in parts] == [":0", ":1"]
        assert len({part.raw for part in parts}) == 1
    assert staged_files(spool) == []


async def test_nothing_is_staged_where_nothing_is_transformed(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    rig = Rig(local(tmp_path), instead=as_it_was, spool=spool)
    await append(rig.stream, [event(number) for number in range(20)])
    await (await rig.assigned()).flush_now()
    await rig.assert_exactly_once()
    assert not (spool / "staged").exists()


async def test_what_is_given_away_leaves_nothing_behind(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    rig = Rig(local(tmp_path), instead=changed, spool=spool, clock=FixedClock(START_MS))
    await append(rig.stream, [event(number) for number in range(20)])
    archiver = await rig.assigned()
    await archiver.step()
    assert staged_files(spool)
    await archiver.revoke(frozenset((0,)))
    assert staged_files(spool) == []
    archiver.close()


async def test_a_sandbox_that_is_not_available_makes_the_archive_wait(tmp_path: Path) -> None:
    rig = Rig(local(tmp_path))
    await append(rig.stream, [event(number) for number in range(20)])

    async def unavailable(records: object) -> list[object]:
        raise SandboxUnavailable("no landlock")

    archiver = await rig.assigned(judge=unavailable)
    with pytest.raises(SandboxUnavailable):
        await archiver.flush_now()
    archiver._judge = rig.archiver()._judge
    await archiver.flush_now()
    await rig.assert_exactly_once()


async def test_a_staged_file_that_is_lost_or_damaged_is_noticed(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    rig = Rig(local(tmp_path), instead=changed, spool=spool)
    await append(rig.stream, [event(number) for number in range(20)])
    full = CountDown(1, lambda name: StoreUnavailable("full"))
    first = await rig.assigned(store=PointedStore(rig.store, full))
    with pytest.raises(StoreUnavailable):
        await first.flush_now()
    first.close()
    lost, damaged, *_ = staged_files(spool)
    whole = damaged.read_bytes()
    for content in (whole[:-1], whole + b"\0", whole[:-1] + b"\xc1", whole[:2], b""):
        damaged.write_bytes(content)
        with pytest.raises(PlanBroken, match=r"not what was planned|damaged"):
            await (await rig.assigned()).flush_now()
    damaged.write_bytes(whole)
    lost.rename(tmp_path / "elsewhere")
    with pytest.raises(PlanBroken, match="can't be read: No such file"):
        await (await rig.assigned()).flush_now()
    (tmp_path / "elsewhere").rename(lost)
    await (await rig.assigned()).flush_now()
    await rig.assert_exactly_once()


def test_a_file_is_read_along_with_the_records(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "lake/a")
    staging = Staging(folder, 3)
    events = [event(number) for number in range(4)]
    staging.add(5, events[:1])
    staging.add(8, events[1:3])
    staging.seal("plan")
    staging.close()
    reader = StagedReader(folder, "plan", 3, staging.digest)
    assert [reader.of(offset) for offset in range(4, 10)] == [
        None, tuple(events[:1]), None, None, tuple(events[1:3]), None,
    ]  # fmt: skip
    reader.finish()
    reader.close()


def test_what_crashes_left_behind_goes_in_time(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "files")
    for plan in ("old", "open", "fresh"):
        staging = Staging(folder, 0)
        staging.add(0, [event(0)])
        staging.seal(plan)
    unsealed = Staging(folder, 1)
    (folder / "abandoned-1.gathering").touch()
    for plan in ("old", "open"):
        os.utime(path_of(folder, plan, 0), (1000, 1000))
    assert sweep(folder, {"open"}, before_ms=2_000_000) == 2
    assert sorted(path.name for path in folder.glob("*.staged")) == ["fresh-0.staged", "open-0.staged"]
    assert len(list(folder.glob("*.gathering"))) == 1
    unsealed.close()
    assert not list(folder.glob("*.gathering"))


def test_what_is_made_just_now_is_nobodys_to_remove(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "archive")
    done = threading.Event()

    def sweeping() -> None:
        while not done.is_set():
            sweep(folder, (), before_ms=0)

    with ThreadPoolExecutor(3) as threads:
        sweepers = [threads.submit(sweeping) for _ in range(3)]
        try:
            for number in range(300):
                staging = Staging(folder, number)
                staging.add(number, [event(number)])
                staging.seal("plan")
        finally:
            done.set()
        for sweeper in sweepers:
            sweeper.result()
    assert len(list(folder.glob("*.staged"))) == 300
