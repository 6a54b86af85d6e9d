"""Patterns for event names."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem.events.names import name_matcher


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("ab*bc", "abc", False),
        ("ab*bc", "abbc", True),
        ("*aa*aa*", "aaa", False),
        ("*aa*aa*", "aaaa", True),
        ("a*b*c", "acbc", True),
        ("a*b*c", "acb", False),
        ("**", "", True),
        ("*a", "ab", False),
        ("a*", "ba", False),
    ],
)
def test_stars(pattern: str, name: str, expected: bool) -> None:
    assert name_matcher((pattern,))(name) is expected


@given(
    patterns=st.lists(st.text("ab*", max_size=6), min_size=1, max_size=3),
    name=st.text("ab", max_size=8),
)
def test_names_match_as_the_regex_of_their_pattern_does(patterns: list[str], name: str) -> None:
    expected = any(
        re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None for pattern in patterns
    )
    assert name_matcher(tuple(patterns))(name) is expected
