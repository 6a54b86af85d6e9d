"""kill -9 of writers of a warehouse at every step and at any moment: each accepted event is a row, once.

The whole way from the stream on disk through gatherer, staging and the real loader to the position in the ledger, as a
worker with this destination goes it. Events come in every round; tables and columns come up and change; a table fails
for a while; small files are joined. Then everything is compared: rows, values, discards, `_mainstem_loads`, books.
"""

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mainstem.clock import SystemClock
from mainstem.ledger.sqlite import open_ledger
from mainstem.roles.books import read_books
from mainstem.stream.open import open_stream
from mainstem.warehouse.writer import failing, folder_of
from tests.components.install import REPOSITORY
from tests.warehouse.contract.conftest import Bench
from tests.warehouse.contract.databases import SERVERS
from tests.warehouse.contract.lakes import ENDPOINT
from tests.warehouse.kills.events import Story, compare, compare_counts
from tests.warehouse.kills.writer import REAL, Command
from tests.warehouse.rig import CURSOR, PARTITIONS, Rig

FEW, MANY = 8, 200
_EVENTS_A_ROUND = 8
_BY_STEP = 0.75
"""How many of the kills are at a step that none was at before; of the others most are at a random moment."""
_TRIES = 2
"""After the rounds asked for, more are made at the steps that are left, until none is; but what comes up in so few
rounds that it was waited for in vain this often is left."""
_LET_LIVE = 0.2
_ONE_CONNECTION = ("clickhouse", "duckdb")
"""Engines that are in the writer's own process."""
_FAILS_FOR = 12
_UPKEEP = 10
"""Small files are joined in every so-manyth round, as they are every hour elsewhere."""
_UPKEEP_STEPS = ("upkeep.", "delta_tables.DeltaLoader.compact")
_FAILING = ("order_completed", "rudder_discards", "users", "tracks")


class Writers:
    """The program, and what it is told."""

    def __init__(self, engine: str, folder: Path, namespace: str) -> None:
        self._folder = folder
        self._log = (folder / "log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.warehouse.kills.writer", engine, str(folder), namespace],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        assert self._hear() == {"ready": True}

    def run(self, command: Command, *, kill_after_s: float | None = None) -> int:
        """Let a writer work; return how it ended: 0, or the signal's number, negative.

        Raises:
            AssertionError: it ended otherwise.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")
        self._process.stdin.flush()
        pid = self._hear()["pid"]
        killer = None
        if kill_after_s is not None:
            killer = threading.Timer(kill_after_s, _kill, [pid])
            killer.start()
        status: int = self._hear()["status"]
        if killer is not None:
            killer.cancel()
            killer.join()
        assert status in (0, -signal.SIGKILL), f"a writer ended with {status}:\n{self.log_tail()}"
        return status

    def steps(self) -> list[str]:
        """All steps that were seen, in the order in which they came up."""
        path = self._folder / "steps"
        return list(dict.fromkeys(path.read_text().splitlines())) if path.exists() else []

    def log_tail(self) -> str:
        return "\n".join((self._folder / "log").read_text(errors="replace").splitlines()[-60:])

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
        self._log.close()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the program ended:\n{self.log_tail()}"
        return msgspec.json.decode(line)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def _writers(engine: str, folder: Path, namespace: str) -> Iterator[Writers]:
    made = Writers(engine, folder, namespace)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(params=REAL)
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    if request.param.endswith("_s3"):
        monkeypatch.setenv(ENDPOINT, request.getfixturevalue("s3_server").endpoint)
    if request.param in SERVERS:
        fixture, variable = SERVERS[request.param]
        monkeypatch.setenv(variable, str(request.getfixturevalue(fixture).port))
    made = Bench(request.param, tmp_path)
    yield made
    made.close()


@pytest.mark.timeout(300)
async def test_kills(bench: Bench) -> None:
    await _storm(bench, FEW)


@pytest.mark.torture
@pytest.mark.timeout(0)
async def test_two_hundred_kills(bench: Bench) -> None:
    await _storm(bench, MANY)


async def _storm(bench: Bench, rounds: int) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    sys.stdout.write(f"seed {seed}\n")  # shown when the test fails
    chance = random.Random(seed)
    story = Story(seed)
    clock = SystemClock()
    stream = await open_stream(f"file:{bench.folder / 'stream'}", partitions=PARTITIONS, clock=clock)
    rig = Rig(bench.folder, stream=stream)
    began = time.monotonic()
    killed = dead_at = 0
    tried: set[str] = set()
    with _writers(bench.engine, bench.folder, bench.namespace) as writers:
        await rig.append(story.events(_EVENTS_A_ROUND))
        started = time.monotonic()
        # One that fails, and one that pays: so their steps are known.
        writers.run(Command(watch=True, failing=["order_completed"]))
        await rig.append(story.events(_EVENTS_A_ROUND))
        writers.run(Command(watch=True, upkeep=True))
        usual_s = (time.monotonic() - started) / 2
        table, until = "", 0
        tries: Counter[str] = Counter()
        for number in itertools.count():
            untried = [step for step in writers.steps() if step not in tried and tries[step] < _TRIES]
            if number >= rounds and (not untried or rounds < MANY):
                break
            await rig.append(story.events(_EVENTS_A_ROUND))
            if number >= until:
                table = chance.choice(_FAILING) if not table and chance.random() < 0.3 else ""
                until = number + chance.randrange(1, _FAILS_FOR)
            command = Command(
                failing=[table] if table else [],
                upkeep=not number % _UPKEEP,
                parallel=1 if bench.engine in _ONE_CONNECTION else chance.choice([1, 3]),
            )
            if untried and (number >= rounds or chance.random() < _BY_STEP):
                command.fatal = chance.choice(untried)
                tries[command.fatal] += number >= rounds
                command.times = chance.choice([1, 1, 1, 2, 5]) if number < rounds else 1
                command.upkeep = command.upkeep or command.fatal.startswith(_UPKEEP_STEPS)
                if command.fatal.startswith("arrears.") and not table:
                    command.failing = [chance.choice(_FAILING)]
                if writers.run(command):
                    tried.add(command.fatal)
                    dead_at += 1
            elif chance.random() < _LET_LIVE:
                started = time.monotonic()
                writers.run(command)
                usual_s = (time.monotonic() - started + usual_s) / 2
            else:
                killed += bool(writers.run(command, kill_after_s=chance.uniform(0, 1.2 * usual_s)))
        known = writers.steps()
        for _ in range(2):
            writers.run(Command())
        took_s = time.monotonic() - began
        await _judge(bench, story, rig)
    sys.stdout.write(
        f"{bench.engine}: {number} rounds in {took_s:.1f} s, {dead_at} killed at {len(tried)} of {len(known)} steps, "
        f"{killed} at random moments; {story.accepted} events in {len(story.rows)} tables\n"
        f"never killed at: {[step for step in known if step not in tried]}\n"
    )


async def _judge(bench: Bench, story: Story, rig: Rig) -> None:
    assert failing(folder_of(bench.folder, CURSOR)) == []
    loader = bench.open()
    try:
        await asyncio.to_thread(compare, story, loader)
    finally:
        loader.close()
    ledger = await open_ledger(bench.folder / "ledger.db")
    compare_counts(story, dict(await ledger.counts(CURSOR)))
    books = await read_books(rig.stream, ledger, CURSOR)
    assert books.balanced
    assert (books.received, books.delivered, books.pending) == (story.accepted, story.accepted, 0)
    await ledger.close()
    await rig.stream.close()
    _nothing_is_left(bench.folder)


def _nothing_is_left(folder: Path) -> None:
    """Killed writers leave nothing behind that the last one does not remove."""
    for place in ("warehouse/house/loads", "warehouse/house/arrears", "spool/staged/house"):
        left = [path for path in (folder / place).rglob("*") if path.is_file()]
        assert not left, f"left behind: {left[:5]}"
