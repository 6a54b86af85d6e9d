"""Reading an archive in Iceberg back. See `reader.Archive`.

table -> **iceberg reader** -> replay. What it gives out as files are the rows of one plan, source and hour. Files of
one source and hour come together, so they are read together, as many as a bounded number of rows: a table's own file
holds many of them once small files were joined.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Final

from mainstem.lake.columns import events_of
from mainstem.lake.errors import ArchiveDamaged
from mainstem.lake.iceberg_table import ArchiveTable, Key
from mainstem.lake.layout import FOREVER_MS, HOUR_MS, ROWS, FileKey, FileName, day_of_ms, parse_name, stem_of
from mainstem.lake.line import ArchivedEvent

if TYPE_CHECKING:
    import pyarrow as pa

_EVENTS: Final = 500
_AHEAD_ROWS: Final = 20_000
_REJECTED: Final = "rejected/"
_DAY_MS: Final = 24 * HOUR_MS


class IcebergReader:
    """Reads an archive's table. See `reader.Archive`."""

    def __init__(self, table: ArchiveTable) -> None:
        self._table = table
        self._ahead = _Ahead(table)

    def close(self) -> None:
        self._table.close()

    async def sources(self, *, rejected: bool = False) -> Sequence[str]:
        return await asyncio.to_thread(self._table.sources, rejected=rejected)

    async def files(
        self,
        *,
        from_ms: int = 0,
        to_ms: int = FOREVER_MS,
        sources: Collection[str] = (),
        rejected: bool = False,
    ) -> AsyncIterator[FileName]:
        if from_ms >= to_ms:
            return
        # Whole hours: a file is named and read as a whole.
        first_ms = from_ms // HOUR_MS * HOUR_MS
        end_ms = min(-(-to_ms // HOUR_MS) * HOUR_MS, FOREVER_MS)
        day = day_of_ms(first_ms) - timedelta(days=1)
        while True:
            days = await asyncio.to_thread(self._table.days, first_ms, end_ms, sources)
            later = [found for found in days if found > day]
            if not later:
                return
            day = later[0]
            start_ms = round(datetime.combine(day, time(), UTC).timestamp()) * 1000
            keys = await asyncio.to_thread(
                self._table.keys,
                max(first_ms, start_ms),
                min(end_ms, start_ms + _DAY_MS),
                sources,
                rejected=rejected,
            )
            for key, _ in keys:
                yield _name_of(key, rejected)

    async def read(self, name: str) -> AsyncIterator[ArchivedEvent]:
        file = parse_name(name)
        if file is None or file.format != "rows":
            raise ArchiveDamaged(name, "this archive has no such files")
        rows = await asyncio.to_thread(self._ahead.of, file)
        for start in range(0, rows.num_rows, _EVENTS):
            for event in await asyncio.to_thread(events_of, rows.slice(start, _EVENTS)):
                yield event


class _Ahead:
    """Rows that were read together, for when they are asked for. Blocking."""

    def __init__(self, table: ArchiveTable) -> None:
        self._table = table
        self._unit: tuple[int, str, bool] | None = None
        self._keys: dict[str, tuple[Key, int]] = {}
        """The plans of the unit, in order, with their numbers of rows."""
        self._rows: dict[str, pa.Table] = {}

    def of(self, file: FileName) -> "pa.Table":
        """Return the rows of a file.

        Raises:
            ArchiveDamaged: they are gone, or the table's file is not what was written.
            StoreUnavailable: they can't be read.
        """
        rejected = file.name.startswith(_REJECTED)
        unit = (file.hour, file.source_id, rejected)
        if self._unit != unit or file.plan_id not in self._keys:
            self._learn(unit)
        if file.plan_id in self._keys and file.plan_id not in self._rows:
            self._rows = self._read(file.plan_id, rejected)
        if file.plan_id not in self._rows:
            raise ArchiveDamaged(file.name, "its rows are gone from the table")
        return self._rows[file.plan_id]

    def _learn(self, unit: tuple[int, str, bool]) -> None:
        hour, source_id, rejected = unit
        keys = self._table.keys(hour * HOUR_MS, (hour + 1) * HOUR_MS, (source_id,), rejected=rejected)
        self._unit = unit
        self._keys = {key.plan_id: (key, rows) for key, rows in keys}
        self._rows = {}

    def _read(self, plan_id: str, rejected: bool) -> "dict[str, pa.Table]":
        """Return the rows of a plan and of those after it, as many as are read at once."""
        known = list(self._keys.values())
        wanted: list[Key] = []
        expected = 0
        for key, rows in known[list(self._keys).index(plan_id) :]:
            if wanted and expected + rows > _AHEAD_ROWS:
                break
            wanted.append(key)
            expected += rows
        found: dict[str, pa.Table] = {}
        table = self._table.rows(wanted, rejected=rejected)
        if table is not None:
            start = 0
            # They are in order, so those of a plan are together.
            for plan, count in Counter(table["plan"].to_pylist()).items():
                found[str(plan)] = table.slice(start, count)
                start += count
        return found


def _name_of(key: Key, rejected: bool) -> FileName:
    stem = stem_of("", FileKey(key.source_id, key.hour, rejected), key.sequence, key.plan_id)
    return FileName(stem + ROWS, key.source_id, key.hour, key.sequence, stem, "rows")
