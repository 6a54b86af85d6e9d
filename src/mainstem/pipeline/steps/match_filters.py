"""Match filters: the rules that a connection sets, in their order; the first that fails ends the event's way.

An outcome names the rule: `filter:<name>`. An expression that asks for a field the event lacks is not true of
the event, so it is filtered. An expression that has no answer at all (a text compared with a number …) is an
error in the rule or in the data: the event becomes a dead letter, so that it can be sent once that is put
right, instead of vanishing among those filtered on purpose.
"""

from collections.abc import Callable

from mainstem.events.canonical import Event
from mainstem.events.names import NAMED_TYPES, name_matcher
from mainstem.events.sampling import in_sample, threshold_of
from mainstem.pipeline.outcome import Dead, Filtered
from mainstem.pipeline.steps import Step
from mainstem.pipeline.where import Failed, Missing, Where
from mainstem.workspace.model import Filter


def compile_filter(rule: Filter) -> tuple[Step, ...]:
    """Return the steps of one filter: one per field that is given, cheapest first.

    Raises:
        ExpressionInvalid: `where` does not compile.
    """
    steps: list[Step] = []
    label = f"filter:{rule.name}"
    if rule.types:
        steps.append(_types(label, frozenset(rule.types)))
    if rule.allow:
        steps.append(_allow(label, name_matcher(rule.allow)))
    if rule.deny:
        steps.append(_deny(label, name_matcher(rule.deny)))
    if rule.sample_percent < 100.0:
        steps.append(_sample(label, rule.sample_percent))
    if rule.where:
        steps.append(_where(label, Where(rule.where)))
    return tuple(steps)


def _types(label: str, types: frozenset[str]) -> Step:
    def match_types(event: Event) -> Filtered | None:
        return None if event.type in types else Filtered(label, f"type {event.type}")

    return match_types


def _allow(label: str, matches: Callable[[str], bool]) -> Step:
    def match_allowed(event: Event) -> Filtered | None:
        if event.type not in NAMED_TYPES or matches(event.name):
            return None
        return Filtered(label, f"name {event.name!r} is not allowed")

    return match_allowed


def _deny(label: str, matches: Callable[[str], bool]) -> Step:
    def match_denied(event: Event) -> Filtered | None:
        if event.type in NAMED_TYPES and matches(event.name):
            return Filtered(label, f"name {event.name!r} is denied")
        return None

    return match_denied


def _sample(label: str, percent: float) -> Step:
    threshold = threshold_of(percent)
    outside = Filtered(label, f"outside the sample of {percent:g} %")

    def match_sample(event: Event) -> Filtered | None:
        passes = in_sample(event.user_id, event.anonymous_id, event.message_id, threshold)
        return None if passes else outside

    return match_sample


def _where(label: str, where: Where) -> Step:
    untrue = Filtered(label, f"not true: {where.source}")

    def match_where(event: Event) -> Filtered | Dead | None:
        verdict = where(event.message)
        if verdict is True:
            return None
        if verdict is False:
            return untrue
        if isinstance(verdict, Missing):
            return Filtered(label, f"the event has no {verdict.field!r}, asked for by: {where.source}")
        assert isinstance(verdict, Failed)  # noqa: S101 - the only one left
        return Dead(f"{label}: expression error: {verdict.reason}")

    return match_where
