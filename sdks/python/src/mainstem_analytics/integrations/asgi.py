"""Starlette, FastAPI, and every other ASGI application.

    app.add_middleware(AnalyticsMiddleware)

When the server shuts the application down, what the last requests have called is sent: uvicorn ends its process by the
signal that it got, with the handlers that were there before it, so that neither `atexit` nor a handler of ours comes.
"""

from __future__ import annotations

from collections.abc import Awaitable, MutableMapping
from typing import Any, Callable

from mainstem_analytics import lifecycle
from mainstem_analytics.context import bound
from mainstem_analytics.integrations.request import request_context

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[Any]]
_Send = Callable[[Any], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


class AnalyticsMiddleware:
    """Lends each HTTP request's context to the events that are called while it is served."""

    def __init__(self, app: _App, *, trust_forwarded: bool = False) -> None:
        """
        Args:
            trust_forwarded: see `request`.
        """
        self._app = app
        self._trust_forwarded = trust_forwarded

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Serve one request, or whatever else the server hands over."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, _sending_at_the_end(send))
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope.get("query_string", b"").decode("latin-1")
        url = f"{scope.get('scheme', 'http')}://{headers.get('host', '')}{scope['path']}"
        client = scope.get("client")
        context = request_context(
            headers,
            address=client[0] if client else "",
            url=f"{url}?{query}" if query else url,
            trust_forwarded=self._trust_forwarded,
        )
        with bound(context):
            await self._app(scope, receive, send)


def _sending_at_the_end(send: _Send) -> _Send:
    async def wrapped(message: Any) -> None:
        if message["type"].startswith("lifespan.shutdown."):
            # All requests are done, and the application has shut down: nobody is held up by waiting here.
            lifecycle.at_exit()
        await send(message)

    return wrapped
