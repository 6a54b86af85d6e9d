"""Database servers for the contract suite: each started once a session, and told to the killed children by name."""

import os
from pathlib import Path

import msgspec

from mainstem.secret import Secret
from mainstem.warehouse.loader import Loader
from mainstem.warehouse.loaders import bigquery, databricks, mysql, postgres, redshift, snowflake
from mainstem.warehouse.loaders.pg_wire import PgWire
from tests.components.bigquery import PROJECT, endpoint_of
from tests.components.fakesnow import FakesnowServer
from tests.components.mariadb import MariadbServer
from tests.components.postgres import PostgresServer
from tests.warehouse import databricks_server

POSTGRES_PORT = "TEST_WAREHOUSE_POSTGRES_PORT"
MARIADB_PORT = "TEST_WAREHOUSE_MARIADB_PORT"
FAKESNOW_PORT = "TEST_WAREHOUSE_FAKESNOW_PORT"
DATABRICKS_PORT = "TEST_WAREHOUSE_DATABRICKS_PORT"
BIGQUERY_PORT = "TEST_WAREHOUSE_BIGQUERY_PORT"


def postgres_config(port: int) -> postgres.Config:
    """How to reach the tests' server."""
    return postgres.Config(
        host="127.0.0.1",
        port=port,
        database=PostgresServer.database,
        user=PostgresServer.user,
        password=Secret(PostgresServer.password),
        ssl_mode="disable",
    )


def open_postgres(folder: Path, namespace: str) -> Loader:
    """A schema on the session's server."""
    return postgres.open_loader(postgres_config(int(os.environ[POSTGRES_PORT])), namespace, folder)


def mysql_config(port: int) -> mysql.Config:
    """How to reach the tests' server."""
    return mysql.Config(
        host="127.0.0.1",
        port=port,
        user=MariadbServer.user,
        password=Secret(MariadbServer.password),
        ssl_mode="disable",
    )


def open_mysql(folder: Path, namespace: str) -> Loader:
    """A database on the session's server."""
    return mysql.open_loader(mysql_config(int(os.environ[MARIADB_PORT])), namespace, folder)


def open_mysql_by_insert(folder: Path, namespace: str) -> Loader:
    """The same, as if the server took no LOAD DATA."""
    loader = mysql.open_loader(mysql_config(int(os.environ[MARIADB_PORT])), namespace, folder)
    loader._sends_files = False
    return loader


_LIKE_REDSHIFT = """
DO $$ BEGIN
  PERFORM pg_advisory_xact_lock(7);
  IF to_regtype('super') IS NULL THEN
    CREATE DOMAIN public.super AS jsonb;
    CREATE FUNCTION public.json_parse(text) RETURNS public.super LANGUAGE sql IMMUTABLE
      AS 'SELECT $1::jsonb::public.super';
    CREATE FUNCTION public.getdate() RETURNS timestamp LANGUAGE sql STABLE
      AS $now$ SELECT now() AT TIME ZONE 'UTC' $now$;
  END IF;
END $$
"""


class RedshiftOnPostgres(redshift.RedshiftLoader):
    """The Redshift loader on a PostgreSQL that has been given Redshift's functions. What it can't parse is left out."""

    keys_sql = ""

    def __init__(self, wire: PgWire, namespace: str, bucket: redshift.Bucket | None = None) -> None:
        wire.run(_LIKE_REDSHIFT)
        super().__init__(wire, namespace, bucket, msgspec.structs.replace(redshift.CAPABILITIES, max_name=63))


def redshift_wire(port: int) -> PgWire:
    """A connection to the tests' PostgreSQL server."""
    return PgWire(
        host="127.0.0.1",
        port=port,
        database=PostgresServer.database,
        user=PostgresServer.user,
        password=Secret(PostgresServer.password),
        tls="disable",
    )


def open_redshift(folder: Path, namespace: str) -> Loader:
    """The Redshift loader, by INSERTs, on the session's PostgreSQL server."""
    assert folder.exists()
    return RedshiftOnPostgres(redshift_wire(int(os.environ[POSTGRES_PORT])), namespace)


def snowflake_config(port: int) -> snowflake.Config:
    """How to reach the tests' emulator."""
    return snowflake.Config(
        account="test",
        database=FakesnowServer.database,
        warehouse="LOADING",
        user="LOADER",
        password=Secret("any"),
        endpoint=f"http://127.0.0.1:{port}",
    )


def open_snowflake(folder: Path, namespace: str) -> Loader:
    """A schema on the session's emulator, named as the product names one there."""
    return snowflake.open_loader(snowflake_config(int(os.environ[FAKESNOW_PORT])), namespace.upper(), folder)


def databricks_config(port: int) -> databricks.Config:
    """How to reach the tests' workspace."""
    return databricks.Config(
        host="http://127.0.0.1",
        port=port,
        path=databricks_server.HTTP_PATH,
        token=Secret(databricks_server.TOKEN),
    )


def open_databricks(folder: Path, namespace: str) -> Loader:
    """A schema in the session's workspace."""
    return databricks.open_loader(databricks_config(int(os.environ[DATABRICKS_PORT])), namespace, folder)


def open_bigquery(folder: Path, namespace: str) -> Loader:
    """A dataset on the session's server that speaks BigQuery's API."""
    config = bigquery.Config(project=PROJECT, endpoint=endpoint_of(int(os.environ[BIGQUERY_PORT])))
    return bigquery.open_loader(config, namespace, folder)


SERVERS = {
    "bigquery": ("bigquery_server", BIGQUERY_PORT),
    "databricks": ("databricks_server", DATABRICKS_PORT),
    "mysql": ("mariadb_server", MARIADB_PORT),
    "mysql_by_insert": ("mariadb_server", MARIADB_PORT),
    "postgres": ("postgres_server", POSTGRES_PORT),
    "redshift_on_postgres": ("postgres_server", POSTGRES_PORT),
    "snowflake_on_fakesnow": ("fakesnow_server", FAKESNOW_PORT),
}
"""By engine: the fixture with its server, and the variable that says its port."""
