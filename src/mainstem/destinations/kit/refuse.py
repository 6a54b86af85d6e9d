"""How a mapping says no. Part of the mapping kit.

What becomes of an event is a value everywhere in Mainstem (`Refusal`, `Skip`, `Retry`). Inside a mapping, which is
many small functions deep, passing that value up through each of them would bury the mapping; so inside, and only
inside, these three exceptions carry it, and `settled` makes the value of them at the mapping's edge.
"""

from collections.abc import Callable
from functools import wraps
from typing import NoReturn

from mainstem.destinations.base import (
    Dialogue,
    Looking,
    MapContext,
    Mapped,
    Mapper,
    Refusal,
    Retry,
    Skip,
)
from mainstem.errors import MainstemError
from mainstem.events.canonical import Event


class NotSent(MainstemError):
    """A mapping ends without requests."""

    def __init__(self, outcome: Refusal | Skip | Retry) -> None:
        super().__init__("not sent")
        self.outcome = outcome


def refuse(reason: str, status: int = 400) -> NoReturn:
    """End the mapping: the event can't be sent, it becomes a dead letter.

    Args:
        reason: names the field and what to do: "`traits.email` is missing; Klaviyo needs an e-mail or a phone".
        status: what RudderStack's transformer answers (400 unless a vector shows otherwise).
    """
    raise NotSent(Refusal(reason, status))


def skip(rule: str, status: int = 400) -> NoReturn:
    """End the mapping: by the settings or by its nature this event is not for this destination; it is filtered.

    Args:
        rule: short and the same for all such events, because the books count by it: `event not mapped`.
        status: as for `refuse`; 298 where the peer calls it filtered.
    """
    raise NotSent(Skip(rule, status))


def postpone(
    reason: str, status: int = 500, *, after_s: float | None = None, throttled: bool = False
) -> NoReturn:
    """End the mapping for now: a look-up was not answered as it should; the event is tried again.

    Args:
        status: as for `refuse`: 429 or 500.
    """
    raise NotSent(Retry(reason, after_s=after_s, throttled=throttled, status=status))


TOO_DEEP = Refusal("the event is nested too deeply")


def settled(mapping: Callable[[Event, MapContext], Mapped]) -> Mapper:
    """Return a mapping that raises as above as the mapping that delivery wants: every outcome is a value."""

    @wraps(mapping)
    def mapper(event: Event, context: MapContext) -> Mapped:
        try:
            return mapping(event, context)
        except NotSent as end:
            outcome = end.outcome
            # Without a look-up nothing can be different next time.
            return Refusal(outcome.reason, outcome.status) if isinstance(outcome, Retry) else outcome
        except RecursionError:
            return TOO_DEEP

    return mapper


def dialogue(looking: Callable[[Event, MapContext], Looking]) -> Mapper:
    """Return a mapping that looks things up (a generator function, see `base.Looking`) as delivery wants it.

    An event that is sent or refused without asking is mapped at once, as by any other mapping.
    """

    @wraps(looking)
    def mapper(event: Event, context: MapContext) -> Mapped:
        talk = looking(event, context)
        try:
            next(talk)
        except StopIteration as end:
            mapped: Mapped = end.value
            return mapped
        talk.close()
        return (Dialogue(lambda: looking(event, context)),)

    return settled(mapper)
