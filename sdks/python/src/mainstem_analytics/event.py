"""A call's arguments -> an event of the Segment spec (https://segment.com/docs/connections/spec/common/).

Ids become text. `timestamp` is the caller's clock at the call; a time that the caller gives is sent as
`originalTimestamp` too, by which the server knows not to correct it. A naive `datetime` is local time if it is about
now, else UTC, as Segment's library takes it.
"""

from __future__ import annotations

import numbers
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Union

from mainstem_analytics.errors import InvalidCall

Event = dict[str, Any]
"""An event as a dict; see the module."""
Id = Union[str, int, uuid.UUID, None]
Json = Mapping[str, Any]

_ABOUT_NOW_S = 5.0


def now_text() -> str:
    """The time, as events have it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")[:-6] + "Z"


def time_text(given: datetime | str) -> str:
    """A time that the caller gives.

    Raises:
        InvalidCall: It is neither a datetime nor text.
    """
    if isinstance(given, str):
        return given
    if not isinstance(given, datetime):
        raise InvalidCall(f"timestamp must be a datetime, not {type(given).__name__}")
    if given.utcoffset() is None:
        local = abs((datetime.now() - given.replace(tzinfo=None)).total_seconds()) < _ABOUT_NOW_S  # noqa: DTZ005
        given = given.astimezone() if local else given.replace(tzinfo=timezone.utc)
    return given.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def id_text(name: str, given: Any) -> str | None:
    """An id as text; None if there is none.

    Raises:
        InvalidCall: It is of a type that is no id.
    """
    if given is None or given == "":
        return None
    if isinstance(given, str):
        return given
    if isinstance(given, bool) or not isinstance(given, (numbers.Number, uuid.UUID)):
        raise InvalidCall(f"{name} must be text or a number, not {type(given).__name__}")
    return str(given)


def object_of(name: str, given: Any) -> dict[str, Any]:
    """A dict of the caller's, copied one level deep; empty if there is none.

    Raises:
        InvalidCall: It is something else.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidCall(f"{name} must be a dict, not {type(given).__name__}")
    return dict(given)


def text_of(name: str, given: Any) -> str | None:
    """A text of the caller's.

    Raises:
        InvalidCall: It is something else.
    """
    if given is None or isinstance(given, str):
        return given
    raise InvalidCall(f"{name} must be text, not {type(given).__name__}")


def new_message_id() -> str:
    """An id that no other event has."""
    return str(uuid.uuid4())
