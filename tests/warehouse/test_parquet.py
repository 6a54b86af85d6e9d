"""The Parquet lake: its files by name, and what is there when a load is interrupted between them."""

import re
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest

from mainstem.bulk.folders import folder_name
from mainstem.destinations.catalog import check_config
from mainstem.secret import Secret
from mainstem.warehouse.loader import Done, TableFailed, WarehouseError
from mainstem.warehouse.loaders.catalog import find_loader
from mainstem.warehouse.loaders.parquet import AzureConfig, Config, GcsConfig, ParquetLoader, open_loader
from mainstem.warehouse.place import Folder
from mainstem.warehouse.schema import AddColumns, ColumnType, CreateTable, WidenColumn
from tests.components.s3 import S3Server
from tests.warehouse.contract.rows import EVENT, create, ids, load_of, staged, values

DAY = "2026-01-{:02}T23:59:59.999999Z"


def row(row_id: str, day: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": row_id, "received_at": DAY.format(day), **more}


@pytest.fixture
def loader(tmp_path: Path) -> ParquetLoader:
    loader = open_loader(Config(), "shop", tmp_path)
    loader.check()
    create(loader, "orders", EVENT)
    return loader


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet"))


def test_files_are_named_by_day_and_load(loader: ParquetLoader, tmp_path: Path) -> None:
    rows = [row("a"), row("b", 2), row("c", 2), {"id": "d"}]
    loader.load(load_of(7), staged(loader, tmp_path, "orders", EVENT, rows))
    assert files(tmp_path / "lake" / "shop") == [
        "_mainstem_loads/cursor=shop/000000000007-plan00000007-orders.parquet",
        "orders/date=2026-01-01/000000000007-plan00000007.parquet",
        "orders/date=2026-01-02/000000000007-plan00000007.parquet",
        "orders/date=__HIVE_DEFAULT_PARTITION__/000000000007-plan00000007.parquet",
    ]
    found = loader.query('SELECT "id", "date" FROM "shop"."orders"')
    assert sorted((row_id, str(day)) for row_id, day in found) == [
        ("a", "2026-01-01"),
        ("b", "2026-01-02"),
        ("c", "2026-01-02"),
        ("d", "None"),
    ]


def test_interrupted_between_any_two_files(loader: ParquetLoader, tmp_path: Path) -> None:
    rows = [row(str(day), day) for day in range(1, 6)]
    table = staged(loader, tmp_path, "orders", EVENT, rows)
    for fault in range(6):
        count = 0

        def counted(real: Any, fault: int = fault) -> Any:
            def failing(self: Folder, name: str, content: Any) -> Any:
                nonlocal count
                count += 1
                if count == fault + 1:
                    raise WarehouseError("no space left")
                return real(self, name, content)

            return failing

        with (
            patch.object(Folder, "put", counted(Folder.put)),
            patch.object(Folder, "create", counted(Folder.create)),
            pytest.raises(WarehouseError, match="no space left"),
        ):
            loader.load(load_of(1), table)
        assert loader.loads("shop") == []
        assert ids(loader, "shop", "orders") == [str(day) for day in range(1, fault + 1)]
    assert loader.load(load_of(1), table) == Done(5)
    assert ids(loader, "shop", "orders") == ["1", "2", "3", "4", "5"]
    assert loader.load(load_of(1), table).already


def test_old_files_lack_new_columns(loader: ParquetLoader, tmp_path: Path) -> None:
    loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, [row("a")]))
    loader.evolve([AddColumns("orders", {"note": "json"})])
    columns = {**EVENT, "note": "json"}
    loader.load(load_of(2), staged(loader, tmp_path, "orders", columns, [row("b", note='{"x":1}')]))
    found = loader.query('SELECT "id", "note" FROM "shop"."orders" ORDER BY 1')
    assert [tuple(item) for item in found] == [("a", None), ("b", '{"x":1}')]
    assert loader.fetch_schema()["orders"]["note"] == "json"


def test_two_that_add_columns_at_the_same_time(loader: ParquetLoader, tmp_path: Path) -> None:
    other = open_loader(Config(), "shop", tmp_path)
    real, calls = Folder.create, 0

    def meanwhile(self: Folder, name: str, content: bytes) -> bool:
        nonlocal calls
        calls += 1
        if calls == 1:
            other.evolve([AddColumns("orders", {"two": "int", "both": "int"})])
        return real(self, name, content)

    with patch.object(Folder, "create", meanwhile):
        loader.evolve([AddColumns("orders", {"one": "string", "both": "string"})])
    columns = loader.fetch_schema()["orders"]
    assert (columns["one"], columns["two"], columns["both"]) == ("string", "int", "int")
    table = staged(loader, tmp_path, "orders", {**EVENT, "both": "string"}, [row("a", both="x")])
    with pytest.raises(WarehouseError, match="column both is int, the load has string"):
        loader.load(load_of(1), table)


def test_what_files_cannot_do_is_said(loader: ParquetLoader) -> None:
    with pytest.raises(TableFailed, match="count"):
        loader.evolve([WidenColumn("orders", "count", "int", "float")])
    (schema,) = Path(loader._folder or "").glob("shop/_schema/orders/*.json")
    schema.write_text("{")
    again = ParquetLoader(loader._place, "shop")
    with pytest.raises(WarehouseError, match="damaged"):
        again.fetch_schema()


def test_settings_that_name_no_place(tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match="unknown scheme 'ftp'"):
        open_loader(Config(url="ftp://x"), "shop", tmp_path)
    secret = Secret("not-a-key")
    with pytest.raises(WarehouseError) as caught:
        open_loader(Config(url="gs://bucket", credentials=secret), "shop", tmp_path)
    assert "not-a-key" not in str(caught.value)


def test_rudderstacks_data_lakes(s3_server: S3Server, tmp_path: Path) -> None:
    bucket = f"lake-{uuid4().hex[:12]}"
    s3_server.create_bucket(bucket)
    raw = {
        "bucketName": bucket,
        "prefix": "/some/folder/",
        "region": s3_server.region,
        "accessKeyID": s3_server.access_key,
        "accessKey": s3_server.secret_key,
        "endPoint": s3_server.endpoint,
        "syncFrequency": "30",
    }
    spec = find_loader("S3_DATALAKE")
    assert spec is not None
    loader = spec.open(check_config("S3_DATALAKE", raw).config, "shop", tmp_path)
    loader.check()
    create(loader, "orders", EVENT)
    loader.load(load_of(1), staged(loader, tmp_path, "orders", EVENT, [row("a")]))
    assert ids(loader, "shop", "orders") == ["a"]


def test_a_column_called_date_is_seen_where_names_allow_it(tmp_path: Path) -> None:
    lake = AzureConfig(
        container_name="c", account_name="a", sas_token=Secret("s"), use_sas_tokens=True
    ).lake()
    assert (lake.url, lake.sas_token.reveal(), lake.account_key.reveal()) == ("az://c/", "s", "")
    assert GcsConfig(bucket_name="b", prefix="p").lake().url == "gs://b/p"
    loader = ParquetLoader(Folder(tmp_path / "x"), "shop", tmp_path / "x", day="received_date")
    loader.check()
    columns: dict[str, ColumnType] = {"id": "string", "received_at": "datetime", "date": "string"}
    create(loader, "orders", columns)
    loader.load(load_of(1), staged(loader, tmp_path, "orders", columns, [row("a", date="mine")]))
    assert values(loader, "orders", "a", "date") == ["mine"]


def test_folders_of_names() -> None:
    assert folder_name("order_completed") == "order_completed"
    odd = [folder_name(name) for name in ("a.b", "a/b", "a b", "ü", "x" * 200, "..", "")]
    assert len(set(odd)) == len(odd)
    assert all(re.fullmatch(r"[\w-]{1,120}", name, re.ASCII) for name in odd if name)


def test_a_table_whose_name_is_not_plain(loader: ParquetLoader, tmp_path: Path) -> None:
    loader.evolve([CreateTable("../x y", EVENT)])
    loader.load(load_of(1), staged(loader, tmp_path, "../x y", EVENT, [row("a")]))
    assert ids(loader, "shop", "../x y") == ["a"]
    assert not (tmp_path / "x y").exists()
