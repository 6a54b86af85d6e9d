"""Fits the rows of a load to a table as it is, and writes them as Parquet; what does not fit becomes discards.

staging -> **fit** -> loader. No value is lost: one that its column can't hold is written to `rudder_discards`, whole,
with its row's id, its column and the reason; its row is loaded without it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from mainstem.warehouse.schema import USERS, Columns, ColumnType
from mainstem.warehouse.staging import NUMBER, Chunk, TableRows, values_of
from mainstem.warehouse.values import ARROW, Unfit, array_of, moment_of, text_of

Json = Any

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
WHOLE: Final = "*"
"""In place of a column: the whole event."""
_NEVER: Final = (datetime.min.replace(tzinfo=UTC), -1)


class Discard(msgspec.Struct, frozen=True):
    """A value that its column can't hold."""

    table: str
    row_id: str
    column: str
    value: Json
    reason: str
    received_at: datetime | None

    def id(self) -> str:
        """Return its name: the same whenever and however the same value of the same row comes again.

        Of an event that is kept whole, its messageId decides: what it was enriched with may be another time's.
        """
        value = self.value
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # among fractions, integers are staged as floats
        named = (
            text_of(self.table),
            self.row_id,
            self.column,
            "" if self.column == WHOLE else text_of(value),
        )
        return xxhash.xxh3_128_hexdigest(msgspec.json.encode(named))

    def row(self) -> dict[str, Json]:
        """Return it as a row of the table of discards, in lower case."""
        received_at = None if self.received_at is None else self.received_at.isoformat()
        found = {
            "id": self.id(),
            "table_name": self.table,
            "row_id": self.row_id,
            "column_name": self.column,
            "column_value": text_of(self.value),
            "reason": self.reason,
            "received_at": received_at,
        }
        return {name: value for name, value in found.items() if value is not None}


def write_parquet(
    rows: TableRows,
    target: Columns,
    path: Path,
    *,
    named: Callable[[str], str],
    on_discard: Callable[[Discard], None],
) -> tuple[Columns, int]:
    """Write a table's rows; return the columns of the file, in order, and how many rows it has.

    Args:
        target: the table's columns as they are in the engine now, or will be.
        path: the file; replaced if it is there.
        named: how the engine spells our own column names (`id`, `received_at`): upper case for Snowflake.
        on_discard: told each value that does not fit.
    """
    columns = {name: target[name] for name in rows.columns if name in target}
    columns = {name: kind for name, kind in columns.items() if name.lower() not in ("uuid_ts", "loaded_at")}
    schema = pa.schema([pa.field(name, ARROW[kind]) for name, kind in columns.items()])
    keep = _Keep(rows, named("id"))
    written = 0
    with pq.ParquetWriter(str(path), schema, compression="zstd") as writer:
        if rows.table.lower() == USERS:
            merged = _latest_by_id(rows, columns, named, on_discard)
            writer.write_table(merged.select(list(columns)).cast(schema))
            return columns, merged.num_rows
        for chunk in rows.chunks():
            fitted = _fitted(chunk, columns, rows.table, named, on_discard)
            fitted = keep.of(chunk, fitted)
            if fitted.num_rows:
                writer.write_table(fitted)
                written += fitted.num_rows
    return columns, written


class _Keep:
    """Which rows stay of those with the same id in one load: the last received."""

    def __init__(self, rows: TableRows, id_column: str) -> None:
        self._id = id_column
        self._last: dict[Json, tuple[int, int]] = {}
        self._start = 0
        """How many rows came before; decides between rows of one event."""
        if id_column not in rows.columns or not self._any_twice(rows):
            return
        for start, chunk, ids in self._ids(rows):
            for index, (row_id, number) in enumerate(zip(values_of(ids), _numbers(chunk), strict=True)):
                if row_id is not None:
                    place = (number, start + index)
                    self._last[row_id] = max(place, self._last.get(row_id, place))

    def _ids(self, rows: TableRows) -> Iterator[tuple[int, Chunk, Any]]:
        start = 0
        for chunk in rows.chunks():
            if self._id in chunk.columns.column_names:
                yield start, chunk, chunk.columns[self._id]
            start += chunk.columns.num_rows

    def _any_twice(self, rows: TableRows) -> bool:
        found = [ids for _, _, ids in self._ids(rows)]
        if any(ids.type != found[0].type for ids in found):
            return True  # it is not known: each is looked at
        ids = pa.chunked_array([piece for one in found for piece in one.chunks])
        return len(ids) - ids.null_count != pc.count_distinct(ids, mode="only_valid").as_py()

    def of(self, chunk: Chunk, fitted: Any) -> Any:
        start, self._start = self._start, self._start + chunk.columns.num_rows
        if not self._last or self._id not in chunk.columns.column_names:
            return fitted
        ids = values_of(chunk.columns[self._id])
        mask = [
            row_id is None or self._last[row_id] == (number, start + index)
            for index, (row_id, number) in enumerate(zip(ids, _numbers(chunk), strict=True))
        ]
        return fitted.filter(pa.array(mask))


def _numbers(chunk: Chunk) -> Sequence[int]:
    return cast("list[int]", chunk.columns[NUMBER].to_pylist())


def _fitted(
    chunk: Chunk,
    columns: Columns,
    table: str,
    named: Callable[[str], str],
    on_discard: Callable[[Discard], None],
) -> Any:
    there = set(chunk.columns.column_names)
    arrays = []
    for name, kind in columns.items():
        if name not in there:
            arrays.append(pa.nulls(chunk.columns.num_rows, ARROW[kind]))
            continue
        array, unfit = fitted_column(chunk.columns[name], chunk.kinds[name], kind)
        arrays.append(array)
        if unfit:
            _discard(chunk, name, unfit, table, named, on_discard)
    return pa.table(arrays, schema=pa.schema([pa.field(name, ARROW[kind]) for name, kind in columns.items()]))


def fitted_column(
    column: Any, given: ColumnType, wanted: ColumnType
) -> tuple[Any, Sequence[tuple[int, Json, str]]]:
    """Return a column in the wanted type, and what does not fit: (row, value, reason)."""
    if column.type == ARROW[wanted] and (wanted != "json" or given == "json"):
        return column.combine_chunks(), ()
    if given == wanted == "datetime" and column.type == pa.string():
        try:
            # Arrow reads what nearly all times look like, ISO 8601 with a zone, in one go.
            return column.combine_chunks().cast(ARROW["datetime"]), ()
        except pa.ArrowInvalid:
            pass  # some are written otherwise, or are none
    if given == "int" and wanted == "float" and column.type == ARROW["int"]:
        try:
            return pc.cast(column.combine_chunks(), pa.float64()), ()
        except pa.ArrowInvalid:
            pass  # some have more digits than a float has
    values = values_of(column)
    if wanted in ("string", "text"):
        values = [_written(value) for value in values]
    array, unfit = array_of(values, wanted)
    return array, [(index, values[index], f"not a {wanted}: {why}") for index, why in unfit]


def _written(value: Json) -> Json:
    """Return a value for a column of texts: whole numbers without a point."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return value


def _discard(
    chunk: Chunk,
    column: str,
    unfit: Sequence[tuple[int, Json, str]],
    table: str,
    named: Callable[[str], str],
    on_discard: Callable[[Discard], None],
) -> None:
    def at(name: str) -> list[Json]:
        here = named(name)
        there = here in chunk.columns.column_names
        return values_of(chunk.columns[here]) if there else [None] * chunk.columns.num_rows

    ids, times = at("id"), at("received_at")
    for index, value, reason in unfit:
        on_discard(Discard(table, text_of(ids[index] or ""), column, value, reason, _moment(times[index])))


def _moment(value: Json) -> datetime | None:
    try:
        return None if value is None else moment_of(value)
    except Unfit:
        return None


def _latest_by_id(
    rows: TableRows,
    columns: Columns,
    named: Callable[[str], str],
    on_discard: Callable[[Discard], None],
) -> Any:
    """Return one row an id: column by column the last value that is not null, by received_at."""
    id_column, time_column = named("id"), named("received_at")
    latest: dict[Any, dict[str, Json]] = {}
    times: dict[Any, dict[str, tuple[datetime, int]]] = {}
    for chunk in rows.chunks():
        fitted = _fitted(chunk, columns, rows.table, named, on_discard).to_pylist()
        for row, number in zip(fitted, _numbers(chunk), strict=True):
            row_id = row.get(id_column)
            at = (row.get(time_column) or _EPOCH, number)
            held, moments = latest.setdefault(row_id, {}), times.setdefault(row_id, {})
            for name, value in row.items():
                if value is not None and at >= moments.get(name, _NEVER):
                    held[name], moments[name] = value, at
    made: Mapping[str, list[Json]] = {name: [held.get(name) for held in latest.values()] for name in columns}
    return pa.table(
        [pa.array(made[name], ARROW[kind]) for name, kind in columns.items()], names=list(columns)
    )
