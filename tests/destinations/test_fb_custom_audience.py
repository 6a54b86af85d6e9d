"""Meta's custom audiences: batches, connections of syncs, answers."""

import json
from typing import Any

import msgspec
import pytest

from mainstem.destinations.base import (
    Call,
    Delivered,
    Refusal,
    Rejected,
    Request,
    Response,
    Retry,
    Unit,
)
from mainstem.destinations.fb_custom_audience import classify, make_batcher, make_mapper
from tests.destinations.events import CONTEXT, config_of, event_of

CONFIG = {"accessToken": "EAAG-token", "audienceId": "1", "userSchema": ["EMAIL"], "maxUserCount": "2"}
REQUEST = Request("POST", "https://graph.facebook.com/v25.0/1/users")


def made(message: dict[str, Any], connection: dict[str, Any] | None = None) -> tuple[Call, ...] | Refusal:
    context = msgspec.structs.replace(CONTEXT, connection={"config": {"destination": connection or {}}})
    mapped = make_mapper(config_of("FB_CUSTOM_AUDIENCE", CONFIG))(event_of(message), context)
    if isinstance(mapped, Refusal):
        return mapped
    assert isinstance(mapped, tuple)
    return tuple(call for call in mapped if isinstance(call, Call))


def record(action: str, name: str) -> dict[str, Any]:
    return {"type": "record", "action": action, "fields": {"EMAIL": f"{name}@example.com"}}


def test_records_of_the_same_action_go_together() -> None:
    messages = [record("insert", "a"), record("delete", "b"), record("insert", "c"), record("insert", "d")]
    messages.append(
        {"type": "audiencelist", "properties": {"listData": {"add": [{"EMAIL": "e@example.com"}]}}}
    )
    units: list[Unit] = []
    for index, message in enumerate(messages):
        calls = made(message)
        assert isinstance(calls, tuple)
        units.append(Unit(index, calls, event_of(message)))
    batches = make_batcher(config_of("FB_CUSTOM_AUDIENCE", CONFIG))(units)
    assert isinstance(batches, list)
    assert [(batch.units, batch.calls[0].method, batch.batched) for batch in batches] == [
        ((0, 2), "POST", True),
        ((3,), "POST", True),
        ((1,), "DELETE", True),
        ((4,), "POST", False),
    ]


def test_a_list_is_sent_in_pieces() -> None:
    people = [{"EMAIL": f"p{index}@example.com"} for index in range(3)]
    calls = made({"type": "audiencelist", "properties": {"listData": {"add": people}}})
    assert isinstance(calls, tuple)
    assert [len(call.body.value["payload"]["data"]) for call in calls if call.body] == [2, 1]


@pytest.mark.parametrize(
    ("connection", "fields", "refused"),
    [
        ({"audienceId": "7", "isHashRequired": False}, {"EMAIL": "ann@example.com"}, False),
        ({"schemaVersion": "1.1"}, {"EMAIL": "ann@example.com"}, True),
        ({"audienceId": "7", "isValueBasedAudience": True}, {"EMAIL": "ann@example.com"}, True),
        ({"audienceId": "7"}, {"EMAIL": None}, True),
    ],
)
def test_the_connection_of_a_sync_says_which_audience(
    connection: dict[str, Any], fields: dict[str, Any], refused: bool
) -> None:
    calls = made({"type": "record", "action": "insert", "identifiers": fields}, connection)
    assert isinstance(calls, Refusal) is refused
    if isinstance(calls, tuple):
        [call] = calls
        assert call.url == "https://graph.facebook.com/v25.0/7/users"
        assert call.body is not None
        assert call.body.value == {"payload": {"schema": ["EMAIL"], "data": [["ann@example.com"]]}}


@pytest.mark.parametrize(
    ("status", "body", "kind", "facts"),
    [
        (200, {"num_received": 2, "num_invalid_entries": 0}, Delivered, {"acceptance": "accepted"}),
        (
            200,
            {"num_received": 2, "num_invalid_entries": 1},
            Delivered,
            {"acceptance": "accepted with warning"},
        ),
        (400, {"error": {"code": 294}}, Retry, {"destination_wide": True}),
        (400, {"error": {"code": 1487301}}, Retry, {"destination_wide": True}),
        (400, {"error": {"code": 190}}, Retry, {"destination_wide": True}),
        (400, {"error": {"code": 80003}}, Retry, {"throttled": True}),
        (400, {"error": {"code": 100}}, Rejected, {}),
        (400, {"error": {"code": 1487366}}, type(None), {}),
    ],
)
def test_answers(status: int, body: Any, kind: type, facts: dict[str, Any]) -> None:
    delivery = classify(REQUEST, Response(status, {}, json.dumps(body).encode()))
    assert isinstance(delivery, kind)
    assert {name: getattr(delivery, name) for name in facts} == facts
