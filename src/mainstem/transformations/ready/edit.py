"""Edits at paths that leave the message they are given alone: part of the kit of ready-made transformations.

A message is shared by many destinations, so an edit copies the objects on the way to what it changes and shares
all else. The path language is that of the mapping kit (`destinations.kit.paths`): `traits.email`, `$['odd name']`,
`properties.products[*].price`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mainstem.destinations.kit.paths import (
    MISSING,
    Json,
    PathInvalid,
    Step,
    compile_read,
    parse_path,
    wildcards,
)
from mainstem.transformations.base import About, Change, Failed, Result

Update = Callable[[Json], Json]
"""Takes what is at the path (MISSING: nothing); returns what is to be there (MISSING: nothing)."""

Edit = Callable[[dict[str, Any], Update], dict[str, Any]]
"""Returns the message with the update done at each place of a path; the very same message if nothing changed."""


def bounded(change: Change) -> Change:
    """Return the change with what Python itself can't follow (depth, digits of a number) as Failed."""

    def bounded_change(message: dict[str, Any], about: About) -> Result:
        try:
            return change(message, about)
        except RecursionError:
            return Failed("the event is nested too deeply")
        except (OverflowError, ValueError) as error:
            return Failed(f"the event holds a value that can't be written: {error}"[:500])

    return bounded_change


def check_path(setting: str, text: str, *, one: bool = False) -> None:
    """Check a path of the settings.

    Args:
        setting: the setting's name, for the error.
        text: the path.
        one: whether it must name one place (no `[*]`).

    Raises:
        ValueError: it is no path, or the whole event; the text begins with the setting's name in backticks.
    """
    try:
        steps = parse_path(text)
    except PathInvalid as error:
        raise ValueError(f"`{setting}`: {error}") from None
    if not steps:
        raise ValueError(f"`{setting}`: `{text}` is the whole event; name a field of it")
    if one and wildcards(steps):
        raise ValueError(f"`{setting}`: `{text}` means many fields; name one, without [*]")


def check_writable(setting: str, text: str) -> None:
    """Check a path that is written to: one field of an object, and not the event's identity.

    Raises:
        ValueError: it isn't; the text begins with the setting's name in backticks.
    """
    check_path(setting, text, one=True)
    steps = parse_path(text)
    if steps[0] == "messageId":
        raise ValueError(f"`{setting}`: messageId is what makes deliveries repeatable; it can't be changed")
    if not isinstance(steps[-1], str):
        raise ValueError(f"`{setting}`: `{text}` is an element of a list; name a field")


def compile_edit(path: str) -> Edit:
    """Return the edit at a path that `check_path` let pass.

    An update that gives a value where nothing is makes the objects on the way; lists are never made or extended,
    and a scalar that stands where the path needs an object is never replaced. An element of a list that becomes
    MISSING is taken out.
    """
    steps = parse_path(path)

    def edit(message: dict[str, Any], update: Update) -> dict[str, Any]:
        changed = _edited(message, steps, 0, update)
        return changed if isinstance(changed, dict) else message

    return edit


def _edited(node: Json, steps: Sequence[Step], at: int, update: Update) -> Json:
    if at == len(steps):
        return update(node)
    step = steps[at]
    if isinstance(step, str):
        if isinstance(node, dict):
            current = node.get(step, MISSING)
        elif node is MISSING or node is None:
            current = MISSING
        else:
            return node
        changed = _edited(current, steps, at + 1, update)
        if changed is current:
            return node
        copy = dict(node) if isinstance(node, dict) else {}
        if changed is MISSING:
            del copy[step]
        else:
            copy[step] = changed
        return copy
    if not isinstance(node, list):
        return node
    elements = [
        _edited(item, steps, at + 1, update) if step is None or step == index else item
        for index, item in enumerate(node)
    ]
    if all(new is old for new, old in zip(elements, node, strict=True)):
        return node
    return [item for item in elements if item is not MISSING]


def put(message: dict[str, Any], edit: Edit, value: Json) -> dict[str, Any]:
    """Return the message with the value at the edit's path."""
    return edit(message, lambda _: value)


def without(message: dict[str, Any], edit: Edit) -> dict[str, Any]:
    """Return the message without what is at the edit's path."""
    return edit(message, lambda _: MISSING)


def first_text(paths: Iterable[str]) -> Callable[[dict[str, Any]], str]:
    """Return a function that gives the first text at any of the paths that is not blank, stripped; else empty."""
    reads = [compile_read(parse_path(path)) for path in paths]

    def read_first(message: dict[str, Any]) -> str:
        for read in reads:
            found = read(message)
            if isinstance(found, str) and (text := found.strip()):
                return text
        return ""

    return read_first
