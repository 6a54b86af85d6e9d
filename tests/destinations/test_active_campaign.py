"""ActiveCampaign: what its answers say, and how look-ups decide."""

from typing import Any

import pytest

from mainstem.destinations.active_campaign import SPEC
from mainstem.destinations.base import Answer, Delivered, Refusal, Rejected, Request, Retry
from tests.destinations.lookups import Desk, answered, calls, talked

CONFIG = {"apiKey": "k", "apiUrl": "https://example.api-us1.com", "actid": "1", "eventKey": "e"}
SYNC = "POST /contact/sync"
EVENTS = "GET /eventTrackingEvents"
MAKE_EVENT = "POST /eventTrackingEvents"
IDENTIFY: dict[str, Any] = {
    "type": "identify",
    "traits": {
        "email": "a@b.c",
        "tags": ["old", "new"],
        "lists": [{"id": 2, "status": "subscribe"}, {"id": 3, "status": "other"}],
        "fieldInfo": {"Likes": ["a", "b"], "Age": 3, "Nobody": 1},
    },
}
TRACK: dict[str, Any] = {"type": "track", "event": "Bought", "context": {"traits": {"email": "a@b.c"}}}


def test_a_contact_gets_tags_lists_and_fields() -> None:
    desk = Desk(
        {
            SYNC: {"contact": {"id": "7"}},
            "GET /tags": {"tags": [{"id": "5", "tag": "old"}], "meta": {"total": "1"}},
            "POST /tags": {"tag": {"id": 6}},
            "POST /contactTags": {},
            "POST /contactLists": {},
            "GET /fields": {"fields": [{"id": "1", "title": "Likes"}, {"id": "2", "title": "Age"}]},
        }
    )
    [call] = calls("ACTIVE_CAMPAIGN", CONFIG, IDENTIFY, desk)
    assert call.body is not None
    values = [{"field": "1", "value": "||a||b||"}, {"field": "2", "value": "3"}]
    assert call.body.value == {"contact": {"email": "a@b.c", "fieldValues": values}}
    written = [one.body.value for one in desk.asked if one.body is not None][2:]
    assert written == [
        {"contactTag": {"contact": "7", "tag": "5"}},
        {"contactTag": {"contact": "7", "tag": 6}},
        {"contactList": {"list": 2, "contact": "7", "status": "1"}},
    ]


def test_a_long_list_is_read_to_its_end() -> None:
    pages = [{"fields": [{"id": "1", "title": "Other"}], "meta": {"total": "101"}}]
    pages.append({"fields": [{"id": "2", "title": "Age"}], "meta": {"total": "101"}})

    def ask(call: Any) -> Answer:
        return Answer(200, pages[1 if call.params.get("offset") else 0])

    message = {"type": "identify", "traits": {"email": "a@b.c", "fieldInfo": {"Age": "3"}}}
    [call] = calls("ACTIVE_CAMPAIGN", CONFIG, message, ask)
    assert call.body is not None
    assert call.body.value["contact"]["fieldValues"] == [{"field": "2", "value": "3"}]


@pytest.mark.parametrize(
    ("answers", "made"),
    [
        ({EVENTS: {"eventTrackingEvents": [{"name": "Bought"}]}}, 1),
        ({EVENTS: {"eventTrackingEvents": []}, MAKE_EVENT: {"eventTrackingEvent": {}}}, 2),
    ],
)
def test_an_event_is_made_known_first(answers: Any, made: int) -> None:
    desk = Desk(answers)
    [call] = calls("ACTIVE_CAMPAIGN", CONFIG, TRACK, desk)
    assert call.body is not None
    assert call.body.value["visit"] == '{"email":"a@b.c"}'
    assert len(desk.asked) == made
    assert all(one.cache_s for one in desk.asked)


@pytest.mark.parametrize(
    ("message", "answers", "kind", "status"),
    [
        (IDENTIFY, {SYNC: Answer(422, {"errors": [{"title": "no"}]})}, Refusal, 422),
        (IDENTIFY, {SYNC: {}}, Retry, 500),
        (TRACK, {EVENTS: Answer(502)}, Retry, 502),
        (TRACK, {EVENTS: Answer(200, "<html>login</html>")}, Retry, 500),
    ],
)
def test_what_failed_look_ups_end_in(message: Any, answers: Any, kind: type, status: int) -> None:
    ended = talked("ACTIVE_CAMPAIGN", CONFIG, message, Desk(answers))
    assert isinstance(ended, Refusal | Retry)
    assert (type(ended), ended.status) == (kind, status)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, {"success": 1, "message": "Event spawned"}, Delivered("200", acceptance="accepted")),
        (200, {"success": 0, "message": "no such key"}, Rejected("no such key")),
        (201, {"contact": {"id": "7"}}, Delivered("201", acceptance="accepted")),
        (200, None, None),
        (422, {"errors": []}, None),
    ],
)
def test_answers(status: int, body: Any, expected: Any) -> None:
    assert SPEC.classify is not None
    request = Request("POST", "https://example.api-us1.com/")
    assert SPEC.classify(request, answered(status, body)) == expected
