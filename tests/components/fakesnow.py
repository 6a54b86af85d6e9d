"""An emulator of Snowflake: fakesnow from PyPI, on DuckDB, in an environment of its own; spoken to over HTTP.

`fakesnow_front.py` says what is added to it. It checks no credentials, and knows no roles, warehouses or grants.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

from tests.components.install import PINS, python_environment
from tests.components.process import ServerProcess, accepts_connections, free_port

COMPONENT = "fakesnow"
_LOCK = PINS / "fakesnow.txt"
_FRONT = Path(__file__).with_name("fakesnow_front.py")


def install() -> Path:
    """The interpreter that can import it.

    Raises:
        ComponentMissing: PyPI could not be reached.
    """
    return python_environment(COMPONENT, _LOCK) / "bin" / "python"


class FakesnowServer:
    """An account on a free loopback port; databases are made when somebody names them."""

    database = "EVENTS"
    stranger = "STRANGER"
    """A user who is refused."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.port = free_port()
        self._server: ServerProcess | None = None

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._server = ServerProcess(
            "Snowflake's emulator",
            # -P: its folder, this one, has a module of the package's name.
            [install(), "-P", _FRONT, str(self.port)],
            ready=lambda: accepts_connections(self.port),
            log=self._directory / "fakesnow.log",
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
            raise RuntimeError("the server was never started: use `with FakesnowServer(...)`")
        return self._server
