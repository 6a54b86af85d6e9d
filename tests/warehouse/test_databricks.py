"""The Databricks loader against the tests' workspace: what fails, what is late or comes twice; its SQL and settings.

No Databricks is reached here. The contract suite runs the same loader on the same workspace, in a process of its own.
"""

import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import sqlglot
from sqlglot import exp

from mainstem.destinations.catalog import check_config
from mainstem.secret import Secret
from mainstem.warehouse.loader import Done, Mode, TableFailed, WarehouseError
from mainstem.warehouse.loaders import databricks, delta
from mainstem.warehouse.loaders.databricks import Config, DatabricksLoader, open_loader
from mainstem.warehouse.loaders.databricks_api import DatabricksApi, StatementFailed
from mainstem.warehouse.loaders.delta_tables import DeltaLoader
from mainstem.warehouse.schema import AddColumns, ColumnType, CreateTable, WidenColumn
from tests.warehouse.contract.rows import EVENT, create, event, evolve, ids, load_of, staged, values
from tests.warehouse.databricks_engine import CATALOG
from tests.warehouse.databricks_server import (
    CLIENT_ID,
    CLIENT_SECRET,
    HTTP_PATH,
    TOKEN,
    WAREHOUSE,
    Fault,
    Workspace,
    serving,
)

MODES: list[Mode] = ["append", "replace by id", "latest by id"]


class Rig:
    """A workspace, and loaders whose sleep is only noted."""

    def __init__(self, workspace: Workspace, port: int) -> None:
        self.workspace = workspace
        self.port = port
        self.slept: list[float] = []
        self._opened: list[DatabricksApi] = []

    def api(self, **settings: Any) -> DatabricksApi:
        with_token = {} if "client_id" in settings else {"token": Secret(TOKEN)}
        api = DatabricksApi(
            f"http://127.0.0.1:{self.port}",
            WAREHOUSE,
            sleep=self.slept.append,
            **{**with_token, **settings},
        )
        self._opened.append(api)
        return api

    def loader(self, *, location: str = "", **settings: Any) -> DatabricksLoader:
        return DatabricksLoader(
            self.api(**settings), CATALOG, "shop", location=location, sleep=self.slept.append
        )

    def config(self, **settings: Any) -> Config:
        settings = {"token": Secret(TOKEN), "path": HTTP_PATH, **settings}
        return Config(host="http://127.0.0.1", port=self.port, **settings)

    def fails(self, match: str, kind: str, **settings: Any) -> None:
        self.workspace.faults.append(Fault(match, kind, **settings))

    def files(self) -> list[str]:
        """The files that are left in volumes."""
        return [path.name for path in self.workspace.engine.volumes.rglob("*") if path.is_file()]

    def close(self) -> None:
        for api in self._opened:
            api.close()


@pytest.fixture(name="rig")
def _rig(tmp_path: Path) -> Iterator[Rig]:
    workspace = Workspace(tmp_path / "workspace")
    with serving(workspace) as port:
        rig = Rig(workspace, port)
        yield rig
        rig.close()


@pytest.fixture(name="loader")
def _loader(rig: Rig) -> DatabricksLoader:
    loader = rig.loader()
    create(loader, "orders", EVENT)
    return loader


# ---------------------------------------------------------------- once


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lands", [False, True], ids=["before", "after"])
def test_every_request_fails_in_turn(
    rig: Rig, loader: DatabricksLoader, tmp_path: Path, mode: Mode, lands: bool
) -> None:
    asked = loader._api._asked
    expected = []
    for fault in range(30):
        rows = [event(f"{fault:02d}-a", count=fault), event(None, count=fault)]
        table = staged(loader, tmp_path, "orders", EVENT, rows, mode)
        expected += [f"{fault:02d}-a", "None"]
        count = 0

        def failing(*arguments: Any, fault: int = fault, **more: Any) -> Any:
            nonlocal count
            count += 1
            if count == fault + 1:
                if lands:
                    asked(*arguments, **more)
                raise WarehouseError("injected")
            return asked(*arguments, **more)

        with patch.object(loader._api, "_asked", failing):
            try:
                done = loader.load(load_of(fault), table)
            except WarehouseError:
                done = None
        if done is None:
            loader.load(load_of(fault), table)
        assert loader.load(load_of(fault), table).already
        assert sorted(ids(loader, "shop", "orders")) == sorted(expected)
        assert len(loader.loads("shop")) == fault + 1
        if count <= fault:
            break
    assert fault >= 6, "no end of requests"
    assert rig.files() == []


@pytest.mark.parametrize("mode", MODES)
def test_two_that_both_find_a_load_not_in(
    rig: Rig, loader: DatabricksLoader, tmp_path: Path, mode: Mode
) -> None:
    table = staged(loader, tmp_path, "orders", EVENT, [event(str(n)) for n in range(20)], mode)
    barrier = threading.Barrier(2)
    found: list[Done | BaseException] = []

    def work() -> None:
        mine = rig.loader()
        is_in = mine._is_in
        met = False

        def asked(*arguments: Any) -> bool:
            nonlocal met
            answer = is_in(*arguments)
            if not met:
                met = True
                barrier.wait(30)
            return answer

        for _ in range(20):
            try:
                with patch.object(mine, "_is_in", asked):
                    found.append(mine.load(load_of(1), table))
                return
            except TableFailed as error:
                found.append(error)
                return
            except WarehouseError:
                continue  # its file was taken away by the other one, which is through

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done.already for done in found if isinstance(done, Done)) == [False, True]
    assert len(ids(loader, "shop", "orders")) == 20
    assert len(loader.loads("shop")) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_statement_that_comes_late_changes_nothing(
    rig: Rig, loader: DatabricksLoader, tmp_path: Path, mode: Mode
) -> None:
    first = staged(loader, tmp_path, "orders", EVENT, [event("a", count=1)], mode)
    loader.load(load_of(1), first)
    [late] = [sql for sql in rig.workspace.said() if "plan00000001" in sql]
    later = staged(loader, tmp_path, "orders", EVENT, [event("a", 2, count=2)], "replace by id")
    loader.load(load_of(2), later)
    before = loader.query(f"SELECT * FROM {loader.place('orders')} ORDER BY received_at")
    # The file is there again, too: somebody carries out the first load once more.
    loader._api.put(f"/Volumes/{CATALOG}/shop/_mainstem_files/plan00000001.orders.parquet", first.path)
    parameters = {"load": load_of(1).id, "table": "orders"} if ":load" in late else {}
    assert loader._api.run(late, parameters)[0][0] == "0"
    assert loader.query(f"SELECT * FROM {loader.place('orders')} ORDER BY received_at") == before


def test_a_connection_that_is_cut_after_a_statement_was_taken(
    rig: Rig, loader: DatabricksLoader, tmp_path: Path
) -> None:
    for number, mode in enumerate(MODES):
        for match in ("COPY INTO", "MERGE INTO", "PUT /", "DELETE /", "SELECT 1"):
            rig.fails(match, "cut")
            rig.fails(match, "drop")
        table = staged(loader, tmp_path, "orders", EVENT, [event(str(number))], mode)
        loader.load(load_of(number), table)
        rig.workspace.faults.clear()
    assert ids(loader, "shop", "orders") == ["0", "1", "2"]
    assert len(loader.loads("shop")) == 3
    assert rig.files() == []


def test_columns_that_came_in_though_the_answer_was_lost(rig: Rig, loader: DatabricksLoader) -> None:
    rig.fails("ALTER TABLE", "cut")
    loader.evolve([AddColumns("orders", {"note": "string", "size": "int"})])
    assert loader.fetch_schema()["orders"]["size"] == "int"


def test_conflicts_are_tried_again_but_not_for_ever(
    rig: Rig, loader: DatabricksLoader, tmp_path: Path
) -> None:
    words = "[DELTA_CONCURRENT_APPEND.ROW_LEVEL_CHANGES] Transaction conflict detected. SQLSTATE: 2D521"
    table = staged(loader, tmp_path, "orders", EVENT, [event("a")])
    rig.fails("MERGE INTO", "fail", times=5, text=words)
    assert loader.load(load_of(1), table) == Done(1)
    rig.fails("MERGE INTO", "fail", times=100, text=words)
    with pytest.raises(WarehouseError, match="others change it") as failed:
        loader.load(load_of(2), table)
    assert not isinstance(failed.value, TableFailed)


# ---------------------------------------------------------------- rows


def test_rows_without_an_id_replace_none(rig: Rig, loader: DatabricksLoader, tmp_path: Path) -> None:
    rows = [event("a", count=1, name="Ann"), event(None, count=5)]
    loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, rows))
    narrow = {"id": EVENT["id"], "received_at": EVENT["received_at"], "count": EVENT["count"]}
    loader.load(load_of(2), staged(loader, tmp_path, "orders", narrow, [event("a", 2, count=2), event(None)]))
    assert values(loader, "orders", "a", "name", "count") == [None, 2], "the whole row is replaced"
    assert sorted(ids(loader, "shop", "orders")) == ["None", "None", "a"]
    assert rig.files() == []


def test_tables_without_ids_or_times(rig: Rig, loader: DatabricksLoader, tmp_path: Path) -> None:
    create(loader, "plain", {"note": "string"})
    loader.load(load_of(1), staged(loader, tmp_path, "plain", {"note": "string"}, [{"note": "x"}]))
    [[note, came]] = loader.query(f"SELECT note, uuid_ts FROM {loader.place('plain')}")
    assert (note, came is None) == ("x", False)
    columns: dict[str, ColumnType] = {"id": "string", "city": "string"}
    create(loader, "people", columns)
    for number, city in enumerate(["Rome", None, "Oslo"]):
        rows = [{"id": "a", "city": city}]
        loader.load(load_of(number), staged(loader, tmp_path, "people", columns, rows, "latest by id"))
    assert values(loader, "people", "a", "city") == ["Oslo"]
    create(loader, "names", {"id": "string"})
    loader.load(
        load_of(1), staged(loader, tmp_path, "names", {"id": "string"}, [{"id": "a"}], "latest by id")
    )
    assert ids(loader, "shop", "names") == ["a"]


def test_tables_that_others_made(rig: Rig, loader: DatabricksLoader, tmp_path: Path) -> None:
    rig.workspace.engine.adopt(
        "shop",
        "pages",
        "id VARCHAR, received_at TIMESTAMPTZ, count DECIMAL(20, 0), total DOUBLE, vip BOOLEAN, name VARCHAR,"
        " event_date DATE GENERATED ALWAYS AS (DATE '2026-01-01'), big DECIMAL(20, 0)",
    )
    found = loader.fetch_schema()["pages"]
    assert (found["event_date"], found["big"], found["count"]) == ("datetime", "float", "float")
    narrow: dict[str, ColumnType] = {"id": "string", "received_at": "datetime", "name": "string"}
    for number, mode in enumerate(MODES):
        rows = [event("a", name=mode)]
        loader.load(load_of(number), staged(loader, tmp_path, "pages", narrow, rows, mode))
    assert values(loader, "pages", "a", "name", "big", "vip") == ["latest by id", None, None]


def test_json_and_long_texts_are_remembered(loader: DatabricksLoader) -> None:
    create(loader, "carts", {"id": "string", "cart": "json"})
    loader.evolve([AddColumns("carts", {"note": "text", "id": "int"})])
    found = {"id": "string", "cart": "json", "uuid_ts": "datetime", "note": "text"}
    assert loader.fetch_schema()["carts"] == found


def test_a_table_that_was_changed_meanwhile(loader: DatabricksLoader, tmp_path: Path) -> None:
    other: dict[str, ColumnType] = {**EVENT, "count": "string", "new": "string"}
    with pytest.raises(WarehouseError, match=r"column count is int.*has string"):
        loader.load(load_of(1), staged(loader, tmp_path, "orders", other, [event("a", count="x")]))
    with pytest.raises(TableFailed, match="can't be made float"):
        loader.evolve([WidenColumn("orders", "count", "int", "float")])


# ---------------------------------------------------------------- SQL


def test_statements_are_databricks_and_hold_no_values(
    rig: Rig, loader: DatabricksLoader, tmp_path: Path
) -> None:
    columns: dict[str, ColumnType] = {**EVENT, "back`tick": "string", "it's": "json", "a\\b": "int"}
    create(loader, "odd", columns)
    more: dict[str, Any] = {"back`tick": "secret", "it's": {"a": 1}, "a\\b": 7}
    rows = [event("secret-id", name="secret-name") | more]
    for number, mode in enumerate(MODES):
        loader.load(load_of(number, "secret-cursor"), staged(loader, tmp_path, "odd", columns, rows, mode))
    evolve(loader, "odd", {**columns, "more": "float"})
    loader.loads("secret-cursor")
    said = rig.workspace.said()
    assert all("secret" not in sql for sql in said)
    kinds = set()
    for sql in said:
        if sql.startswith("CREATE VOLUME"):
            continue  # sqlglot has no words for volumes
        tree = sqlglot.parse_one(sql, dialect="databricks", error_level=sqlglot.ErrorLevel.RAISE)
        assert not isinstance(tree, exp.Command), sql
        kinds.add(type(tree).__name__)
        for table in tree.find_all(exp.Table):
            names = [part for part in table.parts if isinstance(part, exp.Identifier)]
            plain = [name.name for name in names if not name.args.get("quoted")]
            assert not plain or plain[0] == "information_schema", sql
    assert kinds >= {"Create", "Alter", "Copy", "Merge", "Select", "Union"}
    assert values(loader, "odd", "secret-id", "back`tick", "a\\b") == ["secret", 7]


def test_tables_have_what_conflicts_need(rig: Rig) -> None:
    loader = rig.loader(location="s3://bucket/lake/")
    create(loader, "orders", EVENT)
    table = rig.workspace.engine.tables[f'{CATALOG}."shop"."orders"']
    assert table.properties == {
        "delta.columnMapping.mode": "name",
        "delta.enableDeletionVectors": "false",
    }
    assert table.location == "s3://bucket/lake/shop/orders"
    assert rig.workspace.engine.tables[f'{CATALOG}."shop"."_mainstem_loads"'].properties == table.properties


def test_who_may_not_create_uses_what_is_there(rig: Rig, loader: DatabricksLoader) -> None:
    rig.fails(
        "CREATE",
        "fail",
        times=100,
        text="[INSUFFICIENT_PERMISSIONS] Insufficient privileges. SQLSTATE: 42501",
    )
    loader.check()
    other = DatabricksLoader(rig.api(), CATALOG, "elsewhere")
    with pytest.raises(WarehouseError, match=r"lakehouse\.elsewhere: .*privileges.*; give the token's user"):
        other.check()


# ---------------------------------------------------------------- the API


def test_busy_servers_are_asked_again_when_they_say(rig: Rig) -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    for status, after in ((429, "7"), (503, moment), (500, ""), (503, "nonsense")):
        rig.fails("/statements", "status", status=status, retry_after=after)
    assert rig.api().run("SELECT 1 AS one") == [["1"]]
    assert len(rig.slept) == 4
    assert rig.slept[0] == 7.0
    assert rig.slept[1] == 60.0, "no longer than a minute"
    assert all(0 < seconds < 60 for seconds in rig.slept[2:])


def test_busy_servers_are_not_asked_for_ever(rig: Rig) -> None:
    rig.fails("/statements", "status", times=100, status=429, text="rate limit")
    with pytest.raises(WarehouseError, match="answered 429 TEMPORARILY_UNAVAILABLE: rate limit"):
        rig.api().run("SELECT 1")
    rig.workspace.faults.clear()
    rig.fails("/statements", "drop", times=100)
    with pytest.raises(WarehouseError, match=r"Databricks at http://127\.0\.0\.1:\d+: .*closed"):
        rig.api().run("SELECT 1")


def test_long_statements_are_asked_after(rig: Rig) -> None:
    rig.fails("SELECT", "slow", count=12)
    assert rig.api().run("SELECT 2 AS two") == [["2"]]
    assert len(rig.slept) == 12
    assert rig.slept == sorted(rig.slept)
    assert rig.slept[-1] == 5.0


def test_endless_statements_are_cancelled(rig: Rig) -> None:
    rig.fails("SELECT", "stuck")
    api = rig.api(statement_s=100.0, monotonic=lambda: sum(rig.slept))
    with pytest.raises(WarehouseError, match="was RUNNING for 100 s and has been cancelled"):
        api.run("SELECT 1")
    [found] = rig.workspace.statements.values()
    assert found.done.wait(30)
    assert found.result is None


def test_statements_that_others_cancel(rig: Rig) -> None:
    rig.fails("SELECT", "stuck")
    api = rig.api()

    def cancel(_: float) -> None:
        for found in rig.workspace.statements.values():
            found.cancelled.set()
            found.unseen = 0

    with (
        patch.object(api, "_sleep", cancel),
        pytest.raises(StatementFailed, match="the statement was canceled: The statement was cancelled"),
    ):
        api.run("SELECT 1")


def test_results_come_in_chunks(rig: Rig) -> None:
    sql = "SELECT id, CAST(id AS STRING) AS text, id % 2 = 0 AS even FROM range(1050)"
    sql = sql.replace("range(1050)", "(SELECT EXPLODE(SEQUENCE(0, 1049)) AS id)")
    api = rig.api()
    rows = api.run(sql)
    assert sorted(int(row[0] or "") for row in rows) == list(range(1050))
    exact = sorted(tuple(row) for row in api.query(sql))
    assert exact[:2] == [(0, "0", True), (1, "1", False)]
    assert len(exact) == 1050
    assert sum(line.startswith("GET /external/") for line in rig.workspace.asked) == 11
    assert api.query("SELECT 1 AS one WHERE FALSE") == []
    assert api.run("SELECT 1 AS one WHERE FALSE") == []


def test_a_service_principal_gets_tokens(rig: Rig) -> None:
    now = 0.0
    api = rig.api(client_id=CLIENT_ID, client_secret=Secret(CLIENT_SECRET), monotonic=lambda: now)

    def fetched() -> int:
        return sum("/oidc/" in line for line in rig.workspace.asked)

    api.run("SELECT 1")
    api.run("SELECT 1")
    assert fetched() == 1
    now += 3_500
    api.run("SELECT 1")
    assert fetched() == 2, "a little before it runs out"
    rig.workspace.tokens.clear()
    api.run("SELECT 1")
    assert fetched() == 3, "once it is refused"
    wrong = rig.api(client_id=CLIENT_ID, client_secret=Secret("wrong-secret"))
    with pytest.raises(WarehouseError, match="401: Client authentication failed; see `token`") as failed:
        wrong.run("SELECT 1")
    assert "wrong-secret" not in str(failed.value)


def test_no_secret_is_told(rig: Rig) -> None:
    api = rig.api(token=Secret("dapi-wrong"))
    with pytest.raises(WarehouseError, match=r"401 UNAUTHENTICATED: Credential … was not sent") as failed:
        api.run("SELECT 1")
    assert "dapi" not in str(failed.value)
    assert "dapi" not in repr(api.__dict__)


def test_other_servers_are_told_from_databricks(rig: Rig) -> None:
    for body in (b"<html>", b"[]", b"{}"):
        with (
            patch("tests.warehouse.databricks_server.Handler._route", lambda *_, body=body: (200, body)),
            pytest.raises(WarehouseError, match="not one of the Statement Execution API"),
        ):
            rig.api().run("SELECT 1")
    with pytest.raises(WarehouseError, match="404 NOT_FOUND: SQL warehouse ffff does not exist; see `host`"):
        DatabricksApi(f"http://127.0.0.1:{rig.port}", "ffff", token=Secret(TOKEN)).run("SELECT 1")


@pytest.mark.parametrize(
    ("text", "sqlstate", "kind", "advice"),
    [
        ("[INSUFFICIENT_PERMISSIONS] No MODIFY on table. SQLSTATE: 42501", "", TableFailed, "give the token's user"),
        ("[DELTA_FAILED_TO_MERGE_FIELDS] Failed to merge fields", "22005", TableFailed, ""),
        ("[NO_SUCH_CATALOG_EXCEPTION] Catalog 'x' was not found. SQLSTATE: 42704", "", WarehouseError, "`catalog`"),
        ("Cluster terminated", "", WarehouseError, ""),
        ("", "", WarehouseError, ""),
    ],
)  # fmt: skip
def test_failures_are_of_a_table_or_of_all(
    rig: Rig, loader: DatabricksLoader, tmp_path: Path, text: str, sqlstate: str, kind: type, advice: str
) -> None:
    rig.fails("MERGE INTO", "fail", text=text, sqlstate=sqlstate)
    with pytest.raises(WarehouseError, match=r"table orders: ") as failed:
        loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, [event("a")]))
    assert type(failed.value) is kind
    assert (text or "BAD_REQUEST") in str(failed.value)
    assert advice in str(failed.value)


# ---------------------------------------------------------------- settings


def test_the_catalog_is_the_workspaces_unless_named(rig: Rig, tmp_path: Path) -> None:
    loader = open_loader(rig.config(), "shop", tmp_path)
    assert loader.place("t") == f"`{CATALOG}`.`shop`.`t`"
    loader.check()
    assert "_mainstem_loads" in loader.fetch_schema()
    loader.close()
    missing = open_loader(rig.config(catalog="nowhere"), "shop", tmp_path)
    with pytest.raises(WarehouseError, match="nowhere"):
        missing.load(load_of(1), staged(missing, tmp_path, "orders", EVENT, [event("a")]))
    missing.close()


def test_volumes_are_unity_catalogs(tmp_path: Path) -> None:
    with serving(Workspace(tmp_path / "old", default_catalog="hive_metastore")) as port:
        rig = Rig(Workspace(tmp_path / "unused"), port)
        with pytest.raises(WarehouseError, match=r"hive_metastore is not one of Unity Catalog.*`catalog`"):
            open_loader(rig.config(), "shop", tmp_path)


RUDDERSTACK = {
    "host": "dbc-1.cloud.databricks.com",
    "port": "443",
    "path": HTTP_PATH,
    "token": TOKEN,
    "syncFrequency": "30",
    "bucketProvider": "S3",
}


def test_rudderstacks_settings_load_through_the_sql_warehouse() -> None:
    found = check_config("DELTALAKE", RUDDERSTACK).config
    assert isinstance(found, delta.Config)
    warehouse = found.databricks()
    assert warehouse is not None
    assert (warehouse.host, warehouse.port, warehouse.token) == (RUDDERSTACK["host"], 443, Secret(TOKEN))
    direct = check_config("DATABRICKS", {**RUDDERSTACK, "catalog": "main"}).config
    assert isinstance(direct, Config)
    assert direct.catalog == "main"
    outside = check_config(
        "DELTALAKE", {**RUDDERSTACK, "enableExternalLocation": True, "externalLocation": "s3://lake/x"}
    ).config
    warehouse = outside.databricks()
    assert warehouse is not None
    assert warehouse.external_location == "s3://lake/x"


def test_delta_lake_goes_where_its_settings_say(rig: Rig, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "host": "http://127.0.0.1",
        "port": rig.port,
        "path": HTTP_PATH,
        "token": Secret(TOKEN),
    }
    through = delta.open_loader(delta.Config(**settings), "shop", tmp_path)
    assert isinstance(through, DatabricksLoader)
    through.close()
    assert isinstance(delta.open_loader(delta.Config(**settings, url="lake"), "shop", tmp_path), DeltaLoader)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"path": "sql/protocolv1/o/0/0123-456789-abc"}, "SQL warehouse"),
        ({"token": ""}, "is missing, or `oauthClientId`"),
        ({"token": "", "oauthClientId": "x"}, "`oauthClientSecret`"),
        ({"host": "http://dbc-1.cloud.databricks.com"}, "https only"),
        ({"host": "dbc-1.cloud.databricks.com/sql"}, "host name alone"),
        ({"host": "user@dbc-1"}, "host name alone"),
        ({"enableExternalLocation": True}, "`externalLocation`"),
    ],
)
@pytest.mark.parametrize("kind", ["DATABRICKS", "DELTALAKE"])
def test_settings_that_do_not_do(kind: str, change: dict[str, Any], words: str) -> None:
    result = check_config(kind, {**RUDDERSTACK, **change})
    assert result.config is None
    assert words in str(result.errors)
    assert TOKEN not in str(result.errors)
    if kind == "DELTALAKE":
        assert "name a bucket in `url`" in str(result.errors)
        assert check_config(kind, {**RUDDERSTACK, **change, "url": "s3://lake"}).config is not None


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("dbc-1.cloud.databricks.com", "https://dbc-1.cloud.databricks.com:443"),
        ("https://adb-1.2.azuredatabricks.net/", "https://adb-1.2.azuredatabricks.net:443"),
        ("https://proxy:8443", "https://proxy:8443"),
        ("http://localhost", "http://localhost:443"),
    ],
)
def test_hosts_as_people_paste_them(host: str, origin: str) -> None:
    assert databricks.origin_of(host, 443) == origin


def test_identifiers_and_literals() -> None:
    sql = databricks.literal("it's a \\ `path`")
    assert sqlglot.parse_one(f"SELECT {sql}", dialect="databricks").expressions[0].name == "it's a \\ `path`"
    assert re.fullmatch(r"/sql/1\.0/warehouses/\w+", HTTP_PATH)
    called: Callable[[str], str] = databricks.warehouse_of
    assert called("sql/1.0/endpoints/abc-1/") == "abc-1"


def test_creating_twice_is_no_error(loader: DatabricksLoader) -> None:
    loader.evolve([CreateTable("orders", {**EVENT, "later": "boolean"})])
    assert loader.fetch_schema()["orders"]["later"] == "boolean"
