"""The embedded stream against the in-memory one, over random histories: append, duplicate, read, rotate, drop,
reopen, cursors, time. Whatever one shows, the other must show."""

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mainstem.clock import FixedClock
from mainstem.stream.base import NewRecord, Stream
from mainstem.stream.embedded import EmbeddedLimits, EmbeddedStream, open_embedded
from mainstem.stream.memory import MemoryStream
from tests.contract.test_stream import everything

PARTITIONS = 3
WINDOW_S = 100.0
T = TypeVar("T")

records = st.builds(
    lambda key, dedup, tally, age_s: (key, dedup, tally, age_s),
    st.sampled_from([b"a", b"b", b"c", b"d", b"e"]),
    st.sampled_from([b""] + [b"id%d" % i for i in range(12)]),
    st.sampled_from(["s1", "s2"]),
    st.integers(0, 3),
)


class StreamMachine(RuleBasedStateMachine):
    """Does the same to both."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory()
        self.clock = FixedClock(1_700_000_000_000)
        self.model = MemoryStream(partitions=PARTITIONS, clock=self.clock, dedup_window_s=WINDOW_S)
        self.count = 0
        self.real = self.run(self.opened())

    async def opened(self, retention_bytes: int = 1 << 40) -> EmbeddedStream:
        limits = EmbeddedLimits(
            segment_bytes=1, retention_bytes=retention_bytes, dedup_window_s=WINDOW_S, min_free_bytes=0
        )
        return await open_embedded(
            Path(self.directory.name), partitions=PARTITIONS, clock=self.clock, limits=limits
        )

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @rule(calls=st.lists(st.lists(records, max_size=6), min_size=1, max_size=3))
    def append(self, calls: list[list[tuple[bytes, bytes, str, int]]]) -> None:
        made: list[list[NewRecord]] = []
        for call in calls:
            made.append([])
            for key, dedup, tally, age_s in call:
                at_ms = self.clock.now_ms() - age_s * 1000
                made[-1].append(NewRecord(key, b"%d" % self.count, at_ms, dedup, tally))
                self.count += 1

        async def both() -> None:
            real, model = await self.real.producer(), await self.model.producer()
            results = await asyncio.gather(*(real.append(call) for call in made))
            assert results == [await model.append(call) for call in made]

        self.run(both())

    @rule(seconds=st.sampled_from([1, 40, 101]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def rotate(self) -> None:
        self.run(self.real.upkeep())

    @rule()
    def reopen(self) -> None:
        async def again() -> EmbeddedStream:
            await self.real.close()
            return await self.opened()

        self.real = self.run(again())

    @rule(cursor=st.sampled_from(["c1", "c2"]), behind=st.integers(0, 3))
    def commit(self, cursor: str, behind: int) -> None:
        async def both() -> None:
            bounds = await self.model.bounds()
            offsets = {p: max(held.earliest, held.next - behind) for p, held in bounds.items()}
            await self.real.commit(cursor, offsets)
            await self.model.commit(cursor, offsets)

        self.run(both())

    @rule(cursor=st.sampled_from(["c1", "c2"]))
    def forget(self, cursor: str) -> None:
        self.run(self.real.forget(cursor))
        self.run(self.model.forget(cursor))

    @rule()
    def retention(self) -> None:
        """The model drops exactly what the real one did: it may drop only whole segments."""

        async def both() -> None:
            await self.real.close()
            self.real = await self.opened(retention_bytes=0)
            await self.real.upkeep()
            for partition, held in (await self.real.bounds()).items():
                for offsets in (await self.model.cursors()).values():
                    assert held.earliest <= offsets[partition]
                assert self.model.drop_before(partition, held.earliest) == held.earliest
            await self.real.close()
            self.real = await self.opened()

        self.run(both())

    @rule(dedup=st.sampled_from([b"id%d" % i for i in range(12)]))
    def find(self, dedup: bytes) -> None:
        assert self.run(self.real.find(dedup)) == self.run(self.model.find(dedup))

    @invariant()
    def they_show_the_same(self) -> None:
        if not hasattr(self, "real"):
            return

        async def shown(stream: Stream) -> object:
            found = [
                (r.partition, r.offset, r.key, r.value, r.timestamp_ms) for r in await everything(stream)
            ]
            return (
                found,
                await stream.bounds(),
                await stream.cursors(),
                await stream.tallies(),
                await stream.duplicates(),
            )

        assert self.run(shown(self.real)) == self.run(shown(self.model))

    def teardown(self) -> None:
        if hasattr(self, "real"):
            self.run(self.real.close())
            self.run(self.model.close())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            self.directory.cleanup()


TestStreamMachine = StreamMachine.TestCase
TestStreamMachine.settings = settings(
    max_examples=30,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
