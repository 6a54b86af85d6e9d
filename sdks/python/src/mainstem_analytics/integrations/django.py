"""Django, synchronous and asynchronous.

    MIDDLEWARE = [..., "mainstem_analytics.integrations.django.AnalyticsMiddleware"]

Below `AuthenticationMiddleware`, calls without ids are of the user who is logged in. Settings, all optional:
`ANALYTICS_TRUST_FORWARDED` (see `request`), `ANALYTICS_BIND_USER` (True).
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings

from mainstem_analytics.context import bound
from mainstem_analytics.integrations.request import request_context


class AnalyticsMiddleware:
    """Lends each request's context, and its user, to the events that are called while it is served."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response
        self._asynchronous = iscoroutinefunction(get_response)
        if self._asynchronous:
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """Serve one request."""
        if self._asynchronous:
            return self._serve(request)
        with bound(_context(request), user_id=_user_id(request)):
            return self._get_response(request)

    async def _serve(self, request: Any) -> Any:
        user_id = None
        if getattr(settings, "ANALYTICS_BIND_USER", True) and hasattr(request, "auser"):
            user = await request.auser()
            user_id = user.pk if user.is_authenticated else None
        with bound(_context(request), user_id=user_id):
            response: Awaitable[Any] = self._get_response(request)
            return await response


def _context(request: Any) -> dict[str, Any]:
    return request_context(
        {name.lower(): value for name, value in request.headers.items()},
        address=request.META.get("REMOTE_ADDR", ""),
        url=request.build_absolute_uri(),
        trust_forwarded=getattr(settings, "ANALYTICS_TRUST_FORWARDED", False),
    )


def _user_id(request: Any) -> Any:
    user = getattr(request, "user", None) if getattr(settings, "ANALYTICS_BIND_USER", True) else None
    return user.pk if user is not None and user.is_authenticated else None
