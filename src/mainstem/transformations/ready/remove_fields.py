"""`remove_fields`: takes fields out by path. A ready-made transformation (privacy), also at the edge."""

from typing import Any, Final

import msgspec

from mainstem.destinations.kit.paths import parse_path
from mainstem.transformations.base import About, Change, Kept, Result
from mainstem.transformations.ready.base import ReadySpec, Tools
from mainstem.transformations.ready.edit import check_path, compile_edit, without

_NEEDED: Final = ("type", "messageId")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `remove_fields` is told."""

    paths: tuple[str, ...]
    """The fields to take out, each with all below it: `context.traits.email`, `properties.products[*].note`,
    `$['odd name']`. Elements of lists are taken out too, so those behind them move up. `type` and `messageId` stay."""

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError("`paths` is empty: nothing would be removed")
        for path in self.paths:
            check_path("paths", path)
            if parse_path(path)[0] in _NEEDED and len(parse_path(path)) == 1:
                raise ValueError(f"`paths`: an event without `{path}` is none; it can't be removed")


def make(settings: Settings, _: Tools) -> Change:
    """Return the change for these settings."""
    edits = [compile_edit(path) for path in settings.paths]

    def remove_fields(message: dict[str, Any], about: About) -> Result:
        for edit in edits:
            message = without(message, edit)
        return Kept((message,))

    return remove_fields


SPEC: Final = ReadySpec(
    name="remove_fields",
    title="Take fields out",
    text="""Takes the named fields out of the event, with everything below them. A path that an event does not have is
    passed over. The rest of the event stays as it is.""",
    group="privacy",
    settings=Settings,
    make=make,
    edge=True,
    # Not idempotent: taking out `list[0]` twice takes out two.
)
