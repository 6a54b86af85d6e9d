"""A gateway that only records: enough of the wire surface for every SDK driver to be proved against.

It answers as the SDKs' documentation asks (200 with a JSON object, settings documents, CORS with
preflight), keeps each event in order of arrival, and knows nothing else.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

_MAX_BODY_BYTES = 8 * 1024 * 1024


@dataclass
class Recorder:
    """What has arrived so far."""

    port: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    preflights: list[str] = field(default_factory=list)
    """Paths for which a browser asked first."""

    @property
    def endpoint(self) -> str:
        """The recorder's origin."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def host(self) -> str:
        """The recorder's origin without a scheme."""
        return f"127.0.0.1:{self.port}"


@asynccontextmanager
async def recording(*, status: int = 200) -> AsyncIterator[Recorder]:
    """A recorder that listens on a free loopback port.

    Args:
        status: What to answer to events; anything but 200 is answered without recording them.
    """
    recorder = Recorder()

    async def answer(request: web.Request) -> web.Response:
        if request.method == "OPTIONS":
            recorder.preflights.append(request.path)
            return web.Response(status=204, headers=_cors(request))
        if request.method == "GET":
            return web.json_response(_settings(recorder, request), headers=_cors(request))
        body = json.loads(await request.read())
        if status != 200:
            refusal = {"code": "refused", "message": "this recorder refuses events"}
            return web.json_response(refusal, status=status, headers=_cors(request))
        recorder.events.extend(body.get("batch", [body]))
        return web.json_response({"success": True}, headers=_cors(request))

    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        recorder.port = runner.addresses[0][1]
        yield recorder
    finally:
        await runner.cleanup()


def _settings(recorder: Recorder, request: web.Request) -> dict[str, Any]:
    """The documents that browser SDKs load before they send anything."""
    if request.path.startswith("/sourceConfig"):
        return {"source": {"id": "recorder", "config": {}, "destinations": []}}
    write_key = request.path.split("/projects/")[1].split("/")[0]
    segment = {"apiKey": write_key, "apiHost": f"{recorder.host}/v1", "protocol": "http"}
    return {"integrations": {"Segment.io": segment}, "metrics": {"sampleRate": 0}}


def _cors(request: web.Request) -> dict[str, str]:
    origin = request.headers.get("Origin")
    if origin is None:
        return {}
    headers = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
    wanted = request.headers.get("Access-Control-Request-Headers")
    if wanted is not None:
        headers["Access-Control-Allow-Headers"] = wanted
        headers["Access-Control-Allow-Methods"] = "GET, POST"
        headers["Access-Control-Max-Age"] = "600"
    return headers
