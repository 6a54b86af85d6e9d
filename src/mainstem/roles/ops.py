"""The operations endpoints: metrics, health, books, explain. For operators, on their own port.

    GET /metrics                 Prometheus text, one page for all processes
    GET /health                  200 while everything that should run runs, else 503; says what is wrong
    GET /ready                   200 when events are accepted
    GET /v1/destinations         condition of every destination
    GET /v1/books[?destination=] the books
    GET /v1/explain/{messageId}  where an event went
    GET /version

No payload leaves through these except `explain`, which shows the request that was or would be made with
secrets redacted. Bind them to a private address: they have no login.
"""

import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mainstem.roles.exposition import Family, exposition


class Health(msgspec.Struct):
    """The truth about one installation."""

    healthy: bool
    ready: bool
    """Events are accepted."""
    problems: list[str]
    details: dict[str, Any]


class Operations(msgspec.Struct, frozen=True):
    """What the endpoints answer from."""

    metrics: Callable[[], Awaitable[Mapping[str, list[Family]]]]
    health: Callable[[], Awaitable[Health]]
    destinations: Callable[[], Awaitable[Mapping[str, Any]]]
    books: Callable[[str], Awaitable[list[Any]]]
    explain: Callable[[str, str], Awaitable[Any]]


def operations_app(operations: Operations) -> Starlette:
    """Return the ASGI application."""

    async def metrics(_: Request) -> Response:
        return Response(
            exposition(await operations.metrics()), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    async def health(_: Request) -> Response:
        found = await operations.health()
        return _json(found, 200 if found.healthy else 503)

    async def ready(_: Request) -> Response:
        found = await operations.health()
        return _json({"ready": found.ready, "problems": found.problems}, 200 if found.ready else 503)

    async def destinations(_: Request) -> Response:
        return _json(await operations.destinations())

    async def books(request: Request) -> Response:
        return _json(await operations.books(request.query_params.get("destination", "")))

    async def explain(request: Request) -> Response:
        found = await operations.explain(
            request.path_params["message_id"], request.query_params.get("source", "")
        )
        return _json(found, 200 if found else 404)

    async def version_(_: Request) -> Response:
        return _json({"name": "mainstem", "version": version("mainstem")})

    return Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/health", health),
            Route("/ready", ready),
            Route("/version", version_),
            Route("/v1/destinations", destinations),
            Route("/v1/books", books),
            Route("/v1/explain/{message_id:path}", explain),
        ]
    )


def _json(value: Any, status: int = 200) -> Response:
    return Response(
        msgspec.json.format(msgspec.json.encode(value), indent=2), status, media_type="application/json"
    )


class OperationsServer:
    """The application on its socket, inside the role's own event loop."""

    def __init__(self, operations: Operations, sock: socket.socket) -> None:
        self._sock = sock
        self._server = _QuietServer(
            uvicorn.Config(
                operations_app(operations),
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_keep_alive=30,
            )
        )

    async def serve(self) -> None:
        """Serve until `close`."""
        await self._server.serve(sockets=[self._sock])

    def close(self) -> None:
        """Let `serve` return."""
        self._server.should_exit = True


class _QuietServer(uvicorn.Server):
    """Signals belong to the role, not to this server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
