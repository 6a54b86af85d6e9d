"""What `stream.base` promises, for every back end."""

import asyncio
from collections.abc import Sequence

import pytest

from mainstem.stream.base import (
    AppendResult,
    Bounds,
    NewRecord,
    NotOwner,
    OffsetGone,
    Record,
    Stream,
    StreamClosed,
    StreamError,
    StreamOverloaded,
    partition_of,
)
from tests.contract.conftest import PARTITIONS, WINDOW_S, StreamMaker

NOW_MS = 1_700_000_000_000
HOUR = NOW_MS // 3_600_000
LATER_MS = NOW_MS + round(WINDOW_S * 1000)


def record(
    key: str, value: str = "v", *, dedup: str = "", at_ms: int = NOW_MS, tally: str = "src"
) -> NewRecord:
    return NewRecord(key.encode(), value.encode(), at_ms, dedup.encode(), tally)


async def everything(stream: Stream) -> list[Record]:
    """All held records, by sequence."""
    found: list[Record] = []
    for partition, held in (await stream.bounds()).items():
        offset = held.earliest
        while records := await stream.read(partition, offset, max_records=7, max_bytes=1 << 20):
            assert [r.offset for r in records] == list(range(offset, offset + len(records)))
            found += records
            offset = records[-1].offset + 1
        assert offset == held.next
    return sorted(found, key=lambda r: r.sequence)


async def test_an_empty_stream_has_empty_bounds(stream: Stream) -> None:
    assert await stream.bounds() == {p: Bounds(0, 0) for p in range(PARTITIONS)}
    assert list(await stream.read(0, 0, max_records=10, max_bytes=1000)) == []
    assert await stream.tallies() == {}
    await stream.check()


async def test_records_come_back_in_order_with_contiguous_offsets(stream: Stream) -> None:
    producer = await stream.producer()
    for start in range(0, 60, 20):
        result = await producer.append([record(f"user{i % 7}", f"{i}") for i in range(start, start + 20)])
        assert result == AppendResult(20)
    found = await everything(stream)
    assert [r.value for r in found] == [b"%d" % i for i in range(60)]
    for r in found:
        assert r.partition == partition_of(r.key, PARTITIONS)
        assert r.timestamp_ms == NOW_MS


async def test_sequence_orders_all_partitions(stream: Stream) -> None:
    producer = await stream.producer()
    for i in range(10):
        await producer.append([record(f"a{i}", f"{2 * i}"), record(f"b{i}", f"{2 * i + 1}")])
    assert [r.value for r in await everything(stream)] == [b"%d" % i for i in range(20)]


async def test_submit_calls_done_once_on_the_loop_in_order(stream: Stream) -> None:
    producer = await stream.producer()
    results: list[tuple[int, AppendResult | StreamError]] = []
    finished = asyncio.Event()

    def done(i: int, result: AppendResult | StreamError) -> None:
        asyncio.get_running_loop()
        results.append((i, result))
        if len(results) == 50:
            finished.set()

    for i in range(50):
        producer.submit([record("one", f"{i}")], lambda result, i=i: done(i, result))  # type: ignore[misc]
    assert producer.backlog_bytes > 0
    await finished.wait()
    assert results == [(i, AppendResult(1)) for i in range(50)]
    assert producer.backlog_bytes == 0
    assert [r.value for r in await everything(stream)] == [b"%d" % i for i in range(50)]


async def test_an_empty_append_is_answered(stream: Stream) -> None:
    assert await (await stream.producer()).append([]) == AppendResult(0)


async def test_duplicates_are_reported_by_index_and_not_stored(stream: Stream) -> None:
    producer = await stream.producer()
    first = [record("u", "1", dedup="a"), record("u", "2", dedup="b"), record("w", "3", dedup="a")]
    assert await producer.append(first) == AppendResult(2, (2,))
    again = [record("u", "4", dedup="c"), record("other", "5", dedup="b"), record("u", "6")]
    assert await producer.append(again) == AppendResult(2, (1,))
    assert [r.value for r in await everything(stream)] == [b"1", b"2", b"4", b"6"]


async def test_calls_of_one_group_see_each_others_keys(stream: Stream) -> None:
    producer = await stream.producer()
    results = await asyncio.gather(*(producer.append([record("u", f"{i}", dedup="same")]) for i in range(5)))
    assert results == [AppendResult(1), *[AppendResult(0, (0,))] * 4]
    assert [r.value for r in await everything(stream)] == [b"0"]


async def test_records_without_a_dedup_key_are_never_duplicates(stream: Stream) -> None:
    producer = await stream.producer()
    for _ in range(2):
        assert await producer.append([record("u"), record("u")]) == AppendResult(2)


async def test_the_window_ends(stream: Stream) -> None:
    producer = await stream.producer()
    await producer.append([record("u", "1", dedup="a")])
    assert await producer.append([record("u", "2", dedup="a", at_ms=LATER_MS - 1)]) == AppendResult(0, (0,))
    assert await producer.append([record("u", "3", dedup="a", at_ms=LATER_MS)]) == AppendResult(1)
    # The window counts from the last append.
    assert await producer.append([record("u", "4", dedup="a", at_ms=LATER_MS + 1)]) == AppendResult(0, (0,))
    assert [r.value for r in await everything(stream)] == [b"1", b"3"]


async def test_find_tells_every_place_oldest_first(stream: Stream) -> None:
    producer = await stream.producer()
    await producer.append([record("x", dedup="other")])
    await producer.append([record("u", dedup="a")])
    await producer.append([record("w", dedup="a", at_ms=LATER_MS)])
    places = await stream.find(b"a")
    assert [p.partition for p in places] == [partition_of(k, PARTITIONS) for k in (b"u", b"w")]
    for place, key in zip(places, (b"u", b"w"), strict=True):
        (read,) = await stream.read(place.partition, place.offset, max_records=1, max_bytes=1)
        assert read.key == key
    assert list(await stream.find(b"never")) == []
    assert list(await stream.find(b"")) == []


async def test_read_is_bounded_but_gives_at_least_one(stream: Stream) -> None:
    producer = await stream.producer()
    await producer.append([record("u", "x" * 100) for _ in range(10)])
    await producer.append([record("u", "x" * 100) for _ in range(10)])
    partition = partition_of(b"u", PARTITIONS)

    async def read(offset: int, max_records: int, max_bytes: int) -> Sequence[int]:
        records = await stream.read(partition, offset, max_records=max_records, max_bytes=max_bytes)
        return [r.offset for r in records]

    assert await read(0, 3, 1 << 20) == [0, 1, 2]
    assert await read(3, 100, 1) == [3]
    assert await read(3, 100, 202) == [3, 4]
    assert await read(15, 100, 1 << 20) == [15, 16, 17, 18, 19]
    assert await read(20, 100, 1 << 20) == []


async def test_wait_ends_when_a_record_comes(stream: Stream) -> None:
    producer = await stream.producer()
    partition = partition_of(b"u", PARTITIONS)
    assert not await stream.wait({partition: 0}, timeout_s=0)
    waiting = asyncio.create_task(stream.wait({partition: 0}, timeout_s=60))
    await asyncio.sleep(0)
    await producer.append([record("u")])
    assert await waiting
    assert await stream.wait({partition: 0}, timeout_s=0)
    assert not await stream.wait({partition: 1}, timeout_s=0.01)


async def test_a_wait_that_is_cancelled_as_a_record_comes_is_cancelled(stream: Stream) -> None:
    producer = await stream.producer()
    waiting = asyncio.create_task(stream.wait({partition_of(b"u", PARTITIONS): 0}, timeout_s=60))
    await asyncio.sleep(0)
    await producer.append([record("u")])
    if waiting.cancel():  # not over yet
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_a_call_for_more_than_the_backlog_is_refused_whole(make_stream: StreamMaker) -> None:
    stream = await make_stream(max_backlog_bytes=1000)
    producer = await stream.producer()
    taken = asyncio.get_running_loop().create_future()
    producer.submit([record("u", "x" * 2000)], taken.set_result)
    with pytest.raises(StreamOverloaded):
        producer.submit([record("u", "never")], lambda _: pytest.fail("not taken, so not answered"))
    assert await taken == AppendResult(1)
    assert await producer.append([record("u")]) == AppendResult(1)
    await stream.close()


async def test_offset_at_is_never_late(stream: Stream) -> None:
    producer = await stream.producer()
    partition = partition_of(b"u", PARTITIONS)
    for i in range(5):
        await producer.append([record("u", at_ms=NOW_MS + 1000 * i)])
    assert await stream.offset_at(partition, 0) == 0
    for i in range(5):
        assert await stream.offset_at(partition, NOW_MS + 1000 * i) <= i
    assert await stream.offset_at(partition, NOW_MS + 4000) > 0
    assert await stream.offset_at(partition, NOW_MS + 4001) == 5


async def test_cursors_move_and_are_forgotten(stream: Stream) -> None:
    assert await stream.committed("a") == {}
    await stream.commit("a", {0: 3, 2: 5})
    await stream.commit("a", {2: 6})
    await stream.commit("b", {1: 1})
    assert await stream.committed("a") == {0: 3, 2: 6}
    assert await stream.cursors() == {"a": {0: 3, 2: 6}, "b": {1: 1}}
    await stream.forget("a")
    assert await stream.cursors() == {"b": {1: 1}}


async def test_tallies_count_appends_and_duplicates_by_hour(stream: Stream) -> None:
    producer = await stream.producer()
    next_hour_ms = (HOUR + 1) * 3_600_000
    await producer.append(
        [
            record("u", dedup="a", tally="s1"),
            record("u", dedup="b", tally="s2", at_ms=next_hour_ms),
            record("u", dedup="a", tally="s1"),
        ]
    )
    await producer.append([record("u", dedup="a", tally="s1"), record("u", tally="s1")])
    assert await stream.tallies() == {("s1", HOUR): 2, ("s2", HOUR + 1): 1}
    assert await stream.duplicates() == {("s1", HOUR): 2}


async def test_dropped_records_are_gone_loudly_and_stay_counted(
    make_stream: StreamMaker, stream: Stream
) -> None:
    producer = await stream.producer()
    partition = partition_of(b"u", PARTITIONS)
    await producer.append([record("u", dedup=f"{i}") for i in range(5)])
    await make_stream.drop_all(stream)
    assert (await stream.bounds())[partition] == Bounds(5, 5)
    with pytest.raises(OffsetGone) as gone:
        await stream.read(partition, 4, max_records=1, max_bytes=1)
    assert (gone.value.partition, gone.value.offset, gone.value.earliest) == (partition, 4, 5)
    assert list(await stream.find(b"1")) == []
    assert await producer.append([record("u", "next")]) == AppendResult(1)
    (read,) = await stream.read(partition, 5, max_records=10, max_bytes=1000)
    assert (read.offset, read.value, read.sequence) == (5, b"next", 5)
    assert await stream.tallies() == {("src", HOUR): 6}


async def test_nothing_is_dropped_that_a_cursor_needs(make_stream: StreamMaker, stream: Stream) -> None:
    producer = await stream.producer()
    partition = partition_of(b"u", PARTITIONS)
    await producer.append([record("u") for _ in range(5)])
    await stream.commit("slow", {partition: 0})
    await make_stream.drop_all(stream)
    assert (await stream.bounds())[partition] == Bounds(0, 5)
    await stream.commit("slow", {partition: 5})
    await make_stream.drop_all(stream)
    assert (await stream.bounds())[partition] == Bounds(5, 5)


class Worker:
    """A member that notes what it is told."""

    def __init__(self, owners: dict[int, "Worker"]) -> None:
        self.owners = owners
        self.changed = asyncio.Event()
        self.times_assigned = 0

    async def on_assign(self, partitions: frozenset[int]) -> None:
        self.times_assigned += 1
        for partition in partitions:
            assert partition not in self.owners, "two owners"
            self.owners[partition] = self
        self.changed.set()

    async def on_revoke(self, partitions: frozenset[int]) -> None:
        await asyncio.sleep(0)
        for partition in partitions:
            assert self.owners.pop(partition) is self
        self.changed.set()

    async def until(self, *counts: int) -> None:
        async with asyncio.timeout(20):
            while sum(owner is self for owner in self.owners.values()) not in counts:
                self.changed.clear()
                await self.changed.wait()


async def test_members_share_the_partitions(stream: Stream) -> None:
    owners: dict[int, Worker] = {}
    one, two, three = Worker(owners), Worker(owners), Worker(owners)
    first = await stream.join("g", on_assign=one.on_assign, on_revoke=one.on_revoke)
    assert first.partitions == frozenset(range(PARTITIONS))
    second = await stream.join("g", on_assign=two.on_assign, on_revoke=two.on_revoke)
    await asyncio.gather(one.until(2), two.until(2))
    assert first.partitions | second.partitions == frozenset(range(PARTITIONS))
    other = await stream.join("another", on_assign=(w := Worker({})).on_assign, on_revoke=w.on_revoke)
    assert other.partitions == frozenset(range(PARTITIONS))
    third = await stream.join("g", on_assign=three.on_assign, on_revoke=three.on_revoke)
    await three.until(1, 2)
    await first.leave()
    await asyncio.gather(two.until(2), three.until(2))
    assert first.partitions == frozenset()
    await second.leave()
    await third.leave()
    assert owners == {}
    await other.leave()


async def test_one_that_replaces_a_member_takes_over_everything_at_once(stream: Stream) -> None:
    """Never half of it: a person's events before and after login would be in two workers' hands."""
    owners: dict[int, Worker] = {}
    one, other, heir, next_heir = (Worker(owners) for _ in range(4))
    first = await stream.join("g", on_assign=one.on_assign, on_revoke=one.on_revoke, seat="worker.0")
    assert first.partitions == frozenset(range(PARTITIONS))
    second = await stream.join("g", on_assign=heir.on_assign, on_revoke=heir.on_revoke, seat="worker.0")
    third = await stream.join(
        "g", on_assign=next_heir.on_assign, on_revoke=next_heir.on_revoke, seat="worker.0"
    )
    await asyncio.sleep(1.0)  # the period in which members look at each other is 0.4 s
    assert first.partitions == frozenset(range(PARTITIONS))
    assert second.partitions == third.partitions == frozenset()
    await first.leave()
    await heir.until(PARTITIONS)
    assert heir.times_assigned == 1
    another = await stream.join("g", on_assign=other.on_assign, on_revoke=other.on_revoke, seat="worker.1")
    await asyncio.gather(heir.until(2), other.until(2))
    await second.leave()
    await asyncio.gather(next_heir.until(2), other.until(2))
    await another.leave()
    await next_heir.until(PARTITIONS)
    await third.leave()
    assert owners == {}


async def test_a_group_cannot_commit_what_it_does_not_own(stream: Stream) -> None:
    worker = Worker({})
    member = await stream.join("g", on_assign=worker.on_assign, on_revoke=worker.on_revoke)
    await stream.commit("g", {0: 0})
    with pytest.raises(NotOwner):
        await stream.commit("g", {PARTITIONS: 1})
    await member.leave()


async def test_close_stores_what_was_submitted_and_ends_what_waits(make_stream: StreamMaker) -> None:
    stream = await make_stream()
    producer = await stream.producer()
    appending = asyncio.create_task(producer.append([record("u")]))
    waiting = asyncio.create_task(stream.wait({0: 1 << 40}, timeout_s=60))
    await asyncio.sleep(0)
    await stream.close()
    assert await appending == AppendResult(1)
    with pytest.raises(StreamClosed):
        await waiting
    with pytest.raises(StreamClosed):
        await stream.bounds()
    with pytest.raises(StreamClosed):
        producer.submit([record("u")], lambda _: None)
    await stream.close()
