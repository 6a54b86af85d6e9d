"""Flask.

init_app(app)
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from flask import g, request

from mainstem_analytics.context import bound
from mainstem_analytics.integrations.request import request_context


def init_app(app: Any, *, trust_forwarded: bool = False) -> None:
    """Lend each request's context to the events that are called while it is served.

    Args:
        trust_forwarded: see `request`.
    """

    def begin() -> None:
        stack = ExitStack()
        context = request_context(
            {name.lower(): value for name, value in request.headers.items()},
            address=request.remote_addr or "",
            url=request.url,
            trust_forwarded=trust_forwarded,
        )
        stack.enter_context(bound(context))
        g.mainstem_analytics = stack

    def end(_error: BaseException | None) -> None:
        stack = g.pop("mainstem_analytics", None)
        if stack is not None:
            stack.close()

    app.before_request(begin)
    app.teardown_request(end)
