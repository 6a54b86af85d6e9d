"""Edge policies over all that the gateway is about to store of an event, not over its message alone.

gateway -> **edge policies** -> stream. Beside the message the gateway keeps the address that the request came from,
its User-Agent and the batch's context. Each passes through the same changes as the field of the message that it
becomes later (`request_ip`, `context.userAgent`, `context`), so what a policy says of the field holds for it too.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from mainstem.transformations.base import About, Change, Dropped, Failed, Kept
from mainstem.transformations.ready.base import TextChange


class Arrived(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an event at the gateway."""

    message: dict[str, Any]
    """As the client sent it."""
    request_ip: str = ""
    user_agent: str = ""
    batch_context: dict[str, Any] | None = None


def apply_at_edge(changes: Sequence[Change], arrived: Arrived, about: About) -> Arrived | Dropped | Failed:
    """Return what may be stored after all changes, in this order; never changes what it is given.

    A part beside the message that a policy drops or fails on is stored empty: when in doubt, nothing is kept.
    """
    message: dict[str, Any] = arrived.message
    for change in changes:
        match change(message, about):
            case Kept((only,)):
                message = only
            case Kept():
                return Failed("an edge policy made several events of one")
            case Dropped() | Failed() as ended:
                return ended
    context: dict[str, Any] | None = None
    if arrived.batch_context is not None:
        context = _member(_beside(changes, {"context": arrived.batch_context}, about), "context", dict, {})
    request: dict[str, Any] = {}
    if arrived.request_ip or arrived.user_agent:
        request = _beside(
            changes,
            {"request_ip": arrived.request_ip, "context": {"userAgent": arrived.user_agent}},
            about,
        )
    return Arrived(
        message=message,
        request_ip=_member(request, "request_ip", str, ""),
        user_agent=_member(_member(request, "context", dict, {}), "userAgent", str, ""),
        batch_context=context,
    )


def text_at_edge(changes: Sequence[TextChange], text: str) -> str:
    """Return a loose text (why an event was rejected, a body that can't be read) after all changes."""
    for change in changes:
        text = change(text)
    return text


def _beside(changes: Sequence[Change], message: dict[str, Any], about: About) -> dict[str, Any]:
    for change in changes:
        match change(message, about):
            case Kept((only,)):
                message = only
            case _:
                return {}
    return message


def _member(of: dict[str, Any], name: str, kind: type, empty: Any) -> Any:
    value = of.get(name)
    return value if isinstance(value, kind) else empty
