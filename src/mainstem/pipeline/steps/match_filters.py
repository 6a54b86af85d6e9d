"""Match filters: the rules that a connection sets, in their order; the first that fails ends the event's way.

An outcome names the rule: `filter:<name>`. An expression that asks for a field the event lacks is not true of
the event, so it is filtered. An expression that has no answer at all (a text compared with a number …) is an
error in the rule or in the data: the event becomes a dead letter, so that it can be sent once that is put
right, instead of vanishing among those filtered on purpose.
"""

from collections.abc import Callable
from typing import Final

from mainstem.events.canonical import Event
from mainstem.pipeline.outcome import Dead, Filtered
from mainstem.pipeline.steps import Step
from mainstem.pipeline.steps.sample import in_sample, threshold_of
from mainstem.pipeline.where import Failed, Missing, Where
from mainstem.workspace.model import Filter

NAMED_TYPES: Final = frozenset(("track", "page", "screen"))
"""Types that have an event name; allow and deny lists concern no others."""


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


def name_matcher(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """Return a test for event names: equal to one of the patterns, where `*` stands for any text.

    Case and spaces count. It takes time linear in the name for each pattern: no regex is involved.
    """
    exact = frozenset(pattern for pattern in patterns if "*" not in pattern)
    globs = tuple(tuple(pattern.split("*")) for pattern in patterns if "*" in pattern)
    if not globs:
        return exact.__contains__

    def matches(name: str) -> bool:
        return name in exact or any(_glob(parts, name) for parts in globs)

    return matches


def _glob(parts: tuple[str, ...], name: str) -> bool:
    first, *middle, last = parts
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


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
        return None if in_sample(event, threshold) else outside

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
