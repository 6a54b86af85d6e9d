"""Algolia: events in one request, and what of a click and its products counts."""

from typing import Any

import pytest

from mainstem.destinations.algolia import make_batcher
from mainstem.destinations.base import Refusal, Unit
from tests.destinations.events import body, config_of, event_of, mapped, request

RAW = {"apiKey": "key-1234", "applicationId": "A"}
QUERY = "43b15df305339e827f0ac0bdc5ebcaa7"


def _event(**properties: Any) -> dict[str, Any]:
    return {"type": "track", "event": "E", "userId": "u", "properties": {"index": "i", **properties}}


def test_events_go_together() -> None:
    units = []
    for index in range(2):
        message = _event(eventType="view", objectIds=[str(index)])
        calls = mapped("algolia", RAW, message)
        assert isinstance(calls, tuple)
        units.append(Unit(index, calls, event_of(message)))  # type: ignore[arg-type]
    made = make_batcher(config_of("algolia", RAW))(units)
    assert isinstance(made, list)
    [batch] = made
    assert [item["objectIDs"] for item in batch.calls[0].body.value["events"]] == [["0"], ["1"]]


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"eventType": "click", "objectIds": ["a"]}, {"objectIDs": ["a"]}),
        ({"eventType": "click", "objectIds": ["a"], "positions": ["3"], "queryId": QUERY}, {"positions": [3]}),
        ({"eventType": "view", "objectIds": list(range(25))}, {"objectIDs": [str(n) for n in range(20)]}),
        ({"eventType": "view", "filters": [f"f:{n}" for n in range(12)]}, {"filters": [f"f:{n}" for n in range(10)]}),
        ({"eventType": "view", "objectIds": ["a"], "positions": [1]}, {"objectIDs": ["a"]}),
        ({"eventType": "conversion", "products": [{"objectId": "a"}, {"sku": "no id"}]}, {"objectIDs": ["a"]}),
    ],
)  # fmt: skip
def test_what_is_sent(properties: dict[str, Any], expected: dict[str, Any]) -> None:
    [sent] = body(request("algolia", RAW, _event(**properties)))["events"]
    assert expected.items() <= sent.items()
    assert ("positions" in sent) == ("positions" in expected)


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"eventType": "click", "objectIds": ["a"], "positions": [1.5], "queryId": QUERY}, "whole numbers"),
        ({"eventType": "click", "objectIds": ["a", "b"], "positions": [1], "queryId": QUERY}, "length"),
        ({"eventType": "buy", "objectIds": ["a"]}, "click, view and conversion"),
        ({"eventType": "conversion", "products": [{"objectId": "a", "price": 1}]}, "currency"),
    ],
)
def test_what_algolia_would_not_take_is_refused(properties: dict[str, Any], words: str) -> None:
    result = mapped("algolia", RAW, _event(**properties))
    assert isinstance(result, Refusal)
    assert words in result.reason
