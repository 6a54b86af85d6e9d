"""What only Postgres has: tables that somebody else made, rights, views, certificates, and a server that dies."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trustme

from mainstem.secret import Secret
from mainstem.warehouse.loader import TableFailed, WarehouseError
from mainstem.warehouse.loaders.pg_wire import clean_json, csv_blocks, numbered
from mainstem.warehouse.loaders.postgres import Config, PostgresLoader, open_loader
from mainstem.warehouse.schema import AddColumns, ColumnType, CreateTable, WidenColumn
from tests.components.postgres import PostgresServer
from tests.warehouse.contract.databases import postgres_config
from tests.warehouse.contract.rows import EVENT, create, event, ids, load_of, staged, values
from tests.warehouse.servers import WRONG, dies_and_comes_back, no_connection
from tests.warehouse.tls_front import TlsFront


@pytest.fixture(name="loader")
def _loader(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[PostgresLoader]:
    loader = open_loader(postgres_config(postgres_server.port), f"p_{uuid4().hex[:12]}", tmp_path)
    loader.check()
    yield loader
    loader.close()


# ---------------------------------------------------------------- tables of somebody else's


def test_a_table_with_other_types_is_loaded_as_it_is(loader: PostgresLoader, tmp_path: Path) -> None:
    place = loader.place("orders")
    loader.query(
        f"CREATE TABLE {place} (id varchar(40), received_at timestamp, name varchar, total double precision,"
        " count integer, vip boolean, uuid_ts timestamp, born date, cart json, own_column text DEFAULT 'kept')"
    )
    columns: dict[str, ColumnType] = {**EVENT, "born": "datetime", "cart": "json"}
    assert loader.fetch_schema()["orders"]["total"] == "float"
    row = event("1", total=0.1, count=7, vip=True, name="x", born="2026-02-03T00:00:00Z", cart={"a": 1})
    loader.load(load_of(1), staged(loader, tmp_path, "orders", columns, [row]))
    assert values(loader, "orders", "1", "total", "count", "own_column") == [0.1, 7, "kept"]
    [[born, cart, noted]] = loader.query(f"SELECT born::text, cart::text, uuid_ts IS NOT NULL FROM {place}")
    assert (born, cart, noted) == ("2026-02-03", '{"a":1}', True)


def test_a_value_beyond_its_column_fails_the_table_without_showing_it(
    loader: PostgresLoader, tmp_path: Path
) -> None:
    loader.query(f"CREATE TABLE {loader.place('orders')} (id text, received_at timestamptz, count integer)")
    columns: dict[str, ColumnType] = {"id": "string", "received_at": "datetime", "count": "int"}
    with pytest.raises(TableFailed, match=r"integer.*ALTER TABLE") as failed:
        loader.load(load_of(1), staged(loader, tmp_path, "orders", columns, [event("1", count=987654321987)]))
    assert "987654321987" not in str(failed.value)
    assert "count" in str(failed.value)
    assert ids(loader, loader.namespace, "orders") == []


def test_a_view_holds_a_widening_up_and_the_text_says_so(loader: PostgresLoader) -> None:
    create(loader, "orders", {"id": "string", "count": "int"})
    view = loader.place("v")
    loader.query(f"CREATE VIEW {view} AS SELECT count FROM {loader.place('orders')}")
    change = WidenColumn("orders", "count", "int", "float")
    with pytest.raises(TableFailed, match="view") as failed:
        loader.evolve([change])
    assert "drop the view" in failed.value.advice
    loader.query(f"DROP VIEW {view}")
    loader.evolve([change])
    assert loader.fetch_schema()["orders"]["count"] == "float"


def test_a_table_that_is_there_gets_the_columns_it_lacks(loader: PostgresLoader) -> None:
    loader.evolve([CreateTable("orders", {"id": "string"})])
    loader.evolve([CreateTable("orders", {"id": "string", "note": "string"})])
    assert loader.fetch_schema()["orders"] == {"id": "string", "note": "string"}


def test_long_ids_fit(loader: PostgresLoader, tmp_path: Path) -> None:
    create(loader, "orders", EVENT)
    long = "x" * 20_000
    for number in (1, 2):
        loader.load(load_of(number), staged(loader, tmp_path, "orders", EVENT, [event(long, number)]))
    assert ids(loader, loader.namespace, "orders") == [long]


def test_a_name_that_is_too_long_is_refused_not_cut(loader: PostgresLoader) -> None:
    create(loader, "orders", {"id": "string"})
    with pytest.raises(TableFailed, match="longer than 63 bytes"):
        loader.evolve([AddColumns("orders", {"ä" * 32: "int"})])


def test_too_many_columns_say_what_to_do(loader: PostgresLoader) -> None:
    with pytest.raises(TableFailed, match="jsonPaths"):
        loader.evolve([CreateTable("wide", {f"c{n}": "int" for n in range(1700)})])


# ---------------------------------------------------------------- rights


def test_a_user_with_little_right(
    postgres_server: PostgresServer, loader: PostgresLoader, tmp_path: Path
) -> None:
    user = f"u_{uuid4().hex[:8]}"
    create(loader, "orders", EVENT)
    loader.query(f"CREATE ROLE {user} LOGIN PASSWORD 'words-of-its-own'")
    schema = loader.quoted(loader.namespace)
    loader.query(f"GRANT USAGE ON SCHEMA {schema} TO {user}")
    loader.query(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {user}")
    config = msgspec.structs.replace(
        postgres_config(postgres_server.port), user=user, password=Secret("words-of-its-own")
    )
    small = open_loader(config, loader.namespace, tmp_path)
    try:
        small.check()
        small.load(load_of(1), staged(small, tmp_path, "orders", EVENT, [event("1")]))
        assert ids(small, loader.namespace, "orders") == ["1"]
        with pytest.raises(TableFailed, match=r"(?s)permission|owner") as failed:
            small.evolve([AddColumns("orders", {"x": "int"})])
        assert "GRANT" in failed.value.advice
    finally:
        small.close()
    elsewhere = open_loader(config, "elsewhere", tmp_path)
    try:
        with pytest.raises(WarehouseError, match=r"schema elsewhere.*GRANT CREATE"):
            elsewhere.check()
    finally:
        elsewhere.close()


# ---------------------------------------------------------------- connections


def test_why_there_is_no_connection(postgres_server: PostgresServer, tmp_path: Path) -> None:
    good = postgres_config(postgres_server.port)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"password": WRONG}, r"`password`"),
        ({"database": "nowhere"}, r"nowhere.*`database`"),
        ({"port": 1}, r"127\.0\.0\.1:1/.*`port`"),
        ({"ssl_mode": "require"}, r"sslMode"),
        ({"ssl_mode": "verify-full", "server_ca": "no PEM"}, r"PEM"),
    ]
    no_connection(lambda config: open_loader(config, "n", tmp_path), good, refused)


def test_tunnels_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="ssh -L"):
        Config(host="h", database="d", user="u", use_ssh=True)
    assert "words" not in repr(Config(host="h", database="d", user="u", password=Secret("words")))


def test_certificates(postgres_server: PostgresServer, tmp_path: Path) -> None:
    authority = trustme.CA()
    server_certificate = authority.issue_cert("127.0.0.1")
    client = authority.issue_cert(common_name="mainstem")
    chain = b"".join(blob.bytes() for blob in client.cert_chain_pems).decode()
    key = client.private_key_pem.bytes().decode()
    root = authority.cert_pem.bytes().decode()
    with TlsFront(postgres_server.port, server_certificate, authority) as front:
        base = msgspec.structs.replace(postgres_config(front.port), ssl_mode="verify-full", server_ca=root)
        shown = msgspec.structs.replace(base, client_cert=chain, client_key=Secret(key))
        for config, client_is_known in (
            (base, False),
            (shown, True),
            (msgspec.structs.replace(shown, ssl_mode="verify-ca"), True),
            (msgspec.structs.replace(shown, ssl_mode="require"), True),
            (msgspec.structs.replace(base, ssl_mode="require", server_ca=""), False),
        ):
            loader = open_loader(config, "n", tmp_path)
            assert loader.query("SELECT 1") == [(1,)]
            loader.close()
            assert front.clients.pop() == client_is_known
        other_name = msgspec.structs.replace(base, host="localhost")
        with pytest.raises(WarehouseError, match=r"(?i)hostname|certificate"):
            open_loader(other_name, "n", tmp_path)
        open_loader(msgspec.structs.replace(other_name, ssl_mode="verify-ca"), "n", tmp_path).close()
        stranger = trustme.CA().cert_pem.bytes().decode()
        with pytest.raises(WarehouseError, match="certificate"):
            open_loader(msgspec.structs.replace(base, server_ca=stranger), "n", tmp_path)


def test_a_server_that_dies_and_comes_back(tmp_path: Path) -> None:
    with PostgresServer("fsync=on") as server:
        config = postgres_config(server.port)
        dies_and_comes_back(server, lambda: open_loader(config, "n", tmp_path), tmp_path)


async def test_it_works_where_a_loop_is_running(postgres_server: PostgresServer, tmp_path: Path) -> None:
    loader = open_loader(postgres_config(postgres_server.port), "n", tmp_path)
    assert loader.query("SELECT 1") == [(1,)]
    loader.close()
    loader.close()
    with pytest.raises(WarehouseError, match="closed"):
        loader.query("SELECT 1")


async def test_readers_never_wait_for_a_load(postgres_server: PostgresServer, tmp_path: Path) -> None:
    loader = open_loader(postgres_config(postgres_server.port), f"p_{uuid4().hex[:12]}", tmp_path)
    create(loader, "orders", EVENT)
    rows = staged(loader, tmp_path, "orders", EVENT, [event("1", count=1)])
    loader.load(load_of(1), rows)
    reader = await asyncpg.connect(
        host="127.0.0.1",
        port=postgres_server.port,
        user=PostgresServer.user,
        password=PostgresServer.password,
        database=PostgresServer.database,
    )
    with loader.transaction():
        loader._bring(staged(loader, tmp_path, "orders", EVENT, [event("1", 2, count=2)]))
        seen = await reader.fetchval(f"SELECT count FROM {loader.place('orders')}", timeout=10)
        assert seen == 1
    assert await reader.fetchval(f"SELECT count FROM {loader.place('orders')}", timeout=10) == 2
    await reader.close()
    loader.close()


# ---------------------------------------------------------------- words and bytes


def test_question_marks_are_numbered_outside_of_quotes() -> None:
    sql = "SELECT ? FROM \"a?\"\"?\" WHERE x = '?''?' AND y = ?"
    assert numbered(sql) == "SELECT $1 FROM \"a?\"\"?\" WHERE x = '?''?' AND y = $2"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (r'"a\u0000b"', '"ab"'),
        (r'"\u0000\u0000\\\u0000"', r'"\\"'),
        (r'"\\u0000"', r'"\\u0000"'),
        (r'"\\\u0000"', r'"\\"'),
        (r'"\ud83d\ude82"', r'"\ud83d\ude82"'),
        (r'"\ud83d"', '"\ufffd"'),
        (r'"\ude82\ud83d"', '"\ufffd\ufffd"'),
        (r'"\uD83D\uDE82\n\""', r'"\uD83D\uDE82\n\""'),
    ],
)
def test_json_that_jsonb_takes(loader: PostgresLoader, given: str, expected: str) -> None:
    assert clean_json(given) == expected
    loader._run("SELECT CAST(? AS text)::jsonb", (expected,))


def test_a_file_is_read_a_little_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "big.parquet"
    table = pa.table({"id": [str(n) for n in range(40)], "text": ["x" * 1_000_000] * 40})
    pq.write_table(table, str(path), row_group_size=20)
    sizes = [len(block) for block in csv_blocks(path, {"id": "string", "text": "string"})]
    assert sum(sizes) > 40_000_000
    assert max(sizes) < 10_000_000
