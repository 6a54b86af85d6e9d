"""What engines whose tables are files share: rows as Arrow tables, users merged, and queries by DuckDB.

Used by the loaders of Iceberg, Delta and Parquet, which have no server that could do it.
"""

import contextlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mainstem.warehouse.loader import Load, LoaderRow, StagedTable, WarehouseError
from mainstem.warehouse.schema import LOADS_COLUMNS, Columns
from mainstem.warehouse.values import ARROW

CLOCK_COLUMNS: Final = ("uuid_ts", "loaded_at")
"""Filled when rows are loaded."""


def rows_of(table: StagedTable, target: Columns, now: datetime) -> "pa.Table":
    """Return a file's rows as they are to be written: in the table's types, with its clock columns.

    Raises:
        WarehouseError: the table was changed since the file was made; it is made again.
    """
    try:
        rows = pq.read_table(str(table.path))
    except (OSError, pa.ArrowException) as error:
        raise WarehouseError(f"{table.path}: {str(error)[:300]}") from error
    for name, kind in table.columns.items():
        there = target.get(name)
        if there is None or ARROW[there] != ARROW[kind]:
            raise WarehouseError(
                f"table {table.table}: column {name} is {there or 'not there'}, the load has {kind}; "
                "somebody changed the table meanwhile, it is tried again"
            )
    for name in CLOCK_COLUMNS:
        if name in target and name not in table.columns:
            rows = rows.append_column(
                pa.field(name, ARROW["datetime"]), pa.array([now] * rows.num_rows, ARROW["datetime"])
            )
    return rows


def loads_row(load: Load, table: StagedTable, now: datetime) -> "pa.Table":
    """Return the row of `_mainstem_loads`."""
    values = [load.id, table.table, load.cursor, load.sequence, table.rows, load.positions, now]
    return pa.table(
        [pa.array([value], ARROW[kind]) for value, kind in zip(values, LOADS_COLUMNS.values(), strict=True)],
        schema=arrow_schema(LOADS_COLUMNS),
    )


def loader_rows(rows: "pa.Table", cursor: str, limit: int) -> Sequence[LoaderRow]:
    """Return rows of `_mainstem_loads` of a cursor, newest first."""
    found = [row for row in rows.to_pylist() if row["cursor_name"] == cursor]
    found.sort(key=lambda row: (-row["load_sequence"], row["table_name"]))
    return [
        LoaderRow(
            load_id=row["load_id"],
            table=row["table_name"],
            cursor=row["cursor_name"],
            sequence=row["load_sequence"],
            rows=row["row_count"],
            positions=row["positions"],
            loaded_at_ms=int(row["loaded_at"].timestamp() * 1000),
        )
        for row in found[:limit]
    ]


def arrow_schema(columns: Columns) -> "pa.Schema":
    return pa.schema([pa.field(name, ARROW[kind]) for name, kind in columns.items()])


def latest_of(old: "pa.Table", new: "pa.Table", *, key: str = "id", time: str = "received_at") -> "pa.Table":
    """Return the rows of `new`, merged with those of the same id in `old`.

    Column by column the value with the later `received_at` that is not null; columns that only `old` has stay. Both
    have an id once.
    """
    indices = pc.index_in(new[key].combine_chunks(), value_set=old[key].combine_chunks())
    before = old.take(indices)
    if time in new.column_names and time in old.column_names:
        old_time, new_time = before[time], new[time]
        later: Any = pc.or_kleene(pc.is_null(old_time), pc.greater_equal(new_time, old_time))
        newer: Any = pc.fill_null(later, False)
    else:
        newer = pa.array([True] * new.num_rows)
    fields, columns = [], []
    for field in new.schema:
        one, other = new[field.name], None
        if field.name in old.column_names:
            other = before[field.name].cast(field.type)
        if field.name == key or other is None or field.name in CLOCK_COLUMNS:
            columns.append(one)
        else:
            columns.append(pc.if_else(newer, pc.coalesce(one, other), pc.coalesce(other, one)))
        fields.append(field)
    for field in old.schema:
        if field.name not in new.column_names:
            fields.append(field)
            columns.append(before[field.name])
    return pa.table(columns, schema=pa.schema(fields))


def now() -> datetime:
    """Return the moment that rows are loaded at: of this machine, as there is no engine that could tell."""
    return datetime.now(UTC)


def quoted(name: str) -> str:
    """Return a name in SQL's quotes."""
    return '"' + name.replace('"', '""') + '"'


def query(
    sql: str, namespace: str, tables: Sequence[str], read: Callable[[str], Any]
) -> Sequence[Sequence[Any]]:
    """Return the rows of a query, by DuckDB in memory, over the tables that occur in it by their quoted names.

    Args:
        read: returns a table: an Arrow table, or SQL text that selects it.
    """
    with contextlib.closing(duckdb.connect(":memory:")) as memory:
        try:
            memory.execute("SET TimeZone = 'UTC'")
            memory.execute(f"CREATE SCHEMA {quoted(namespace)}")
            for index, table in enumerate(name for name in tables if quoted(name) in sql):
                found = read(table)
                if not isinstance(found, str):
                    memory.register(f"arrow_{index}", found)
                    found = f"SELECT * FROM arrow_{index}"  # noqa: S608 - the name is ours
                memory.execute(f"CREATE VIEW {quoted(namespace)}.{quoted(table)} AS {found}")
            cursor = memory.execute(sql)
            return cursor.fetchall() if cursor.description else []
        except duckdb.Error as error:
            raise WarehouseError(f"query: {str(error).splitlines()[0][:500]}") from error


def literal(path: Path | str) -> str:
    """Return a text in SQL's quotes."""
    return "'" + str(path).replace("'", "''") + "'"
