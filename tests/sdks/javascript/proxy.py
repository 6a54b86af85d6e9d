"""A proxy between browsers and the gateway that misbehaves by script, and remembers what it saw.

    async with Proxy(product.url) as proxy:
        proxy.script = iter([500, Lost(), Cut(), 429])     # then everything is passed on

A status of its own carries the CORS headers that the gateway would send, so that a page can read it.
"""

import asyncio
import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
from aiohttp import web


@dataclass(frozen=True)
class Cut:
    """The connection ends before anything reaches the gateway."""


@dataclass(frozen=True)
class Lost:
    """The gateway takes it, its answer never reaches the client."""


@dataclass(frozen=True)
class Held:
    """Passed on only when `release` is set; the answer comes then."""

    release: asyncio.Event


Behaviour = int | Cut | Lost | Held


@dataclass
class Seen:
    """One request for events."""

    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    status: int = 0
    """What the client was answered; 0 = nothing."""
    numbers: list[int] = field(default_factory=list)
    """`properties.n` of its events."""


class Proxy:
    """See the module."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.url = ""
        self.script: Iterator[Behaviour] = iter(())
        """How the next requests for events are treated; when it is over they are passed on."""
        self.seen: list[Seen] = []
        self.preflights: list[str] = []
        self.flying = 0
        self.most_flying = 0
        """Batches that were under way at once (beacons do not count: a page that ends does not wait)."""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=16 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, auto_decompress=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.content.read()
        if request.method == "OPTIONS":
            self.preflights.append(request.path)
        if request.method != "POST":
            return await self._pass_on(request, body)
        text = gzip.decompress(body) if request.headers.get("Content-Encoding") == "gzip" else body
        seen = Seen(request.path, json.loads(text), dict(request.headers))
        seen.numbers = [event.get("properties", {}).get("n", -1) for event in seen.body["batch"]]
        self.seen.append(seen)
        counts = "beacon" not in request.path
        self.flying += counts
        self.most_flying = max(self.most_flying, self.flying)
        try:
            return await self._answer(request, body, seen)
        finally:
            self.flying -= counts

    async def _answer(self, request: web.Request, body: bytes, seen: Seen) -> web.StreamResponse:
        behaviour = next(self.script, None)
        if isinstance(behaviour, int):
            seen.status = behaviour
            headers = {"Access-Control-Allow-Origin": request.headers.get("Origin", "*")}
            if behaviour == 429:
                headers |= {"Retry-After": "1", "Access-Control-Expose-Headers": "Retry-After"}
            return web.json_response(
                {"code": "told", "message": "by the test"}, status=behaviour, headers=headers
            )
        if isinstance(behaviour, Held):
            await behaviour.release.wait()
        if not isinstance(behaviour, Cut):
            answer = await self._pass_on(request, body)
            if not isinstance(behaviour, Lost):
                seen.status = answer.status
                return answer
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    async def _pass_on(self, request: web.Request, body: bytes) -> web.Response:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        async with self._session.request(
            request.method, f"{self._target}{request.path_qs}", data=body or None, headers=headers
        ) as answer:
            found = [(name, value) for name, value in answer.headers.items() if name.lower() not in _HOP]
            return web.Response(body=await answer.read(), status=answer.status, headers=found)


_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "expect"}
