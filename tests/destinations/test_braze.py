"""Braze beyond its golden cases: what its answers mean, and what goes together into a request."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from mainstem.destinations.base import (
    Answer,
    Batch,
    Call,
    Delivered,
    Delivery,
    Dialogue,
    Rejected,
    Response,
    Retry,
    Unit,
)
from mainstem.destinations.braze import SPEC, classify, classify_each
from mainstem.destinations.kit.call import encode
from mainstem.destinations.kit.dialogue import drive
from tests.destinations.events import config_of, event_of, mapped
from tests.destinations.lookups import Desk, batched

CONFIG = {"restApiKey": "key", "dataCenter": "us-01"}


def _call(message: dict[str, Any], config: dict[str, Any] = CONFIG) -> Call:
    result = mapped("BRAZE", config, message)
    assert isinstance(result, tuple)
    [call] = result
    assert isinstance(call, Call)
    return call


def _units(*messages: dict[str, Any], config: dict[str, Any] = CONFIG) -> list[Unit]:
    return [
        Unit(index, (_call(message, config),), event_of(message)) for index, message in enumerate(messages)
    ]


def _batches(units: Sequence[Unit]) -> Sequence[Batch]:
    assert SPEC.batcher is not None
    made = SPEC.batcher(config_of("BRAZE", CONFIG))(units)
    assert isinstance(made, list)
    return made


def _track(user: str) -> dict[str, Any]:
    traits = {"email": f"{user}@example.com"}
    return {"type": "track", "event": "E", "userId": user, "timestamp": "t", "context": {"traits": traits}}


ORDER = {
    "type": "track",
    "event": "Order Completed",
    "userId": "b",
    "properties": {
        "currency": "EUR",
        "products": [{"product_id": "p", "price": 1, "quantity": 1}, {"sku": "q", "price": 2, "quantity": 1}],
    },
}
UNITS = _units(_track("a"), ORDER, _track("c"))
# In the request: attributes a, c; events a, c; purchases b, b.


def _read(status: int, body: Any) -> Sequence[Delivery] | None:
    [batch] = _batches(UNITS)
    [call] = batch.calls
    response = Response(status, body=msgspec.json.encode(body))
    return classify_each(call, encode(call), response, UNITS)


def _error(array: str, index: int) -> dict[str, Any]:
    return {"type": f"{array} is wrong", "input_array": array, "index": index}


@pytest.mark.parametrize(
    ("errors", "kinds", "warned"),
    [
        ([_error("events", 0), _error("attributes", 0)], [Rejected, Delivered, Delivered], []),
        ([_error("events", 1)], [Delivered, Delivered, Delivered], [2]),
        ([_error("purchases", 1)], [Delivered, Delivered, Delivered], [1]),
        ([_error("purchases", 0), _error("purchases", 1)], [Delivered, Rejected, Delivered], []),
    ],
)
def test_errors_are_those_of_the_events_they_name(
    errors: list[Any], kinds: list[type], warned: list[int]
) -> None:
    results = _read(201, {"message": "success", "errors": errors})
    assert results is not None
    assert [type(result) for result in results] == kinds
    for index, result in enumerate(results):
        if isinstance(result, Delivered):
            proof = "accepted with warning" if index in warned else "accepted"
            assert result.acceptance == proof
            assert bool(result.warning) == (index in warned)


def test_of_a_refused_request_the_events_that_are_not_named_are_sent_again() -> None:
    results = _read(400, {"message": "Valid data must be provided", "errors": [_error("events", 1)]})
    assert results is not None
    assert [type(result) for result in results] == [Retry, Retry, Rejected]


@pytest.mark.parametrize("body", [{"message": "success"}, {"message": "Invalid API key"}, ["?"]])
def test_an_answer_that_names_no_object_is_everybodys(body: Any) -> None:
    assert _read(400, body) is None


@pytest.mark.parametrize(
    ("status", "body", "acceptance"),
    [
        (201, {"message": "success", "attributes_processed": 1}, "accepted"),
        (201, {"message": "success", "errors": ["minor"]}, "accepted with warning"),
        (202, {"message": "success"}, "accepted"),
    ],
)
def test_success(status: int, body: Any, acceptance: str) -> None:
    call = UNITS[0].calls[0]
    result = classify(encode(call), Response(status, body=msgspec.json.encode(body)))
    assert isinstance(result, Delivered)
    assert result.acceptance == acceptance


def test_other_answers_are_read_by_their_status() -> None:
    call = UNITS[0].calls[0]
    assert classify(encode(call), Response(200, body=b"{}")) is None
    assert classify(encode(call), Response(500, body=b"{}")) is None


def test_kinds_go_apart_and_a_request_holds_75_objects() -> None:
    alias = {"type": "alias", "userId": "u", "previousId": "v"}
    batches = _batches(_units(*[_track(str(number)) for number in range(40)], alias))
    assert [len(batch.units) for batch in batches] == [37, 3, 1]
    assert [batch.calls[0].label for batch in batches] == ["users/track", "users/track", "users/merge"]


def test_a_subscription_group_is_named_once_and_everybody_in_it_once() -> None:
    def group(user: str, state: str) -> dict[str, Any]:
        traits = {"subscriptionState": state, "phone": "+49123"}
        return {"type": "group", "userId": user, "groupId": "g", "traits": traits}

    config = {**CONFIG, "enableSubscriptionGroupInGroupCall": True}
    messages = [group("a", "subscribed"), group("b", "subscribed"), group("c", "unsubscribed")]
    [batch] = _batches(_units(*messages, config=config))
    [call] = batch.calls
    assert call.body is not None
    assert call.body.value == {
        "subscription_groups": [
            {
                "subscription_group_id": "g",
                "subscription_state": "subscribed",
                "external_ids": ["a", "b"],
                "phones": ["+49123"],
            },
            {
                "subscription_group_id": "g",
                "subscription_state": "unsubscribed",
                "external_ids": ["c"],
                "phones": ["+49123"],
            },
        ]
    }


def test_attributes_that_the_profile_has_are_left_out() -> None:
    def person(user: str, **traits: Any) -> dict[str, Any]:
        return {"type": "track", "event": "E", "userId": user, "timestamp": "t", "traits": traits}

    messages = [
        person("a", plan="pro", city="Berlin", email="a@example.com"),
        person("a", plan="pro", city="Berlin"),
        {"type": "identify", "anonymousId": "x", "traits": {"plan": "pro"}},
    ]
    profiles = {
        "users": [
            {"external_id": "a", "custom_attributes": {"plan": "pro", "city": "Paris"}},
            {
                "user_aliases": [{"alias_name": "x", "alias_label": "rudder_id"}],
                "custom_attributes": {"plan": "pro"},
            },
        ]
    }
    ask = Desk({"POST /users/export/ids": profiles})
    batches, units = batched("BRAZE", {**CONFIG, "supportDedup": True}, messages, ask)
    assert [(len(batch.calls), batch.units) for batch in batches] == [(1, (0, 1)), (0, (2,))]
    body = batches[0].calls[0].body
    assert body is not None
    assert body.value["attributes"] == [{"city": "Berlin", "email": "a@example.com", "external_id": "a"}]
    assert len(body.value["events"]) == 2
    # The request has two attributes less than the events had: errors are counted by what was sent.
    wrong = Response(201, body=msgspec.json.encode({"message": "success", "errors": [_error("events", 1)]}))
    sent = batches[0].calls[0]
    results = classify_each(sent, encode(sent), wrong, units[:2])
    assert results is not None
    assert [type(result) for result in results] == [Delivered, Rejected]
    [asked] = ask.asked
    assert asked.body is not None
    assert asked.body.value == {
        "fields_to_export": ["external_id", "user_aliases", "custom_attributes"],
        "external_ids": ["a"],
        "user_aliases": [{"alias_name": "x", "alias_label": "rudder_id"}],
    }


def test_without_the_profiles_everything_is_sent() -> None:
    ask = Desk({"POST /users/export/ids": Answer(500)})
    [batch], _ = batched("BRAZE", {**CONFIG, "supportDedup": True}, [_track("a")], ask)
    [call] = batch.calls
    assert call.body is not None
    assert call.body.value["attributes"] == [{"email": "a@example.com", "external_id": "a"}]


@pytest.mark.parametrize("status", [201, 500, 0])
def test_attributes_are_sent_whatever_the_alias_was_answered(status: int) -> None:
    message = {"type": "identify", "userId": "u", "anonymousId": "a", "traits": {"plan": "pro"}}
    result = mapped("BRAZE", CONFIG, message)
    assert isinstance(result, tuple)
    [talk] = result
    assert isinstance(talk, Dialogue)
    asked: list[Call] = []

    def ask(call: Call) -> Answer:
        asked.append(call)
        return Answer(status)

    calls = drive(talk.start(), ask)
    assert isinstance(calls, tuple)
    [call] = calls
    assert isinstance(call, Call)
    assert [one.url for one in asked] == ["https://rest.iad-01.braze.com/users/identify"]
    assert call.body is not None
    assert call.body.value == {"attributes": [{"plan": "pro", "external_id": "u"}]}
