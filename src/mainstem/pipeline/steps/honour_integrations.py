"""Honour `integrations`: the sender's own word on where an event may go.

Segment: https://segment.com/docs/guides/filtering-data/#filtering-with-the-integrations-object, RudderStack:
https://www.rudderstack.com/docs/sources/event-streams/sdks/event-filtering/. The key names a destination by
id, name, display name or type; an object of options counts as true. `docs/concepts/routing.md` has the table.
"""

from collections.abc import Mapping
from typing import Any, Final

from mainstem.events.canonical import Event
from mainstem.pipeline.outcome import Filtered
from mainstem.pipeline.steps import Step

RULE: Final = "integrations"
_MALFORMED: Final = Filtered(RULE, "integrations is not an object")
_NOT_NAMED: Final = 1 << 30


def compile_integrations(names: tuple[str, ...]) -> Step:
    """Return the step for a destination known by `names`, the most telling first (id, name, display name, type).

    Keys are compared without regard to case. The most telling name that the event mentions decides; where it
    appears twice in different case, a `false` wins. No such name: `All` decides, and its default is true.
    """
    ranks: dict[str, int] = {}
    for rank, name in enumerate(names):
        ranks.setdefault(name.casefold(), rank)
    ranks.pop("all", None)
    ranks.pop("", None)

    def honour_integrations(event: Event) -> Filtered | None:
        integrations = event.message.get("integrations")
        # Absent, null, {}; and [], which PHP writes for an empty map.
        if not integrations and (integrations is None or isinstance(integrations, dict | list)):
            return None
        if not isinstance(integrations, dict):
            return _MALFORMED
        return _decide(integrations, ranks)

    return honour_integrations


def _decide(integrations: Mapping[str, Any], ranks: Mapping[str, int]) -> Filtered | None:
    best = _NOT_NAMED
    named: Filtered | None = None
    everything: Filtered | None = None
    for key, value in integrations.items():
        if value is None:
            continue  # an explicit null is the same as absent
        folded = key.casefold()
        if folded == "all":
            if value is not True:
                everything = Filtered(RULE, _said(key, value))
            continue
        rank = ranks.get(folded)
        if rank is None or rank > best:
            continue
        verdict = None if value is True or isinstance(value, dict) else Filtered(RULE, _said(key, value))
        if rank < best or named is None:
            named = verdict
        best = rank
    return everything if best == _NOT_NAMED else named


def _said(key: str, value: Any) -> str:
    if value is False:
        return f"{key} is false"
    return f"{key} is neither true nor false nor an object"
