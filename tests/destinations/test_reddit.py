"""Reddit's batches and answers (https://ads-api.reddit.com/docs/v2/)."""

import json
from typing import Any

import pytest

from mainstem.destinations.base import Call, Delivered, Rejected, Request, Response, Retry, Unit
from mainstem.destinations.reddit import classify, classify_each, make_batcher, make_mapper
from tests.destinations.events import CONTEXT, config_of, event_of

REQUEST = Request("POST", "https://ads-api.reddit.com/api/v2.0/conversions/events/a2")
OAUTH = {"clientId": "c", "clientSecret": "client-secret", "refreshToken": "refresh-token"}


def config(version: str) -> Any:
    mapping = [{"from": "two", "to": "Lead"}, {"from": "two", "to": "SignUp"}]
    return config_of(
        "REDDIT", {"accountId": "a2", "version": version, "eventsMapping": mapping, "oauth": OAUTH}
    )


def unit(index: int, version: str, event: str = "search", **properties: Any) -> Unit:
    message = {"type": "track", "event": event, "userId": f"u{index}", "properties": properties}
    mapped = make_mapper(config(version))(event_of(message), CONTEXT)
    assert isinstance(mapped, tuple)
    return Unit(index, tuple(call for call in mapped if isinstance(call, Call)), event_of(message))


def answered(status: int, body: Any) -> Response:
    return Response(status, {}, json.dumps(body).encode())


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_events_go_together(version: str) -> None:
    units = [unit(0, version, "two"), *(unit(index, version) for index in range(1, 501))]
    batches = make_batcher(config(version))(units)
    assert isinstance(batches, list)
    assert [len(batch.units) for batch in batches] == [500, 1]
    body = batches[0].calls[0].body
    assert body is not None
    assert len((body.value if version == "v2" else body.value["data"])["events"]) == 501


def test_events_of_a_test_go_by_themselves() -> None:
    units = [unit(0, "v3", test_id="t"), unit(1, "v3"), unit(2, "v3", test_id="t"), unit(3, "v3")]
    batches = make_batcher(config("v3"))(units)
    assert isinstance(batches, list)
    assert [batch.units for batch in batches] == [(0,), (1, 3), (2,)]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, {"message": "Successfully processed 1 conversion events."}, Delivered),
        (200, {}, type(None)),
        (403, {"error": {"reason": "UNAUTHORIZED", "explanation": "JSON error unexpected type"}}, Rejected),
        (403, {"error": {"reason": "UNAUTHORIZED", "explanation": "not yours"}}, type(None)),
        (401, "Authorization Required", type(None)),
    ],
)
def test_answers(status: int, body: Any, kind: type) -> None:
    assert isinstance(classify(REQUEST, answered(status, body)), kind)


def test_the_others_of_a_batch_are_sent_again() -> None:
    units = [unit(index, "v2", "two") for index in range(3)]
    body = units[1].calls[0].body
    assert body is not None
    echo = {**body.value["events"][0], "event_metadata": {"item_count": 0}}
    invalid = {"message": "None were processed.", "invalid_events": [{"error_message": "old", "event": echo}]}
    results = classify_each(units[0].calls[0], REQUEST, answered(400, invalid), units)
    assert results is not None
    assert [type(result) for result in results] == [Retry, Rejected, Retry]
    unknown = {"invalid_events": [{"error_message": "old", "event": {}}]}
    assert classify_each(units[0].calls[0], REQUEST, answered(400, unknown), units) is None
    assert classify_each(units[0].calls[0], REQUEST, answered(200, invalid), units) is None
