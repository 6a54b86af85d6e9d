"""Values between JSON, Arrow and text, without losing any. pyarrow is imported here and in `staging` and `fit`."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec
import pyarrow as pa

from mainstem.warehouse.schema import ColumnType

Json = Any

INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1
EXACT: Final = 2**53
"""Up to here every whole number is a float."""

ARROW: Final[Mapping[ColumnType, Any]] = {
    "boolean": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "datetime": pa.timestamp("us", tz="UTC"),
    "string": pa.string(),
    "text": pa.string(),
    "json": pa.string(),
}


class Unfit(ValueError):
    """A value that the type can't hold."""


def text_of(value: Json) -> str:
    """Return a value as text: texts as they are, the rest as JSON."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode() if not value.isascii() else value
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        # A lone surrogate: no engine takes it, not as an escape in JSON either.
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        return text.encode("utf-8", "replace").decode()


def moment_of(value: Json) -> datetime:
    """Return a time as an aware datetime in UTC.

    Raises:
        Unfit: it is none.
    """
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        raise Unfit("no time")
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise Unfit("no time") from None
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise Unfit("no time") from None


def _boolean(value: Json) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return bool(value == "true")
    raise Unfit("not true or false")


def _int(value: Json) -> int:
    if isinstance(value, bool):
        raise Unfit("not an integer")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            raise Unfit("not an integer") from None
    if not isinstance(value, int):
        raise Unfit("not an integer")
    if not INT_MIN <= value <= INT_MAX:
        raise Unfit("beyond 64 bits")
    return value


def _float(value: Json) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Unfit("not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise Unfit("not a number") from None
    if not math.isfinite(number):
        raise Unfit("not a finite number")
    if (
        abs(number) >= EXACT
        and not isinstance(value, float)
        and _whole(value) not in (None, _whole(repr(number)))
    ):
        raise Unfit("more digits than a float has")
    return number


def _whole(text: Json) -> int | None:
    """Return a whole number, of whatever spelling, exactly; None if it is none."""
    try:
        number = Decimal(text)
        return int(number) if number == int(number) else None
    except InvalidOperation:
        return None


def _json(value: Json) -> str:
    if isinstance(value, str):
        # A column of JSON takes a text that is JSON as it is, and any other text as a JSON string.
        try:
            msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
            return json.dumps(value)
        return value
    return text_of(value)


CONVERT: Final[Mapping[ColumnType, Callable[[Json], Any]]] = {
    "boolean": _boolean,
    "int": _int,
    "float": _float,
    "datetime": moment_of,
    "string": text_of,
    "text": text_of,
    "json": _json,
}


def array_of(values: Sequence[Json], kind: ColumnType) -> "tuple[pa.Array[Any], list[tuple[int, str]]]":
    """Return values as an Arrow array, and the places of those that do not fit, with the reason; null stands there."""
    convert = CONVERT[kind]
    fitting: list[Any] = []
    unfit: list[tuple[int, str]] = []
    for index, value in enumerate(values):
        if value is None:
            fitting.append(None)
            continue
        try:
            fitting.append(convert(value))
        except Unfit as error:
            fitting.append(None)
            unfit.append((index, str(error)))
    return pa.array(fitting, ARROW[kind]), unfit
