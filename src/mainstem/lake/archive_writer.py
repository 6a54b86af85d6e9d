"""The archive as a place for batches: a plan's files, put into the store.

gatherer -> **archive writer** -> store. One file per source and hour and format, named by the plan (`layout.py`):
putting a plan again puts the same bytes under the same names.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from mainstem.bulk.plan import DELIVERED, REJECTED, Plan
from mainstem.bulk.writer import Limits, Making, Urgency
from mainstem.destinations.archive import ArchiveSettings, Config, archive_config
from mainstem.lake.files import PlannedFiles, PlannedSettings
from mainstem.lake.layout import FileKey
from mainstem.lake.store import Store
from mainstem.ledger.base import CountKey

_PUTS_AT_ONCE: Final = 4
_MAX_FILES: Final = 256
"""Files of one plan per format: each may hold a block of 1 MiB while it is made."""


class ArchiveWriter:
    """See `bulk.writer.Writer`."""

    def __init__(self, config: Config | ArchiveSettings, store: Store, spool_dir: Path | None = None) -> None:
        """
        Args:
            spool_dir: where files are made when they outgrow memory; None = the system's temporary folder.
        """
        self._config = archive_config(config)
        self._store = store
        self._spool_dir = spool_dir
        self._put: tuple[str, set[str]] = ("", set())
        """A plan's id, and its files that this process has put already."""
        self.outcomes = frozenset((DELIVERED, REJECTED) if self._config.include_rejected else (DELIVERED,))

    @property
    def place(self) -> str:
        return self._store.location

    @property
    def limits(self) -> Limits:
        return Limits(
            max_events=self._config.max_events,
            max_bytes=self._config.max_bytes,
            max_age_s=self._config.max_age_s,
            max_parts=_MAX_FILES,
        )

    def part(self, line: CountKey) -> FileKey:
        return FileKey(line.source_id, line.hour, line.outcome == REJECTED)

    def settings(self) -> bytes:
        config = self._config
        return msgspec.msgpack.encode(
            PlannedSettings(config.prefix, config.formats, config.compression_level)
        )

    def ahead(self) -> None:
        """Files are a function of the plan."""
        return

    def begin(self, plan: Plan) -> PlannedFiles:
        return PlannedFiles(plan, self._spool_dir)

    async def write(self, plan: Plan, made: Making) -> int:
        assert isinstance(made, PlannedFiles)  # noqa: S101 - it is ours
        if self._put[0] != plan.id:
            self._put = (plan.id, set())
        done = self._put[1]
        waiting = [(name, content) for name, content in made.files() if name not in done]
        for start in range(0, len(waiting), _PUTS_AT_ONCE):
            await self._put_some(waiting[start : start + _PUTS_AT_ONCE], done)
        return len(waiting)

    def urgency(self) -> Urgency:
        return "when due"

    async def upkeep(self) -> None:
        return

    async def settled(self, plan: Plan) -> None:
        return

    async def _put_some(self, files: Sequence[tuple[str, BinaryIO]], done: set[str]) -> None:
        async def put(name: str, content: BinaryIO) -> None:
            await self._store.put(name, content)
            done.add(name)

        results = await asyncio.gather(*(put(*file) for file in files), return_exceptions=True)
        for result in results:
            if result is not None:
                raise result
