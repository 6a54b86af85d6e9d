"""Explain: what each destination does with an event, and the requests it would make.

The pure half of `mainstem dry-run` and `mainstem explain`: the same plans that delivery runs, their outcomes
written down. Encoded with `msgspec.json.encode`, a line is the same to the byte every time.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Literal

import msgspec

from mainstem.destinations.render import rendered, secrets_in
from mainstem.events.canonical import Event
from mainstem.pipeline.outcome import Dead, Filtered, Outcome, Refused, Send
from mainstem.pipeline.plan import DestinationPlan, Way
from mainstem.pipeline.transform import Applied, Transformer


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
    """What in the event matched, or went wrong with it."""
    transformations: tuple[Applied, ...] | msgspec.UnsetType = msgspec.UNSET
    """What each transformation did, in order; left out where there is none."""
    requests: tuple[dict[str, Any], ...] = ()
    """The requests or messages, without secrets; empty also for destinations that write files."""


async def explain(
    event: Event, plans: Iterable[DestinationPlan], transformer: Transformer
) -> AsyncIterator[Explanation]:
    """Yield what every plan makes of the event, in the order of the plans.

    Raises:
        SandboxUnavailable: user code can't be run now.
    """
    for plan in plans:
        yield await explain_one(event, plan, transformer)


async def explain_one(event: Event, plan: DestinationPlan, transformer: Transformer) -> Explanation:
    """Return what one plan makes of the event.

    Raises:
        SandboxUnavailable: user code can't be run now.
    """
    applied: Sequence[Applied] = ()
    way = plan.route(event)
    outcome: Outcome
    if not isinstance(way, Way):
        outcome = way
    elif way.chain is None or way.surface is None:
        outcome = plan.map(event, way)
    else:
        made, applied = await transformer.trace(way.chain, event, way.surface)
        outcome = plan.map_made(event, way, made)
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
        case Dead(reason=why, detail=happened):
            word, reason, detail = "dead", why, happened
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
        transformations=tuple(applied) or msgspec.UNSET,
        requests=requests,
    )
