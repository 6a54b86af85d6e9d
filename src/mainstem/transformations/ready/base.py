"""What a ready-made transformation is: typed settings, a pure change of one event, and words for people.

pipeline rules -> **ready-made transformation** -> destination mapping; those that say `edge` may also run in the
gateway, before the event touches the log. Adding one is: a module here with its `SPEC`, one line in
`catalog.py`, its cases in `cases/NAME.json`. The contract suite then runs over it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from mainstem.destinations.catalog import secret_fields
from mainstem.transformations.base import Change

Locate = Callable[[str], Mapping[str, str] | None]
"""Returns the `context.geo` of an IP address, or None when it is not known; never raises."""

Group = Literal["privacy", "shape", "choose", "enrich"]
"""privacy: takes personal data out. shape: moves, renames, converts. choose: which events go on. enrich: adds."""


class Tools(msgspec.Struct, frozen=True):
    """What the operator provides beside the settings."""

    locate: Locate | None = None
    """Of the GeoIP database; None = there is none, and a transformation that wants it passes events on unchanged."""


NO_TOOLS = Tools()

Make = Callable[[Any, Tools], Change]
"""Takes the settings struct; returns the change with everything prepared (patterns compiled, paths parsed).
Called once per version; never raises for settings that were validated."""

TextChange = Callable[[str], str]
"""The same policy for a loose text that lies beside the message. Pure, never raises."""


class ReadySpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the rest of Mainstem knows about a ready-made transformation; feeds validation, docs, CLI."""

    name: str
    """As written in the workspace (`mask_pii`)."""
    title: str
    """A few words, for lists."""
    text: str
    """One paragraph for people: what it does, to what, what it leaves alone."""
    group: Group
    settings: type[msgspec.Struct]
    """Documented fields with defaults; snake_case; secrets typed `Secret`. Its `__post_init__` raises ValueError
    with a text that begins with the setting's name in backticks."""
    make: Make
    edge: bool = False
    """May run in the gateway before the log: there the message is as the client sent it (not yet canonical), and
    exactly one message must come out or the event be dropped."""
    make_text: Callable[[Any], TextChange] | None = None
    """For `edge`: what happens to texts that the gateway keeps beside the message (request_ip, user agent, the
    reason of a rejection). None = they stay."""
    idempotent: bool = False
    """Whether running it twice gives the same as once; the contract suite checks it."""

    @property
    def secret_fields(self) -> frozenset[str]:
        """The names of the settings that are secrets."""
        return secret_fields(self.settings)
