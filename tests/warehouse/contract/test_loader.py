"""What every engine must do, by `mainstem.testing.warehouse`: on all of ours. And each is killed."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
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
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.warehouse.contract.killed"),
            *(bench.engine, str(tmp_path), bench.namespace),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        for kill in range(kills + 1):
            program.stdin.write(f"{loads}\n")
            ready, pid = program.stdout.readline().split()
            assert ready == "ready"
            if kill < kills:
                time.sleep(chance.uniform(0, 0.3))
                with suppress(ProcessLookupError):  # it had done it all
                    os.kill(int(pid), signal.SIGKILL)
            ended = program.stdout.readline()
        assert ended == "ended 0\n"
        program.stdin.close()
    loader = bench.open()
    expected = sorted(str(row["id"]) for number in range(loads) for row in rows_of(number))
    assert ids(loader, bench.namespace, "orders") == expected
    assert len(expected) == loads * ROWS
