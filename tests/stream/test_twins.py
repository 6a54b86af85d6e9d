"""The steps of deduplication, with hashes that collide."""

from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from mainstem.clock import FixedClock
from mainstem.stream.base import AppendResult, NewRecord
from mainstem.stream.embedded import EmbeddedLimits, open_embedded, stream, writer
from mainstem.stream.embedded.segment import fingerprints
from mainstem.stream.embedded.twins import Fingerprints, YoungIds


@given(
    st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3), max_size=5)),
    st.sets(st.integers(0, 3) | st.integers(0, 2**64 - 1), max_size=40),
)
def test_young_ids_find_what_is_there(batches: list[list[int]], wanted: set[int]) -> None:
    young = YoungIds()
    expected: list[int] = []
    for number, hashes in enumerate(batches):
        young.extend(1000 * number, array("Q", hashes).tobytes())
        expected += [1000 * number + i for i, value in enumerate(hashes) if value in wanted]
    assert sorted(young.find(wanted)) == expected
    assert sorted(id_ for value in wanted for id_ in young.find([value])) == expected


def test_fingerprints_are_the_low_halves() -> None:
    assert fingerprints(array("Q", [1, 2**32 + 5, 2**64 - 1]).tobytes()) == BitMap([1, 5, 2**32 - 1])
    assert fingerprints(b"") == BitMap()


def test_merging_forgets_what_is_older() -> None:
    known = Fingerprints()
    known.add(1, BitMap([1]))
    known.add(2, BitMap([2]))
    known.add(3, BitMap([3]))
    known.replace(BitMap([2]), through=2)
    assert known.among(BitMap([1, 2, 3])) == BitMap([2, 3])
    assert known.parts() == 1


async def test_colliding_hashes_never_lose_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hash of two values almost everything collides: only the key may decide."""
    monkeypatch.setattr(writer, "hash_of", lambda key: 1 + len(key) % 2)
    monkeypatch.setattr(stream, "xxh3_64_intdigest", lambda key: 1 + len(key) % 2)
    clock = FixedClock(1_700_000_000_000)
    opened = await open_embedded(
        tmp_path, partitions=2, clock=clock, limits=EmbeddedLimits(segment_bytes=1, min_free_bytes=0)
    )
    producer = await opened.producer()
    for start in range(0, 30, 10):
        made = [NewRecord(b"u", b"v", clock.now_ms(), b"%d" % (i // 2 * 2)) for i in range(start, start + 10)]
        assert await producer.append(made) == AppendResult(5, (1, 3, 5, 7, 9))
        assert await producer.append(made[:2]) == AppendResult(0, (0, 1))
        await opened.upkeep()
    assert len(await opened.find(b"4")) == 1
    assert len(await opened.find(b"14")) == 1
    await opened.close()
