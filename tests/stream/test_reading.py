"""Readers of commits that hold all partitions: at the head together, far apart, and with no room to remember."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mainstem.clock import FixedClock
from mainstem.stream.base import NewRecord, Record, partition_of
from mainstem.stream.embedded import EmbeddedLimits, EmbeddedStream, open_embedded, reader
from mainstem.stream.embedded.cache import Stretch

NOW_MS = 1_700_000_000_000
PARTITIONS = 4
KEYS = {partition_of(b"%d" % i, PARTITIONS): b"%d" % i for i in range(100)}


async def opened(directory: Path, **limits: Any) -> EmbeddedStream:
    return await open_embedded(
        directory,
        partitions=PARTITIONS,
        clock=FixedClock(NOW_MS),
        limits=EmbeddedLimits(min_free_bytes=0, segment_bytes=1, **limits),
    )


async def append(stream: EmbeddedStream, places: list[int], start: int) -> None:
    """Append in one commit a record to each of these partitions; values count from `start`."""
    made = [NewRecord(KEYS[place], b"%d" % i, NOW_MS) for i, place in enumerate(places, start)]
    await (await stream.producer()).append(made)


async def read_all(stream: EmbeddedStream, partition: int, offset: int = 0) -> list[Record]:
    found: list[Record] = []
    while records := await stream.read(partition, offset, max_records=3, max_bytes=1 << 20):
        found += records
        offset = records[-1].offset + 1
    return found


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
async def test_every_partition_is_whole_however_the_commits_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_bytes: int
) -> None:
    """One commit a read, many commits without the partition, and segments in between."""
    monkeypatch.setattr(reader, "_STRETCH_BYTES", 1)
    stream = await opened(tmp_path, cache_bytes=cache_bytes)
    expected: dict[int, list[int]] = {partition: [] for partition in range(PARTITIONS)}
    count = 0
    for number in range(40):
        places = [3] if number % 10 == 4 else [number % 3, 0, (number * 7) % 3][: 1 + number % 3]
        await append(stream, places, count)
        for place in places:
            expected[place].append(count)
            count += 1
        if number % 15 == 14:
            await stream.upkeep()
    found = await asyncio.gather(*(read_all(stream, partition) for partition in range(PARTITIONS)))
    for partition, records in enumerate(found):
        assert [int(r.value) for r in records] == expected[partition]
        assert [r.sequence for r in records] == expected[partition]
        assert [r.offset for r in records] == list(range(len(records)))
        for offset in reversed(range(len(records))):
            assert await read_all(stream, partition, offset) == records[offset:]
    assert await stream.verify() == count
    await stream.check()
    await stream.close()


async def test_readers_that_go_on_together_decode_a_commit_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await opened(tmp_path)
    reads: list[int | None] = []
    stretch = stream._reader.stretch

    def counted(partition: int, offset: int, sequence: int | None) -> Stretch | None:
        reads.append(sequence)
        return stretch(partition, offset, sequence)

    monkeypatch.setattr(stream._reader, "stretch", counted)
    everywhere = list(range(PARTITIONS))
    for number in range(5):
        await append(stream, everywhere, number * PARTITIONS)
        if number:
            reads.clear()
        found = await asyncio.gather(
            *(stream.read(place, number, max_records=10, max_bytes=1 << 20) for place in everywhere)
        )
        assert [[int(r.value) for r in records] for records in found] == [
            [number * PARTITIONS + place] for place in everywhere
        ]
        if number:
            assert reads == [number * PARTITIONS], "one read, without a search"
    await stream.close()


async def test_a_reader_that_comes_in_the_very_moment_in_which_a_shared_read_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It found the finished read again and again, which never gave the loop the turn to take it away."""
    monkeypatch.setattr(reader, "_STRETCH_BYTES", 1)
    stream = await opened(tmp_path)
    for start, places in ((0, [0, 1]), (2, [0]), (3, [1])):
        await append(stream, places, start)
    # Both partitions go on from the end of this one stretch; the next one holds nothing of partition 1.
    await stream.read(0, 0, max_records=1, max_bytes=1)
    first = asyncio.create_task(stream.read(0, 1, max_records=1, max_bytes=1))
    await asyncio.sleep(0)
    (shared,) = stream._reading.values()
    while not shared.done():
        await asyncio.sleep(0)
    second = await stream.read(1, 1, max_records=1, max_bytes=1)
    assert [int(r.value) for r in [*await first, *second]] == [2, 3]
    await stream.close()
