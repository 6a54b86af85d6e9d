"""Parquet files for loads, as `fit` writes them, and what a table holds afterwards."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from mainstem.warehouse.loader import Load, Loader, Mode, StagedTable
from mainstem.warehouse.schema import Columns, ColumnType, CreateTable, plan_changes
from mainstem.warehouse.values import ARROW, array_of

EVENT: Final[dict[str, ColumnType]] = {
    "id": "string",
    "received_at": "datetime",
    "name": "string",
    "total": "float",
    "count": "int",
    "vip": "boolean",
}
DAY: Final = "2026-01-0{}T00:00:00Z"


def event(row_id: str | None, day: int = 1, **more: Any) -> dict[str, Any]:
    """A row."""
    return {"id": row_id, "received_at": DAY.format(day), **more}


def long_text(loader: Loader) -> ColumnType:
    """The type of a column for long texts: engines may tell them from short ones."""
    types = loader.capabilities.types
    return "string" if types["string"] == types["text"] else "text"


def named(loader: Loader, columns: Columns) -> dict[str, ColumnType]:
    """The columns as the engine spells our names."""
    return {cased(loader, name): kind for name, kind in columns.items()}


def cased(loader: Loader, name: str) -> str:
    return name.upper() if loader.capabilities.upper_case else name


def load_of(number: int, cursor: str = "shop") -> Load:
    return Load(id=f"plan{number:08d}", cursor=cursor, sequence=number, positions='{"0": 7}')


def staged(
    loader: Loader,
    folder: Path,
    table: str,
    columns: Columns,
    rows: Sequence[Mapping[str, Any]],
    mode: Mode = "replace by id",
) -> StagedTable:
    """Rows (by plain lower-case names) as a file in the engine's spelling."""
    spelled = named(loader, columns)
    arrays = []
    for name, kind in columns.items():
        array, unfit = array_of([row.get(name) for row in rows], kind)
        assert not unfit, (name, unfit)
        arrays.append(array)
    schema = pa.schema([pa.field(name, ARROW[kind]) for name, kind in spelled.items()])
    path = folder / f"{abs(hash((table, len(rows), repr(rows))))}.parquet"
    pq.write_table(pa.table(arrays, schema=schema), str(path))
    return StagedTable(table=cased(loader, table), columns=spelled, path=path, rows=len(rows), mode=mode)


def create(loader: Loader, table: str, columns: Columns) -> None:
    """The table, with the engine's clock column."""
    whole = named(loader, {**columns, "uuid_ts": "datetime"})
    loader.evolve([CreateTable(cased(loader, table), whole)])


def evolve(loader: Loader, table: str, columns: Columns) -> None:
    """The table as a load would have it."""
    wanted = {cased(loader, table): named(loader, columns)}
    loader.evolve(plan_changes(loader.fetch_schema(), wanted, loader.capabilities.widenings))


def ids(loader: Loader, namespace: str, table: str) -> list[str]:
    """The ids in a table, in order."""
    name, column = cased(loader, table), cased(loader, "id")
    quoted = getattr(loader, "quoted")  # noqa: B009 - engines without SQL have their own `ids`
    place = getattr(loader, "place")  # noqa: B009
    rows = loader.query(f"SELECT {quoted(column)} FROM {place(name)} ORDER BY 1")
    return [str(row[0]) for row in rows]


def values(loader: Loader, table: str, row_id: str, *columns: str) -> list[Any]:
    """Values of one row."""
    quoted = getattr(loader, "quoted")  # noqa: B009
    place = getattr(loader, "place")  # noqa: B009
    picked = ", ".join(quoted(cased(loader, column)) for column in ("id", *columns))
    where = f"{quoted(cased(loader, 'id'))} = '{row_id}'"
    rows = loader.query(f"SELECT {picked} FROM {place(cased(loader, table))} WHERE {where}")
    # Some engines find more by `=`: those with other blanks at the end.
    [row] = [row for row in rows if row[0] == row_id]
    return list(row[1:])
