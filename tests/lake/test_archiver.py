import asyncio
import gzip
from pathlib import Path

import msgspec
import pytest

from mainstem.clock import FixedClock, SystemClock
from mainstem.destinations.archive import Config
from mainstem.events.stored import StoredEvent
from mainstem.lake.layout import parse_name
from mainstem.ledger.base import CountKey, DeadFilter
from mainstem.ledger.sqlite import open_ledger
from mainstem.stream.base import Record, StreamClosed
from mainstem.stream.memory import MemoryStream
from mainstem.stream.open import open_stream
from tests.lake.rig import (
    CURSOR,
    START_MS,
    IcebergPlace,
    Place,
    Rig,
    append,
    contents,
    event,
    keep_all,
    local,
    names,
    stepped,
    with_rules,
)


async def test_all_stores_hold_each_event_once(place: Place) -> None:
    rig = Rig(place, evaluate=with_rules, config=Config(formats=("jsonl", "parquet"), prefix="mine"))
    await append(rig.stream, [event(number) for number in range(60)])
    archiver = await rig.assigned()
    await archiver.flush_now()
    await rig.assert_exactly_once(prefixes=["mine"])
    dead = [letter for _, letter in await rig.ledger.dead(DeadFilter())]
    assert [(letter.message_id, letter.reason, letter.attempts) for letter in dead] == [
        ("m13", "no mapping", 0)
    ]
    status = archiver.status()
    assert status.flushes == 1
    assert status.files == (2 if isinstance(place, IcebergPlace) else len(await names(place)))
    assert status.gathered_events == 0
    assert status.error == ""


async def test_layout(tmp_path: Path) -> None:
    rig = Rig(local(tmp_path), config=Config(prefix="/a/b/"))
    await append(rig.stream, [event(0), event(1), event(9)])
    await (await rig.assigned()).flush_now()
    folders = {name.rsplit("/", 1)[0] for name in await names(rig.store)}
    assert folders == {
        "a/b/source=web/date=2026-11-23/hour=06",
        "a/b/source=app%2F1/date=2026-11-23/hour=06",
        "a/b/rejected/source=app%2F1/date=2026-11-23/hour=08",
    }
    for name in await names(rig.store):
        parsed = parse_name(name)
        assert parsed is not None
        assert parsed.sequence == 1
    web = next(name for name in await names(rig.store) if "source=web" in name)
    lines = gzip.decompress(await rig.store.get(web)).splitlines()
    assert len(lines) == 1
    line = msgspec.json.decode(lines[0])
    assert line["receivedAt"] == "2026-11-23T06:40:00.000Z"
    assert line["sourceId"] == "web"
    assert line["offset"] == 0
    assert b'"raw":' + event(0).raw + b"}" in lines[0]


async def test_rejected_events_can_be_left_out(tmp_path: Path) -> None:
    rig = Rig(local(tmp_path), config=Config(include_rejected=False))
    await append(rig.stream, [event(number) for number in range(20)])
    await (await rig.assigned()).flush_now()
    assert not [name for name in await names(rig.store) if "rejected" in name]
    counts = await rig.ledger.counts(CURSOR)
    assert sum(count for key, count in counts.items() if key.outcome == "rejected") == 2
    assert sum(counts.values()) == 20


async def test_flush_without_events_writes_nothing(tmp_path: Path) -> None:
    rig = Rig(local(tmp_path))
    archiver = await rig.assigned()
    await archiver.flush_now()
    assert await names(rig.store) == []
    assert archiver.status().flushes == 0


async def test_events_that_are_all_filtered_move_the_position_without_files(tmp_path: Path) -> None:
    def nothing(record: Record) -> CountKey:
        return CountKey(keep_all(record).source_id, 0, "filtered", "all")

    rig = Rig(local(tmp_path), evaluate=nothing)
    await append(rig.stream, [event(number) for number in range(20)])
    await (await rig.assigned()).flush_now()
    assert await names(rig.store) == []
    await rig.assert_exactly_once()


async def test_flush_by_number_of_events(near: Place) -> None:
    clock = FixedClock(START_MS)
    rig = Rig(near, clock=clock, config=Config(max_events=10))
    archiver = await rig.assigned()
    await append(rig.stream, [event(number) for number in range(9)])
    await stepped(archiver)
    assert archiver.status().gathered_events == 9
    await append(rig.stream, [event(9)])
    await stepped(archiver)
    assert archiver.status().gathered_events == 0
    await rig.assert_exactly_once()


async def test_flush_by_bytes(near: Place) -> None:
    rig = Rig(near, config=Config(max_bytes=2_000))
    archiver = await rig.assigned()
    await append(rig.stream, [event(number) for number in range(5)])
    await stepped(archiver)
    assert archiver.status().flushes == 0
    await append(rig.stream, [event(number) for number in range(5, 20)])
    await stepped(archiver)
    assert archiver.status().flushes == 1


async def test_flush_by_age(near: Place) -> None:
    clock = FixedClock(START_MS)
    rig = Rig(near, clock=clock, config=Config(max_age_s=60))
    archiver = await rig.assigned()
    await append(rig.stream, [event(0)])
    await stepped(archiver)
    clock.advance(59)
    await append(rig.stream, [event(1)])
    await stepped(archiver)
    assert archiver.status().gathered_events == 2
    clock.advance(1)
    await stepped(archiver)
    assert archiver.status().gathered_events == 0
    await rig.assert_exactly_once()


async def test_flush_before_too_many_files_are_open(tmp_path: Path) -> None:
    rig = Rig(local(tmp_path))
    hours = [event(number, source="web", at_ms=START_MS + number * 3_600_000) for number in range(300)]
    await append(rig.stream, [item for number, item in enumerate(hours) if number % 10 != 9])
    archiver = await rig.assigned()
    while await stepped(archiver):
        pass
    assert archiver.status().flushes == 1
    await archiver.flush_now()
    await rig.assert_exactly_once()


async def test_one_flush_makes_one_file_a_source_and_hour(tmp_path: Path) -> None:
    rig = Rig(local(tmp_path))
    await append(rig.stream, [event(number, at_ms=START_MS) for number in range(0, 100, 2)])
    await (await rig.assigned()).flush_now()
    assert len(await names(rig.store)) == 1
    await rig.assert_exactly_once()


async def test_same_log_gives_same_bytes(tmp_path: Path) -> None:
    seen = []
    for run, gulps in enumerate((1, 5)):
        rig = Rig(local(tmp_path / str(run)), config=Config(formats=("jsonl", "parquet")))
        archiver = await rig.assigned()
        numbers = list(range(50))
        for start in range(0, 50, 50 // gulps):
            await append(rig.stream, [event(number) for number in numbers[start : start + 50 // gulps]])
            await stepped(archiver)
        await archiver.flush_now()
        seen.append(await contents(rig.store))
    assert seen[0] == seen[1]


async def test_run_archives_and_drains(near: Place) -> None:
    clock = FixedClock(START_MS)
    rig = Rig(near, clock=clock, config=Config(max_events=10, max_age_s=1e9))
    archiver = await rig.assigned()
    stop = asyncio.Event()
    running = asyncio.create_task(archiver.run(stop))
    await append(rig.stream, [event(number) for number in range(25)])
    while archiver.status().written_events + archiver.status().gathered_events < 25:
        await asyncio.sleep(0.001)
    stop.set()
    await running
    await rig.assert_exactly_once()


async def test_with_the_embedded_stream_and_ledger(near: Place, tmp_path: Path) -> None:
    clock = SystemClock()
    for start in (0, 50):
        stream = await open_stream(f"file:{tmp_path / 'stream'}", partitions=4, clock=clock)
        ledger = await open_ledger(tmp_path / "ledger.db")
        rig = Rig(near, stream=stream, ledger=ledger, clock=clock, evaluate=with_rules)
        archiver = await rig.assigned()
        stop = asyncio.Event()
        running = asyncio.create_task(archiver.run(stop))
        await append(stream, [event(number) for number in range(start, start + 40)])
        # Written when told to, and the rest when told to stop.
        await archiver.flush_now()
        assert archiver.status().written_events > 0
        await append(stream, [event(number) for number in range(start + 40, start + 50)])
        while archiver.status().gathered_events == 0:
            await asyncio.sleep(0.01)
        stop.set()
        await running
        await rig.assert_exactly_once()
        await stream.close()
        await ledger.close()


async def test_run_ends_when_the_stream_is_closed(tmp_path: Path) -> None:
    rig = Rig(local(tmp_path))
    archiver = await rig.assigned()
    await rig.stream.close()
    with pytest.raises(StreamClosed):
        await archiver.run(asyncio.Event())


async def test_partitions_come_and_go(near: Place) -> None:
    rig = Rig(near)
    first = await rig.assigned([0, 1, 2, 3])
    second = rig.archiver()
    await append(rig.stream, [event(number) for number in range(50)])
    await stepped(first)
    assert first.status().gathered_events == 50
    await first.revoke(frozenset({1, 3}))
    positions = await rig.ledger.positions(CURSOR)
    await second.assign({partition: positions[partition] for partition in (1, 3)})
    await second.flush_now()
    await first.flush_now()
    assert first.status().partitions == (0, 2)
    await rig.assert_exactly_once()
    await append(rig.stream, [event(number) for number in range(50, 80)])
    await first.assign({partition: positions[partition] for partition in (1, 3)})
    await second.revoke(frozenset({1, 3}))
    await first.flush_now()
    await rig.assert_exactly_once()


async def test_the_stream_keeps_what_is_not_archived(near: Place) -> None:
    rig = Rig(near)
    archiver = await rig.assigned()
    await append(rig.stream, [event(number) for number in range(20)])
    await stepped(archiver)
    assert set((await rig.stream.cursors())[CURSOR].values()) == {0}
    await archiver.flush_now()
    await stepped(archiver)
    ends = {partition: held.next for partition, held in (await rig.stream.bounds()).items()}
    assert dict((await rig.stream.cursors())[CURSOR]) == ends


async def test_a_destination_made_anew_under_an_old_id_starts_at_its_new_position(near: Place) -> None:
    rig = Rig(near)
    await append(rig.stream, [event(number) for number in range(20)])
    await (await rig.assigned()).flush_now()
    await append(rig.stream, [event(number) for number in range(20, 40)])
    await rig.ledger.forget(CURSOR)
    ends = {partition: held.next for partition, held in (await rig.stream.bounds()).items()}
    await rig.ledger.open_cursor(CURSOR, ends)
    archiver = await rig.assigned()
    await append(rig.stream, [event(number) for number in range(40, 60)])
    await archiver.flush_now()
    assert archiver.status().written_events == 20


async def test_records_dropped_by_the_hard_limit_are_passed_over(near: Place) -> None:
    stream = MemoryStream(partitions=1)
    rig = Rig(near, stream=stream)
    archiver = await rig.assigned([0])
    await append(stream, [event(number) for number in range(20)])
    await stream.commit(CURSOR, {0: 20})  # whoever runs the stream overrules the archive
    await stream.commit("other", {0: 20})
    assert stream.drop_before(0, 8) == 8
    await archiver.flush_now()
    await rig.assert_exactly_once(settled=False)
    assert (await rig.ledger.positions(CURSOR))[0].next_offset == 20


async def test_lossless(tmp_path: Path) -> None:
    odd = [
        StoredEvent("web", "m1", "track", START_MS, b'{"userId":"u","n":1e400,"k":{"b":1,"a":  2}}'),
        StoredEvent("web", "m2", "track", START_MS, b'{\n  "userId": "u"\n}', repaired=True),
        StoredEvent("web", "m3", "", START_MS, b"\xff\xfe not json", kind="rejected", reason="body: not JSON"),
        StoredEvent(
            "web", "m4", "page", START_MS + 1, b' {"userId":"\xc3\xa9"} ', "::1", "2026", "event", "", True, True,
            b'{"All":false}', b'{\n"ip":"1.2.3.4"}', "pixel", "Mozilla/5.0",
        ),
    ]  # fmt: skip
    for file_format in ("jsonl", "parquet"):
        rig = Rig(local(tmp_path / file_format), config=msgspec.convert({"formats": [file_format]}, Config))
        await append(rig.stream, odd)
        await (await rig.assigned()).flush_now()
        await rig.assert_exactly_once()
    rig = Rig(IcebergPlace(tmp_path))
    await append(rig.stream, odd)
    await (await rig.assigned()).flush_now()
    await rig.assert_exactly_once()
