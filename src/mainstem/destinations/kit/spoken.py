"""Events as messages to people: who it was, and which template an event has. Part of the mapping kit.

What RudderStack's chat destinations share
(https://www.rudderstack.com/docs/destinations/streaming-destinations/slack/, read 2026-11).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from mainstem.destinations.kit.handlebars import Listed
from mainstem.destinations.kit.values import first, mapping, text

Json = Any
Value = TypeVar("Value")

_LONGEST_NAME: Final = 512
"""Of an event's name, as far as it is compared with regular expressions of the settings."""


def person_name(message: dict[str, Json]) -> str:
    """Return what to call the person of an event: name, first and last name, username, e-mail, or an id."""
    traits = traits_told(message)
    if name := first(traits, "name"):
        return text(name)
    parts = [
        first(traits, "firstName", "firstname", "first_name"),
        first(traits, "lastName", "lastname", "last_name"),
    ]
    if full := " ".join(text(part) for part in parts if part):
        return full
    known = first(traits, "username", "userName") or first(message, "properties.email", "traits.email")
    if known := known or first(traits, "email"):
        return text(known)
    if user_id := message.get("userId"):
        return f"User {text(user_id)}"
    return f"Anonymous user {text(message.get('anonymousId') or '')}".rstrip()


def traits_told(message: dict[str, Json]) -> dict[str, Json]:
    """Return the traits that messages speak of: the event's own, else those of its context."""
    return mapping(message.get("traits")) or mapping(mapping(message.get("context")).get("traits"))


def listed(members: dict[str, Json], only: Sequence[str] = ()) -> Listed:
    """Return an object that reads as `key: value ` for each member, or for each of these that is there."""
    return Listed({name: members[name] for name in only if name in members} if only else members)


def by_event_name(rows: Iterable[tuple[str, bool, Value]]) -> Callable[[str], Value | None]:
    """Return a function that gives the value of the first row whose name an event has.

    Args:
        rows: (name, whether it is a regular expression, value); rows without a name are left out.

    Raises:
        re.error: a regular expression is none.
    """
    compiled = [
        (re.compile(_as_python(name)) if regex else name, value) for name, regex, value in rows if name
    ]

    def find(event_name: str) -> Value | None:
        for name, value in compiled:
            if isinstance(name, str):
                if name == event_name:
                    return value
            elif name.search(event_name[:_LONGEST_NAME]):
                return value
        return None

    return find


def _as_python(regex: str) -> str:
    """Return a JavaScript regular expression as Python has it: named groups are spelled otherwise."""
    return re.sub(r"\(\?<([A-Za-z_]\w*)>", r"(?P<\1>", regex)
