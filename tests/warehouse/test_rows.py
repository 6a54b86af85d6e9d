"""Rows from events: the tables of each type, and that nothing is lost, whatever an event says."""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstem.warehouse.kinds import json_text
from mainstem.warehouse.naming import ENGINES
from mainstem.warehouse.rows import (
    Facts,
    Row,
    RowOptions,
    RowsRefused,
    columns_of,
    compile_rows,
    options_of,
)
from mainstem.warehouse.settings import WarehouseSettings

Json = Any

_MAINSTEM = compile_rows(RowOptions(provider="duckdb"))
_CONTEXT: Mapping[str, Json] = {"ip": "192.0.2.1", "app": {"name": "shop"}, "traits": {"plan": "pro"}}


def _event(kind: str, **fields: Json) -> dict[str, Json]:
    return {
        "type": kind,
        "messageId": "m-1",
        "anonymousId": "a-1",
        "userId": "u-1",
        "channel": "web",
        "context": dict(_CONTEXT),
        "receivedAt": "2026-01-02T03:04:05.678Z",
        "request_ip": "192.0.2.9",
        **fields,
    }


def _rows(event: Mapping[str, Json], **options: Json) -> dict[str, Row]:
    rows = compile_rows(RowOptions(**{"provider": "duckdb", **options}))(event, Facts())
    for row in rows:
        assert set(row.data) <= set(row.columns)
    assert len({row.table for row in rows}) == len(rows)
    return {row.table: row for row in rows}


# ------------------------------------------------------------ tables


def test_a_track_event_is_a_row_of_tracks_and_of_its_own_table() -> None:
    rows = _rows(_event("track", event="Order Completed", properties={"total": 12.5, "items": 2}))
    assert list(rows) == ["tracks", "order_completed"]
    own = rows["order_completed"]
    assert own.data["total"] == 12.5
    assert own.columns["total"] == "float"
    assert own.columns["items"] == "int"
    assert own.data["event"] == "order_completed"
    assert own.data["event_text"] == "Order Completed"
    assert own.data["context_app_name"] == "shop"
    assert own.data["context_ip"] == own.data["context_passed_ip"] == "192.0.2.1"
    assert own.data["context_request_ip"] == "192.0.2.9"
    assert own.columns["received_at"] == own.columns["uuid_ts"] == "datetime"
    assert "total" not in rows["tracks"].data
    assert rows["tracks"].data["id"] == "m-1"


def test_an_identify_is_a_row_of_identifies_and_the_latest_of_users() -> None:
    rows = _rows(_event("identify", traits={"email": "a@example.com", "id": 7, "userId": "other"}))
    assert list(rows) == ["identifies", "users"]
    assert rows["identifies"].data["id"] == "m-1"
    users = rows["users"].data
    assert users["id"] == "u-1"
    assert users["email"] == "a@example.com"
    assert users["context_traits_plan"] == "pro"
    assert "anonymous_id" not in users
    assert users["_id"] == 7  # what is called like a column of ours stands beside it
    assert users["_user_id"] == "other"


@pytest.mark.parametrize(
    ("kind", "table", "field", "column"),
    [
        ("page", "pages", "name", "name"),
        ("screen", "screens", "name", "name"),
        ("group", "groups", "groupId", "group_id"),
        ("alias", "aliases", "previousId", "previous_id"),
    ],
)
def test_other_types_have_a_table_each(kind: str, table: str, field: str, column: str) -> None:
    section = "properties" if kind in ("page", "screen") else "traits"
    rows = _rows(_event(kind, **{field: "x", section: {"colour": "red"}}))
    assert list(rows) == [table]
    assert rows[table].data[column] == "x"
    assert rows[table].data["colour"] == "red"


def test_a_page_is_named_by_its_properties_if_by_nothing_else() -> None:
    assert _rows(_event("page", properties={"name": "Home"}))["pages"].data["name"] == "Home"
    both = _rows(_event("page", name="Home", properties={"name": "House"}))["pages"].data
    assert (both["name"], both["_name"]) == ("Home", "House")
    same = _rows(_event("page", name="Home", properties={"name": "Home"}))["pages"].data
    assert "_name" not in same


def test_tables_can_be_left_out() -> None:
    track = _event("track", event="Seen", properties={"a": 1})
    assert list(_rows(track, skip_tracks_table=True)) == ["seen"]
    assert list(_rows(_event("identify", traits={}), skip_users_table=True)) == ["identifies"]
    anonymous = {**_event("identify", traits={"a": 1}), "userId": ""}
    assert list(_rows(anonymous)) == ["identifies"]
    asked = _event("track", event="Seen", integrations={"POSTGRES": {"options": {"skipTracksTable": True}}})
    asked["integrations"]["All"] = True
    assert list(_rows(asked, provider="postgres")) == ["seen"]


def test_an_event_called_like_a_table_of_ours_has_its_own() -> None:
    assert list(_rows(_event("track", event="Users"))) == ["tracks", "_users"]


def test_the_whole_event_can_be_kept() -> None:
    event = _event("track", event="Seen", properties={"big": 2**80})
    rows = _rows(event, store_full_event=True)
    assert '"big":1208925819614629174706176' in rows["tracks"].data["rudder_event"]
    assert "rudder_event" not in rows["seen"].data
    alone = _rows(event, store_full_event=True, skip_tracks_table=True)
    assert "rudder_event" in alone["seen"].data


def test_paths_can_be_columns_of_json() -> None:
    event = _event(
        "track",
        event="Seen",
        properties={"cart": {"a": [1]}, "deep": {"x": {"y": 1}, "z": 2}},
        context={"page": {"tags": ["a"]}},
    )
    row = _rows(
        event, json_paths=("track.properties.cart", "deep.x", "track.context.page.tags"), provider="postgres"
    )["seen"]
    assert row.data["cart"] == '{"a":[1]}'
    assert row.columns["cart"] == row.columns["deep_x"] == row.columns["context_page_tags"] == "json"
    assert row.columns["deep_z"] == "int"


def test_a_merge_is_kept_and_can_resolve_identities() -> None:
    pair = [{"type": "email", "value": "a@example.com"}, {"type": "phone", "value": "1"}]
    event = _event("merge", mergeProperties=pair)
    assert "a@example.com" in _rows(event)["merges"].data["merge_properties"]
    rules = _rows(event, id_resolution=True)["rudder_identity_merge_rules"].data
    assert rules == {
        "merge_property_1_type": "email",
        "merge_property_1_value": "a@example.com",
        "merge_property_2_type": "phone",
        "merge_property_2_value": "1",
    }
    with pytest.raises(RowsRefused, match="mergeProperties"):
        _rows(_event("merge", mergeProperties=pair[:1]), id_resolution=True)
    identified = _rows(_event("identify", traits={}), id_resolution=True)
    assert list(identified) == ["identifies", "rudder_identity_merge_rules", "users"]


def test_records_of_cloud_sources_have_ids_of_their_own() -> None:
    event = _event("track", event="Row", recordId=42, properties={}, context={"sources": {"version": "1"}})
    rows = compile_rows(RowOptions(provider="duckdb"))(event, Facts(source_category="cloud"))
    assert [row.data["id"] for row in rows] == ["m-1", "42"]
    del event["recordId"]
    with pytest.raises(RowsRefused, match="recordId"):
        compile_rows(RowOptions(provider="duckdb"))(event, Facts(source_category="cloud"))


def test_source_and_destination_are_told() -> None:
    facts = Facts(source_id="web", source_type="javascript", destination_id="d", destination_type="DUCKDB")
    data = _MAINSTEM(_event("page"), facts)[0].data
    assert data["context_source_id"] == "web"
    assert data["context_destination_type"] == "DUCKDB"


def test_settings_become_options() -> None:
    settings = msgspec.convert(
        {"jsonPaths": " a.b , c", "skipTracksTable": True, "compatibility": "rudderstack"}, WarehouseSettings
    )
    options = options_of(settings, "bq")
    assert options.json_paths == ("a.b", "c")
    assert options.skip_tracks_table
    assert options.compatibility == "rudderstack"


def test_every_column_of_ours_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "warehouse-tables.md").read_text("utf-8")
    facts = Facts(source_id="s", source_type="t", destination_id="d", destination_type="t")
    for kind in ("track", "identify", "page", "screen", "group", "alias", "merge", "extract"):
        event = _event(kind, event="Seen", name="n", groupId="g", previousId="p", mergeProperties=[1])
        event |= {"sentAt": "2026-01-01", "timestamp": "2026-01-01", "originalTimestamp": "2026-01-01"}
        event["context"] = {"ip": "192.0.2.1"}
        for row in compile_rows(RowOptions(provider="duckdb", store_full_event=True))(event, facts):
            assert f"`{row.table}`" in page or row.table == "seen"
            assert [name for name in row.columns if f"`{name}`" not in page] == []


# ------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("event", "why"),
    [
        ({"type": "unheard"}, "no tables for events of type unheard"),
        ({}, "of type none"),
        ({"type": "track", "event": "", "properties": {"a": 1}}, "without a name"),
        ({"type": "extract", "properties": {"a": 1}}, "without a name"),
        (
            {"type": "track", "event": "x", "properties": {f"p{i}": i for i in range(1700)}},
            "too many columns",
        ),
    ],
)
def test_what_can_not_be_rows_is_refused(event: dict[str, Json], why: str) -> None:
    with pytest.raises(RowsRefused, match=why):
        _MAINSTEM(event, Facts())


def test_a_track_event_without_a_name_and_properties_is_a_row_of_tracks() -> None:
    assert list(_rows(_event("track", properties={}))) == ["tracks"]


# ------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("value", "kind", "kept"),
    [
        (5, "int", 5),
        (5.0, "int", 5),
        (2**53 + 1, "int", 2**53 + 1),
        (2**63 - 1, "int", 2**63 - 1),
        (-(2**63), "int", -(2**63)),
        (2**63, "string", "9223372036854775808"),
        (1e300, "float", 1e300),
        (0.1, "float", 0.1),
        (math.nan, "string", "NaN"),
        (math.inf, "string", "Infinity"),
        (True, "boolean", True),
        ("x" * 100_000, "string", "x" * 100_000),
        ("2026-01-02", "datetime", "2026-01-02"),
        ("2026-01-02T03:04:05.678+05:30", "datetime", "2026-01-02T03:04:05.678+05:30"),
        ("2026-02-31", "string", "2026-02-31"),
        ("0000-01-01", "string", "0000-01-01"),
        ("2026-W01-1", "string", "2026-W01-1"),
        ([1, [2, {"a": 2**70}]], "string", '[1,[2,{"a":1180591620717411303424}]]'),
        ([math.nan], "string", '["NaN"]'),
    ],
)
def test_values_are_kept(value: Json, kind: str, kept: Json) -> None:
    row = _rows(_event("track", event="e", properties={"v": value}))["e"]
    assert (row.columns["v"], row.data["v"]) == (kind, kept)


@pytest.mark.parametrize("value", ["", None, [], {}])
def test_nothing_is_no_value(value: Json) -> None:
    assert "v" not in _rows(_event("track", event="e", properties={"v": value}))["e"].data


def test_empty_texts_can_be_kept() -> None:
    row = _rows(_event("track", event="e", properties={"v": ""}), keep_empty_strings=True)["e"]
    assert row.data["v"] == ""


def test_long_texts_of_redshift_are_text() -> None:
    row = _rows(_event("track", event="e", properties={"v": "é" * 513, "w": "é" * 512}), provider="rs")["e"]
    assert (row.columns["v"], row.columns["w"]) == ("text", "string")


def test_ids_are_texts_whatever_they_are_sent_as() -> None:
    row = _rows({**_event("identify", traits={}), "userId": 100.0, "anonymousId": {"a": 1}})["users"]
    assert (row.data["id"], row.columns["id"]) == ("100", "string")


def test_keys_that_would_share_a_column_do_not() -> None:
    for properties in ({"a b": 1, "a_b": 2, "aB": 3}, {"aB": 3, "a_b": 2, "a b": 1}):
        data = _rows(_event("track", event="e", properties=properties))["e"].data
        assert data["a_b"] == 2
        apart = {name: value for name, value in data.items() if name.startswith("a_b_")}
        assert sorted(apart.values()) == [1, 3]
        assert {name for name, value in apart.items() if value == 1} == {"a_b_c8687a08"}


def test_what_the_context_has_already_stands_beside_it() -> None:
    data = _rows(_event("track", event="e", properties={"context_app_name": "mine"}))["e"].data
    assert (data["context_app_name"], data["_context_app_name"]) == ("shop", "mine")


def test_traits_win_over_those_of_the_context() -> None:
    event = _event("identify", traits={"plan": "free"})
    data = _rows(event, allow_users_context_traits=True)["users"].data
    assert (data["plan"], data["context_traits_plan"]) == ("free", "pro")
    assert _rows(_event("identify"), allow_users_context_traits=True)["users"].data["plan"] == "pro"
    assert "plan" not in _rows(_event("identify"))["users"].data


def test_parts_that_a_type_does_not_have_are_kept_with_a_prefix() -> None:
    data = _rows(_event("track", event="e", properties={"a": 1}, traits={"b": 2}))["e"].data
    assert (data["a"], data["traits_b"]) == (1, 2)
    assert _rows(_event("identify", properties={"c": 3}))["identifies"].data["properties_c"] == 3
    assert _rows(_event("page", properties="odd", context=[1]))["pages"].data["properties"] == "odd"


def test_a_text_sent_letter_by_letter_is_one_again() -> None:
    event = _event("page", context={"traits": {"0": "a", "1": "b"}})
    assert _rows(event)["pages"].data["context_traits"] == "ab"


def test_columns_of_alone() -> None:
    data, columns = columns_of({"a": {"b": 1}}, RowOptions(provider="duckdb"), "track")
    assert (data, columns) == ({"a_b": 1}, {"a_b": "int"})


# ------------------------------------------------------------ any event

_HARD_KEYS = (
    *(
        "id",
        "userId",
        "user_id",
        "_user_id",
        "name",
        "event",
        "event_text",
        "timestamp",
        "uuid_ts",
        "ip",
        "app",
    ),
    *("a b", "a_b", "aB", "a.b", "context", "context_ip", "context_app_name", "traits", "order", "select"),
    *("0", "1", "9a", "名前", "naïve", "Naïve", "%", "$", "", "_", "__a", "🎉", "x" * 80, "x" * 81),
)
_keys = st.one_of(
    st.sampled_from(_HARD_KEYS),
    st.text(max_size=12),
)
_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-(2**70), max_value=2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["2026-01-02", "2026-01-02T03:04:05Z", "2026-99-99", "", "x" * 600]),
)
_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_keys, inner, max_size=5)),
    max_leaves=12,
)
_objects = st.dictionaries(_keys, _values, max_size=8)
_types = st.sampled_from(["track", "identify", "page", "screen", "group", "alias", "merge", "extract"])
_events = st.fixed_dictionaries(
    {"type": _types},
    optional={
        "event": st.one_of(st.text(max_size=20), _values),
        "name": _values,
        "messageId": _values,
        "userId": _values,
        "anonymousId": _values,
        "groupId": _values,
        "previousId": _values,
        "receivedAt": _values,
        "timestamp": _values,
        "request_ip": _values,
        "mergeProperties": _values,
        "integrations": _values,
        "properties": st.one_of(_objects, _values),
        "traits": st.one_of(_objects, _values),
        "userProperties": _objects,
        "context": st.one_of(_objects, _values),
    },
)
_FEW = settings(max_examples=120, deadline=None)
_PROVIDERS = sorted([*ENGINES, "duckdb", "iceberg", "parquet", "somebody's"])


def _leaves(value: Json) -> list[Json]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    return [] if value is None or value in ("", []) else [value]


def _as_cell(value: Json) -> Json:
    if isinstance(value, list):
        return json_text(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return int(value) if value.is_integer() and abs(value) <= 2**53 else value
    if type(value) is int and not -(2**63) <= value < 2**63:
        return str(value)
    return value


def _letters(value: Json) -> str:
    """Return what an object of single letters says."""
    return "".join(map(str, value.values())) if isinstance(value, dict) else ""


def _tagged(value: Json) -> tuple[str, Json]:
    return type(value).__name__, value


@_FEW
@given(_events, st.sampled_from(_PROVIDERS), st.booleans())
def test_any_event_is_rows_or_refused_and_nothing_is_lost(
    event: dict[str, Json], provider: str, allow: bool
) -> None:
    before = copy.deepcopy(event)
    rows_of = compile_rows(RowOptions(provider=provider, allow_users_context_traits=allow))
    try:
        rows = rows_of(event, Facts())
    except RowsRefused:
        rows = None
    assert repr(event) == repr(before)
    if rows is None:
        return
    for row in rows:
        assert row.table
        assert all(row.columns)
        assert set(row.data) <= set(row.columns)
        assert len({name.lower() for name in row.columns}) == len(row.columns)
        assert all(not isinstance(value, dict | list) for value in row.data.values())
    cells = {_tagged(value) for row in rows for value in row.data.values()}
    context = event.get("context")
    if isinstance(context, dict) and ("str", _letters(context.get("traits"))) in cells:
        context = {key: value for key, value in context.items() if key != "traits"}
    for part in (event.get("properties"), event.get("traits"), context):
        for leaf in _leaves(part):
            kept = _as_cell(leaf)
            texts = {json_text(kept), str(kept)}  # an id or an address is a text whatever it was sent as
            if isinstance(kept, float):
                texts.add(str(int(kept)))
            assert _tagged(kept) in cells or any(_tagged(text) in cells for text in texts), leaf


@pytest.mark.parametrize("kind", ["track", "identify", "page", "screen", "group", "alias"])
@pytest.mark.parametrize("context", [{}, {"ip": "10.0.0.1"}])
def test_a_property_that_is_spelled_like_the_address_is_kept(kind: str, context: Json) -> None:
    part = "traits" if kind in ("identify", "group", "alias") else "properties"
    event = {"type": kind, "event": "Seen", part: {"context": {"ip": 1000}}, "context": context}
    row = _MAINSTEM(event, Facts())[-1]
    assert 1000 in row.data.values()
    assert row.data.get("context_ip") == context.get("ip")


@_FEW
@given(
    st.recursive(st.just(None), lambda inner: st.dictionaries(_keys, inner, min_size=1, max_size=5)), _types
)
def test_every_leaf_has_a_cell_of_its_own(shape: Json, kind: str) -> None:
    numbered = iter(range(1000, 10**9))

    def number(value: Json) -> Json:
        if isinstance(value, dict):
            return {key: number(item) for key, item in value.items()}
        return next(numbered)

    properties, traits, context = number(shape), number(shape), number(shape)
    event = {"type": kind, "event": "Seen", "properties": properties, "traits": traits, "context": context}
    rows = _MAINSTEM(event, Facts())
    cells = {str(value) for row in rows for value in row.data.values()}
    assert {str(leaf) for leaf in range(1000, next(numbered))} <= cells


@_FEW
@given(_events, st.sampled_from(_PROVIDERS))
def test_any_event_by_rudderstacks_rules_is_rows_or_refused(event: dict[str, Json], provider: str) -> None:
    before = repr(event)
    rows_of = compile_rows(
        RowOptions(provider=provider, compatibility="rudderstack", allow_users_context_traits=True)
    )
    try:
        rows = rows_of(event, Facts())
    except RowsRefused:
        rows = []
    assert repr(event) == before
    for row in rows:
        assert set(row.data) <= set(row.columns)


def test_objects_nested_without_end_are_kept_or_refused() -> None:
    deep: Json = "leaf"
    for _ in range(400):
        deep = {"a": deep}
    row = _rows(_event("track", event="e", properties=deep))["e"]
    assert any("leaf" in str(value) for value in row.data.values())
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(RowsRefused, match="nested too deep"):
        _MAINSTEM(_event("track", event="e", properties=deep), Facts())
