"""An archive in Iceberg as a place for batches: a plan's rows, added to the table in one commit.

gatherer -> **iceberg writer** -> table. A commit names its plan, and a plan that a commit names is not added again
(`iceberg_table.ArchiveTable.put`): carrying a plan out again, at any time and by anyone, changes nothing.
"""

import asyncio
import tempfile
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from pyarrow import ipc

from mainstem.bulk.errors import BulkError
from mainstem.bulk.plan import DELIVERED, REJECTED, Plan
from mainstem.bulk.writer import Limits, Making, Planned, Urgency
from mainstem.clock import Clock
from mainstem.destinations.iceberg_archive import Config
from mainstem.lake.columns import Columns
from mainstem.lake.iceberg_table import ROW_SCHEMA, ArchiveTable
from mainstem.ledger.base import CountKey
from mainstem.telemetry.log import logger

_log = logger(__name__)

_BATCH_BYTES: Final = 16 * 1024 * 1024
_PIECE_BYTES: Final = 128 * 1024 * 1024
"""Rows that become files at once: so much of a plan is in memory, a few times over."""
_SPOOL_BYTES: Final = 1024 * 1024
_HOURS_A_DAY: Final = 24


class PlannedRows:
    """The rows of one plan, being gathered in a temporary file. See `bulk.writer.Making`."""

    def __init__(self, plan: Plan, spool_dir: Path | None = None) -> None:
        self._plan = plan
        # Any: pyarrow's stubs want an IOBase; it takes any file.
        self._spool: Any = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - `close` does
            max_size=_SPOOL_BYTES, dir=None if spool_dir is None else str(spool_dir)
        )
        self._out: ipc.RecordBatchStreamWriter | None = ipc.new_stream(
            self._spool, ROW_SCHEMA, options=ipc.IpcWriteOptions(compression="lz4")
        )
        self._columns = Columns(ROW_SCHEMA)
        self._bytes = 0
        self._last = (-1, -1)
        self._part = 0
        self.rows = 0

    def add(self, records: Iterable[Planned]) -> None:
        plan = self._plan
        for event, partition, offset, sequence, _ in records:
            self._part = self._part + 1 if (partition, offset) == self._last else 0
            self._last = (partition, offset)
            self._columns.add(event, partition, offset, sequence, plan.id, plan.sequence, self._part)
            self._bytes += len(event.raw)
            self.rows += 1
            if self._bytes >= _BATCH_BYTES:
                self._spill()

    def finish(self) -> None:
        if self._out is not None:
            self._spill()
            self._out.close()
            self._out = None

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows of a finished plan, piece by piece, in order."""
        self._spool.seek(0)
        piece: list[pa.RecordBatch] = []
        for batch in ipc.open_stream(self._spool):
            piece.append(batch)
            if sum(part.nbytes for part in piece) >= _PIECE_BYTES:
                yield pa.Table.from_batches(piece)
                piece = []
        if piece:
            yield pa.Table.from_batches(piece)

    def close(self) -> None:
        self._spool.close()

    def _spill(self) -> None:
        if self._out is not None and len(self._columns):
            self._out.write_batch(self._columns.take())
        self._bytes = 0


class IcebergWriter:
    """See `bulk.writer.Writer`."""

    def __init__(self, config: Config, data_dir: Path, clock: Clock, spool_dir: Path | None = None) -> None:
        """
        Args:
            spool_dir: where rows are gathered when they outgrow memory; None = the system's temporary folder.
        """
        self._config = config
        self._data_dir = data_dir
        self._clock = clock
        self._spool_dir = spool_dir
        self._upkept_ms: int | None = None
        self.outcomes = frozenset((DELIVERED, REJECTED) if config.include_rejected else (DELIVERED,))

    @property
    def place(self) -> str:
        config = self._config
        at = f"{config.endpoint}|{config.url}|{config.catalog}:{config.catalog_name}"
        return f"{at}|{config.namespace}.{config.table}"

    @property
    def limits(self) -> Limits:
        config = self._config
        return Limits(max_events=config.max_events, max_bytes=config.max_bytes, max_age_s=config.max_age_s)

    def part(self, line: CountKey) -> tuple[str, int]:
        return line.source_id, line.hour // _HOURS_A_DAY

    def settings(self) -> bytes:
        return b""  # rows are made in one way only

    def ahead(self) -> None:
        """Rows name their plan."""
        return

    def begin(self, plan: Plan) -> PlannedRows:
        return PlannedRows(plan, self._spool_dir)

    async def write(self, plan: Plan, made: Making) -> int:
        assert isinstance(made, PlannedRows)  # noqa: S101 - it is ours
        return await asyncio.to_thread(self._write, plan, made) if made.rows else 0

    def _write(self, plan: Plan, made: PlannedRows) -> int:
        table = ArchiveTable.open(self._config, self._data_dir)
        try:
            table.check(self._clock.now_ms())
            files = table.put(plan, made.tables)
            self._upkept_ms = table.upkept_ms
        finally:
            table.close()
        return files

    def urgency(self) -> Urgency:
        return "when due"

    async def upkeep(self) -> None:
        """A table that nothing is added to needs none: it is seen to after plans."""
        return

    async def settled(self, plan: Plan) -> None:
        every_ms = round(self._config.compact_every_s * 1000)
        if not every_ms or self._upkept_ms is None or self._clock.now_ms() < self._upkept_ms + every_ms:
            return
        try:
            await asyncio.to_thread(self._upkeep, every_ms)
        except BulkError as error:
            # What is written stands; small files wait for the next time.
            _log.warning("small files of the archive were not joined", place=self.place, error=str(error))

    def _upkeep(self, every_ms: int) -> None:
        table = ArchiveTable.open(self._config, self._data_dir)
        try:
            keep = timedelta(hours=self._config.keep_snapshots_h)
            done = table.upkeep(every_ms=every_ms, keep=keep, now_ms=self._clock.now_ms())
            self._upkept_ms = table.upkept_ms
        finally:
            table.close()
        if done is not None:
            _log.info(
                "small files of the archive joined",
                place=self.place,
                files_before=done.files_before,
                files_after=done.files_after,
                snapshots_expired=done.snapshots_expired,
                files_removed=done.files_removed,
            )
