"""Celery's worker with a prefork pool, over a real Redis server, with `mainstem serve` and a webhook behind it.

Parent and children share one store. Every call that returned arrives exactly once, in its user's order, although
children are killed and their tasks run again, and when the worker is told to end in the middle of a task.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.evidence import accepted, assert_exactly_once, assert_in_order, ids, number_of, user_of
from tests.acceptance.serving import until
from tests.components.process import ServerProcess
from tests.components.python_sdks import PythonSdks
from tests.components.redis import RedisServer
from tests.sdks.python.hosts import SETTINGS, Behind, behind

WORK = (
    SETTINGS
    + """
import itertools, os, signal, time
from celery import Celery
from celery.signals import worker_process_init, worker_ready

returned = os.open(folder / "returned", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

app = Celery("work", broker=os.environ["BROKER"])
app.conf.update(
    task_default_queue=os.environ["QUEUE"],
    task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=1,
)

def call(user, n):
    taken, _ = analytics.track(user, "Step", {"n": n, "by": os.getpid()}, message_id=f"{user}-{n}")
    if taken:
        os.write(returned, f"{user}-{n} {os.getpid()}\\n".encode())

call("parent", 0)

if "QUIET" not in os.environ:
    @worker_ready.connect
    def ready(**_):
        call("parent", 1)

    @worker_process_init.connect
    def begins(**_):
        call(f"child-{os.getpid()}", 0)

numbers = itertools.count(1)

@app.task(name="step")
def step(user, n, last, kill_at):
    call(user, n)
    call(f"child-{os.getpid()}", next(numbers))
    if n == kill_at and not (folder / f"{user} was killed").exists():
        (folder / f"{user} was killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if n < last:
        step.delay(user, n + 1, last, kill_at)

@app.task(name="slow")
def slow(user):
    (folder / "slow").touch()
    while not (folder / "go on").exists():
        time.sleep(0.01)
    call(user, 0)
"""
)

SEND = """
import json, os, sys
from celery import Celery
app = Celery(broker=os.environ["BROKER"])
for name, arguments in json.load(sys.stdin):
    app.send_task(name, arguments, queue=os.environ["QUEUE"])
"""


@dataclass
class Worker:
    """A running worker, and what is behind it."""

    behind: Behind
    server: ServerProcess
    python: Path
    folder: Path
    environment: Mapping[str, str]

    async def send(self, *tasks: tuple[str, list[Any]]) -> None:
        """Hand tasks to the broker, as another program does."""
        sending = await asyncio.create_subprocess_exec(
            self.python, "-c", SEND, stdin=subprocess.PIPE, env={**os.environ, **self.environment}
        )
        await sending.communicate(json.dumps(tasks).encode())
        assert sending.returncode == 0

    def returned(self) -> dict[str, int]:
        """The calls that have returned, and in which process."""
        file = self.folder / "returned"
        lines = file.read_text().splitlines() if file.exists() else []
        return {message_id: int(pid) for message_id, pid in (line.split() for line in lines)}

    async def done(self, count: int) -> None:
        """Wait until so many calls have returned."""
        await until(f"{count} calls have returned", lambda: len(self.returned()) >= count)

    def children(self) -> list[int]:
        """The processes of the pool."""
        pid = self.server.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    async def told_to_end_in_a_task(self) -> None:
        """SIGTERM to the worker, which is its warm shutdown, while a task runs that makes its call after that."""
        await self.send(("slow", ["last"]))
        await until("the task runs", (self.folder / "slow").exists)
        os.kill(self.server.pid, signal.SIGTERM)
        await until("it shuts down", lambda: "Warm shutdown" in self.server.log.read_text())
        (self.folder / "go on").touch()
        await until("the worker has ended", lambda: not self.server.running, timeout_s=120)

    async def judge(self, *, unreturned: int = 0) -> Sequence[Mapping[str, Any]]:
        """See that nothing is left in the store, and that every call that returned has arrived, once.

        Args:
            unreturned: so many events may be there whose calls did not return, because their processes were killed.

        Returns:
            The events as they arrived.
        """
        found, returned = await self.behind.arrived(self.server), set(self.returned())
        more = set(ids(found)) - returned
        assert len(more) <= unreturned, more
        assert_exactly_once(returned | more, ids(found), "the webhook")
        return found


@asynccontextmanager
async def worker(
    folder: Path, python: Path, redis: RedisServer, *options: str, **environment: str
) -> AsyncIterator[Worker]:
    """Run the program's worker."""
    (folder / "work.py").write_text(WORK)
    async with behind(folder) as found:
        environment = {
            **found.environment,
            "BROKER": f"redis://{redis.address}/0",
            "QUEUE": folder.name,
            **environment,
        }
        log = folder / "worker.log"
        with ServerProcess(
            "Celery",
            [
                *(python, "-m", "celery", "-A", "work", "worker", "--loglevel", "INFO", "--concurrency", "3"),
                *("--without-gossip", "--without-mingle", *options),
            ],
            ready=lambda: " ready." in log.read_text(),
            log=log,
            env=environment,
        ) as server:
            yield Worker(found, server, python, folder, environment)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("durability", ["call", "batch"])
async def test_prefork(
    durability: str, python_sdks: PythonSdks, redis_server: RedisServer, tmp_path: Path
) -> None:
    """A user's tasks follow one another in whatever child; with `durability="call"` children are killed meanwhile."""
    seed = random.SystemRandom().randrange(1 << 32)
    sys.stdout.write(f"seed {seed}\n")
    chosen = random.Random(seed)
    kills, users, steps = durability == "call", [f"user-{number}" for number in range(6)], 25
    async with worker(tmp_path, python_sdks.celery, redis_server, DURABILITY=durability) as running:
        await running.send(*(("step", [user, 0, steps - 1, 7 if kills else -1]) for user in users))
        if kills:
            for so_far in range(40, 200, 40):
                await running.done(so_far)
                os.kill(chosen.choice(running.children()), signal.SIGKILL)
        expected = {f"{user}-{number}" for user in users for number in range(steps)}
        await until("all steps are done", lambda: expected <= running.returned().keys(), timeout_s=120)
        await running.told_to_end_in_a_task()
        returned = running.returned()
        assert {"parent-0", "parent-1", "last-0"} <= returned.keys()
        assert len({pid for name, pid in returned.items() if name in expected}) >= (5 if kills else 2)
        found = await running.judge(unreturned=len(users) + 4 if kills else 0)
        # With "batch", processes that call within the same 50 ms may change places.
        assert_in_order(
            found,
            user=user_of if kills else lambda event: f"{user_of(event)} in {event['properties']['by']}",
            number=number_of,
            where="the webhook",
        )


@pytest.mark.timeout(300)
async def test_a_child_that_is_replaced_sends_what_it_has(
    python_sdks: PythonSdks, redis_server: RedisServer, tmp_path: Path
) -> None:
    """Celery ends its children without `atexit`, and SIGTERM is billiard's there; nobody makes a call after them."""
    async with worker(
        tmp_path,
        python_sdks.celery,
        redis_server,
        *("--max-tasks-per-child", "1"),
        DURABILITY="batch",
        QUIET="yes",
    ) as running:
        (tmp_path / "go on").touch()
        await running.send(("slow", ["user"]))
        await until("everything has arrived", lambda: len(accepted(running.behind.sink.requests)) == 2)
        assert running.server.running
        await running.judge()
