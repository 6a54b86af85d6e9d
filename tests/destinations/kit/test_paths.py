"""The path language: what it reads, what it writes, what it refuses."""

from typing import Any

import pytest

from mainstem.destinations.kit.paths import (
    MISSING,
    PathInvalid,
    compile_read,
    compile_value,
    compile_write,
    literal,
    parse_path,
    without_gaps,
)

EVENT = {
    "userId": "u",
    "traits": {"first name": "Ann", "a.b": 1, "none": None, "it's": 2},
    "products": [{"id": 1, "tags": ["x", "y"]}, {"name": "no id"}, {"id": 3, "tags": []}],
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$", EVENT),
        ("$.userId", "u"),
        ("userId", "u"),
        ("$.traits['first name']", "Ann"),
        ("$.traits.first name", "Ann"),
        ('$.traits."a.b"', 1),
        ("$.traits['it\\'s']", 2),
        ("$['traits'].none", None),
        ("$.products[0].id", 1),
        ("$.products.[0].id", 1),
        ("$.products[*].id", [1, MISSING, 3]),
        ("$.products[*].tags[*]", [["x", "y"], MISSING, []]),
        ("$.products[9].id", MISSING),
        ("$.products.id", MISSING),
        ("$.userId.deeper", MISSING),
        ("$.userId[0]", MISSING),
        ("$.traits[*]", MISSING),
        ("$.absent.deeper", MISSING),
    ],
)
def test_reads(path: str, value: Any) -> None:
    assert compile_read(parse_path(path))(EVENT) == value


@pytest.mark.parametrize(
    "path", ["", "  ", "$.", "$.a[", "$.a[x]", "$.a..b", "$.a[?(@.b)]", "$.a['b", "$a[-1]"]
)
def test_refuses_what_is_no_path(path: str) -> None:
    with pytest.raises(PathInvalid, match="path"):
        parse_path(path)


def _written(*rows: tuple[str, Any]) -> Any:
    body: Any = MISSING
    for path, value in rows:
        body = compile_write(parse_path(path))(body, value)
    return without_gaps(body)


@pytest.mark.parametrize(
    ("rows", "body"),
    [
        ([("$.a.b", 1), ("$.a.c", 2)], {"a": {"b": 1, "c": 2}}),
        ([("$.a", 1), ("$.a.b", 2)], {"a": {"b": 2}}),
        ([("$.a[1].b", 1)], {"a": [None, {"b": 1}]}),
        ([("$.i[*].id", [1, MISSING, 3]), ("$.i[*].n", ["x", "y", "z"])],
         {"i": [{"id": 1, "n": "x"}, {"n": "y"}, {"id": 3, "n": "z"}]}),
        ([("$.i[*].t[*].v", [[1, 2], [3]])], {"i": [{"t": [{"v": 1}, {"v": 2}]}, {"t": [{"v": 3}]}]}),
        ([("$.i[*].id", [MISSING])], {"i": [None]}),
        ([("$", {"a": 1}), ("$.b", 2)], {"a": 1, "b": 2}),
    ],
)  # fmt: skip
def test_writes(rows: list[tuple[str, Any]], body: Any) -> None:
    assert _written(*rows) == body


def test_an_index_far_away_does_not_fill_the_memory() -> None:
    with pytest.raises(PathInvalid, match="too far"):
        compile_write(parse_path("$.a[999999]"))


@pytest.mark.parametrize(
    ("text", "value"),
    [("'2'", "2"), ("2", 2), ("2.5", 2.5), ("true", True), ("null", None), ("c1", "c1"), ('"a"', "a"),
     ("'it\\'s'", "it's"), ("'", "'"), ("", ""), (" a ", " a "), ("[1]", "[1]"), ("$5", "$5")],
)  # fmt: skip
def test_constants(text: str, value: Any) -> None:
    assert literal(text) == value
    assert compile_value(text)({}) == value
