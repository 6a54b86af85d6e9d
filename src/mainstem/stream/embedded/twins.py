"""Deduplication: is this key's twin within the window? Exact, at the memory of a few bytes a key.

Three steps, each only for what the one before could not decide:

1. A set of 32-bit fingerprints (Roaring bitmap, 2 to 7 bytes an id) of everything in the window. No hit: new.
2. The 64-bit hash, looked up in each segment of the window: closed segments have an index, younger ones are
   held here as 8 bytes an id, in order of append.
3. The record itself: the whole key is compared, and the twin's timestamp with the window.

So neither a collision nor a stale fingerprint can lose an event; they only cost time (at 20 million ids one
record in 200 takes step 2 in vain).
"""

import bisect
from collections.abc import Iterable
from typing import Final

from pyroaring import BitMap

_HASH_BYTES: Final = 8
_FEW: Final = 16


class YoungIds:
    """The hashes of one segment without an index, in order of append."""

    def __init__(self) -> None:
        self._hashes = bytearray()
        self._starts: list[int] = []
        self._ids: list[int] = []

    def __len__(self) -> int:
        return len(self._hashes) // _HASH_BYTES

    def extend(self, id_: int, ids: bytes) -> None:
        """Add a batch."""
        self._starts.append(len(self))
        self._ids.append(id_)
        self._hashes += ids

    def find(self, wanted: Iterable[int]) -> list[int]:
        """Return the ids of the records with one of these hashes."""
        few = set(wanted)
        places = self._scan(few) if len(few) > _FEW else self._search(few)
        return [self._id_at(place) for place in places]

    def _search(self, wanted: set[int]) -> list[int]:
        places: list[int] = []
        for value in wanted:
            pattern = value.to_bytes(_HASH_BYTES, "little")
            at = self._hashes.find(pattern)
            while at >= 0:
                if at % _HASH_BYTES == 0:
                    places.append(at // _HASH_BYTES)
                at = self._hashes.find(pattern, at + 1)
        return places

    def _scan(self, wanted: set[int]) -> list[int]:
        with memoryview(self._hashes) as view, view.cast("Q") as hashes:
            return [place for place, value in enumerate(hashes) if value in wanted]

    def _id_at(self, place: int) -> int:
        index = bisect.bisect_right(self._starts, place) - 1
        return self._ids[index] + place - self._starts[index]


class Fingerprints:
    """The set of step 1: one bitmap for what was merged, one per segment since."""

    def __init__(self) -> None:
        self._merged = BitMap()
        self._recent: dict[int, BitMap] = {}

    def add(self, number: int, fingerprints: BitMap) -> None:
        """Add ids of a segment."""
        known = self._recent.get(number)
        if known is None:
            self._recent[number] = fingerprints.copy()
        else:
            known |= fingerprints

    def among(self, fingerprints: BitMap) -> BitMap:
        """Return those that are known."""
        hits = self._merged & fingerprints
        for known in self._recent.values():
            hits |= known & fingerprints
        return hits

    def replace(self, merged: BitMap, through: int) -> None:
        """Take a freshly merged set of the segments up to `through`; older ids are forgotten."""
        self._merged = merged
        self._recent = {number: known for number, known in self._recent.items() if number > through}

    def parts(self) -> int:
        """Return how many segments have a bitmap of their own."""
        return len(self._recent)
