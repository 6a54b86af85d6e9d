"""DuckDB: what the contract suite can't see. Processes that want the one file."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mainstem.warehouse.loader import WarehouseError
from mainstem.warehouse.loaders import duckdb
from mainstem.warehouse.loaders.duckdb import DuckdbLoader

_ONE_LOAD_AFTER_THE_OTHER = """
import sys, time
from pathlib import Path
from mainstem.warehouse.loaders.duckdb import DuckdbLoader
for number in range(1_000):
    loader = DuckdbLoader(Path(sys.argv[1]), "shop")
    print(number, flush=True)
    time.sleep(0.2)
    loader.close()
"""


@contextlib.contextmanager
def _busy(path: Path) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", _ONE_LOAD_AFTER_THE_OTHER, path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        try:
            yield process
        finally:
            process.kill()


def _open_all_the_time(path: Path) -> None:
    while True:
        DuckdbLoader(path, "shop").close()


def test_who_waits_for_the_file_comes_between_two_loads_of_another(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    with _busy(path) as process:
        for _ in range(3):
            with contextlib.closing(DuckdbLoader(path, "shop")) as loader:
                assert loader.query("SELECT 1") == [(1,)]
        assert process.poll() is None, "it has not come to its end: it was interrupted"


def test_who_waits_for_too_long_is_told_who_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duckdb, "_OPEN_FOR_S", 0.0)
    path = tmp_path / "w.duckdb"
    with _busy(path) as process:
        with pytest.raises(WarehouseError, match=rf"lock.*{process.pid}"):
            _open_all_the_time(path)
        monkeypatch.setattr(duckdb, "_OPEN_FOR_S", 120.0)
        DuckdbLoader(path, "shop").close()
