"""What every engine must do, by `mainstem.testing.warehouse`: on all of ours. And each is killed."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mainstem.testing.warehouse.loads import Loads
from tests.warehouse.contract.conftest import Bench
from tests.warehouse.contract.killed import ROWS, rows_of
from tests.warehouse.contract.rows import ids

KILLS = 6
MANY_KILLS = 200


class TestLoads(Loads):
    """On the fixture `bench` of `conftest.py`."""


@pytest.mark.timeout(600)
def test_kill_at_any_moment(bench: Bench, tmp_path: Path) -> None:
    _kill(bench, tmp_path, KILLS)


@pytest.mark.torture
def test_many_kills(bench: Bench, tmp_path: Path) -> None:
    _kill(bench, tmp_path, MANY_KILLS)


def _kill(bench: Bench, tmp_path: Path, kills: int) -> None:
    chance = random.Random(7)
    # Some are loaded by those that were killed; the last ones by the one that is let live.
    loads = 12 + kills // 4
    command = [
        sys.executable,
        "-m",
        "tests.warehouse.contract.killed",
        bench.engine,
        str(tmp_path),
        bench.namespace,
    ]
    for _ in range(kills):
        child = subprocess.Popen([*command, str(loads)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, 0.3))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    done = subprocess.run([*command, str(loads)], capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    loader = bench.open()
    expected = sorted(str(row["id"]) for number in range(loads) for row in rows_of(number))
    assert ids(loader, bench.namespace, "orders") == expected
    assert len(expected) == loads * ROWS
