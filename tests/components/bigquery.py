"""A server that speaks BigQuery's REST API over DuckDB, in a process of its own: see `tests.warehouse.bigquery_server`.

Google has no server to install, and its emulators are not to be had for this Python: nothing here is Google's.
"""

import json
import sys
import tempfile
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.components.process import ServerProcess, accepts_connections, free_port

PROJECT = "tests-project"


class BigqueryServer:
    """An endpoint on a free loopback port. Its data is in memory."""

    def __init__(self) -> None:
        self.port = free_port()
        self._stack = ExitStack()

    @property
    def endpoint(self) -> str:
        """The URL that clients take as endpoint."""
        return endpoint_of(self.port)

    def __enter__(self) -> Self:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bigquery-")))
        self._stack.enter_context(
            ServerProcess(
                "BigQuery stand-in",
                [sys.executable, "-m", "tests.warehouse.bigquery_server.api", str(self.port)],
                ready=lambda: accepts_connections(self.port),
                log=folder / "server.log",
            )
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def fail(self, *faults: dict[str, Any]) -> None:
        """Have things go wrong from now on (`bigquery_server.api.Fault`); none: nothing any more."""
        self._ask("/faults", list(faults))

    def conflicts(self, *, by_table: bool) -> None:
        """Have transactions conflict that mutate one table, or only those that mutate one row."""
        self._ask("/engine", {"by_table": by_table})

    def statements(self) -> list[str]:
        """Every statement that was run."""
        found: list[str] = self._ask("/statements", None)
        return found

    def _ask(self, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"{self.endpoint}{path}", data=data, timeout=30) as answer:
            return json.load(answer)


def endpoint_of(port: int) -> str:
    """The URL of the server on a port."""
    return f"http://127.0.0.1:{port}"
