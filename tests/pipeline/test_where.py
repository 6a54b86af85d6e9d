"""The CEL expressions of filters and replay."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstem.pipeline.errors import ExpressionInvalid
from mainstem.pipeline.where import MAX_CHARACTERS, Failed, Missing, Verdict, Where

MESSAGE: dict[str, Any] = {
    "type": "track",
    "event": "Order Completed",
    "userId": "u1",
    "properties": {
        "total": 99.5,
        "quantity": 3,
        "huge": 2**80,
        "coupon": None,
        "gift": True,
        "tags": ["a", "b"],
        "products": [{"sku": "x", "price": 5}, {"sku": "y", "price": 50}],
        "odd name": 1,
    },
    "context": {"page": {"path": "/checkout"}},
    "timestamp": "2026-01-01T10:00:00.000Z",
}

VERDICTS: tuple[tuple[str, Verdict], ...] = (
    ("event.type == 'track'", True),
    ("event.type != 'track'", False),
    ("event.event in ['Order Completed', 'Refund']", True),
    ("event.properties.total > 50", True),
    ("event.properties.quantity >= 3.0 && event.properties.total < 100", True),
    ("event.properties.huge > 5", True),
    ("event.properties.coupon == null", True),
    ("event.properties.gift", True),
    ("!event.properties.gift", False),
    ("'b' in event.properties.tags", True),
    ("event.properties.products.exists(p, p.price > 20)", True),
    ("event.properties.products.all(p, p.price > 20)", False),
    ("size(event.properties.products) == 2", True),
    ("event.context.page.size() == 1", True),
    ("event.context.size() == 1 && event.context.page.path != ''", True),
    ("event.properties.products[1].sku == 'y'", True),
    ("event.properties['odd name'] == 1", True),
    ("event['type'] == 'track'", True),
    ("event.event.startsWith('Order') && event.event.contains('Comp')", True),
    ("event.event.matches('^Order [A-Z]')", True),
    ("event.context.page.path.matches(r'^/\\w+$')", True),
    ("has(event.properties.total)", True),
    ("has(event.properties.missing)", False),
    ("has(event.properties.missing) && event.properties.missing > 1", False),
    ("timestamp(event.timestamp) > timestamp('2025-01-01T00:00:00Z')", True),
    ("timestamp(event.timestamp).getHours() == 10", True),
    ("type(event.properties.total) == double", True),
    ("event.all(name, name != 'password')", True),
    ("true", True),
    ("1 > 2", False),
    # nothing to compare
    ("event.properties.missing == 1", Missing("missing")),
    ("event.nothing.at.all == 1", Missing("nothing")),
    ("has(event.nothing.deep)", Missing("nothing")),
    ("event.properties.tags[7] == 'a'", Missing("index out of bounds: 7")),
    ("!(event.properties.missing == 1)", Missing("missing")),
    # a missing field does not matter where the other side decides
    ("event.properties.missing == 1 || event.type == 'track'", True),
    ("event.properties.missing == 1 && event.type == 'page'", False),
)


@pytest.mark.parametrize(("source", "verdict"), VERDICTS)
def test_verdict(source: str, verdict: Verdict) -> None:
    assert Where(source)(MESSAGE) == verdict


@pytest.mark.parametrize(
    "source",
    [
        "event.event > 5",
        "event.event",
        "event.properties.total",
        "event.properties.coupon > 1",
        "event.properties.quantity / 0 > 1",
        "int(event.event) > 1",
        "timestamp(event.event) > timestamp('2025-01-01T00:00:00Z')",
        "event.properties.quantity + 9223372036854775807 > 1",
        "event.event.matches('(' + event.event)",
        "event.type.x == 1",
    ],
)
def test_no_answer_is_a_failure_that_says_why(source: str) -> None:
    verdict = Where(source)(MESSAGE)
    assert isinstance(verdict, Failed)
    assert verdict.reason
    assert "\n" not in verdict.reason


@pytest.mark.parametrize(
    ("source", "line", "column", "problem"),
    [
        ("", 1, 1, "EOF"),
        ("event.type ==", 1, 14, "EOF"),
        ("event.type == 'a' &&\n  foo(", 2, 7, "EOF"),
        ("event.(", 1, 7, "no viable alternative"),
        ("event.type = 'a'", 1, 12, "token recognition"),
        ("event.?type == 'a'", 1, 6, "unsupported syntax"),
        ("event.type.lower() == 'a'", 1, 12, "there is no function `lower`"),
        ("event.total == 1 ||\n now() > 1", 2, 2, "there is no function `now`"),
        ("message.type == 'track'", 1, 1, "there is no name `message`; an expression sees only `event`"),
        ("event.type == track", 1, 15, "there is no name `track`"),
        ("event.type.matches('(')", 1, 20, "not a valid regex"),
        ("event.type.matches('(a{1,200}){1,200}{1,200}')", 1, 20, "not a valid regex"),
        ("matches(event.type, '[')", 1, 21, "not a valid regex"),
        ("1 + 1", 1, 1, "does not look at `event`"),
    ],
)
def test_a_wrong_expression_is_refused_with_its_place(
    source: str, line: int, column: int, problem: str
) -> None:
    with pytest.raises(ExpressionInvalid) as caught:
        Where(source)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert problem in str(caught.value)
    assert source in str(caught.value)


def test_an_endless_expression_is_refused() -> None:
    with pytest.raises(ExpressionInvalid, match=f"longer than {MAX_CHARACTERS}"):
        Where("event.a == 1 || " * 1000 + "true")


def test_a_deeply_nested_expression_is_refused() -> None:
    with pytest.raises(ExpressionInvalid):
        Where("(" * 1000 + "event.a" + ")" * 1000)


def test_regexes_run_in_linear_time() -> None:
    # A backtracking engine needs 2^40 steps for this; here the test's time limit is the judge.
    where = Where("event.event.matches('^(a+)+$') || event.event.matches('(a|a)*b') || event.type == 'x'")
    assert where({"type": "track", "event": "a" * 50_000 + "!"}) is False


class _Loud(dict[str, Any]):
    """A message that tells what was taken from it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.taken: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.taken.add(key)
        return super().__getitem__(key)


@pytest.mark.parametrize(
    ("source", "taken"),
    [
        ("event.type == 'track'", {"type"}),
        ("event.properties.total > 1 && event.event.startsWith('O')", {"properties", "event"}),
        ("has(event.properties.total) || event . context .page.path == 'x'", {"properties", "context"}),
    ],
)
def test_only_the_fields_it_mentions_are_handed_over(source: str, taken: set[str]) -> None:
    message = _Loud(MESSAGE)
    Where(source)(message)
    assert message.taken == taken


PATHS = st.sampled_from(
    [
        "event.a",
        "event.a.b",
        "event.a.b.c",
        "event.b",
        "event['a']",
        "event.a['b']",
        "event.b.a",
        "event.a.size()",
        "event . a",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(
    message=st.dictionaries(st.sampled_from("abc"), VALUES),
    left=PATHS,
    right=PATHS,
    join=st.sampled_from(["&&", "||"]),
    test=st.sampled_from(["{} == 1", "has({})", "size({}) > 0", "{} == {}"]),
)
def test_handing_over_less_never_changes_the_verdict(
    message: dict[str, Any], left: str, right: str, join: str, test: str
) -> None:
    one, two = test.replace("{}", left), test.replace("{}", right)
    try:
        narrow = Where(f"{one} {join} {two}")
    except ExpressionInvalid:
        return  # has() of something that is no field
    # Mentioning the event as a whole hands over all of it.
    wide = Where(f"({one} {join} {two}) && size(event) >= 0")
    assert narrow(message) == wide(message)
