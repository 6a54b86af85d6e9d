"""One read for many cursors, and partitions merged in the order of their appends."""

import random

import pytest

from mainstem.clock import FixedClock
from mainstem.events.canonical import Event
from mainstem.events.stored import StoredEvent, encode_stored
from mainstem.pipeline.decode import Decoder
from mainstem.pipeline.reading import Decoded, MergedReader, SharedReader, decode_with
from mainstem.stream.base import NewRecord, OffsetGone, Record
from mainstem.stream.memory import MemoryStream

_decode = decode_with(Decoder(()))


def _record(number: int, user: str) -> NewRecord:
    raw = f'{{"type":"track","event":"e{number}","userId":"{user}"}}'.encode()
    stored = StoredEvent(
        source_id="s", message_id=f"m{number}", type="track", received_at_ms=1_700_000_000_000, raw=raw
    )
    return NewRecord(key=user.encode(), value=encode_stored(stored), timestamp_ms=1_700_000_000_000)


async def _filled(count: int, *, partitions: int = 4, seed: int = 1) -> MemoryStream:
    stream = MemoryStream(partitions=partitions, clock=FixedClock(1_700_000_000_000))
    producer = await stream.producer()
    chance = random.Random(seed)
    number = 0
    while number < count:
        size = min(count - number, chance.randint(1, 7))
        await producer.append([_record(number + i, f"u{chance.randint(0, 9)}") for i in range(size)])
        number += size
    return stream


def _names(batch: list[Decoded]) -> list[str]:
    return [item.event.name for item in batch]


async def _read_all(merged: MergedReader, *, max_records: int) -> list[Decoded]:
    found: list[Decoded] = []
    while batch := await merged.next(max_records=max_records):
        found.extend(batch)
    return found


async def test_partitions_are_merged_in_the_order_of_the_appends() -> None:
    stream = await _filled(500)
    for max_records in (1, 3, 50, 1000):
        merged = MergedReader(SharedReader(stream, _decode), stream)
        merged.assign(dict.fromkeys(range(4), 0))
        found = await _read_all(merged, max_records=max_records)
        assert _names(found) == [f"e{number}" for number in range(500)]


async def test_what_is_appended_between_reads_comes_after_everything_before() -> None:
    stream = await _filled(60)
    producer = await stream.producer()
    merged = MergedReader(SharedReader(stream, _decode), stream)
    merged.assign(dict.fromkeys(range(4), 0))
    found: list[Decoded] = []
    chance = random.Random(5)
    number = 60
    while len(found) < 300:
        found.extend(await merged.next(max_records=4))
        if number < 300:
            await producer.append([_record(number, f"u{chance.randint(0, 9)}")])
            number += 1
    assert _names(found) == [f"e{number}" for number in range(300)]


async def test_cursors_at_the_same_place_share_one_read_and_one_decode() -> None:
    stream = await _filled(100, partitions=1)
    decodes = 0

    def counting(record: Record) -> tuple[StoredEvent, Event]:
        nonlocal decodes
        decodes += 1
        return _decode(record)

    shared = SharedReader(stream, counting)
    for _ in range(5):
        merged = MergedReader(shared, stream)
        merged.assign({0: 0})
        assert len(await _read_all(merged, max_records=30)) == 100
    assert decodes == 100
    reads_of_the_first = shared.reads
    lagging = MergedReader(shared, stream)
    lagging.assign({0: 50})
    assert len(await _read_all(lagging, max_records=30)) == 50
    # Looking past the end reads the stream once; what was decoded is not decoded again.
    assert decodes == 100
    assert shared.reads <= reads_of_the_first + 1


async def test_what_somebody_read_for_himself_is_decoded_once_for_all() -> None:
    stream = await _filled(40, partitions=1)
    decodes = 0

    def decode(record: Record) -> tuple[StoredEvent, Event]:
        nonlocal decodes
        decodes += 1
        return _decode(record)

    reader = SharedReader(stream, decode, max_cached_records=30)
    records = await stream.read(0, 0, max_records=20, max_bytes=1 << 20)
    assert _names(list(reader.decoded(records))) == [f"e{number}" for number in range(20)]
    assert reader.decoded(records)[3] is reader.decoded(records)[3]
    assert (decodes, reader.reads) == (20, 0)
    assert _names(list(await reader.read(0, 5, max_records=3))) == ["e5", "e6", "e7"]
    assert (decodes, reader.reads) == (20, 0)
    reader.decoded(await stream.read(0, 20, max_records=20, max_bytes=1 << 20))
    assert len(reader._cached) == 30


async def test_what_is_kept_decoded_is_bounded() -> None:
    stream = await _filled(400, partitions=1)
    shared = SharedReader(stream, _decode, max_cached_records=50)
    merged = MergedReader(shared, stream)
    merged.assign({0: 0})
    assert len(await _read_all(merged, max_records=30)) == 400
    assert len(shared._cached) == 50


async def test_revoked_partitions_give_nothing_any_more_and_positions_name_what_was_not_given() -> None:
    stream = await _filled(200)
    merged = MergedReader(SharedReader(stream, _decode), stream)
    merged.assign(dict.fromkeys(range(4), 0))
    first = await merged.next(max_records=5)
    given: dict[int, int] = dict.fromkeys(range(4), 0)
    for item in first:
        given[item.record.partition] = item.record.offset + 1
    assert merged.positions == given
    merged.revoke(frozenset({1, 2}))
    rest = await _read_all(merged, max_records=5)
    assert {item.record.partition for item in rest} == {0, 3}


async def test_an_end_is_not_passed() -> None:
    stream = await _filled(200)
    merged = MergedReader(SharedReader(stream, _decode), stream)
    merged.assign(dict.fromkeys(range(4), 0))
    end = {0: 3, 1: 0, 2: 10, 3: 1}
    found: list[Decoded] = []
    while batch := await merged.next(max_records=6, end=end):
        found.extend(batch)
    assert sorted((item.record.partition, item.record.offset) for item in found) == [
        (partition, offset) for partition, stop in end.items() for offset in range(stop)
    ]


async def test_offsets_that_are_gone_are_an_error_and_not_a_gap() -> None:
    stream = await _filled(50, partitions=1)
    stream.drop_before(0, 20)
    merged = MergedReader(SharedReader(stream, _decode), stream)
    merged.assign({0: 0})
    with pytest.raises(OffsetGone) as raised:
        await merged.next()
    assert (raised.value.offset, raised.value.earliest) == (0, 20)
