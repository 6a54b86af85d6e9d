"""A real S3-speaking server process: LocalBucket from PyPI, in an environment of its own.

Path-style URLs, conditional create (`If-None-Match: *`), multipart uploads and ranges work; it does not
check credentials and has no conditional update (`If-Match`). Objects are files in `directory`.
"""

import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.components.install import PINS, python_environment
from tests.components.process import ServerProcess, accepts_connections, free_port

COMPONENT = "localbucket"
_LOCK = PINS / "localbucket.txt"
_FRONT = Path(__file__).parent / "localbucket_front.py"


def install() -> Path:
    """The interpreter that has the server.

    Raises:
        ComponentMissing: PyPI could not be reached.
    """
    return python_environment(COMPONENT, _LOCK) / "bin" / "python"


class S3Server:
    """An S3 endpoint on a free loopback port, with its buckets as folders in `directory`."""

    access_key = "mainstem-test"
    secret_key = "mainstem-test-secret"
    region = "us-east-1"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        self._server: ServerProcess | None = None

    @property
    def endpoint(self) -> str:
        """The URL that clients take as endpoint, without a bucket."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        buckets = self._directory / "buckets"
        buckets.mkdir(parents=True, exist_ok=True)
        self._server = ServerProcess(
            "S3 server",
            [install(), "-P", _FRONT, "--host", "127.0.0.1", "--port", str(self._port), buckets],
            ready=lambda: accepts_connections(self._port),
            log=self._directory / "s3.log",
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
            raise RuntimeError("the S3 server was never started: use `with S3Server(...)`")
        return self._server

    def create_bucket(self, name: str) -> None:
        """Create the bucket `name` (at least three characters), as `CreateBucket` does."""
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
        with urllib.request.urlopen(request, timeout=30):
            return

    def kill9(self) -> None:
        """SIGKILL the server."""
        self.server.kill9()

    def restart(self) -> None:
        """Start the server again after `kill9` or `stop`: same port, same objects."""
        self.server.start()
