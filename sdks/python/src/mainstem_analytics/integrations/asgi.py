"""Starlette, FastAPI, and every other ASGI application.

app.add_middleware(AnalyticsMiddleware)
"""

from __future__ import annotations

from collections.abc import Awaitable, MutableMapping
from typing import Any, Callable

from mainstem_analytics.context import bound
from mainstem_analytics.integrations.request import request_context

_Scope = MutableMapping[str, Any]
_App = Callable[[_Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


class AnalyticsMiddleware:
    """Lends each HTTP request's context to the events that are called while it is served."""

    def __init__(self, app: _App, *, trust_forwarded: bool = False) -> None:
        """
        Args:
            trust_forwarded: see `request`.
        """
        self._app = app
        self._trust_forwarded = trust_forwarded

    async def __call__(
        self, scope: _Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        """Serve one request, or whatever else the server hands over."""
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
