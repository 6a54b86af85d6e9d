"""Changes of the texts and numbers at paths and below them: what `mask_fields` and `hash_fields` have in common."""

from collections.abc import Callable, Iterable, Sequence
from itertools import permutations
from typing import Any, Final

from mainstem.destinations.kit.paths import MISSING, Json, Step, parse_path
from mainstem.transformations.base import About, Change, Failed, Kept, Result
from mainstem.transformations.ready.edit import check_path, compile_edit

_TOO_DEEP: Final = Failed("the event is nested too deeply")


def check_leaf_paths(paths: Sequence[str]) -> None:
    """Check the setting `paths`.

    Raises:
        ValueError: it is empty, holds what is no path, names what makes an event one, or one path lies within another.
    """
    if not paths:
        raise ValueError("`paths` is empty: nothing would be changed")
    for path in paths:
        check_path("paths", path)
        if parse_path(path)[0] in ("type", "messageId"):
            raise ValueError(f"`paths`: `{path}` makes the event what it is; it can't be changed")
    for outer, inner in permutations(paths, 2):
        if _within(parse_path(inner), parse_path(outer)):
            raise ValueError(f"`paths`: `{inner}` lies within `{outer}`; it would be changed twice")


def _within(inner: tuple[Step, ...], outer: tuple[Step, ...]) -> bool:
    return len(inner) >= len(outer) and all(
        one == other
        or (isinstance(one, int | None) and isinstance(other, int | None) and None in (one, other))
        for one, other in zip(inner, outer, strict=False)
    )


def change_texts(paths: Iterable[str], change: Callable[[str], str]) -> Change:
    """Return the change of every text and number at these paths and below; true, false, null and blank texts stay."""
    edits = [compile_edit(path) for path in paths]

    def update(value: Json) -> Json:
        if value is MISSING or value is None or isinstance(value, bool):
            return value
        if isinstance(value, dict):
            return {key: update(item) for key, item in value.items()}
        if isinstance(value, list):
            return [update(item) for item in value]
        text = value if isinstance(value, str) else number_text(value)
        return change(text) if text.strip() else value

    def change_all(message: dict[str, Any], about: About) -> Result:
        try:
            for edit in edits:
                message = edit(message, update)
        except RecursionError:
            return _TOO_DEEP
        return Kept((message,))

    return change_all


def number_text(value: float) -> str:
    """Return a number as it is written: a whole one without a point, one of thousands of digits in hexadecimal."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    # Python refuses to write more than 4,300 decimal digits.
    return str(value) if value.bit_length() < 4096 else f"{value:#x}"
