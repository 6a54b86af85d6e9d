"""How long a durable answer takes at half of the target load: 25,000 events a second in batches of 20.

Requests leave on a fixed schedule whatever the answers do (open loop), so a stall shows in every request that
it delays. The server is one gateway process on the embedded stream; the ratio is to the same server with an
empty handler under the same schedule.
"""

import asyncio
import gc
import subprocess
import sys
import time

import msgspec
import uvloop

EVENTS_PER_S = 25_000
BATCH = 20
SECONDS = 10
CONNECTIONS = 32
WARM_UP_S = 1.0


def _request(number: int) -> bytes:
    events = [
        {
            "type": "track",
            "event": "Order Completed",
            "messageId": f"latency-{time.time_ns()}-{number}-{index}",
            "userId": f"user-{(number * BATCH + index) % 1000}",
            "timestamp": "2026-01-01T00:00:00.000Z",
            "context": {"library": {"name": "bench", "version": "1"}},
            "properties": {"padding": "x" * 560},
        }
        for index in range(BATCH)
    ]
    body = msgspec.json.encode({"batch": events, "sentAt": "2026-01-01T00:00:01.000Z"})
    return (
        b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Basic d2s6\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )


async def _drive(port: int) -> list[float]:
    """Return the time of each answer in seconds, from the moment the request was due."""
    interval_s = BATCH / EVENTS_PER_S
    total = int(SECONDS / interval_s)
    requests = [_request(number) for number in range(total)]
    gc.disable()  # a pause of the generator would look like one of the server
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await asyncio.open_connection("127.0.0.1", port))
    times: list[float] = []

    async def one(request: bytes, due: float) -> None:
        connection = await free.get()
        reader, writer = connection
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        length = next(
            int(line.partition(b":")[2]) for line in head.lower().split(b"\r\n") if b"content-length" in line
        )
        await reader.readexactly(length)
        times.append(time.perf_counter() - due)
        free.put_nowait(connection)

    began = time.perf_counter()
    tasks = []
    for number, request in enumerate(requests):
        due = began + number * interval_s
        delay = due - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        tasks.append(asyncio.create_task(one(request, due)))
    await asyncio.gather(*tasks)
    while not free.empty():
        free.get_nowait()[1].close()
    return times[int(WARM_UP_S / interval_s) :]


def _measure(mode: str) -> tuple[float, float, float]:
    """Return p50, p99 and the longest answer in milliseconds."""
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gateway_server", "serve", mode, "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        times = sorted(uvloop.run(_drive(int(server.stdout.readline()))))
    finally:
        server.terminate()
        server.wait()
    return times[len(times) // 2] * 1e3, times[int(len(times) * 0.99)] * 1e3, times[-1] * 1e3


def main() -> None:
    """Print both."""
    found = {mode: _measure(mode) for mode in ("bare", "embedded")}
    for mode, (p50, p99, longest) in found.items():
        print(f"  {mode:<9} p50 {p50:6.2f} ms   p99 {p99:6.2f} ms   longest {longest:6.1f} ms")
    print(f"  p99 embedded / bare: {found['embedded'][1] / found['bare'][1]:.1f}")


if __name__ == "__main__":
    main()
