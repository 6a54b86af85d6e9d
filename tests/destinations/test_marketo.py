"""Marketo: what its answers say, and how look-ups decide."""

from typing import Any

import pytest

from mainstem.destinations.base import Answer, Delivered, Refusal, Rejected, Request, Retry
from mainstem.destinations.marketo import SPEC
from tests.destinations.lookups import Desk, answered, calls, talked

CONFIG: dict[str, Any] = {
    "accountId": "123-ABC-456",
    "clientId": "c1",
    "clientSecret": "s1",
    "leadTraitMapping": [{"from": "plan", "to": "customPlan"}],
    "rudderEventsMapping": [{"event": "Clicked", "marketoPrimarykey": "name", "marketoActivityId": "7"}],
    "customActivityPropertyMap": [{"from": "sku", "to": "productId"}],
}
TOKEN = "GET /identity/oauth/token"
FIND = "GET /rest/v1/leads.json"
CREATE = "POST /rest/v1/leads.json"
GIVEN = {TOKEN: {"access_token": "tok", "expires_in": 3599}}
IDENTIFY: dict[str, Any] = {"type": "identify", "userId": "u1", "traits": {"email": "a@b.c", "plan": "pro"}}
TRACK: dict[str, Any] = {
    "type": "track",
    "event": "Clicked",
    "userId": "u1",
    "timestamp": "2020-12-17T21:00:59.176Z",
    "properties": {"name": "Chair", "sku": "s9"},
}


def _failed(code: str) -> dict[str, Any]:
    return {"success": False, "errors": [{"code": code, "message": "no"}]}


def test_a_lead_is_updated_by_its_id() -> None:
    desk = Desk({**GIVEN, FIND: {"success": True, "result": [{"id": 4}]}})
    [call] = calls("MARKETO", CONFIG, IDENTIFY, desk)
    assert call.body is not None
    lead = {"Email": "a@b.c", "customPlan": "pro", "userId": "u1", "id": 4}
    assert call.body.value == {"action": "createOrUpdate", "input": [lead], "lookupField": "id"}
    assert [one.cache_s > 0 for one in desk.asked] == [True, False]


def test_a_lead_that_is_not_there_is_created_where_allowed() -> None:
    answers = {
        **GIVEN,
        FIND: {"success": True, "result": []},
        CREATE: {"success": True, "result": [{"id": 5}]},
    }
    assert isinstance(talked("MARKETO", CONFIG, TRACK, Desk(answers)), Refusal)
    [call] = calls("MARKETO", {**CONFIG, "createIfNotExist": True}, TRACK, Desk(answers))
    assert call.body is not None
    assert call.body.value["input"] == [
        {
            "activityDate": "2020-12-17T21:00:59.176Z",
            "activityTypeId": 7,
            "attributes": [{"name": "productId", "value": "s9"}],
            "leadId": 5,
            "primaryAttributeValue": "Chair",
        }
    ]


@pytest.mark.parametrize(
    ("answers", "kind", "status"),
    [
        ({TOKEN: Answer(401)}, Retry, 401),
        ({TOKEN: {"access_token": "tok", "expires_in": 0}}, Retry, 500),
        ({TOKEN: _failed("601")}, Retry, 500),
        ({**GIVEN, FIND: _failed("606")}, Retry, 429),
        ({**GIVEN, FIND: _failed("611")}, Retry, 500),
        ({**GIVEN, FIND: _failed("1006")}, Refusal, 400),
    ],
)
def test_what_failed_look_ups_end_in(answers: Any, kind: type, status: int) -> None:
    ended = talked("MARKETO", CONFIG, IDENTIFY, Desk(answers))
    assert isinstance(ended, Refusal | Retry)
    assert (type(ended), ended.status) == (kind, status)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            200,
            {"success": True, "result": [{"id": 1, "status": "updated"}]},
            Delivered("200", acceptance="accepted"),
        ),
        (200, {"success": True, "result": [{"marketoGUID": "x"}]}, None),
        (
            200,
            {
                "success": True,
                "result": [{"status": "skipped", "reasons": [{"code": "1004", "message": "no"}]}],
            },
            Rejected("1004: no"),
        ),
        (200, _failed("602"), Retry("602: no", destination_wide=True)),
        (200, _failed("615"), Retry("615: no", throttled=True)),
        (200, _failed("608"), Retry("608: no")),
        (200, _failed("610"), Rejected("610: no")),
        (200, None, Retry("Marketo answered without saying whether it took it")),
        (503, None, None),
    ],
)
def test_answers(status: int, body: Any, expected: Any) -> None:
    assert SPEC.classify is not None
    assert (
        SPEC.classify(Request("POST", "https://123-ABC-456.mktorest.com/"), answered(status, body))
        == expected
    )
