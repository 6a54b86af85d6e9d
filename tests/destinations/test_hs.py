"""HubSpot: what its answers say of each record, and how look-ups decide."""

from typing import Any

import pytest

from mainstem.destinations.base import Answer, Delivered, Rejected, Request, Retry
from mainstem.destinations.hs import SPEC
from tests.destinations.lookups import Desk, answered, batched, calls, talked

CONFIG = {"authorizationType": "newPrivateAppApi", "accessToken": "pat-1", "apiVersion": "newApi"}
REQUEST = Request("POST", "https://api.hubapi.com/crm/v3/objects/contacts/batch/upsert")
TYPES = "GET /properties/v1/contacts/properties"
UNIQUE = "GET /crm/v3/properties/contacts"
SEARCH = "POST /search"


@pytest.mark.parametrize(
    ("value", "stored"),
    [("2020-02-03T10:00:00Z", 1580688000000), (1580688000001, 1580688000000), ("no date", "no date")],
)
def test_dates_are_cut_to_midnight(value: Any, stored: Any) -> None:
    desk = Desk(
        {
            UNIQUE: {"results": [{"name": "email", "hasUniqueValue": True}]},
            TYPES: [{"name": "born_on", "type": "date"}],
        }
    )
    [call] = calls("HS", CONFIG, {"type": "identify", "traits": {"email": "a@b.c", "Born On": value}}, desk)
    assert call.body is not None
    assert call.body.value["inputs"][0]["properties"] == {"email": "a@b.c", "born_on": stored}


@pytest.mark.parametrize(
    ("results", "expected"), [([], "create"), ([{"id": "7"}], "update"), ([{"id": "7"}, {"id": "8"}], None)]
)
def test_a_contact_without_a_unique_field_is_searched_for(results: Any, expected: str | None) -> None:
    desk = Desk({UNIQUE: {"results": []}, TYPES: [], SEARCH: {"results": results}})
    mapped = talked("HS", CONFIG, {"type": "identify", "traits": {"email": "a@b.c"}}, desk)
    if expected is None:
        assert "more than one" in repr(mapped)
    else:
        assert isinstance(mapped, tuple)
        assert f"/batch/{expected}" in repr(mapped)


@pytest.mark.parametrize(
    ("status", "kind"), [(429, "Retry"), (500, "Retry"), (0, "Retry"), (401, "Retry"), (404, "Refusal")]
)
def test_what_a_failed_look_up_ends_in(status: int, kind: str) -> None:
    desk = Desk({UNIQUE: Answer(status)})
    ended = talked("HS", CONFIG, {"type": "identify", "traits": {"email": "a@b.c"}}, desk)
    assert type(ended).__name__ == kind
    assert not isinstance(ended, Retry) or ended.throttled is (status == 429)


def test_records_are_searched_for_together() -> None:
    def record(email: str) -> dict[str, Any]:
        external = [{"type": "HS-contacts", "identifierType": "email", "id": email}]
        return {
            "type": "identify",
            "userId": email,
            "traits": {"plan": "pro"},
            "context": {"mappedToDestination": True, "externalId": external},
        }

    results = [{"id": "7", "properties": {"email": "one@b.c", "hs_additional_emails": "two@b.c"}}]
    desk = Desk({UNIQUE: {"results": []}, TYPES: [], SEARCH: {"results": results}})
    messages = [record("one@b.c"), record("two@b.c"), record("new@b.c")]
    batches, _ = batched("HS", CONFIG, messages, desk)
    assert [call.url for call in desk.asked if call.method == "POST"] == [
        "https://api.hubapi.com/crm/v3/objects/contacts/search"
    ]
    made = {batch.calls[0].url.rpartition("/")[2]: batch for batch in batches}
    assert made["update"].units == (0, 1)
    update, create = (made[name].calls[0].body for name in ("update", "create"))
    assert update is not None
    assert create is not None
    assert update.value["inputs"] == [{"id": "7", "properties": {"plan": "pro", "email": "one@b.c"}}]
    assert create.value["inputs"] == [{"properties": {"plan": "pro", "email": "new@b.c"}}]


def test_each_record_of_an_upsert_has_its_answer() -> None:
    desk = Desk({UNIQUE: {"results": [{"name": "email", "hasUniqueValue": True}]}, TYPES: []})
    messages = [
        {"type": "identify", "userId": mail, "messageId": mail, "traits": {"email": mail}}
        for mail in ("a@b.c", "bad")
    ]
    [batch], units = batched("HS", CONFIG, messages, desk)

    def read(status: int, body: Any) -> Any:
        assert SPEC.classify_each is not None
        return SPEC.classify_each(batch.calls[0], REQUEST, answered(status, body), units)

    error = {"message": "no e-mail", "context": {"objectWriteTraceId": ["bad"]}}
    first, second = read(207, {"results": [{"id": "1"}], "errors": [error]})
    assert first == Delivered("207", acceptance="accepted")
    assert second == Rejected("no e-mail")
    assert all(isinstance(one, Rejected) for one in read(200, {"results": [], "errors": []}))
    assert read(500, {"message": "down"}) is None


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (201, {"results": [{"id": "1"}]}, Delivered("201", acceptance="accepted")),
        (207, {"results": [], "errors": [{"message": "bad"}]}, Rejected("bad")),
        (204, None, None),
        (400, {"message": "bad"}, None),
    ],
)
def test_answers(status: int, body: Any, expected: Any) -> None:
    assert SPEC.classify is not None
    assert SPEC.classify(REQUEST, answered(status, body)) == expected
