"""LinkedIn's batches and answers."""

import json
from typing import Any

import pytest

from mainstem.destinations.base import Call, Delivered, Rejected, Request, Response, Retry, Unit
from mainstem.destinations.linkedin_ads import classify, classify_each, make_batcher, make_mapper
from tests.destinations.events import CONTEXT, config_of, event_of

REQUEST = Request("POST", "https://api.linkedin.com/rest/conversionEvents")
OAUTH = {"clientId": "c", "clientSecret": "client-secret", "refreshToken": "refresh-token"}
CONFIG = config_of(
    "LINKEDIN_ADS",
    {
        "conversionMapping": [{"from": "one", "to": 1}, {"from": "two", "to": 2}, {"from": "two", "to": 3}],
        "oauth": OAUTH,
    },
)


def unit(index: int, event: str) -> Unit:
    message = {"type": "track", "event": event, "context": {"traits": {"email": f"u{index}@example.com"}}}
    mapped = make_mapper(CONFIG)(event_of(message), CONTEXT)
    assert isinstance(mapped, tuple)
    return Unit(index, tuple(call for call in mapped if isinstance(call, Call)), event_of(message))


def answered(status: int, body: Any) -> Response:
    return Response(status, {}, json.dumps(body).encode())


def test_conversions_go_together() -> None:
    batches = make_batcher(CONFIG)([unit(0, "two"), *(unit(index, "one") for index in range(1, 2_501))])
    assert isinstance(batches, list)
    assert [len(batch.units) for batch in batches] == [2_500, 1]
    body = batches[0].calls[0].body
    assert body is not None
    assert [element["conversion"][-2:] for element in body.value["elements"][:3]] == [":2", ":3", ":1"]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, {"elements": [{"status": 201}, {"status": 201}]}, Delivered),
        (200, {"elements": [{"status": 400}]}, type(None)),
        (200, {}, type(None)),
        (429, {"elements": [{"status": 201}]}, type(None)),
    ],
)
def test_answers(status: int, body: Any, kind: type) -> None:
    assert isinstance(classify(REQUEST, answered(status, body)), kind)


@pytest.mark.parametrize(
    ("status", "body", "kinds"),
    [
        (
            200,
            {"elements": [{"status": 201}, {"status": 400, "error": {"message": "no"}}, {"status": 201}]},
            [Rejected, Delivered],
        ),
        (200, {"elements": [{"status": 201}, {"status": 201}, {"status": 503}]}, [Delivered, Retry]),
        (422, {"message": "Index: 2, ERROR :: /user :: bad\nERROR :: /x :: bad\n"}, [Retry, Rejected]),
        (422, {"message": "Index: 0, ERROR :: a\nIndex: 2, ERROR :: b\n"}, [Rejected, Rejected]),
        (422, {"message": "Index: 7, ERROR :: a\n"}, None),
        (422, {"message": "no index"}, None),
        (200, {"elements": [{"status": 201}]}, None),
        (500, {"message": "Index: 0, ERROR"}, None),
    ],
)
def test_each_conversion_is_answered(status: int, body: Any, kinds: list[type] | None) -> None:
    units = [unit(0, "two"), unit(1, "one")]
    results = classify_each(units[0].calls[0], REQUEST, answered(status, body), units)
    assert (None if results is None else [type(result) for result in results]) == kinds
