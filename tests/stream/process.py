"""Programs for the tests that need real processes: `python -m tests.stream.process <program> <directory> …`.

append   <prefix> <n> [process]  appends records in small calls until `n` (0: for ever), through a thread or a
                       process that commits; prints a line when a call is durable
read     <n>           reads all partitions until `n` records; prints them in the order of their sequences
join     <group>       joins, and prints what it owns whenever that changes
full     <bytes>       appends under a file size limit; see `test_full`
"""

import asyncio
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mainstem.clock import SystemClock
from mainstem.stream.base import AppendResult, NewRecord, Record, StreamError, StreamFull
from mainstem.stream.embedded import EmbeddedLimits, EmbeddedStream, open_embedded
from mainstem.telemetry.log import configure

PARTITIONS = 4
NOW_MS = 1_700_000_000_000


async def open_here(
    directory: Path, *, segment_bytes: int = 256 << 10, writer: Literal["thread", "process"] = "thread"
) -> EmbeddedStream:
    limits = EmbeddedLimits(segment_bytes=segment_bytes, min_free_bytes=0, writer=writer)
    return await open_embedded(directory, partitions=PARTITIONS, clock=SystemClock(), limits=limits)


def record(prefix: str, i: int, size: int = 300) -> NewRecord:
    name = f"{prefix}-{i}"
    return NewRecord(f"user{i % 11}".encode(), name.encode().ljust(size), NOW_MS, name.encode(), prefix)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def append(
    directory: Path, prefix: str, count: int, writer: Literal["thread", "process"] = "thread"
) -> None:
    stream = await open_here(directory, writer=writer)
    producer = await stream.producer()
    say("ready")
    in_flight = asyncio.Semaphore(16)
    i = 0
    while not count or i < count:
        await in_flight.acquire()
        numbers = range(i, min(i + 1 + i % 5, count or sys.maxsize))
        i = numbers.stop

        def done(result: AppendResult | StreamError, numbers: Sequence[int] = numbers) -> None:
            if isinstance(result, StreamError):
                raise result
            say(" ".join(map(str, numbers)))
            in_flight.release()

        producer.submit([record(prefix, number) for number in numbers], done)
        if i % 50 == 0:
            # Again: a duplicate, in flight together with its twin or after it.
            await producer.append([record(prefix, i - 1)])
    await stream.close()


async def read(directory: Path, count: int) -> None:
    stream = await open_here(directory)
    say("ready")
    positions = dict.fromkeys(range(PARTITIONS), 0)
    found: list[Record] = []
    while len(found) < count:
        await stream.wait(positions, timeout_s=5)
        for partition, offset in positions.items():
            records = await stream.read(partition, offset, max_records=100, max_bytes=1 << 20)
            found += records
            positions[partition] = offset + len(records)
    for one in sorted(found, key=lambda r: r.sequence):
        say(f"{one.partition} {one.offset} {one.value.decode().rstrip()}")
    await stream.close()


async def join(directory: Path, group: str) -> None:
    stream = await open_here(directory)
    owned: set[int] = set()

    async def on_assign(partitions: frozenset[int]) -> None:
        owned.update(partitions)
        say(" ".join(map(str, sorted(owned))))

    async def on_revoke(partitions: frozenset[int]) -> None:
        owned.difference_update(partitions)
        say(" ".join(map(str, sorted(owned))))

    await stream.join(group, on_assign=on_assign, on_revoke=on_revoke)
    await asyncio.Event().wait()


async def full(directory: Path, limit_bytes: int) -> None:
    stream = await open_here(directory, segment_bytes=256 << 20)
    producer = await stream.producer()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))
    stored = 0
    try:
        while stored < 10_000:
            await producer.append([record("full", stored, 4000)])
            stored += 1
    except StreamFull:
        say(f"full {stored}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    result = await producer.append([record("full", stored - 1), record("full", stored)])
    say(f"after {result.appended} {len(result.duplicates)}")
    await stream.close()


def main(program: str, directory: str, *rest: str) -> None:
    configure("warning")
    where = Path(directory)
    if program == "append":
        asyncio.run(append(where, rest[0], int(rest[1]), "process" if rest[2:] == ("process",) else "thread"))
    elif program == "read":
        asyncio.run(read(where, int(rest[0])))
    elif program == "join":
        asyncio.run(join(where, rest[0]))
    else:
        asyncio.run(full(where, int(rest[0])))


if __name__ == "__main__":
    main(*sys.argv[1:])
