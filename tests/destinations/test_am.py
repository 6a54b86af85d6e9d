"""Amplitude beyond its golden cases: what its answers mean, and what goes into a batch."""

from typing import Any

import msgspec
import pytest

from mainstem.destinations.am import SPEC, classify, classify_each
from mainstem.destinations.base import Call, Delivered, Rejected, Response, Retry, Unit
from mainstem.destinations.catalog import check_config
from mainstem.destinations.kit.call import encode, json_call
from tests.destinations.events import config_of, event_of

EVENT = event_of({"type": "track"})


def _call(*events: dict[str, Any]) -> Call:
    return json_call(
        "https://api2.amplitude.com/2/httpapi", {"api_key": "k", "events": [*events]}, label="2/httpapi"
    )


def _units(*calls: Call) -> list[Unit]:
    return [Unit(index, (call,), EVENT) for index, call in enumerate(calls)]


def _response(status: int, body: Any) -> Response:
    return Response(status, body=body if isinstance(body, bytes) else msgspec.json.encode(body))


@pytest.mark.parametrize(
    ("status", "body", "kind", "expected"),
    [
        (200, {"code": 200, "events_ingested": 1}, Delivered, {"acceptance": "accepted"}),
        (200, b"success", Delivered, {"acceptance": "accepted"}),
        (200, b"", Delivered, {"acceptance": "unverifiable"}),
        (400, {"code": 400, "error": "Invalid API key: k"}, Retry, {"destination_wide": True}),
        (400, {"code": 400, "error": "x", "missing_field": "api_key"}, Retry, {"destination_wide": True}),
        (
            400,
            {"error": "Request missing required field", "events_with_missing_fields": {"event_type": [0]}},
            Rejected,
            {"reason": "http 400: Request missing required field (missing fields: event_type)"},
        ),
        (413, {"code": 413, "error": "Payload too large"}, Rejected, {}),
        (429, {"code": 429, "eps_threshold": 10}, Retry, {"throttled": True, "after_s": 30.0}),
        (429, {"code": 429, "throttled_users": {"u": 32}}, Retry, {"throttled": False, "after_s": 30.0}),
    ],
)
def test_what_an_answer_means(status: int, body: Any, kind: type, expected: dict[str, Any]) -> None:
    result = classify(encode(_call({})), _response(status, body))
    assert isinstance(result, kind)
    assert {name: getattr(result, name) for name in expected} == expected


def test_other_answers_are_read_by_their_status() -> None:
    assert classify(encode(_call({})), _response(503, b"busy")) is None


@pytest.mark.parametrize(
    ("status", "body", "kinds"),
    [
        (200, {"code": 200, "events_ingested": 3}, [Delivered, Delivered, Delivered]),
        (400, {"events_with_invalid_fields": {"time": [1]}}, [Retry, Rejected, Retry]),
        (400, {"events_with_missing_fields": {"event_type": [0, 2]}}, [Rejected, Retry, Rejected]),
        (400, {"silenced_devices": ["d1"], "silenced_events": [2]}, [Retry, Rejected, Rejected]),
        (429, {"throttled_users": {"u0": 12}, "throttled_devices": {"d2": 31}}, [Retry, Retry, Retry]),
    ],
)
def test_an_answer_about_several_events(status: int, body: Any, kinds: list[type]) -> None:
    events = [{"user_id": f"u{number}", "device_id": f"d{number}"} for number in range(3)]
    call = _call(*events)
    results = classify_each(call, encode(call), _response(status, body), _units(*map(_call, events)))
    assert results is not None
    assert [type(result) for result in results] == kinds
    if status == 200:
        assert {result.acceptance for result in results if isinstance(result, Delivered)} == {"accepted"}
    if status == 429:
        assert [(one.after_s, one.throttled) for one in results if isinstance(one, Retry)] == [
            (30.0, False),
            (0.0, False),
            (30.0, False),
        ]


@pytest.mark.parametrize("body", [{"error": "Invalid API key"}, {"error": "Invalid JSON"}, b"?"])
def test_an_answer_that_names_no_event_is_everybodys(body: Any) -> None:
    call = _call({}, {})
    assert classify_each(call, encode(call), _response(400, body), _units(call, call)) is None
    # Delivery sends a batch that is too large again in halves.
    assert classify_each(call, encode(call), _response(413, body), _units(call, call)) is None


def test_events_with_short_ids_and_requests_of_other_kinds_go_alone() -> None:
    calls = [_call({"user_id": "user-1"}), _call({"user_id": "u"}), _call({"device_id": "device-2"})]
    assert SPEC.batcher is not None
    batches = SPEC.batcher(config_of("AM", {"apiKey": "k", "residencyServer": "EU"}))(_units(*calls))
    assert isinstance(batches, list)
    assert [batch.units for batch in batches] == [(0, 2), (1,)]
    [merged] = batches[0].calls
    assert merged.url == "https://api.eu.amplitude.com/batch"
    assert merged.body is not None
    assert merged.body.value == {"api_key": "k", "events": [{"user_id": "user-1"}, {"device_id": "device-2"}]}


def test_a_template_that_is_no_path_is_named() -> None:
    raw = {"apiKey": "k", "userProvidedPageEventString": "{{ a[ }}"}
    [(name, words)] = check_config("AM", raw).errors
    assert name == "userProvidedPageEventString"
    assert "is no path" in words
