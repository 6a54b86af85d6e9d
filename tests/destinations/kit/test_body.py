"""Bodies: exact bytes."""

from typing import Any
from urllib.parse import parse_qsl
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem.destinations.kit.body import (
    JsonTexts,
    flat,
    form_bytes,
    json_bytes,
    quoted,
    xml_bytes,
    xml_name,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [True, None, "ü"]}, '{"b":1,"a":[true,null,"ü"]}'),
        (2**80, str(2**80)),
        (float("nan"), "null"),
        ({"s": "\ud800", "n": float("inf")}, '{"s":"\\ud800","n":null}'),
    ],
)
def test_json(value: Any, text: str) -> None:
    assert json_bytes(value).decode() == text


def test_form_fields() -> None:
    body = {"a b": "c&d", "n": 1, "none": None, "o": {"k": "ü"}, "l": [1], "t": True}
    assert form_bytes(body) == b"a+b=c%26d&n=1&o=%7B%22k%22%3A%22%C3%BC%22%7D&l=%5B1%5D&t=true"
    assert form_bytes([1]) == b"body=%5B1%5D"


def test_texts_that_are_json_are_sent_as_what_they_say() -> None:
    assert parse_qsl(form_bytes({"data": JsonTexts(['{"a":"x"}', "1"])}).decode()) == [
        ("data", '[{"a":"x"},1]')
    ]
    assert parse_qsl(form_bytes({"data": ['{"a":"x"}']}).decode()) == [("data", '["{\\"a\\":\\"x\\"}"]')]


def test_xml() -> None:
    body = {"a": "<&>", "items": [{"id": 1}, {"id": 2}], "empty": None, "1st": [[1, 2]], "t": True}
    assert xml_bytes(body, "r") == (
        b'<?xml version="1.0" encoding="UTF-8"?><r><a>&lt;&amp;&gt;</a><items><id>1</id></items>'
        b"<items><id>2</id></items><empty></empty><_1st><item>1</item><item>2</item></_1st><t>true</t></r>"
    )


# Names beyond: the standard's fifth edition allows more of them than Python's parser knows.
_names = st.text(st.characters(max_codepoint=0x131))
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=10,
)


@given(_json, _names)
def test_xml_of_anything_is_well_formed(value: Any, root: str) -> None:
    assert ElementTree.fromstring(xml_bytes(value, root)).tag == xml_name(root)


@given(st.dictionaries(st.text(min_size=1), st.text(min_size=1)))
def test_a_form_reads_back(fields: dict[str, str]) -> None:
    assert dict(parse_qsl(form_bytes(fields).decode())) == fields


def test_xml_names_keep_letters_of_any_script() -> None:
    assert xml_name("数量 x:y") == "数量_x_y"
    assert xml_name("") == "_"
    assert xml_name("-a²") == "_-a_"


def test_flat() -> None:
    value = {
        "k1": "v1",
        "k2": {"k3": 3, "k4": {"k5": True}},
        "l": [1, {"a": None, "b": "x"}],
        "e": {},
        "f": [],
    }
    assert flat(value) == [
        ("k1", "v1"),
        ("k2.k3", "3"),
        ("k2.k4.k5", "true"),
        ("l[0]", "1"),
        ("l[1].b", "x"),
        ("e", "{}"),
        ("f", "[]"),
    ]
    assert flat({}) == []
    assert flat(None) == []


def test_quoted() -> None:
    assert quoted("a/b c@ü~\ud800") == "a%2Fb%20c%40%C3%BC~%3F"
