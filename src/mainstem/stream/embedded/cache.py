"""Decoded records of the last reads, so that readers at the same place share one read and one decode."""

import bisect
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import msgspec

from mainstem.stream.base import Record

_STRETCHES: Final = 64
"""Of so many the ends are remembered."""


class Extent(msgspec.Struct, frozen=True):
    """Records of one partition without a gap."""

    partition: int
    first: int
    records: list[Record]
    size_bytes: int

    @property
    def next(self) -> int:
        return self.first + len(self.records)


class Stretch(msgspec.Struct, frozen=True):
    """Whole commits without a gap."""

    sequence: int
    """Of the commit after the last of them."""
    nexts: Sequence[int]
    """The next offset of every partition after the last of them."""
    extents: list[Extent]


class ExtentCache:
    """Least recently used extents, bounded by bytes. Used on the event loop only.

    A commit holds records of many partitions and is decoded once for all of them. Where a stretch ended is
    remembered too, so that whoever reads on from there finds its commit without a search.
    """

    def __init__(self, partitions: int, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._size_bytes = 0
        self._extents: OrderedDict[tuple[int, int], Extent] = OrderedDict()
        self._firsts: list[list[int]] = [[] for _ in range(partitions)]
        self._ends: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._max_ends = _STRETCHES * partitions

    def find(self, partition: int, offset: int) -> Extent | None:
        """Return an extent that holds the offset."""
        extent = self._extents.get((partition, offset))
        if extent is None:
            firsts = self._firsts[partition]
            place = bisect.bisect_right(firsts, offset) - 1
            if place < 0:
                return None
            extent = self._extents[partition, firsts[place]]
            if offset >= extent.next:
                return None
        self._extents.move_to_end((partition, extent.first))
        return extent

    def end_at(self, partition: int, offset: int) -> int | None:
        """Return the sequence at which a known stretch ended, the offset being the next; None if none did."""
        return self._ends.get((partition, offset))

    def add(self, stretch: Stretch) -> None:
        """Keep a stretch; what was not used longest goes."""
        for extent in stretch.extents:
            self._add(extent)
        for end in enumerate(stretch.nexts):
            self._ends[end] = stretch.sequence
            self._ends.move_to_end(end)
        while len(self._ends) > self._max_ends:
            self._ends.popitem(last=False)

    def _add(self, extent: Extent) -> None:
        key = (extent.partition, extent.first)
        known = self._extents.pop(key, None)
        if known is None:
            bisect.insort(self._firsts[extent.partition], extent.first)
        else:
            self._size_bytes -= known.size_bytes
        self._extents[key] = extent
        self._size_bytes += extent.size_bytes
        while self._size_bytes > self._max_bytes and len(self._extents) > 1:
            (partition, first), gone = self._extents.popitem(last=False)
            self._size_bytes -= gone.size_bytes
            firsts = self._firsts[partition]
            del firsts[bisect.bisect_left(firsts, first)]

    def drop_before(self, firsts: Sequence[int]) -> None:
        """Forget what begins below the earliest offsets held."""
        for key in [key for key in self._extents if key[1] < firsts[key[0]]]:
            self._size_bytes -= self._extents.pop(key).size_bytes
            self._firsts[key[0]].remove(key[1])
