"""BigQuery's loader, against a server of the tests that speaks BigQuery's REST API, and misbehaves."""

import json
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlglot
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.api_core.exceptions import NotFound
from google.cloud import bigquery as google
from sqlglot import exp

from mainstem.clock import FixedClock
from mainstem.secret import Secret
from mainstem.testing.warehouse.rows import EVENT, create, ids, load_of, staged, values
from mainstem.warehouse.loader import Done, Loader, Mode, TableFailed, WarehouseError
from mainstem.warehouse.loaders import bigquery
from mainstem.warehouse.loaders.bigquery_jobs import BigqueryError, Jobs, connect
from mainstem.warehouse.loaders.bigquery_tables import LOCKS, BigqueryLoader, _slot_of
from mainstem.warehouse.schema import LOADS, AddColumns, ColumnType, CreateTable
from tests.components.bigquery import PROJECT, BigqueryServer
from tests.warehouse.bigquery_server import script

USER: dict[str, ColumnType] = {"id": "string", "received_at": "datetime", "city": "string", "count": "int"}
NOW_MS = 1_795_416_000_000


class Bench:
    """A dataset of one's own, and the server behind it."""

    def __init__(self, server: BigqueryServer) -> None:
        self.server = server
        self.namespace = f"t_{uuid4().hex[:12]}"
        self.pauses: list[float] = []
        self._opened: list[BigqueryLoader] = []

    def client(self) -> google.Client:
        return connect(bigquery.Config(project=PROJECT, endpoint=self.server.endpoint))

    def open(self, **options: Any) -> BigqueryLoader:
        client = self.client()
        jobs = Jobs(client, "", pause=self._pause)
        loader = BigqueryLoader(client, self.namespace, clock=FixedClock(NOW_MS), jobs=jobs, **options)
        self._opened.append(loader)
        return loader

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        time.sleep(min(seconds, 0.02))

    def tables(self) -> list[str]:
        view = f"`{PROJECT}`.`{self.namespace}`.INFORMATION_SCHEMA.TABLES"
        return sorted(row[0] for row in self.open().query(f"SELECT table_name FROM {view} AS t"))

    def stages(self) -> list[str]:
        return [table for table in self.tables() if table.startswith("_mainstem_stage_")]

    def statements(self) -> list[str]:
        return [sql for sql in self.server.statements() if f"`{self.namespace}`" in sql]

    def close(self) -> None:
        self.server.fail()
        self.server.conflicts(by_table=True)
        for loader in self._opened:
            loader.close()


@pytest.fixture
def bench(bigquery_server: BigqueryServer) -> Iterator[Bench]:
    made = Bench(bigquery_server)
    yield made
    made.close()


@pytest.fixture
def loader(bench: Bench) -> BigqueryLoader:
    opened = bench.open()
    opened.check()
    return opened


def event(row_id: str, january: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": row_id, "received_at": f"2026-01-{january:02d}T00:00:00Z", **more}


# ---------------------------------------------------------------- opening


def service_account() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return json.dumps(
        {
            "type": "service_account",
            "client_email": "loader@shop.iam.gserviceaccount.com",
            "token_uri": "http://127.0.0.1:1/token",
            "private_key": pem.decode(),
            "project_id": "shop",
        }
    )


def test_credentials_are_a_service_accounts_key_and_never_shown(tmp_path: Path) -> None:
    key = service_account()
    config = bigquery.Config(project="shop", credentials=Secret(key))
    bigquery.open_loader(config, "events", tmp_path).close()
    assert "PRIVATE KEY" not in repr(config)
    for broken in (key.replace("PRIVATE", "PUBLIC"), key[:-5], '"hush-hush"', "{}"):
        with pytest.raises(WarehouseError, match="service account") as raised:
            bigquery.open_loader(bigquery.Config(project="shop", credentials=Secret(broken)), "e", tmp_path)
        assert "KEY" not in str(raised.value).replace("key", "")
        assert raised.value.__cause__ is None
        assert raised.value.__suppress_context__


def test_a_token_that_is_refused_is_told_without_the_key(tmp_path: Path) -> None:
    key = service_account()
    jobs_failed = bigquery.Config(project="shop", credentials=Secret(key), endpoint="http://127.0.0.1:1")
    loader = bigquery.open_loader(jobs_failed, "events", tmp_path)
    assert isinstance(loader, BigqueryLoader)
    loader._client.get_dataset = _refused  # type: ignore[method-assign]
    with pytest.raises(WarehouseError) as raised:
        loader.check()
    assert "invalid_grant" in str(raised.value)
    assert "`credentials`" in str(raised.value)
    loader.close()


def _refused(*_: Any, **__: Any) -> Any:
    from google.auth.exceptions import RefreshError

    raise RefreshError("invalid_grant: Invalid JWT Signature.", {"error": "invalid_grant"})  # type: ignore[no-untyped-call]


def test_without_the_driver_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bigquery_jobs", "bigquery_tables"):
        monkeypatch.delitem(sys.modules, f"mainstem.warehouse.loaders.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "google.cloud.bigquery", None)
    monkeypatch.delattr("google.cloud.bigquery", raising=False)
    with pytest.raises(WarehouseError, match=r"pip install 'mainstem\[bigquery\]'"):
        bigquery.open_loader(bigquery.Config(project="shop"), "events", tmp_path)


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("options", "table", "wanted"),
    [
        ({}, "orders", " PARTITION BY TIMESTAMP_TRUNC(`received_at`, DAY) CLUSTER BY `id`"),
        ({}, "users", " CLUSTER BY `id`"),
        (
            {"partition_column": "_PARTITIONTIME", "partition_type": "hour"},
            "orders",
            " PARTITION BY TIMESTAMP_TRUNC(_PARTITIONTIME, HOUR) CLUSTER BY `id`",
        ),
        ({"partition_column": "loaded_at"}, "orders", " CLUSTER BY `id`"),
    ],
)
def test_how_tables_are_laid_out(bench: Bench, options: dict[str, Any], table: str, wanted: str) -> None:
    create(bench.open(**options), table, EVENT)
    [made] = [sql for sql in bench.statements() if sql.startswith("CREATE TABLE") and f"`{table}`" in sql]
    assert made.partition(")")[0].endswith("`uuid_ts` TIMESTAMP")
    assert made.partition("TIMESTAMP)")[2] == wanted


def test_columns_of_a_table_are_added_in_one_statement(bench: Bench, loader: BigqueryLoader) -> None:
    create(loader, "orders", EVENT)
    added: dict[str, ColumnType] = {f"c{number}": "int" for number in range(30)}
    loader.evolve([AddColumns("orders", added), AddColumns("orders", added)])
    altered = [sql for sql in bench.statements() if sql.startswith("ALTER TABLE")]
    assert [sql.count("ADD COLUMN IF NOT EXISTS") for sql in altered] == [30, 30]
    assert set(added) <= set(loader.fetch_schema()["orders"])


def test_a_table_that_somebody_made_with_fewer_columns_gets_the_others(
    bench: Bench, loader: BigqueryLoader
) -> None:
    create(loader, "orders", {"id": "string"})
    loader.evolve([CreateTable("orders", EVENT)])
    assert set(EVENT) <= set(loader.fetch_schema()["orders"])


def test_names_that_bigquery_refuses_fail_their_table_only(loader: BigqueryLoader) -> None:
    for name in ("_file_name", "a.b", "x" * 301):
        with pytest.raises(TableFailed, match="Invalid field name"):
            loader.evolve([CreateTable("orders", {"id": "string", name: "int"})])
    assert "orders" not in loader.fetch_schema()


def test_a_dataset_stays_where_it_is(bench: Bench, tmp_path: Path) -> None:
    dataset = google.Dataset(f"{PROJECT}.{bench.namespace}")
    dataset.location = "europe-west1"
    bench.client().create_dataset(dataset)
    loader = bench.open(location="US")
    create(loader, "orders", EVENT)
    assert loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, [event("a")])) == Done(1)
    assert len(loader.loads("shop")) == 1


def test_a_new_dataset_is_made_where_the_settings_say(bench: Bench) -> None:
    bench.open(location="EU").check()
    assert bench.client().get_dataset(bench.namespace).location == "EU"


def test_what_is_ours_is_not_among_the_tables(bench: Bench, loader: BigqueryLoader) -> None:
    assert set(loader.fetch_schema()) == {LOADS}
    assert LOCKS in bench.tables()


# ---------------------------------------------------------------- rows


def test_columns_of_other_types_that_were_there_before(loader: BigqueryLoader, tmp_path: Path) -> None:
    loader.query(
        f"CREATE TABLE {loader.place('orders')} (id STRING, received_at TIMESTAMP, total NUMERIC, day DATE,"
        " cart JSON, tags ARRAY<STRING>)"
    )
    schema = loader.fetch_schema()["orders"]
    assert schema == {
        "id": "string",
        "received_at": "datetime",
        "total": "float",
        "day": "datetime",
        "cart": "json",
        "tags": "string",
    }
    columns: dict[str, ColumnType] = {name: kind for name, kind in schema.items() if name != "tags"}
    row = event("a", total=12.5, day="2026-02-03T00:00:00Z", cart={"k": [1]})
    loader.load(load_of(1), staged(loader, tmp_path, "orders", columns, [row]))
    assert values(loader, "orders", "a", "total", "day", "cart") == [
        Decimal("12.5"),
        date(2026, 2, 3),
        {"k": [1]},
    ]
    loader.load(load_of(2), staged(loader, tmp_path, "orders", columns, [row], mode="latest by id"))
    with pytest.raises(TableFailed, match="tags is a ARRAY"):
        loader.load(load_of(3), staged(loader, tmp_path, "orders", {"id": "string", "tags": "string"}, [row]))


def test_replaced_rows_are_looked_for_in_the_newest_partitions_only(bench: Bench, tmp_path: Path) -> None:
    loader = bench.open(dedupe_days=5)
    create(loader, "orders", EVENT)
    first = [event("old", 1, count=1), event("new", 8, count=1)]
    loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, first))
    again = [event("old", 10, count=2), event("new", 10, count=2), event("other", 11, count=2)]
    loader.load(load_of(2), staged(loader, tmp_path, "orders", EVENT, again))
    assert ids(loader, bench.namespace, "orders") == ["new", "old", "old", "other"]
    assert values(loader, "orders", "new", "count") == [2]
    nameless = staged(loader, tmp_path, "orders", EVENT, [{"id": "no time"}])
    assert loader.load(load_of(3), nameless) == Done(1)


def test_a_file_of_megabytes_comes_in_pieces(bench: Bench, loader: BigqueryLoader, tmp_path: Path) -> None:
    create(loader, "orders", EVENT)
    rows = [event(str(number), name=secrets.token_hex(600)) for number in range(12_000)]
    table = staged(loader, tmp_path, "orders", EVENT, rows)
    assert table.path.stat().st_size > 5 * 1024 * 1024, "smaller ones are one request"
    assert loader.load(load_of(1), table) == Done(12_000)
    [(count,)] = loader.query(f"SELECT COUNT(DISTINCT name) FROM {loader.place('orders')}")
    assert count == 12_000


def test_a_load_without_rows_is_noted(loader: BigqueryLoader, tmp_path: Path) -> None:
    create(loader, "orders", EVENT)
    table = staged(loader, tmp_path, "orders", EVENT, [])
    assert loader.load(load_of(1), table) == Done(0)
    assert loader.load(load_of(1), table).already
    assert [row.rows for row in loader.loads("shop")] == [0]


def test_more_columns_than_a_query_takes_are_said(loader: BigqueryLoader, tmp_path: Path) -> None:
    wide: dict[str, ColumnType] = {
        "id": "string",
        **{f"{'c' * 250}{number}": "int" for number in range(1500)},
    }
    create(loader, "wide", wide)
    with pytest.raises(TableFailed, match="jsonPaths"):
        loader.load(load_of(1), staged(loader, tmp_path, "wide", wide, [{"id": "a"}], "latest by id"))


def test_nothing_is_left_of_a_stage(bench: Bench, loader: BigqueryLoader, tmp_path: Path) -> None:
    create(loader, "orders", EVENT)
    loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, [event("a")]))
    assert bench.stages() == []


# ---------------------------------------------------------------- once


COMMIT = r"POST /bigquery/v2/projects/[^/]+/jobs"
UPLOAD = r"(POST|PUT) /upload/"


@pytest.mark.parametrize(
    "faults",
    [
        [{"do": "cut after", "of": COMMIT, "times": 2}],
        [{"do": "cut after", "of": COMMIT, "skip": 1}],
        [{"do": "cut before", "of": COMMIT, "times": 2}],
        [{"do": "cut after", "of": UPLOAD}],
        [{"do": "cut before", "of": UPLOAD}],
        [{"do": "503", "of": UPLOAD}],
        [{"do": "503", "of": COMMIT, "times": 2}],
        [{"do": "503", "of": "GET", "times": 2}],
        [{"do": "cut after", "of": "DELETE|tables$", "times": 2}],
        [{"do": "rateLimitExceeded", "of": "", "times": 3}],
        [{"do": "job", "of": '"load"', "reason": "backendError"}],
        [{"do": "job", "of": "COMMIT", "reason": "rateLimitExceeded", "times": 2}],
        [{"do": "statement", "of": "INSERT", "reason": "internalError"}],
        [{"do": "conflict", "of": "UPDATE", "times": 3}],
        [{"do": "conflict", "of": "commit", "times": 2}],
    ],
    ids=json.dumps,
)
def test_passing_faults_are_ridden_over(
    bench: Bench, loader: BigqueryLoader, tmp_path: Path, faults: list[dict[str, Any]]
) -> None:
    create(loader, "orders", EVENT)
    table = staged(loader, tmp_path, "orders", EVENT, [event("a"), event("b")], mode="append")
    bench.server.fail(*faults)
    assert loader.load(load_of(1), table) == Done(2)
    bench.server.fail()
    assert ids(loader, bench.namespace, "orders") == ["a", "b"]
    assert len(loader.loads("shop")) == 1


@pytest.mark.parametrize("mode", ["append", "replace by id", "latest by id"])
def test_a_script_that_fails_at_any_statement_leaves_nothing(
    bench: Bench, loader: BigqueryLoader, tmp_path: Path, mode: Mode
) -> None:
    create(loader, "users", USER)
    loader.load(load_of(0), staged(loader, tmp_path, "users", USER, [event("a", city="Oslo", count=1)]))
    late = staged(loader, tmp_path, "users", USER, [event("a", 2, count=2), event("b", 2)], mode)
    for fault in range(30):
        # At any but the last, which comes after the commit.
        broken = {"do": "statement", "of": "^(?!SELECT loaded)", "skip": fault}
        bench.server.fail({**broken, "reason": "invalidQuery", "message": "injected"})
        try:
            bench.open().load(load_of(1), late)
            break
        except WarehouseError as error:
            assert "injected" in str(error)  # noqa: PT017
        bench.server.fail()
        assert ids(loader, bench.namespace, "users") == ["a"]
        assert values(loader, "users", "a", "city", "count") == ["Oslo", 1]
        assert len(loader.loads("shop")) == 1
    bench.server.fail()
    assert fault >= 10, "look, declare, begin, lock, if, if, rows, note, set, commit"
    assert len(loader.loads("shop")) == 2
    assert len(ids(loader, bench.namespace, "users")) == (3 if mode == "append" else 2)


def test_a_commit_whose_result_was_lost_is_found(
    bench: Bench, loader: BigqueryLoader, tmp_path: Path
) -> None:
    create(loader, "orders", EVENT)
    table = staged(loader, tmp_path, "orders", EVENT, [event("a")], mode="append")
    bench.server.fail({"do": "statement", "of": "^SELECT loaded", "reason": "stopped", "message": "ended"})
    with pytest.raises(WarehouseError, match="ended"):
        loader.load(load_of(1), table)
    assert bench.open().load(load_of(1), table).already
    assert ids(loader, bench.namespace, "orders") == ["a"]


def test_conflicts_without_end_are_raised_to_be_tried_again(
    bench: Bench, loader: BigqueryLoader, tmp_path: Path
) -> None:
    create(loader, "orders", EVENT)
    table = staged(loader, tmp_path, "orders", EVENT, [event("a")])
    bench.server.fail({"do": "conflict", "of": "UPDATE", "times": 1000})
    bench.pauses.clear()
    with pytest.raises(WarehouseError, match="concurrent update") as raised:
        loader.load(load_of(1), table)
    assert not isinstance(raised.value, TableFailed)
    assert 15 < sum(bench.pauses) < 90, "it waits for the other"
    bench.server.fail()
    assert loader.load(load_of(1), table) == Done(1)


def test_a_stage_is_filled_once_and_used_by_the_next_try(
    bench: Bench, loader: BigqueryLoader, tmp_path: Path
) -> None:
    create(loader, "orders", EVENT)
    table = staged(loader, tmp_path, "orders", EVENT, [event("a")])
    bench.server.fail({"do": "job", "of": "COMMIT", "reason": "invalidQuery", "message": "no"})
    with pytest.raises(TableFailed):
        loader.load(load_of(1), table)
    [stage] = bench.stages()
    expires = bench.client().get_table(f"{bench.namespace}.{stage}").expires
    assert expires == datetime.fromtimestamp(NOW_MS / 1000, UTC) + timedelta(days=1)
    bench.server.fail({"do": "503", "of": UPLOAD, "times": 1000})
    assert bench.open().load(load_of(1), table) == Done(1)
    assert bench.stages() == []


def test_a_stage_that_expired_is_filled_again(bench: Bench, loader: BigqueryLoader, tmp_path: Path) -> None:
    create(loader, "orders", EVENT)
    table = staged(loader, tmp_path, "orders", EVENT, [event("a")])
    bench.server.fail({"do": "job", "of": "COMMIT", "reason": "invalidQuery", "message": "no"})
    with pytest.raises(TableFailed):
        loader.load(load_of(1), table)
    [stage] = bench.stages()
    bench.client().delete_table(f"{bench.namespace}.{stage}")
    assert bench.open().load(load_of(1), table) == Done(1)
    assert ids(loader, bench.namespace, "orders") == ["a"]


def test_other_content_is_another_stage(bench: Bench, loader: BigqueryLoader, tmp_path: Path) -> None:
    create(loader, "orders", EVENT)
    bench.server.fail({"do": "job", "of": "COMMIT", "reason": "invalidQuery", "message": "no"})
    with pytest.raises(TableFailed):
        loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, [event("a")]))
    # The table changed meanwhile, and the rows are fitted to it anew.
    only: dict[str, ColumnType] = {"id": "string", "count": "int"}
    loader.load(load_of(1), staged(loader, tmp_path, "orders", only, [event("a", count=7)]))
    assert values(loader, "orders", "a", "count", "received_at") == [7, None]


def test_a_stage_that_another_worker_dropped_is_no_harm(
    bench: Bench, loader: BigqueryLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(loader, "orders", EVENT)
    table = staged(loader, tmp_path, "orders", EVENT, [event("a")], mode="append")
    stage = loader._stage

    def slow(*arguments: Any) -> str:
        made = stage(*arguments)
        monkeypatch.undo()
        assert bench.open().load(load_of(1), table) == Done(1)
        return made

    monkeypatch.setattr(loader, "_stage", slow)
    assert loader.load(load_of(1), table).already
    assert ids(loader, bench.namespace, "orders") == ["a"]
    assert bench.stages() == []


def at_once(works: Sequence[Callable[[], None]]) -> list[BaseException]:
    barrier = threading.Barrier(len(works))
    wrong: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        barrier.wait()
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - shown by the test
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    return wrong


def persist(work: Callable[[], Done]) -> Done:
    for _ in range(20):
        try:
            return work()
        except TableFailed:
            raise
        except WarehouseError:
            continue  # as the gatherer does
    return work()


@pytest.mark.parametrize("by_table", [True, False], ids=["conflicts by table", "conflicts by row"])
@pytest.mark.parametrize("mode", ["append", "replace by id"])
def test_workers_with_the_same_load_load_it_once(
    bench: Bench, loader: BigqueryLoader, tmp_path: Path, mode: Mode, by_table: bool
) -> None:
    bench.server.conflicts(by_table=by_table)
    bench.server.fail({"do": "slow", "of": "INSERT INTO", "times": 1000})
    create(loader, "orders", EVENT)
    done: list[Done] = []
    table = staged(loader, tmp_path, "orders", EVENT, [event(f"{n:02d}") for n in range(20)], mode)
    workers = [bench.open() for _ in range(4)]
    for number in range(3):

        def work(mine: Loader, number: int = number) -> None:
            done.append(persist(lambda: mine.load(load_of(number), table)))

        assert at_once([lambda mine=mine: work(mine) for mine in workers]) == []  # type: ignore[misc]
    assert sorted(one.already for one in done) == [False] * 3 + [True] * 9
    assert len(ids(loader, bench.namespace, "orders")) == (60 if mode == "append" else 20)
    assert len(loader.loads("shop")) == 3


def test_loads_that_bring_the_same_ids_do_not_double_them_when_only_rows_conflict(
    bench: Bench, loader: BigqueryLoader, tmp_path: Path
) -> None:
    bench.server.conflicts(by_table=False)
    bench.server.fail({"do": "slow", "of": "INSERT INTO", "times": 1000})
    create(loader, "orders", EVENT)
    workers = [bench.open() for _ in range(4)]
    tables = [
        staged(loader, tmp_path, "orders", EVENT, [event(f"{n:02d}", count=number) for n in range(20)])
        for number in range(4)
    ]

    def work(mine: Loader, number: int) -> None:
        persist(lambda: mine.load(load_of(number), tables[number]))

    assert at_once([lambda mine=mine, n=n: work(mine, n) for n, mine in enumerate(workers)]) == []  # type: ignore[misc]
    assert len(ids(loader, bench.namespace, "orders")) == 20


def test_a_table_always_takes_the_same_lock() -> None:
    assert [_slot_of(name) for name in ("tracks", "users", "größe")] == [34, 54, 39]
    assert {_slot_of(f"table {number}") for number in range(2000)} == set(range(64))


def test_a_lock_without_rows_stops_loads(loader: BigqueryLoader, tmp_path: Path) -> None:
    create(loader, "orders", EVENT)
    loader.query(f"DELETE FROM {loader.place(LOCKS)} WHERE TRUE")
    with pytest.raises(WarehouseError, match="drop the table"):
        loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, [event("a")]))
    loader.query(f"DROP TABLE {loader.place(LOCKS)}")
    loader.check()
    assert loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, [event("a")])) == Done(1)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("reason", "message", "passing", "of_one_table", "advice"),
    [
        ("accessDenied", "Access Denied: Table p:d.t: Permission denied", False, True, "dataEditor"),
        ("accessDenied", "Access Denied: Project p: no bigquery.jobs.create", False, False, "jobUser"),
        ("notFound", "Not found: Table p:d.t", False, True, "dropped"),
        ("notFound", "Not found: Dataset p:d", False, False, "dropped"),
        ("billingNotEnabled", "DML queries are not allowed in the free tier", False, False, "billing"),
        ("quotaExceeded", "Your project exceeded quota", False, False, "syncFrequency"),
        ("rateLimitExceeded", "too many table update operations for this table", True, False, ""),
        ("resourcesExceeded", "Resources exceeded during query execution", False, True, "syncEvents"),
        (
            "resourcesExceeded",
            "Resources exceeded during query execution: Too many DML statements outstanding against table",
            True,
            False,
            "",
        ),
        (
            "invalidQuery",
            "Could not serialize access to table p:d.t due to concurrent update",
            True,
            False,
            "",
        ),
        ("invalidQuery", "Bad int64 value", False, True, ""),
        ("invalidQuery", "Too many partitions produced by query, allowed 4000", False, True, "partitionType"),
        ("backendError", "Error encountered", True, False, ""),
        ("", "connection refused", False, False, ""),
    ],
)
def test_what_an_error_means(
    reason: str, message: str, passing: bool, of_one_table: bool, advice: str
) -> None:
    error = BigqueryError(message, reason)
    assert (error.passing, error.of_one_table) == (passing, of_one_table)
    assert advice in str(error)
    assert bool(advice) == (str(error) != message)


def test_rights_that_are_missing_are_told_with_their_roles(
    bench: Bench, loader: BigqueryLoader, tmp_path: Path
) -> None:
    create(loader, "orders", EVENT)
    table = staged(loader, tmp_path, "orders", EVENT, [event("a")])
    denied = {"do": "job", "of": "COMMIT", "reason": "accessDenied"}
    bench.server.fail({**denied, "message": "Access Denied: Table p:d.orders: User does not have permission"})
    with pytest.raises(TableFailed) as raised:
        loader.load(load_of(1), table)
    assert "roles/bigquery.dataEditor" in raised.value.advice
    bench.server.fail(
        {**denied, "message": "Access Denied: Project p: User does not have bigquery.jobs.create"}
    )
    with pytest.raises(WarehouseError, match=r"roles/bigquery\.jobUser") as other:
        loader.load(load_of(1), table)
    assert not isinstance(other.value, TableFailed)


def test_a_server_that_is_gone(bench: Bench) -> None:
    loader = BigqueryLoader(
        connect(bigquery.Config(project=PROJECT, endpoint="http://127.0.0.1:1")), bench.namespace
    )
    loader._client.get_dataset = _unreachable  # type: ignore[method-assign]
    with pytest.raises(WarehouseError, match="refused"):
        loader.check()
    loader.close()


def _unreachable(*_: Any, **__: Any) -> Any:
    import requests

    raise requests.ConnectionError("Connection refused")


# ---------------------------------------------------------------- SQL


def test_every_statement_is_googlesql(bench: Bench, loader: BigqueryLoader, tmp_path: Path) -> None:
    create(loader, "users", USER)
    create(loader, "orders", {"id": "string", "received_at": "datetime", "count": "int", "cart": "json"})
    loader.evolve([AddColumns("orders", {"note": "string", "größe": "float"})])
    for number, mode in enumerate(("append", "replace by id", "latest by id")):
        loader.load(load_of(number), staged(loader, tmp_path, "users", USER, [event("a")], mode))  # type: ignore[arg-type]
    loader.loads("shop")
    found = bench.statements()
    assert len(found) > 15
    for sql in found:
        [tree] = sqlglot.parse(sql, read="bigquery", error_level=sqlglot.ErrorLevel.RAISE)
        assert tree is not None
        assert tree.find(exp.Command) is None, sql


def test_the_scripts_of_the_server_are_read_as_bigquery_reads_them() -> None:
    for wrong in ("IF TRUE THEN SELECT 1;", "SELECT 1; END IF;", "IF TRUE SELECT 1; END IF;", "SET x = ;"):
        with pytest.raises(script.ScriptError):
            script.parse(wrong)
    [begin, outer, commit] = script.parse(
        "BEGIN TRANSACTION; IF TRUE THEN SELECT ';'; IF FALSE THEN RAISE USING MESSAGE = 'x'; END IF; END IF;"
        " COMMIT TRANSACTION"
    )
    assert (begin.kind, commit.kind) == ("begin", "commit")
    assert [(one.kind, one.text) for one in outer.body] == [("sql", "SELECT ';'"), ("if", "FALSE")]


def test_the_server_refuses_what_bigquery_does(bench: Bench, loader: BigqueryLoader) -> None:
    place = loader.place("t")
    with pytest.raises(BigqueryError, match="DDL"):
        loader.query(f"BEGIN TRANSACTION; CREATE TABLE {place} (a INT64); COMMIT TRANSACTION;")
    with pytest.raises(BigqueryError, match="Syntax error"):
        loader.query("SELEC 1")
    loader.query(f"CREATE TABLE {place} (a INT64, b STRING)")
    with pytest.raises(BigqueryError, match="SET DATA TYPE"):
        loader.query(f"ALTER TABLE {place} ALTER COLUMN b SET DATA TYPE INT64")
    job = bench.client().query("SELECT 1", job_id=(name := f"job_{uuid4().hex}"), job_retry=None)
    job.result()
    with pytest.raises(Exception, match="Already Exists"):
        bench.client().query("SELECT 1", job_id=name, job_retry=None)
    with pytest.raises(NotFound):
        bench.client().get_job("nowhere")
