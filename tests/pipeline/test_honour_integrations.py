"""The `integrations` object, as a table: docs/concepts/routing.md shows the same one."""

from typing import Any

import pytest

from mainstem.pipeline.outcome import Filtered, Send
from mainstem.pipeline.steps.honour_integrations import compile_integrations
from mainstem.workspace.model import Destination
from tests.pipeline.world import event, plan, workspace

PASSES: tuple[Any, ...] = (
    None,
    {},
    [],
    {"All": True},
    {"All": None},
    {"all": True},
    {"Segment.io": True},
    {"Segment.io": False},
    {"All": True, "Mixpanel": False},
    {"All": False, "My CRM": True},
    {"All": False, "my crm": True},
    {"all": False, "crm": True},
    {"All": False, "d1": True},
    {"All": False, "WEBHOOK": True},
    {"All": False, "Webhook": True},
    {"All": False, "My CRM": {}},
    {"All": False, "My CRM": {"option": 1}},
    {"My CRM": True},
    {"My CRM": {"enabled": False}},
    {"My CRM": None},
    {"All": "false", "My CRM": True},
    {"crm": True, "WEBHOOK": False},
    {"d1": True, "crm": False, "My CRM": False},
)

FILTERED: tuple[tuple[Any, str], ...] = (
    ({"All": False}, "All is false"),
    ({"all": False}, "all is false"),
    ({"ALL": False}, "ALL is false"),
    ({"All": "true"}, "All is neither true nor false nor an object"),
    ({"All": 1}, "All is neither true nor false nor an object"),
    ({"All": {}}, "All is neither true nor false nor an object"),
    ({"All": False, "Mixpanel": True}, "All is false"),
    ({"All": False, "My CRM": None}, "All is false"),
    ({"My CRM": False}, "My CRM is false"),
    ({"MY crm": False}, "MY crm is false"),
    ({"crm": False}, "crm is false"),
    ({"d1": False}, "d1 is false"),
    ({"webhook": False}, "webhook is false"),
    ({"All": True, "My CRM": False}, "My CRM is false"),
    ({"My CRM": "yes"}, "My CRM is neither true nor false nor an object"),
    ({"My CRM": 0}, "My CRM is neither true nor false nor an object"),
    ({"My CRM": []}, "My CRM is neither true nor false nor an object"),
    ({"crm": False, "WEBHOOK": True}, "crm is false"),
    ({"WEBHOOK": True, "crm": False}, "crm is false"),
    ({"CRM": True, "crm": False}, "crm is false"),
    ({"crm": False, "CRM": True}, "crm is false"),
    ({"d1": False, "My CRM": True}, "d1 is false"),
    ("all", "integrations is not an object"),
    (["My CRM"], "integrations is not an object"),
    (False, "integrations is not an object"),
    (0, "integrations is not an object"),
    ("", "integrations is not an object"),
)


@pytest.mark.parametrize("integrations", PASSES)
def test_passes(integrations: Any) -> None:
    assert isinstance(plan().evaluate(event({"integrations": integrations})), Send)


def test_passes_without_integrations() -> None:
    assert isinstance(plan().evaluate(event()), Send)


@pytest.mark.parametrize(("integrations", "detail"), FILTERED)
def test_is_filtered_and_says_why(integrations: Any, detail: str) -> None:
    assert plan().evaluate(event({"integrations": integrations})) == Filtered("integrations", detail)


def test_the_batch_says_it_for_its_events() -> None:
    outcome = plan().evaluate(event(batch_integrations=b'{"All": false}'))
    assert outcome == Filtered("integrations", "All is false")


def test_the_event_wins_over_its_batch() -> None:
    sent = event({"integrations": {"All": True}}, batch_integrations=b'{"All": false}')
    assert isinstance(plan().evaluate(sent), Send)


def test_without_a_display_name_the_title_of_the_type_addresses_it() -> None:
    snapshot = workspace(destination=Destination(id="d1", name="crm", type="WEBHOOK"))
    outcome = plan(snapshot).evaluate(event({"integrations": {"Webhook": False}}))
    assert outcome == Filtered("integrations", "Webhook is false")


def test_a_destination_called_all_is_not_the_word_all() -> None:
    step = compile_integrations(("d1", "All", "All", "All", "X"))
    assert step(event({"integrations": {"All": False, "x": True}})) is None
    assert step(event({"integrations": {"All": False}})) is not None
