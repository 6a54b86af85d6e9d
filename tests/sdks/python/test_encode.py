"""Python objects as JSON: what others send and servers take."""

import json
import math
import uuid
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstem_analytics.encode import encode


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


@dataclass
class Point:
    x: int
    y: Decimal


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC), "2026-01-02T03:04:05.600000+00:00"),
        (datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),  # noqa: DTZ001
        (datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=-3))), "2026-01-02T00:00:00-03:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (time(3, 4), "03:04:00"),
        (timedelta(minutes=1.5), 90.0),
        (Decimal("9.95"), 9.95),
        (Decimal("NaN"), None),
        (Decimal("-Infinity"), None),
        (Fraction(1, 4), 0.25),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (b"caf\xc3\xa9", "café"),
        (b"\xff\x00", "/wA="),
        (bytearray(b"a"), "a"),
        (math.nan, None),
        (math.inf, None),
        (10**40, 10**40),
        ({"a"}, ["a"]),
        (frozenset((1,)), [1]),
        ((1, 2), [1, 2]),
        (deque([1]), [1]),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Point(1, Decimal(2)), {"x": 1, "y": 2.0}),
        (PurePosixPath("/a/b"), "/a/b"),
        (None, None),
        (True, True),
        ("half \ud83d of a pair", "half \ufffd of a pair"),
        ("two halves \ud83d\ude00", "two halves 😀"),
        ("line\nbreak", "line\nbreak"),
        (
            {1: "a", False: "b", None: "c", uuid.UUID(int=1): "d", (1, 2): "e", 1.5: "f"},
            {"1": "a", "false": "b", "null": "c", str(uuid.UUID(int=1)): "d", "(1, 2)": "e", "1.5": "f"},
        ),
    ],
)
@pytest.mark.parametrize("spoilt", [False, True], ids=["fast", "slow"])
def test_values(value: object, expected: object, spoilt: bool) -> None:
    """Both ways of encoding say the same: the quick one, and the one that a NaN forces."""
    event: dict[str, Any] = {"properties": {"value": value, "nested": [{"value": value}]}}
    if spoilt:
        event["spoilt"] = math.nan
    line = encode(event)
    assert b"\n" not in line
    found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))["properties"]
    assert found == {"value": expected, "nested": [{"value": expected}]}


def test_what_has_no_form_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    line = encode({"properties": {"thing": object(), "lambda": len, "kept": 1}})
    assert json.loads(line)["properties"] == {"thing": None, "lambda": None, "kept": 1}
    assert "type object" in caplog.text


def test_circles_and_depths_end(caplog: pytest.LogCaptureFixture) -> None:
    circle: dict[str, Any] = {"kept": 1}
    circle["self"] = circle
    assert json.loads(encode(circle))["self"]["kept"] == 1
    deep: Any = "bottom"
    for _ in range(5_000):
        deep = [deep]
    assert b"bottom" not in encode({"deep": deep})
    assert "nested deeper" in caplog.text


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), json_values))
def test_json_comes_back(event: dict[str, Any]) -> None:
    assert json.loads(encode(event)) == event
    assert json.loads(encode({**event, "spoilt": math.nan})) == {**event, "spoilt": None}
