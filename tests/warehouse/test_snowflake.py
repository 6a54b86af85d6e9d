"""The Snowflake loader: its statements and their order, its lock, how it signs in, what it says when it can't.

No Snowflake is reached here. The contract suite runs it on an emulator; so do these, where a server is needed.
"""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlglot
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from sqlglot import exp

from mainstem.events.canonical import Event, canonical_event
from mainstem.secret import Secret
from mainstem.warehouse.loader import Mode, StagedTable, TableFailed, WarehouseError
from mainstem.warehouse.loaders import snowflake
from mainstem.warehouse.loaders.snowflake import Config, SnowflakeLoader, driver_options, literal
from mainstem.warehouse.loaders.snowflake_wire import SESSION, SnowflakeError, error_of, key_of
from mainstem.warehouse.naming import Namer, engine_of
from mainstem.warehouse.rows import Row, compile_rows, options_of
from mainstem.warehouse.schema import AddColumns, ColumnType, WidenColumn
from mainstem.warehouse.writer import WarehouseWriter
from tests.components.fakesnow import FakesnowServer
from tests.warehouse.contract.databases import snowflake_config
from tests.warehouse.contract.rows import EVENT, create, event, evolve, ids, load_of, named, staged, values
from tests.warehouse.rig import CURSOR, Rig, identify, track

COLUMNS: dict[str, ColumnType] = {**EVENT, "cart": "json"}
DDL = ("CREATE", "ALTER", "DROP", "USE", "PUT", "COPY")


class Recorded(SnowflakeLoader):
    """Keeps what it says."""

    def _run(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[Sequence[Any]]:
        said.append(sql)
        return super()._run(sql, parameters)


said: list[str] = []
Open = Callable[[], Recorded]


@pytest.fixture(name="open_")
def _open(fakesnow_server: FakesnowServer) -> Iterator[Open]:
    namespace = f"S_{uuid4().hex[:12].upper()}"
    opened: list[Recorded] = []

    def open_() -> Recorded:
        plain = snowflake.open_loader(snowflake_config(fakesnow_server.port), namespace, Path())
        connect = plain._connect
        plain.close()
        opened.append(Recorded(connect, namespace))
        return opened[-1]

    yield open_
    for loader in opened:
        loader.close()


@pytest.fixture(name="loader")
def _loader(open_: Open) -> Recorded:
    loader = open_()
    loader.check()
    said.clear()
    return loader


# ---------------------------------------------------------------- statements


@pytest.mark.parametrize("mode", ["append", "replace by id", "latest by id"])
def test_what_commits_comes_before_the_transaction_and_the_lock_first_in_it(
    loader: Recorded, tmp_path: Path, mode: Mode
) -> None:
    create(loader, "users", COLUMNS)
    said.clear()
    rows = [event("secret-id", name="it's a secret", cart={"a": [1]}), event("2")]
    loader.load(load_of(1), staged(loader, tmp_path, "users", COLUMNS, rows, mode=mode))
    begin, commit = said.index("BEGIN TRANSACTION"), len(said) - 1
    assert said[commit] == "COMMIT"
    before, within = said[:begin], said[begin + 1 : commit]
    assert [sql.split()[0] for sql in before if sql.startswith(DDL)] == ["USE", "CREATE", "PUT", "COPY"]
    assert before[-1] == "COMMIT", "the staged rows are of no transaction of ours"
    assert not [sql for sql in within if sql.startswith(DDL)]
    read, lock, look, *work, note, compare = within
    assert read == compare == "SELECT CURRENT_TRANSACTION()"
    assert lock.startswith(f'UPDATE "{loader.namespace}"."_MAINSTEM_LOADS" SET')
    assert look.startswith(f'SELECT 1 FROM "{loader.namespace}"."_MAINSTEM_LOADS"')
    assert note.startswith(f'INSERT INTO "{loader.namespace}"."_MAINSTEM_LOADS"')
    verbs = {
        "append": ["INSERT"],
        "replace by id": ["DELETE", "INSERT"],
        "latest by id": ["MERGE"],
    }
    assert [sql.split()[0] for sql in work] == verbs[mode]
    assert not [sql for sql in said if "secret" in sql]


@pytest.mark.parametrize("mode", ["append", "replace by id", "latest by id"])
def test_every_statement_is_snowflakes(loader: Recorded, tmp_path: Path, mode: Mode) -> None:
    said.clear()
    create(loader, "users", COLUMNS)
    loader.load(
        load_of(1), staged(loader, tmp_path, "users", COLUMNS, [event("1", count=1, cart=[1])], mode=mode)
    )
    evolve(loader, "users", {**COLUMNS, "count": "float", "more": "string"})
    loader.loads("shop")
    assert len(said) > 20
    for sql in said:
        [parsed] = sqlglot.parse(sql, read="snowflake")
        assert parsed is not None
        if isinstance(parsed, exp.Command):
            assert sql.startswith(("PUT", "USE")), sql
        # What other engines have and Snowflake has not.
        for word in (" ON CONFLICT", "RETURNING", "JSONB", "ALTER COLUMN", "TIMESTAMPTZ", "EPOCH FROM"):
            assert word not in sql.upper(), sql
    [copy] = [sql for sql in said if sql.startswith("COPY")]
    options = {
        parameter.name.upper(): parameter.sql("snowflake").upper()
        for parameter in sqlglot.parse_one(copy, read="snowflake").args["params"]
    }
    assert "USE_LOGICAL_TYPE=TRUE" in options["FILE_FORMAT"].replace(" ", "")
    assert "CASE_SENSITIVE" in options["MATCH_BY_COLUMN_NAME"]


def test_a_load_that_is_in_sends_no_file(loader: Recorded, tmp_path: Path) -> None:
    create(loader, "orders", EVENT)
    table = staged(loader, tmp_path, "orders", EVENT, [event("1")])
    loader.load(load_of(1), table)
    said.clear()
    assert loader.load(load_of(1), table).already
    assert len(said) == 1


def test_rows_that_did_not_come_count_for_nothing(loader: Recorded, tmp_path: Path) -> None:
    create(loader, "orders", EVENT)
    table = staged(loader, tmp_path, "orders", EVENT, [event("1")])
    with pytest.raises(SnowflakeError, match="1 of 2 rows"):
        loader.load(load_of(1), msgspec.structs.replace(table, rows=2))
    assert ids(loader, loader.namespace, "orders") == []
    assert loader.loads("shop") == []


def test_json_that_snowflake_does_not_take_stays_a_text(loader: Recorded, tmp_path: Path) -> None:
    columns: dict[str, ColumnType] = {"id": "string", "received_at": "datetime", "cart": "json"}
    create(loader, "orders", columns)
    path = tmp_path / "odd.parquet"
    pq.write_table(pa.table({"ID": ["1", "2"], "CART": ["{'no': json", '{"a": 1}']}), str(path))
    given: dict[str, ColumnType] = {"ID": "string", "CART": "json"}
    loader.load(load_of(1), StagedTable(table="ORDERS", columns=given, path=path, rows=2, mode="append"))
    assert msgspec.json.decode(values(loader, "orders", "1", "cart")[0]) == "{'no': json"
    assert msgspec.json.decode(values(loader, "orders", "2", "cart")[0]) == {"a": 1}


# ---------------------------------------------------------------- the lock


def test_a_loader_that_slept_while_another_loaded_commits_nothing(
    open_: Open, loader: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(loader, "orders", EVENT)
    table = staged(loader, tmp_path, "orders", EVENT, [event(str(n)) for n in range(5)], mode="append")
    sleeper = open_()
    asleep, awake = threading.Event(), threading.Event()
    put = sleeper._put

    def sleep_first(*arguments: Any) -> None:
        asleep.set()
        assert awake.wait(60)
        put(*arguments)

    monkeypatch.setattr(sleeper, "_put", sleep_first)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            sleeper.load(load_of(1), table)
        except WarehouseError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert asleep.wait(60)
    # It has the lock: this waits until its transaction is ended, as it is idle.
    assert not loader.load(load_of(1), table).already
    awake.set()
    thread.join(60)
    [error] = failed
    assert "has ended the transaction" in str(error)
    assert len(ids(loader, loader.namespace, "orders")) == 5
    assert len(loader.loads("shop")) == 1
    assert sleeper.load(load_of(1), table).already


def test_the_row_that_loads_wait_for_is_made_again(loader: Recorded, tmp_path: Path) -> None:
    create(loader, "orders", EVENT)
    loads = loader.place("_MAINSTEM_LOADS")
    with loader.transaction():
        loader.query(f"DELETE FROM {loads}")
    table = staged(loader, tmp_path, "orders", EVENT, [event("1")])
    with pytest.raises(WarehouseError, match="the next load makes it again"):
        loader.load(load_of(1), table)
    loader.check()
    loader.check()
    assert len(loader.query(f"SELECT 1 FROM {loads}")) == 1
    assert loader.load(load_of(1), table).rows == 1


# ---------------------------------------------------------------- columns


def test_a_widening_that_fails_anywhere_loses_nothing(
    open_: Open, loader: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow: dict[str, ColumnType] = {"id": "string", "received_at": "datetime", "count": "int"}
    for fault in range(100):
        table = f"t{fault}"
        create(loader, table, narrow)
        loader.load(
            load_of(fault), staged(loader, tmp_path, table, narrow, [event("1", count=7), event("2")])
        )
        victim, left = open_(), fault
        run = victim._run

        def dying(sql: str, parameters: Sequence[Any] = (), *, run: Any = run) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise WarehouseError("injected")
            return run(sql, parameters)

        monkeypatch.setattr(victim, "_run", dying)
        widen = [WidenColumn(table.upper(), "COUNT", "int", "float")]
        try:
            victim.evolve(widen)
            done = True
        except WarehouseError:
            done = False
        victim.close()
        evolve(loader, table, {**narrow, "count": "float"})
        assert loader.fetch_schema()[table.upper()] == named(
            loader, {**narrow, "count": "float", "uuid_ts": "datetime"}
        )
        assert values(loader, table, "1", "count") == [7.0], fault
        assert values(loader, table, "2", "count") == [None]
        if done:
            break
    assert fault >= 8


def test_numbers_with_decimals_are_floats(loader: Recorded) -> None:
    create(loader, "orders", EVENT)
    loader.query(f'ALTER TABLE {loader.place("ORDERS")} ADD COLUMN "PRICE" NUMBER(10, 2)')
    found = loader.columns_of("ORDERS")
    assert (found["PRICE"], found["COUNT"]) == ("float", "int")


def test_no_event_hides_behind_the_staged_rows(loader: Recorded, tmp_path: Path) -> None:
    namer = Namer(engine_of("snowflake"), as_rudderstack=False)
    assert namer.table("_mainstem_stage") == "__MAINSTEM_STAGE"
    with pytest.raises(TableFailed, match="rename"):
        loader.load(load_of(1), staged(loader, tmp_path, "_mainstem_stage", EVENT, [event("1")]))


# ---------------------------------------------------------------- events


class SnowRig(Rig):
    """A warehouse over a log, as `rig` has it, whose engine is this one."""

    def __init__(self, folder: Path, config: Config, schema: str) -> None:
        super().__init__(folder, config=config)
        self.schema = schema
        self._compiled = compile_rows(options_of(config, snowflake.SPEC.provider))

    def writer(self) -> WarehouseWriter:
        return WarehouseWriter(
            destination_id=CURSOR,
            spec=snowflake.SPEC,
            config=self.config,
            decode=canonical_event,
            to_rows=self._to_rows,
            data_dir=self.folder,
            clock=self.clock,
        )

    def _to_rows(self, event: Event) -> tuple[str, Sequence[Row]]:
        return self.schema, super()._to_rows(event)[1]

    def rows(self, sql: str) -> list[Any]:
        loader = snowflake.open_loader(self._config(), self.schema, self.folder)
        rows = [tuple(row) for row in loader.query(sql.replace("shop.", f'"{self.schema}".'))]
        loader.close()
        return rows

    def _config(self) -> Config:
        assert isinstance(self.config, Config)
        return self.config


async def test_events_become_rows_once_whatever_comes_again(
    fakesnow_server: FakesnowServer, tmp_path: Path
) -> None:
    schema = f"E_{uuid4().hex[:12].upper()}"
    config = msgspec.structs.replace(
        snowflake_config(fakesnow_server.port), sync_frequency=0.0001, json_paths="track.properties.cart"
    )
    rig = SnowRig(tmp_path, config, schema)
    await rig.append([track(n, total=n, cart={"items": [n]}, über=True) for n in range(5)])
    await rig.append([identify(10, "ann", city="Oslo", plan="pro")])
    await rig.load()
    await rig.append([track(1, total=1.5, cart={"items": []}), track(6, total="much", order="reserved")])
    await rig.append([identify(11, "ann", plan="team"), track(7, name="_mainstem_stage")])
    await rig.load()
    assert rig.rows('SELECT "ID", "TOTAL", "CART" FROM shop."ORDER_COMPLETED" ORDER BY 1') == [
        ("m0", 0.0, '{"items":[0]}'),
        ("m1", 1.5, '{"items":[]}'),
        ("m2", 2.0, '{"items":[2]}'),
        ("m3", 3.0, '{"items":[3]}'),
        ("m4", 4.0, '{"items":[4]}'),
        ("m6", None, None),
    ]
    assert rig.rows('SELECT COUNT(*) FROM shop."ORDER_COMPLETED" WHERE "ÜBER"') == [(4,)]
    assert rig.rows('SELECT "_ORDER" FROM shop."ORDER_COMPLETED" WHERE "ID" = \'m6\'') == [("reserved",)]
    assert rig.rows('SELECT COUNT(*), COUNT(DISTINCT "ID") FROM shop."TRACKS"') == [(7, 7)]
    assert rig.rows('SELECT "ID", "CITY", "PLAN" FROM shop."USERS"') == [("ann", "Oslo", "team")]
    assert rig.rows('SELECT "COLUMN_NAME", "COLUMN_VALUE" FROM shop."RUDDER_DISCARDS"') == [("TOTAL", "much")]
    assert rig.rows('SELECT "ID" FROM shop."__MAINSTEM_STAGE"') == [("m7",)]


# ---------------------------------------------------------------- signing in


def config(**more: Any) -> Config:
    given = {"account": "org-acc", "database": "D", "warehouse": "W", "user": "U", "password": "geheim"}
    return msgspec.convert({**given, **more}, Config, dec_hook=lambda _, value: Secret(value))


@pytest.fixture(name="key", scope="module")
def _key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: rsa.RSAPrivateKey, encryption: KeySerializationEncryption | None = None) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()).decode()


def test_settings_are_rudderstacks() -> None:
    made = config(role="LOADER", account="https://org-acc.snowflakecomputing.com/", namespace="events")
    assert driver_options(made) == {
        "account": "org-acc",
        "user": "U",
        "database": "D",
        "warehouse": "W",
        "application": "Mainstem",
        "role": "LOADER",
        "password": "geheim",
    }
    assert "geheim" not in repr(made)
    with pytest.raises(ValueError, match="`password` is missing"):
        config(password="")
    with pytest.raises(ValueError, match="`useKeyPairAuth` needs `privateKey`"):
        config(useKeyPairAuth=True)
    private = driver_options(config(endpoint="https://acc.privatelink.example:8443"))
    assert (private["protocol"], private["host"], private["port"]) == (
        "https",
        "acc.privatelink.example",
        8443,
    )


@pytest.mark.parametrize("passphrase", ["", "drowssap"])
@pytest.mark.parametrize(
    "spoiled",
    [
        lambda text: text,
        lambda text: text.replace("\n", "\\n"),
        lambda text: text.replace("\n", " "),
        lambda text: "".join(text.splitlines()[1:-1]),
    ],
    ids=["as it is", "written line ends", "one line", "no first and last line"],
)
def test_key_pairs(key: rsa.RSAPrivateKey, spoiled: Callable[[str], str], passphrase: str) -> None:
    text = spoiled(pem(key, BestAvailableEncryption(passphrase.encode()) if passphrase else None))
    made = config(useKeyPairAuth=True, privateKey=text, privateKeyPassphrase=passphrase, password="not used")
    options = driver_options(made)
    assert options["authenticator"] == "SNOWFLAKE_JWT"
    assert "password" not in options
    loaded = load_der_private_key(options["private_key"], None)
    assert isinstance(loaded, rsa.RSAPrivateKey)
    assert loaded.private_numbers() == key.private_numbers()


def test_the_driver_takes_our_key(
    key: rsa.RSAPrivateKey, fakesnow_server: FakesnowServer, tmp_path: Path
) -> None:
    made = msgspec.structs.replace(
        snowflake_config(fakesnow_server.port),
        password=Secret(""),
        use_key_pair_auth=True,
        private_key=Secret(pem(key)),
    )
    loader = snowflake.open_loader(made, f"K_{uuid4().hex[:12].upper()}", tmp_path)
    loader.check()
    loader.close()


@pytest.mark.parametrize(
    "text", ["", "nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"]
)
def test_what_is_no_key_is_said_without_it(key: rsa.RSAPrivateKey, text: str) -> None:
    with pytest.raises(WarehouseError, match="`privateKey`") as wrong:
        key_of(Secret(text), Secret(""))
    assert wrong.value.__cause__ is None
    with pytest.raises(WarehouseError, match="`privateKeyPassphrase`") as wrong:
        key_of(Secret(pem(key, BestAvailableEncryption(b"right"))), Secret("wrong-one"))
    assert "wrong-one" not in str(wrong.value)


def test_sessions_say_what_they_want() -> None:
    assert SESSION["TIMEZONE"] == "UTC"
    assert SESSION["AUTOCOMMIT"] is False
    assert SESSION["QUOTED_IDENTIFIERS_IGNORE_CASE"] is False


def test_without_the_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "snowflake.connector", None)
    with pytest.raises(WarehouseError, match=r"pip install 'mainstem\[snowflake\]'"):
        snowflake.open_loader(config(), "SHOP", tmp_path)


def test_the_driver_is_not_loaded_for_those_who_do_not_use_it() -> None:
    code = (
        "import sys; from mainstem.warehouse.loaders.catalog import find_loader;"
        "assert find_loader('snowflake').name == 'SNOWFLAKE';"
        "sys.exit('snowflake.connector' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- errors


def test_who_is_refused_is_told_what_to_look_at(fakesnow_server: FakesnowServer, tmp_path: Path) -> None:
    made = msgspec.structs.replace(
        snowflake_config(fakesnow_server.port), user=fakesnow_server.stranger, password=Secret("geheim")
    )
    with pytest.raises(SnowflakeError, match=r"Incorrect username or password.*network policy") as refused:
        snowflake.open_loader(made, "SHOP", tmp_path)
    shown = f"{refused.value!r} {refused.value.__cause__!r}"
    assert "geheim" not in shown


def _driver_error(code: int, state: str, text: str) -> SnowflakeError:
    return error_of(SimpleNamespace(errno=code, sqlstate=state, raw_msg=text))


@pytest.mark.parametrize(
    ("code", "state", "of_the_table", "advice"),
    [
        (2003, "42S02", True, "somebody dropped it"),
        (3001, "42501", True, "GRANT"),
        (904, "42000", True, "somebody dropped it"),
        (100038, "22018", True, "type"),
        (90105, "22000", False, ""),
        (606, "57P03", False, ""),
        (625, "57014", False, ""),
        (250001, "08001", False, ""),
        (-1, "", False, ""),
    ],
)
def test_what_is_of_one_table_and_what_is_not(
    loader: Recorded, monkeypatch: pytest.MonkeyPatch, code: int, state: str, of_the_table: bool, advice: str
) -> None:
    error = _driver_error(code, state, "SQL compilation error:\n  something")

    def failing(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(loader, "check", lambda: None)
    monkeypatch.setattr(loader, "_run", failing)
    with pytest.raises(WarehouseError, match="SQL compilation error: something") as told:
        loader.evolve([AddColumns("ORDERS", {"X": "int"})])
    assert isinstance(told.value, TableFailed) == of_the_table
    assert advice in str(told.value)


def test_values_of_events_stay_out_of_errors() -> None:
    told = _driver_error(100038, "22018", "Numeric value 'anna@example.com' is not recognized")
    assert str(told) == "Numeric value '…' is not recognized"
    assert (told.code, told.sqlstate) == (100038, "22018")
    assert str(_driver_error(2003, "42S02", "Object 'ORDERS' does not exist.")).count("ORDERS") == 1


def test_paths_are_quoted() -> None:
    assert literal("file:///a b/it's\\x") == "'file:///a b/it\\'s\\\\x'"
