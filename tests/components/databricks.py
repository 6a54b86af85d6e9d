"""A Databricks workspace for tests: `tests.warehouse.databricks_server` as a process of its own.

There is no emulator of Databricks SQL to install. This one has the two APIs that the loader uses and runs the
statements on DuckDB; it outlives clients that are killed, and finishes what they asked for.
"""

import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.components.process import ServerProcess, accepts_connections, free_port


class DatabricksServer:
    """A workspace on a free loopback port, files of its volumes in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.port = free_port()
        self._server: ServerProcess | None = None

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._server = ServerProcess(
            "Databricks server",
            [sys.executable, "-m", "tests.warehouse.databricks_server", str(self.port), self._directory],
            ready=lambda: accepts_connections(self.port),
            log=self._directory / "databricks.log",
        )
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.stop()
