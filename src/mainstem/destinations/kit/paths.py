"""Paths into an event and into a body being built, compiled once into closures: part of the mapping kit.

The language is the part of JSONPath (RFC 9535) that RudderStack's HTTP destination uses
(https://www.rudderstack.com/docs/destinations/http-webhook/setup-guide/, read 2026-11):

    $                            the whole event
    $.traits.email               a member; `$['first name']`, `$."first name"`, `$.'content-type'` for odd names
    $.properties.products[0]     one element
    $.properties.products[*].id  all elements, in order; what an element lacks stays a gap at its place

A value may also be written plainly: `'text'` in quotes, a number, true, false, null, or any other text as is.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, final

import msgspec

Json = Any
Step = str | int | None
"""A member's name, an element's index, or None for every element."""


@final
class Missing:
    """Nothing there; differs from an explicit null."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()
Read = Callable[[Json], Json]
"""Takes the event's message; returns the value there, or MISSING. The value is the event's own: don't change it."""
Write = Callable[[Json, Json], Json]
"""Takes the body so far (MISSING at first) and a value; returns the body with the value in it."""

_STEP: Final = re.compile(
    r"""
    \.?\[(?P<index>\d{1,6})\]
  | \.?\[(?P<all>\*)\]
  | \.?\[\s*(?P<q1>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*\]
  | \.(?P<q2>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
  | \.?(?P<name>[^.\[\]'"\s{}|][^.\[\]{}|]*)
    """,
    re.VERBOSE,
)
_ESCAPED: Final = re.compile(r"\\(.)")
_MAX_INDEX: Final = 1000


class PathInvalid(ValueError):
    """The text is not a path this language has; the text says where it stops making sense."""


def parse_path(text: str) -> tuple[Step, ...]:
    """Return the steps of `$.a.b[*]` or `a.b[*]`; `$` alone has none.

    Raises:
        PathInvalid: not a path.
    """
    rest = text.strip()
    if not rest:
        raise PathInvalid("an empty path; write `$` for the whole event, or `$.properties.name`")
    bare = not rest.startswith("$")
    rest = f".{rest}" if bare else rest[1:]
    steps: list[Step] = []
    at = 0
    while at < len(rest):
        found = _STEP.match(rest, at)
        if found is None:
            raise PathInvalid(
                f"`{text}` is no path from `{rest[at:]}` on; write it like $.properties.name, $['odd name'], "
                "$.products[*].id"
            )
        at = found.end()
        if found["index"] is not None:
            steps.append(int(found["index"]))
        elif found["all"] is not None:
            steps.append(None)
        else:
            quoted = found["q1"] or found["q2"]
            steps.append(_ESCAPED.sub(r"\1", quoted[1:-1]) if quoted else found["name"].rstrip())
    return tuple(steps)


def compile_read(steps: Sequence[Step]) -> Read:
    """Return a function that reads the value at a path."""
    if not steps:
        return lambda value: value
    if all(isinstance(step, str) for step in steps):
        return _read_members(tuple(str(step) for step in steps))
    head, rest = steps[0], compile_read(steps[1:])
    if head is None:

        def read_all(value: Json) -> Json:
            return [rest(item) for item in value] if isinstance(value, list) else MISSING

        return read_all
    if isinstance(head, int):

        def read_index(value: Json) -> Json:
            return rest(value[head]) if isinstance(value, list) and head < len(value) else MISSING

        return read_index

    def read_member(value: Json) -> Json:
        return rest(value[head]) if isinstance(value, dict) and head in value else MISSING

    return read_member


def _read_members(names: tuple[str, ...]) -> Read:
    if len(names) == 1:
        (only,) = names
        return lambda value: value.get(only, MISSING) if isinstance(value, dict) else MISSING

    def read(value: Json) -> Json:
        for name in names:
            if not isinstance(value, dict):
                return MISSING
            value = value.get(name, MISSING)
        return value

    return read


def compile_write(steps: Sequence[Step]) -> Write:
    """Return a function that puts a value at a path, making the objects and lists on the way.

    A step for every element takes a list, as a read with `[*]` gives it, and puts each element at its place.

    Raises:
        PathInvalid: an index beyond 1,000, which would make a list of that many nulls.
    """
    if not steps:
        return lambda _, value: value
    head, rest = steps[0], compile_write(steps[1:])
    if head is None:

        def write_all(body: Json, value: Json) -> Json:
            items = body if isinstance(body, list) else []
            for index, item in enumerate(value if isinstance(value, list) else [value]):
                _put(items, index, item, rest)
            return items

        return write_all
    if isinstance(head, int):
        if head > _MAX_INDEX:
            raise PathInvalid(f"[{head}] is too far; an index is at most {_MAX_INDEX}")

        def write_index(body: Json, value: Json) -> Json:
            items = body if isinstance(body, list) else []
            _put(items, head, value, rest)
            return items

        return write_index

    def write_member(body: Json, value: Json) -> Json:
        members = body if isinstance(body, dict) else {}
        members[head] = rest(members.get(head, MISSING), value)
        return members

    return write_member


def _put(items: list[Json], index: int, value: Json, rest: Write) -> None:
    while len(items) <= index:
        items.append(MISSING)
    if value is not MISSING:
        items[index] = rest(items[index], value)


def compile_value(text: str) -> Read:
    """Return a function for the value side of a mapping row: a path, or the same constant for every event.

    Raises:
        PathInvalid: it begins with `$` and is no path.
    """
    stripped = text.strip()
    if stripped == "$" or stripped.startswith(("$.", "$[")):
        return compile_read(parse_path(stripped))
    constant = literal(text)
    return lambda _: constant


def is_path(text: str) -> bool:
    """Tell whether the value side of a mapping row is a path."""
    return text.strip() == "$" or text.strip().startswith(("$.", "$["))


def literal(text: str) -> Json:
    """Return what a constant stands for: `'2'` the text 2, `2` the number, `true`, `null`, else the text itself."""
    stripped = text.strip()
    if len(stripped) > 1 and stripped[0] in "'\"" and stripped[-1] == stripped[0]:
        return _ESCAPED.sub(r"\1", stripped[1:-1])
    try:
        value = msgspec.json.decode(stripped)
    except (msgspec.DecodeError, UnicodeEncodeError, ValueError):
        return text
    return value if value is None or isinstance(value, bool | int | float) else text


def wildcards(steps: Sequence[Step]) -> int:
    """Return how many steps mean every element."""
    return sum(step is None for step in steps)


def without_gaps(value: Json) -> Json:
    """Return a copy in which every gap of a list is null."""
    if isinstance(value, dict):
        return {key: without_gaps(item) for key, item in value.items()}
    if isinstance(value, list):
        return [None if item is MISSING else without_gaps(item) for item in value]
    return value


def copied(value: Json) -> Json:
    """Return a copy that may be written into, its gaps kept."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value
