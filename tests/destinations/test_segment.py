"""Segment's batches."""

from mainstem.destinations.base import Batch, Unit
from mainstem.destinations.segment import make_batcher
from tests.destinations.events import config_of, event_of, mapped

RAW = {"writeKey": "key-1234"}


def _units(count: int, properties: dict[str, object]) -> list[Unit]:
    units = []
    for index in range(count):
        message = {"type": "track", "userId": f"u{index}", "event": "E", "properties": properties}
        calls = mapped("segment", RAW, message)
        assert isinstance(calls, tuple)
        units.append(Unit(index, calls, event_of(message)))  # type: ignore[arg-type]
    return units


def _batches(count: int, properties: dict[str, object]) -> list[Batch]:
    made = make_batcher(config_of("segment", RAW))(_units(count, properties))
    assert isinstance(made, list)
    return made


def test_events_go_together_in_order() -> None:
    [batch] = _batches(3, {})
    assert batch.units == (0, 1, 2)
    [call] = batch.calls
    assert call.body is not None
    assert [item["userId"] for item in call.body.value["batch"]] == ["u0", "u1", "u2"]


def test_a_batch_stays_below_what_segment_takes() -> None:
    batches = _batches(4, {"long": "x" * 200_000})
    assert [batch.units for batch in batches] == [(0, 1), (2, 3)]
    assert [len(batch.units) for batch in _batches(150, {})] == [
        100,
        50,
    ]
