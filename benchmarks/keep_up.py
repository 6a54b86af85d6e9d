"""Does a warehouse keep up: events come in at a steady rate while an archive and two warehouses load them.

    python -m benchmarks.keep_up [--seconds 60] [--rates 1000,2500,5000] [--every 6] [--workers 1]

`mainstem serve` (one gateway; one worker, unless told otherwise) with an archive, DuckDB and PostgreSQL at once.
Realistic tracks of about 1 KiB are sent over HTTP in batches at an even rate, and once a second it is asked how many of
the acknowledged events each destination has not settled: its lag. It is bounded if it is no greater at the end than in
the middle, but for what comes in between two loads. What is counted is in the table: positions move behind the load.

The load generator, PostgreSQL and all processes of Mainstem share the machine's cores: what it holds alone is more.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from tests.acceptance.serving import WRITE_KEY, Serving, serving
from tests.components.install import ComponentMissing
from tests.components.postgres import PostgresServer

from benchmarks.warehouse import message

SECONDS: Final = 60.0
RATES: Final = (1_000, 2_500, 5_000)
EVERY_S: Final = 6.0
"""Between loads."""
BATCH: Final = 50
CONNECTIONS: Final = 4
WARM_UP: Final = 100
_SHOWN: Final = 12
"""Lines of a run."""

_WORKSPACE = f"""
workspace: {{{{id: bench, name: Bench}}}}
sources: [{{{{id: web, name: Web Shop, write_key: {WRITE_KEY}}}}}]
destinations:
  - {{{{id: files, type: archive, start: earliest, config: {{{{url: archive, maxAgeS: {{every:g}}}}}}}}}}
  - id: duckdb
    type: duckdb
    start: earliest
    config: {{{{syncFrequency: {{minutes:.4f}}}}}}
  - id: postgres
    type: postgres
    start: earliest
    config:
      syncFrequency: {{minutes:.4f}}
      host: 127.0.0.1
      port: {{port}}
      database: {PostgresServer.database}
      user: {PostgresServer.user}
      password: {PostgresServer.password}
      sslMode: disable
connections: [{{{{from: web, to: [files, duckdb, postgres]}}}}]
"""
DESTINATIONS: Final = ("files", "duckdb", "postgres")


class Sample(msgspec.Struct, frozen=True):
    """How it stood at a moment."""

    at_s: float
    """Since the first request."""
    acknowledged: int
    lag: Mapping[str, int]
    """By destination."""


class Run(msgspec.Struct, kw_only=True):
    """One rate."""

    rate: int
    """Events a second that were offered."""
    samples: Sequence[Sample]
    took_s: float
    """Until the last event was acknowledged."""
    accepted: int
    cpu_s: Mapping[str, float]
    """By process, while events were offered."""

    @property
    def accepted_per_s(self) -> float:
        return self.accepted / self.took_s

    def bound(self, destination: str, every_s: float) -> tuple[float, float, bool]:
        """Return the lag in the middle and at the end, and whether it is bounded between them.

        Lag is a saw: it rises until a load is in. So of both, the mean over the time of two loads.
        """
        half = self.took_s / 2
        middle = self._lag(destination, half - 2 * every_s, half)
        end = self._lag(destination, self.took_s - 2 * every_s, self.took_s)
        return middle, end, end <= middle + self.rate * every_s

    def _lag(self, destination: str, from_s: float, to_s: float) -> float:
        within = [one.lag[destination] for one in self.samples if from_s <= one.at_s <= to_s]
        return statistics.fmean(within or [one.lag[destination] for one in self.samples[-1:]])


class Generator:
    """Sends events at an even rate, over some connections; each request waits for its answer."""

    def __init__(self, port: int, rate: int) -> None:
        self.acknowledged = 0
        self._port = port
        self._rate = rate
        self._next = 0
        self._began = 0.0

    async def send(self, seconds: float) -> float:
        """Send; return the seconds until the last event was acknowledged. What is late is sent as fast as it goes."""
        self._began = time.monotonic()
        total = round(self._rate * seconds)
        await asyncio.gather(*(self._connection(total) for _ in range(CONNECTIONS)))
        return time.monotonic() - self._began

    async def _connection(self, total: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while (first := self._next) < total:
            self._next += BATCH
            early_s = self._began + first / self._rate - time.monotonic()
            if early_s > 0:
                await asyncio.sleep(early_s)
            count = min(BATCH, total - first)
            body = msgspec.json.encode({"batch": [message(number) for number in range(first, first + count)]})
            writer.write(
                b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nX-Write-Key: %b\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (WRITE_KEY.encode(), len(body), body)
            )
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(b"http/1.1 200"):
                raise RuntimeError(head.decode())
            length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.partition(b":")[2]))
            self.acknowledged += count
        writer.close()


@asynccontextmanager
async def _sampled(product: Serving, generator: Generator, samples: list[Sample]) -> AsyncIterator[None]:
    async def sample() -> None:
        began = time.monotonic()
        while True:
            # First what is in, then what is acknowledged: a lag is never told too small.
            settled = {name: account["delivered"] for name, account in (await product.books()).items()}
            acknowledged = generator.acknowledged
            lag = {name: max(0, acknowledged + WARM_UP - settled[name]) for name in DESTINATIONS}
            samples.append(Sample(time.monotonic() - began, acknowledged, lag))
            await asyncio.sleep(1.0)

    task = asyncio.create_task(sample())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process and of what it started, ended children included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return own + sum(map(_cpu_s, children))


def _processes(product: Serving, server: PostgresServer) -> dict[str, float]:
    found = {name: _cpu_s(pid) for name, pid in product.children().items()}
    found["serve"] = _cpu_s(product.pid) - sum(found.values())
    found["PostgreSQL"] = _cpu_s(server.server.pid)
    found["load generator"] = time.process_time()
    return found


async def measure(server: PostgresServer, rate: int, seconds: float, every_s: float, workers: int) -> Run:
    """Offer events at one rate to a new installation."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = _WORKSPACE.format(minutes=every_s / 60, every=every_s, port=server.port)
        # A schema of its own in the same server.
        workspace = workspace.replace("name: Web Shop", f"name: Shop {rate}")
        settings = {
            "stream_partitions": 8,
            "workspace_poll_s": 1.0,
            "log_level": "warning",
            "workers": workers,
        }
        async with serving(Path(folder), workspace, settings=settings) as product:
            # What the first load does once (imports, connections, tables) is not what is measured.
            await product.send([message(-number) for number in range(1, WARM_UP + 1)])
            await product.settled(*DESTINATIONS)
            generator, samples = Generator(product.port, rate), list[Sample]()
            before = _processes(product, server)
            async with _sampled(product, generator, samples):
                took_s = await generator.send(seconds)
            after = _processes(product, server)
            cpu_s = {name: after[name] - before.get(name, 0.0) for name in after}
            # Killed, not asked to end: what is not loaded by now is not what is measured.
            await product.kill9()
    return Run(rate=rate, samples=samples, took_s=took_s, accepted=generator.acknowledged, cpu_s=cpu_s)


def show(run: Run, every_s: float) -> bool:
    """Print a run; return whether the lag of all was bounded."""
    print(
        f"  offered {run.rate:,} events/s for {run.took_s:.0f} s, accepted {run.accepted_per_s:,.0f}/s;"
        " lag in events:"
    )
    print("     second " + "".join(f"{name:>12}" for name in DESTINATIONS))
    for sample in run.samples[:: max(1, len(run.samples) // _SHOWN)]:
        print(f"  {sample.at_s:9.0f} " + "".join(f"{sample.lag[name]:>12,}" for name in DESTINATIONS))
    bounded = run.accepted_per_s > 0.98 * run.rate
    if not bounded:
        print("  the generator did not get rid of its events at this rate")
    for name in DESTINATIONS:
        middle, end, holds = run.bound(name, every_s)
        bounded &= holds
        word = "bounded" if holds else "GROWS"
        print(
            f"  {name:<9} {word}: {middle:,.0f} in the middle, {end:,.0f} at the end; one interval brings "
            f"{run.rate * every_s:,.0f}"
        )
    for name, spent in sorted(run.cpu_s.items(), key=lambda item: -item[1]):
        print(f"  {name:<15} {spent / run.took_s:6.0%} of a core")
    return bounded


async def _main(seconds: float, rates: Sequence[int], every_s: float, workers: int) -> None:
    holds = 0
    async with AsyncExitStack() as stack:
        try:
            server = stack.enter_context(PostgresServer())
        except ComponentMissing as missing:
            sys.exit(str(missing))
        print(
            f"  on {os.cpu_count()} cores, which the load generator and PostgreSQL share with everything else"
        )
        for rate in rates:
            run = await measure(server, rate, seconds, every_s, workers)
            if not show(run, every_s):
                break
            holds = rate
    print(f"  highest rate that was kept up with: {holds:,} events/s" if holds else "  none was kept up with")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="keep_up")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--rates", default=",".join(map(str, RATES)))
    parser.add_argument("--every", type=float, default=EVERY_S, help="seconds between loads")
    parser.add_argument("--workers", type=int, default=1, help="processes that deliver and load")
    given: Any = parser.parse_args()
    rates = [int(rate) for rate in given.rates.split(",")]
    asyncio.run(_main(given.seconds, rates, given.every, given.workers))


if __name__ == "__main__":
    main()
