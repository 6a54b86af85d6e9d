"""Iterable: bulk requests, and what they say of each person."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from mainstem.destinations.base import Call, Delivered, Rejected, Request, Response, Unit
from mainstem.destinations.iterable import classify, classify_each, make_batcher, make_mapper
from tests.destinations.events import CONTEXT, config_of, event_of

URL = "https://api.iterable.com/api/users/bulkUpdate"


def _batches(*messages: dict[str, Any], **more: Any) -> Sequence[Any]:
    config = config_of("ITERABLE", {"apiKey": "key-1", **more})
    units = []
    for index, message in enumerate(messages):
        event = event_of(message)
        calls = make_mapper(config)(event, CONTEXT)
        assert isinstance(calls, tuple), calls
        units.append(Unit(index, tuple(call for call in calls if isinstance(call, Call)), event))
    batches = make_batcher(config)(units)
    assert isinstance(batches, Sequence)
    return batches


def _row(item_id: str) -> dict[str, Any]:
    external = [{"type": "ITERABLE-shops", "id": item_id, "identifierType": "itemId"}]
    context = {"mappedToDestination": "true", "externalId": external}
    return {"type": "identify", "userId": "r", "context": context, "traits": {"city": item_id}}


def test_updates_events_and_items_go_in_bulk() -> None:
    token = {"device": {"type": "ios", "token": "t"}}
    batches = _batches(
        {"type": "identify", "userId": "u1", "traits": {"plan": "pro"}},
        {"type": "track", "event": "Seen", "userId": "u1"},
        {"type": "identify", "userId": "u2"},
        {"type": "identify", "userId": "u3", "context": token},
        {"type": "track", "event": "Seen", "userId": "u2"},
        {"type": "alias", "userId": "new@example.com", "previousId": "old@example.com"},
        _row("s1"),
        _row("s2"),
        registerDeviceOrBrowserApiKey="mobile-key",
    )
    assert [([call.label for call in batch.calls], batch.units, batch.batched) for batch in batches] == [
        (["users/bulkUpdate"], (0, 2), True),
        (["events/trackBulk"], (1, 4), True),
        (["users/update", "users/registerDeviceToken"], (3,), False),
        (["users/updateEmail"], (5,), False),
        (["catalogs"], (6, 7), True),
    ]
    assert batches[0].calls[0].url == URL
    assert [user["userId"] for user in batches[0].calls[0].body.value["users"]] == ["u1", "u2"]
    assert batches[4].calls[0].body.value["documents"] == {"s1": {"city": "s1"}, "s2": {"city": "s2"}}


PARTLY = {
    "successCount": 1,
    "failCount": 1,
    "noOpEmails": ["a@example.com"],
    "failedUpdates": {"invalidUserIds": ["u2"], "forgottenEmails": []},
}


@pytest.mark.parametrize(
    ("status", "body", "kinds"),
    [
        (200, {"successCount": 2, "failCount": 0, "failedUpdates": {}}, [Delivered, Delivered]),
        (200, PARTLY, [Delivered, Rejected]),
        (200, {"successCount": 1, "failCount": 1}, [Rejected, Rejected]),
        (200, {"code": "Success"}, None),
        (429, {"code": "RateLimitExceeded"}, None),
    ],
)
def test_each_person_has_their_own_result(status: int, body: Any, kinds: list[type] | None) -> None:
    [batch] = _batches({"type": "identify", "userId": "u1"}, {"type": "identify", "userId": "u2"})
    units = [Unit(index, (), event_of({"type": "identify"})) for index in range(2)]
    response = Response(status, {}, msgspec.json.encode(body))
    results = classify_each(batch.calls[0], Request("POST", URL), response, units)
    assert (None if results is None else [type(result) for result in results]) == kinds


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, {"code": "Success", "msg": "", "params": None}, Delivered),
        (200, PARTLY, Rejected),
        (200, "ok", type(None)),
        (400, {"code": "BadJsonBody"}, type(None)),
    ],
)
def test_answers(status: int, body: Any, kind: type) -> None:
    response = Response(status, {}, msgspec.json.encode(body))
    assert type(classify(Request("POST", URL), response)) is kind
