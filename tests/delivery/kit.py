"""What the delivery tests share: events, a destination in memory with a will of its own, and a sender."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from mainstem.clock import SystemClock
from mainstem.delivery.sender import Burial, Item, Sender
from mainstem.destinations.base import (
    Delivered,
    Delivery,
    DestinationSpec,
    Request,
    Skip,
)
from mainstem.events.canonical import Event
from mainstem.ledger.base import Ledger, Parked, Position
from mainstem.workspace.model import DeliveryPolicy, Destination

CURSOR = "hook"
HOUR = 3_600_000

QUICK = DeliveryPolicy(
    concurrency=8,
    timeout_s=2.0,
    backoff_base_s=0.001,
    backoff_max_s=0.004,
    park_after_s=1000.0,
    park_after_attempts=1_000_000,
    breaker_failures=1_000_000,
    breaker_open_s=0.01,
)


def policy(**fields: Any) -> DeliveryPolicy:
    """QUICK with changes."""
    return msgspec.structs.replace(QUICK, **fields)


def spec(max_batch: int = 1) -> DestinationSpec:
    return DestinationSpec(
        name="WEBHOOK",
        title="Webhook",
        kind="http",
        config=msgspec.Struct,
        message_types=frozenset(("track",)),
        doc_url="https://x.test",
        default_max_batch=max_batch,
    )


def item(
    offset: int, user: str, *, partition: int = 0, login: str = "", url: str = "", payloads: int = 1
) -> Item:
    """One event of a user; its messageId is `user-offset`."""
    message_id = f"{user}-{offset}"
    body = msgspec.json.encode({"messageId": message_id, "user": user, "offset": offset})
    event = Event(
        message={},
        source_id="site",
        message_id=message_id,
        type="track",
        name="Bought",
        user_id=user,
        anonymous_id="",
        received_at_ms=HOUR,
        raw=body,
    )
    return Item(
        partition=partition,
        offset=offset,
        sequence=offset,
        key=user,
        login_key=login,
        event=event,
        value=msgspec.msgpack.encode([user, partition, login, url, payloads]),
        payloads=tuple(
            Request("POST", f"{url}/{n}", (("content-type", "application/json"),), body)
            for n in range(payloads)
        ),
    )


async def prepare(row: Parked) -> Item | Skip | Burial:
    """The inverse of `item`."""
    user, partition, login, url, payloads = msgspec.msgpack.decode(row.value)
    return item(row.offset, user, partition=partition, login=login, url=url, payloads=payloads)


Answer = Callable[[Item], Delivery | Awaitable[Delivery]]


class Shop:
    """A destination in memory: remembers what was attempted and delivered, answers as told."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer
        self.attempted: list[tuple[str, int]] = []
        self.delivered: list[tuple[str, int]] = []
        self.busy: set[str] = set()
        self.most_busy = 0
        self.changed = asyncio.Event()

    async def __call__(self, items: Sequence[Item]) -> Sequence[Delivery]:
        keys = {one.key for one in items}
        assert not keys & self.busy, "two attempts of one key at a time"
        self.busy |= keys
        self.most_busy = max(self.most_busy, len(self.busy))
        try:
            return [await self._one(one) for one in items]
        finally:
            self.busy -= keys
            self.changed.set()

    async def _one(self, one: Item) -> Delivery:
        self.attempted.append((one.key, one.offset))
        await asyncio.sleep(0)
        result: Delivery | Awaitable[Delivery] = Delivered() if self.answer is None else self.answer(one)
        if isinstance(result, Awaitable):
            result = await result
        if isinstance(result, Delivered):
            self.delivered.append((one.key, one.offset))
        return result

    def describe(self, one: Item) -> str:
        return one.payloads[0].body.decode() if isinstance(one.payloads[0], Request) else ""

    def of(self, user: str) -> list[int]:
        """Return the offsets delivered for a user, in order."""
        return [offset for key, offset in self.delivered if key == user]


def sender(
    attempt: Any, ledger: Ledger, policy: DeliveryPolicy = QUICK, *, max_batch: int = 1, **fields: Any
) -> Sender:
    given = {"prepare": prepare, "clock": SystemClock(), "settle_every_s": 0.005, "poll_s": 0.005, **fields}
    return Sender(
        cursor=CURSOR,
        destination=Destination(id=CURSOR, name="Hook", type="WEBHOOK", delivery=policy),
        spec=spec(max_batch),
        attempt=attempt,
        ledger=ledger,
        rng=random.Random(7),
        **given,
    )


async def begin(one: Sender, ledger: Ledger, partitions: Sequence[int] = (0,)) -> Mapping[int, Position]:
    """Open the cursor and start; return where it stands."""
    positions = await ledger.open_cursor(CURSOR, dict.fromkeys(partitions, 0))
    await one.start(positions)
    return positions


async def until(condition: Callable[[], bool | Awaitable[bool]], timeout_s: float = 8.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(timeout_s):
        while True:
            result = condition()
            if isinstance(result, Awaitable):
                result = await result
            if result:
                return
            await asyncio.sleep(0.002)


async def settled(one: Sender, ledger: Ledger, next_offset: int, partition: int = 0) -> None:
    """Wait until a partition is settled up to an offset and nothing is parked."""

    async def done() -> bool:
        return one.positions.get(partition) == next_offset and not await ledger.parked_keys(CURSOR)

    await until(done)


async def totals(ledger: Ledger) -> dict[str, int]:
    """Return the books by outcome, with what is parked and how far the positions are."""
    found: dict[str, int] = {}
    for line, events in (await ledger.counts(CURSOR)).items():
        found[line.outcome] = found.get(line.outcome, 0) + events
    found["parked"] = sum((await ledger.parked_keys(CURSOR)).values())
    found["settled"] = sum(
        at.next_offset - at.start_offset for at in (await ledger.positions(CURSOR)).values()
    )
    return found
