"""kill -9 of programs that use the SDK, at random, while the server is away, refuses, or loses its answers.

Every event whose call returned (`durability="call"`) arrives, once, and in its user's order.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mainstem_analytics import Client
from tests.acceptance.evidence import assert_in_order
from tests.components.install import REPOSITORY
from tests.sdks.python.collector import Collector, Reply, Request

PROCESSES = 4
WRITE_KEY = "torture"


class Producer:
    """One running program, and what it said of its calls."""

    def __init__(self, host: str, store: Path, name: str, **options: object) -> None:
        self.returned: list[str] = []
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.sdks.python.producer", host, str(store), name),
                *(f"{key}={value}" for key, value in options.items()),
            ],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/sdks/python/src"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # A line may be cut by the kill; its call has returned, but nobody can know its id.
            if line.endswith(b"\n"):
                self.returned.append(line.decode().strip())

    def kill9(self) -> None:
        """End it, and its children, at once."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self.wait()

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = 60.0) -> int:
        """Wait for its end; returns the exit status."""
        status = self._process.wait(timeout_s)
        self._reader.join(timeout_s)
        assert self._process.stdout is not None
        self._process.stdout.close()
        assert self._process.stderr is not None
        errors = self._process.stderr.read().decode()
        self._process.stderr.close()
        assert "Traceback" not in errors, errors
        return status


def calm(_: Request) -> Reply:
    return Reply()


def storm_of_429(request: Request) -> Reply:
    return Reply(429, {"Retry-After": "0.05"}) if request.number % 4 else Reply()


def failing(request: Request) -> Reply:
    return Reply(503) if request.number % 3 else Reply(500, body=b"<html>oops</html>")


def losing_answers(request: Request) -> Reply:
    return Reply(cut=True) if request.number % 2 else Reply()


def resetting(request: Request) -> Reply:
    return Reply(reset=True) if request.number % 2 else Reply(close=True)


MOODS = (calm, storm_of_429, failing, losing_answers, resetting)


def rounds_of_torture(directory: Path, rounds: int) -> None:
    """Kill one of four processes on one store in each round; the server's mood changes, and it goes away at times."""
    seed = random.SystemRandom().randrange(1 << 32)
    sys.stdout.write(f"seed {seed}\n")
    rng = random.Random(seed)
    began = time.monotonic()
    with Collector() as collector:
        away = False
        generations = [0] * PROCESSES
        ended: list[Producer] = []

        def begin(slot: int) -> Producer:
            generations[slot] += 1
            forks = 2 if rng.random() < 0.2 else 0
            first = generations[slot] * 1_000_000
            return Producer(collector.url, directory, f"p{slot}", first=first, fork=forks)

        running = [begin(slot) for slot in range(PROCESSES)]
        for _ in range(rounds):
            time.sleep(rng.uniform(0.02, 0.7))
            if away and rng.random() < 0.5:
                collector.start()
                away = False
            elif not away and rng.random() < 0.15:
                collector.stop()
                away = True
            collector.script = rng.choice(MOODS)
            slot = rng.randrange(PROCESSES)
            running[slot].kill9()
            ended.append(running[slot])
            running[slot] = begin(slot)
        for producer in running:
            producer.kill9()
        ended += running
        if away:
            collector.start()
        collector.script = calm
        assert Client(WRITE_KEY, host=collector.url, store_dir=directory, handle_sigterm=False).close(60.0)
        returned = [message_id for producer in ended for message_id in producer.returned]
        judge(returned, collector)
        sys.stdout.write(
            f"{rounds} rounds in {time.monotonic() - began:.0f} s: {len(returned)} calls returned, "
            f"{len(collector.arrived)} events arrived, {len(collector.requests)} requests\n"
        )


def judge(returned: list[str], collector: Collector) -> None:
    """Every call that returned has arrived, and every user's events are in order."""
    arrived = collector.arrived
    assert len(returned) == len(set(returned))
    missing = set(returned) - {event["messageId"] for event in arrived}
    assert not missing, f"{len(missing)} of {len(returned)} are missing: {sorted(missing)[:5]}"
    assert_in_order(
        arrived,
        user=lambda event: str(event["userId"]),
        number=lambda event: int(event["properties"]["n"]),
        where="the server",
    )
    assert collector.most_at_once <= 2, "more than one batch was under way"


@pytest.mark.timeout(120)
def test_kills_of_four_processes_on_one_store(tmp_path: Path) -> None:
    rounds_of_torture(tmp_path, 15)


@pytest.mark.torture
@pytest.mark.timeout(0)
def test_two_hundred_kills_of_four_processes_on_one_store(tmp_path: Path) -> None:
    rounds_of_torture(tmp_path, 200)
