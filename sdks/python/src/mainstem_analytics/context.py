"""What is known about an event without the caller saying it: the library, the device, the request that is served.

`bound` lends context and ids to every call within a `with` block, on this thread or task only. The integrations of
web frameworks use it for the time of a request.
"""

from __future__ import annotations

import locale
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from mainstem_analytics.version import VERSION

LIBRARY = {"name": "mainstem-analytics-python", "version": VERSION}


class Bound(NamedTuple):
    """What the surrounding block says."""

    context: Mapping[str, Any]
    user_id: Any = None
    anonymous_id: Any = None


_NOTHING = Bound({})
_bound: ContextVar[Bound] = ContextVar("mainstem_analytics_bound", default=_NOTHING)


def current() -> Bound:
    """What the surrounding blocks say."""
    return _bound.get()


@contextmanager
def bound(
    context: Mapping[str, Any] | None = None, *, user_id: Any = None, anonymous_id: Any = None
) -> Iterator[None]:
    """Lend context and ids to the calls within; a call's own come before them, an inner block's before an outer's."""
    outer = _bound.get()
    inner = Bound(
        merged(outer.context, context or {}),
        outer.user_id if user_id is None else user_id,
        outer.anonymous_id if anonymous_id is None else anonymous_id,
    )
    token = _bound.set(inner)
    try:
        yield
    finally:
        _bound.reset(token)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both contexts in one: `over` wins, objects such as `page` are merged field by field."""
    result = dict(base)
    for name, value in over.items():
        before = result.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            result[name] = {**before, **value}
        else:
            result[name] = value
    return result


def device() -> dict[str, Any]:
    """The machine that this runs on, in the words of the Segment spec: for programs on the user's own machine."""
    found: dict[str, Any] = {
        "os": {"name": platform.system(), "version": platform.release()},
        "timezone": time.tzname[time.localtime().tm_isdst > 0],
    }
    language = locale.getlocale()[0]
    if language and language != "C":
        found["locale"] = language.replace("_", "-")
    return found
