"""MoEngage's and WebEngage's answers, and times in zones."""

from typing import Any

import pytest

from mainstem.destinations import moengage, webengage
from mainstem.destinations.base import Delivered, Delivery, Rejected, Request, Response, Retry
from mainstem.destinations.catalog import check_config
from tests.destinations.events import body, request

REQUEST = Request("POST", "https://example.com")


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (200, b'{"status": "success", "message": "accepted"}', Delivered("200", acceptance="accepted")),
        (200, b'{"status": "fail", "error": {"type": "Bad"}}', Rejected("MoEngage: status fail", '{"type":"Bad"}')),
        (200, b'{"status": "odd"}', None),
        (200, b"", None),
        (401, b'{"status": "fail"}', None),
    ],
)  # fmt: skip
def test_moengages_answer(status: int, answer: bytes, expected: Delivery | None) -> None:
    assert moengage.classify(REQUEST, Response(status, {}, answer)) == expected


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (201, b'{"response": {"status": "queued"}}', Delivered("201", acceptance="accepted")),
        (200, b"{}", None),
        (400, b'{"response": {"status": "error"}}', None),
    ],
)
def test_webengages_answer(status: int, answer: bytes, expected: Delivery | None) -> None:
    assert webengage.classify(REQUEST, Response(status, {}, answer)) == expected


def test_a_license_code_that_webengage_does_not_know_loses_nothing() -> None:
    result = webengage.classify(REQUEST, Response(404, {}, b""))
    assert isinstance(result, Retry)
    assert result.destination_wide


@pytest.mark.parametrize(
    ("zone", "at", "offset"),
    [
        ("Asia/Kolkata", "2026-01-01T00:00:00Z", 19800),
        ("Europe/Berlin", "2026-03-29T00:59:59Z", 3600),
        ("Europe/Berlin", "2026-03-29T01:00:00Z", 7200),
        ("America/New_York", None, -18000),
        ("../../etc/passwd", "2026-01-01T00:00:00Z", None),
        ("Nowhere", "2026-01-01T00:00:00Z", None),
        (7, "2026-01-01T00:00:00Z", None),
    ],
)
def test_the_offset_is_the_zones_at_that_time(zone: Any, at: str | None, offset: int | None) -> None:
    message = {"type": "track", "event": "E", "userId": "u", "context": {"timezone": zone}, "timestamp": at}
    sent = body(request("moengage", {"apiId": "A", "apiKey": "k"}, message))
    assert sent["actions"][0].get("user_timezone_offset") == offset


@pytest.mark.parametrize(
    ("name", "raw", "path"),
    [
        ("moengage", {"apiId": "A", "apiKey": "k", "region": "MARS"}, "region"),
        ("webengage", {"licenseCode": "L", "apiKey": "k", "dataCenter": "mars"}, "dataCenter"),
    ],
)
def test_a_region_that_is_none_is_named(name: str, raw: dict[str, Any], path: str) -> None:
    [(where, _)] = check_config(name, raw).errors
    assert where == path
