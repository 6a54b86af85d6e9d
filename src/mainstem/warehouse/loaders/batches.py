"""A staged Parquet file as loaders look at it: a few megabytes at a time, where rows go through a connection; and
whether it has integers that a float would round."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from mainstem.warehouse.loader import StagedTable, WarehouseError
from mainstem.warehouse.values import EXACT

BATCH_BYTES: Final = 8 * 1024 * 1024
_MOST_ROWS: Final = 10_000


def small_batches(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    """Yield record batches of these columns, in this order, none above `BATCH_BYTES` by much (a row is a row)."""
    with pq.ParquetFile(str(path)) as file:
        for batch in file.iter_batches(_batch_rows(file), columns=list(columns)):
            # What the file says of sizes is before dictionaries are undone: what comes out is measured again.
            step = max(1, batch.num_rows * BATCH_BYTES // max(1, batch.nbytes))
            for start in range(0, batch.num_rows, step):
                yield batch.slice(start, step).select(list(columns))


def _batch_rows(file: pq.ParquetFile) -> int:
    metadata = file.metadata
    size = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    average = max(1, size // max(1, metadata.num_rows))
    return max(1, min(_MOST_ROWS, BATCH_BYTES // average))


def integers_beyond_floats(table: StagedTable) -> list[str]:
    """Return the columns of integers that have some beyond ±2^53, by the file's own statistics."""
    metadata = pq.read_metadata(str(table.path))
    places = {name: index for index, name in enumerate(metadata.schema.names)}
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    found = []
    for name, kind in table.columns.items():
        if kind == "int":
            all_of_it = [group.column(places[name]).statistics for group in groups]
            known: list[Any] = [one for one in all_of_it if one is not None and one.has_min_max]
            if any(one.min < -EXACT or one.max > EXACT for one in known):
                found.append(name)
    return found


def see_integers(table: StagedTable, rounded: Sequence[str]) -> None:
    """Refuse a file whose integers would be rounded.

    Raises:
        WarehouseError: there are such columns.
    """
    if rounded:
        raise WarehouseError(
            f"table {table.table}: column {rounded[0]} has become one of floats, and the load has integers for it that"
            " a float would round; it is tried again"
        )
