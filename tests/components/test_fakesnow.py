"""The emulator of Snowflake that the other tests trust: what is added to fakesnow holds."""

import threading
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from mainstem.warehouse.loaders.snowflake import driver_options
from mainstem.warehouse.loaders.snowflake_wire import SnowflakeError, SnowflakeWire
from tests.components.fakesnow import FakesnowServer
from tests.warehouse.contract.databases import snowflake_config

Connect = Callable[[], SnowflakeWire]


@pytest.fixture(name="connect")
def _connect(fakesnow_server: FakesnowServer) -> Iterator[Connect]:
    opened: list[SnowflakeWire] = []

    def connect() -> SnowflakeWire:
        options = driver_options(snowflake_config(fakesnow_server.port))
        opened.append(SnowflakeWire(options, query_tag="test"))
        return opened[-1]

    yield connect
    for wire in opened:
        wire.close()


@pytest.fixture(name="table")
def _table(connect: Connect) -> str:
    schema = f"F_{uuid4().hex[:12].upper()}"
    wire = connect()
    wire.run(f'CREATE SCHEMA "{schema}"')
    wire.run(f'CREATE TABLE "{schema}"."T" ("N" NUMBER)')
    wire.run(f'INSERT INTO "{schema}"."T" VALUES (0)')
    wire.run("COMMIT")
    return f'"{schema}"."T"'


def _numbers(wire: SnowflakeWire, table: str) -> list[int]:
    return [row[0] for row in wire.run(f'SELECT "N" FROM {table} ORDER BY 1')]


def test_an_update_waits_for_another_transaction_and_goes_on_from_what_it_left(
    connect: Connect, table: str
) -> None:
    first, second = connect(), connect()
    for wire in (first, second):
        wire.run("BEGIN TRANSACTION")
        wire.run("SELECT CURRENT_TRANSACTION()")
    first.run(f'UPDATE {table} SET "N" = "N" + 1')
    waiting = threading.Thread(target=second.run, args=(f'UPDATE {table} SET "N" = "N" + 1',))
    waiting.start()
    third = connect()
    third.run(f"INSERT INTO {table} VALUES (10)")  # waits for nobody
    third.run("COMMIT")
    assert waiting.is_alive()
    first.run("COMMIT")
    waiting.join(30)
    second.run("COMMIT")
    assert _numbers(third, table) == [2, 11]


def test_a_transaction_that_sleeps_is_rolled_back_when_somebody_waits(connect: Connect, table: str) -> None:
    sleeper, other = connect(), connect()
    sleeper.run("BEGIN TRANSACTION")
    [(began,)] = sleeper.run("SELECT CURRENT_TRANSACTION()")
    assert began is not None
    sleeper.run(f'UPDATE {table} SET "N" = 5')
    assert sleeper.run("SELECT CURRENT_TRANSACTION()") == [(began,)]
    other.run(f'UPDATE {table} SET "N" = 7')
    other.run("COMMIT")
    assert sleeper.run("SELECT CURRENT_TRANSACTION()") != [(began,)]
    sleeper.run("COMMIT")
    assert _numbers(sleeper, table) == [7]


def test_a_change_of_a_table_commits(connect: Connect, table: str) -> None:
    wire = connect()
    wire.run(f"USE SCHEMA {table.partition('.')[0]}")
    wire.run("BEGIN TRANSACTION")
    wire.run(f"INSERT INTO {table} VALUES (1)")
    wire.run('CREATE OR REPLACE TEMPORARY TABLE "ANY" ("N" NUMBER)')
    wire.run("ROLLBACK")
    wire.run("BEGIN TRANSACTION")
    wire.run(f"INSERT INTO {table} VALUES (2)")
    wire.run("ROLLBACK")
    assert _numbers(wire, table) == [0, 1]


def test_a_stranger_is_refused(fakesnow_server: FakesnowServer) -> None:
    options = driver_options(snowflake_config(fakesnow_server.port)) | {"user": fakesnow_server.stranger}
    with pytest.raises(SnowflakeError, match="Incorrect username or password"):
        SnowflakeWire(options, query_tag="test")
