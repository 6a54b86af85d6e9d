"""What type a value has, and the value as its column takes it. Pure.

event -> rows (**kinds**). RudderStack's types by RudderStack's rules, in its way (`as_rudderstack`: numbers as
JavaScript has them) or without losing any (`kept`).
"""

import json
import math
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import msgspec

from mainstem.warehouse.naming import Engine
from mainstem.warehouse.schema import ColumnType

Json = Any
Typed = Callable[[Json], tuple[ColumnType, Json]]
"""A value that is neither null, "", an object nor an empty list, to its type and what the column gets."""

_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**63 - 1
_SAFE: Final = 2**53
"""The whole numbers that JavaScript and a 64 bit float know apart."""

MOMENT_PATTERN: Final = (
    r"^(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
    r"(?:[T ](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]+)?)?"
    r"(?:[zZ]|[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?)?)?\z"
)
"""A time as ISO 8601 writes it, or a date; for RE2, which is what Arrow has."""
_MOMENT: Final = re.compile(MOMENT_PATTERN.removesuffix(r"\z"))

_encode: Final = msgspec.json.Encoder().encode


def is_moment(text: str) -> bool:
    """Tell whether a text is a time as ISO 8601 writes it, or a date."""
    if len(text) < 10 or text[4] != "-" or text[7] != "-" or not text[0].isdigit():
        return False
    return _MOMENT.fullmatch(text) is not None


def _is_real_moment(text: str) -> bool:
    """As `is_moment`, and there is such a day."""
    if text[4] != "-" or text[7] != "-":
        return False
    if _MOMENT.fullmatch(text) is None:
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def json_text(value: Json) -> str:
    """Return a value as JSON without losing any of it: integers of any size, "NaN" as a text."""
    try:
        text = _encode(value).decode()
    except (OverflowError, UnicodeEncodeError, RecursionError, TypeError):
        return json.dumps(_finite(value), separators=(",", ":"), default=str)
    if "null" in text and not _all_finite(value):
        return json.dumps(_finite(value), separators=(",", ":"), ensure_ascii=False)
    return text


def _all_finite(value: Json) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_all_finite, value.values()))
    return all(map(_all_finite, value)) if isinstance(value, list) else True


def _finite(value: Json) -> Json:
    if isinstance(value, float) and not math.isfinite(value):
        return number_text(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def number_text(value: float) -> str:
    """Return a number that no column takes as a text."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return str(value)


def as_javascript(value: Json) -> Json:
    """Return a value with its numbers as JavaScript reads them from JSON."""
    if isinstance(value, bool) or not isinstance(value, int | float | dict | list):
        return value
    if isinstance(value, dict):
        return {key: as_javascript(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_javascript(item) for item in value]
    try:
        number = float(value)
    except OverflowError:
        return None
    if not math.isfinite(number):
        return None
    if isinstance(value, int):
        return value if abs(value) <= _SAFE else int(number)
    return int(number) if number.is_integer() and abs(number) < 1e21 else number


def as_rudderstack(engine: Engine) -> Typed:
    """Return how RudderStack types a value for an engine."""

    text_over = engine.text_over

    def typed(value: Json) -> tuple[ColumnType, Json]:
        if isinstance(value, str):
            if is_moment(value):
                return "datetime", value
            return ("text" if text_over and _long(value, text_over) else "string"), value
        if isinstance(value, bool):
            return "boolean", value
        if type(value) is int and -_SAFE <= value <= _SAFE:
            return "int", value
        value = as_javascript(value)
        if isinstance(value, int):
            return "int", value
        if isinstance(value, float):
            return ("int" if value.is_integer() else "float"), value
        if text_over and isinstance(value, list) and _long(json_text(value), text_over):
            return "text", value
        return "string", value

    return typed


def array_type(values: list[Json]) -> str:
    """Return the type of a column of arrays that takes a list: `array(int)`."""
    return f"array({_item_type(values)})"


def _item_type(values: list[Json]) -> str:
    kinds = set()
    for value in values:
        if isinstance(value, bool):
            kinds.add("boolean")
        elif isinstance(value, int | float):
            kinds.add("int" if isinstance(value, int) or value.is_integer() else "float")
        else:
            kinds.add("string")
    if len(kinds) == 1:
        return kinds.pop()
    return "float" if kinds == {"int", "float"} else "string"


def _long(text: str, limit: int) -> bool:
    """Tell whether a text has more UTF-16 units than the limit, if there is one."""
    if not limit or len(text) * 2 <= limit:
        return False
    return len(text.encode("utf-16-le", "surrogatepass")) > 2 * limit


def kept(engine: Engine) -> Typed:
    """Return how a value is typed without losing any of it."""
    text_over = engine.text_over
    long_from = text_over // 2

    def typed(value: Json) -> tuple[ColumnType, Json]:
        kind = type(value)
        if kind is str:
            if len(value) > 9 and value[4] == "-" and _is_real_moment(value):
                return "datetime", value
            if text_over and len(value) > long_from and _long(value, text_over):
                return "text", value
            return "string", value
        if kind is bool:
            return "boolean", value
        if kind is int:
            return ("int", value) if _INT_MIN <= value <= _INT_MAX else ("string", str(value))
        if kind is float:
            if not math.isfinite(value):
                return "string", number_text(value)
            if value.is_integer() and -_SAFE <= value <= _SAFE:
                return "int", int(value)
            return "float", value
        text = json_text(value)
        return ("text" if _long(text, text_over) else "string"), text

    return typed
