"""Database servers for the contract suite: each started once a session, and told to the killed children by name."""

import os
from pathlib import Path

from mainstem.secret import Secret
from mainstem.warehouse.loader import Loader
from mainstem.warehouse.loaders import mysql, postgres
from tests.components.mariadb import MariadbServer
from tests.components.postgres import PostgresServer

POSTGRES_PORT = "TEST_WAREHOUSE_POSTGRES_PORT"
MARIADB_PORT = "TEST_WAREHOUSE_MARIADB_PORT"


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


SERVERS = {
    "mysql": ("mariadb_server", MARIADB_PORT),
    "mysql_by_insert": ("mariadb_server", MARIADB_PORT),
    "postgres": ("postgres_server", POSTGRES_PORT),
}
"""By engine: the fixture with its server, and the variable that says its port."""
