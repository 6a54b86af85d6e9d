"""Criteo Audience: what it answers, and how long lists are cut."""

from typing import Any

import msgspec
import pytest

from mainstem.destinations.base import Call, Delivered, Rejected, Request, Response
from mainstem.destinations.criteo_audience import classify, make_mapper
from tests.destinations.events import CONTEXT, config_of, event_of

OAUTH = {"clientId": "c", "clientSecret": "secret", "refreshToken": "token"}


@pytest.mark.parametrize(
    ("status", "body", "kind", "acceptance"),
    [
        (
            200,
            {"data": {"attributes": {"nbValidIdentifiers": 2, "nbInvalidIdentifiers": 0}}},
            Delivered,
            "accepted",
        ),
        (
            200,
            {"data": {"attributes": {"nbValidIdentifiers": 2, "nbInvalidIdentifiers": 1}}},
            Delivered,
            "accepted with warning",
        ),
        (200, {"errors": [{"code": "audience-invalid"}]}, Rejected, ""),
        (200, None, type(None), ""),
        (404, {"errors": [{"code": "audience-invalid"}]}, type(None), ""),
    ],
)
def test_answers(status: int, body: Any, kind: type, acceptance: str) -> None:
    result = classify(
        Request("PATCH", "https://api.criteo.com"), Response(status, {}, msgspec.json.encode(body))
    )
    assert type(result) is kind
    if isinstance(result, Delivered):
        assert result.acceptance == acceptance


def test_a_request_has_50_000_identifiers_at_most() -> None:
    config = config_of("CRITEO_AUDIENCE", {"audienceId": "1", "oauth": OAUTH})
    people = [{"email": f"{number}@example.com"} for number in range(50_001)]
    message = {"type": "audiencelist", "properties": {"listData": {"add": people}}}
    calls = make_mapper(config)(event_of(message), CONTEXT)
    assert isinstance(calls, tuple)
    bodies = [call.body.value for call in calls if isinstance(call, Call) and call.body is not None]
    assert [len(body["data"]["attributes"]["identifiers"]) for body in bodies] == [50_000, 1]
