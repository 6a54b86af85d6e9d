"""What a sick destination costs a healthy one: its throughput beside the sick one, over that without it.

`mainstem serve` with one gateway and one worker delivers every event to a healthy webhook. Rounds alternate
(A B B A …) within one installation: in A the sick destination is disabled; in B it is enabled and has been failing
long enough to hold all the events it may (`window`): it answers 500, never answers, cuts connections, or answers
429. A round is the time from the first
request of the load to the last delivery at the healthy sink. Two figures: the rate in all rounds A over that in
all rounds B, and the same for the worker's CPU time, which other work on the machine disturbs less. The first
line has two kinds of A and tells how much is noise.
"""

import asyncio
import contextlib
import functools
import os
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from mainstem.clock import SystemClock
from mainstem.roles.supervisor import listen
from mainstem.testing.sink import Answer, Behaviour, Cut, Never, Sink, always

EVENTS: Final = 10_000
BATCH: Final = 20
USERS: Final = 1_000
CONNECTIONS: Final = 4
PAIRS: Final = 8
"""Neighbouring rounds, one with and one without the sick destination."""
WINDOW: Final = 5_000
SICK: Final[dict[str, Behaviour | int]] = {
    "answers 500": 500,
    "times out": Never(),
    "cuts": Cut(),
    "answers 429": Answer(429, (("Retry-After", "2"),)),
}
NOISE: Final = "nothing (noise)"

_WORKSPACE = """
workspace: {{id: bench}}
sources: [{{id: web, write_key: wk}}]
destinations:
  - {{id: healthy, type: webhook, config: {{webhookUrl: "http://127.0.0.1:{healthy}/in"}}}}
  - {{id: sick, type: webhook, enabled: {enabled}, config: {{webhookUrl: "http://127.0.0.1:{sick}/in"}},
      delivery: {{timeout_s: 2, window: {window}}}}}
connections: [{{from: web, to: [healthy, sick]}}]
"""


class _SinkProcess:
    """A sink in a process of its own; tells when it has had a number of requests."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    @classmethod
    @asynccontextmanager
    async def run(cls, sickness: str) -> AsyncIterator["_SinkProcess"]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.isolation", "sink", sickness),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield cls(process, int(await process.stdout.readline()))
        finally:
            process.stdin.close()
            await process.wait()

    async def reached(self, count: int) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"%d\n" % count)
        if not await self._process.stdout.readline():
            raise RuntimeError("the sink has ended")


def _has_had(count: int, sink: Sink) -> bool:
    return sink.count >= count


async def _be_a_sink(sickness: str) -> None:
    sink = Sink(keep=False)
    if sickness in SICK:
        sink.script = always(SICK[sickness])
    async with sink:
        print(sink.port, flush=True)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        while line := await reader.readline():
            wanted = int(line)
            await sink.wait_for(functools.partial(_has_had, wanted), timeout_s=120.0)
            print(sink.count, flush=True)


_Status = dict[str, object]


def _is_off(status: _Status) -> bool:
    return status["state"] == "disabled"


def _stands_still(status: _Status) -> bool:
    return bool(status.get("last_error")) and int(str(status.get("window"))) >= WINDOW


def _worker_of(pid: int) -> int:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"\0worker\0" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise RuntimeError("there is no worker")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Installation:
    """`mainstem serve`, and rounds of load."""

    def __init__(
        self, folder: Path, healthy: _SinkProcess, sick: _SinkProcess, port: int, ops_port: int
    ) -> None:
        self._file = folder / "workspace.yaml"
        self._healthy = healthy
        self._sick = sick
        self._port = port
        self._ops_port = ops_port
        self._round = 0
        self.pid = 0
        """Of `mainstem serve`."""
        self._clock = SystemClock()

    def write_workspace(self, *, enabled: bool) -> None:
        text = _WORKSPACE.format(
            healthy=self._healthy.port, sick=self._sick.port, window=WINDOW, enabled=str(enabled).lower()
        )
        new = self._file.with_suffix(".new")
        new.write_text(text)
        new.replace(self._file)

    async def switch(self, *, enabled: bool) -> None:
        """Enable or disable the sick destination; return once it is disabled, or fails."""
        self.write_workspace(enabled=enabled)
        await self.wait_until_sick(
            lambda status: bool(status.get("last_error")) if enabled else _is_off(status)
        )

    async def wait_until_sick(self, condition: Callable[[_Status], bool]) -> None:
        """Wait until the sick destination's status in every worker satisfies the condition."""
        async with asyncio.timeout(60.0):
            while True:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError, msgspec.DecodeError):
                    statuses = (await self._destinations()).get("sick", {}).values()
                    if statuses and all(condition(status) for status in statuses):
                        return
                await asyncio.sleep(0.05)

    async def _destinations(self) -> dict[str, dict[str, _Status]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._ops_port)
        try:
            writer.write(b"GET /v1/destinations HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
        finally:
            writer.close()
        found: dict[str, dict[str, _Status]] = msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])
        return found

    async def round(self) -> tuple[float, float]:
        """Send a load; return the seconds until the healthy sink has had all of it, and the worker's CPU
        seconds."""
        self._round += 1
        requests = _requests(self._round)
        worker = _worker_of(self.pid)
        cpu_s = _cpu_s(worker)
        started = self._clock.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(CONNECTIONS):
                group.create_task(self._send(requests[number::CONNECTIONS]))
            await self._healthy.reached(self._round * EVENTS)
        return self._clock.monotonic() - started, _cpu_s(worker) - cpu_s

    async def _send(self, requests: Sequence[bytes]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        for request in requests:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode())
            lines = head.lower().split(b"\r\n")
            await reader.readexactly(
                next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
            )
        writer.close()


def _requests(number: int) -> list[bytes]:
    padding = "x" * 520
    found = []
    for first in range(0, EVENTS, BATCH):
        events = [
            {
                "type": "track",
                "event": "Order Completed",
                "messageId": f"{number}-{n}",
                "userId": f"user-{n % USERS}",
                "properties": {"n": n, "padding": padding},
            }
            for n in range(first, first + BATCH)
        ]
        body = msgspec.json.encode({"batch": events})
        found.append(
            b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Basic d2s6\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
    return found


@asynccontextmanager
async def _installation(sickness: str) -> AsyncIterator[_Installation]:
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        healthy = await stack.enter_async_context(_SinkProcess.run("healthy"))
        sick = await stack.enter_async_context(_SinkProcess.run(sickness))
        port, ops_port = _free_port(), _free_port()
        installation = _Installation(folder, healthy, sick, port, ops_port)
        installation.write_workspace(enabled=False)
        settings = {
            "DATA_DIR": folder / "data",
            "WORKSPACE": folder / "workspace.yaml",
            "WORKSPACE_POLL_S": 0.1,
            "HOST": "127.0.0.1",
            "PORT": port,
            "OPS_PORT": ops_port,
            "ALLOW_PRIVATE_DESTINATIONS": "true",
            "LOG_LEVEL": "error",
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mainstem", "serve"),
            env={**os.environ, **{f"MAINSTEM_{key}": str(value) for key, value in settings.items()}},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            installation.pid = process.pid
            await installation.wait_until_sick(_is_off)
            yield installation
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def _free_port() -> int:
    sock = listen("127.0.0.1", 0)
    with contextlib.closing(sock):
        return int(sock.getsockname()[1])


async def _measure(sickness: str) -> None:
    """Print the ratios for one kind of sickness."""
    alone: list[tuple[float, float]] = []
    beside: list[tuple[float, float]] = []
    async with _installation(sickness) as installation:
        await installation.round()  # warm
        for pair in range(PAIRS):
            for enabled in (False, True) if pair % 2 == 0 else (True, False):
                # For the noise, B is switched and measured as A is.
                await installation.switch(enabled=enabled and sickness != NOISE)
                (beside if enabled else alone).append(await installation.round())
    (alone_s, alone_cpu_s), (beside_s, beside_cpu_s) = (
        [sum(column) for column in zip(*rounds, strict=True)] for rounds in (alone, beside)
    )
    pairs = sorted(a / b for (a, _), (b, _) in zip(alone, beside, strict=True))
    count = PAIRS * EVENTS
    print(
        f"  {sickness:16} healthy: {count / alone_s:6,.0f} events/s alone, {count / beside_s:6,.0f} beside it: "
        f"ratio {alone_s / beside_s:.3f} (median of {PAIRS} pairs {statistics.median(pairs):.3f}, "
        f"{pairs[0]:.3f} to {pairs[-1]:.3f}); by the worker's CPU time {alone_cpu_s / beside_cpu_s:.3f}",
        flush=True,
    )


async def _run() -> None:
    for sickness in (NOISE, *SICK):
        await _measure(sickness)


def main() -> None:
    """Measure every kind of sickness."""
    if sys.argv[1:2] == ["sink"]:
        uvloop.run(_be_a_sink(sys.argv[2]))
    else:
        uvloop.run(_run())


if __name__ == "__main__":
    main()
