"""Damaged files: never wrong records, always the name of the file. And the disk that is full."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mainstem.clock import FixedClock
from mainstem.stream.base import AppendResult, NewRecord, StreamCorrupt, StreamError, StreamFull
from mainstem.stream.embedded import EmbeddedLimits, open_embedded, segment
from tests.components.install import absent
from tests.stream.process import PARTITIONS, open_here, record
from tests.stream.test_processes import everything, name_of, rest_of, started


@pytest.fixture(name="closed")
async def _closed(tmp_path: Path) -> Path:
    """A stream with two segments, 200 records in the first and one in the second, that nobody has open."""
    stream = await open_here(tmp_path, segment_bytes=1)
    producer = await stream.producer()
    for i in range(0, 200, 10):
        await producer.append([record("a", j) for j in range(i, i + 10)])
    await stream.upkeep()
    await producer.append([record("b", 0)])
    await stream.close()
    return tmp_path


def first_segment(directory: Path) -> Path:
    return sorted(directory.glob("segment-*.db"))[0]


async def read_all(directory: Path) -> list[str]:
    stream = await open_here(directory)
    try:
        await stream.verify()
        return [name_of(r) for r in await everything(stream)]
    finally:
        await stream.close()


async def test_an_undamaged_stream_verifies(closed: Path) -> None:
    assert len(await read_all(closed)) == 201


async def test_a_truncated_segment_is_named(closed: Path) -> None:
    path = first_segment(closed)
    whole = path.read_bytes()
    for size in (0, 100, 4096, 8192, len(whole) // 2, len(whole) - 8192, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(StreamCorrupt, match=path.name):
            await read_all(closed)


async def test_a_flipped_byte_of_a_record_is_named(closed: Path) -> None:
    path = first_segment(closed)
    whole = path.read_bytes()
    for name in (b"a-0 ", b"a-77 ", b"a-199 "):
        assert name in whole
        # SQLite may have left an older copy in an unused part of a page: damage them all.
        path.write_bytes(whole.replace(name, name[:-1] + b"!"))
        with pytest.raises(StreamCorrupt, match=path.name):
            await read_all(closed)


async def test_flipped_bytes_anywhere_never_give_other_records(closed: Path) -> None:
    path = first_segment(closed)
    right = await read_all(closed)
    whole = bytearray(path.read_bytes())
    for at in range(7, len(whole), max(1, len(whole) // 40)):
        whole[at] ^= 0x55
        path.write_bytes(whole)
        try:
            assert await read_all(closed) == right
        except StreamError as error:
            assert path.name in str(error)  # noqa: PT017 - either is right: unused bytes may be damaged
        whole[at] ^= 0x55


async def test_a_missing_segment_is_named(closed: Path) -> None:
    first_segment(closed).unlink()
    with pytest.raises(StreamCorrupt, match=r"segment-0+1\.db"):
        await open_here(closed)


async def test_a_torn_tail_of_the_wal_loses_only_what_was_not_acknowledged(tmp_path: Path) -> None:
    async with started("append", tmp_path, "a", 0) as writer:
        assert writer.stdout is not None
        for _ in range(40):
            await writer.stdout.readline()
        writer.kill()
        await writer.wait()
    wal = next(tmp_path.glob("segment-*.db-wal"))
    with wal.open("r+b") as file:
        file.truncate(wal.stat().st_size - 5000)
    names = await read_all(tmp_path)
    assert names == [f"a-{i}" for i in range(len(names))]


async def test_a_lost_heads_file_costs_nothing(closed: Path) -> None:
    (closed / "heads").unlink()
    assert len(await read_all(closed)) == 201


async def test_an_affected_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "SAFE_SQLITE", (99, 0, 0))
    with pytest.raises(StreamError, match="WAL-reset"):
        await open_here(tmp_path)


# ---------------------------------------------------------------- the disk is full


async def test_a_file_that_may_not_grow_stores_nothing_and_recovers(tmp_path: Path) -> None:
    async with started("full", tmp_path, 400_000) as process:
        full, after = await rest_of(process)
        assert await process.wait() == 0
    stored = int(full.split()[1])
    assert stored >= 5
    # The last one acknowledged is a duplicate, and the refused one was not stored.
    assert after == "after 1 1"
    assert await read_all(tmp_path) == [f"full-{i}" for i in range(stored + 1)]


@pytest.fixture(name="small_disk")
def _small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        absent("tmpfs: may not mount a small file system here; run the tests as root.")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


async def test_a_full_disk_stores_nothing_and_recovers(small_disk: Path) -> None:
    limits = EmbeddedLimits(min_free_bytes=0)
    stream = await open_embedded(
        small_disk / "s", partitions=PARTITIONS, clock=FixedClock(1_700_000_000_000), limits=limits
    )
    producer = await stream.producer()
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (3 << 20))
    stored = 0
    with contextlib.suppress(StreamFull):
        while stored < 5000:
            await producer.append([record("d", stored, 4000)])
            stored += 1
    assert 10 < stored < 5000
    for _ in range(5):
        with pytest.raises(StreamFull):
            await producer.append([record("refused", 0, 100_000)])
    assert [name_of(r) for r in await everything(stream)] == [f"d-{i}" for i in range(stored)]
    ballast.unlink()
    assert await producer.append([record("d", stored - 1), record("d", stored)]) == AppendResult(1, (0,))
    await stream.close()
    assert await read_all(small_disk / "s") == [f"d-{i}" for i in range(stored + 1)]


async def test_appends_stop_while_there_is_space_left_for_the_books(small_disk: Path) -> None:
    limits = EmbeddedLimits(min_free_bytes=3 << 20)
    stream = await open_embedded(
        small_disk / "s", partitions=PARTITIONS, clock=FixedClock(1_700_000_000_000), limits=limits
    )
    producer = await stream.producer()
    assert (await producer.append([NewRecord(b"k", b"v", 0)])).appended == 1
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (4 << 20))
    with pytest.raises(StreamFull):
        await stream.check()
    with pytest.raises(StreamFull):
        await producer.append([NewRecord(b"k", b"v", 0)])
    await stream.commit("cursor", {0: 1})
    ballast.unlink()
    await stream.check()
    assert (await producer.append([NewRecord(b"k", b"v", 0)])).appended == 1
    await stream.close()
