"""Edits at paths: what is asked for changes, nothing else does, and the message given stays as it was."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem.destinations.kit.paths import MISSING, compile_read, parse_path
from mainstem.transformations.ready.edit import check_path, check_writable, compile_edit, put, without

VALUES = st.recursive(
    st.one_of(st.none(), st.integers(0, 3), st.text("ab", max_size=2)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=10,
)
MESSAGES = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)
MEMBERS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join)


@pytest.mark.parametrize(
    ("message", "path", "expected"),
    [
        ({}, "a", {"a": 1}),
        ({}, "a.b.c", {"a": {"b": {"c": 1}}}),
        ({"a": {"x": 0}}, "a.b", {"a": {"x": 0, "b": 1}}),
        ({"a": None}, "a.b", {"a": {"b": 1}}),
        ({"a": "text"}, "a.b", {"a": "text"}),
        ({"a": [0]}, "a.b", {"a": [0]}),
        ({"a": [0, 0]}, "a[1]", {"a": [0, 1]}),
        ({"a": [0]}, "a[1]", {"a": [0]}),
        ({}, "a[0]", {}),
        ({"a": {}}, "a[0]", {"a": {}}),
        ({"a": [{}, {"b": 0}, "x"]}, "a[*].b", {"a": [{"b": 1}, {"b": 1}, "x"]}),
        ({"a": {"b": 0}}, "a[*].b", {"a": {"b": 0}}),
        ({"odd name": 0}, "$['odd name']", {"odd name": 1}),
    ],
)
def test_put(message: dict[str, Any], path: str, expected: dict[str, Any]) -> None:
    assert put(message, compile_edit(path), 1) == expected


@pytest.mark.parametrize(
    ("message", "path", "expected"),
    [
        ({"a": 0, "b": 0}, "a", {"b": 0}),
        ({"a": {"b": None}}, "a.b", {"a": {}}),
        ({"a": {}}, "a.b", {"a": {}}),
        ({}, "a.b", {}),
        ({"a": [0, 1, 2]}, "a[1]", {"a": [0, 2]}),
        ({"a": [{"b": 0}, {}]}, "a[*].b", {"a": [{}, {}]}),
        ({"a": [0, 1]}, "a[*]", {"a": []}),
    ],
)
def test_without(message: dict[str, Any], path: str, expected: dict[str, Any]) -> None:
    assert without(message, compile_edit(path)) == expected


@given(message=MESSAGES, path=MEMBERS)
def test_what_is_put_is_there_and_the_message_given_stays(message: dict[str, Any], path: str) -> None:
    before, read, edit = copy.deepcopy(message), compile_read(parse_path(path)), compile_edit(path)
    changed = put(message, edit, 7)
    assert message == before
    assert read(changed) == 7 or changed is message
    gone = without(changed, edit)
    assert read(gone) is MISSING
    assert message == before


@given(message=MESSAGES, path=MEMBERS)
def test_an_edit_that_changes_nothing_gives_the_very_same(message: dict[str, Any], path: str) -> None:
    assert compile_edit(path)(message, lambda value: value) is message
    assert compile_edit(path + "[*]")(message, lambda value: value) is message


def test_what_is_not_on_the_way_is_shared() -> None:
    message = {"a": {"b": 0}, "c": {"d": 0}}
    changed = put(message, compile_edit("a.b"), 1)
    assert changed["c"] is message["c"]


@pytest.mark.parametrize(
    ("path", "one", "text"),
    [
        ("", False, "`paths`: an empty path"),
        ("$", False, "`paths`: `$` is the whole event"),
        ("a..b", False, "`paths`: `a..b` is no path"),
        ("a[*].b", True, "`paths`: `a[*].b` means many fields"),
    ],
)
def test_paths_that_are_none(path: str, one: bool, text: str) -> None:
    with pytest.raises(ValueError, match=r"^`") as raised:
        check_path("paths", path, one=one)
    assert str(raised.value).startswith(text)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("messageId", "`to`: messageId is what makes deliveries repeatable"),
        ("$.messageId.x", "`to`: messageId is what makes deliveries repeatable"),
        ("a[0]", "`to`: `a[0]` is an element of a list"),
        ("a[*].b", "`to`: `a[*].b` means many fields"),
    ],
)
def test_paths_that_are_not_written_to(path: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"^`") as raised:
        check_writable("to", path)
    assert str(raised.value).startswith(text)
