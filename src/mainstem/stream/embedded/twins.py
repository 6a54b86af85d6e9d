"""Deduplication: is this key's twin within the window? Exact, at the memory of a few bytes a key.

Three steps, each only for what the one before could not decide:

1. A set of fingerprints (Roaring bitmap) of everything in the window. No hit: new. Closed segments: 32 bits, 2
   to 7 bytes an id. Segments without an index: 28 bits, because a set of 32 bits moves its many containers
   for every id that it gains, which costs more than the rest of a commit.
2. The 64-bit hash, looked up in each segment of the window: closed segments have an index, younger ones are
   held here as 16 bytes an id, in order of append.
3. The record itself: the whole key is compared, and the twin's timestamp with the window.

So neither a collision nor a stale fingerprint can lose an event; they only cost time (at 20 million ids one
record in 200 takes step 2 in vain).
"""

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Final

from pyroaring import BitMap

_BUCKETS: Final = 1024
_MARK: Final = (1 << 28) - 1
_ENTRY: Final = Struct(">QQ")
_pack = _ENTRY.pack


class YoungIds:
    """The hashes of one segment without an index, and the sequences of their records."""

    def __init__(self) -> None:
        self._marks = BitMap()
        self._buckets = [bytearray() for _ in range(_BUCKETS)]

    def extend(self, sequence: int, hashes: Sequence[int]) -> None:
        """Add records; the first has that sequence. 0 is no hash."""
        self._marks.update([value & _MARK for value in hashes if value])
        buckets = self._buckets
        for at, value in enumerate(hashes, sequence):
            if value:
                buckets[value % _BUCKETS] += _pack(value, at)

    def among(self, hashes: Iterable[int]) -> list[int]:
        """Return those that are perhaps here."""
        marks = self._marks
        return [value for value in hashes if value & _MARK in marks and value]

    def find(self, wanted: Iterable[int]) -> list[int]:
        """Return the sequences of the records with one of these hashes."""
        found: list[int] = []
        for value in set(wanted):
            bucket = self._buckets[value % _BUCKETS]
            pattern = value.to_bytes(8, "big")
            at = bucket.find(pattern)
            while at >= 0:
                if at % _ENTRY.size == 0:
                    found.append(int.from_bytes(bucket[at + 8 : at + 16], "big"))
                at = bucket.find(pattern, at + 1)
        return found


class Fingerprints:
    """The set of step 1 for indexed segments: one bitmap for what was merged, one per segment since."""

    def __init__(self) -> None:
        self._merged = BitMap()
        self._recent: dict[int, BitMap] = {}

    def add(self, number: int, fingerprints: BitMap) -> None:
        """Add a segment."""
        self._recent[number] = fingerprints

    def among(self, hashes: Sequence[int]) -> list[int]:
        """Return those that are perhaps in one of the segments."""
        if not self._recent and not self._merged:
            return []
        marks = BitMap([value >> 32 for value in hashes])
        hits = self._merged & marks
        for known in self._recent.values():
            hits |= known & marks
        return [value for value in hashes if value and value >> 32 in hits] if hits else []

    def replace(self, merged: BitMap, through: int) -> None:
        """Take a freshly merged set of the segments up to `through`; older ids are forgotten."""
        self._merged = merged
        self._recent = {number: known for number, known in self._recent.items() if number > through}

    def parts(self) -> int:
        """Return how many segments have a bitmap of their own."""
        return len(self._recent)
