"""Reading an archive back: for replay, for people. Here in files; in a table by `iceberg_reader`.

store -> **reader** -> replay. Events come by hour of receivedAt, within it by file sequence, within a file by
partition and offset: so those of one partition, and with them those of one user, come in the order of the
log (unless a gateway's clock was set back over a full hour: files are found by receivedAt). The reader looks
at one day at a time; files that appear meanwhile are seen if their day is still to come.
"""

import asyncio
import gzip
import io
import zlib
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from datetime import date, timedelta
from itertools import islice
from typing import Final, Protocol

import msgspec

from mainstem.lake.errors import ArchiveDamaged
from mainstem.lake.layout import (
    FOREVER_MS,
    HOUR_MS,
    FileName,
    area,
    date_folder,
    date_of,
    day_of_ms,
    parse_name,
    source_folder,
    source_of,
)
from mainstem.lake.line import ArchivedEvent, decode_line
from mainstem.lake.store import Store

_LINES: Final = 500


class Archive(Protocol):
    """One archive, to be read. It is made of files: of what one plan wrote of one source and hour."""

    async def sources(self, *, rejected: bool = False) -> Sequence[str]:
        """Return the ids of the sources that have events."""
        ...

    def files(
        self,
        *,
        from_ms: int = 0,
        to_ms: int = FOREVER_MS,
        sources: Collection[str] = (),
        rejected: bool = False,
    ) -> AsyncIterator[FileName]:
        """Yield the files with events of `[from_ms, to_ms)` by receivedAt, in order, each event in one of them. A
        file does not change once it is there, and keeps its name.

        Args:
            sources: only these; empty = all.
            rejected: the events that the gateway rejected, instead of the accepted ones.

        Raises:
            StoreUnavailable: the store failed.
        """
        ...

    def read(self, name: str) -> AsyncIterator[ArchivedEvent]:
        """Yield the events of one file. To read them in the order of `files` is cheapest.

        Raises:
            ArchiveDamaged: the file is not what was written.
            StoreUnavailable: the store failed.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


async def events_of(
    archive: Archive,
    *,
    from_ms: int = 0,
    to_ms: int = FOREVER_MS,
    sources: Collection[str] = (),
    rejected: bool = False,
) -> AsyncIterator[ArchivedEvent]:
    """Yield the events of `[from_ms, to_ms)` by receivedAt, in order.

    Raises:
        ArchiveDamaged: a file is not what was written; what came before it was right.
        StoreUnavailable: the store failed.
    """
    async for name in archive.files(from_ms=from_ms, to_ms=to_ms, sources=sources, rejected=rejected):
        async for event in archive.read(name.name):
            if from_ms <= event.event.received_at_ms < to_ms:
                yield event


class ArchiveReader:
    """Reads an archive of files. See `Archive`."""

    def __init__(self, store: Store, prefix: str = "") -> None:
        self._store = store
        self._prefix = prefix

    def close(self) -> None:
        return

    async def sources(self, *, rejected: bool = False) -> Sequence[str]:
        folders = await self._store.folders(area(self._prefix, rejected=rejected))
        return sorted(source for folder in folders if (source := source_of(folder)) is not None)

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
        root = area(self._prefix, rejected=rejected)
        wanted = [
            f"{root}/{source_folder(source)}".lstrip("/")
            for source in await self.sources(rejected=rejected)
            if not sources or source in sources
        ]
        day = day_of_ms(from_ms) - timedelta(days=1)
        last = day_of_ms(to_ms - 1)
        while (next_day := await self._day_after(day, wanted)) is not None and next_day <= last:
            day = next_day
            found: dict[str, FileName] = {}
            for folder in wanted:
                async for stored in self._store.list(f"{folder}/{date_folder(day)}"):
                    name = parse_name(stored.name)
                    if (
                        name is None
                        or not from_ms < (name.hour + 1) * HOUR_MS
                        or name.hour * HOUR_MS >= to_ms
                    ):
                        continue
                    # Of two formats of the same events, JSON lines: they read faster.
                    if name.stem not in found or name.format == "jsonl":
                        found[name.stem] = name
            for name in sorted(found.values(), key=lambda item: (item.hour, item.sequence, item.name)):
                yield name

    async def _day_after(self, day: date, folders: Sequence[str]) -> date | None:
        days = [date_of(name) for folder in folders for name in await self._store.folders(folder)]
        return min((found for found in days if found is not None and found > day), default=None)

    async def read(self, name: str) -> AsyncIterator[ArchivedEvent]:
        file = parse_name(name)
        if file is None or file.format == "rows":
            raise ArchiveDamaged(name, "this archive has no such files")
        content = await self._store.get(name)
        events = _lines(name, content) if file.format == "jsonl" else _rows(name, content)
        while batch := await asyncio.to_thread(_take, events):
            for event in batch:
                yield event


def _take(events: Iterator[ArchivedEvent]) -> list[ArchivedEvent]:
    return list(islice(events, _LINES))


def _lines(name: str, content: bytes) -> Iterator[ArchivedEvent]:
    number = 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as lines:
            for line in lines:
                number += 1
                yield decode_line(line)
    except (OSError, EOFError, zlib.error, ValueError, msgspec.DecodeError) as error:
        raise ArchiveDamaged(name, f"at line {number}: {error}") from error
    if number == 0:
        raise ArchiveDamaged(name, "it is empty")


def _rows(name: str, content: bytes) -> Iterator[ArchivedEvent]:
    # pyarrow costs 0.3 s and 60 MB: only for those who archive to Parquet alone.
    from mainstem.lake.columns import read_columns

    try:
        yield from read_columns(content)
    except (OSError, ValueError, KeyError) as error:
        raise ArchiveDamaged(name, str(error)) from error
