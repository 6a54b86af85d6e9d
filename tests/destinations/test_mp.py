"""Mixpanel beyond its golden cases: what its answers mean, and what goes together into a request."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from mainstem.destinations.base import Batch, Call, Delivered, Rejected, Response, Unit
from mainstem.destinations.catalog import check_config
from mainstem.destinations.kit.call import encode
from mainstem.destinations.mp import SPEC, classify, classify_each
from tests.destinations.events import config_of, event_of, mapped

CONFIG = {"token": "t", "strictMode": True}
TIME = "2023-10-01T10:00:00.000Z"


def _units(*messages: dict[str, Any]) -> list[Unit]:
    units = []
    for index, message in enumerate(messages):
        result = mapped("MP", CONFIG, {"timestamp": TIME, "userId": "u", **message})
        assert isinstance(result, tuple)
        calls = tuple(call for call in result if isinstance(call, Call))
        units.append(Unit(index, calls, event_of(message)))
    return units


def _batches(units: Sequence[Unit]) -> Sequence[Batch]:
    assert SPEC.batcher is not None
    made = SPEC.batcher(config_of("MP", CONFIG))(units)
    assert isinstance(made, list)
    return made


TRACK = {"type": "track", "event": "E"}
SALE = {"type": "track", "event": "Sale", "properties": {"revenue": 3}}


def test_events_of_a_type_that_follow_one_another_go_together_by_api() -> None:
    batches = _batches(_units(TRACK, SALE, {"type": "page"}, {"type": "page"}, TRACK))
    assert [batch.units for batch in batches] == [(0, 1), (2, 3), (4,)]
    sales = [(call.label, len(call.body.value) if call.body else 0) for call in batches[0].calls]
    assert sales == [("engage", 1), ("import", 2)]


def test_a_request_holds_what_mixpanel_takes() -> None:
    large = {**TRACK, "properties": {"text": "x" * 4_000_000}}
    assert [batch.units for batch in _batches(_units(large, large, large))] == [(0, 1), (2,)]


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, {"code": 200, "num_records_imported": 2, "status": "OK"}, "accepted"),
        (200, {"status": 1, "error": None}, "accepted"),
        (200, {"anything": "else"}, "unverifiable"),
    ],
)
def test_success(status: int, body: Any, expected: str) -> None:
    [unit] = _units(TRACK)
    result = classify(encode(unit.calls[0]), Response(status, body=msgspec.json.encode(body)))
    assert isinstance(result, Delivered)
    assert result.acceptance == expected


def test_a_success_that_is_none() -> None:
    [unit] = _units(TRACK)
    request = encode(unit.calls[0])
    refused = classify(request, Response(200, body=b'{"status": 0, "error": "token missing"}'))
    assert refused == Rejected("http 200: token missing")
    said = Response(200, body=b'{"error": "Some properties are invalid"}')
    assert classify(request, said) == Rejected("http 200: Some properties are invalid")
    assert classify(request, Response(503, body=b"")) is None


def test_a_strict_import_names_the_events_that_it_did_not_take() -> None:
    units = _units(TRACK, SALE, TRACK)
    [batch] = _batches(units)
    body = {
        "num_records_imported": 2,
        "failed_records": [{"index": 1, "field": "time", "message": "is wrong"}],
    }
    response = Response(400, body=msgspec.json.encode(body))
    [engage, events] = batch.calls
    results = classify_each(events, encode(events), response, units)
    assert results is not None
    assert [type(result) for result in results] == [Delivered, Rejected, Delivered]
    assert classify_each(engage, encode(engage), response, units) is None
    assert classify_each(events, encode(events), Response(400, body=b"{}"), units) is None


def test_a_template_that_is_no_path_is_named() -> None:
    [(name, _)] = check_config("MP", {"token": "t", "userDefinedPageEventTemplate": "{{ a[ }}"}).errors
    assert name == "userDefinedPageEventTemplate"
