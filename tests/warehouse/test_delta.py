"""Delta: what the contract suite can't see. Commits that race or get lost, small files, RudderStack's settings."""

from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from deltalake.exceptions import DeltaError

from mainstem.destinations.catalog import check_config
from mainstem.secret import Secret
from mainstem.warehouse import lake_tables
from mainstem.warehouse.loader import Done, TableFailed, WarehouseError
from mainstem.warehouse.loaders import delta_tables
from mainstem.warehouse.loaders.delta import Config, open_loader
from mainstem.warehouse.loaders.delta_tables import DeltaLoader, storage_options
from mainstem.warehouse.schema import AddColumns
from tests.components.s3 import S3Server
from tests.warehouse.contract.lakes import ENDPOINT, open_delta_s3
from tests.warehouse.contract.rows import EVENT, create, ids, load_of, staged, values

DAY = "2026-01-{:02}T00:00:00Z"


def opened(folder: Path, **settings: Any) -> DeltaLoader:
    loader = open_loader(Config(**settings), "shop", folder)
    assert isinstance(loader, DeltaLoader)
    loader.check()
    return loader


@pytest.fixture
def loader(tmp_path: Path) -> DeltaLoader:
    loader = opened(tmp_path)
    create(loader, "orders", EVENT)
    return loader


def row(row_id: str | None, day: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": row_id, "received_at": DAY.format(day), **more}


@pytest.mark.parametrize("mode", ["append", "replace by id", "latest by id"])
def test_a_load_that_somebody_commits_meanwhile_is_seen(
    loader: DeltaLoader, tmp_path: Path, mode: Any
) -> None:
    table = staged(loader, tmp_path, "orders", EVENT, [row("a"), row("b")], mode=mode)
    other = opened(tmp_path)
    real = lake_tables.rows_of
    calls: list[int] = []

    def meanwhile(*given: Any) -> Any:
        if not calls:
            calls.append(1)
            assert other.load(load_of(1), table) == Done(2)
        return real(*given)

    with patch.object(lake_tables, "rows_of", meanwhile):
        assert loader.load(load_of(1), table).already
    assert ids(loader, "shop", "orders") == ["a", "b"]
    assert len(loader.loads("shop")) == 1


def test_other_loads_meanwhile_are_gone_around(loader: DeltaLoader, tmp_path: Path) -> None:
    """Also when they bring the same user: what both know is merged."""
    other = opened(tmp_path)
    real = lake_tables.rows_of
    calls: list[int] = []

    def meanwhile(*given: Any) -> Any:
        if len(calls) < 2:
            calls.append(1)
            rows = [row("a", 1 + len(calls), count=len(calls))]
            table = staged(other, tmp_path, "orders", EVENT, rows, mode="latest by id")
            other.load(load_of(10 + len(calls)), table)
        return real(*given)

    table = staged(loader, tmp_path, "orders", EVENT, [row("a", name="Ann", count=0)], mode="latest by id")
    with patch.object(lake_tables, "rows_of", meanwhile):
        assert loader.load(load_of(1), table) == Done(1)
    assert ids(loader, "shop", "orders") == ["a"]
    assert values(loader, "orders", "a", "name", "count") == ["Ann", 2]


@pytest.mark.parametrize("lands", [False, True])
@pytest.mark.parametrize("commit", [0, 1])
def test_a_commit_whose_answer_is_lost(loader: DeltaLoader, tmp_path: Path, lands: bool, commit: int) -> None:
    """Before each of the two commits of a load (rows, `_mainstem_loads`), and behind each."""
    table = staged(loader, tmp_path, "orders", EVENT, [row("a"), row("b")], mode="append")
    real, count = write_deltalake, 0

    def failing(*given: Any, **more: Any) -> None:
        nonlocal count
        count += 1
        if count - 1 != commit:
            real(*given, **more)
            return
        if lands:
            real(*given, **more)
        raise DeltaError("no answer")

    with (
        patch.object(delta_tables, "write_deltalake", failing),
        pytest.raises(WarehouseError, match=r"table .*no answer"),
    ):
        loader.load(load_of(1), table)
    assert ids(loader, "shop", "orders") == ([] if commit == 0 and not lands else ["a", "b"])
    assert loader.load(load_of(1), table).already == (lands or commit == 1)
    assert ids(loader, "shop", "orders") == ["a", "b"]
    assert [found.load_id for found in loader.loads("shop")] == [load_of(1).id]


def test_small_files_are_joined_and_loads_stay_known(loader: DeltaLoader, tmp_path: Path) -> None:
    tables = []
    for number in range(6):
        tables.append(staged(loader, tmp_path, "orders", EVENT, [row(str(number))], mode="append"))
        loader.load(load_of(number), tables[-1])
    found = loader.compact("orders", keep=timedelta(0))
    assert (found.files_before, found.files_after, found.files_removed) == (6, 1, 6)
    assert ids(loader, "shop", "orders") == [str(number) for number in range(6)]
    assert all(loader.load(load_of(number), table).already for number, table in enumerate(tables))
    assert len(list((tmp_path / "delta" / "shop" / "orders").glob("*.parquet"))) == 1


def test_small_files_are_joined_in_a_bucket(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINT, s3_server.endpoint)
    loader = open_delta_s3(tmp_path, "shop")
    assert isinstance(loader, DeltaLoader)
    create(loader, "orders", EVENT)
    for number in range(6):
        table = staged(loader, tmp_path, "orders", EVENT, [row(str(number))], mode="append")
        loader.load(load_of(number), table)
    found = loader.compact("orders", keep=timedelta(0))
    assert (found.files_before, found.files_after, found.files_removed) == (6, 1, 6)
    assert ids(loader, "shop", "orders") == [str(number) for number in range(6)]


def test_what_a_bucket_says_is_told_to_its_cause(tmp_path: Path, s3_server: S3Server) -> None:
    config = Config(
        url="s3://nowhere/lake",
        endpoint=s3_server.endpoint,
        region=s3_server.region,
        access_key_id=Secret(s3_server.access_key),
        secret_access_key=Secret(s3_server.secret_key),
    )
    loader = open_loader(config, "shop", tmp_path)
    assert isinstance(loader, DeltaLoader)
    with pytest.raises(WarehouseError, match="NoSuchBucket") as failed:
        loader.compact("orders")
    assert "\n" not in str(failed.value)
    assert "\x1b" not in str(failed.value)


def test_replacing_replaces_the_whole_row(loader: DeltaLoader, tmp_path: Path) -> None:
    loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, [row("a", count=1), row(None)]))
    narrow = {"id": EVENT["id"], "received_at": EVENT["received_at"], "name": EVENT["name"]}
    again = [row("a", 2, name="Ann"), row(None)]
    loader.load(load_of(2), staged(loader, tmp_path, "orders", narrow, again))
    assert values(loader, "orders", "a", "name", "count") == ["Ann", None]
    assert len(ids(loader, "shop", "orders")) == 3, "rows without an id replace none"


def test_many_users_are_merged(loader: DeltaLoader, tmp_path: Path) -> None:
    first = [row(f"u'{n}", 1, count=n) for n in range(12_000)]
    loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, first, mode="latest by id"))
    second = [row(f"u'{n}", 2, total=n) for n in range(12_000)]
    loader.load(load_of(2), staged(loader, tmp_path, "orders", EVENT, second, mode="latest by id"))
    sql = 'SELECT count(*), count(*) FILTER ("count" = "total") FROM "shop"."orders"'
    assert [tuple(found) for found in loader.query(sql)] == [(12_000, 12_000)]


def test_json_is_remembered(loader: DeltaLoader) -> None:
    create(loader, "carts", {"id": "string", "cart": "json"})
    loader.evolve([AddColumns("carts", {"note": "text", "id": "int"})])
    assert loader.fetch_schema()["carts"] == {
        "id": "string",
        "cart": "json",
        "uuid_ts": "datetime",
        "note": "text",
    }


def test_what_is_wrong_is_said(loader: DeltaLoader) -> None:
    with pytest.raises(TableFailed, match="nowhere"):
        loader.compact("nowhere")
    [name] = Path(loader._folder or "").glob("shop/_mainstem_tables/orders.json")
    name.write_text("{")
    with pytest.raises(WarehouseError, match="damaged"):
        opened(Path(loader._folder or "").parent).fetch_schema()


def test_rudderstacks_settings() -> None:
    found = check_config("DELTALAKE", {"externalLocation": "s3a://lake/x"}).config
    assert found.location() == "s3://lake/x"
    assert found.databricks() is None, "there is no SQL warehouse"
    raw = {"host": "x.databricks.com", "port": "443", "path": "/sql", "token": "dapi-secret"}
    assert check_config("DELTALAKE", {**raw, "url": "s3://lake"}).config.databricks() is None
    options = storage_options(Config(endpoint="http://s3", region="eu"), "s3://lake/x")
    assert options["aws_endpoint_url"] == "http://s3"
    assert options["aws_conditional_put"] == "etag"


def test_users_of_both_sides() -> None:
    """`latest_of`: late rows fill what is null, later ones win, columns of one side stay."""
    old = pa.table(
        {
            "id": ["a", "b"],
            "received_at": [20, 20],
            "city": ["Rome", None],
            "plan": ["pro", None],
            "old": [1, 2],
        }
    )
    new = pa.table(
        {
            "id": ["a", "b", "c"],
            "received_at": [10, 30, 10],
            "city": ["Oslo", "Bonn", None],
            "plan": ["x", None, "z"],
        }
    )
    assert lake_tables.latest_of(old, new).to_pylist() == [
        {"id": "a", "received_at": 20, "city": "Rome", "plan": "pro", "old": 1},
        {"id": "b", "received_at": 30, "city": "Bonn", "plan": None, "old": 2},
        {"id": "c", "received_at": 10, "city": None, "plan": "z", "old": None},
    ]
