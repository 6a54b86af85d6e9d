"""Several processes on one stream, and processes that die without a word (kill -9)."""

import asyncio
import contextlib
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mainstem.stream.base import AppendResult, Record
from mainstem.stream.embedded import EmbeddedStream
from tests.stream.process import PARTITIONS, open_here, record

ROUNDS = 20
ROOT = Path(__file__).parents[2]


@contextlib.asynccontextmanager
async def started(*arguments: str | int | Path) -> AsyncIterator[Process]:
    """Run one of `tests.stream.process`; it is gone afterwards."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.stream.process", *map(str, arguments), stdout=PIPE, cwd=ROOT
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def line_of(process: Process) -> str:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 30)
    assert line, "the process ended"
    return line.decode().strip()


async def rest_of(process: Process) -> list[str]:
    assert process.stdout is not None
    text = await asyncio.wait_for(process.stdout.read(), 60)
    # A line without its end is no acknowledgement.
    return [line for line in text.decode().split("\n")[:-1] if line]


async def everything(stream: EmbeddedStream) -> list[Record]:
    found: list[Record] = []
    for partition, held in (await stream.bounds()).items():
        offset = held.earliest
        while records := await stream.read(partition, offset, max_records=1000, max_bytes=1 << 22):
            assert [r.offset for r in records] == list(range(offset, offset + len(records)))
            found += records
            offset = records[-1].offset + 1
        assert offset == held.next
    found.sort(key=lambda r: r.sequence)
    assert len({r.sequence for r in found}) == len(found)
    return found


def name_of(record_: Record) -> str:
    return record_.value.decode().rstrip()


async def test_two_writers_and_a_reader_in_three_processes(tmp_path: Path) -> None:
    count = 1500
    async with (
        started("read", tmp_path, 2 * count) as reader,
        started("append", tmp_path, "one", count) as one,
        started("append", tmp_path, "two", count, "process") as two,
    ):
        acknowledged = await asyncio.gather(rest_of(one), rest_of(two))
        assert [await one.wait(), await two.wait()] == [0, 0]
        lines = [line for line in await rest_of(reader) if line != "ready"]
    for lines_of_one in acknowledged:
        assert [int(i) for line in lines_of_one[1:] for i in line.split()] == list(range(count))
    seen = [line.split() for line in lines]
    assert len(seen) == 2 * count
    for prefix in ("one", "two"):
        # One after the other: the sequence is the order of the submits, over all partitions.
        order = [int(name.split("-")[1]) for _, _, name in seen if name.startswith(prefix)]
        assert order == list(range(count))
    stream = await open_here(tmp_path)
    assert {name_of(r) for r in await everything(stream)} == {name for _, _, name in seen}
    assert sum((await stream.tallies()).values()) == 2 * count
    assert sum((await stream.duplicates()).values()) > 0
    await stream.close()


async def test_a_reader_in_another_process_is_told_of_single_records(tmp_path: Path) -> None:
    stream = await open_here(tmp_path)
    producer = await stream.producer()
    async with started("read", tmp_path, 3) as reader:
        assert await line_of(reader) == "ready"
        for i in range(3):
            await producer.append([record("x", i)])
        assert [line.split()[2] for line in await rest_of(reader)] == ["x-0", "x-1", "x-2"]
    await stream.close()


@pytest.mark.timeout(300)
async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    dice = random.Random(20)
    acknowledged: set[str] = set()
    for number in range(ROUNDS):
        prefix = f"round{number}"
        how = ["process"] if number % 2 else []
        async with started("append", tmp_path, prefix, 0, *how) as writer:
            assert await line_of(writer) == "ready"
            for _ in range(dice.randrange(1, 150)):
                acknowledged.update(f"{prefix}-{i}" for i in (await line_of(writer)).split())
            await asyncio.sleep(dice.random() * 0.005)
            writer.send_signal(signal.SIGKILL)
            acknowledged.update(f"{prefix}-{i}" for line in await rest_of(writer) for i in line.split())
            assert await writer.wait() == -signal.SIGKILL
        if number % 5 != 4:
            continue
        stream = await open_here(tmp_path)
        found = await everything(stream)
        names = [name_of(r) for r in found]
        assert len(set(names)) == len(names), "something is there twice"
        assert acknowledged <= set(names), "something acknowledged is gone"
        for earlier in range(number + 1):
            mine = [int(n.split("-")[1]) for n in names if n.startswith(f"round{earlier}-")]
            assert mine == list(range(len(mine))), "order, or a gap"
        # Deduplication knows what the dead ones stored, acknowledged or not.
        again = [record(n.split("-")[0], int(n.split("-")[1])) for n in dice.sample(names, 50)]
        assert await (await stream.producer()).append(again) == AppendResult(0, tuple(range(50)))
        assert sum((await stream.tallies()).values()) == len(names)
        await stream.verify()
        await stream.check()
        await stream.close()


async def test_the_partitions_of_a_killed_member_go_to_the_others(tmp_path: Path) -> None:
    all_of_them = set(range(PARTITIONS))
    async with started("join", tmp_path, "workers") as one, started("join", tmp_path, "workers") as two:
        owned: dict[Process, set[int]] = {one: set(), two: set()}

        async def until(process: Process, count: int) -> None:
            while len(owned[process]) != count:
                owned[process] = {int(p) for p in (await line_of(process)).split()}

        await asyncio.gather(until(one, PARTITIONS // 2), until(two, PARTITIONS // 2))
        assert owned[one] | owned[two] == all_of_them
        one.send_signal(signal.SIGKILL)
        await until(two, PARTITIONS)
        assert owned[two] == all_of_them
