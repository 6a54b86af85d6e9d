"""FastAPI under its real servers, several processes each, with `mainstem serve` and a webhook behind them.

Every call that returned arrives exactly once, in its user's order, with the context of its request: while workers are
killed, and when the servers are told to end in the middle of requests.
"""

import asyncio
import http.client
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.evidence import assert_exactly_once, assert_in_order, ids, number_of, user_of
from tests.acceptance.serving import until
from tests.components.process import ServerProcess, accepts_connections, free_port
from tests.components.python_sdks import PythonSdks
from tests.sdks.python.hosts import SETTINGS, Behind, behind

SHOP = (
    SETTINGS
    + """
import asyncio, os
from fastapi import BackgroundTasks, FastAPI
from mainstem_analytics.integrations.asgi import AnalyticsMiddleware

app = FastAPI()
app.add_middleware(AnalyticsMiddleware)

def call(user, n):
    taken, _ = analytics.track(user, "Bought", {"n": n, "by": os.getpid()}, message_id=f"{user}-{n}")
    assert taken
    return os.getpid()

if "BEFORE_FORK" in os.environ:
    call("master", 0)

@app.get("/plain/{user}/{n}")
def plain(user: str, n: int):
    return call(user, n)

@app.get("/async/{user}/{n}")
async def asynchronous(user: str, n: int):
    await asyncio.sleep(0)
    return call(user, n)

@app.get("/later/{user}/{n}")
def later(user: str, n: int, tasks: BackgroundTasks):
    tasks.add_task(call, user, n)
    return os.getpid()

@app.get("/slow/{user}/{n}")
async def slow(user: str, n: int):
    (folder / "slow").touch()
    while not (folder / "go on").exists():
        await asyncio.sleep(0.01)
    return call(user, n)
"""
)
HEADERS = {
    "User-Agent": "Mozilla/5.0",
    "Accept-Language": "de-DE,de;q=0.9",
    "Referer": "https://example.com/from",
    "Connection": "close",
}


@dataclass
class Shop:
    """A running server of the program, and what is behind it."""

    behind: Behind
    server: ServerProcess
    port: int
    folder: Path
    answered: list[int] = field(default_factory=list)
    """The processes that have answered, in the order of the answers."""

    def get(self, kind: str, user: str, number: int) -> None:
        """One request, again until there is an answer."""
        deadline = time.monotonic() + 60
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            try:
                connection.request("GET", f"/{kind}/{user}/{number}?a=1", headers=HEADERS)
                answer = connection.getresponse()
                assert answer.status == 200, self.server.log_tail()
                self.answered.append(int(json.loads(answer.read())))
                return
            except (ConnectionError, http.client.HTTPException):
                # The worker was killed.
                assert time.monotonic() < deadline, self.server.log_tail()
            finally:
                connection.close()

    async def visit(self, user: str, count: int, kinds: Sequence[str]) -> None:
        """Make a user's requests, one after the other."""
        for number in range(count):
            await asyncio.to_thread(self.get, kinds[number % len(kinds)], user, number)

    async def served(self, count: int) -> None:
        """Wait until so many requests are answered."""
        await until(f"{count} are served", lambda: len(self.answered) >= count)

    async def told_to_end_in_a_request(self) -> None:
        """SIGTERM to the server while a request is being served, which makes its call after that; wait for the end."""
        last = asyncio.create_task(asyncio.to_thread(self.get, "slow", "last", 0))
        await until("the request is being served", (self.folder / "slow").exists)
        os.kill(self.server.pid, signal.SIGTERM)
        await until(
            "it waits for the request", lambda: "Waiting for connections" in self.server.log.read_text()
        )
        (self.folder / "go on").touch()
        await last
        await until("the server has ended", lambda: not self.server.running, timeout_s=120)
        assert "Traceback" not in self.server.log.read_text(), self.server.log_tail()

    async def expect(self, expected: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        """See that nothing is left in the store, and that these have arrived, once; returns them as they did."""
        found = await self.behind.arrived(self.server)
        assert_exactly_once(expected, ids(found), "the webhook")
        return found


@asynccontextmanager
async def shop(
    folder: Path, python: Path, *arguments: str, durability: str, **environment: str
) -> AsyncIterator[Shop]:
    """Run the program under a server; `{port}` stands for its port in the arguments."""
    (folder / "shop.py").write_text(SHOP)
    port = free_port()
    async with behind(folder) as found:
        with ServerProcess(
            arguments[0],
            [python, "-m", *(word.format(port=port) for word in arguments)],
            ready=lambda: accepts_connections(port),
            log=folder / "server.log",
            env={**found.environment, "DURABILITY": durability, **environment},
        ) as server:
            yield Shop(found, server, port, folder)


UVICORN = ("uvicorn", "--workers", "3", "--port", "{port}", "--no-access-log", "shop:app")
GUNICORN = (
    *("gunicorn", "--worker-class", "uvicorn_worker.UvicornWorker", "--workers", "3", "--preload"),
    *("--bind", "127.0.0.1:{port}", "--graceful-timeout", "60", "--log-level", "info", "shop:app"),
)


@pytest.mark.timeout(300)
async def test_uvicorn_whose_workers_are_killed(python_sdks: PythonSdks, tmp_path: Path) -> None:
    async with shop(tmp_path, python_sdks.fastapi, *UVICORN, durability="call") as running:
        users = [f"user-{number}" for number in range(6)]
        visits = [asyncio.create_task(running.visit(user, 40, ["plain", "async"])) for user in users]
        for so_far in range(40, 240, 40):
            await running.served(so_far)
            os.kill(running.answered[-1], signal.SIGKILL)
        await asyncio.gather(*visits)
        assert len(set(running.answered)) > 5
        await running.told_to_end_in_a_request()
        found = await running.expect(
            [*(f"{user}-{number}" for user in users for number in range(40)), "last-0"]
        )
        assert_in_order(found, user=user_of, number=number_of, where="the webhook")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("server", [UVICORN, GUNICORN], ids=["uvicorn", "gunicorn"])
async def test_a_server_that_is_told_to_end(
    server: tuple[str, ...], python_sdks: PythonSdks, tmp_path: Path
) -> None:
    """With `durability="batch"`: only a kill by force may lose something. gunicorn forks after the first call."""
    before = {"BEFORE_FORK": "yes"} if server is GUNICORN else {}
    async with shop(tmp_path, python_sdks.fastapi, *server, durability="batch", **before) as running:
        kinds = ["plain", "async", "later"]
        await asyncio.gather(*(running.visit(f"{kind}-user", 20, [kind]) for kind in kinds))
        await running.told_to_end_in_a_request()
        expected = [f"{kind}-user-{number}" for kind in kinds for number in range(20)]
        found = await running.expect([*expected, "last-0", *(["master-0"] if before else [])])
        # Processes that call within the same 50 ms may change places, and so may what is done after an answer.
        assert_in_order(
            [event for event in found if user_of(event) != "later-user"],
            user=lambda event: f"{user_of(event)} in {event['properties']['by']}",
            number=number_of,
            where="the webhook",
        )
        for event in found:
            if user_of(event) == "master":
                continue
            kind = user_of(event).partition("-")[0].replace("last", "slow")
            path = f"/{kind}/{user_of(event)}/{number_of(event)}"
            context = event["context"]
            assert context["page"] == {
                "path": path,
                "url": f"http://127.0.0.1:{running.port}{path}?a=1",
                "search": "?a=1",
                "referrer": "https://example.com/from",
            }
            assert (context["ip"], context["locale"]) == ("127.0.0.1", "de-DE")
            assert context["userAgent"] == "Mozilla/5.0"
