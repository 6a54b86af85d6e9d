"""kill -9 of archivers into an Iceberg table, at every step and at any moment: each event is a row, once.

The steps are those of `tests.warehouse.kills.steps`: lines of what does several things to table or ledger. Upkeep runs
after every flush, so joining files and removing old ones is killed, too.
"""

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.components.install import REPOSITORY
from tests.lake import killed_iceberg
from tests.lake.killed_iceberg import Command

_EVENTS_A_ROUND = 8
_OURS = ("iceberg_table.", "upkeep.", "gatherer.Gatherer._carry_out")
_FEW = 20


class Archivers:
    """The program, and what it is told."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = (folder / "log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.lake.killed_iceberg", str(folder)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self.events = 0

    def run(self, *, fatal: str = "", times: int = 1, kill_after_s: float | None = None) -> int:
        """Let an archiver work on more events; return how it ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.events += _EVENTS_A_ROUND
        command = Command(events=self.events, fatal=fatal, times=times, kill_after_s=kill_after_s)
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        tail = "\n".join((self._folder / "log").read_text(errors="replace").splitlines()[-40:])
        assert line, f"the program ended:\n{tail}"
        assert int(line) in (0, -signal.SIGKILL), f"an archiver ended with {line!r}:\n{tail}"
        return int(line)

    def steps(self) -> list[str]:
        """The steps of ours that were seen, in the order in which they came up."""
        seen = dict.fromkeys((self._folder / "steps").read_text().splitlines())
        return [step for step in seen if step.startswith(_OURS)]

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
        self._log.close()


@pytest.fixture
def archivers(tmp_path: Path) -> Iterator[Archivers]:
    made = Archivers(tmp_path)
    yield made
    made.close()


@pytest.mark.timeout(300)
async def test_kill_9_at_steps(archivers: Archivers, tmp_path: Path) -> None:
    await _storm(archivers, tmp_path, most=_FEW)


@pytest.mark.torture
@pytest.mark.timeout(0)
async def test_kill_9_at_every_step(archivers: Archivers, tmp_path: Path) -> None:
    await _storm(archivers, tmp_path)


async def _storm(archivers: Archivers, folder: Path, *, most: int = 10_000) -> None:
    """Kill at every step, or at some, others every time; then at none."""
    seed = random.SystemRandom().randrange(1 << 32)
    sys.stdout.write(f"seed {seed}\n")  # shown when the test fails
    chance = random.Random(seed)
    for _ in range(3):  # enough for files to be joined
        assert archivers.run() == 0
    tried: set[str] = set()
    kills = 0
    # Steps that come up only where a plan is taken up are found on the way.
    while (left := [step for step in archivers.steps() if step not in tried]) and len(tried) < most:
        step = chance.choice(left)
        tried.add(step)
        kills += archivers.run(fatal=step, times=chance.choice([1, 1, 2])) != 0
    assert kills > len(tried) // 3
    for wanted in ("_put", "write", "upkeep", "join", "_replace", "_expire", "_claim"):
        assert any(f".{wanted} " in step for step in archivers.steps()), f"no step of {wanted}"
    await _compare(archivers, folder)


@pytest.mark.timeout(300)
async def test_kill_9_at_any_moment(archivers: Archivers, tmp_path: Path) -> None:
    chance = random.Random(1129)
    kills = sum(archivers.run(kill_after_s=chance.uniform(0.02, 1.5)) != 0 for _ in range(8))
    assert kills >= 2
    await _compare(archivers, tmp_path)


async def _compare(archivers: Archivers, folder: Path) -> None:
    assert archivers.run() == 0
    rig = await killed_iceberg.rig(folder, archivers.events)
    await rig.assert_exactly_once()
    await rig.ledger.close()
