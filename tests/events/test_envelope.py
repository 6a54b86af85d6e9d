"""Reading events and batches: strict first, tolerant second; neighbours keep their bytes."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem.events.envelope import (
    Batch,
    Item,
    NotABatch,
    Unreadable,
    deeper_than,
    read_batch,
    read_item,
    read_value,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_any_json_object_is_read_and_kept(message: dict[str, Any]) -> None:
    raw = json.dumps(message, ensure_ascii=True).encode()
    item = read_item(raw, 64)
    assert isinstance(item, Item)
    assert item.message == json.loads(raw.replace(b"\\ud", b"\\ud")) or item.repaired
    if not item.repaired:
        assert item.raw == raw


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=5), st.booleans())
def test_the_tolerant_reader_splits_a_batch_as_the_strict_one(
    events: list[dict[str, Any]], indent: bool
) -> None:
    body = json.dumps({"a": [1], "batch": events, "writeKey": "k"}, indent=2 if indent else None).encode()
    strict = read_batch(body, 1000)
    # A NaN in the envelope sends the whole body to the tolerant reader.
    tolerant = read_batch(body.replace(b'"a"', b'"b":NaN,"a"', 1), 1000)
    assert isinstance(strict, Batch)
    assert isinstance(tolerant, Batch)
    assert strict.items == tolerant.items
    assert strict.write_key == tolerant.write_key == "k"


@given(st.binary(max_size=200))
def test_any_bytes_get_an_answer(body: bytes) -> None:
    assert isinstance(read_batch(body, 1000), Batch | NotABatch)
    assert isinstance(read_item(body, 64), Item | Unreadable)
    value = read_value(body, 64)
    if not isinstance(value, Unreadable):
        msgspec.json.encode(value[0])


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max((_depth(inner) for inner in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((_depth(inner) for inner in value), default=0)
    return 0


@given(JSON, st.integers(0, 6))
def test_depth_without_recursion(value: object, limit: int) -> None:
    assert deeper_than(json.dumps(value).encode(), limit) == (_depth(value) > limit)


def test_brackets_in_strings_are_not_depth() -> None:
    assert not deeper_than(rb'{"a":"[[[[\"[[[\\","b":"{{{"}', 1)


def test_numbers_keep_every_digit_when_something_else_is_repaired() -> None:
    raw = b'{"a":NaN,"b":0.10000000000000000000001,"c":1.50,"d":123456789012345678901234567890,"e":-0.0,"f":1E5}'
    item = read_item(raw, 64)
    assert isinstance(item, Item)
    assert item.raw == raw.replace(b"NaN", b"null")


def test_the_last_of_equal_keys_counts() -> None:
    batch = read_batch(b'{"batch":[1],"batch":[{"a":1,"a":2}],"x":NaN}', 1000)
    assert isinstance(batch, Batch)
    assert batch.items == [b'{"a":1,"a":2}']
    item = read_item(batch.items[0], 64)
    assert isinstance(item, Item)
    assert item.message == {"a": 2}


@pytest.mark.parametrize("odd", [b"", b',"x":NaN', b',"x":[' + b"0," * 1_000_001 + b"0]"])
def test_more_items_than_wanted(odd: bytes) -> None:
    body = b'{"writeKey":"k","batch":[1,2,3]' + odd + b"}"
    enough, few = read_batch(body, 3), read_batch(body, 2)
    assert isinstance(enough, Batch)
    assert enough.items == [b"1", b"2", b"3"]
    assert isinstance(few, NotABatch)
    assert (few.code, few.write_key) == ("too_many_events", "k")


@pytest.mark.parametrize(
    ("sent_at", "text"),
    [
        (b'"2026-01-01T00:00:00Z"', "2026-01-01T00:00:00Z"),
        (b"1767225600000", "2026-01-01T00:00:00.000Z"),
        (b"1767225600", "2026-01-01T00:00:00.000Z"),
        (b"null", ""),
        (b"{}", ""),
        (b"1e300", ""),
        (rb'"\ud800"', "?"),
    ],
)
def test_sent_at_of_the_envelope(sent_at: bytes, text: str) -> None:
    batch = read_batch(b'{"batch":[{}],"sentAt":' + sent_at + b"}", 1000)
    assert isinstance(batch, Batch)
    assert batch.sent_at == text


@pytest.mark.parametrize(
    ("context", "kept"),
    [
        (b'{"a":1}', b'{"a":1}'),
        (b"null", b""),
        (b"[1]", b""),
        (b'{"a":NaN}', b'{"a":null}'),
        (b'{"a":"\xff"}', '{"a":"�"}'.encode()),
    ],
)
def test_context_of_the_envelope_is_an_object_or_nothing(context: bytes, kept: bytes) -> None:
    batch = read_batch(b'{"batch":[{"x":1}],"context":' + context + b"}", 1000)
    assert isinstance(batch, Batch)
    assert batch.context == kept
    assert batch.items == [b'{"x":1}']


def test_the_search_for_the_end_of_a_deep_element_is_bounded() -> None:
    body = b'{"batch":[' + b'[""' * 150_000
    found = read_batch(body, 1000)
    assert isinstance(found, NotABatch)
