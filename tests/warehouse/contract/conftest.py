"""One fixture: an engine, opened in a namespace that nobody else uses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mainstem.testing import warehouse
from mainstem.warehouse.loader import Loader
from tests.warehouse.contract.databases import SERVERS
from tests.warehouse.contract.engines import ENGINES
from tests.warehouse.contract.lakes import ENDPOINT


class Bench(warehouse.Bench):
    """One of our engines under test."""

    def __init__(self, engine: str, folder: Path) -> None:
        # MySQL's names are of the basic plane; what happens otherwise is in test_mysql.py. No name that we make has a
        # point: that BigQuery takes none is in test_bigquery.py.
        super().__init__(
            ENGINES[engine],
            folder,
            names_beyond_bmp=not engine.startswith("mysql"),
            names_with_points=engine != "bigquery",
        )
        self.engine = engine


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
