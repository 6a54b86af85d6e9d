"""A real Redis server: Debian's package, or whatever `redis-server` is there. Nothing is kept on the disk."""

import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.components.install import ComponentMissing, apt_install
from tests.components.process import ServerProcess, accepts_connections, free_port

COMPONENT = "redis"


def find() -> Path | None:
    """The server: `TEST_REDIS_SERVER` if set, else the one on the PATH."""
    chosen = os.environ.get("TEST_REDIS_SERVER") or shutil.which("redis-server")
    return Path(chosen) if chosen else None


def install() -> Path:
    """The server's command, from Debian where that is allowed.

    Raises:
        ComponentMissing: There is none and it could not be installed.
    """
    server = find()
    if server is None:
        apt_install(COMPONENT, ["redis-server"])
        server = find()
    if server is None or not server.exists():
        raise ComponentMissing(
            COMPONENT,
            "no redis-server.",
            "apt-get install redis-server, or set TEST_REDIS_SERVER to its path.",
        )
    return server


class RedisServer:
    """A server on a free loopback port."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._directory = directory
        self._options = options
        self.port = free_port()
        self._server: ServerProcess | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._server = ServerProcess(
            "Redis server",
            [
                install(),
                *("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
                *("--dir", str(self._directory), *self._options),
            ],
            ready=lambda: accepts_connections(self.port),
            log=self._directory / "redis.log",
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

    @property
    def server(self) -> ServerProcess:
        """The server's process."""
        if self._server is None:
            raise RuntimeError("the Redis server was never started: use `with RedisServer(...)`")
        return self._server

    def kill9(self) -> None:
        """SIGKILL the server; its data is gone."""
        self.server.kill9()

    def restart(self) -> None:
        """Start the server again after `kill9`, on the same port."""
        self.server.start()
