"""Engines whose tables are files: in a folder, and on the S3 server of the tests. And ClickHouse's, in-process."""

import os
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

import clickhouse_connect

from mainstem.secret import Secret
from mainstem.warehouse.loader import Loader
from mainstem.warehouse.loaders import clickhouse, delta, iceberg, parquet
from tests.components.s3 import S3Server

ENDPOINT = "TEST_S3_ENDPOINT"
"""Where the S3 server of this session is, for children too. Set by `conftest`."""


def bucket_of(folder: Path) -> dict[str, object]:
    """Settings of a bucket that belongs to a folder."""
    noted, endpoint = folder / ".bucket", os.environ[ENDPOINT]
    if not noted.exists():
        name = f"lake-{abs(hash(str(folder))) % 10**9}"
        request = urllib.request.Request(f"{endpoint}/{name}", method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=30):
                pass
        except HTTPError as error:
            assert error.code == 409  # noqa: PT017 - it is there
        noted.write_text(name)
    name = noted.read_text()
    return {
        "url": f"s3://{name}/lake",
        "endpoint": endpoint,
        "region": S3Server.region,
        "access_key_id": Secret(S3Server.access_key),
        "secret_access_key": Secret(S3Server.secret_key),
    }


def open_iceberg(folder: Path, namespace: str) -> Loader:
    """A SQLite catalog and its tables, in the folder."""
    return iceberg.open_loader(iceberg.Config(), namespace, folder)


def open_iceberg_s3(folder: Path, namespace: str) -> Loader:
    """A SQLite catalog in the folder, tables in a bucket."""
    return iceberg.open_loader(iceberg.Config(**bucket_of(folder)), namespace, folder)  # type: ignore[arg-type]


def open_parquet(folder: Path, namespace: str) -> Loader:
    """Files in the folder."""
    return parquet.open_loader(parquet.Config(), namespace, folder)


def open_parquet_s3(folder: Path, namespace: str) -> Loader:
    """Files in a bucket."""
    return parquet.open_loader(parquet.Config(**bucket_of(folder)), namespace, folder)  # type: ignore[arg-type]


def open_clickhouse(folder: Path, namespace: str) -> Loader:
    """The engine itself in this process, its data in the folder."""
    return clickhouse.ClickhouseLoader(
        clickhouse_connect.get_client(dsn=f"chdb:///{folder / 'clickhouse'}"), namespace
    )


def open_delta(folder: Path, namespace: str) -> Loader:
    """Delta tables in the folder."""
    return delta.open_loader(delta.Config(), namespace, folder)


def open_delta_s3(folder: Path, namespace: str) -> Loader:
    """Delta tables in a bucket."""
    return delta.open_loader(delta.Config(**bucket_of(folder)), namespace, folder)  # type: ignore[arg-type]
