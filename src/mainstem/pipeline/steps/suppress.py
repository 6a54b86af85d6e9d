"""Suppress: events of people on the suppression list go nowhere."""

from collections.abc import Set as AbstractSet
from typing import Final

from mainstem.events.canonical import Event, id_text
from mainstem.pipeline.outcome import Filtered
from mainstem.pipeline.steps import Step

_USER: Final = Filtered("suppressed", "userId is on the suppression list")
_ANONYMOUS: Final = Filtered("suppressed", "anonymousId is on the suppression list")
_PREVIOUS: Final = Filtered("suppressed", "previousId is on the suppression list")


def compile_suppression(suppressed: AbstractSet[str]) -> Step | None:
    """Return the step for this list; None when nobody is on it.

    An alias also names somebody in `previousId`, so that id counts as well.
    """
    if not suppressed:
        return None

    def suppress(event: Event) -> Filtered | None:
        if event.user_id in suppressed:
            return _USER
        if event.anonymous_id in suppressed:
            return _ANONYMOUS
        if "previousId" in event.message and id_text(event.message["previousId"]) in suppressed:
            return _PREVIOUS
        return None

    return suppress
