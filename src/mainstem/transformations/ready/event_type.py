"""The event's type: a track becomes an identify, a page a track …, with its name and its fields moved along."""

from typing import Any, Final, Literal

import msgspec

from mainstem.destinations.kit.body import text_of
from mainstem.destinations.kit.paths import MISSING, PathInvalid
from mainstem.destinations.kit.templates import compile_text
from mainstem.events.canonical import id_text
from mainstem.events.names import NAMED_TYPES, name_matcher
from mainstem.transformations.base import About, Change, Failed, Kept, Result
from mainstem.transformations.ready.base import ReadySpec, Tools
from mainstem.transformations.ready.edit import bounded

Type = Literal["track", "identify", "page", "screen", "group"]
_WITH_TRAITS: Final = frozenset(("identify", "group"))


class ChangeEventTypeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `change_event_type` is told."""

    to: Type
    """What the events become."""
    types: tuple[Type, ...] = ("track",)
    """Which types it concerns."""
    names: tuple[str, ...] = ()
    """Which event names it concerns, exact or with `*`; empty = all. Types without a name are concerned only if
    this is empty."""
    name: str = ""
    """The name afterwards (track, page, screen), may take values from the event: `Viewed {{ name }}`. Empty = the
    name it had; a track needs one."""
    group_id: str = ""
    """The groupId afterwards (group), may take values from the event: `{{ properties.company_id }}`."""

    def __post_init__(self) -> None:
        for setting in ("name", "group_id"):
            try:
                compile_text(getattr(self, setting))
            except PathInvalid as error:
                raise ValueError(f"`{setting}`: {error}") from None
        if not self.types:
            raise ValueError("`types` is empty; name at least one")
        if self.to == "group" and not self.group_id:
            raise ValueError(
                "`group_id` is missing; a group event needs one, such as {{ properties.company_id }}"
            )
        if self.to == "track" and not self.name and not NAMED_TYPES.issuperset(self.types):
            raise ValueError("`name` is missing; a track made of an event without a name needs one")


def _make(settings: ChangeEventTypeSettings, _: Tools) -> Change:
    matches = name_matcher(settings.names) if settings.names else None
    new_name = compile_text(settings.name) if settings.name else None
    group_id = compile_text(settings.group_id) if settings.group_id else None
    to = settings.to
    from_key, to_key = ("properties", "traits") if to in _WITH_TRAITS else ("traits", "properties")

    def change_event_type(message: dict[str, Any], _: About) -> Result:
        kind = message.get("type")
        if not isinstance(kind, str) or kind not in settings.types:
            return Kept((message,))
        name = (
            message.get("event") if kind == "track" else message.get("name") if kind in NAMED_TYPES else None
        )
        if matches is not None and not (isinstance(name, str) and matches(name)):
            return Kept((message,))
        if new_name is not None:
            name = new_name(message)
        changed = {key: value for key, value in message.items() if key not in ("event", "name")}
        changed["type"] = to
        if to in NAMED_TYPES and isinstance(name, str) and name:
            changed["event" if to == "track" else "name"] = name
        elif to == "track":
            return Failed("a track needs an event name, and the event gives none")
        if group_id is not None and to == "group":
            group = group_id(message)
            if group is MISSING or not id_text(text_of(group)):
                return Failed("a group needs a groupId, and the event gives none")
            changed["groupId"] = id_text(text_of(group))
        moved = message.get(from_key)
        if isinstance(moved, dict):
            own = message.get(to_key)
            del changed[from_key]
            # What it had at the new place already counts more than what comes along.
            changed[to_key] = {**moved, **own} if isinstance(own, dict) else moved
        return Kept((changed,))

    return bounded(change_event_type)


CHANGE_EVENT_TYPE: Final = ReadySpec(
    name="change_event_type",
    title="Change the event's type",
    text=(
        "Turns events of some types and names into another type. The name moves to where the new type has it; "
        "`properties` become `traits` or the reverse, the event's own fields there counting more. An event that "
        "can't be what it should become (a track without a name, a group without an id) fails."
    ),
    group="shape",
    settings=ChangeEventTypeSettings,
    make=_make,
)
