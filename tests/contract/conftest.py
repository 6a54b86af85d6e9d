"""The back ends that the behaviour suites run against: a new one is one more `pytest.param` here."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Literal, Protocol

import pytest

from mainstem.clock import FixedClock
from mainstem.stream.base import Stream
from mainstem.stream.embedded import EmbeddedLimits, EmbeddedStream, open_embedded
from mainstem.stream.memory import MemoryStream

PARTITIONS = 4
WINDOW_S = 3600.0


class StreamMaker(Protocol):
    """Opens streams of one back end; `drop_before` makes it forget what no cursor needs."""

    async def __call__(self, *, max_backlog_bytes: int = 1 << 20) -> Stream: ...

    async def drop_all(self, stream: Stream) -> None: ...


class _Memory:
    def __init__(self, _: Path) -> None:
        self._clock = FixedClock(1_700_000_000_000)

    async def __call__(self, *, max_backlog_bytes: int = 1 << 20) -> Stream:
        return MemoryStream(
            partitions=PARTITIONS,
            clock=self._clock,
            dedup_window_s=WINDOW_S,
            max_backlog_bytes=max_backlog_bytes,
        )

    async def drop_all(self, stream: Stream) -> None:
        assert isinstance(stream, MemoryStream)
        for partition, held in (await stream.bounds()).items():
            stream.drop_before(partition, held.next)


class _Embedded:
    writer: Literal["thread", "process"] = "thread"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made = 0
        self._clock = FixedClock(1_700_000_000_000)

    async def __call__(self, *, max_backlog_bytes: int = 1 << 20) -> Stream:
        self._made += 1
        limits = EmbeddedLimits(
            dedup_window_s=WINDOW_S,
            max_backlog_bytes=max_backlog_bytes,
            segment_bytes=1,
            retention_bytes=0,
            min_free_bytes=0,
            writer=self.writer,
        )
        directory = self._directory / str(self._made)
        return await open_embedded(directory, partitions=PARTITIONS, clock=self._clock, limits=limits)

    async def drop_all(self, stream: Stream) -> None:
        assert isinstance(stream, EmbeddedStream)
        await stream.upkeep()


class _EmbeddedWithWriter(_Embedded):
    writer = "process"


_BACK_ENDS = [
    pytest.param(_Memory, id="memory"),
    pytest.param(_Embedded, id="embedded"),
    pytest.param(_EmbeddedWithWriter, id="embedded-with-writer"),
]


@pytest.fixture(params=_BACK_ENDS)
def make_stream(request: pytest.FixtureRequest, tmp_path: Path) -> StreamMaker:
    """Opens a new stream of the back end under test."""
    back_end: Callable[[Path], StreamMaker] = request.param
    return back_end(tmp_path)


@pytest.fixture
async def stream(make_stream: StreamMaker) -> AsyncIterator[Stream]:
    """A new, empty stream of the back end under test."""
    opened = await make_stream()
    yield opened
    await opened.close()
