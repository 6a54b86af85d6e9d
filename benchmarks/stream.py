"""Appends to the embedded stream against a do-nothing baseline: write and fdatasync of the same bytes, in one run.

Records of about 800 bytes, unique keys, over uvloop as in the gateway. Throughput keeps a bounded number of
submits waiting; latency is measured at about half of that load. CPU is the whole process, all threads.
"""

import asyncio
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvloop

from mainstem.clock import SystemClock
from mainstem.stream.base import AppendResult, NewRecord, Producer, StreamError
from mainstem.stream.embedded import open_embedded

_SECONDS = 3.0
_VALUE = b"x" * 760
_PARTITIONS = 8
_SIZES = {20: 64, 1: 512}
"""Records in a submit, and how many submits wait at once."""


class Figures(msgspec.Struct, frozen=True):
    """What one run showed."""

    records_per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float

    def line(self, name: str) -> str:
        return (
            f"{name:<34}{self.records_per_s:>10,.0f} records/s {self.cpu_us:>7.2f} CPU us/record"
            f"   p50 {self.p50_ms:6.2f} ms   p99 {self.p99_ms:6.2f} ms"
        )


def main() -> None:
    """Print the figures."""
    sys.setswitchinterval(0.0005)
    for size, in_flight in _SIZES.items():
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
            baseline = _baseline(Path(directory) / "raw", size * in_flight // 2)
            print(baseline.line(f"baseline: write+fdatasync, {size * in_flight // 2}"))
            full, half, submit_us = uvloop.run(_embedded(Path(directory) / "stream", size, in_flight))
        print(full.line(f"embedded, submits of {size}"))
        print(half.line(f"embedded, submits of {size}, half load"))
        print(
            f"  ratio to baseline {full.records_per_s / baseline.records_per_s:.2f};"
            f" {full.records_per_s / size:,.0f} submits/s; submit itself {submit_us:.2f} us/record"
        )


def _baseline(path: Path, records: int) -> Figures:
    data = _VALUE * records
    took: list[float] = []
    cpu = _cpu_s()
    began = time.perf_counter()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    while time.perf_counter() - began < _SECONDS / 3:
        start = time.perf_counter()
        os.write(fd, data)
        os.fdatasync(fd)
        took.append(time.perf_counter() - start)
    os.close(fd)
    return _figures(len(took) * records, time.perf_counter() - began, _cpu_s() - cpu, took)


async def _embedded(directory: Path, size: int, in_flight: int) -> tuple[Figures, Figures, float]:
    stream = await open_embedded(directory, partitions=_PARTITIONS, clock=SystemClock())
    producer = await stream.producer()
    full, submit_us = await _load(producer, size, in_flight, None)
    half, _ = await _load(producer, size, in_flight, full.records_per_s / 2)
    await stream.close()
    return full, half, submit_us


async def _load(
    producer: Producer, size: int, in_flight: int, records_per_s: float | None
) -> tuple[Figures, float]:
    took: list[float] = []
    state = _State()
    loop = asyncio.get_running_loop()
    finished = loop.create_future()
    cpu = _cpu_s()
    began = time.perf_counter()

    def one() -> None:
        made = _records(state.made, size)
        state.made += size
        start = time.perf_counter()
        producer.submit(made, done_from(start))
        state.submit_s += time.perf_counter() - start
        state.waiting += 1

    def done_from(start: float) -> Callable[[AppendResult | StreamError], None]:
        def done(result: AppendResult | StreamError) -> None:
            assert result == AppendResult(size), result
            now = time.perf_counter()
            took.append(now - start)
            state.waiting -= 1
            if now - began < _SECONDS:
                if records_per_s is None:
                    one()
            elif not state.waiting and not finished.done():
                finished.set_result(None)

        return done

    def pace() -> None:
        now = time.perf_counter()
        if now - began >= _SECONDS:
            if not state.waiting and not finished.done():
                finished.set_result(None)
            return
        assert records_per_s is not None
        while state.made < (now - began) * records_per_s:
            one()
        loop.call_later(0.001, pace)

    if records_per_s is None:
        for _ in range(in_flight):
            one()
    else:
        pace()
    await finished
    figures = _figures(state.made, time.perf_counter() - began, _cpu_s() - cpu, took)
    return figures, state.submit_s / state.made * 1e6


class _State:
    made = 0
    waiting = 0
    submit_s = 0.0


_RUN = os.urandom(8)


def _records(start: int, size: int) -> list[NewRecord]:
    now_ms = time.time_ns() // 1_000_000
    run = _RUN + now_ms.to_bytes(8, "big")
    return [
        NewRecord(b"src:user%d" % (i % 10_000), _VALUE, now_ms, b"src\x00%s-%d" % (run, i), "source")
        for i in range(start, start + size)
    ]


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _figures(records: int, wall_s: float, cpu_s: float, took: list[float]) -> Figures:
    took.sort()
    return Figures(
        records / wall_s,
        cpu_s / records * 1e6,
        took[len(took) // 2] * 1000,
        took[len(took) * 99 // 100] * 1000,
    )


if __name__ == "__main__":
    main()
