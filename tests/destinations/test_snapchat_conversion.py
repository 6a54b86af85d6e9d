"""Snap's batches and answers."""

import json
from typing import Any

import pytest

from mainstem.destinations.base import Call, Delivered, Rejected, Request, Response, Unit
from mainstem.destinations.snapchat_conversion import classify, classify_each, make_batcher, validation
from tests.destinations.events import config_of, event_of, mapped

REQUEST = Request("POST", "https://tr.snapchat.com/v3/pixel-1/events")
CONFIG = {"apiKey": "snap-token", "pixelId": "pixel-1"}
MESSAGE = {"type": "track", "event": "share", "channel": "web", "timestamp": "2023-11-14T22:00:00Z"}


def units(count: int, **config: Any) -> list[Unit]:
    made: list[Unit] = []
    for index in range(count):
        calls = mapped("SNAPCHAT_CONVERSION", {**CONFIG, **config}, {**MESSAGE, "userId": f"u{index}"})
        assert isinstance(calls, tuple)
        [call] = calls
        assert isinstance(call, Call)
        made.append(Unit(index, (call,), event_of(MESSAGE)))
    return made


def answered(status: int, body: Any) -> Response:
    return Response(status, {}, json.dumps(body).encode())


@pytest.mark.parametrize(("version", "kind"), [("newApi", "json"), ("legacyApi", "json_array")])
def test_events_go_together(version: str, kind: str) -> None:
    config = config_of("SNAPCHAT_CONVERSION", {**CONFIG, "apiVersion": version})
    batches = make_batcher(config)(units(2_001, apiVersion=version))
    assert isinstance(batches, list)
    assert [len(batch.units) for batch in batches] == [2_000, 1]
    body = batches[0].calls[0].body
    assert body is not None
    assert body.kind == kind
    assert len(body.value["data"] if kind == "json" else body.value) == 2_000


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, {"status": "OK", "reason": "Events have been processed successfully."}, Delivered),
        (200, {"status": "SUCCESS", "reason": "SUCCESS"}, Delivered),
        (200, {"status": "INVALID", "reason": "unhashed"}, Rejected),
        (200, {}, type(None)),
        (401, {"status": "OK"}, type(None)),
    ],
)
def test_answers(status: int, body: Any, kind: type) -> None:
    assert isinstance(classify(REQUEST, answered(status, body)), kind)


def test_the_events_that_were_not_taken_are_named() -> None:
    two = units(2, apiVersion="newApi")
    records = [
        {"record_index": 1, "error_reasons": ["timestamp"]},
        {"record_index": 7},
        {"record_index": "x"},
    ]
    results = classify_each(two[0].calls[0], REQUEST, answered(200, {"error_records": records}), two)
    assert results is not None
    assert [type(result) for result in results] == [Delivered, Rejected]
    assert classify_each(two[0].calls[0], REQUEST, answered(200, {"status": "OK"}), two) is None
    assert classify_each(two[0].calls[0], REQUEST, answered(500, {"error_records": records}), two) is None


def test_only_version_3_can_check_without_taking() -> None:
    config = config_of("SNAPCHAT_CONVERSION", CONFIG)
    [new] = units(1, apiVersion="newApi")
    checking = validation(config, new.calls[0])
    assert checking is not None
    assert checking.url == "https://tr.snapchat.com/v3/pixel-1/events/validate"
    [old] = units(1)
    assert validation(config, old.calls[0]) is None
