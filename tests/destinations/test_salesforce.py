"""Salesforce: what its answers say, and how look-ups decide."""

from typing import Any

import pytest

from mainstem.destinations.base import Answer, Call, Delivered, Refusal, Request, Retry
from mainstem.destinations.salesforce import SPEC
from tests.destinations.lookups import Desk, answered, batched, talked

CONFIG = {
    "userName": "u",
    "password": "p",
    "initialAccessToken": "t",
    "consumerKey": "k",
    "consumerSecret": "s",
}
LOGIN = "POST /services/oauth2/token"
SEARCH = "GET /parameterizedSearch/"
SESSION = {LOGIN: {"access_token": "tok", "instance_url": "https://my.salesforce.com"}}
LEAD: dict[str, Any] = {"type": "identify", "traits": {"email": "a@b.c", "name": "Ada", "plan": "pro"}}
RECORD: dict[str, Any] = {
    "type": "identify",
    "traits": {"Name": "Initech"},
    "context": {
        "mappedToDestination": "true",
        "externalId": [{"type": "SALESFORCE-ACCOUNT", "identifierType": "Key__c", "id": 7}],
    },
}


@pytest.mark.parametrize(
    ("message", "config", "records", "way"),
    [
        (LEAD, {}, [], "Lead"),
        (LEAD, {}, [{"Id": "1"}], "Lead/1?_HttpMethod=PATCH"),
        (LEAD, {}, [{"Id": "1", "IsConverted": True, "ConvertedContactId": "2"}], "Lead/1?_HttpMethod=PATCH"),
        (
            LEAD,
            {"useContactId": True},
            [{"Id": "1", "IsConverted": True, "ConvertedContactId": "2"}],
            "Contact/2?_HttpMethod=PATCH",
        ),
        (LEAD, {}, [{"Id": "1", "IsDeleted": True}], None),
        (RECORD, {}, [], "account"),
        (
            RECORD,
            {},
            [{"Id": "1", "Key__c": "7"}, {"Id": "2", "Key__c": "70"}],
            "account/1?_HttpMethod=PATCH",
        ),
        (RECORD, {}, [{"Id": "1", "Key__c": "7"}, {"Id": "2", "Key__c": 7}], None),
    ],
)
def test_what_is_found_decides(message: Any, config: Any, records: Any, way: str | None) -> None:
    desk = Desk({**SESSION, SEARCH: {"searchRecords": records}})
    mapped = talked("SALESFORCE", {**CONFIG, **config}, message, desk)
    if way is None:
        assert isinstance(mapped, Refusal)
        return
    assert isinstance(mapped, tuple)
    [call] = mapped
    assert isinstance(call, Call)
    assert call.url == f"https://my.salesforce.com/services/data/v50.0/sobjects/{way}"
    assert [one.cache_s > 0 for one in desk.asked] == [True, False]
    assert "tok" in call.secrets


@pytest.mark.parametrize(
    ("answers", "kind", "status"),
    [
        ({LOGIN: Answer(400, {"error": "invalid_grant"})}, Retry, 400),
        ({LOGIN: Answer(503)}, Retry, 503),
        ({LOGIN: {"access_token": "tok", "instance_url": "http://inside"}}, Refusal, 400),
        ({**SESSION, SEARCH: Answer(403, [{"errorCode": "REQUEST_LIMIT_EXCEEDED"}])}, Retry, 429),
        ({**SESSION, SEARCH: Answer(400, [{"errorCode": "MALFORMED_SEARCH"}])}, Refusal, 400),
    ],
)
def test_what_failed_look_ups_end_in(answers: Any, kind: type, status: int) -> None:
    ended = talked("SALESFORCE", CONFIG, LEAD, Desk(answers))
    assert isinstance(ended, Refusal | Retry)
    assert (type(ended), ended.status) == (kind, status)


def test_an_event_is_a_list_of_requests() -> None:
    [batch], _ = batched("SALESFORCE", CONFIG, [LEAD], Desk({**SESSION, SEARCH: {"searchRecords": []}}))
    assert (batch.many, batch.batched) == (True, False)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (201, {"id": "1", "success": True}, Delivered("201", acceptance="accepted")),
        (204, None, None),
        (
            403,
            [{"errorCode": "REQUEST_LIMIT_EXCEEDED"}],
            Retry("REQUEST_LIMIT_EXCEEDED", throttled=True),
        ),
        (401, [{"errorCode": "INVALID_SESSION_ID"}], Retry("INVALID_SESSION_ID", destination_wide=True)),
        (400, [{"errorCode": "UNABLE_TO_LOCK_ROW"}], Retry("UNABLE_TO_LOCK_ROW")),
        (400, [{"errorCode": "REQUIRED_FIELD_MISSING"}], None),
        (400, {"error": "invalid_grant"}, None),
    ],
)
def test_answers(status: int, body: Any, expected: Any) -> None:
    assert SPEC.classify is not None
    assert SPEC.classify(Request("POST", "https://my.salesforce.com/"), answered(status, body)) == expected
