"""Intercom: what its answers say, and how look-ups decide."""

from typing import Any

import pytest

from mainstem.destinations.base import Answer, Delivered, Refusal, Request, Retry
from mainstem.destinations.intercom import SPEC
from tests.destinations.lookups import Desk, answered, calls, talked

CONFIG = {"apiKey": "tok-1"}
SEARCH = "POST /contacts/search"
IDENTIFY: dict[str, Any] = {"type": "identify", "userId": "u1", "traits": {"email": "a@b.c"}}
GROUP: dict[str, Any] = {
    "type": "group",
    "userId": "u1",
    "groupId": "g1",
    "context": {"traits": {"email": "a@b.c", "tags": ["vip"]}},
}


@pytest.mark.parametrize(
    ("found", "method", "url"),
    [
        ([], "POST", "https://api.intercom.io/contacts"),
        ([{"id": "7"}], "PUT", "https://api.intercom.io/contacts/7"),
    ],
)
def test_a_contact_is_created_or_updated(found: Any, method: str, url: str) -> None:
    [call] = calls("INTERCOM", CONFIG, IDENTIFY, Desk({SEARCH: {"data": found}}))
    assert (call.method, call.url) == (method, url)


def test_a_group_is_written_tagged_and_joined() -> None:
    desk = Desk({SEARCH: {"data": [{"id": "7"}]}, "POST /companies": {"id": "c9"}, "POST /tags": {"id": "1"}})
    [call] = calls("INTERCOM", CONFIG, GROUP, desk)
    assert call.url == "https://api.intercom.io/contacts/7/companies"
    assert [one.url.rpartition("/")[2] for one in desk.asked] == ["search", "companies", "tags"]
    assert not any(one.cache_s for one in desk.asked)


@pytest.mark.parametrize(
    ("answers", "kind", "status"),
    [
        ({SEARCH: Answer(401)}, Retry, 401),
        ({SEARCH: Answer(429)}, Retry, 429),
        ({SEARCH: Answer(503)}, Retry, 503),
        ({SEARCH: {"data": [{"id": "7"}]}, "POST /companies": Answer(422)}, Refusal, 422),
        ({SEARCH: {"data": [{"id": "7"}]}, "POST /companies": {}}, Refusal, 400),
    ],
)
def test_what_failed_look_ups_end_in(answers: Any, kind: type, status: int) -> None:
    ended = talked("INTERCOM", CONFIG, GROUP, Desk(answers))
    assert isinstance(ended, Refusal | Retry)
    assert (type(ended), ended.status) == (kind, status)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, {"type": "contact", "id": "7"}, Delivered("200", acceptance="accepted")),
        (202, None, None),
        (409, {"errors": []}, Retry("http 409: the contact was made meanwhile")),
        (422, {"errors": [{"message": "no"}]}, None),
    ],
)
def test_answers(status: int, body: Any, expected: Any) -> None:
    assert SPEC.classify is not None
    request = Request("POST", "https://api.intercom.io/contacts")
    assert SPEC.classify(request, answered(status, body)) == expected
