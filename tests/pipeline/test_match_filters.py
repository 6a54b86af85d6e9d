"""The filters of a connection."""

from typing import Any

import pytest

from mainstem.pipeline.outcome import Dead, Filtered, Send
from mainstem.workspace.model import Filter
from tests.pipeline.world import event, plan, workspace

TRACK = {"type": "track", "event": "Order Completed"}
PAGE = {"type": "page", "name": "Home"}
IDENTIFY = {"type": "identify", "traits": {"plan": "pro"}}


def rule(**fields: Any) -> Filter:
    return Filter(name="f", **fields)


PASSES: tuple[tuple[Filter, dict[str, Any]], ...] = (
    (rule(), TRACK),
    (rule(types=("track", "page")), TRACK),
    (rule(allow=("Order Completed",)), TRACK),
    (rule(allow=("Order *",)), TRACK),
    (rule(allow=("*",)), TRACK),
    (rule(allow=("*",)), {"type": "track", "event": None}),
    (rule(allow=("Home",)), PAGE),
    (rule(allow=("Order *",)), IDENTIFY),
    (rule(deny=("*",)), IDENTIFY),
    (rule(deny=("Refund*",)), TRACK),
    (rule(deny=("order completed",)), TRACK),
    (rule(allow=("Order *",), deny=("Order Cancelled",)), TRACK),
    (rule(sample_percent=100.0), TRACK),
    (rule(where="event.type == 'track'"), TRACK),
)

FILTERED: tuple[tuple[Filter, dict[str, Any], str], ...] = (
    (rule(types=("page",)), TRACK, "type track"),
    (rule(allow=("Refund",)), TRACK, "name 'Order Completed' is not allowed"),
    (rule(allow=("order *",)), TRACK, "name 'Order Completed' is not allowed"),
    (rule(allow=("Order",)), TRACK, "name 'Order Completed' is not allowed"),
    (rule(allow=("Order Completed",)), {"type": "track", "event": None}, "name '' is not allowed"),
    (rule(allow=("Ho",)), PAGE, "name 'Home' is not allowed"),
    (rule(deny=("Order Completed",)), TRACK, "name 'Order Completed' is denied"),
    (rule(deny=("*Comp*",)), TRACK, "name 'Order Completed' is denied"),
    (rule(allow=("Order *",), deny=("*ed",)), TRACK, "name 'Order Completed' is denied"),
    (rule(sample_percent=0.0), TRACK, "outside the sample of 0 %"),
    (rule(where="event.type == 'page'"), TRACK, "not true: event.type == 'page'"),
    (
        rule(where="event.properties.total > 5"),
        TRACK,
        "the event has no 'properties', asked for by: event.properties.total > 5",
    ),
)


@pytest.mark.parametrize(("given_rule", "message"), PASSES)
def test_passes(given_rule: Filter, message: dict[str, Any]) -> None:
    assert isinstance(plan(workspace(given_rule)).evaluate(event(message)), Send)


@pytest.mark.parametrize(("given_rule", "message", "detail"), FILTERED)
def test_is_filtered_by_name_with_the_reason(
    given_rule: Filter, message: dict[str, Any], detail: str
) -> None:
    assert plan(workspace(given_rule)).evaluate(event(message)) == Filtered("filter:f", detail)


def test_an_expression_without_an_answer_makes_a_dead_letter_that_names_the_filter() -> None:
    outcome = plan(workspace(rule(where="event.event > 5"))).evaluate(event(TRACK))
    assert isinstance(outcome, Dead)
    assert outcome.reason.startswith("filter:f: expression error: TypeError: ")


def test_the_first_filter_that_fails_is_the_reason() -> None:
    filters = (
        Filter(name="one"),
        Filter(name="two", types=("page",)),
        Filter(name="three", where="event.event > 5"),
    )
    outcome = plan(workspace(*filters)).evaluate(event(TRACK))
    assert outcome == Filtered("filter:two", "type track")
