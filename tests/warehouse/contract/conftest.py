"""One fixture: an engine, opened in a namespace that nobody else uses."""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from mainstem.warehouse.loader import Loader
from tests.warehouse.contract.databases import SERVERS
from tests.warehouse.contract.engines import ENGINES
from tests.warehouse.contract.lakes import ENDPOINT


class Bench:
    """An engine under test."""

    def __init__(self, engine: str, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.namespace = f"t_{uuid4().hex[:12]}"
        self._opened: list[Loader] = []

    def open(self) -> Loader:
        """Return a loader of its own."""
        loader = ENGINES[self.engine](self.folder, self.namespace)
        self._opened.append(loader)
        return loader

    def close(self) -> None:
        for loader in self._opened:
            loader.close()
        self._opened.clear()


@pytest.fixture(params=sorted(ENGINES))
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    if request.param.endswith("_s3"):
        monkeypatch.setenv(ENDPOINT, request.getfixturevalue("s3_server").endpoint)
    if request.param in SERVERS:
        fixture, variable = SERVERS[request.param]
        monkeypatch.setenv(variable, str(request.getfixturevalue(fixture).port))
    made = Bench(request.param, tmp_path)
    yield made
    made.close()


@pytest.fixture
def loader(bench: Bench) -> Loader:
    opened = bench.open()
    opened.check()
    return opened


Reopen = Callable[[], Loader]
