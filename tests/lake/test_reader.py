import gzip
import io
from pathlib import Path
from typing import Literal
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainstem.destinations import iceberg_archive
from mainstem.destinations.archive import Config, Format
from mainstem.events.stored import StoredEvent
from mainstem.lake.errors import ArchiveDamaged
from mainstem.lake.layout import HOUR_MS, parse_name
from mainstem.lake.line import LineEncoder, decode_line
from mainstem.lake.reader import Archive, events_of
from mainstem.lake.store import open_store
from tests.lake.rig import (
    START_MS,
    IcebergPlace,
    Place,
    Rig,
    append,
    assert_order,
    event,
    local,
    names,
    opened,
)

text = st.text(max_size=12)
ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
json_bytes = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def stored_events(draw: st.DrawFn) -> StoredEvent:
    import json

    value = draw(st.dictionaries(st.text(max_size=6), json_bytes, max_size=5))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    raw = json.dumps(value, ensure_ascii=draw(st.booleans()), separators=separators).encode(
        "utf-8", "replace"
    )
    rejected = draw(st.booleans())
    if rejected and draw(st.booleans()):
        raw = draw(st.binary(max_size=40))
    elif draw(st.booleans()):
        raw = draw(st.sampled_from([b" ", b"\n", b"\r\n", b"\t"])) + raw
    envelope = st.sampled_from([b"", b'{"All":true}', b'{\n"ip": "::1"}'])
    return StoredEvent(
        source_id=draw(ids.filter(lambda name: len(name.encode()) < 60)),
        message_id=draw(text),
        type=draw(st.sampled_from(["track", "identify", "", "néw"])),
        received_at_ms=START_MS + draw(st.integers(0, 90_000_000)),
        raw=raw,
        request_ip=draw(st.sampled_from(["", "10.0.0.1", "2001:db8::1"])),
        sent_at=draw(text),
        kind="rejected" if rejected else "event",
        reason=draw(text) if rejected else "",
        message_id_made=draw(st.booleans()),
        repaired=draw(st.booleans()),
        batch_integrations=draw(envelope),
        batch_context=draw(envelope),
        channel=draw(st.sampled_from(["", "pixel"])),
        user_agent=draw(text),
    )


@given(stored_events(), st.integers(0, 999), st.integers(0, 2**60), st.integers(0, 2**60))
def test_a_line_is_the_event(stored: StoredEvent, partition: int, offset: int, sequence: int) -> None:
    line = LineEncoder().encode(stored, partition, offset, sequence)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    back = decode_line(line)
    assert back.event == stored
    assert (back.partition, back.offset, back.sequence) == (partition, offset, sequence)


@pytest.mark.parametrize("file_format", ["jsonl", "parquet", "rows"])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(stored_events(), min_size=1, max_size=12))
async def test_what_is_archived_is_what_is_read(
    tmp_path: Path, file_format: Format | Literal["rows"], events: list[StoredEvent]
) -> None:
    if file_format == "rows":
        table = iceberg_archive.Config(table=f"events-{uuid4().hex}")
        rig = Rig(IcebergPlace(tmp_path, table))
    else:
        rig = Rig(open_store(Config(url="memory:"), tmp_path), config=Config(formats=(file_format,)))
    await append(rig.stream, events)
    await (await rig.assigned()).flush_now()
    await rig.assert_exactly_once()


async def _archive(place: Place, config: Config | None = None) -> Archive:
    rig = Rig(place, config=config)
    for start in range(0, 100, 20):
        await append(rig.stream, [event(number) for number in range(start, start + 20)])
        await (await rig.assigned()).flush_now()
    return opened(place)


async def test_by_source_and_time_in_order(place: Place) -> None:
    reader = await _archive(place)
    assert await reader.sources() == ["app/1", "web"]
    assert await reader.sources(rejected=True) == ["app/1"]
    from_ms, to_ms = START_MS + 25 * 600_000, START_MS + 80 * 600_000
    found = [item async for item in events_of(reader, from_ms=from_ms, to_ms=to_ms, sources=["web"])]
    assert {item.event.message_id for item in found} == {f"m{number}" for number in range(26, 80, 2)}
    assert_order(found)
    hours = [item.event.received_at_ms // 3_600_000 for item in found]
    assert hours == sorted(hours)
    assert [item async for item in events_of(reader, from_ms=to_ms, to_ms=from_ms)] == []
    assert [item async for item in events_of(reader, sources=["nobody"])] == []
    days = [item async for item in events_of(reader, from_ms=START_MS + 86_400_000)]
    assert days == []
    reader.close()


async def test_files_are_what_one_flush_wrote_of_a_source_and_hour(near: Place) -> None:
    reader = await _archive(near)
    files = [item async for item in reader.files()]
    assert len({item.name for item in files}) == len(files)
    for file in files:
        assert parse_name(file.name) == file
        held = [item.event async for item in reader.read(file.name)]
        assert {(one.source_id, one.received_at_ms // HOUR_MS) for one in held} == {
            (file.source_id, file.hour)
        }
    assert sorted(
        [item.event.message_id for file in files async for item in reader.read(file.name)]
    ) == sorted(f"m{number}" for number in range(100) if number % 10 != 9)
    # In any order, and again.
    backwards = 0
    for file in reversed(files):
        backwards += len([item async for item in reader.read(file.name)])
    assert backwards == 90
    for name in ("notes.txt", files[0].name.rpartition(".")[0] + ".other"):
        with pytest.raises(ArchiveDamaged, match="no such files"):
            _ = [item async for item in reader.read(name)]
    reader.close()


async def test_both_formats_are_read_once(tmp_path: Path) -> None:
    reader = await _archive(local(tmp_path), Config(formats=("parquet", "jsonl")))
    found = [item async for item in events_of(reader)]
    assert len(found) == 90
    assert {name.format for name in [name async for name in reader.files()]} == {"jsonl"}


async def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    store = local(tmp_path)
    reader = await _archive(store)
    for name in (
        "source=web/date=2026-11-23/notes.txt",
        "source=web/date=tomorrow/x",
        "readme",
        "source=web/y",
    ):
        await store.put(name, io.BytesIO(b"?"))
    await store.put(
        "source=web/date=2026-11-23/hour=99/000000000001-0123456789abcdef.jsonl.gz", io.BytesIO(b"?")
    )
    assert len([item async for item in events_of(reader)]) == 90


async def test_files_added_meanwhile(tmp_path: Path) -> None:
    store = local(tmp_path)
    reader = await _archive(store)
    source = (await names(store))[-1]
    events = events_of(reader)
    first = await anext(events)
    content = await store.get(source)
    later = source.replace("date=2026-11-23", "date=2026-11-25").replace("date=2026-11-24", "date=2026-11-25")
    assert later != source
    await store.put(later, io.BytesIO(content))
    rest = [item async for item in events]
    assert len([first, *rest]) == 90 + len(gzip.decompress(content).splitlines())


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
async def test_a_damaged_file_is_named(tmp_path: Path, file_format: Format, damage: str) -> None:
    store = local(tmp_path)
    reader = await _archive(store, Config(formats=(file_format,)))
    name = [item async for item in reader.files()][3]
    content = await store.get(name.name)
    damaged = {
        "cut": content[:-9],
        "flipped": content[:30] + bytes([content[30] ^ 0xFF]) + content[31:],
        "empty": b"",
        "other": gzip.compress(b"{}\n") if file_format == "jsonl" else b"PAR1" + content[4:8] + b"PAR1",
    }[damage]
    await store.put(name.name, io.BytesIO(damaged))
    if damage == "flipped" and file_format == "parquet":
        return  # Parquet pages carry no checksum unless asked for; nothing to promise
    with pytest.raises(ArchiveDamaged, match=name.name) as caught:
        _ = [item async for item in events_of(reader)]
    assert caught.value.name == name.name
