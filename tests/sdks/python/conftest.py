"""A collector to send to, a store of its own, and clients that are closed when the test ends."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mainstem_analytics import Client
from tests.sdks.python.collector import Collector

WRITE_KEY = "sdk-write-key"
MakeClient = Callable[..., Client]


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A running collector."""
    with Collector() as running:
        yield running


@pytest.fixture
def make_client(collector: Collector, tmp_path: Path) -> Iterator[MakeClient]:
    """Makes clients of the collector, on one store: quick to retry, slow to send unasked."""
    made: list[Client] = []

    def make(**settings: Any) -> Client:
        defaults: dict[str, Any] = {
            "host": collector.url,
            "store_dir": tmp_path / "store",
            "retry_most_s": 0.05,
            "handle_sigterm": False,
        }
        client = Client(WRITE_KEY, **{**defaults, **settings})
        made.append(client)
        return client

    yield make
    for client in made:
        client.close(0.0)


class Errors:
    """An `on_error` that remembers."""

    def __init__(self) -> None:
        self.all: list[tuple[Exception, list[Any]]] = []

    def __call__(self, error: Exception, events: Any) -> None:
        self.all.append((error, list(events)))

    def of(self, kind: type[Exception]) -> list[Exception]:
        """The errors of a kind."""
        return [error for error, _ in self.all if isinstance(error, kind)]
