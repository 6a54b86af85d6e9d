"""The engines that the contract suite runs on: each opens a loader in a namespace of its own, on something real.

An engine's line is a function from a folder and a namespace to a loader. One that needs a server starts it in
`conftest.py`, once a session.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from mainstem.warehouse.loader import Loader, LoaderSpec
from mainstem.warehouse.loaders.catalog import find_loader
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

_SPECS = {
    "bigquery": "BQ",
    "clickhouse": "CLICKHOUSE",
    "databricks": "DATABRICKS",
    "delta": "DELTALAKE",
    "duckdb": "DUCKDB",
    "iceberg": "ICEBERG",
    "mysql": "MYSQL",
    "parquet": "PARQUET",
    "postgres": "POSTGRES",
    "redshift": "RS",
    "snowflake": "SNOWFLAKE",
}
"""Names in the catalog, by how engines begin here."""


def spec_of(engine: str) -> LoaderSpec:
    """Return an engine's entry in the catalog."""
    found = find_loader(next(name for begins, name in _SPECS.items() if engine.startswith(begins)))
    assert found is not None
    return found


_LATE = {
    "bigquery": "mainstem.warehouse.loaders.bigquery_jobs",
    "delta": "mainstem.warehouse.loaders.delta_tables",
    "iceberg": "mainstem.warehouse.loaders.iceberg_tables",
}
"""What engines whose names begin so import late. Not chDB, nor Snowflake's driver: they start threads,
which no fork takes along."""
_IF_THERE = "pandas"
"""What Arrow and DuckDB import late, if it is there."""


def import_early(engine: str) -> None:
    """Import what an engine imports when it is opened: before a fork, so that it costs seconds only once."""
    for beginning, module in _LATE.items():
        if engine.startswith(beginning):
            import_module(module)
    if find_spec(_IF_THERE) is not None:
        import_module(_IF_THERE)
