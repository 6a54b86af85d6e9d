"""How PostHog's answers are read, and its batches."""

from typing import Any

import pytest

from mainstem.destinations.base import Call, Rejected, Request, Response, Unit
from mainstem.destinations.catalog import check_config
from mainstem.destinations.posthog import classify, make_batcher
from tests.destinations.events import config_of, event_of, mapped

RAW: dict[str, Any] = {"teamApiKey": "k1"}


@pytest.mark.parametrize(
    ("status", "body", "rejected"),
    [
        (200, b'{"status": 1}', False),
        (200, b'{"status": 1, "quota_limited": ["events"]}', True),
        (200, b'{"status": 1, "quota_limited": ["recordings"]}', False),
        (401, b'{"quota_limited": ["events"]}', False),
        (200, b"", False),
    ],
)
def test_over_the_quota_is_not_taken(status: int, body: bytes, rejected: bool) -> None:
    result = classify(Request("POST", "https://app.posthog.com/batch"), Response(status, {}, body))
    assert isinstance(result, Rejected) == rejected


def test_the_key_is_once_in_a_batch() -> None:
    units = []
    for index in range(3):
        message = {"type": "track", "event": f"E{index}", "userId": "u"}
        calls = mapped("POSTHOG", RAW, message)
        assert isinstance(calls, tuple)
        assert isinstance(calls[0], Call)
        units.append(Unit(index, (calls[0],), event_of(message)))
    batches = make_batcher(config_of("POSTHOG", RAW))(units)
    assert isinstance(batches, list)
    [batch] = batches
    assert batch.units == (0, 1, 2)
    body = batch.calls[0].body.value
    assert body["api_key"] == "k1"
    assert [one["event"] for one in body["batch"]] == ["E0", "E1", "E2"]
    assert all("api_key" not in one for one in body["batch"])


def test_the_instance_must_be_a_url() -> None:
    assert "yourInstance" in dict(check_config("POSTHOG", {**RAW, "yourInstance": "posthog.example"}).errors)
