"""Event names: which events have one, and patterns for them. For connections' filters and for transformations."""

from collections.abc import Callable
from typing import Final

NAMED_TYPES: Final = frozenset(("track", "page", "screen"))
"""Types that have an event name; allow and deny lists concern no others."""


def name_matcher(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """Return a test for event names: equal to one of the patterns, where `*` stands for any text.

    Case and spaces count. It takes time linear in the name for each pattern: no regex is involved.
    """
    exact = frozenset(pattern for pattern in patterns if "*" not in pattern)
    globs = tuple(tuple(pattern.split("*")) for pattern in patterns if "*" in pattern)
    if not globs:
        return exact.__contains__

    def matches(name: str) -> bool:
        return name in exact or any(_glob(parts, name) for parts in globs)

    return matches


def _glob(parts: tuple[str, ...], name: str) -> bool:
    first, *middle, last = parts
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
