"""The scripts of `examples/sql/`, as they are, on DuckDB and on PostgreSQL, over rows that Mainstem loaded."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import asyncpg
import duckdb
import pytest
import sqlglot

from mainstem.warehouse.loaders import duckdb as duckdb_loader
from tests.components.postgres import PostgresServer
from tests.examples.expected import Limits, People, key_of, newest, session_of_event, session_rows, visits
from tests.examples.histories import Sent, histories
from tests.examples.plain_sql import SQL
from tests.warehouse.rig import Rig

SCRIPTS: Final = ("prepare.sql", "identity.sql", "sessions.sql")
LIMITS: Final = Limits()
TYPES: Final = {
    "VARCHAR": "text",
    "BIGINT": "bigint",
    "DOUBLE": "double precision",
    "BOOLEAN": "boolean",
    "TIMESTAMP WITH TIME ZONE": "timestamp with time zone",
}
Query = Callable[[str], Awaitable[Sequence[Sequence[Any]]]]


@dataclass(frozen=True)
class Loaded:
    """Histories, and the warehouse that holds them."""

    staged: Sequence[Sequence[Sent]]
    warehouse: Path


async def _loaded(folder: Path, seed: int, *, dedupe: Literal["id", "none"] = "id") -> Loaded:
    rig = Rig(folder, config=duckdb_loader.Config(dedupe=dedupe))
    staged = histories(cases=40, seed=seed)
    for stage in staged:
        await rig.append([event.stored() for event in stage])
        await rig.load()
    return Loaded(staged, folder / "warehouse.duckdb")


async def _compare(loaded: Loaded, query: Query) -> None:
    events = newest(loaded.staged)
    people = People(events, LIMITS)
    found = visits(events, people)
    canonical = await query("SELECT id_kind, id, canonical_id FROM models.identity")
    assert {(row[0], row[1]): row[2] for row in canonical} == people.canonical
    excluded = await query("SELECT id_kind, id, excluded_because FROM models.identity_excluded")
    assert {(row[0], row[1]): row[2] for row in excluded} == people.excluded
    assert {row[2] for row in excluded} == {"placeholder", "too many user ids"}
    sessions = session_of_event(found)
    rows = await query("SELECT event_key, canonical_id, session_id, event_of_session FROM models.events")
    assert {row[0]: tuple(row[1:]) for row in rows} == {
        key_of(event): (people.of(event), *sessions.get(key_of(event), (None, None))) for event in events
    }
    expected = session_rows(found, people)
    told = await query(f"SELECT {', '.join(expected[0])} FROM models.sessions")
    assert sorted(map(tuple, told)) == [tuple(row.values()) for row in expected]


@pytest.mark.parametrize(("seed", "dedupe"), [(0, "id"), (1, "id"), (2, "none")])
async def test_on_duckdb(tmp_path: Path, seed: int, dedupe: Literal["id", "none"]) -> None:
    loaded = await _loaded(tmp_path, seed, dedupe=dedupe)
    with duckdb.connect(str(loaded.warehouse)) as connection:
        connection.execute("SET TimeZone = 'UTC'; USE shop")
        for script in SCRIPTS * 2:
            connection.execute((SQL / script).read_text())

        async def query(sql: str) -> Sequence[Sequence[Any]]:
            return connection.execute(sql).fetchall()

        await _compare(loaded, query)


async def test_a_load_goes_on_after_prepare_made_its_tables(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    staged = histories(cases=10, seed=9)
    await rig.append([event.stored() for event in staged[0]])
    await rig.load()
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as connection:
        connection.execute("USE shop")
        connection.execute((SQL / "prepare.sql").read_text())
    for stage in staged[1:]:
        await rig.append([event.stored() for event in stage])
        await rig.load()
    kinds = {"screens": "screen", "aliases": "alias", "tracks": "track", "pages": "page"}
    for table, kind in kinds.items():
        assert set(rig.ids(table)) == {event.id for stage in staged for event in stage if event.type == kind}
    tables = {row[0] for row in rig.rows("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'shop'")}
    assert "rudder_discards" not in tables, "everything fitted"


async def _copied(loaded: Loaded, connection: asyncpg.Connection) -> None:
    """Put the warehouse's rows into PostgreSQL, in the types that the loader makes there."""
    await connection.execute("CREATE SCHEMA shop")
    with duckdb.connect(str(loaded.warehouse), read_only=True) as warehouse:
        warehouse.execute("SET TimeZone = 'UTC'")
        for (table,) in warehouse.execute(
            "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'shop'"
        ).fetchall():
            cursor = warehouse.execute(f'SELECT * FROM shop."{table}"')
            columns = [(column[0], str(column[1])) for column in cursor.description or []]
            definitions = ", ".join(f'"{name}" {TYPES[kind]}' for name, kind in columns)
            await connection.execute(f'CREATE TABLE shop."{table}" ({definitions})')
            await connection.copy_records_to_table(
                table, schema_name="shop", columns=[name for name, _ in columns], records=cursor.fetchall()
            )


async def test_on_postgres(tmp_path: Path, postgres_server: PostgresServer) -> None:
    loaded = await _loaded(tmp_path, 77)
    login = {
        "host": "127.0.0.1",
        "port": postgres_server.port,
        "user": postgres_server.user,
        "password": postgres_server.password,
    }
    first = await asyncpg.connect(**login, database=postgres_server.database)
    await first.execute("CREATE DATABASE plain_sql")
    await first.close()
    connection = await asyncpg.connect(**login, database="plain_sql")
    try:
        await _copied(loaded, connection)
        await connection.execute("SET search_path = shop")
        for script in SCRIPTS * 2:
            await connection.execute((SQL / script).read_text())

        async def query(sql: str) -> Sequence[Sequence[Any]]:
            return [tuple(row) for row in await connection.fetch(sql)]

        await _compare(loaded, query)
    finally:
        await connection.close()


def test_the_scripts_are_snowflakes_sql_too() -> None:
    for script in SCRIPTS:
        statements = sqlglot.parse((SQL / script).read_text(), read="snowflake")
        assert len([one for one in statements if one is not None]) > 5
