"""Optimizely with its datafile at hand."""

from typing import Any

import pytest

from mainstem.destinations.base import Answer, Call, Refusal, Retry
from tests.destinations.lookups import Desk, talked

CONFIG = {
    "dataFileUrl": "https://cdn.optimizely.com/datafiles/Qx7.json",
    "accountId": "1",
    "trackNamedPages": True,
}
FILE = {
    "events": [
        {"id": "10", "key": "purchase"},
        {"id": "11", "key": "Viewed Tea"},
        {"id": "12", "key": "Shop"},
    ],
    "attributes": [{"id": "20", "key": "tier"}],
}
BASE = {"anonymousId": "a", "messageId": "m", "timestamp": "2026-03-01T10:00:00Z"}


def _made(message: dict[str, Any], config: dict[str, Any] | None = None, answer: Any = FILE) -> Any:
    ask = Desk({"GET /datafiles/Qx7.json": answer})
    return talked("OPTIMIZELY_FULLSTACK", {**CONFIG, **(config or {})}, {**BASE, **message}, ask)


def _visitor(message: dict[str, Any], config: dict[str, Any] | None = None) -> dict[str, Any]:
    [call] = _made(message, config)
    assert isinstance(call, Call)
    assert call.body is not None
    [visitor] = call.body.value["visitors"]
    assert isinstance(visitor, dict)
    return visitor


def test_a_conversion() -> None:
    message = {
        "type": "track",
        "event": "Order Completed",
        "context": {"traits": {"plan": "pro", "other": 1}, "sessionId": 7},
        "properties": {"revenue": "19.99", "quantity": 2, "value": 0.5, "coupon": "SPRING"},
    }
    config = {
        "eventMapping": [{"from": "order completed", "to": "Purchase"}],
        "attributeMapping": [{"from": "plan", "to": "tier"}],
    }
    assert _visitor(message, config) == {
        "visitor_id": "a",
        "session_id": "7",
        "attributes": [{"entity_id": "20", "key": "tier", "type": "custom", "value": "pro"}],
        "snapshots": [
            {
                "decisions": [],
                "events": [
                    {
                        "entity_id": "10",
                        "key": "purchase",
                        "timestamp": 1772359200000,
                        "uuid": "m",
                        "revenue": 1999,
                        "quantity": 2,
                        "value": 0.5,
                        "tags": {"coupon": "SPRING"},
                    }
                ],
            }
        ],
    }


def test_a_decision_takes_its_ids_from_the_options() -> None:
    options = {"campaignId": "c", "experimentId": "e", "variationId": "v"}
    message = {"type": "identify", "integrations": {"optimizely_fullstack": options}}
    [snapshot] = _visitor(message, {"campaignId": "other"})["snapshots"]
    assert snapshot["decisions"] == [{"campaign_id": "c", "experiment_id": "e", "variation_id": "v"}]
    assert snapshot["events"][0]["entity_id"] == "c"
    assert isinstance(_made({"type": "identify"}), Refusal)


def test_a_page_is_the_events_of_its_category_and_its_name() -> None:
    message = {"type": "page", "name": "Tea", "properties": {"category": "shop"}}
    config = {"trackCategorizedPages": True, "pageMapping": [{"from": "tea", "to": "viewed tea"}]}
    [snapshot] = _visitor(message, config)["snapshots"]
    assert [event["key"] for event in snapshot["events"]] == ["Shop", "Viewed Tea"]
    assert len({event["uuid"] for event in snapshot["events"]}) == 2
    assert isinstance(_made({"type": "page", "name": "Nowhere"}), Refusal)
    assert isinstance(_made({"type": "page"}), Refusal)


@pytest.mark.parametrize(("status", "kind"), [(500, Retry), (429, Retry), (0, Retry), (404, Refusal)])
def test_without_the_datafile_nothing_is_sent(status: int, kind: type) -> None:
    assert isinstance(_made({"type": "track", "event": "purchase"}, answer=Answer(status)), kind)
