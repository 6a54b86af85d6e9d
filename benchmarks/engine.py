"""What the delivery engine costs per event: offer, order, attempt, settle, with a destination that does nothing.

Run: python -m benchmarks.engine. The baseline of the same run hands the same events through a queue to as many
tasks, without order, books or retries: what asyncio alone costs.
"""

import asyncio
import gc
import random
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import uvloop

from mainstem.clock import SystemClock
from mainstem.delivery.item import Burial
from mainstem.delivery.sender import Item, Sender
from mainstem.destinations.base import Delivered, Delivery, DestinationSpec
from mainstem.events.canonical import Event
from mainstem.ledger.base import Parked
from mainstem.ledger.memory import MemoryLedger
from mainstem.workspace.model import DeliveryPolicy, Destination

_EVENTS = 40_000
_USERS = 2_000
_CONCURRENCY = 16
_ROUNDS = 5
_CURSOR = "bench"
_HOUR_MS = 3_600_000
_DONE = Delivered()


class _Nothing:
    """Takes everything; lets the loop turn once, as a real attempt does."""

    async def __call__(self, items: Sequence[Item]) -> Sequence[Delivery]:
        await asyncio.sleep(0)
        return [_DONE] * len(items)

    def describe(self, item: Item) -> str:
        return ""


async def _prepare(parked: Parked) -> Burial:
    return Burial("nothing is parked here")


def _items(users: int) -> list[Item]:
    event = Event(
        message={},
        source_id="site",
        message_id="m",
        type="track",
        name="Bought",
        user_id="u",
        anonymous_id="",
        received_at_ms=_HOUR_MS,
        raw=b"{}",
    )
    return [
        Item(
            partition=0,
            offset=offset,
            sequence=offset,
            key=f"u{offset % users}",
            login_key="",
            event=event,
            value=b"x" * 800,
            payloads=(),
        )
        for offset in range(_EVENTS)
    ]


async def _bare(items: Sequence[Item], max_batch: int) -> None:
    attempt = _Nothing()
    queue: asyncio.Queue[Item] = asyncio.Queue(10_000)

    async def work() -> None:
        while True:
            taken = [await queue.get()]
            while len(taken) < max_batch and not queue.empty():
                taken.append(queue.get_nowait())
            await attempt(taken)
            for _ in taken:
                queue.task_done()

    tasks = [asyncio.create_task(work()) for _ in range(_CONCURRENCY)]
    for item in items:
        await queue.put(item)
    await queue.join()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _engine(items: Sequence[Item], max_batch: int) -> None:
    ledger = MemoryLedger()
    spec = DestinationSpec(
        name="BENCH",
        title="Bench",
        kind="http",
        config=msgspec.Struct,
        message_types=frozenset(("track",)),
        doc_url="",
        default_max_batch=max_batch,
    )
    all_settled = asyncio.Event()

    def on_settled(moved: object) -> None:
        if sender.positions[0] == len(items):
            all_settled.set()

    sender = Sender(
        cursor=_CURSOR,
        destination=Destination(
            id=_CURSOR, name="Bench", type="BENCH", delivery=DeliveryPolicy(concurrency=_CONCURRENCY)
        ),
        spec=spec,
        attempt=_Nothing(),
        prepare=_prepare,
        ledger=ledger,
        clock=SystemClock(),
        rng=random.Random(1),
        on_settled=on_settled,
    )
    await sender.start(await ledger.open_cursor(_CURSOR, {0: 0}))
    for start in range(0, len(items), 200):
        await sender.wait_room()
        for item in items[start : start + 200]:
            sender.offer(item)
        await asyncio.sleep(0)
    await all_settled.wait()
    await sender.drain(5)


async def _cpu_us(run: Callable[[Sequence[Item], int], Awaitable[None]], users: int, max_batch: int) -> float:
    """Return CPU microseconds per event."""
    items = _items(users)
    gc.collect()
    began = time.process_time()
    await run(items, max_batch)
    return (time.process_time() - began) / len(items) * 1e6


async def _measure() -> None:
    for name, users, max_batch in (
        ("many users, one at a time", _USERS, 1),
        ("few users, one at a time", 8, 1),
        ("many users, batches of 100", _USERS, 100),
    ):
        best = {"tasks alone": 1e9, "engine": 1e9}
        for _ in range(_ROUNDS):
            best["tasks alone"] = min(best["tasks alone"], await _cpu_us(_bare, users, max_batch))
            best["engine"] = min(best["engine"], await _cpu_us(_engine, users, max_batch))
        bare_us, engine_us = best["tasks alone"], best["engine"]
        print(
            f"{name:28} engine {engine_us:5.2f} us CPU/event, tasks alone {bare_us:5.2f};"
            f" ratio {engine_us / bare_us:.2f}"
        )


def main() -> None:
    """Measure and print."""
    uvloop.run(_measure())


if __name__ == "__main__":
    main()
