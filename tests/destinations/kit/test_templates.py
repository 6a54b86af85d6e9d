"""Templates: references, defaults, trees."""

from typing import Any

import pytest

from mainstem.destinations.kit.body import quoted
from mainstem.destinations.kit.paths import MISSING, PathInvalid
from mainstem.destinations.kit.templates import compile_text, compile_tree, constants

EVENT: dict[str, Any] = {
    "a": "x",
    "n": 1.5,
    "empty": "",
    "none": None,
    "o": {"k": [1]},
    "list": [{"v": 1}, {}],
}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("plain", "plain"),
        ("{{ a }}", "x"),
        ("{{message.a}}-{{ $.n }}", "x-1.5"),
        ("<{{ o }}>", '<{"k":[1]}>'),
        ("{{ list[*].v }}", "[1,null]"),
        ("{{ absent || 'free' }}", "free"),
        ("{{ empty || free }}", "free"),
        ("{{ none || 3 }}!", "3!"),
        ("{{ a || b }}", "x"),
        ("{{ absent }}", MISSING),
        ("x {{ none }}", MISSING),
        ("{ not one }", "{ not one }"),
    ],
)
def test_texts(text: str, filled: Any) -> None:
    assert compile_text(text)(EVENT) == filled


def test_values_are_escaped_in_a_url_but_not_its_beginning() -> None:
    event = {"host": "https://h.example/p", "id": "a/b?c#d"}
    assert compile_text("{{ host }}/{{ id }}", quoted)(event) == "https://h.example/p/a%2Fb%3Fc%23d"
    assert compile_text("https://h.example/{{ id }}", quoted)(event) == "https://h.example/a%2Fb%3Fc%23d"


def test_trees_keep_types_and_leave_out_what_is_absent() -> None:
    tree = {
        "s": "$.a",
        "n": "{{ n }}",
        "t": "n={{ n }}",
        "o": {"all": "$.o", "no": "$.absent"},
        "l": ["$.absent", "$.a", 3, None],
        "d": "{{ absent || 7 }}",
        "null": "$.none",
        "whole": "two {{ a }} {{ a }}",
    }
    assert compile_tree(tree)(EVENT) == {
        "s": "x",
        "n": 1.5,
        "t": "n=1.5",
        "o": {"all": {"k": [1]}},
        "l": ["x", 3, None],
        "d": 7,
        "null": None,
        "whole": "two x x",
    }
    assert compile_tree("$")(EVENT) is EVENT


def test_a_wrong_reference_names_its_place() -> None:
    with pytest.raises(PathInvalid, match=r"^items\[1\]\.id: "):
        compile_tree({"items": ["$.a", {"id": "{{ a[ }}"}]})


def test_what_a_template_says_by_itself() -> None:
    assert constants("Bearer abc-{{ a || 'dflt' }} end") == ("Bearer abc-", "end", "dflt")
    assert constants("plain") == ("plain",)
