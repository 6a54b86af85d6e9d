"""The fast way makes the same rows as the rules, whatever comes, and does what it can."""

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainstem.events.canonical import Event, canonical_event
from mainstem.events.stored import StoredEvent
from mainstem.warehouse.fit import Discard, write_parquet
from mainstem.warehouse.kinds import MOMENT_PATTERN, is_moment
from mainstem.warehouse.rows import Facts, Row, RowOptions, compile_rows
from mainstem.warehouse.schema import Columns
from mainstem.warehouse.shapes import Shapes, shapes_of
from mainstem.warehouse.spool import LoadFolder
from mainstem.warehouse.writer import PlannedRows

Json = Any
Tables = Mapping[str, tuple[Columns, Mapping[str, frozenset[str]], list[Json], list[Discard]]]

_FACTS = {"web": Facts(source_id="web", source_type="JavaScript"), "cloud": Facts(source_category="cloud")}


def _stored(message: Mapping[str, Json], number: int, source: str = "web") -> StoredEvent:
    body = {"messageId": f"m-{number}", "anonymousId": "a-1", **message}
    return StoredEvent(
        source,
        str(body["messageId"]),
        str(body["type"]),
        1_790_000_000_000 + number // 3,
        msgspec.json.encode(body),
        request_ip="192.0.2.9",
    )


def _rules(options: RowOptions) -> Any:
    compiled = compile_rows(options)

    def to_rows(event: Event) -> tuple[str, Sequence[Row]]:
        return f"space_{event.source_id}", compiled(event.message, _FACTS[event.source_id])

    return to_rows


def _tables(folder: Path, events: Sequence[StoredEvent], rules: Any, shapes: Shapes | None) -> Tables:
    made = PlannedRows(LoadFolder(folder / "loads", "rows"), canonical_event, rules, str, shapes)
    for start in range(0, len(events), 7):
        made.add((event, 0, start, start, None) for event in events[start : start + 7])
    made.finish()
    found: dict[str, Any] = {}
    for namespace, tables in made.by_namespace().items():
        for rows in tables:
            discards: list[Discard] = []
            path = folder / "rows.parquet"
            # As if the table had been made by other events: what does not fit shows, too.
            target = {name: "int" if name.startswith("odd") else kind for name, kind in rows.columns.items()}
            columns, count = write_parquet(rows, target, path, named=str, on_discard=discards.append)
            data = pq.read_table(path).to_pylist()
            assert len(data) == count
            found[f"{namespace}.{rows.table}"] = (
                rows.columns,
                dict(rows.seen),
                sorted(data, key=lambda row: repr(sorted(row.items(), key=lambda cell: cell[0]))),
                sorted(discards, key=repr),
            )
            assert set(columns) <= set(rows.columns)
    return found


def _compare(folder: Path, events: Sequence[StoredEvent], options: RowOptions) -> Shapes:
    rules = _rules(options)
    shapes = shapes_of(options, rules)
    assert shapes is not None
    shapes._worth_it = 1
    slow = _tables(folder, events, rules, None)
    fast = _tables(folder, events, rules, shapes)
    assert fast.keys() == slow.keys()
    for table, made in fast.items():
        assert made == slow[table], table
    return shapes


def _taken(shapes: Shapes, events: Sequence[StoredEvent]) -> int:
    return sum(shapes.find(canonical_event(event)) is not None for event in events)


_PLAIN = RowOptions(provider="duckdb")
_CONTEXT: Mapping[str, Json] = {
    "ip": "192.0.2.1",
    "page": {"url": "https://shop.example/", "referrer": "", "title": "Shop"},
    "traits": {"plan": "pro"},
    "library": {"name": "analytics.js", "version": "3"},
}


def _many(message: Mapping[str, Json], count: int = 20, **changes: Json) -> list[StoredEvent]:
    return [_stored({**copy.deepcopy(dict(message)), **changes}, number) for number in range(count)]


@pytest.mark.parametrize(
    "message",
    [
        {
            "type": "track",
            "event": "Order Completed",
            "userId": "u",
            "context": _CONTEXT,
            "properties": {"n": 1, "total": 2.5, "whole": 3.0, "first": True, "at": "2026-01-02T03:04:05Z"},
        },
        {
            "type": "identify",
            "userId": "u",
            "context": _CONTEXT,
            "traits": {"email": "a@x.example", "age": 3},
        },
        {"type": "page", "name": "Home", "context": _CONTEXT, "properties": {"url": "https://x.example"}},
        {"type": "screen", "name": 5, "context": _CONTEXT, "properties": {"list": [1, "a"], "none": []}},
        {"type": "group", "groupId": "g", "context": _CONTEXT, "traits": {"name": "Shop"}},
        {"type": "alias", "previousId": "old", "userId": "u", "context": _CONTEXT},
        {"type": "track", "event": "Nested", "properties": {"a": {"b": {"c": 1, "d": {}}}, "e": None}},
    ],
)
def test_what_looks_alike_is_taken_the_fast_way(tmp_path: Path, message: Mapping[str, Json]) -> None:
    events = _many(message)
    shapes = _compare(tmp_path, events, _PLAIN)
    assert _taken(shapes, events) == len(events)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"integrations": {"All": True, "DUCKDB": {"options": {"skipTracksTable": True}}}}, "rules it chose"),
        ({"properties": {"total": "1", "Total": "2"}}, "two keys, one column"),
        ({"context": {"traits": {"0": "a", "1": "b"}}}, "a text sent letter by letter"),
        ({"event": ""}, "no table"),
    ],
)
def test_what_depends_on_values_is_left_to_the_rules(
    tmp_path: Path, changes: Mapping[str, Json], why: str
) -> None:
    events = _many({"type": "track", "event": "Order", "properties": {"n": 1}}, **changes)
    shapes = _compare(tmp_path, events, _PLAIN)
    assert _taken(shapes, events) == 0, why


def test_numbers_in_columns_that_collide_have_one_each_always(tmp_path: Path) -> None:
    events = _many({"type": "track", "event": "Order", "properties": {"total": 1, "Total": 2}})
    assert _taken(_compare(tmp_path, events, _PLAIN), events) == len(events)


def test_a_value_that_another_column_has_already_is_left_to_the_rules(tmp_path: Path) -> None:
    events = [
        _stored(
            {
                "type": "track",
                "event": "E",
                "context": {"page": {"n": number % 3}},
                "properties": {"context": {"page": {"n": 2}}},
            },
            number,
        )
        for number in range(20)
    ]
    assert _taken(_compare(tmp_path, events, _PLAIN), events) == 0


def test_only_the_events_with_an_empty_address_are_left_to_the_rules(tmp_path: Path) -> None:
    events = [
        _stored({"type": "track", "event": "E", "context": {"ip": "" if number % 3 else "192.0.2.1"}}, number)
        for number in range(30)
    ]
    shapes = _compare(tmp_path, events, _PLAIN)
    assert _taken(shapes, events) == 10


def test_of_rows_with_one_id_the_last_stays_whichever_way_they_came(tmp_path: Path) -> None:
    common = {"type": "track", "event": "E", "context": {}}
    events = [_stored({**common, "properties": {"n": number}}, number) for number in range(5)]
    # The shape is known by now: 7 goes the fast way, 8 by the rules, 9 the fast way.
    for number, properties in ((7, {"n": 7}), (8, {"n": 8, "N": 8}), (9, {"n": 9})):
        events.append(_stored({**common, "messageId": "twice", "properties": properties}, number))
    rules = _rules(_PLAIN)
    shapes = shapes_of(_PLAIN, rules)
    assert shapes is not None
    shapes._worth_it = 1
    rows = _tables(tmp_path, events, rules, shapes)["space_web.e"][2]
    assert [row["n"] for row in rows if row["id"] == "twice"] == [9]


def test_shapes_without_end_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mainstem.warehouse.shapes._MAX_NODES", 50)
    shapes = shapes_of(_PLAIN, _rules(_PLAIN))
    assert shapes is not None
    for number in range(500):
        event = canonical_event(
            _stored({"type": "track", "event": "E", "properties": {f"k{number}": 1}}, number)
        )
        assert shapes.find(event) is None
    assert shapes._nodes <= 50
    wide = {"type": "track", "event": "E", "properties": {f"k{number}": 1 for number in range(3_000)}}
    assert _taken(shapes, _many(wide, 3)) == 0


_TEXTS = st.one_of(
    st.sampled_from(
        ["", "x", "2026-01-02", "2026-02-30", "2026-01-02T03:04:05.678Z", "2026-01-02 03:04+02", "0000-01-01"]
    ),
    st.sampled_from(["1234-abc", "not a date", "-", "é" * 300, "a" * 600, "null", "[]", "😀", "\x00"]),
    st.text(max_size=12),
)
_NUMBERS = st.one_of(
    st.integers(-5, 5),
    st.sampled_from([2**53, 2**63, -(2**63), 2**63 - 1, 10**25]),
    st.sampled_from([0.5, 1.0, -0.0, 1e15, 1e16, 1e300, 123456789012345.0, 0.1]),
)
_LEAVES = st.one_of(
    _TEXTS, _NUMBERS, st.booleans(), st.none(), st.lists(st.integers(0, 2) | _TEXTS, max_size=2)
)
_KEYS = st.sampled_from(
    ["n", "N", "total", "odd", "oddity", "at", "email", "id", "event", "received_at", "name"]
)
_OBJECTS = st.dictionaries(_KEYS, _LEAVES | st.dictionaries(_KEYS, _LEAVES, max_size=3), max_size=5)


@st.composite
def _histories(draw: st.DrawFn) -> list[StoredEvent]:
    """Some shapes, each many times, with other values."""
    shapes = draw(
        st.lists(
            st.fixed_dictionaries(
                {"type": st.sampled_from(["track", "identify", "page", "screen", "group", "alias"])},
                optional={
                    "event": st.sampled_from(["Order", "order", "Tracks", "", "Ünder"]),
                    "userId": st.sampled_from(["u1", "", "u2"]),
                    "context": st.fixed_dictionaries(
                        {},
                        optional={
                            "ip": st.sampled_from(["192.0.2.1", ""]),
                            "traits": _OBJECTS,
                            "page": _OBJECTS,
                        },
                    ),
                    "properties": _OBJECTS,
                    "traits": _OBJECTS,
                    "name": _LEAVES,
                    "groupId": _LEAVES,
                    "previousId": _LEAVES,
                    "sentAt": _TEXTS,
                    "timestamp": _TEXTS,
                },
            ),
            min_size=1,
            max_size=4,
        )
    )
    events: list[StoredEvent] = []
    for shape in shapes:
        for _ in range(draw(st.integers(1, 6))):
            message = _varied(shape, draw)
            events.append(_stored(message, len(events), draw(st.sampled_from(["web", "web", "cloud"]))))
    order = draw(st.permutations(range(len(events))))
    return [events[index] for index in order]


def _varied(value: Json, draw: st.DrawFn) -> Json:
    """The same shape with other values, most of the time."""
    if isinstance(value, dict):
        return {key: item if key in ("type", "event") else _varied(item, draw) for key, item in value.items()}
    if isinstance(value, bool):
        return draw(st.booleans())
    if isinstance(value, str):
        return draw(_TEXTS)
    if isinstance(value, float) and math.isfinite(value):
        return draw(st.sampled_from([value, 0.5, 2.0, 1e17]))
    if isinstance(value, int):
        return draw(st.sampled_from([value, 1, 2**64]))
    return value


@pytest.mark.parametrize(
    "options",
    [
        _PLAIN,
        RowOptions(provider="duckdb", keep_empty_strings=True),
        RowOptions(provider="rs", allow_users_context_traits=True),
        RowOptions(provider="snowflake", skip_tracks_table=True),
        RowOptions(provider="clickhouse", store_full_event=True),
        RowOptions(provider="postgres", json_paths=("track.properties.n", "at"), id_resolution=True),
        RowOptions(provider="bq", underscore_divide_numbers=True, max_columns=20),
    ],
    ids=lambda options: str(options.provider),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=_histories())
def test_both_ways_make_the_same_tables(
    tmp_path: Path, options: RowOptions, events: list[StoredEvent]
) -> None:
    # Twice: the second time the shapes are known.
    again = [msgspec.structs.replace(event, message_id=f"{event.message_id}-2") for event in events]
    _compare(tmp_path, [*events, *again], options)


@given(text=st.from_regex(MOMENT_PATTERN.replace(r"\z", r"\Z"), fullmatch=True) | _TEXTS)
def test_arrow_and_the_rules_know_the_same_times(text: str) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    if text.isprintable():
        assert pc.match_substring_regex(pa.array([text]), MOMENT_PATTERN).to_pylist() == [is_moment(text)]
