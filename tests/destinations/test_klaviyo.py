"""Klaviyo: subscriptions that go together, profiles that are made first, and its answers."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from mainstem.destinations.base import (
    Answer,
    Call,
    Delivered,
    Dialogue,
    Refusal,
    Rejected,
    Request,
    Response,
    Retry,
    Unit,
)
from mainstem.destinations.catalog import check_config
from mainstem.destinations.kit.dialogue import drive
from mainstem.destinations.klaviyo import classify, classify_each, make_batcher, make_mapper
from tests.destinations.events import CONTEXT, config_of, event_of


def _identify(user: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "identify",
        "userId": user,
        "traits": {"email": f"{user}@example.com", "properties": more},
    }


def test_subscriptions_to_a_list_go_together_behind_their_profiles() -> None:
    config = config_of("KLAVIYO", {"privateApiKey": "pk_1", "apiVersion": "v3", "consent": ["email"]})
    messages = [
        _identify("u1", subscribe=True, listId="L"),
        {"type": "track", "event": "Seen", "userId": "u1"},
        _identify("u2", subscribe=False, listId="L"),
        _identify("u3", subscribe=True, listId="L"),
        _identify("u4"),
    ]
    units = []
    for index, message in enumerate(messages):
        calls = make_mapper(config)(event_of(message), CONTEXT)
        assert isinstance(calls, tuple), calls
        only = tuple(call for call in calls if isinstance(call, Call))
        units.append(Unit(index, only, event_of(message)))
    batches = make_batcher(config)(units)
    assert isinstance(batches, Sequence)
    assert [([call.label for call in batch.calls], batch.units) for batch in batches] == [
        (["/api/profile-import"] * 2 + ["/api/profile-subscription-bulk-create-jobs"], (0, 3)),
        (["/api/events"], (1,)),
        (["/api/profile-import", "/api/profile-subscription-bulk-delete-jobs"], (2,)),
        (["/api/profile-import"], (4,)),
    ]
    assert batches[0].calls[-1].body is not None
    people = batches[0].calls[-1].body.value["data"]["attributes"]["profiles"]["data"]
    assert [person["attributes"]["email"] for person in people] == ["u1@example.com", "u3@example.com"]


def test_who_is_refused_does_not_keep_the_others() -> None:
    config = config_of("KLAVIYO", {"privateApiKey": "pk_1", "apiVersion": "v3", "consent": ["email"]})
    units = []
    for index, user in enumerate(("u1", "u2")):
        event = event_of(_identify(user, subscribe=True, listId="L"))
        calls = make_mapper(config)(event, CONTEXT)
        assert isinstance(calls, tuple)
        units.append(Unit(index, tuple(call for call in calls if isinstance(call, Call)), event))
    batches = make_batcher(config)(units)
    assert isinstance(batches, Sequence)
    _, second, job = batches[0].calls
    request = Request("POST", second.url)

    def kinds(call: Call, status: int, body: Any) -> list[type] | None:
        results = classify_each(call, request, Response(status, {}, msgspec.json.encode(body)), units)
        return None if results is None else [type(result) for result in results]

    wrong = {
        "errors": [{"detail": "no", "source": {"pointer": "/data/attributes/profiles/data/0/attributes"}}]
    }
    assert kinds(second, 400, {"errors": [{"detail": "no"}]}) == [Retry, Rejected]
    assert kinds(job, 400, wrong) == [Rejected, Retry]
    assert kinds(job, 400, {"errors": [{"detail": "no"}]}) is None
    assert kinds(job, 503, wrong) is None
    assert kinds(second, 201, {"data": {"id": "1"}}) is None


@pytest.mark.parametrize(
    ("answer", "ends"),
    [
        (
            Answer(201, {"data": {"id": "01G"}}),
            ["/api/profiles", "/api/profile-subscription-bulk-create-jobs"],
        ),
        (
            Answer(409, {"errors": [{"meta": {"duplicate_profile_id": "01H"}}]}),
            ["/api/profiles", "/api/profile-subscription-bulk-create-jobs"],
        ),
        (Answer(400, {"errors": [{"detail": "no such country"}]}), Refusal),
        (Answer(201, None), Retry),
        (Answer(429), Retry),
        (Answer(503), Retry),
    ],
)
def test_the_old_revision_makes_the_profile_first(answer: Answer, ends: Any) -> None:
    config = config_of("KLAVIYO", {"privateApiKey": "pk_1"})
    mapped = make_mapper(config)(event_of(_identify("u1", subscribe=True, listId="L")), CONTEXT)
    assert isinstance(mapped, tuple)
    assert isinstance(mapped[0], Dialogue)
    ended = drive(mapped[0].start(), lambda _: answer)
    if isinstance(ends, list):
        assert isinstance(ended, tuple)
        assert [call.label for call in ended if isinstance(call, Call)] == ends
    else:
        assert isinstance(ended, ends)


def test_the_old_revision_is_warned_of() -> None:
    assert "apiVersion" in dict(check_config("KLAVIYO", {"privateApiKey": "pk_1"}).warnings)
    assert check_config("KLAVIYO", {"privateApiKey": "pk_1", "apiVersion": "v3"}).warnings == ()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (201, {"data": {"type": "profile", "id": "01G"}}, Delivered),
        (202, None, type(None)),
        (400, {"errors": [{}]}, type(None)),
    ],
)
def test_answers(status: int, body: Any, kind: type) -> None:
    response = Response(status, {}, msgspec.json.encode(body))
    assert type(classify(Request("POST", "https://a.klaviyo.com/api/profile-import"), response)) is kind
