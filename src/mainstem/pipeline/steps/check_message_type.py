"""Check the message type: a destination gets only the kinds of call it has a use for."""

from collections.abc import Set as AbstractSet
from typing import Final

from mainstem.events.canonical import Event
from mainstem.pipeline.outcome import Filtered
from mainstem.pipeline.steps import Step

RULE: Final = "message type not supported"


def compile_message_types(supported: AbstractSet[str], narrowed: tuple[str, ...]) -> Step:
    """Return the step that passes `supported` types, or those of them in `narrowed` when it names any."""
    passing = frozenset(supported) & frozenset(narrowed) if narrowed else frozenset(supported)

    def check_message_type(event: Event) -> Filtered | None:
        if event.type in passing:
            return None
        return Filtered(RULE, event.type)

    return check_message_type
