"""Keeps an appender's deduplication in step with the segments: from the thread or process that has time for it."""

import contextlib

from pyroaring import BitMap

from mainstem.clock import Clock
from mainstem.stream.embedded.appender import Appender, WriterLimits
from mainstem.stream.embedded.catalog import Catalog
from mainstem.stream.embedded.segment import (
    SegmentInfo,
    SegmentMissing,
    connect,
    errors_named,
    read_fingerprints,
)


class TwinsFeed:
    """Feeds one appender. Call it from one thread at a time, beside the appender's."""

    def __init__(self, appender: Appender, catalog: Catalog, clock: Clock, limits: WriterLimits) -> None:
        self._appender = appender
        self._catalog = catalog
        self._clock = clock
        self._limits = limits

    def hand_over(self) -> None:
        """Hand over the fingerprints of segments that were indexed since, and merge when there are many.

        Raises:
            StreamError: a segment can't be read.
        """
        young = self._appender.unindexed()
        for info in self._catalog.refresh() if young else ():
            if info.number in young and info.indexed:
                with contextlib.suppress(SegmentMissing):
                    self._appender.take_indexed(info.number, _fingerprints(info))
        if self._appender.wants_merge():
            self._merge()

    def _merge(self) -> None:
        since_ms = self._clock.now_ms() - self._limits.dedup_window_ms
        merged = BitMap()
        through = ids = 0
        for info in reversed(self._catalog.segments()[:-1]):
            if not info.indexed:
                continue
            ids += info.count
            if ids > self._limits.dedup_max_ids or info.max_ms < since_ms:
                break
            through = max(through, info.number)
            merged |= _fingerprints(info)
        if through and all(info.indexed for info in self._catalog.segments() if info.number <= through):
            self._appender.take_merged(merged, through)


def _fingerprints(info: SegmentInfo) -> BitMap:
    with errors_named(info.path):
        connection = connect(info.path)
        try:
            return read_fingerprints(connection)
        finally:
            connection.close()
