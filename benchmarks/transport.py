"""CPU and wall time of one guarded POST against the bare HTTP client, in one run.

Both post 1 KiB to the same loopback server (another process) over kept-alive connections, 32 in flight;
CPU is the sending process's, all threads. The ratio is the price of the guard, pinning, redirects, bounds
and error mapping.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import cast

import uvloop
from pyreqwest.client import ClientBuilder

from mainstem.clock import SystemClock
from mainstem.delivery.guard import AddressGuard
from mainstem.delivery.transport import PyreqwestTransport
from mainstem.destinations.base import Request

_POSTS = 4_000
_IN_FLIGHT = 32
_ROUNDS = 3
_BODY = b"x" * 1024
_HEADERS = (("Content-Type", "application/json"), ("Authorization", "Basic dGVzdA=="))
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class _Sink(asyncio.Protocol):
    """Answers 200 to every request; knows only requests with a Content-Length."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (head_end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:head_end].lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            if len(self._buffer) < head_end + 4 + length:
                return
            self._buffer = self._buffer[head_end + 4 + length :]
            self._transport.write(_ANSWER)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Sink, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().connect_read_pipe(_UntilParentLeaves, sys.stdin)
    await server.serve_forever()


class _UntilParentLeaves(asyncio.Protocol):
    def connection_lost(self, exc: Exception | None) -> None:
        for task in asyncio.all_tasks():
            task.cancel()


async def _measure(post: Callable[[], Awaitable[int]]) -> tuple[float, float]:
    """Return CPU and wall microseconds per post."""

    async def some() -> None:
        for _ in range(_POSTS // _IN_FLIGHT):
            assert await post() == 200

    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(some() for _ in range(_IN_FLIGHT)))
    return (
        (time.process_time() - cpu) / _POSTS * 1e6,
        (time.perf_counter() - wall) / _POSTS * 1e6,
    )


async def main() -> None:
    sink = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        "serve",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert sink.stdout is not None
    assert sink.stdin is not None
    try:
        url = f"http://localhost:{int(await sink.stdout.readline())}/v1/events?source=web"
        bare = ClientBuilder().no_proxy().build()
        transport = PyreqwestTransport(AddressGuard(allow_private=True), SystemClock())
        timeout = timedelta(seconds=10)
        request = Request("POST", url, _HEADERS, _BODY)

        async def by_client() -> int:
            building = bare.request("POST", url).headers(_HEADERS).body_bytes(_BODY)
            answer = await building.timeout(timeout).build().send()
            await answer.bytes()
            return answer.status

        async def by_transport() -> int:
            return (await transport.send(request, timeout_s=10)).status

        best: dict[str, tuple[float, float]] = {}
        for _ in range(_ROUNDS):
            for name, post in (("bare client", by_client), ("transport", by_transport)):
                best[name] = min(best.get(name, (1e9, 1e9)), await _measure(post))
        for name, (cpu_us, wall_us) in best.items():
            print(f"{name:12} {cpu_us:6.1f} us CPU/POST  {1e6 / wall_us:8.0f} POST/s")
        print(f"transport / bare client, CPU: {best['transport'][0] / best['bare client'][0]:.2f}")
        await transport.close()
        await bare.close()
    finally:
        sink.stdin.close()
        await sink.wait()


if __name__ == "__main__":
    with contextlib.suppress(asyncio.CancelledError):
        uvloop.run(_serve() if sys.argv[1:] == ["serve"] else main())
