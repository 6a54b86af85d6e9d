"""TikTok's batches and answers (https://business-api.tiktok.com/portal/docs?id=1737172488964097)."""

import json
from typing import Any

import pytest

from mainstem.destinations.base import Call, Delivered, Rejected, Request, Response, Retry, Unit
from mainstem.destinations.tiktok_ads import classify, classify_each, make_batcher
from tests.destinations.events import config_of, event_of, mapped

REQUEST = Request(
    "POST", "https://business-api.tiktok.com/open_api/v1.3/event/track/", secrets=("tiktok-token",)
)
CONFIG = {
    "accessToken": "tiktok-token",
    "pixelCode": "P1",
    "eventsToStandard": [{"from": "two", "to": "Lead"}, {"from": "two", "to": "Contact"}],
}


def unit(index: int, version: str, event: str, **properties: Any) -> Unit:
    message = {"type": "track", "event": event, "properties": {"eventId": f"e{index}", **properties}}
    made = mapped("TIKTOK_ADS", {**CONFIG, "version": version}, message)
    assert isinstance(made, tuple)
    calls = tuple(call for call in made if isinstance(call, Call))
    assert len(calls) == len(made)
    return Unit(index, calls, event_of(message))


def answered(status: int, body: Any) -> Response:
    return Response(status, {}, json.dumps(body).encode())


@pytest.mark.parametrize(("version", "most", "field"), [("v1", 50, "batch"), ("v2", 1_000, "data")])
def test_events_go_together_and_test_events_by_themselves(version: str, most: int, field: str) -> None:
    units = [unit(0, version, "search", testEventCode="T"), unit(1, version, "two")]
    units += [unit(index, version, "search") for index in range(2, most + 1)]
    batches = make_batcher(config_of("TIKTOK_ADS", {**CONFIG, "version": version}))(units)
    assert isinstance(batches, list)
    assert [(len(batch.units), batch.batched, batch.many) for batch in batches] == [
        (1, False, True),
        (most - 1, True, False),
        (1, True, False),
    ]
    body = batches[1].calls[0].body
    assert body is not None
    assert len(body.value[field]) == most


@pytest.mark.parametrize(
    ("status", "body", "kind", "facts"),
    [
        (200, {"code": 0, "message": "OK"}, Delivered, {"acceptance": "accepted"}),
        (
            200,
            {"code": 20001, "message": "Partial success"},
            Delivered,
            {"acceptance": "accepted with warning"},
        ),
        (200, {"code": 40100, "message": "too frequent"}, Retry, {"throttled": True}),
        (200, {"code": 40001, "message": "No permission"}, Retry, {"destination_wide": True}),
        (200, {"code": 40105, "message": "token tiktok-token"}, Retry, {"destination_wide": True}),
        (200, {"code": 40002, "message": "param"}, Rejected, {}),
        (200, {"code": 50000, "message": "system"}, Retry, {"destination_wide": True, "throttled": False}),
        (200, {"code": "0"}, type(None), {}),
        (503, {"code": 0}, type(None), {}),
    ],
)
def test_answers(status: int, body: Any, kind: type, facts: dict[str, Any]) -> None:
    delivery = classify(REQUEST, answered(status, body))
    assert isinstance(delivery, kind)
    assert {name: getattr(delivery, name) for name in facts} == facts
    assert "tiktok-token" not in repr(delivery)


def test_the_events_that_were_not_taken_are_named_by_their_place() -> None:
    units = [unit(0, "v2", "two"), unit(1, "v2", "search"), unit(2, "v2", "search")]
    failed = [{"order_in_list": 1, "error_message": "no"}, {"order_in_list": 3, "error_message": "bad"}, {}]
    body = {"code": 20001, "data": {"failed_events": failed}}
    results = classify_each(units[0].calls[0], REQUEST, answered(200, body), units)
    assert results is not None
    assert [type(result) for result in results] == [Rejected, Delivered, Rejected]
    assert classify_each(units[0].calls[0], REQUEST, answered(200, {"code": 0}), units) is None
