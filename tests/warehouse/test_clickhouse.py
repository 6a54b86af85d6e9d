"""ClickHouse: what the contract suite can't see. Breaks between the two inserts, forgotten tokens, clusters' SQL."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import OperationalError

from mainstem.secret import Secret
from mainstem.warehouse.loader import Done, TableFailed, WarehouseError
from mainstem.warehouse.loaders.clickhouse import ClickhouseLoader, Config, connect, open_loader
from mainstem.warehouse.schema import AddColumns, ColumnType, CreateTable, WidenColumn
from tests.warehouse.contract.rows import EVENT, create, ids, load_of, staged, values

DAY = "2026-01-{:02}T00:00:00Z"


def row(row_id: str | None, day: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": row_id, "received_at": DAY.format(day), **more}


@pytest.fixture
def loader(tmp_path: Path) -> Iterator[ClickhouseLoader]:
    client = clickhouse_connect.get_client(dsn=f"chdb:///{tmp_path / 'clickhouse'}")
    loader = ClickhouseLoader(client, "shop")
    loader.check()
    create(loader, "orders", EVENT)
    yield loader
    loader.close()


def unmerged(loader: ClickhouseLoader, table: str) -> int:
    """How many rows there are without `FINAL`."""
    [[count]] = loader.query(f"SELECT count() FROM shop.{table}")
    return int(count)


@pytest.mark.parametrize("lands", [False, True])
@pytest.mark.parametrize("insert", [0, 1])
@pytest.mark.parametrize("mode", ["append", "replace by id", "latest by id"])
def test_an_insert_whose_answer_is_lost(
    loader: ClickhouseLoader, tmp_path: Path, lands: bool, insert: int, mode: Any
) -> None:
    """Before each of the two inserts of a load (rows, `_mainstem_loads`), and behind each."""
    table = staged(loader, tmp_path, "orders", EVENT, [row("a"), row("b")], mode=mode)
    real, count = loader._client.insert_arrow, 0

    def failing(*given: Any, **more: Any) -> Any:
        nonlocal count
        count += 1
        if count - 1 != insert:
            return real(*given, **more)
        if lands:
            real(*given, **more)
        raise OperationalError("connection lost")

    with (
        patch.object(loader._client, "insert_arrow", failing),
        pytest.raises(WarehouseError, match="connection lost"),
    ):
        loader.load(load_of(1), table)
    assert loader.load(load_of(1), table).already == (lands and insert == 1)
    assert ids(loader, "shop", "orders") == ["a", "b"]
    assert unmerged(loader, "orders") == 2, "the server knew the token"
    assert [found.load_id for found in loader.loads("shop")] == [load_of(1).id]


@pytest.mark.parametrize("mode", ["append", "replace by id", "latest by id"])
def test_a_forgotten_token_does_no_harm(loader: ClickhouseLoader, tmp_path: Path, mode: Any) -> None:
    table = staged(loader, tmp_path, "orders", EVENT, [row("a", count=1), row(None)], mode=mode)
    loader.load(load_of(1), table)
    loader._command("ALTER TABLE shop.orders MODIFY SETTING non_replicated_deduplication_window = 0")
    loader._command("TRUNCATE TABLE shop._mainstem_loads")
    loader._command("ALTER TABLE shop._mainstem_loads MODIFY SETTING non_replicated_deduplication_window = 0")
    assert loader.load(load_of(1), table) == Done(2)
    assert unmerged(loader, "orders") == 4
    assert ids(loader, "shop", "orders") == ["", "a"]


def test_the_latest_stays_whoever_comes_last(loader: ClickhouseLoader, tmp_path: Path) -> None:
    for number, day in enumerate([2, 3, 1]):
        table = staged(loader, tmp_path, "orders", EVENT, [row("a", day, count=day)])
        loader.load(load_of(number), table)
    assert values(loader, "orders", "a", "count") == [3]
    loader._command("OPTIMIZE TABLE shop.orders FINAL")
    assert unmerged(loader, "orders") == 1


def test_rows_kept_side_by_side_survive_merges(loader: ClickhouseLoader, tmp_path: Path) -> None:
    for number in range(3):
        rows = [row("a", count=number), row(None), row(None, 2)]
        loader.load(load_of(number), staged(loader, tmp_path, "orders", EVENT, rows, mode="append"))
    loader._command("OPTIMIZE TABLE shop.orders FINAL")
    assert ids(loader, "shop", "orders") == [""] * 6 + ["a"] * 3


def test_hidden_columns_stay_hidden(loader: ClickhouseLoader, tmp_path: Path) -> None:
    loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, [row("a")]))
    [found] = loader.query("SELECT * FROM shop.orders FINAL")
    assert len(found) == len(EVENT) + 1


def test_tables_without_ids(loader: ClickhouseLoader, tmp_path: Path) -> None:
    columns: dict[str, ColumnType] = {"table_name": "string", "received_at": "datetime"}
    create(loader, "rudder_discards", columns)
    rows = [{"table_name": "orders"}, {"table_name": "orders"}]
    table = staged(loader, tmp_path, "rudder_discards", columns, rows, mode="append")
    assert loader.load(load_of(1), table) == Done(2)
    assert loader.load(load_of(1), table).already
    assert unmerged(loader, "rudder_discards") == 2


def test_a_table_that_got_its_ids_later_keeps_all_rows(loader: ClickhouseLoader, tmp_path: Path) -> None:
    before: dict[str, ColumnType] = {"table_name": "string", "received_at": "datetime"}
    create(loader, "rudder_discards", before)
    loader.load(load_of(1), staged(loader, tmp_path, "rudder_discards", before, [{"table_name": "orders"}]))
    now: dict[str, ColumnType] = {"id": "string", **before}
    loader.evolve([AddColumns("rudder_discards", {"id": "string"})])
    rows = [{"id": "a", "table_name": "orders"}, {"id": "b", "table_name": "orders"}]
    loader.load(load_of(2), staged(loader, tmp_path, "rudder_discards", now, rows))
    loader._command("OPTIMIZE TABLE shop.rudder_discards FINAL")
    found = loader.query("SELECT id FROM shop.rudder_discards FINAL ORDER BY id")
    assert sorted(row[0] or "" for row in found) == ["", "a", "b"]


def test_many_users_are_merged(loader: ClickhouseLoader, tmp_path: Path) -> None:
    columns: dict[str, ColumnType] = {"id": "string", "received_at": "datetime", "a": "int", "b": "int"}
    create(loader, "users", columns)
    first = [row(f"u'{n}", 1, a=n) for n in range(2_500)]
    loader.load(load_of(1), staged(loader, tmp_path, "users", columns, first, mode="latest by id"))
    second = [row(f"u'{n}", 2, b=n) for n in range(2_500)]
    loader.load(load_of(2), staged(loader, tmp_path, "users", columns, second, mode="latest by id"))
    [[count, same]] = loader.query("SELECT count(), countIf(a = b) FROM shop.users FINAL")
    assert (count, same) == (2_500, 2_500)


def test_too_long_a_name(loader: ClickhouseLoader) -> None:
    with pytest.raises(TableFailed, match="so long a name"):
        loader.evolve([CreateTable("ü" * 60, EVENT)])


def test_what_a_cluster_is_told() -> None:
    told: list[str] = []
    there = [("orders", name, "Nullable(String)", "") for name in ("id", "received_at")]
    client = SimpleNamespace(
        command=told.append,
        query=lambda sql, **_: SimpleNamespace(result_rows=there if sql.startswith("SELECT table, ") else []),
        close=lambda: None,
    )
    loader = ClickhouseLoader(client, "shop", cluster="main")
    loader.evolve(
        [
            CreateTable("orders", {"id": "string", "received_at": "datetime"}),
            AddColumns("orders", {"note": "json"}),
            WidenColumn("orders", "count", "int", "float"),
        ]
    )
    assert told[0] == "CREATE DATABASE IF NOT EXISTS `shop` ON CLUSTER `main`"
    assert (
        "ENGINE = ReplicatedReplacingMergeTree('/clickhouse/{cluster}/tables/{database}/{table}', '{replica}',"
        " _mainstem_version) ORDER BY (`id`, `_mainstem_part`)"
    ) in told[2]
    assert "replicated_deduplication_window_seconds = 604800" in told[2]
    assert told[3] == (
        "ALTER TABLE `shop`.`orders` ON CLUSTER `main`"
        " ADD COLUMN IF NOT EXISTS `note` Nullable(String) COMMENT 'json'"
    )
    assert told[4] == "ALTER TABLE `shop`.`orders` ON CLUSTER `main` MODIFY COLUMN `count` Nullable(Float64)"


def test_settings_become_a_connection(tmp_path: Path) -> None:
    given: dict[str, Any] = {}
    connect(
        Config(host="h", port=9440, user="me", password=Secret("hunter2"), skip_verify=True),
        lambda **settings: given.update(settings),
    )
    assert (given["host"], given["port"], given["secure"], given["verify"]) == ("h", 8443, True, False)
    assert (given["username"], given["password"]) == ("me", "hunter2")
    with pytest.raises(WarehouseError, match=r"127\.0\.0\.1:1: .*see `host`") as caught:
        open_loader(
            Config(host="127.0.0.1", port=1, secure=False, password=Secret("hunter2")), "shop", tmp_path
        )
    assert "hunter2" not in str(caught.value)
