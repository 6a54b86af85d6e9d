"""Explain: what each destination does with an event, and the requests it would make.

The pure half of `mainstem dry-run` and `mainstem explain`: the same plans that delivery runs, their outcomes
written down. Encoded with `msgspec.json.encode`, a line is the same to the byte every time.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from mainstem.destinations.render import rendered, secrets_in
from mainstem.events.canonical import Event
from mainstem.pipeline.outcome import Dead, Filtered, Refused, Send
from mainstem.pipeline.plan import DestinationPlan


class Explanation(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One event at one destination: one line of `dry-run`."""

    message_id: str
    source_id: str
    type: str
    event: str
    """The name of a track, page or screen, else empty."""
    destination_id: str
    destination_name: str
    destination_type: str
    enabled: bool
    """False: the destination is paused at its place; this is what happens once it is enabled."""
    outcome: Literal["send", "filtered", "rejected", "dead"]
    reason: str = ""
    """The rule that filtered it, or why it was rejected or is dead; empty for `send`."""
    detail: str = ""
    """What in the event matched."""
    requests: tuple[dict[str, Any], ...] = ()
    """The requests or messages, without secrets; empty also for destinations that write files."""


def explain(event: Event, plans: Iterable[DestinationPlan]) -> Iterator[Explanation]:
    """Yield what every plan makes of the event, in the order of the plans."""
    for plan in plans:
        yield explain_one(event, plan)


def explain_one(event: Event, plan: DestinationPlan) -> Explanation:
    """Return what one plan makes of the event."""
    outcome = plan.evaluate(event)
    word: Literal["send", "filtered", "rejected", "dead"]
    reason, detail = "", ""
    requests: tuple[dict[str, Any], ...] = ()
    match outcome:
        case Send(payloads=payloads):
            word = "send"
            destination = plan.destination
            secrets = secrets_in((destination.config, destination.raw_config)) if payloads else ()
            requests = tuple(rendered(payload, secrets) for payload in payloads)
        case Filtered(rule=rule, detail=matched):
            word, reason, detail = "filtered", rule, matched
        case Refused(reason=why):
            word, reason = "rejected", why
        case Dead(reason=why):
            word, reason = "dead", why
    return Explanation(
        message_id=event.message_id,
        source_id=event.source_id,
        type=event.type,
        event=event.name,
        destination_id=plan.destination.id,
        destination_name=plan.destination.name,
        destination_type=plan.destination.type,
        enabled=plan.destination.enabled,
        outcome=word,
        reason=reason,
        detail=detail,
        requests=requests,
    )
