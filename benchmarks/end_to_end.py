"""Gateway to webhook sink, everything on this machine: events per second in order, and where the time goes.

A load generator sends batches of 20 events (about 800 bytes each, 1,000 users, an increasing number per user)
over keep-alive connections; `mainstem serve` with one gateway and one worker delivers each event by its own
POST to a sink process that records them. The clock runs from the first request to the last delivery. The
baseline of the ratio is the sink fed directly by the transport, without log, order or books.
"""

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec

from mainstem.clock import SystemClock
from mainstem.delivery.guard import AddressGuard
from mainstem.delivery.transport import PyreqwestTransport
from mainstem.destinations.base import Request
from mainstem.roles.supervisor import listen

EVENTS = 60_000
BATCH = 20
USERS = 1_000
CONNECTIONS = 8
BASELINE_REQUESTS = 20_000
WARM_UP = 2_000

WORKSPACE = """
workspace: {{id: bench}}
sources: [{{id: web, write_key: wk}}]
destinations:
  - {{id: hook, type: webhook, start: earliest, config: {{webhookUrl: "http://127.0.0.1:{port}/in"}},
      delivery: {{concurrency: 64}}}}
connections: [{{from: web, to: [hook]}}]
"""


def batches_of(run: str, events_in_all: int) -> Iterator[bytes]:
    """Yield requests of `BATCH` events each."""
    padding = "x" * 520
    for first in range(0, events_in_all, BATCH):
        events = [
            {
                "type": "track",
                "event": "Order Completed",
                "messageId": f"{run}-{number}",
                "userId": f"user-{number % USERS}",
                "anonymousId": f"anonymous-{number % USERS}",
                "timestamp": "2026-01-01T00:00:00.000Z",
                "context": {"library": {"name": "bench", "version": "1"}},
                "properties": {"seq": number // USERS, "padding": padding},
            }
            for number in range(first, first + BATCH)
        ]
        body = msgspec.json.encode({"batch": events, "sentAt": "2026-01-01T00:00:01.000Z"})
        yield (
            b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Basic d2s6\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )


async def _send(port: int, requests: list[bytes]) -> None:
    """Send the requests one after the other on one connection; each must be answered 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for request in requests:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        length = next(
            int(line.partition(b":")[2]) for line in head.lower().split(b"\r\n") if b"content-length" in line
        )
        await reader.readexactly(length)
    writer.close()


def _free_port() -> int:
    sock = listen("127.0.0.1", 0)
    port: int = sock.getsockname()[1]
    sock.close()
    return port


@contextlib.asynccontextmanager
async def _process(
    *arguments: str, env: dict[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env={**os.environ, **(env or {})},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(30):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _listening(port: int) -> None:
    for _ in range(300):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
            continue
        writer.close()
        return
    raise RuntimeError(f"nothing listens on {port}")


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process and its descendants."""
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return _own_cpu_s(pid) + sum(_cpu_s(child) for child in children)


def _own_cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> dict[str, float]:
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            role = next((part.decode() for part in command if part in (b"gateway", b"worker")), "other")
            whole, own = _cpu_s(int(child)), _own_cpu_s(int(child))
            found[role] = own
            found[{"worker": "sandboxes", "gateway": "writer"}.get(role, "other")] = whole - own
    return found


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


async def _arrived(path: Path, lines: int) -> None:
    began = time.perf_counter()
    while _lines(path) < lines:
        if time.perf_counter() - began > 300:
            raise RuntimeError(f"only {_lines(path)} of {lines} arrived")
        await asyncio.sleep(0.05)


def _inversions(path: Path) -> tuple[int, int]:
    """Return (events out of order for their user, events seen more than once)."""
    last: dict[str, int] = {}
    seen: set[str] = set()
    wrong = again = 0
    for line in path.read_bytes().splitlines():
        event = msgspec.json.decode(line)["body"]
        if event["messageId"] in seen:
            again += 1
            continue
        seen.add(event["messageId"])
        user, number = event["userId"], event["properties"]["seq"]
        wrong += number <= last.get(user, -1)
        last[user] = number
    return wrong, again


async def _baseline(port: int) -> float:
    """Requests a second of the transport into the sink, one body of the same size, 64 in flight."""
    transport = PyreqwestTransport(AddressGuard(allow_private=True), SystemClock())
    body = msgspec.json.encode(
        {"messageId": "b", "userId": "b", "properties": {"seq": 0, "padding": "x" * 700}}
    )
    request = Request("POST", f"http://127.0.0.1:{port}/in", (("Content-Type", "application/json"),), body)
    left = BASELINE_REQUESTS

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await transport.send(request, timeout_s=10)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(64)))
    spent = time.perf_counter() - began
    await transport.close()
    return BASELINE_REQUESTS / spent


@dataclasses.dataclass
class Through:
    """One run of `serve`."""

    accepted_per_s: float
    delivered_per_s: float
    wrong: int
    """Events out of order for their user."""
    again: int
    """Events seen more than once."""
    cpu_us: dict[str, float]
    """By role, an event."""


@contextlib.asynccontextmanager
async def sink_process(folder: Path) -> AsyncIterator[tuple[int, int, Path]]:
    """A sink in a process of its own: its port, its process id, and where it records."""
    port, record = _free_port(), folder / "sink.jsonl"
    async with _process("-m", "mainstem.testing.sink", "--port", str(port), "--record", str(record)) as sink:
        await _listening(port)
        yield port, sink.pid, record


async def through(folder: Path, workspace: str, record: Path, sink_pid: int, batches: list[bytes]) -> Through:
    """Send the batches through a new installation, until the sink has recorded all their events."""
    folder.mkdir(exist_ok=True)
    port, ops_port = _free_port(), _free_port()
    file = folder / "workspace.yaml"
    file.write_text(workspace)
    shares = [batches[part::CONNECTIONS] for part in range(CONNECTIONS)]
    events, skip = len(batches) * BATCH, _lines(record)
    async with _process(
        "-m",
        "mainstem",
        "serve",
        "--workspace",
        str(file),
        "--data-dir",
        str(folder / "data"),
        "--port",
        str(port),
        "--ops-port",
        str(ops_port),
        env={"MAINSTEM_ALLOW_PRIVATE_DESTINATIONS": "true"},
    ) as serve:
        await _listening(port)
        # What starts with the first events (connections, sandboxes) is not what is measured.
        warm_up = list(batches_of("warm-up", WARM_UP))
        await _send(port, warm_up)
        await _arrived(record, skip + WARM_UP)
        skip += WARM_UP
        before, sink_before = _children(serve.pid), _cpu_s(sink_pid)
        began = time.perf_counter()
        await asyncio.gather(*(_send(port, share) for share in shares))
        acknowledged_s = time.perf_counter() - began
        await _arrived(record, skip + events)
        delivered_s = time.perf_counter() - began
        after, sink_after = _children(serve.pid), _cpu_s(sink_pid)
    tail = record.read_bytes().splitlines(keepends=True)[skip:]
    record.write_bytes(b"".join(tail))
    wrong, again = _inversions(record)
    record.write_bytes(b"")
    cpu_s = {role: after[role] - before.get(role, 0.0) for role in sorted(after)}
    cpu_s["sink"] = sink_after - sink_before
    return Through(
        events / acknowledged_s,
        events / delivered_s,
        wrong,
        again,
        {role: spent / events * 1e6 for role, spent in cpu_s.items()},
    )


async def _run(folder: Path) -> None:
    async with sink_process(folder) as (port, pid, record):
        baseline = await _baseline(port)
        found = await through(
            folder, WORKSPACE.format(port=port), record, pid, list(batches_of("e2e", EVENTS))
        )
    print(f"  accepted    {found.accepted_per_s:>9,.0f} events/s while delivering (batches of {BATCH})")
    print(
        f"  end to end  {found.delivered_per_s:>9,.0f} events/s; {found.wrong} out of order, {found.again} repeated"
    )
    ratio = found.delivered_per_s / baseline
    print(f"  transport straight into the sink {baseline:,.0f} requests/s: ratio {ratio:.2f}")
    for role, spent in found.cpu_us.items():
        print(f"  {role:<8} {spent:>6.0f} µs of CPU an event")


def main() -> None:
    """Run it once."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_run(Path(folder)))


if __name__ == "__main__":
    main()
