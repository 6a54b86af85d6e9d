"""Mailchimp: what its answers say of each member, and how look-ups decide."""

from typing import Any

import pytest

from mainstem.destinations.base import Answer, Delivered, Refusal, Rejected, Request, Retry
from mainstem.destinations.mailchimp import SPEC
from tests.destinations.lookups import Desk, answered, batched, talked

CONFIG = {"apiKey": "k", "audienceId": "aud1", "datacenterId": "us20"}
MEMBER = "GET /members/"
AUDIENCE = "GET /lists/aud1"
REQUEST = Request("POST", "https://us20.api.mailchimp.com/3.0/lists/aud1")


def _identify(email: str) -> dict[str, Any]:
    return {"type": "identify", "userId": email, "traits": {"email": email}}


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        ({MEMBER: {"contact_id": "1", "status": "unsubscribed"}}, "unsubscribed"),
        ({MEMBER: {"contact_id": "1"}}, "subscribed"),
        ({MEMBER: Answer(404), AUDIENCE: {"double_optin": True}}, "pending"),
        ({MEMBER: Answer(404), AUDIENCE: {"double_optin": False}}, "subscribed"),
    ],
)
def test_the_status_of_members(answers: Any, status: str) -> None:
    [batch], _ = batched("MAILCHIMP", CONFIG, [_identify("a@b.c")], Desk(answers))
    [call] = batch.calls
    assert call.body is not None
    assert call.body.value == {
        "members": [{"email_address": "a@b.c", "status": status}],
        "update_existing": True,
    }


@pytest.mark.parametrize(
    ("answers", "kind", "status"),
    [
        ({MEMBER: Answer(401)}, Retry, 401),
        ({MEMBER: Answer(0), AUDIENCE: Answer(0)}, Retry, 500),
        ({MEMBER: Answer(404), AUDIENCE: Answer(404)}, Refusal, 400),
    ],
)
def test_what_failed_look_ups_end_in(answers: Any, kind: type, status: int) -> None:
    ended = talked("MAILCHIMP", CONFIG, _identify("a@b.c"), Desk(answers))
    assert isinstance(ended, Refusal | Retry)
    assert (type(ended), ended.status) == (kind, status)


def test_each_member_of_a_batch_has_its_answer() -> None:
    messages = [_identify("A@b.c"), _identify("bad@b.c")]
    [batch], units = batched("MAILCHIMP", CONFIG, messages, Desk({MEMBER: {"contact_id": "1"}}))
    assert SPEC.classify_each is not None
    body = {"new_members": [{}], "errors": [{"email_address": "bad@b.c", "error": "looks fake"}]}
    results = SPEC.classify_each(batch.calls[0], REQUEST, answered(200, body), units)
    assert results == [Delivered("200", acceptance="accepted"), Rejected("looks fake")]
    assert SPEC.classify_each(batch.calls[0], REQUEST, answered(400, {"detail": "no"}), units) is None


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, {"contact_id": "1"}, Delivered("200", acceptance="accepted")),
        (204, None, None),
        (400, {"detail": "no"}, None),
    ],
)
def test_answers(status: int, body: Any, expected: Any) -> None:
    assert SPEC.classify is not None
    assert SPEC.classify(REQUEST, answered(status, body)) == expected
