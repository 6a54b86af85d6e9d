"""Database servers for the contract suite: each started once a session, and told to the killed children by name."""

import os
from pathlib import Path

from mainstem.secret import Secret
from mainstem.warehouse.loader import Loader
from mainstem.warehouse.loaders import postgres
from tests.components.postgres import PostgresServer

POSTGRES_PORT = "TEST_WAREHOUSE_POSTGRES_PORT"


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


SERVERS = {"postgres": ("postgres_server", POSTGRES_PORT)}
"""By engine: the fixture with its server, and the variable that says its port."""
