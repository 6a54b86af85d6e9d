"""The plan of one destination: every rule and the mapping, compiled from one workspace snapshot.

stream -> decode -> **plan** -> delivery. Rules and mapping are pure functions of the event: no clock (a
mapping's `now` is the event's receivedAt), no I/O, the event unchanged, the same bytes every time. That is what
makes dry-run, explain and replay the same thing as delivery. Between the two lie the transformations
(`transform.py`), which `judge.py` runs.

The order of the rules, first match wins, so each event has exactly one outcome and one reason:

1.  rejected by the gateway, or a damaged record          -> Refused(reason)
2.  `source not configured`, `not connected`, `connection disabled`
3.  `suppressed`
4.  `bot` (a source with `bots: drop`)
5.  `message type not supported`; behind transformations (8) where the connection or destination has some
6.  `integrations`
7.  `consent`, `consent:malformed`
8.  `filter:<name>` in the connection's order; an expression without an answer -> Dead
9.  the transformations, the connection's before the destination's: `dropped by transformation <name>`, or Dead
10. the mapping: payloads -> Send; Skip -> Filtered(its rule); Refusal or an exception -> Dead

Rules 1 to 8 see the event as it was received. Of an event that was expanded, each part is checked for its type
and mapped for itself: a part that is filtered there is left out, and one that is dead takes the others with it.
The payloads of all parts are one Send.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from mainstem.destinations.base import DestinationSpec, MapContext, Mapped, Payload, Refusal, Skip
from mainstem.events.canonical import Event
from mainstem.events.stored import REJECTED
from mainstem.pipeline.errors import ExpressionInvalid, PlanInvalid
from mainstem.pipeline.mapping import CompiledMapping
from mainstem.pipeline.outcome import Dead, Filtered, Outcome, Refused, Send
from mainstem.pipeline.steps import Step
from mainstem.pipeline.steps.check_message_type import compile_message_types
from mainstem.pipeline.steps.detect_bot import drop_bots
from mainstem.pipeline.steps.honour_integrations import compile_integrations
from mainstem.pipeline.steps.match_filters import compile_filter
from mainstem.pipeline.steps.respect_consent import compile_consent
from mainstem.pipeline.steps.route import SOURCE_NOT_CONFIGURED, Route, compile_routes
from mainstem.pipeline.steps.suppress import compile_suppression
from mainstem.pipeline.transform import (
    Chain,
    Chains,
    Made,
    Surface,
    UnknownTransformation,
    surface,
    transformed,
)
from mainstem.workspace.model import Destination, Source, Workspace

NOTHING_TO_SEND: Final = Filtered("nothing to send")
"""The mapping gave no payload and no rule of its own."""


class Way(msgspec.Struct, frozen=True, eq=False):
    """An open way from one source: its steps in order, and what stands behind them."""

    source_name: str
    steps: tuple[Step, ...]
    chain: Chain | None = None
    """Its transformations."""
    surface: Surface | None = None
    """What they are told of the connection; given with a chain."""
    facts: Mapping[str, Any] = {}
    """For `MapContext.metadata`."""


class DestinationPlan:
    """What becomes of each event at one destination. Made by `compile_plan`, immutable, thread-safe."""

    __slots__ = ("_check_type", "_mapper", "_ways", "destination", "spec", "transforms")

    def __init__(
        self,
        destination: Destination,
        spec: DestinationSpec,
        ways: dict[str, Way | Filtered],
        mapper: CompiledMapping | None,
        check_type: Step,
    ) -> None:
        self.destination = destination
        self.spec = spec
        self.transforms = any(isinstance(way, Way) and way.chain is not None for way in ways.values())
        """Whether events of any source are transformed: then `evaluate` is not enough."""
        self._ways = ways
        self._mapper = mapper
        self._check_type = check_type

    @property
    def source_names(self) -> Mapping[str, str]:
        """The names of the sources that have an open way here, by id."""
        return {source_id: way.source_name for source_id, way in self._ways.items() if isinstance(way, Way)}

    def facts_of(self, source_id: str) -> Mapping[str, Any]:
        """Return what is known of a source's way here, under RudderStack's names (`MapContext.metadata`)."""
        way = self._ways.get(source_id)
        return way.facts if isinstance(way, Way) else {}

    def evaluate(self, event: Event) -> Outcome:
        """Return the one outcome of an event that is not transformed here.

        Never raises for anything in the event or in a mapping.
        """
        way = self.route(event)
        return self.map(event, way) if type(way) is Way else way  # type: ignore[return-value]

    def route(self, event: Event) -> Filtered | Refused | Dead | Way:
        """Return the outcome by the rules, or the way on. Never raises for anything in the event."""
        if event.kind == REJECTED:
            return Refused(event.reason)
        way = self._ways.get(event.source_id, SOURCE_NOT_CONFIGURED)
        if isinstance(way, Filtered):
            return way
        for step in way.steps:
            outcome = step(event)
            if outcome is not None:
                return outcome
        return way

    def map(self, event: Event, way: Way) -> Outcome:
        """Return what the mapping makes of an event that passed the rules. Never raises for anything in them."""
        if self._mapper is None:
            return Send(event)
        context = MapContext(event.received_at_ms, self.destination.id, way.source_name, way.facts)
        return self._judge(event, self._mapper(event, context))

    def map_made(self, event: Event, way: Way, made: Made) -> Outcome:
        """Return the outcome of an event that was transformed."""
        if made.end is not None:
            return made.end
        payloads: list[Payload] = []
        kept: list[Event] = []
        left_out: Filtered | None = None
        for message in made.messages:
            part = transformed(event, message)
            outcome = self._check_type(part) or self.map(part, way)
            match outcome:
                case Send():
                    payloads += outcome.payloads
                    kept.append(part)
                case Filtered():
                    left_out = left_out or outcome
                case _:
                    return outcome
        if not kept and left_out is not None:
            return left_out
        return Send(event, tuple(payloads), tuple(kept))

    def _judge(self, event: Event, mapped: Mapped) -> Outcome:
        if isinstance(mapped, tuple):
            return Send(event, mapped) if mapped else NOTHING_TO_SEND
        if isinstance(mapped, Skip):
            return Filtered(mapped.rule)
        if isinstance(mapped, Refusal):
            return Dead(mapped.reason)
        return Dead(f"the mapping of {self.spec.name} gave {type(mapped).__name__}, which is no payload")


def compile_plan(
    workspace: Workspace, destination: Destination, spec: DestinationSpec, chains: Chains | None = None
) -> DestinationPlan:
    """Compile the plan of one destination of a workspace.

    Args:
        chains: the snapshot's, so that all its plans share them; None = this plan shares with nobody.

    Whether the destination is enabled does not matter here: a disabled one keeps its place, and this is what
    would be sent.

    Raises:
        PlanInvalid: a filter's expression does not compile, the mapping does not accept its settings, or a
            transformation is not there.
    """
    chains = chains or Chains(workspace)
    ways: dict[str, Way | Filtered] = {}
    shared = _shared_steps(workspace, destination, spec)
    for source_id, route in compile_routes(workspace, destination.id).items():
        if isinstance(route, Filtered):
            ways[source_id] = route
            continue
        try:
            chain = chains.of(route.connection, destination)
        except UnknownTransformation as error:
            raise PlanInvalid(destination.id, f"source {source_id}: {error}") from error
        ways[source_id] = Way(
            route.source.name,
            _steps(destination, route, shared, check_type=chain is None),
            chain,
            surface(workspace, route.source, destination) if chain is not None else None,
            {
                "sourceId": route.source.id,
                "sourceName": route.source.name,
                "sourceType": route.source.type,
                "destinationId": destination.id,
                "destinationName": destination.name,
                "destinationType": spec.name,
            },
        )
    mapper = _made(destination, spec) if spec.mapper is not None else None
    return DestinationPlan(destination, spec, ways, mapper, shared.check_type)


class _Shared(msgspec.Struct, frozen=True):
    suppress: tuple[Step, ...]
    check_type: Step
    rest: tuple[Step, ...]


def _shared_steps(workspace: Workspace, destination: Destination, spec: DestinationSpec) -> _Shared:
    suppress = compile_suppression(workspace.suppressed_user_ids)
    consent = compile_consent(destination)
    names = (
        destination.id,
        destination.name,
        destination.display_name or spec.title,
        destination.type,
        spec.name,
    )
    return _Shared(
        suppress=(suppress,) if suppress is not None else (),
        check_type=compile_message_types(spec.message_types, destination.message_types),
        rest=(
            compile_integrations(names),
            *((consent,) if consent is not None else ()),
        ),
    )


def _steps(destination: Destination, route: Route, shared: _Shared, *, check_type: bool) -> tuple[Step, ...]:
    filters: list[Step] = []
    for rule in route.connection.filters:
        try:
            filters.extend(compile_filter(rule))
        except ExpressionInvalid as error:
            raise PlanInvalid(
                destination.id, f"source {route.source.id}, filter {rule.name!r}, where: {error}"
            ) from error
    # Code may change the type: then it is looked at behind the code.
    types = (shared.check_type,) if check_type else ()
    return (*shared.suppress, *_bots(route.source), *types, *shared.rest, *filters)


def _bots(source: Source) -> tuple[Step, ...]:
    return (drop_bots,) if source.bots == "drop" else ()


def _made(destination: Destination, spec: DestinationSpec) -> CompiledMapping:
    try:
        return CompiledMapping(
            spec,
            destination.config,
            destination.raw_config,
            validate=destination.delivery.validate_requests,
        )
    except Exception as error:
        raise PlanInvalid(destination.id, f"settings: {type(error).__name__}: {error}") from error
