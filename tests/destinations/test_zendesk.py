"""Zendesk: what its answers say, and how look-ups decide."""

from typing import Any

import pytest

from mainstem.destinations.base import Answer, Delivered, Refusal, Request, Retry, Skip
from mainstem.destinations.zendesk import SPEC
from tests.destinations.lookups import Desk, answered, batched, calls, talked

CONFIG = {"email": "agent@example.com", "apiToken": "t", "domain": "example"}
FIELDS = "GET /user_fields.json"
SEARCH = "GET /users/search.json"
IDENTIFY: dict[str, Any] = {
    "type": "identify",
    "userId": "u1",
    "traits": {"email": "new@b.c", "name": "Ada", "plan": 1},
}
GROUP: dict[str, Any] = {
    "type": "group",
    "userId": "u1",
    "groupId": "g1",
    "traits": {"name": "Initech"},
    "context": {"traits": {"email": "a@b.c"}},
}


def _sent(made: Any) -> list[tuple[str, str]]:
    return [(call.method, call.url.partition("/api/v2/")[2]) for call in made]


def test_fields_are_made_once_and_a_user_is_a_list_of_requests() -> None:
    desk = Desk({FIELDS: {"user_fields": []}, "POST /user_fields.json": {}})
    [batch], _ = batched("ZENDESK", CONFIG, [IDENTIFY], desk)
    assert batch.many
    assert [call.cache_s > 0 for call in desk.asked] == [True, True]
    assert _sent(batch.calls) == [("POST", "users/create_or_update.json")]


def test_a_new_email_becomes_the_primary_one() -> None:
    identities = [
        {"id": 1, "type": "email", "value": "old@b.c", "primary": True},
        {"id": 2, "type": "email", "value": "new@b.c", "primary": False},
    ]
    desk = Desk(
        {"POST /create_or_update": {"user": {"id": 7}}, "GET /identities": {"identities": identities}}
    )
    assert _sent(calls("ZENDESK", {**CONFIG, "searchByExternalId": True}, IDENTIFY, desk)) == [
        ("DELETE", "users/7/identities/2"),
        ("PUT", "users/7/identities/1"),
        ("POST", "users/create_or_update.json"),
    ]


@pytest.mark.parametrize(
    ("answers", "kind", "status"),
    [
        ({"POST /organizations": Answer(401)}, Retry, 401),
        ({"POST /organizations": Answer(422)}, Refusal, 400),
        ({"POST /organizations": {"organization": {"id": 9}}, SEARCH: Answer(500)}, Retry, 500),
        ({"POST /organizations": {"organization": {"id": 9}}, SEARCH: {"users": []}}, Refusal, 400),
        (
            {
                "POST /organizations": {"organization": {"id": 9}},
                SEARCH: {"users": [{"id": 7}]},
                "GET /organization_memberships": {"organization_memberships": [{"organization_id": 9}]},
            },
            Skip,
            400,
        ),
    ],
)
def test_what_a_group_ends_in(answers: Any, kind: type, status: int) -> None:
    ended = talked("ZENDESK", CONFIG, GROUP, Desk(answers))
    assert isinstance(ended, Refusal | Retry | Skip)
    assert (type(ended), ended.status) == (kind, status)


def test_a_user_leaves_an_organization() -> None:
    message = {**IDENTIFY, "traits": {**IDENTIFY["traits"], "company": {"id": 9, "remove": True}}}
    memberships = {"organization_memberships": [{"id": 3, "organization_id": 9}]}
    desk = Desk({SEARCH: {"users": [{"id": 7}]}, "GET /organization_memberships": memberships})
    made = calls("ZENDESK", {**CONFIG, "removeUsersFromOrganization": True}, message, desk)
    assert _sent(made)[0] == ("DELETE", "users/7/organization_memberships/3.json")


@pytest.mark.parametrize(
    ("method", "status", "body", "expected"),
    [
        ("POST", 200, {"user": {"id": 7}}, Delivered("200", acceptance="accepted")),
        ("POST", 204, None, None),
        ("POST", 404, {"error": "RecordNotFound"}, None),
        ("DELETE", 404, None, Delivered("404: it is gone already", acceptance="accepted")),
    ],
)
def test_answers(method: str, status: int, body: Any, expected: Any) -> None:
    assert SPEC.classify is not None
    assert SPEC.classify(Request(method, "https://example.zendesk.com/"), answered(status, body)) == expected
