"""A staged Parquet file, a few megabytes at a time: what loaders do that send rows through a connection."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

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
