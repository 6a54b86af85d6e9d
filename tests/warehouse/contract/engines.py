"""The engines that the contract suite runs on: each opens a loader in a namespace of its own, on something real.

An engine's line is a function from a folder and a namespace to a loader. One that needs a server starts it in
`conftest.py`, once a session.
"""

from collections.abc import Callable
from pathlib import Path

from mainstem.warehouse.loader import Loader
from mainstem.warehouse.loaders.duckdb import DuckdbLoader
from tests.warehouse.contract import databases, lakes

Open = Callable[[Path, str], Loader]


def open_duckdb(folder: Path, namespace: str) -> Loader:
    """A file in the folder."""
    return DuckdbLoader(folder / "w.duckdb", namespace)


ENGINES: dict[str, Open] = {
    "bigquery": databases.open_bigquery,
    "clickhouse": lakes.open_clickhouse,
    "databricks": databases.open_databricks,
    "delta": lakes.open_delta,
    "delta_s3": lakes.open_delta_s3,
    "duckdb": open_duckdb,
    "iceberg": lakes.open_iceberg,
    "iceberg_s3": lakes.open_iceberg_s3,
    "parquet": lakes.open_parquet,
    "parquet_s3": lakes.open_parquet_s3,
    "mysql": databases.open_mysql,
    "mysql_by_insert": databases.open_mysql_by_insert,
    "postgres": databases.open_postgres,
    "redshift_on_postgres": databases.open_redshift,
    "snowflake_on_fakesnow": databases.open_snowflake,
}
