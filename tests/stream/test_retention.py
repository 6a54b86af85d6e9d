"""Rotation, retention and what they may never do; deduplication over closed segments."""

from pathlib import Path

import pytest

from mainstem.clock import FixedClock
from mainstem.stream.base import AppendResult, NewRecord, OffsetGone, partition_of
from mainstem.stream.embedded import EmbeddedLimits, EmbeddedStream, open_embedded
from mainstem.telemetry import metrics
from tests.stream.test_processes import everything

NOW_MS = 1_700_000_000_000
PARTITION = partition_of(b"u", 2)


async def opened(directory: Path, clock: FixedClock, limits: EmbeddedLimits) -> EmbeddedStream:
    return await open_embedded(directory, partitions=2, clock=clock, limits=limits)


def some(clock: FixedClock, start: int, count: int = 10) -> list[NewRecord]:
    return [
        NewRecord(b"u", b"%d" % i, clock.now_ms(), b"id-%d" % i, "s") for i in range(start, start + count)
    ]


def segments(directory: Path) -> int:
    return len(list(directory.glob("segment-*.db")))


async def test_segments_are_closed_by_age_and_dropped_by_age(tmp_path: Path) -> None:
    clock = FixedClock(NOW_MS)
    stream = await opened(tmp_path, clock, EmbeddedLimits(segment_age_s=60, retention_age_s=600))
    producer = await stream.producer()
    await stream.upkeep()
    clock.advance(61)
    await stream.upkeep()
    assert segments(tmp_path) == 1, "an empty segment is not closed"
    await producer.append(some(clock, 0))
    await stream.upkeep()
    assert segments(tmp_path) == 2
    clock.advance(599)
    await producer.append(some(clock, 10))
    await stream.upkeep()
    assert (await stream.bounds())[PARTITION].earliest == 0
    clock.advance(2)
    await stream.upkeep()
    assert (await stream.bounds())[PARTITION].earliest == 10
    assert [r.value for r in await everything(stream)] == [b"%d" % i for i in range(10, 20)]
    await stream.close()


async def test_the_hard_limit_drops_what_a_cursor_needs_and_says_so(tmp_path: Path) -> None:
    clock = FixedClock(NOW_MS)
    limits = EmbeddedLimits(segment_bytes=1, retention_bytes=0, retention_force_bytes=0)
    stream = await opened(tmp_path, clock, limits)
    before = metrics.RETENTION_FORCED.labels("behind")._value.get()
    await stream.commit("behind", {PARTITION: 3, 1 - PARTITION: 0})
    await (await stream.producer()).append(some(clock, 0))
    await stream.upkeep()
    assert metrics.RETENTION_FORCED.labels("behind")._value.get() - before == 7
    assert await stream.committed("behind") == {PARTITION: 3, 1 - PARTITION: 0}
    with pytest.raises(OffsetGone) as gone:
        await stream.read(PARTITION, 3, max_records=1, max_bytes=1)
    assert gone.value.earliest == 10
    await stream.close()


async def test_duplicates_are_known_in_every_segment_and_after_a_restart(tmp_path: Path) -> None:
    clock = FixedClock(NOW_MS)
    limits = EmbeddedLimits(segment_bytes=1)
    stream = await opened(tmp_path, clock, limits)
    producer = await stream.producer()
    for start in range(0, 80, 10):
        await producer.append(some(clock, start))
        await stream.upkeep()
    await producer.append(some(clock, 80))
    assert segments(tmp_path) == 9
    assert await producer.append(some(clock, 0, 91)) == AppendResult(1, tuple(range(90)))
    await stream.close()
    stream = await opened(tmp_path, clock, limits)
    assert await (await stream.producer()).append(some(clock, 0, 92)) == AppendResult(1, tuple(range(91)))
    assert [(f.partition, f.offset) for f in await stream.find(b"id-33")] == [(PARTITION, 33)]
    await stream.close()


async def test_no_more_ids_are_remembered_than_the_bound(tmp_path: Path) -> None:
    clock = FixedClock(NOW_MS)
    limits = EmbeddedLimits(segment_bytes=1, dedup_max_ids=20)
    stream = await opened(tmp_path, clock, limits)
    producer = await stream.producer()
    for start in range(0, 40, 10):
        await producer.append(some(clock, start))
        await stream.upkeep()
    # The last two closed segments are within the bound.
    assert await producer.append(some(clock, 20, 20)) == AppendResult(0, tuple(range(20)))
    assert (await producer.append(some(clock, 0, 10))).appended == 10
    await stream.close()


async def test_the_index_of_a_closed_segment_may_be_built_later(tmp_path: Path) -> None:
    """A keeper that dies between closing a segment and indexing it leaves a segment that is scanned."""
    clock = FixedClock(NOW_MS)
    stream = await opened(tmp_path, clock, EmbeddedLimits(segment_bytes=1))
    await (await stream.producer()).append(some(clock, 0, 30))
    upkeep = stream._upkeep
    upkeep._keep()
    upkeep._rotate_if_due()
    assert segments(tmp_path) == 2
    assert (await stream.find(b"id-7"))[0].offset == 7
    assert await (await stream.producer()).append(some(clock, 0, 31)) == AppendResult(1, tuple(range(30)))
    await stream.close()
    stream = await opened(tmp_path, clock, EmbeddedLimits(segment_bytes=1))
    assert await (await stream.producer()).append(some(clock, 0, 31)) == AppendResult(0, tuple(range(31)))
    await stream.close()


async def test_a_stream_keeps_its_partitions(tmp_path: Path) -> None:
    clock = FixedClock(NOW_MS)
    await (await opened(tmp_path, clock, EmbeddedLimits())).close()
    stream = await open_embedded(tmp_path, partitions=7, clock=clock)
    assert stream.partitions == 2
    await stream.close()


async def test_the_write_ahead_log_begins_anew_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    clock = FixedClock(NOW_MS)
    stream = await opened(tmp_path, clock, EmbeddedLimits(wal_bytes=256 << 10))
    producer = await stream.producer()
    largest = 0
    for round_ in range(20):
        for i in range(10):
            number = round_ * 10 + i
            await producer.append(
                [NewRecord(b"u", b"%d" % number + b"." * 20_000, clock.now_ms(), b"id-%d" % number, "s")]
            )
        await stream.upkeep()
        largest = max(largest, next(tmp_path.glob("segment-*.db-wal")).stat().st_size)
    assert largest < 1 << 20, "4 MB went through it"
    assert await stream.verify() == 200
    assert [int(r.value.partition(b".")[0]) for r in await everything(stream)] == list(range(200))
    await stream.close()
