"""CleverTap's batches and answers."""

import json
from typing import Any

import pytest

from mainstem.destinations.base import (
    Batch,
    Call,
    Delivered,
    Delivery,
    Rejected,
    Request,
    Response,
    Retry,
    Unit,
)
from mainstem.destinations.clevertap import classify_each, make_batcher
from mainstem.destinations.kit.call import encode
from tests.destinations.events import config_of, event_of, mapped

RAW = {"accountId": "A", "passcode": "pass-1234", "trackAnonymous": True, "enableObjectIdMapping": True}
DEVICE = {"os": {"name": "Android"}, "device": {"token": "t"}}


def _unit(index: int, message: dict[str, Any]) -> Unit:
    calls = mapped("clevertap", RAW, message)
    assert isinstance(calls, tuple)
    return Unit(index, calls, event_of(message))  # type: ignore[arg-type]


def _track(index: int) -> Unit:
    return _unit(index, {"type": "track", "event": f"E{index}", "anonymousId": "a"})


def _batches(units: list[Unit]) -> list[Batch]:
    made = make_batcher(config_of("clevertap", RAW))(units)
    assert isinstance(made, list)
    return made


def _records(call: Call) -> list[Any]:
    assert call.body is not None
    found: list[Any] = call.body.value["d"]
    return found


def test_all_records_of_all_events_go_together_in_order() -> None:
    profile = _unit(0, {"type": "identify", "userId": "u", "anonymousId": "a", "context": DEVICE})
    [batch] = _batches([profile, _track(1)])
    assert batch.units == (0, 1)
    [call] = batch.calls
    assert [record["type"] for record in _records(call)] == ["profile", "token", "event"]


def test_an_events_records_are_never_parted() -> None:
    units = [_track(index) for index in range(999)]
    units.append(_unit(999, {"type": "identify", "userId": "u", "anonymousId": "a", "context": DEVICE}))
    first, second = _batches(units)
    assert (len(first.units), second.units) == (999, (999,))
    assert [record["type"] for record in _records(second.calls[0])] == ["profile", "token"]


TAKEN = Delivered("200", acceptance="accepted")
REFUSED = Rejected("CleverTap 513: restricted", "200 unprocessed")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"status": "success", "processed": 2, "unprocessed": []}, [TAKEN, TAKEN]),
        ({"status": "partial", "unprocessed": [{"code": 513, "error": "restricted", "record": 1}]}, [TAKEN, REFUSED]),
        ({"status": "fail", "unprocessed": [{"code": 513, "error": "restricted", "record": 0}]}, [REFUSED, TAKEN]),
        ({"status": "partial", "unprocessed": [{"code": 555, "error": "x", "record": 0}]},
         [Retry("CleverTap 555: x"), TAKEN]),
        ({"status": "partial", "unprocessed": [{"code": 509, "error": "x"}]},
         [Delivered("200", warning="a record of this request was not taken: CleverTap 509: x")] * 2),
        ({"status": "fail", "error": "no", "code": 400}, [Rejected("CleverTap: 400 no", "200")] * 2),
        ({"other": 1}, None),
        ("text", None),
    ],
)  # fmt: skip
def test_each_record_is_answered(answer: Any, expected: list[Delivery] | None) -> None:
    units = [_track(0), _track(1)]
    [batch] = _batches(units)
    if isinstance(answer, dict):
        for entry in answer.get("unprocessed") or []:
            if "record" in entry:
                entry["record"] = json.loads(json.dumps(_records(units[entry["record"]].calls[0])[0]))
    response = Response(200, {}, json.dumps(answer).encode())
    request: Request = encode(batch.calls[0])
    assert classify_each(batch.calls[0], request, response, units) == expected


def test_a_failed_request_is_read_by_its_status() -> None:
    units = [_track(0)]
    call = units[0].calls[0]
    assert classify_each(call, encode(call), Response(503, {}, b'{"status": "fail"}'), units) is None
