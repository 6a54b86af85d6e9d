"""The sender where two things happen at once: each test is a fault that was there."""

import asyncio
from collections.abc import Sequence

import pytest
from tests.delivery.kit import CURSOR, Shop, begin, item, policy, sender, settled, totals, until

from mainstem.delivery.sender import Item
from mainstem.destinations.base import Delivered, Delivery, Rejected, Retry, Skip
from mainstem.ledger.base import CountKey, DeadFilter, Parked, Position, Settlement
from mainstem.ledger.memory import MemoryLedger


def parked(
    offset: int, user: str, *, login: str = "", partition: int = 0, first_attempt_ms: int = 0
) -> Parked:
    one = item(offset, user, login=login, partition=partition)
    return Parked(
        cursor=CURSOR,
        destination_id=CURSOR,
        key=user,
        sequence=offset,
        partition=partition,
        offset=offset,
        value=one.value,
        source_id="site",
        message_id=one.event.message_id,
        received_at_ms=one.event.received_at_ms,
        parked_at_ms=1,
        first_attempt_ms=first_attempt_ms,
    )


async def park(ledger: MemoryLedger, *rows: Parked, next_offset: int) -> None:
    """Put events into the park as an earlier worker left them."""
    await ledger.open_cursor(CURSOR, {0: 0})
    await ledger.settle(
        [Settlement(cursor=CURSOR, partition=0, from_offset=0, next_offset=next_offset, park=rows)]
    )


# ---------------------------------------------------------------- what must not end a task


@pytest.mark.parametrize("trouble", ["cancelled", "nothing"])
async def test_an_attempt_that_is_cancelled_inside_or_says_nothing_is_a_retry(trouble: str) -> None:
    ledger, odd = MemoryLedger(), True

    class Odd(Shop):
        async def __call__(self, items: Sequence[Item]) -> Sequence[Delivery]:
            nonlocal odd
            if odd:
                odd = False
                if trouble == "cancelled":
                    raise asyncio.CancelledError
                return [None]  # type: ignore[list-item]
            return await super().__call__(items)

    shop = Odd()
    one = sender(shop, ledger, policy(concurrency=1))
    await begin(one, ledger)
    one.offer(item(0, "u"))
    one.offer(item(1, "u"))
    await settled(one, ledger, 2)
    assert shop.of("u") == [0, 1]
    await one.drain(5)


async def test_a_request_that_cannot_be_described_stops_nothing() -> None:
    class Mute(Shop):
        def describe(self, one: Item) -> str:
            raise ValueError("bug")

    ledger = MemoryLedger()
    one = sender(Mute(lambda one: Rejected("http 400")), ledger)
    await begin(one, ledger)
    one.offer(item(0, "u"))
    await settled(one, ledger, 1)
    ((_, letter),) = await ledger.dead(DeadFilter())
    assert (letter.reason, letter.request) == ("http 400", "")
    await one.drain(5)


async def test_settling_and_polling_survive_bugs() -> None:
    class Buggy(MemoryLedger):
        def __init__(self) -> None:
            super().__init__()
            self.bugs = {"settle": 1, "parked_due": 1, "finish_parked": 1}

        def bug(self, name: str) -> None:
            if self.bugs[name]:
                self.bugs[name] -= 1
                raise RuntimeError("bug")

        async def settle(self, settlements: Sequence[Settlement]) -> None:
            if settlements[0].from_offset == 1:
                self.bug("settle")
            await super().settle(settlements)

        async def parked_due(self, *args: object, **kwargs: object) -> Sequence[Parked]:
            self.bug("parked_due")
            return await super().parked_due(*args, **kwargs)  # type: ignore[arg-type]

        async def finish_parked(self, results: object) -> None:
            self.bug("finish_parked")
            await super().finish_parked(results)  # type: ignore[arg-type]

    def told(moved: object) -> None:
        raise RuntimeError("bug")

    ledger, shop = Buggy(), Shop()
    await park(ledger, parked(0, "p"), next_offset=1)
    one = sender(shop, ledger, on_settled=told)
    await begin(one, ledger)
    one.offer(item(1, "u"))
    await settled(one, ledger, 2)
    one.offer(item(2, "u"))
    await settled(one, ledger, 3)
    assert shop.delivered.count(("p", 0)) == 1
    assert not any(ledger.bugs.values())
    await one.drain(5)


# ---------------------------------------------------------------- giving partitions away


async def test_who_waits_for_an_event_that_failed_while_it_was_given_away_goes_on() -> None:
    gate = asyncio.Event()

    async def answer(one: Item) -> Delivery:
        if one.key == "anon":
            await gate.wait()
            return Retry("http 500")
        return Delivered()

    ledger, shop = MemoryLedger(), Shop(answer)
    one = sender(shop, ledger)
    await begin(one, ledger, (0, 1))
    one.offer(item(0, "anon", partition=0))
    one.offer(item(0, "u", partition=1, login="anon"))
    await until(lambda: shop.attempted == [("anon", 0)])
    giving = asyncio.create_task(one.revoke({0}))
    await asyncio.sleep(0)
    gate.set()
    await giving
    await settled(one, ledger, 1, partition=1)
    assert shop.delivered == [("u", 0)]
    await one.drain(5)


async def test_no_new_turn_begins_in_a_partition_that_is_given_away() -> None:
    gate = asyncio.Event()

    async def answer(one: Item) -> Delivery:
        await gate.wait()
        return Delivered()

    ledger, shop = MemoryLedger(), Shop(answer)
    await park(ledger, parked(0, "p"), next_offset=1)
    one = sender(shop, ledger, policy(timeout_s=1000), poll_s=0.002)
    one.offer(item(1, "nobody"))  # before the start: nobody's
    await one.start({0: Position(0, 1)})
    one.pause()
    one.resume()
    one.offer(item(1, "slow"))
    await until(lambda: ("slow", 1) in shop.attempted)
    one.pause()
    giving = asyncio.create_task(one.revoke({0}))
    polls = 0
    asked = ledger.version

    async def version() -> int:
        nonlocal polls
        polls += 1
        return await asked()

    ledger.version = version  # type: ignore[method-assign]
    await until(lambda: polls >= 3)
    gate.set()
    await asyncio.wait_for(giving, 5)
    assert (one.status().parked_keys, one.status().window) == (0, 0)
    await one.drain(5)


async def test_a_partition_taken_back_waits_for_what_is_still_in_flight() -> None:
    gate = asyncio.Event()

    async def answer(one: Item) -> Delivery:
        if one.key == "slow" and one.offset == 0:
            await gate.wait()
        return Delivered()

    ledger, shop = MemoryLedger(), Shop(answer)
    one = sender(shop, ledger)
    await begin(one, ledger)
    one.offer(item(0, "slow", partition=0))
    await until(lambda: shop.attempted == [("slow", 0)])
    await ledger.settle([Settlement(cursor=CURSOR, partition=0, from_offset=0, next_offset=1)])
    one._give_up(one._settler.marks[0])  # as a fence does
    taking = asyncio.create_task(one.start({0: Position(0, 1)}))
    await asyncio.sleep(0.01)
    assert not taking.done()
    gate.set()
    await taking
    one.offer(item(1, "slow"))
    await settled(one, ledger, 2)
    assert shop.of("slow") == [0, 1]
    await one.drain(5)


# ---------------------------------------------------------------- the barrier at login, from the park


async def test_from_the_park_an_event_waits_only_for_earlier_ones_before_login() -> None:
    gate = asyncio.Event()

    async def answer(one: Item) -> Delivery:
        if one.key == "anon":
            await gate.wait()
        return Delivered()

    ledger, shop = MemoryLedger(), Shop(answer)
    await park(ledger, parked(0, "u", login="anon"), next_offset=1)
    one = sender(shop, ledger)
    one.pause()
    await begin(one, ledger)
    one.offer(item(1, "anon"))  # received later, and it never ends
    one.resume()
    await until(lambda: shop.of("u") == [0], 4)
    gate.set()
    await settled(one, ledger, 2)
    await one.drain(5)


async def test_from_the_park_an_event_waits_for_earlier_ones_that_are_on_the_way_to_the_park() -> None:
    gate = asyncio.Event()
    sick = True

    async def answer(one: Item) -> Delivery:
        if one.key == "block":
            await gate.wait()
        if one.key == "anon" and sick:
            return Retry("http 500", after_s=0.001)
        return Delivered()

    ledger, shop = MemoryLedger(), Shop(answer)
    one = sender(shop, ledger, policy(park_after_attempts=2))
    await begin(one, ledger)
    one.offer(item(0, "block"))  # holds the position, and with it what is parked behind it
    one.offer(item(1, "anon"))
    offset = 3
    while not one._park.has("anon"):
        one.offer(item(offset, f"o{offset}"))
        offset += 1
        await asyncio.sleep(0.002)
    ledger._insert_parked(parked(2, "u", login="anon"))  # a letter of the same person, redriven
    ledger._version += 1
    waited = [0]

    async def looked() -> bool:
        (row,) = await ledger.parked(CURSOR, key="u") or [parked(2, "u")]
        waited[0] = row.next_attempt_ms
        return bool(row.next_attempt_ms) or ("u", 2) in shop.attempted

    await until(looked)
    assert ("u", 2) not in shop.attempted
    sick = False
    gate.set()
    await settled(one, ledger, offset)
    order = [place for place in shop.delivered if place in (("anon", 1), ("u", 2))]
    assert order == [("anon", 1), ("u", 2)]
    await one.drain(5)


# ---------------------------------------------------------------- pace, outage, park


async def test_the_gate_opens_when_the_breaker_closes_early() -> None:
    """An attempt from before an outage succeeds: the pace counts again, not the open time."""
    gate = asyncio.Event()

    async def answer(one: Item) -> Delivery:
        if one.offset == 0:
            await gate.wait()
        return (
            Retry("http 503", destination_wide=True) if one.offset == 1 and not gate.is_set() else Delivered()
        )

    ledger, shop = MemoryLedger(), Shop(answer)
    one = sender(
        shop, ledger, policy(concurrency=2, rate_per_s=20, breaker_failures=1, breaker_open_s=1000, window=3)
    )
    await begin(one, ledger)
    for offset in range(3):
        one.offer(item(offset, f"u{offset}"))
    await until(lambda: one.status().breaker == "open")
    await asyncio.sleep(0)
    gate.set()
    await settled(one, ledger, 3)
    await one.drain(5)


async def test_an_outage_met_after_a_restart_kills_nothing() -> None:
    ledger, down = MemoryLedger(), True
    await park(ledger, parked(0, "u", first_attempt_ms=1), next_offset=1)
    shop = Shop(lambda one: Retry("network", destination_wide=True) if down else Delivered())
    one = sender(shop, ledger, policy(breaker_failures=5))
    await begin(one, ledger)
    await until(lambda: one.status().breaker == "open" or len(shop.attempted) >= 4)
    down = False
    await settled(one, ledger, 1)
    assert await totals(ledger) == {"delivered": 1, "parked": 0, "settled": 1}
    await one.drain(5)


async def test_many_parked_users_do_not_wait_for_the_next_look_each() -> None:
    ledger, shop = MemoryLedger(), Shop()
    await park(ledger, *(parked(n, f"u{n}") for n in range(100)), next_offset=100)
    one = sender(shop, ledger, policy(concurrency=2), poll_s=0.5)
    await begin(one, ledger)
    await settled(one, ledger, 100)
    await until(lambda: one.status().parked_events == one.status().parked_keys == 0)
    await one.drain(5)


async def test_rules_are_bounded_in_the_books() -> None:
    ledger = MemoryLedger()
    await park(ledger, *(parked(n, f"u{n}") for n in range(30)), next_offset=30)

    async def odd(row: Parked) -> Skip:
        return Skip(f"odd {row.offset}")

    one = sender(Shop(), ledger, prepare=odd)
    await begin(one, ledger)
    for n in range(30, 150):
        one.skip(0, n, CountKey("site", 1, "filtered", f"rule {n} " + "x" * 200))
    await settled(one, ledger, 150)
    books = await ledger.counts(CURSOR)
    assert sum(books.values()) == 150
    assert len(books) == 101
    assert max(len(line.reason) for line in books) <= 120
    await one.drain(5)
