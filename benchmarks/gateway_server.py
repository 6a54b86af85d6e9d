"""Gateway ingest against the same server with an empty handler, by `wrk`, in one run.

    python -m benchmarks.gateway_server                        # measured by wrk, with the ratios
    python -m benchmarks.gateway_server serve bare|null|memory|embedded 9099   # a server to point wrk at

`bare`: the same HTTP server, the same answer, nothing done. `null`: the gateway in front of a producer that
calls everything durable in the loop's next turn: what the gateway itself costs. `memory`: the memory stream
(it grows: keep runs short). `embedded`: the durable path, in a temporary directory.

The client runs on the same cores. So CPU a request is told for each process: on 2 cores a request can't be
answered more often than 2 cores have time for the sum, whatever waits for whom.
"""

import argparse
import asyncio
import contextlib
import gc
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import uvloop

from mainstem.clock import SystemClock
from mainstem.gateway.answers import ACCEPTED
from mainstem.gateway.gateway import Gateway
from mainstem.gateway.http1 import Exchange, Server
from mainstem.stream.base import AppendResult, Done, NewRecord, Producer
from mainstem.stream.embedded import EmbeddedLimits
from mainstem.stream.memory import MemoryStream
from mainstem.stream.open import open_stream
from mainstem.workspace.model import Source, Workspace

_LUA = """
-- One concatenation a request, so that the generator is not what is measured.
local n, count = tonumber(os.getenv("EVENTS")), 0
local id = os.getenv("RUN")
local before = '{"messageId":"' .. id .. '-'
local after = '","type":"track","userId":"u%03d","event":"Order Completed",'
  .. '"timestamp":"2026-01-01T00:00:00.000Z","context":{"library":{"name":"analytics-node","version":"1.0"},'
  .. '"page":{"url":"https://example.com/a/b","title":"T"}},'
  .. '"properties":{"total":12.5,"products":[{"id":1,"price":2.5},{"id":2,"price":3.5}],"text":"'
  .. string.rep("x", 420) .. '"}}'
local afters = {}
for user = 0, 999 do afters[user] = string.format(after, user) end
local size = #before + 10 + #afters[0]
local path, first, last = "/v1/track", "", ""
if n > 1 then
  path, first, last = "/v1/batch", '{"batch":[', '],"sentAt":"2026-01-01T00:00:01Z"}'
end
local head = "POST " .. path .. " HTTP/1.1\\r\\nHost: localhost\\r\\nAuthorization: Basic d2s6\\r\\n"
  .. "Content-Type: application/json\\r\\nContent-Length: "
  .. (#first + n * size + (n - 1) + #last) .. "\\r\\n\\r\\n" .. first
request = function()
  if n == 1 then
    count = count + 1
    return head .. before .. string.format("%010d", count) .. afters[count % 1000]
  end
  local parts = {}
  for k = 1, n do
    count = count + 1
    parts[k] = before .. string.format("%010d", count) .. afters[count % 1000]
  end
  return head .. table.concat(parts, ",") .. last
end
"""


class _Empty:
    """A handler that does nothing."""

    def handle(self, exchange: Exchange) -> None:
        exchange.respond(ACCEPTED)

    def refusal_headers(self, _headers: dict[bytes, bytes]) -> bytes:
        return b""

    def tick(self) -> None:
        return


class _Null:
    """A producer for which everything is durable at once."""

    def __init__(self) -> None:
        self._pending: list[tuple[int, Done]] = []

    backlog_bytes = 0

    def submit(self, records: Sequence[NewRecord], done: Done) -> None:
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._flush)
        self._pending.append((len(records), done))

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        for count, done in pending:
            done(AppendResult(count))

    async def append(self, records: Sequence[NewRecord]) -> AppendResult:
        return AppendResult(len(records))

    async def close(self) -> None:
        return


async def _serve(mode: str, port: int) -> None:
    sock = socket.create_server(("127.0.0.1", port), backlog=1024)
    gc.collect()
    gc.freeze()  # as `roles.child` does
    print(sock.getsockname()[1], flush=True)
    if mode == "bare":
        await Server(_Empty(), SystemClock()).serve(sock)
        return
    workspace = Workspace(id="w", version="1", sources=(Source(id="s1", name="bench", write_keys=("wk",)),))
    producer: Producer = _Null()
    if mode == "memory":
        stream = MemoryStream()
        producer = await stream.producer()
    elif mode == "embedded":
        with tempfile.TemporaryDirectory() as folder:
            limits = EmbeddedLimits(writer="process")  # as `roles.gateway` does
            url = f"file:{folder}/stream"
            durable = await open_stream(url, partitions=8, clock=SystemClock(), limits=limits)
            await Gateway(await durable.producer(), workspace, SystemClock()).serve(sock)
        return
    await Gateway(producer, workspace, SystemClock()).serve(sock)


class _Measured(NamedTuple):
    rate: float
    """Requests a second."""
    gateway_us: float
    """CPU a request, as the rest."""
    writer_us: float
    client_us: float


def _measure(mode: str, events: int, seconds: int, connections: int) -> _Measured:
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gateway_server", "serve", mode, "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder, "post.lua")
            script.write_text(_LUA)
            before = _cpu_s(server.pid), _children_cpu_s(server.pid), _waited_cpu_s()
            out = subprocess.run(
                ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script),
                 f"http://127.0.0.1:{port}/"],
                capture_output=True, text=True, check=True,
                env={"EVENTS": str(events), "RUN": secrets.token_hex(4), "PATH": "/usr/bin:/bin"},
            ).stdout  # fmt: skip
            used_s = (
                _cpu_s(server.pid) - before[0],
                _children_cpu_s(server.pid) - before[1],
                _waited_cpu_s() - before[2],
            )
        if "Non-2xx" in out:
            raise SystemExit(out)
        rate, requests = re.search(r"Requests/sec:\s+([0-9.]+)", out), re.search(r"(\d+) requests in", out)
        assert rate is not None, out
        assert requests is not None, out
        return _Measured(float(rate[1]), *(cpu_s / int(requests[1]) * 1e6 for cpu_s in used_s))
    finally:
        server.terminate()
        server.wait()


def _middle(rounds: Sequence[_Measured]) -> _Measured:
    """Return the median of every figure."""
    return _Measured(*(median(figures) for figures in zip(*rounds, strict=True)))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _children_cpu_s(pid: int) -> float:
    """Of the writer, which is the gateway's only child."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return sum(_cpu_s(int(child)) for task in tasks for child in task.read_text().split())


def _waited_cpu_s() -> float:
    """Of processes that this one waited for: the client."""
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", nargs="?", choices=["serve"])
    parser.add_argument("mode", nargs="?", default="null", choices=["bare", "null", "memory", "embedded"])
    parser.add_argument("port", nargs="?", type=int, default=9099)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[64, 256, 512])
    options = parser.parse_args()
    if options.command == "serve":
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(_serve(options.mode, options.port))
        return
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is needed: apt-get install wrk")
    modes = ("bare", "null", "embedded")
    for events, connections in [*((1, count) for count in options.connections), (20, options.connections[0])]:
        print(f"{events} events a request, {connections} connections")
        # In turns, so that what the machine does meanwhile comes to all of them.
        rounds = [
            {mode: _measure(mode, events, options.seconds, connections) for mode in modes}
            for _ in range(options.rounds)
        ]
        found = {mode: _middle([one[mode] for one in rounds]) for mode in modes}
        bare = found["bare"]
        for mode, it in found.items():
            print(
                f"  {mode:8} {it.rate:7.0f} requests/s {it.rate * events:7.0f} events/s, {it.rate / bare.rate:.2f} of"
                f" bare; us of CPU a request: gateway {it.gateway_us:.1f}, writer {it.writer_us:.1f},"
                f" client {it.client_us:.1f}, all {sum(it[1:]):.1f}"
            )


if __name__ == "__main__":
    main()
