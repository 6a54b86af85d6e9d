"""“Where did my event go?”, answered by computation for one messageId.

No row is written per event and destination. The event is found in the log, its offset is compared with each
destination's position, exceptions are looked up in the ledger, and the pure part of the pipeline is run again
to show the rule that filtered it or the request that was, or will be, made. It works while nothing else runs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from mainstem.clock import iso_from_ms
from mainstem.destinations.base import DestinationSpec
from mainstem.destinations.catalog import find_spec
from mainstem.events.canonical import Event
from mainstem.events.stored import dedup_key
from mainstem.ledger.base import DeadFilter, Ledger, Position
from mainstem.pipeline.decode import Decoder
from mainstem.pipeline.errors import PlanInvalid
from mainstem.pipeline.explain import Explanation, explain_one
from mainstem.pipeline.plan import compile_plan
from mainstem.pipeline.reading import decode_with
from mainstem.pipeline.transform import Chains, Transformer
from mainstem.stream.base import Found, OffsetGone, Stream
from mainstem.transformations.base import SandboxUnavailable
from mainstem.transformations.ready.base import NO_TOOLS, Tools
from mainstem.workspace.model import Destination, Workspace

State = Literal[
    "delivered", "filtered", "rejected", "dead", "parked", "pending", "before start", "not configured right"
]


class Whereabouts(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One event at one destination."""

    destination_id: str
    state: State
    reason: str = ""
    """The rule, the reason, or what it waits for."""
    detail: str = ""
    attempts: int = 0
    since: str = ""
    """When it was parked or died."""
    next_attempt: str = ""
    answer: str = ""
    """The destination's last answer."""
    acceptance: str = ""
    """How much a delivery proves: accepted, accepted with warning, unverifiable."""
    transformations: Sequence[Any] = ()
    """What each transformation did with it, in order."""
    requests: Sequence[Any] = ()
    """What was or would be sent, secrets hidden; empty for files."""
    enabled: bool = True


class Sighting(msgspec.Struct, kw_only=True):
    """The event in the log."""

    source_id: str
    message_id: str
    type: str
    event: str
    user_id: str
    anonymous_id: str
    received_at: str
    request_ip: str
    partition: int
    offset: int
    message_id_made: bool
    """The gateway made the messageId, the client sent none."""
    rejected: str
    """Why the gateway refused it; empty if it did not."""
    workspace_version: str
    """The configuration that this explanation was computed with."""
    destinations: list[Whereabouts]


async def explain_message(
    message_id: str,
    source_id: str,
    workspace: Workspace,
    stream: Stream,
    ledger: Ledger,
    decoder: Decoder,
    transformer: Transformer,
    tools: Tools = NO_TOOLS,
) -> list[Sighting]:
    """Return every place in the log where the messageId lies; empty if it is not (or no longer) there.

    Args:
        source_id: look in one source only; empty = all configured sources.
        tools: what ready-made transformations are given.
    """
    chains = Chains(workspace, tools)
    sources = [source_id] if source_id else [source.id for source in workspace.sources]
    sightings = []
    keys = [dedup_key(place, message_id) for source in sources for place in (source, f"rejected:{source}")]
    for key in keys:
        for found in await stream.find(key):
            sighting = await _sighting(found, workspace, stream, ledger, decoder, transformer, chains)
            if sighting is not None:
                sightings.append(sighting)
    return sightings


async def _sighting(
    found: Found,
    workspace: Workspace,
    stream: Stream,
    ledger: Ledger,
    decoder: Decoder,
    transformer: Transformer,
    chains: Chains,
) -> Sighting | None:
    try:
        records = await stream.read(found.partition, found.offset, max_records=1, max_bytes=1)
    except OffsetGone:
        return None
    if not records or records[0].offset != found.offset:
        return None
    record = records[0]
    stored, event = decode_with(decoder)(record)
    statuses = await ledger.statuses()
    return Sighting(
        source_id=event.source_id,
        message_id=event.message_id,
        type=event.type,
        event=event.name,
        user_id=event.user_id,
        anonymous_id=event.anonymous_id,
        received_at=iso_from_ms(event.received_at_ms),
        request_ip=stored.request_ip,
        partition=record.partition,
        offset=record.offset,
        message_id_made=stored.message_id_made,
        rejected=event.reason if event.kind == "rejected" else "",
        workspace_version=workspace.version,
        destinations=[
            await _whereabouts(destination, event, workspace, ledger, statuses, transformer, chains)
            for destination in workspace.destinations
        ],
    )


async def _whereabouts(
    destination: Destination,
    event: Event,
    workspace: Workspace,
    ledger: Ledger,
    statuses: Mapping[str, bytes],
    transformer: Transformer,
    chains: Chains,
) -> Whereabouts:
    spec = find_spec(destination.type)
    computed: Explanation | None
    unavailable = ""
    try:
        if spec is None:
            raise PlanInvalid(destination.id, f"no destination type {destination.type}")
        computed = await explain_one(event, compile_plan(workspace, destination, spec, chains), transformer)
    except PlanInvalid as error:
        return Whereabouts(
            destination_id=destination.id,
            state="not configured right",
            reason=str(error),
            enabled=destination.enabled,
        )
    except SandboxUnavailable as error:
        computed = None
        unavailable = f"its transformation can't be run here now: {error}"
    found = Whereabouts(
        destination_id=destination.id,
        state="pending",
        detail=unavailable if computed is None else computed.detail,
        requests=computed.requests if computed is not None else (),
        transformations=_told(computed),
        enabled=destination.enabled,
    )
    dead = await ledger.dead(DeadFilter(destination_id=destination.id, message_id=event.message_id))
    for _, letter in dead:
        if letter.source_id == event.source_id:
            found.state, found.reason, found.attempts = "dead", letter.reason, letter.attempts
            found.since = iso_from_ms(letter.died_at_ms)
            if letter.attempts:
                found.answer = letter.answer
            else:
                found.detail = letter.answer  # nothing was sent: it says what went wrong here
            return found
    for parked in await ledger.parked(destination.id, message_id=event.message_id):
        if parked.source_id == event.source_id:
            found.state, found.reason, found.attempts = "parked", parked.reason, parked.attempts
            found.since, found.answer = iso_from_ms(parked.parked_at_ms), parked.answer
            found.next_attempt = iso_from_ms(parked.next_attempt_ms)
            return found
    at = (await ledger.positions(destination.id)).get(event.partition)
    if computed is not None and computed.outcome != "send":
        found.state, found.reason = computed.outcome, computed.reason
        if at is None or event.offset >= at.next_offset:
            found.detail = (found.detail + " (not reached yet)").strip()
        return found
    _place(found, event, at, statuses.get(destination.id))
    if found.state == "delivered":
        await _prove(found, event, destination, spec, ledger)
    return found


async def _prove(
    found: Whereabouts, event: Event, destination: Destination, spec: DestinationSpec | None, ledger: Ledger
) -> None:
    """Say what the delivery proves: what the destination remarked on this event, else what its kind of answers can."""
    remarks = [
        remark.text
        for remark in await ledger.remarks(destination.id, event.message_id)
        if remark.source_id == event.source_id
    ]
    if remarks:
        found.acceptance, found.answer = "accepted with warning", "; ".join(remarks)
    elif spec is not None and spec.kind != "files":
        proven = spec.kind == "stream" or spec.proof in ("body", "each event")
        found.acceptance = "accepted" if proven else "unverifiable"


def _told(computed: Explanation | None) -> Sequence[Any]:
    if computed is None or computed.transformations is msgspec.UNSET:
        return ()
    return computed.transformations


def _place(found: Whereabouts, event: Event, at: Position | None, status: bytes | None) -> None:
    """Compare the event's offset with the destination's position."""
    if at is None:
        found.reason = "no worker has taken up this destination yet"
    elif event.offset < at.start_offset:
        found.state = "before start"
        found.reason = f"the destination began at offset {at.start_offset}; replay sends older events"
    elif event.offset < at.next_offset:
        found.state = "delivered"
    elif not found.enabled:
        found.reason = "the destination is disabled and keeps its place"
    else:
        behind = event.offset - at.next_offset
        found.reason = f"behind {behind:,} events of its partition" if behind else "next in its partition"
        condition, found.answer = _condition(status)
        if condition:
            found.reason += f"; {condition}"


def _condition(status: bytes | None) -> tuple[str, str]:
    """Return what is wrong with a destination now and its last answer; empty while it takes events."""
    if status is None:
        return "", ""
    known = msgspec.json.decode(status)
    error = known.get("error") or known.get("last_error") or ""
    answer = known.get("last_answer", "")
    if known.get("breaker", "closed") != "closed":
        return f"the destination is not taking events ({error})", answer
    if known.get("last_error_ms", 0) < known.get("last_delivered_ms", 0):
        return "", ""
    return error, answer
