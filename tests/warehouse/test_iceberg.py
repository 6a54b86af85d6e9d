"""Iceberg: what the contract suite can't see. Commits that race or get lost, small files, days, REST."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from pyiceberg.table import Table

from mainstem.iceberg import commits, upkeep
from mainstem.secret import Secret
from mainstem.warehouse import lake_tables
from mainstem.warehouse.loader import Done, TableFailed, WarehouseError
from mainstem.warehouse.loaders import iceberg_tables
from mainstem.warehouse.loaders.iceberg import Config, open_loader
from mainstem.warehouse.loaders.iceberg_tables import IcebergLoader
from mainstem.warehouse.schema import LOADS
from tests.warehouse.contract.rows import EVENT, create, ids, load_of, staged, values
from tests.warehouse.iceberg_rest import TOKEN, rest_catalog

DAY = "2026-01-{:02}T00:00:00Z"


def opened(folder: Path, **settings: Any) -> IcebergLoader:
    loader = open_loader(Config(**settings), "shop", folder)
    assert isinstance(loader, IcebergLoader)
    loader.check()
    return loader


@pytest.fixture
def loader(tmp_path: Path) -> Iterator[IcebergLoader]:
    loader = opened(tmp_path)
    create(loader, "orders", EVENT)
    yield loader
    loader.close()


def row(row_id: str, day: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": row_id, "received_at": DAY.format(day), **more}


def test_a_load_that_somebody_commits_meanwhile_is_seen(loader: IcebergLoader, tmp_path: Path) -> None:
    """pyiceberg by itself would put the same rows on top of the other's."""
    table = staged(loader, tmp_path, "orders", EVENT, [row("a")], mode="append")
    other = opened(tmp_path)
    real = lake_tables.rows_of
    calls: list[int] = []

    def meanwhile(*given: Any) -> Any:
        if not calls:
            calls.append(1)
            assert other.load(load_of(1), table) == Done(1)
        return real(*given)

    with patch.object(lake_tables, "rows_of", meanwhile):
        assert loader.load(load_of(1), table).already
    assert ids(loader, "shop", "orders") == ["a"]
    assert len(loader.loads("shop")) == 1
    other.close()


def test_other_loads_meanwhile_are_gone_around(loader: IcebergLoader, tmp_path: Path) -> None:
    other = opened(tmp_path)
    real = lake_tables.rows_of
    calls: list[int] = []

    def meanwhile(*given: Any) -> Any:
        if len(calls) < 3:
            calls.append(1)
            number = 10 + len(calls)
            other.load(load_of(number), staged(other, tmp_path, "orders", EVENT, [row(f"o{number}")]))
        return real(*given)

    with patch.object(lake_tables, "rows_of", meanwhile):
        assert loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, [row("a")])) == Done(1)
    assert ids(loader, "shop", "orders") == ["a", "o11", "o12", "o13"]
    data = list((tmp_path / "iceberg" / "shop" / "orders" / "data").rglob("*.parquet"))
    assert len(data) == 4, "commits that came too late leave no files"
    other.close()


@pytest.mark.parametrize("lands", [False, True])
@pytest.mark.parametrize("commit", [0, 1])
def test_a_commit_whose_answer_is_lost(
    loader: IcebergLoader, tmp_path: Path, lands: bool, commit: int
) -> None:
    """Before each of the two commits of a load (rows, `_mainstem_loads`), and behind each."""
    table = staged(loader, tmp_path, "orders", EVENT, [row("a"), row("b")])
    catalog = loader._catalog
    real, count = catalog.commit_table, 0

    def failing(*given: Any) -> Any:
        nonlocal count
        count += 1
        if count - 1 != commit:
            return real(*given)
        if lands:
            real(*given)
        raise CommitStateUnknownException("no answer")

    with (
        patch.object(catalog, "commit_table", failing),
        pytest.raises(WarehouseError, match=r"table .*no answer"),
    ):
        loader.load(load_of(1), table)
    assert ids(loader, "shop", "orders") == ([] if commit == 0 and not lands else ["a", "b"])
    assert loader.load(load_of(1), table).already == (lands or commit == 1)
    assert ids(loader, "shop", "orders") == ["a", "b"]
    assert [found.load_id for found in loader.loads("shop")] == [load_of(1).id]


def test_a_load_is_known_when_its_snapshot_is_expired(loader: IcebergLoader, tmp_path: Path) -> None:
    table = staged(loader, tmp_path, "orders", EVENT, [row("a")], mode="append")
    loader.load(load_of(1), table)
    loader.load(load_of(2), staged(loader, tmp_path, "orders", EVENT, [row("b")], mode="append"))
    loader.compact("orders", keep=timedelta(0))
    assert len(loader._load_table("orders").snapshots()) == 1
    assert loader.load(load_of(1), table).already
    assert ids(loader, "shop", "orders") == ["a", "b"]


def test_notes_of_loads_do_not_pile_up(loader: IcebergLoader, tmp_path: Path) -> None:
    with (
        patch.multiple(iceberg_tables, _MOST_NOTES=5, _NOTES_KEEP=timedelta(0)),
        patch.object(commits, "_REMEMBERED", 3),
    ):
        tables = [staged(loader, tmp_path, "orders", EVENT, [row(f"{n}")], mode="append") for n in range(30)]
        for number, table in enumerate(tables):
            loader.load(load_of(number), table)
        for number, table in enumerate(tables):
            assert loader.load(load_of(number), table).already
    notes = loader._load_table(LOADS)
    assert len(notes.snapshots()) <= 6
    lists = list((tmp_path / "iceberg" / "shop").glob(f"{LOADS}/metadata/snap-*.avro"))
    assert len(lists) == len(notes.snapshots()), "what old snapshots had is removed"
    assert sorted(noted.load_id for noted in loader.loads("shop")) == sorted(load_of(n).id for n in range(30))


def test_only_the_last_of_old_snapshots_that_add_is_kept(loader: IcebergLoader, tmp_path: Path) -> None:
    for number in range(3):
        table = staged(loader, tmp_path, "orders", EVENT, [row(f"{number}")], mode="append")
        loader.load(load_of(number), table)
    with patch.object(upkeep, "_THIN", timedelta(0)):
        assert loader.compact("orders", keep=timedelta(days=1)).snapshots_expired == 2
    assert ids(loader, "shop", "orders") == ["0", "1", "2"]


@pytest.mark.parametrize("read", [1, 2])
def test_two_let_go_of_old_snapshots_at_the_same_time(
    loader: IcebergLoader, tmp_path: Path, read: int
) -> None:
    """Whenever one has read the table, the other loads and lets go of all that it sees."""
    for number in range(4):
        table = staged(loader, tmp_path, "orders", EVENT, [row(f"{number}")], mode="append")
        loader.load(load_of(number), table)
    now = upkeep.Wanted(keep=timedelta(0))
    other = opened(tmp_path)
    reads: list[int] = []

    def found() -> Table:
        table = loader._load_table("orders")
        reads.append(1)
        if len(reads) == read:
            other.load(load_of(9), staged(other, tmp_path, "orders", EVENT, [row("9")], mode="append"))
            upkeep.compact(lambda: other._load_table("orders"), now)
        return table

    upkeep.expire(found, now)
    upkeep.expire(lambda: loader._load_table("orders"), now)
    other.close()
    assert len(loader._load_table("orders").snapshots()) == 1
    assert sorted(ids(loader, "shop", "orders")) == ["0", "1", "2", "3", "9"]
    metadata = tmp_path / "iceberg" / "shop" / "orders" / "metadata"
    assert len(list(metadata.glob("snap-*.avro"))) == 1, "what old snapshots had is removed"
    data = list((tmp_path / "iceberg" / "shop" / "orders" / "data").rglob("*.parquet"))
    assert len(data) == len(list(loader._load_table("orders").scan().plan_files()))


def test_small_files_are_joined(loader: IcebergLoader, tmp_path: Path) -> None:
    for number in range(6):
        rows = [row(f"{number}-{day}", day, count=number) for day in (1, 2)]
        loader.load(load_of(number), staged(loader, tmp_path, "orders", EVENT, rows, mode="append"))
    before = loader._load_table("orders")
    assert len(list(before.scan().plan_files())) == 12
    found = loader.compact("orders", keep=timedelta(0))
    assert (found.files_before, found.files_after) == (12, 2)
    assert found.snapshots_expired >= 6
    assert len(ids(loader, "shop", "orders")) == 12
    data = list((tmp_path / "iceberg" / "shop" / "orders" / "data").rglob("*.parquet"))
    assert len(data) == 2, "files that nobody needs are removed"
    assert values(loader, "orders", "5-2", "count") == [5]
    assert loader.compact("orders").files_after == 2
    loader.load(load_of(9), staged(loader, tmp_path, "orders", EVENT, [row("0-1", 3)]))
    assert len(ids(loader, "shop", "orders")) == 12


def test_a_day_that_changes_meanwhile_is_left(loader: IcebergLoader, tmp_path: Path) -> None:
    for number in range(4):
        loader.load(load_of(number), staged(loader, tmp_path, "orders", EVENT, [row(str(number))]))
    with patch.object(upkeep, "join", side_effect=CommitFailedException("changed")):
        assert loader.compact("orders").files_after == 4
    assert len(ids(loader, "shop", "orders")) == 4


def test_replacing_writes_only_files_that_hold_the_row(loader: IcebergLoader, tmp_path: Path) -> None:
    loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, [row("a"), row("b"), row("c", 2)]))
    before = {task.file.file_path for task in loader._load_table("orders").scan().plan_files()}
    snapshots = len(loader._load_table("orders").snapshots())
    loader.load(load_of(2), staged(loader, tmp_path, "orders", EVENT, [row("a", 3, count=2), row("z", 3)]))
    after = {task.file.file_path for task in loader._load_table("orders").scan().plan_files()}
    assert len(before & after) == 1
    assert len(after) == 3
    assert len(loader._load_table("orders").snapshots()) == snapshots + 1, "one commit, seen at once"
    assert ids(loader, "shop", "orders") == ["a", "b", "c", "z"]


def test_several_begin_at_the_same_time(tmp_path: Path) -> None:
    """The catalog's own tables, the namespace and `_mainstem_loads` are made by whoever comes first."""
    for attempt in range(5):
        barrier = threading.Barrier(4)
        wrong: list[BaseException] = []

        def begin(folder: Path, barrier: threading.Barrier, wrong: list[BaseException]) -> None:
            barrier.wait()
            try:
                opened(folder).close()
            except WarehouseError as error:
                wrong.append(error)

        folder = tmp_path / str(attempt)
        threads = [threading.Thread(target=begin, args=(folder, barrier, wrong)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert wrong == []


def test_files_lie_by_day(loader: IcebergLoader, tmp_path: Path) -> None:
    loader.load(
        load_of(1),
        staged(loader, tmp_path, "orders", EVENT, [row("a"), row("b", 2), {"id": "c"}]),
    )
    days = {repr(task.file.partition) for task in loader._load_table("orders").scan().plan_files()}
    assert len(days) == 3


def test_years_at_the_ends(loader: IcebergLoader, tmp_path: Path) -> None:
    rows = [
        {"id": "first", "received_at": "0001-01-01T00:00:00Z"},
        {"id": "last", "received_at": "9999-12-31T23:59:59.999999Z"},
    ]
    loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, rows))
    found = loader._load_table("orders").scan().to_arrow().sort_by("id")
    assert [str(time.cast("int64")) for time in found["received_at"]] == [
        "-62135596800000000",
        "253402300799999999",
    ]


def test_ids_are_looked_for_within_days(tmp_path: Path) -> None:
    loader = opened(tmp_path, dedupe_days=3)
    create(loader, "orders", EVENT)
    loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, [row("old", 1), row("new", 9)]))
    again = [row("old", 10, count=2), row("new", 10, count=2)]
    loader.load(load_of(2), staged(loader, tmp_path, "orders", EVENT, again))
    assert ids(loader, "shop", "orders") == ["new", "old", "old"]
    loader.close()


def test_names_of_any_kind_have_folders(loader: IcebergLoader, tmp_path: Path) -> None:
    name = "üb/er.. straße 'x'"
    create(loader, name, EVENT)
    loader.load(load_of(1), staged(loader, tmp_path, name, EVENT, [row("a")]))
    assert ids(loader, "shop", name) == ["a"]
    folders = {path.name for path in (tmp_path / "iceberg" / "shop").iterdir()}
    assert all(folder.isascii() for folder in folders)
    assert {LOADS, "orders"} <= folders


def test_json_is_remembered(loader: IcebergLoader) -> None:
    create(loader, "carts", {"id": "string", "cart": "json", "note": "text"})
    other = loader.fetch_schema()["carts"]
    assert other == {"id": "string", "cart": "json", "note": "text", "uuid_ts": "datetime"}


def test_a_rest_catalog(tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    behind = SqlCatalog("behind", uri=f"sqlite:///{tmp_path / 'rest.db'}", warehouse=tables.as_uri())
    with rest_catalog(behind) as uri:
        settings = {"catalog": "rest", "catalog_uri": Secret(uri)}
        with pytest.raises(WarehouseError, match="catalog"):
            opened(tmp_path, **settings)
        loader = opened(tmp_path, **settings, catalog_token=Secret(TOKEN))
        create(loader, "orders", EVENT)
        create(loader, "orders", {**EVENT, "more": "int"})
        table = staged(loader, tmp_path, "orders", EVENT, [row("a"), row("b")])
        assert loader.load(load_of(1), table) == Done(2)
        assert loader.load(load_of(1), table).already
        loader.load(load_of(2), staged(loader, tmp_path, "orders", EVENT, [row("b", 2, count=2)]))
        assert ids(loader, "shop", "orders") == ["a", "b"]
        assert values(loader, "orders", "b", "count") == [2]
        assert [found.sequence for found in loader.loads("shop")] == [2, 1]
        loader.close()
    behind.close()


def test_what_is_wrong_is_said_without_secrets(tmp_path: Path) -> None:
    secret = "postgresql+nothing://me:hunter2@localhost/x"
    with pytest.raises(WarehouseError, match="catalog") as caught:
        open_loader(Config(catalog_uri=Secret(secret)), "shop", tmp_path)
    assert "hunter2" not in str(caught.value)
    loader = opened(tmp_path)
    with pytest.raises(TableFailed, match="nowhere"):
        loader.compact("nowhere")
    loader.close()
