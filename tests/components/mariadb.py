"""A real MariaDB server: Debian's package, or whatever `mariadbd` is there."""

import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.components.install import ComponentMissing, apt_install
from tests.components.process import ServerFailed, ServerProcess, accepts_connections, free_port
from tests.components.server_user import as_server_user, server_folder

COMPONENT = "mariadb"
_SQL = Path("/usr/share/mysql")
_TABLES = ("mysql_system_tables.sql", "mysql_performance_tables.sql")


def find() -> Path | None:
    """The server: `TEST_MARIADB_SERVER` if set, else the one on the PATH or where Debian puts it."""
    chosen = os.environ.get("TEST_MARIADB_SERVER") or shutil.which("mariadbd") or "/usr/sbin/mariadbd"
    return Path(chosen) if Path(chosen).exists() else None


def install() -> Path:
    """The server's command, from Debian where that is allowed.

    Raises:
        ComponentMissing: There is none and it could not be installed.
    """
    server = find()
    if server is None:
        apt_install(COMPONENT, ["mariadb-server-core"])
        server = find()
    if server is None:
        raise ComponentMissing(
            COMPONENT,
            "no mariadbd.",
            "apt-get install mariadb-server-core, or set TEST_MARIADB_SERVER to its path.",
        )
    return server


class MariadbServer:
    """A server on a free loopback port, with one user who may do everything."""

    user = "mainstem"
    password = "mainstem-test"

    def __init__(self, *options: str) -> None:
        """
        Args:
            options: of the command line, beside those that make tests fast.
        """
        self._options = options
        self.port = free_port()
        self._stack = ExitStack()
        self._server: ServerProcess | None = None

    def __enter__(self) -> Self:
        command = install()
        folder = self._stack.enter_context(server_folder("mariadb"))
        data = folder / "data"
        common = [*as_server_user(), command, "--no-defaults", f"--datadir={data}"]
        # What mariadb-install-db does, without the package that it takes a helper from.
        subprocess.run([*as_server_user(), "mkdir", data], check=True)
        tables = "".join((_SQL / name).read_text(encoding="utf-8", errors="replace") for name in _TABLES)
        made = subprocess.run(
            [*common, "--bootstrap", "--innodb-flush-log-at-trx-commit=0"],
            input=f"create database mysql;\nuse mysql;\n{tables}",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if made.returncode != 0:
            self._stack.close()
            raise ServerFailed(f"MariaDB's folder could not be made:\n{made.stdout}{made.stderr}")
        first = folder / "first.sql"
        first.write_text(
            f"CREATE USER IF NOT EXISTS '{self.user}'@'127.0.0.1' IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL ON *.* TO '{self.user}'@'127.0.0.1' WITH GRANT OPTION;\n"
        )
        self._server = ServerProcess(
            "MariaDB server",
            [
                *(*common, f"--port={self.port}", "--bind-address=127.0.0.1", f"--init-file={first}"),
                *(f"--socket={folder / 'socket'}", f"--pid-file={folder / 'pid'}", "--skip-name-resolve"),
                *("--innodb-flush-log-at-trx-commit=2", *self._options),
            ],
            ready=lambda: accepts_connections(self.port),
            log=folder / "mariadb.log",
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
            raise RuntimeError("the server was never started: use `with MariadbServer(...)`")
        return self._server

    def kill9(self) -> None:
        """SIGKILL the server."""
        self.server.kill9()

    def restart(self) -> None:
        """Start the server again after `kill9` or `stop`: same port, same data."""
        self.server.start()
