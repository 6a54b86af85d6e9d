"""Pinterest's batches and answers (https://developers.pinterest.com/docs/api/v5/events-create/)."""

import json
from typing import Any

import pytest

from mainstem.destinations.base import Call, Delivered, Rejected, Request, Response, Unit
from mainstem.destinations.pinterest_tag import classify, classify_each, make_batcher, validation
from tests.destinations.events import config_of, event_of, mapped

REQUEST = Request("POST", "https://api.pinterest.com/v5/ad_accounts/1/events")
CONFIG = {
    "apiVersion": "newApi",
    "adAccountId": "1",
    "conversionToken": "pina-token",
    "eventsMapping": [{"from": "two", "to": "Lead"}, {"from": "two", "to": "Signup"}],
}


def unit(index: int, event: str = "search") -> Unit:
    message = {
        "type": "track",
        "event": event,
        "channel": "web",
        "messageId": f"m{index}",
        "context": {"traits": {"email": "ann@example.com"}},
    }
    made = mapped("PINTEREST_TAG", CONFIG, message)
    assert isinstance(made, tuple)
    return Unit(index, tuple(call for call in made if isinstance(call, Call)), event_of(message))


def answered(status: int, body: Any) -> Response:
    return Response(status, {}, json.dumps(body).encode())


def test_events_go_together() -> None:
    units = [unit(0, "two"), *(unit(index) for index in range(1, 1_000))]
    batches = make_batcher(config_of("PINTEREST_TAG", CONFIG))(units)
    assert isinstance(batches, list)
    assert [len(batch.units) for batch in batches] == [999, 1]
    body = batches[0].calls[0].body
    assert body is not None
    assert len(body.value["data"]) == 1_000
    assert [event["event_name"] for event in body.value["data"][:3]] == ["lead", "signup", "search"]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, {"num_events_received": 1, "num_events_processed": 1}, Delivered),
        (200, {"num_events_received": 2, "num_events_processed": 1}, type(None)),
        (200, {}, type(None)),
        (401, {"code": 2, "message": "Authentication failed."}, type(None)),
    ],
)
def test_answers(status: int, body: Any, kind: type) -> None:
    assert isinstance(classify(REQUEST, answered(status, body)), kind)


def test_each_event_is_answered() -> None:
    units = [unit(0, "two"), unit(1), unit(2)]
    taken = {"status": "processed", "error_message": None, "warning_message": None}
    failed = {"status": "failed", "error_message": "'event_time' is too old"}
    warned = {"status": "processed", "warning_message": "'event_source_url' is missing"}
    body = {"events": [taken, failed, warned, taken]}
    results = classify_each(units[0].calls[0], REQUEST, answered(422, body), units)
    assert results is not None
    assert [(type(result), getattr(result, "acceptance", "")) for result in results] == [
        (Rejected, ""),
        (Delivered, "accepted with warning"),
        (Delivered, "accepted"),
    ]
    assert classify_each(units[0].calls[0], REQUEST, answered(200, {"events": [taken]}), units) is None
    assert classify_each(units[0].calls[0], REQUEST, answered(500, body), units) is None


def test_pinterest_can_check_without_taking() -> None:
    checking = validation(config_of("PINTEREST_TAG", CONFIG), unit(0).calls[0])
    assert checking is not None
    assert checking.params == {"test": True}
