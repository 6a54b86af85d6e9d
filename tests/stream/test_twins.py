"""The steps of deduplication, with hashes that collide."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap
from xxhash import xxh3_64_intdigest

from mainstem.clock import FixedClock
from mainstem.stream.base import AppendResult, NewRecord, StreamCorrupt
from mainstem.stream.embedded import EmbeddedLimits, appender, open_embedded, segment, stream
from mainstem.stream.embedded.twins import Fingerprints, YoungIds


@given(
    st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3), max_size=5)),
    st.sets(st.integers(1, 3) | st.integers(1, 2**64 - 1), max_size=40),
)
def test_young_ids_find_what_is_there(commits: list[list[int]], wanted: set[int]) -> None:
    young = YoungIds()
    expected: list[int] = []
    held: set[int] = set()
    for number, hashes in enumerate(commits):
        young.extend(1000 * number, hashes)
        expected += [1000 * number + i for i, value in enumerate(hashes) if value in wanted]
        held.update(hashes)
    assert sorted(young.find(wanted)) == expected
    assert sorted(at for value in wanted for at in young.find([value])) == expected
    assert set(young.among([0, *wanted])) >= held & wanted
    assert 0 not in young.among([0])


def test_a_hash_across_two_entries_is_not_found() -> None:
    """Entries lie side by side: the end of one and the beginning of the next may look like a third."""
    young = YoungIds()
    young.extend(5 << 32, [1024, 7 << 32])
    assert sorted(young.find([1024, 7 << 32])) == [5 << 32, (5 << 32) + 1]
    # The sequences are there, eight bytes on, and the last four of one with the first four of the next.
    assert young.find([5 << 32, 7]) == []


def test_fingerprints_are_the_upper_halves() -> None:
    known = Fingerprints()
    assert known.among([1 << 32, 0]) == []
    known.add(1, BitMap([1, 2**32 - 1, 0]))
    assert known.among([1 << 32, 5 << 32, 2**64 - 1, 7, 0]) == [1 << 32, 2**64 - 1, 7]


async def test_the_index_of_a_segment_holds_every_hash(tmp_path: Path) -> None:
    path = tmp_path / "segment-000000000001.db"
    segment.create_segment(path, 1, 0)
    connection = segment.connect(path)
    segment.start_segment(connection, [0, 0], 0)
    info = segment.read_info(connection, path)
    assert info is not None
    hashes = [xxh3_64_intdigest(b"%d" % i) for i in range(3000)]
    hashes[7] = 0
    hashes[2000] = hashes[8]
    sequence = 0
    for size in (1, 2, 997, 2000):
        some = hashes[sequence : sequence + size]
        made = [NewRecord(b"k", b"v", 5) for _ in some]
        row = segment.commit_row(sequence, [sequence, 0], [0] * size, some, made, [])
        connection.execute(segment.INSERT_COMMIT, row)
        sequence += size
    segment.index_twins(connection)
    assert segment.read_fingerprints(connection) == BitMap([value >> 32 for value in hashes if value])
    wanted = list({value for value in hashes if value})
    assert sorted(segment.indexed_twins(connection, wanted)) == [i for i in range(3000) if i != 7]
    assert sorted(segment.indexed_twins(connection, [hashes[8], 12345])) == [8, 2000]
    for offset, at in ((0, 0), (1, 1), (2, 1), (3, 3), (999, 3), (1000, 1000), (2999, 1000)):
        assert segment.commit_at(connection, info, 0, offset) == at
        assert segment.commit_holding(connection, info, offset).sequence == at
    with pytest.raises(StreamCorrupt, match="3000"):
        segment.commit_holding(connection, info, 3000)
    connection.close()


def test_merging_forgets_what_is_older() -> None:
    known = Fingerprints()
    known.add(1, BitMap([1]))
    known.add(2, BitMap([2]))
    known.add(3, BitMap([3]))
    known.replace(BitMap([2]), through=2)
    assert known.among([1 << 32, 2 << 32, 3 << 32]) == [2 << 32, 3 << 32]
    assert known.parts() == 1


async def test_colliding_hashes_never_lose_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hash of two values almost everything collides: only the key may decide."""
    monkeypatch.setattr(appender, "hash_of", lambda key: 1 + len(key) % 2)
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
