"""From planned records to finished files, in bounded memory.

archive writer -> **files** -> store. Lines are collected per file and compressed a mebibyte at a time into a spool,
which moves to a temporary file when it grows. A `.jsonl.gz` file is therefore a series of gzip members, which
every reader of gzip takes as one stream. The same records in the same order give the same bytes: blocks end
after a number of bytes, never after a time, and gzip headers carry no time.
"""

import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO, Final, Protocol, cast

import msgspec

from mainstem.bulk.plan import Plan
from mainstem.bulk.writer import Planned
from mainstem.destinations.archive import Format
from mainstem.events.stored import REJECTED, StoredEvent
from mainstem.lake.layout import HOUR_MS, SUFFIXES, FileKey, stem_of
from mainstem.lake.line import LineEncoder

_BLOCK_BYTES: Final = 1024 * 1024
_ROW_GROUP_BYTES: Final = 16 * 1024 * 1024
_SPOOL_BYTES: Final = 1024 * 1024
_GZIP: Final = 31  # zlib's wbits for a gzip header and trailer; its time field is 0


class _Writer(Protocol):
    def add(self, event: StoredEvent, partition: int, offset: int, sequence: int) -> None: ...

    def finish(self) -> BinaryIO: ...


class _LineFile:
    def __init__(self, spool: IO[bytes], level: int) -> None:
        self._spool = spool
        self._level = level
        self._lines = LineEncoder()
        self._block = bytearray()

    def add(self, event: StoredEvent, partition: int, offset: int, sequence: int) -> None:
        self._block += self._lines.encode(event, partition, offset, sequence)
        if len(self._block) >= _BLOCK_BYTES:
            self._compress()

    def finish(self) -> BinaryIO:
        if self._block:
            self._compress()
        return cast("BinaryIO", self._spool)

    def _compress(self) -> None:
        member = zlib.compressobj(self._level, zlib.DEFLATED, _GZIP)
        self._spool.write(member.compress(self._block))
        self._spool.write(member.flush())
        self._block.clear()


class _ColumnFile:
    def __init__(self, spool: IO[bytes]) -> None:
        # pyarrow costs 0.3 s and 60 MB: only for those who ask for Parquet.
        from mainstem.lake.columns import ColumnWriter

        self._spool = cast("BinaryIO", spool)
        self._columns = ColumnWriter(self._spool)
        self._bytes = 0

    def add(self, event: StoredEvent, partition: int, offset: int, sequence: int) -> None:
        self._columns.add(event, partition, offset, sequence)
        self._bytes += len(event.raw)
        if self._bytes >= _ROW_GROUP_BYTES:
            self._columns.end_row_group()
            self._bytes = 0

    def finish(self) -> BinaryIO:
        self._columns.close()
        return self._spool


class PlannedSettings(msgspec.Struct, frozen=True, array_like=True):
    """What of an archive's settings decides the bytes of files; stored in plans."""

    prefix: str
    formats: tuple[Format, ...]
    compression_level: int


class PlannedFiles:
    """The files of one plan, being made. Records come in order of partition and offset."""

    def __init__(self, plan: Plan, spool_dir: Path | None = None) -> None:
        self._plan = plan
        self._settings = msgspec.msgpack.decode(plan.settings, type=PlannedSettings)
        self._spool_dir = None if spool_dir is None else str(spool_dir)
        self._open: dict[tuple[FileKey, Format], _Writer] = {}
        self._spools: list[IO[bytes]] = []
        self._finished: list[tuple[str, BinaryIO]] | None = None

    def add(self, records: Iterable[Planned]) -> None:
        """Take records that the plan writes."""
        for event, partition, offset, sequence, _ in records:
            key = FileKey(event.source_id, event.received_at_ms // HOUR_MS, event.kind == REJECTED)
            for file_format in self._settings.formats:
                writer = self._open.get((key, file_format))
                if writer is None:
                    writer = self._open[key, file_format] = self._begin(file_format)
                writer.add(event, partition, offset, sequence)

    def finish(self) -> None:
        """All records are there."""
        if self._finished is None:
            self._finished = sorted(
                (
                    (self._name(key, file_format), writer.finish())
                    for (key, file_format), writer in self._drain()
                ),
                key=lambda item: item[0],
            )

    def files(self) -> Sequence[tuple[str, BinaryIO]]:
        """Return the names and contents of a finished plan, in order of name."""
        return self._finished or ()

    def close(self) -> None:
        """Let go of the spools."""
        for spool in self._spools:
            spool.close()

    def _drain(self) -> Iterator[tuple[tuple[FileKey, Format], _Writer]]:
        while self._open:
            yield self._open.popitem()

    def _name(self, key: FileKey, file_format: Format) -> str:
        plan = self._plan
        return stem_of(self._settings.prefix, key, plan.sequence, plan.id) + SUFFIXES[file_format]

    def _begin(self, file_format: Format) -> _Writer:
        spool: IO[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - `close` closes them all
            max_size=_SPOOL_BYTES, dir=self._spool_dir
        )
        self._spools.append(spool)
        return (
            _LineFile(spool, self._settings.compression_level)
            if file_format == "jsonl"
            else _ColumnFile(spool)
        )
