"""A writing process: its end, and the end of what feeds it."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from mainstem.clock import SystemClock
from mainstem.stream.base import NewRecord, StreamClosed, StreamError, StreamFull
from mainstem.stream.embedded import EmbeddedLimits, open_embedded
from mainstem.stream.embedded.stream import EmbeddedStream
from mainstem.stream.embedded.writer_process import ProcessWriter
from tests.stream.process import NOW_MS, PARTITIONS, open_here, record
from tests.stream.test_processes import everything, line_of, name_of, started


async def opened(directory: Path) -> tuple[EmbeddedStream, ProcessWriter]:
    stream = await open_here(directory, writer="process")
    writer = await stream.producer()
    assert isinstance(writer, ProcessWriter)
    return stream, writer


async def test_a_killed_writer_is_replaced_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    stream, writer = await opened(tmp_path)
    for round_ in range(5):
        calls = [asyncio.create_task(writer.append([record(f"r{round_}", i)])) for i in range(200)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        pid = writer.pid
        os.kill(pid, signal.SIGKILL)
        # What it had been given is sent again: stored now, or a duplicate of what it stored.
        for each in await asyncio.gather(*calls):
            assert each.appended + len(each.duplicates) == 1
        assert (await writer.append([record(f"r{round_}", 0)])).duplicates == (0,)
        assert writer.pid != pid
    names = [name_of(each) for each in await everything(stream)]
    assert names == [f"r{round_}-{i}" for round_ in range(5) for i in range(200)]
    assert writer.backlog_bytes == 0
    await stream.close()


async def test_records_without_a_key_are_not_stored_twice_by_a_killed_writer(tmp_path: Path) -> None:
    stream, writer = await opened(tmp_path)
    nameless = [NewRecord(b"u", b"%d" % i, NOW_MS) for i in range(2000)]
    calls = [asyncio.create_task(writer.append([each])) for each in nameless]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    os.kill(writer.pid, signal.SIGKILL)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    stored = [each.value for each in await everything(stream)]
    assert len(stored) == len(set(stored))
    for record_, outcome in zip(nameless, outcomes, strict=True):
        assert isinstance(outcome, StreamClosed) or record_.value in stored
    await stream.close()
    await stream.close()


async def test_the_writer_ends_with_the_stream_and_stores_what_it_was_given(tmp_path: Path) -> None:
    stream, writer = await opened(tmp_path)
    calls = [asyncio.create_task(writer.append([record("x", i, 5000)])) for i in range(2000)]
    await asyncio.sleep(0)
    pid = writer.pid
    await stream.close()
    assert all(each.appended == 1 for each in await asyncio.gather(*calls))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(StreamClosed):
        writer.submit([record("x", 1)], lambda _: None)


async def test_the_writer_ends_when_its_feeder_is_killed(tmp_path: Path) -> None:
    async with started("append", tmp_path, "x", 0, "process") as feeder:
        assert await line_of(feeder) == "ready"
        tasks = Path(f"/proc/{feeder.pid}/task").glob("*/children")
        children = " ".join(task.read_text() for task in tasks).split()
        assert len(children) == 1
        feeder.kill()
        await feeder.wait()
        async with asyncio.timeout(20):
            while Path(f"/proc/{children[0]}").exists():
                await asyncio.sleep(0.01)


async def test_signals_meant_for_the_others_leave_it_at_work(tmp_path: Path) -> None:
    stream, writer = await opened(tmp_path)
    pid = writer.pid
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    assert (await writer.append([record("x", 0)])).appended == 1
    assert writer.pid == pid
    await stream.close()


async def test_no_space_is_told_and_costs_nothing_else(tmp_path: Path) -> None:
    limits = EmbeddedLimits(min_free_bytes=1 << 60, writer="process")
    stream = await open_embedded(tmp_path, partitions=PARTITIONS, clock=SystemClock(), limits=limits)
    writer = await stream.producer()
    with pytest.raises(StreamFull):
        await stream.check()
    with pytest.raises(StreamFull):
        await writer.append([record("x", 0)])
    assert (await writer.append([])).appended == 0
    await stream.close()


async def test_a_writer_that_cannot_open_the_files_says_why(tmp_path: Path) -> None:
    stream = await open_here(tmp_path, writer="process")
    (tmp_path / "slots").write_text("not a folder")
    with pytest.raises(StreamError, match=r"slots|ended at once"):
        await stream.producer()
    await stream.close()
