"""An archive in Iceberg: commits that race or get lost, workers beside each other, upkeep, pruning, other readers."""

import asyncio
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import duckdb
import msgspec
import pytest
import structlog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from pyiceberg.io import pyarrow
from pyiceberg.table import FileScanTask

from mainstem.bulk.errors import BulkError
from mainstem.bulk.gatherer import Gatherer
from mainstem.clock import FixedClock, SystemClock
from mainstem.destinations import iceberg_archive
from mainstem.destinations.archive import Config
from mainstem.iceberg import upkeep as keeping
from mainstem.iceberg.catalog import DurableFileIO
from mainstem.lake import iceberg_table
from mainstem.lake.errors import ArchiveDamaged, StoreUnavailable
from mainstem.lake.iceberg_reader import IcebergReader
from mainstem.lake.iceberg_table import ROW_SCHEMA, ArchiveTable
from mainstem.lake.open import check_archive
from mainstem.lake.reader import events_of
from mainstem.ledger.base import LedgerError
from mainstem.secret import Secret
from mainstem.warehouse.loaders import iceberg as warehouse
from tests.lake.rig import CURSOR, PARTITIONS, START_MS, IcebergPlace, Rig, append, changed, event, with_rules

NOW = timedelta(0)


@pytest.fixture
def place(tmp_path: Path) -> IcebergPlace:
    return IcebergPlace(tmp_path)


@pytest.fixture
def table(place: IcebergPlace) -> Iterator[ArchiveTable]:
    found = ArchiveTable.open(place.settings, place.data_dir)
    yield found
    found.close()


async def filled(place: IcebergPlace, flushes: int = 6, **parts: Any) -> Rig:
    """An archive of 20 events a flush."""
    rig = Rig(place, **parts)
    for start in range(0, flushes * 20, 20):
        await append(rig.stream, [event(number) for number in range(start, start + 20)])
        await (await rig.assigned()).flush_now()
    return rig


def files(table: ArchiveTable) -> list[FileScanTask]:
    return list(table._load().scan().plan_files())


def upkeep(table: ArchiveTable, **more: Any) -> Any:
    return table.upkeep(**{"every_ms": 0, "keep": NOW, "now_ms": START_MS, **more})


# ------------------------------------------------------------ commits


@pytest.mark.parametrize("lands", [False, True])
async def test_a_commit_whose_answer_is_lost(place: IcebergPlace, table: ArchiveTable, lands: bool) -> None:
    rig = await filled(place, 1)
    await append(rig.stream, [event(number) for number in range(20, 40)])
    archiver = await rig.assigned()
    real = SqlCatalog.commit_table

    def lost(*given: Any) -> Any:
        if lands:
            real(*given)
        raise CommitStateUnknownException("no answer")

    with (
        patch.object(SqlCatalog, "commit_table", lost),
        pytest.raises(StoreUnavailable, match=r"table archive\.events: .*no answer"),
    ):
        await archiver.flush_now()
    assert table._load().scan().to_arrow().num_rows == (40 if lands else 20)
    await archiver.flush_now()
    await rig.assert_exactly_once()


async def test_a_plan_that_somebody_else_writes_meanwhile_is_seen(place: IcebergPlace) -> None:
    """As after a fence: two workers carry out the same plan, and both have written their files."""
    rig = Rig(place, evaluate=with_rules, instead=changed, spool=place.data_dir / "spool")
    await append(rig.stream, [event(number) for number in range(20)])
    late = await rig.assigned()
    real = pyarrow._dataframe_to_data_files
    others: list[Gatherer] = []

    def meanwhile(*given: Any) -> Any:
        found = list(real(*given))
        if not others:
            others.append(rig.archiver())
            loop = asyncio.new_event_loop()
            loop.run_until_complete(_take_over(rig, others[0]))
            loop.close()
        return found

    with patch.object(iceberg_table, "_dataframe_to_data_files", meanwhile):
        await late.flush_now()
    assert len(others) == 1
    await rig.assert_exactly_once()
    data = list((place.data_dir / "iceberg" / "archive" / "events" / "data").rglob("*.parquet"))
    assert len(data) == 2, "the files of the one that came late are removed: one a source"


async def _take_over(rig: Rig, archiver: Gatherer) -> None:
    positions = await rig.ledger.open_cursor(CURSOR, dict.fromkeys(range(PARTITIONS), 0))
    await archiver.assign(positions)
    await archiver.flush_now()


async def test_other_commits_meanwhile_are_gone_around_with_the_same_files(
    place: IcebergPlace, table: ArchiveTable
) -> None:
    rig = await filled(place, 1)
    await append(rig.stream, [event(number) for number in range(20, 40)])
    real, commits, made = SqlCatalog.commit_table, 0, 0
    write = pyarrow._dataframe_to_data_files

    def conflicts(*given: Any) -> Any:
        nonlocal commits
        commits += 1
        if commits < 4:
            raise CommitFailedException("somebody was faster")
        return real(*given)

    def counted(*given: Any) -> Any:
        nonlocal made
        made += 1
        return write(*given)

    with (
        patch.object(SqlCatalog, "commit_table", conflicts),
        patch.object(iceberg_table, "_dataframe_to_data_files", counted),
    ):
        await (await rig.assigned()).flush_now()
    assert (commits, made) == (4, 1)
    await rig.assert_exactly_once()


async def test_files_of_a_commit_that_never_comes_through_are_removed(
    place: IcebergPlace, table: ArchiveTable
) -> None:
    rig = await filled(place, 1)
    before = len(list(place.data_dir.rglob("data/**/*.parquet")))
    await append(rig.stream, [event(number) for number in range(20, 40)])
    archiver = await rig.assigned()
    with (
        patch.object(SqlCatalog, "commit_table", side_effect=CommitFailedException("faster")),
        patch("mainstem.iceberg.commits._ATTEMPTS", 2),
        pytest.raises(StoreUnavailable, match="others change it all the time"),
    ):
        await archiver.flush_now()
    assert len(list(place.data_dir.rglob("data/**/*.parquet"))) == before
    await archiver.flush_now()
    await rig.assert_exactly_once()


@pytest.mark.parametrize("seed", range(4))
async def test_workers_that_all_believe_they_own_the_partitions(place: IcebergPlace, seed: int) -> None:
    """In threads, for real: commits of the same plans and of others collide as they happen to."""
    chance = random.Random(seed)
    rig = Rig(place, evaluate=with_rules, instead=changed, spool=place.data_dir / "spool")
    await append(rig.stream, [event(number) for number in range(40)])
    workers = []
    for _ in range(3):
        owned = sorted(chance.sample(range(PARTITIONS), chance.randint(2, PARTITIONS)))
        archiver = await rig.assigned(owned, config=Config(max_events=chance.randint(4, 9)))
        workers.append(asyncio.create_task(_until_done(archiver)))
    await asyncio.gather(*workers)
    await (await rig.assigned()).flush_now()
    await rig.assert_exactly_once()


async def test_workers_beside_each_other(place: IcebergPlace) -> None:
    """Each with a partition of its own, as a stream deals them out: only commits meet."""
    rig = Rig(place, config=Config(max_events=3))
    await append(rig.stream, [event(number) for number in range(60)])
    conflicts = 0
    real = SqlCatalog.commit_table

    def counted(*given: Any) -> Any:
        nonlocal conflicts
        try:
            return real(*given)
        except CommitFailedException:
            conflicts += 1
            raise

    with patch.object(SqlCatalog, "commit_table", counted):
        archivers = [await rig.assigned([partition]) for partition in range(PARTITIONS)]
        await asyncio.gather(*(_until_done(archiver) for archiver in archivers))
    assert conflicts > 0, "they did not meet: the test proves nothing"
    await rig.assert_exactly_once()


async def _until_done(archiver: Gatherer) -> None:
    for _ in range(200):
        try:
            await archiver.flush_now()
        except (BulkError, LedgerError):
            continue
        return
    raise AssertionError("no progress")


# ------------------------------------------------------------ upkeep


async def test_small_files_are_joined_and_read_the_same(place: IcebergPlace, table: ArchiveTable) -> None:
    rig = await filled(place, evaluate=with_rules, instead=changed, spool=place.data_dir / "spool")
    reader = IcebergReader(table)
    names = [name.name async for name in reader.files()]
    before = [item async for item in events_of(reader)]
    assert len(files(table)) == 14, "one a flush, source and day"
    done = upkeep(table)
    assert (done.files_before, done.files_after, len(files(table))) == (14, 4, 4)
    assert len(list(place.data_dir.rglob("data/**/*.parquet"))) == 4, "files that nobody needs are removed"
    assert [name.name async for name in reader.files()] == names
    assert [item async for item in events_of(reader)] == before
    # A name that was noted before is read after.
    first = [item async for item in reader.read(names[0])]
    assert first
    assert first == before[: len(first)]
    await rig.assert_exactly_once()
    await append(rig.stream, [event(number) for number in range(120, 140)])
    await (await rig.assigned()).flush_now()
    await rig.assert_exactly_once()
    # Once more, and the plans of all flushes are still known as such.
    upkeep(table)
    found = table._load()
    assert len(found.snapshots()) == 1
    plans = set(found.scan().to_arrow()["plan"].to_pylist())
    assert len(plans) == 7
    assert all(str(plan) in found.properties["mainstem.loads"] for plan in plans)


@pytest.mark.parametrize("kind", ["iceberg_s3", "iceberg_rest"])
async def test_upkeep_in_a_bucket_and_behind_rest(kind: str, request: pytest.FixtureRequest) -> None:
    place: IcebergPlace = request.getfixturevalue(kind)
    rig = await filled(place, 4)
    table = ArchiveTable.open(place.settings, place.data_dir)
    paths = [task.file.file_path for task in files(table)]
    done = upkeep(table)
    assert (done.files_before, done.files_after) == (8, 2)
    assert done.snapshots_expired > 0
    found = table._load()
    assert not any(found.io.new_input(path).exists() for path in paths), "what was joined is removed"
    table.close()
    await rig.assert_exactly_once()


async def test_a_reader_goes_on_while_files_are_joined_and_removed(
    place: IcebergPlace, table: ArchiveTable
) -> None:
    await filled(place)
    reader = IcebergReader(ArchiveTable.open(place.settings, place.data_dir))
    seen = []
    async for item in events_of(reader):
        seen.append(item.event.message_id)
        if len(seen) in (10, 60):
            upkeep(table)
    assert len(seen) == len(set(seen)) == 108
    reader.close()


async def test_a_file_that_goes_between_plan_and_read_is_read_in_the_new_ones(
    place: IcebergPlace, table: ArchiveTable
) -> None:
    await filled(place)
    other = ArchiveTable.open(place.settings, place.data_dir)
    real, looked = other._find, 0

    def behind() -> Any:
        nonlocal looked
        found = real()
        looked += 1
        if looked == 1:
            upkeep(table)
        return found

    with patch.object(other, "_find", behind):
        keys = other.keys(0, START_MS + 10 * 86_400_000, (), rejected=False)
    assert looked == 2
    assert sum(count for _, count in keys) == 108
    other.close()


async def test_upkeep_beside_writers_keeps_what_they_add(place: IcebergPlace, table: ArchiveTable) -> None:
    rig = await filled(place)
    real, calls = keeping._replace, 0

    def meanwhile(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            asyncio.run(_more(rig))
        return real(*given)

    with patch.object(keeping, "_replace", meanwhile):
        done = await asyncio.to_thread(upkeep, table)
    assert calls == 3, "the first commit came too late, and was made again with the same file"
    assert done.files_after == 6, "two joined, two each of a day with less than four"
    await rig.assert_exactly_once()


async def _more(rig: Rig) -> None:
    await append(rig.stream, [event(number) for number in range(120, 140)])
    await (await rig.assigned()).flush_now()


async def test_one_worker_keeps_it_up(place: IcebergPlace) -> None:
    """After an hour, and only once of two."""
    settings = msgspec.structs.replace(place.settings, keep_snapshots_h=0)
    clock = FixedClock(START_MS)
    rig = await filled(IcebergPlace(place.data_dir, settings), 5, clock=clock)
    one, two = (ArchiveTable.open(settings, place.data_dir) for _ in range(2))
    assert len(files(one)) == 10, "nothing is joined before its time"
    assert one.upkeep(every_ms=3_600_000, keep=NOW, now_ms=START_MS + 3_599_999) is None
    assert one.upkeep(every_ms=3_600_000, keep=NOW, now_ms=START_MS + 3_600_000) is not None
    assert two.upkeep(every_ms=3_600_000, keep=NOW, now_ms=START_MS + 3_600_001) is None
    one.close()
    two.close()
    clock.advance(2 * 3600)
    await append(rig.stream, [event(number) for number in range(100, 120)])
    await (await rig.assigned()).flush_now()
    table = ArchiveTable.open(settings, place.data_dir)
    assert table._load().properties["mainstem.upkept-at-ms"] == str(START_MS + 7_200_000)
    table.close()
    await rig.assert_exactly_once()


async def test_a_turn_of_upkeep_is_bounded(place: IcebergPlace, table: ArchiveTable) -> None:
    await filled(place)
    with patch.object(iceberg_table, "_TURN_BYTES", 1):
        first = upkeep(table)
        assert first.more
        assert table.upkept_ms == 0, "the next is due at once"
        assert first.files_after == 9
        assert upkeep(table).files_after == 4
        assert not upkeep(table).more


async def test_upkeep_that_fails_does_not_stop_the_archive(place: IcebergPlace) -> None:
    settings = msgspec.structs.replace(place.settings, compact_every_s=0.001)
    clock = SystemClock()
    with (
        patch.object(iceberg_table, "compact", side_effect=OSError("disk")),
        structlog.testing.capture_logs() as logs,
    ):
        rig = await filled(IcebergPlace(place.data_dir, settings), 2, clock=clock)
    told = [entry for entry in logs if "were not joined" in entry["event"]]
    assert {entry["error"] for entry in told} == {"table archive.events: OSError: disk"}
    await rig.assert_exactly_once()


async def test_snapshots_are_thinned_but_tags_are_kept(place: IcebergPlace, table: ArchiveTable) -> None:
    await filled(place)
    found = table._load()
    tagged = found.snapshots()[1].snapshot_id
    found.manage_snapshots().create_tag(tagged, "audit").commit()
    with patch.object(keeping, "_THIN", NOW):
        done = upkeep(table, keep=timedelta(days=1))
    kept = table._load()
    # The tag's, the last before each of the two joins, and the newest.
    assert done.snapshots_expired == 4
    assert tagged in {snapshot.snapshot_id for snapshot in kept.snapshots()}
    assert kept.scan(snapshot_id=tagged).to_arrow().num_rows == 40
    for snapshot in kept.snapshots():
        assert kept.scan(snapshot_id=snapshot.snapshot_id).to_arrow().num_rows > 0


# ------------------------------------------------------------ reading


async def test_time_and_source_prune(place: IcebergPlace, table: ArchiveTable) -> None:
    """Of ten days and two sources, what is asked for is all that is opened."""
    rig = Rig(place)
    day_ms = 86_400_000
    days = [event(number, at_ms=START_MS + number // 4 * day_ms) for number in range(40)]
    await append(rig.stream, days)
    await (await rig.assigned()).flush_now()
    assert len(files(table)) == 20
    opened: list[str] = []
    real = DurableFileIO.new_input

    def noted(io: Any, location: str) -> Any:
        if location.endswith(".parquet"):
            opened.append(location)
        return real(io, location)

    reader = IcebergReader(table)
    with patch.object(DurableFileIO, "new_input", noted):
        from_ms = (START_MS // day_ms + 3) * day_ms
        found = [
            item async for item in events_of(reader, from_ms=from_ms, to_ms=from_ms + day_ms, sources=["web"])
        ]
    assert {item.event.message_id for item in found} == {"m12", "m14"}
    assert len(set(opened)) == 1


async def test_an_hour_of_a_joined_file_is_read_without_the_rest(
    place: IcebergPlace, table: ArchiveTable
) -> None:
    with patch.dict(iceberg_table._PROPERTIES, {"write.parquet.row-group-limit": "5"}):
        await filled(place)
    upkeep(table)
    reader = IcebergReader(table)
    expected = {f"m{number}" for number in range(60, 66) if number % 10 != 9 and number % 2 == 0}
    hour_ms = START_MS + 60 * 600_000
    found = [
        item async for item in events_of(reader, from_ms=hour_ms, to_ms=hour_ms + 3_600_000, sources=["web"])
    ]
    assert {item.event.message_id for item in found} == expected


async def test_an_archive_that_is_not_there_yet_is_empty(table: ArchiveTable) -> None:
    reader = IcebergReader(table)
    assert [name async for name in reader.files()] == []
    assert await reader.sources() == []
    name = "source=web/date=2026-11-23/hour=06/000000000001-0123456789abcdef.rows"
    with pytest.raises(ArchiveDamaged, match="gone from the table"):
        _ = [item async for item in reader.read(name)]


async def test_rows_that_somebody_deleted_are_told_of(place: IcebergPlace, table: ArchiveTable) -> None:
    await filled(place, 2)
    reader = IcebergReader(table)
    names = [name.name async for name in reader.files()]
    plan = names[0].rpartition("-")[2].removesuffix(".rows")
    table._load().delete(f"plan = '{plan}'")
    with pytest.raises(ArchiveDamaged, match="gone from the table") as caught:
        _ = [item async for item in reader.read(names[0])]
    assert caught.value.name == names[0]


async def test_a_users_events_can_be_deleted(place: IcebergPlace, table: ArchiveTable) -> None:
    """By any engine that deletes from Iceberg; what is left is read on, under the same names."""
    await filled(place, 3)
    table._load().delete("user_id = 'user-3'")
    found = [item.event async for item in events_of(IcebergReader(table))]
    numbers = {int(one.message_id[1:]) for one in found}
    assert numbers == {number for number in range(60) if number % 10 != 9 and number % 7 != 3}


async def test_a_damaged_file_stops_the_reader(place: IcebergPlace, table: ArchiveTable) -> None:
    await filled(place, 1)
    path = Path(files(table)[0].file.file_path.removeprefix("file://"))
    content = path.read_bytes()
    path.write_bytes(b"PAR1" + b"\0" * (len(content) - 8) + b"PAR1")
    with pytest.raises((ArchiveDamaged, StoreUnavailable), match=r"archive\.events"):
        _ = [item async for item in events_of(IcebergReader(table))]


# ------------------------------------------------------------ the table itself


async def test_columns_and_partitions(place: IcebergPlace, table: ArchiveTable) -> None:
    await filled(place, 1)
    found = table._load()
    assert found.schema().column_names == ROW_SCHEMA.names
    assert [field.name for field in found.spec().fields] == ["source_id", "received_day"]
    (row,) = found.scan("message_id = 'm4'").to_arrow().to_pylist()
    assert row["received_at"] == datetime.fromtimestamp((START_MS + 4 * 600_000) / 1000, UTC)
    assert (row["event"], row["user_id"], row["anonymous_id"]) == ("Order Completed", "user-4", None)
    assert row["raw"].encode() == event(4).raw
    assert (row["kind"], row["plan_sequence"], row["part"]) == ("event", 1, 0)
    rejected = found.scan("kind = 'rejected'").to_arrow()
    assert rejected["message_id"].to_pylist() == ["m9", "m19"]


async def test_other_engines_read_its_files(place: IcebergPlace, table: ArchiveTable) -> None:
    """DuckDB, on the files that the table names; its extension for Iceberg does the same with the list by itself."""
    await filled(place)
    upkeep(table)
    paths = [task.file.file_path.removeprefix("file://") for task in files(table)]
    with duckdb.connect() as memory:
        (counted,) = memory.execute(
            "SELECT count(*), count(DISTINCT message_id), min(raw->>'$.event') FROM read_parquet(?) "
            "WHERE kind = 'event'",
            [paths],
        ).fetchall()
    assert counted == (108, 108, "Order Completed")


def test_settings_of_the_catalog_are_those_of_the_warehouse() -> None:
    """Two structs can't share a part (their layouts differ), so the names, defaults and words are compared."""
    theirs = {field.name: field for field in msgspec.structs.fields(warehouse.Config)}
    own = {"namespace", "table", "include_rejected", "max_events", "max_bytes", "max_age_s"}
    own |= {"compact_every_s", "keep_snapshots_h"}
    for field in msgspec.structs.fields(iceberg_archive.Config):
        if field.name not in own:
            their = theirs[field.name]
            assert (field.encode_name, field.type, field.default) == (
                their.encode_name,
                their.type,
                their.default,
            ), field.name


async def test_a_table_of_something_else_is_refused(place: IcebergPlace, table: ArchiveTable) -> None:
    loader = warehouse.open_loader(warehouse.Config(), "archive", place.data_dir)
    loader.check()
    settings = msgspec.structs.replace(place.settings, table="_mainstem_loads")
    with pytest.raises(StoreUnavailable, match="not an archive's: it has no column received_at"):
        await check_archive(settings, place.data_dir, START_MS)
    # Beside the warehouse's tables, in its namespace even, there is room.
    assert await check_archive(place.settings, place.data_dir, START_MS) == "table archive.events"
    assert "events" in loader.fetch_schema()
    loader.close()


async def test_what_is_wrong_is_said_without_secrets(place: IcebergPlace) -> None:
    settings = msgspec.structs.replace(
        place.settings, catalog_uri=Secret("postgresql+nothing://me:hunter2@localhost/x")
    )
    with pytest.raises(StoreUnavailable, match="catalog") as caught:
        await check_archive(settings, place.data_dir, START_MS)
    assert "hunter2" not in str(caught.value)


async def test_big_plans_are_written_in_pieces(place: IcebergPlace, table: ArchiveTable) -> None:
    with (
        patch("mainstem.lake.iceberg_writer._BATCH_BYTES", 500),
        patch("mainstem.lake.iceberg_writer._PIECE_BYTES", 3_000),
    ):
        rig = await filled(place, 1)
    assert len(files(table)) > 2
    assert len(table._load().snapshots()) == 1, "in one commit all the same"
    await rig.assert_exactly_once()
