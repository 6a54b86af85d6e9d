"""What only MySQL and MariaDB have: warnings for errors, files that are none, rounding, and a server that dies."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from mainstem.secret import Secret
from mainstem.warehouse.loader import TableFailed, WarehouseError
from mainstem.warehouse.loaders.mysql import MysqlLoader, marked, open_loader
from mainstem.warehouse.schema import AddColumns, ColumnType, CreateTable, WidenColumn
from tests.components.mariadb import MariadbServer
from tests.warehouse.contract.databases import mysql_config
from tests.warehouse.contract.rows import EVENT, create, event, ids, load_of, staged, values
from tests.warehouse.servers import WRONG, dies_and_comes_back, no_connection


@pytest.fixture(name="loader")
def _loader(mariadb_server: MariadbServer, tmp_path: Path) -> Iterator[MysqlLoader]:
    loader = open_loader(mysql_config(mariadb_server.port), f"m_{uuid4().hex[:12]}", tmp_path)
    loader.check()
    yield loader
    loader.close()


@pytest.mark.parametrize("sends_files", [True, False])
def test_a_value_beyond_its_column_fails_the_table_and_leaves_nothing(
    loader: MysqlLoader, tmp_path: Path, sends_files: bool
) -> None:
    loader._sends_files = sends_files
    loader.query(
        f"CREATE TABLE {loader.place('orders')} (id varchar(5), received_at datetime, count int, name varchar(99))"
    )
    columns: dict[str, ColumnType] = {name: EVENT[name] for name in ("id", "received_at", "count", "name")}
    for number, row in enumerate([event("1", count=987654321987), event("too long")]):
        rows = [event("ok", count=1), row]
        with pytest.raises(TableFailed, match=r"MODIFY") as failed:
            loader.load(load_of(number), staged(loader, tmp_path, "orders", columns, rows, mode="append"))
        assert "987654321987" not in str(failed.value)
        assert ids(loader, loader.namespace, "orders") == []
    assert loader.loads("shop") == []
    good = staged(loader, tmp_path, "orders", columns, [event("ok", count=1)])
    loader.load(load_of(7), good)
    assert ids(loader, loader.namespace, "orders") == ["ok"]


def test_a_server_that_takes_no_files_gets_inserts(tmp_path: Path) -> None:
    with MariadbServer("--local-infile=0") as server:
        loader = open_loader(mysql_config(server.port), "n", tmp_path)
        create(loader, "orders", EVENT)
        row = event("1", name="per cent % and ? and \\", total=0.1)
        loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, [row]))
        assert values(loader, "orders", "1", "name", "total") == [row["name"], 0.1]
        assert not loader._sends_files
        loader.close()


def test_no_file_is_ever_sent(loader: MysqlLoader, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret\n")
    place = loader.place("stolen")
    loader.query(f"CREATE TABLE {place} (line LONGTEXT)")
    loader.query(f"LOAD DATA LOCAL INFILE '{secret}' INTO TABLE {place}")
    assert loader.query(f"SELECT COUNT(*) FROM {place}")[0][0] == 0


def test_a_decimal_column_takes_large_integers_and_decimals(loader: MysqlLoader, tmp_path: Path) -> None:
    columns: dict[str, ColumnType] = {"id": "string", "received_at": "datetime", "count": "int"}
    create(loader, "orders", columns)
    loader.load(load_of(1), staged(loader, tmp_path, "orders", columns, [event("1", count=2**53 + 1)]))
    loader.query(f"ALTER TABLE {loader.place('orders')} MODIFY count DECIMAL(65, 20)")
    loader.evolve([WidenColumn("orders", "count", "int", "float")])
    wide: dict[str, ColumnType] = {**columns, "count": "float"}
    loader.load(load_of(2), staged(loader, tmp_path, "orders", wide, [event("2", count=0.5)]))
    assert [
        int(values(loader, "orders", "1", "count")[0]),
        float(values(loader, "orders", "2", "count")[0]),
    ] == [
        2**53 + 1,
        0.5,
    ]


def test_names_that_can_not_be_are_refused(loader: MysqlLoader) -> None:
    create(loader, "orders", {"id": "string"})
    for name in ("𐐷", "x" * 65):
        with pytest.raises(TableFailed, match="rename") as failed:
            loader.evolve([AddColumns("orders", {name: "int"})])
        assert failed.value.table == "orders"


def test_many_texts(loader: MysqlLoader, tmp_path: Path) -> None:
    columns: dict[str, ColumnType] = {
        "id": "string",
        "received_at": "datetime",
        **{f"c{n}": "string" for n in range(600)},
    }
    create(loader, "wide", columns)
    row = event("1") | {f"c{n}": f"a text of some length {n}" for n in range(0, 600, 4)}
    loader.load(load_of(1), staged(loader, tmp_path, "wide", columns, [row]))
    assert values(loader, "wide", "1", "c0", "c596") == [row["c0"], row["c596"]]
    with pytest.raises(TableFailed, match="jsonPaths"):
        loader.evolve([CreateTable("wider", {f"c{n}": "int" for n in range(1200)})])


def test_why_there_is_no_connection(mariadb_server: MariadbServer, tmp_path: Path) -> None:
    good = mysql_config(mariadb_server.port)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"password": WRONG}, r"`password`"),
        ({"port": 1}, r"127\.0\.0\.1:1: .*`port`"),
        ({"ssl_mode": "require"}, r"sslMode"),
        ({"ssl_mode": "verify-full", "server_ca": "no PEM"}, r"PEM"),
    ]
    no_connection(lambda config: open_loader(config, "n", tmp_path), good, refused)


def test_a_user_with_little_right(mariadb_server: MariadbServer, loader: MysqlLoader, tmp_path: Path) -> None:
    user = f"u_{uuid4().hex[:8]}"
    create(loader, "orders", EVENT)
    loader.query(f"CREATE USER '{user}'@'127.0.0.1' IDENTIFIED BY 'words-of-its-own'")
    rights = "SELECT, INSERT, UPDATE, DELETE, CREATE TEMPORARY TABLES"
    loader.query(f"GRANT {rights} ON {loader.quoted(loader.namespace)}.* TO '{user}'@'127.0.0.1'")
    config = msgspec.structs.replace(
        mysql_config(mariadb_server.port), user=user, password=Secret("words-of-its-own")
    )
    small = open_loader(config, loader.namespace, tmp_path)
    small.check()
    small.load(load_of(1), staged(small, tmp_path, "orders", EVENT, [event("1")]))
    assert ids(small, loader.namespace, "orders") == ["1"]
    with pytest.raises(TableFailed, match="GRANT"):
        small.evolve([AddColumns("orders", {"x": "int"})])
    small.close()
    elsewhere = open_loader(config, "elsewhere", tmp_path)
    with pytest.raises(WarehouseError, match=r"elsewhere.*GRANT"):
        elsewhere.check()
    elsewhere.close()


def test_a_server_that_dies_and_comes_back(tmp_path: Path) -> None:
    with MariadbServer("--innodb-flush-log-at-trx-commit=1") as server:
        config = mysql_config(server.port)
        dies_and_comes_back(server, lambda: open_loader(config, "n", tmp_path), tmp_path)


def test_question_marks_and_per_cents() -> None:
    assert marked("SELECT ? FROM \"a?%\" WHERE x = '?\\'%' AND y % 2 = ?") == (
        "SELECT %s FROM \"a?%%\" WHERE x = '?\\'%%' AND y %% 2 = %s"
    )
