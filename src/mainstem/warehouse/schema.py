"""Tables and their columns, as values: what is there, what is wanted, and the steps from one to the other. Pure.

Types are RudderStack's words, so that what people know of their warehouse holds:

    boolean   int (64 bits)   float (64 bits)   datetime (with zone, microseconds)   string   text   json

`text` is a string that may be long, where the engine makes a difference (Redshift). `json` is for columns that were
asked to be JSON. Each engine says what it makes of them (`Capabilities.types`).
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal

import msgspec

ColumnType = Literal["boolean", "int", "float", "datetime", "string", "text", "json"]
Columns = Mapping[str, ColumnType]
Schema = Mapping[str, Columns]
"""By table, within one namespace."""

LOADS: Final = "_mainstem_loads"
"""The table that says which loads are in: committed together with their rows."""
DISCARDS: Final = "rudder_discards"
"""Values that did not fit their column, whole, with their row's id. RudderStack's name and columns; and an id, so that
a row that is loaded again does not double them."""
USERS: Final = "users"

LOADS_COLUMNS: Final[Columns] = {
    "load_id": "string",
    "table_name": "string",
    "cursor_name": "string",
    "load_sequence": "int",
    "row_count": "int",
    "positions": "string",
    "loaded_at": "datetime",
}
DISCARDS_COLUMNS: Final[Columns] = {
    "id": "string",
    "table_name": "string",
    "row_id": "string",
    "column_name": "string",
    "column_value": "text",
    "reason": "string",
    "received_at": "datetime",
    "uuid_ts": "datetime",
}


class CreateTable(msgspec.Struct, frozen=True, tag="create table"):
    """A table that is not there yet."""

    table: str
    columns: Columns


class AddColumns(msgspec.Struct, frozen=True, tag="add columns"):
    """Columns that a table lacks."""

    table: str
    columns: Columns


class WidenColumn(msgspec.Struct, frozen=True, tag="widen column"):
    """A column that has to take more: every value it holds is kept."""

    table: str
    column: str
    before: ColumnType
    after: ColumnType


SchemaChange = CreateTable | AddColumns | WidenColumn


def merged_type(one: ColumnType, other: ColumnType) -> ColumnType:
    """Return the type that takes the values of both without losing any."""
    if one == other:
        return one
    pair = {one, other}
    if pair == {"int", "float"}:
        return "float"
    if "text" in pair:
        return "text"
    return "string"


def merged_columns(one: Columns, other: Columns) -> dict[str, ColumnType]:
    """Return all columns of both, each wide enough for both."""
    result = dict(one)
    for name, kind in other.items():
        result[name] = merged_type(result[name], kind) if name in result else kind
    return result


def plan_changes(
    there: Schema,
    wanted: Schema,
    widenings: frozenset[tuple[ColumnType, ColumnType]],
    seen: Mapping[str, frozenset[ColumnType]] = MappingProxyType({}),
) -> Sequence[SchemaChange]:
    """Return what has to change so that rows of `wanted` can be loaded, in the order in which it is to be done.

    A column whose values would not fit is widened where the engine can (`widenings`: before, after); where it can't,
    the column stays and `fit` keeps the values that do not fit elsewhere.

    Args:
        seen: for columns whose values are of several types, all of them.
    """
    changes: list[SchemaChange] = []
    for table, columns in wanted.items():
        existing = there.get(table)
        if existing is None:
            changes.append(CreateTable(table, dict(columns)))
            continue
        missing = {name: kind for name, kind in columns.items() if name not in existing}
        if missing:
            changes.append(AddColumns(table, missing))
        for name, kind in columns.items():
            before = existing.get(name)
            if before is None or before == kind:
                continue
            after = widened(before, kind, seen.get(name, frozenset()))
            if after != before and (before, after) in widenings:
                changes.append(WidenColumn(table, name, before, after))
    return changes


def widened(before: ColumnType, given: ColumnType, seen: frozenset[ColumnType] = frozenset()) -> ColumnType:
    """Return the type that a column becomes when such values come: only where no query would notice.

    An int column takes floats as a float column, a string becomes a text. A datetime or number column that is given
    words keeps its type: one odd event must not change what every query on the column gets.
    """
    if before == "int" and (given == "float" or "float" in seen):
        return "float"
    if before == "string" and (given == "text" or "text" in seen):
        return "text"
    return before
