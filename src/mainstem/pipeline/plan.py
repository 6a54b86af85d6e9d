"""The plan of one destination: every rule and the mapping, compiled from one workspace snapshot.

stream -> decode -> **plan** -> delivery. Evaluating it is a pure function of the event: no clock (a mapping's
`now` is the event's receivedAt), no I/O, the event unchanged, the same bytes every time. That is what makes
dry-run, explain and replay the same thing as delivery.

The order of the rules, first match wins, so each event has exactly one outcome and one reason:

1.  rejected by the gateway, or a damaged record          -> Refused(reason)
2.  `source not configured`, `not connected`, `connection disabled`
3.  `suppressed`
4.  `bot` (a source with `bots: drop`)
5.  `message type not supported`
6.  `integrations`
7.  `consent`, `consent:malformed`
8.  `filter:<name>` in the connection's order; an expression without an answer -> Dead
9.  the mapping: payloads -> Send; Skip -> Filtered(its rule); Refusal or an exception -> Dead
"""

import traceback
from collections.abc import Callable
from pathlib import PurePath
from typing import Final

import msgspec

from mainstem.destinations.base import DestinationSpec, MapContext, Mapped, Mapper, Refusal, Skip
from mainstem.events.canonical import Event
from mainstem.events.stored import REJECTED
from mainstem.pipeline.errors import ExpressionInvalid, PlanInvalid
from mainstem.pipeline.outcome import Dead, Filtered, Outcome, Refused, Send
from mainstem.pipeline.steps import Step
from mainstem.pipeline.steps.check_message_type import compile_message_types
from mainstem.pipeline.steps.detect_bot import drop_bots
from mainstem.pipeline.steps.honour_integrations import compile_integrations
from mainstem.pipeline.steps.match_filters import compile_filter
from mainstem.pipeline.steps.respect_consent import compile_consent
from mainstem.pipeline.steps.route import SOURCE_NOT_CONFIGURED, Route, compile_routes
from mainstem.pipeline.steps.suppress import compile_suppression
from mainstem.workspace.model import Destination, Source, Workspace

NOTHING_TO_SEND: Final = Filtered("nothing to send")
"""The mapping gave no payload and no rule of its own."""


class _Way(msgspec.Struct, frozen=True):
    """An open way from one source: its steps in order."""

    source_name: str
    steps: tuple[Step, ...]


class DestinationPlan:
    """What becomes of each event at one destination. Made by `compile_plan`, immutable, thread-safe."""

    __slots__ = ("_mapper", "_ways", "destination", "spec")

    def __init__(
        self,
        destination: Destination,
        spec: DestinationSpec,
        ways: dict[str, _Way | Filtered],
        mapper: Mapper | None,
    ) -> None:
        self.destination = destination
        self.spec = spec
        self._ways = ways
        self._mapper = mapper

    def evaluate(self, event: Event) -> Outcome:
        """Return the one outcome of the event here. Never raises for anything in the event or in a mapping."""
        if event.kind == REJECTED:
            return Refused(event.reason)
        way = self._ways.get(event.source_id, SOURCE_NOT_CONFIGURED)
        if isinstance(way, Filtered):
            return way
        for step in way.steps:
            outcome = step(event)
            if outcome is not None:
                return outcome
        if self._mapper is None:
            return Send(event)
        context = MapContext(event.received_at_ms, self.destination.id, way.source_name)
        try:
            mapped = self._mapper(event, context)
        except MemoryError:
            raise  # the machine's trouble, not the event's
        except Exception as error:  # noqa: BLE001 - a bug in one mapping must not stop the loop, nor lose the event
            return Dead(_mapping_failed(self.spec.name, error))
        return self._judge(event, mapped)

    def _judge(self, event: Event, mapped: Mapped) -> Outcome:
        if isinstance(mapped, tuple):
            return Send(event, mapped) if mapped else NOTHING_TO_SEND
        if isinstance(mapped, Skip):
            return Filtered(mapped.rule)
        if isinstance(mapped, Refusal):
            return Dead(mapped.reason)
        return Dead(f"the mapping of {self.spec.name} gave {type(mapped).__name__}, which is no payload")


def compile_plan(workspace: Workspace, destination: Destination, spec: DestinationSpec) -> DestinationPlan:
    """Compile the plan of one destination of a workspace.

    Whether the destination is enabled does not matter here: a disabled one keeps its place, and this is what
    would be sent.

    Raises:
        PlanInvalid: a filter's expression does not compile, or the mapping does not accept its settings.
    """
    ways: dict[str, _Way | Filtered] = {}
    shared = _shared_steps(workspace, destination, spec)
    for source_id, route in compile_routes(workspace, destination.id).items():
        ways[source_id] = route if isinstance(route, Filtered) else _way(destination, route, shared)
    mapper: Mapper | None = None
    if spec.mapper is not None:
        mapper = _made(destination, spec.mapper)
    return DestinationPlan(destination, spec, ways, mapper)


class _Shared(msgspec.Struct, frozen=True):
    suppress: tuple[Step, ...]
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
        rest=(
            compile_message_types(spec.message_types, destination.message_types),
            compile_integrations(names),
            *((consent,) if consent is not None else ()),
        ),
    )


def _way(destination: Destination, route: Route, shared: _Shared) -> _Way:
    filters: list[Step] = []
    for rule in route.connection.filters:
        try:
            filters.extend(compile_filter(rule))
        except ExpressionInvalid as error:
            raise PlanInvalid(
                destination.id, f"source {route.source.id}, filter {rule.name!r}, where: {error}"
            ) from error
    bots = _bots(route.source)
    return _Way(route.source.name, (*shared.suppress, *bots, *shared.rest, *filters))


def _bots(source: Source) -> tuple[Step, ...]:
    return (drop_bots,) if source.bots == "drop" else ()


def _made(destination: Destination, make: Callable[[object], Mapper]) -> Mapper:
    try:
        return make(destination.config)
    except Exception as error:
        raise PlanInvalid(destination.id, f"settings: {type(error).__name__}: {error}") from error


def _mapping_failed(name: str, error: Exception) -> str:
    # The class and the place, never the text: it may quote the event or a secret.
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    place = f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"the mapping of {name} failed: {type(error).__name__}{place}"
