"""An event as one message of a broker. Part of the mapping kit."""

from collections.abc import Mapping
from typing import Any, Final

from mainstem.destinations.base import StreamMessage
from mainstem.destinations.kit.body import json_bytes
from mainstem.events.canonical import Event

Headers = tuple[tuple[str, bytes], ...]
_NOTHING: Final[Mapping[str, Any]] = {}


def user_key(event: Event) -> str:
    """Return what keeps one user's messages in one partition, in order: the userId, else the anonymousId."""
    return event.user_id or event.anonymous_id


def whole_event(
    event: Event, topic: str, key: str, shown: Mapping[str, Any] = _NOTHING, headers: Headers = ()
) -> StreamMessage:
    """Return a message that carries the event as it is, as JSON.

    Args:
        shown: what RudderStack's transformer says of it beside the event and its user.
    """
    return StreamMessage(
        topic=topic,
        key=key.encode("utf-8", "surrogatepass"),
        value=json_bytes(event.message),
        headers=headers,
        extra={"message": event.message, "userId": user_key(event), **shown},
    )
