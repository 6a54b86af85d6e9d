"""Customer.io: entries of a batch, and what it says of them."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from mainstem.destinations.base import Call, Delivered, MapContext, Rejected, Request, Response, Unit
from mainstem.destinations.customerio import classify, classify_each, make_batcher, make_mapper
from tests.destinations.events import CONTEXT, config_of, event_of

URL = "https://track.customer.io/api/v2/batch"
DEVICE = {"device": {"type": "android", "token": "t0ken"}}


def _units(*messages: dict[str, Any], context: MapContext = CONTEXT) -> Sequence[Any]:
    config = config_of("CUSTOMERIO", {"siteID": "s", "apiKey": "key-1"})
    units = []
    for index, message in enumerate(messages):
        event = event_of(message)
        calls = make_mapper(config)(event, context)
        assert isinstance(calls, tuple), calls
        units.append(Unit(index, tuple(call for call in calls if isinstance(call, Call)), event))
    batches = make_batcher(config)(units)
    assert isinstance(batches, Sequence)
    return batches


def test_everything_goes_into_one_batch_in_order() -> None:
    [batch] = _units(
        {"type": "identify", "userId": "u1", "traits": {"plan": "pro"}},
        {"type": "track", "event": "Application Opened", "userId": "u1", "context": DEVICE},
        {"type": "track", "event": "Application Uninstalled", "userId": "u1", "context": DEVICE},
        {"type": "screen", "name": "Home", "anonymousId": "a1"},
        {"type": "group", "groupId": "g1", "traits": {"name": "G"}},
        {"type": "alias", "userId": "u1", "previousId": "u0"},
    )
    assert batch.units == (0, 1, 2, 3, 4, 5)
    assert [(entry["type"], entry["action"]) for entry in batch.calls[0].body.value["batch"]] == [
        ("person", "identify"),
        ("person", "add_device"),
        ("person", "delete_device"),
        ("person", "screen"),
        ("object", "identify"),
        ("person", "merge"),
    ]
    assert batch.calls[0].body.value["batch"][3]["identifiers"] == {"anonymous_id": "a1"}


def test_a_batch_has_500_kb_at_most() -> None:
    big = {"type": "track", "event": "E", "userId": "u1", "properties": {"text": "x" * 30_000}}
    batches = _units(*[big] * 20)
    assert [len(batch.units) for batch in batches] == [16, 4]


def test_rows_of_a_warehouse_are_events_where_the_connection_says_so() -> None:
    context = msgspec.structs.replace(
        CONTEXT, connection={"config": {"destination": {"object": "event", "syncMode": "upsert"}}}
    )
    row = {"id": "u1", "name": "Won", "created_at": "2026-11-02T10:00:00Z", "value": 3}
    [batch] = _units({"type": "record", "action": "insert", "identifiers": row}, context=context)
    assert batch.calls[0].body.value["batch"] == [
        {
            "type": "person",
            "identifiers": {"id": "u1"},
            "action": "event",
            "name": "Won",
            "timestamp": 1793613600,
            "attributes": {"value": 3},
        }
    ]


ONE_WRONG = {"errors": [{"batch_index": 1, "reason": "required", "field": "name", "message": "is empty"}]}


@pytest.mark.parametrize(
    ("status", "body", "kinds"),
    [
        (200, {}, [Delivered, Delivered]),
        (207, ONE_WRONG, [Delivered, Rejected]),
        (207, {"errors": [{"reason": "invalid", "message": "all of it"}]}, [Rejected, Rejected]),
        (400, ONE_WRONG, None),
        (503, "no JSON", None),
    ],
)
def test_each_entry_has_its_own_result(status: int, body: Any, kinds: list[type] | None) -> None:
    units = [Unit(index, (), event_of({"type": "track"})) for index in range(2)]
    response = Response(status, {}, msgspec.json.encode(body))
    results = classify_each(Call(url=URL), Request("POST", URL), response, units)
    assert (None if results is None else [type(result) for result in results]) == kinds


def test_an_answer_to_a_single_request() -> None:
    wrong = Response(207, {}, msgspec.json.encode(ONE_WRONG))
    assert classify(Request("POST", URL), wrong) == Rejected("required name: is empty", answer="207")
    assert isinstance(classify(Request("POST", URL), Response(200, {}, b"{}")), Delivered)
    assert classify(Request("PUT", "https://track.customer.io/api/v1/customers/1"), Response(200)) is None
