"""The sender against a destination in memory: order, retries, parking, the breaker, the books."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
from tests.delivery.kit import CURSOR, Shop, begin, item, policy, sender, settled, totals, until

from mainstem.clock import SystemClock
from mainstem.delivery.item import Burial
from mainstem.delivery.sender import Item
from mainstem.destinations.base import Delivered, Delivery, Rejected, Retry, Skip
from mainstem.ledger.base import (
    CountKey,
    DeadFilter,
    Ledger,
    LedgerError,
    Parked,
    Position,
    Settlement,
)
from mainstem.ledger.memory import MemoryLedger
from mainstem.ledger.sqlite import open_ledger

DELIVERED = CountKey("site", 1, "delivered")


@pytest.fixture(params=["memory", "sqlite"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledger]:
    opened: Ledger = (
        MemoryLedger() if request.param == "memory" else await open_ledger(tmp_path / "ledger.db")
    )
    yield opened
    await opened.close()


# ---------------------------------------------------------------- order and the books


async def test_one_user_in_order_many_at_once(ledger: Ledger) -> None:
    shop = Shop()
    one = sender(shop, ledger)
    await begin(one, ledger)
    for offset in range(200):
        one.offer(item(offset, f"u{offset % 10}"))
    await settled(one, ledger, 200)
    assert all(shop.of(f"u{user}") == list(range(user, 200, 10)) for user in range(10))
    assert 2 <= shop.most_busy <= 8
    assert await ledger.counts(CURSOR) == {DELIVERED: 200}
    await one.drain(5)


async def test_every_fate_has_its_line(ledger: Ledger) -> None:
    shop = Shop(lambda one: Rejected("http 400", "no") if one.key == "bad" else Delivered())
    one = sender(shop, ledger)
    await begin(one, ledger)
    one.offer(item(0, "good"))
    one.skip(0, 1, CountKey("site", 1, "filtered", "consent"))
    one.skip(0, 2, CountKey("site", 1, "filtered", "consent"))
    one.skip(0, 3, CountKey("site", 2, "rejected", "too large"))
    one.offer(item(4, "bad"))
    one.bury(item(5, "good"), "userId is missing")
    await settled(one, ledger, 6)
    assert await ledger.counts(CURSOR) == {
        DELIVERED: 1,
        CountKey("site", 1, "filtered", "consent"): 2,
        CountKey("site", 2, "rejected", "too large"): 1,
        CountKey("site", 1, "dead", "http 400"): 1,
        CountKey("site", 1, "dead", "userId is missing"): 1,
    }
    first, second = [letter for _, letter in await ledger.dead(DeadFilter())]
    assert (first.message_id, first.reason, first.answer, first.attempts) == ("bad-4", "http 400", "no", 1)
    assert msgspec.json.decode(first.request)["messageId"] == "bad-4"
    assert (second.message_id, second.reason, second.request) == ("good-5", "userId is missing", "")
    assert (first.event_type, first.event_name, first.value) == ("track", "Bought", item(4, "bad").value)
    await one.drain(5)


async def test_reasons_are_bounded_in_the_books(ledger: Ledger) -> None:
    one = sender(Shop(lambda one: Rejected(f"odd {one.offset} " + "x" * 200)), ledger)
    await begin(one, ledger)
    for offset in range(150):
        one.offer(item(offset, f"u{offset}"))
    await settled(one, ledger, 150)
    reasons = {line.reason: events for line, events in (await ledger.counts(CURSOR)).items()}
    assert reasons["other reasons"] == 50
    assert len(reasons) == 101
    letters = [letter for _, letter in await ledger.dead(DeadFilter())]
    assert {letter.reason for letter in letters} == set(reasons)
    assert all(f"odd {letter.offset} " + "x" * 200 in letter.answer for letter in letters)
    await one.drain(5)


async def test_the_position_waits_for_the_slowest(ledger: Ledger) -> None:
    gate = asyncio.Event()

    async def answer(one: Item) -> Delivery:
        if one.offset == 3:
            await gate.wait()
        return Delivered()

    shop = Shop(answer)
    one = sender(shop, ledger)
    await begin(one, ledger)
    for offset in range(10):
        one.offer(item(offset, f"u{offset}"))
    await until(lambda: len(shop.delivered) == 9)
    await until(lambda: one.positions[0] == 3)
    assert await ledger.counts(CURSOR) == {DELIVERED: 3}
    gate.set()
    await settled(one, ledger, 10)
    await one.drain(5)


async def test_the_window_is_bounded(ledger: Ledger) -> None:
    shop = Shop()
    one = sender(shop, ledger, policy(window=5))
    one.pause()
    await begin(one, ledger)
    offered = 0
    while one.room:
        one.offer(item(offered, "u"))
        offered += 1
    assert offered == 5
    waiting = asyncio.create_task(one.wait_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    assert shop.attempted == []
    one.resume()
    await waiting
    await settled(one, ledger, 5)
    assert one.status().window == one.status().window_bytes == 0
    await one.drain(5)
    small = sender(shop, ledger, policy(window_bytes=1))
    await small.start(await ledger.positions(CURSOR))
    small.pause()
    small.offer(item(5, "u"))
    assert not small.room
    await small.drain(5)


async def test_a_person_keeps_the_order_across_login(ledger: Ledger) -> None:
    gate = asyncio.Event()

    async def answer(one: Item) -> Delivery:
        if one.offset == 1:
            await gate.wait()
        return Delivered()

    shop = Shop(answer)
    one = sender(shop, ledger)
    await begin(one, ledger)
    one.offer(item(0, "u1"))
    one.offer(item(1, "anon"))
    one.offer(item(2, "u1", login="anon"))
    one.offer(item(3, "u1"))
    one.offer(item(4, "other"))
    await until(lambda: len(shop.delivered) == 2)
    assert sorted(shop.delivered) == [("other", 4), ("u1", 0)]
    gate.set()
    await settled(one, ledger, 5)
    assert shop.delivered[2:] == [("anon", 1), ("u1", 2), ("u1", 3)]
    await one.drain(5)


async def test_after_login_events_follow_into_the_park_and_out_of_it(ledger: Ledger) -> None:
    sick = True

    def answer(one: Item) -> Delivery:
        return Retry("http 500") if sick and one.key == "anon" else Delivered()

    shop = Shop(answer)
    one = sender(shop, ledger, policy(park_after_attempts=3))
    await begin(one, ledger)
    one.offer(item(0, "anon"))
    one.offer(item(1, "anon"))
    one.offer(item(2, "u1", login="anon"))
    one.offer(item(3, "u1"))
    offset = 4
    while one.positions[0] < 4:  # others succeed meanwhile, until the person is parked
        one.offer(item(offset, f"o{offset}"))
        offset += 1
        await asyncio.sleep(0.002)
    one.offer(item(offset, "u1"))
    await until(lambda: one.positions[0] == offset + 1)
    assert await ledger.parked_keys(CURSOR) == {"anon": 2, "u1": 3}
    sick = False
    await settled(one, ledger, offset + 1)
    person = [(key, at) for key, at in shop.delivered if not key.startswith("o")]
    assert person == [("anon", 0), ("anon", 1), ("u1", 2), ("u1", 3), ("u1", offset)]
    await one.drain(5)


# ---------------------------------------------------------------- retries, the park, the end


async def test_a_failing_user_is_parked_and_others_go_on(ledger: Ledger) -> None:
    sick = True

    def answer(one: Item) -> Delivery:
        return Retry("http 500", answer="500 sorry") if sick and one.key == "sick" else Delivered()

    shop = Shop(answer)
    one = sender(shop, ledger, policy(park_after_attempts=3))
    await begin(one, ledger)
    for offset in range(100):
        one.offer(item(offset, "sick" if offset % 10 == 0 else f"u{offset % 7}"))
    offset = 100
    while one.positions[0] < 100:
        one.offer(item(offset, "u0"))
        offset += 1
        await asyncio.sleep(0.002)
    assert (await ledger.parked_keys(CURSOR))["sick"] == 10
    one.offer(item(offset, "sick"))  # straight into the park
    one.offer(item(offset + 1, "u1"))
    await until(lambda: one.positions[0] == offset + 2)
    assert shop.of("sick") == []
    assert {at for key, at in shop.attempted if key == "sick"} == {0}
    (head,) = await ledger.parked(CURSOR, limit=1)
    assert (head.attempts >= 3, head.reason, head.answer, head.first_attempt_ms > 0) == (
        True,
        "http 500",
        "500 sorry",
        True,
    )
    sick = False
    await settled(one, ledger, offset + 2)
    assert shop.of("sick") == [*range(0, 100, 10), offset]
    one.offer(item(offset + 2, "sick"))  # not parked any more
    await settled(one, ledger, offset + 3)
    assert await totals(ledger) == {"delivered": offset + 3, "parked": 0, "settled": offset + 3}
    await one.drain(5)


async def test_nobody_is_parked_when_nobody_succeeds(ledger: Ledger) -> None:
    tries = 0

    def answer(one: Item) -> Delivery:
        nonlocal tries
        tries += 1
        return Retry("http 408") if tries < 100 else Delivered()

    shop = Shop(answer)
    one = sender(shop, ledger, policy(park_after_attempts=2, park_after_s=0.0))
    await begin(one, ledger)
    for offset in range(4):
        one.offer(item(offset, f"u{offset}"))
    await until(lambda: tries >= 90)
    assert await ledger.parked_keys(CURSOR) == {}
    await settled(one, ledger, 4)
    await one.drain(5)


async def test_a_user_with_a_long_retry_after_is_parked_in_time(ledger: Ledger) -> None:
    shop = Shop(lambda one: Retry("http 503", after_s=3600) if one.key == "sick" else Delivered())
    one = sender(shop, ledger, policy(park_after_s=0.02))
    await begin(one, ledger)
    one.offer(item(0, "sick"))
    offset = 1
    while one.positions[0] < 1:
        one.offer(item(offset, "well"))
        offset += 1
        await asyncio.sleep(0.002)
    (head,) = await ledger.parked(CURSOR)
    assert head.next_attempt_ms - head.first_attempt_ms > 3_500_000
    assert shop.attempted.count(("sick", 0)) == 1
    await one.drain(5)


@pytest.mark.parametrize("in_park", [False, True])
async def test_attempts_are_used_up(ledger: Ledger, in_park: bool) -> None:
    shop = Shop(lambda one: Retry("http 408", answer="408") if one.offset == 0 else Delivered())
    fields = {"park_after_attempts": 2} if in_park else {}
    one = sender(shop, ledger, policy(max_attempts=4, **fields))
    await begin(one, ledger)
    one.offer(item(0, "u"))
    one.offer(item(1, "u"))
    offset = 2
    while shop.of("u") == []:
        one.offer(item(offset, "well"))
        offset += 1
        await asyncio.sleep(0.002)
    await settled(one, ledger, offset)
    assert shop.of("u") == [1]
    assert shop.attempted.count(("u", 0)) == 4
    ((_, letter),) = await ledger.dead(DeadFilter())
    assert (letter.reason, letter.attempts, letter.answer) == ("attempts used up", 4, "408")
    assert msgspec.json.decode(letter.request)["messageId"] == "u-0"
    assert (letter.event_type, letter.event_name) == ("track", "Bought")
    assert await totals(ledger) == {"delivered": offset - 1, "dead": 1, "parked": 0, "settled": offset}
    await one.drain(5)


async def test_the_retry_window_ends(ledger: Ledger) -> None:
    shop = Shop(lambda one: Retry("http 408") if one.offset == 0 else Delivered())
    one = sender(shop, ledger, policy(retry_window_s=0.03))
    await begin(one, ledger)
    one.offer(item(0, "u"))
    one.offer(item(1, "u"))
    await settled(one, ledger, 2)
    assert shop.of("u") == [1]
    ((_, letter),) = await ledger.dead(DeadFilter())
    assert letter.reason == "retry window over"
    await one.drain(5)


async def test_redriven_letters_are_delivered(ledger: Ledger) -> None:
    sick = True
    shop = Shop(lambda one: Rejected("http 400") if sick else Delivered())
    one = sender(shop, ledger)
    await begin(one, ledger)
    for offset in range(3):
        one.offer(item(offset, "u"))
    await settled(one, ledger, 3)
    assert (await totals(ledger))["dead"] == 3
    sick = False
    ids = [id_ for id_, _ in await ledger.dead(DeadFilter())]
    assert await ledger.redrive(ids[::-1], 0) == 3
    await until(lambda: len(shop.delivered) == 3)
    await settled(one, ledger, 3)
    assert shop.of("u") == [0, 1, 2]
    assert await totals(ledger) == {"delivered": 3, "parked": 0, "settled": 3}
    await one.drain(5)


async def test_parked_events_are_mapped_again(ledger: Ledger) -> None:
    async def remap(row: Parked) -> Item | Skip | Burial:
        match row.offset:
            case 0:
                return Skip("consent")
            case 1:
                return Burial("no email", "of 3 fields")
        return item(row.offset, row.key)

    shop = Shop(lambda one: Rejected("http 400"))
    one = sender(shop, ledger, prepare=remap)
    await begin(one, ledger)
    for offset in range(3):
        one.offer(item(offset, "u"))
    await settled(one, ledger, 3)
    shop.answer = None
    await ledger.redrive([id_ for id_, _ in await ledger.dead(DeadFilter())], 0)
    await until(lambda: shop.of("u") == [2])
    await settled(one, ledger, 3)
    assert await ledger.counts(CURSOR) == {
        DELIVERED: 1,
        CountKey("site", 1, "filtered", "consent"): 1,
        CountKey("site", 1, "dead", "no email"): 1,
    }
    await one.drain(5)


async def test_a_bug_in_an_attempt_is_a_retry(ledger: Ledger) -> None:
    bugs = iter([True, True, False])

    def answer(one: Item) -> Delivery:
        if next(bugs):
            raise RuntimeError("bug")
        return Delivered()

    shop = Shop(answer)
    one = sender(shop, ledger)
    await begin(one, ledger)
    one.offer(item(0, "u"))
    await settled(one, ledger, 1)
    assert one.status().last_error == "internal error: RuntimeError"
    await one.drain(5)


# ---------------------------------------------------------------- outage and pace


async def test_an_outage_stops_everything_and_kills_nothing(ledger: Ledger) -> None:
    down = True
    shop = Shop(lambda one: Retry("http 503", destination_wide=True) if down else Delivered())
    one = sender(
        shop,
        ledger,
        policy(
            breaker_failures=5, max_attempts=3, retry_window_s=0.02, park_after_attempts=1, park_after_s=0
        ),
    )
    await begin(one, ledger)
    for offset in range(40):
        one.offer(item(offset, f"u{offset % 20}"))
    await until(lambda: one.status().breaker == "open")
    before = len(shop.attempted)
    await until(lambda: len(shop.attempted) >= before + 3)  # probes, one at a time
    assert one.status().breaker in ("open", "half_open")
    assert len({key for key, _ in shop.attempted[before:]}) > 1, "probes rotate"
    assert await totals(ledger) == {"parked": 0, "settled": 0}
    assert msgspec.json.decode((await ledger.statuses())[CURSOR])["breaker"] != "closed"
    down = False
    await settled(one, ledger, 40)
    assert one.status().breaker == "closed"
    assert await totals(ledger) == {"delivered": 40, "parked": 0, "settled": 40}
    assert all(shop.of(f"u{user}") == [user, user + 20] for user in range(20))
    await one.drain(5)


async def test_429_pauses_everybody(ledger: Ledger) -> None:
    pauses: list[float] = []

    def answer(one: Item) -> Delivery:
        pauses.append(SystemClock().monotonic())
        return Retry("http 429", after_s=0.05, throttled=True) if len(pauses) == 1 else Delivered()

    shop = Shop(answer)
    one = sender(shop, ledger, policy(concurrency=1, max_attempts=1))
    await begin(one, ledger)
    for offset in range(5):
        one.offer(item(offset, f"u{offset}"))
    await settled(one, ledger, 5)
    assert shop.attempted[:2] == [("u0", 0), ("u1", 1)]  # u0 was held; the pause was everybody's
    assert pauses[1] - pauses[0] >= 0.05
    assert await totals(ledger) == {"delivered": 5, "parked": 0, "settled": 5}
    await one.drain(5)


# ---------------------------------------------------------------- batches


async def test_batches_keep_the_order_of_each_user(ledger: Ledger) -> None:
    sizes: list[int] = []
    rng = random.Random(3)

    class Batches(Shop):
        async def __call__(self, items: Sequence[Item]) -> Sequence[Delivery]:
            sizes.append(len(items))
            stopped: set[str] = set()
            results: list[Delivery] = []
            for one in items:  # as a broker does it: nothing of a key after a failure of that key
                if one.key in stopped or rng.random() < 0.1:
                    stopped.add(one.key)
                    results.append(Retry("queue full"))
                else:
                    self.delivered.append((one.key, one.offset))
                    results.append(Delivered())
            await asyncio.sleep(0)
            return results

    shop = Batches()
    one = sender(shop, ledger, max_batch=20)
    await begin(one, ledger)
    for offset in range(300):
        one.offer(item(offset, f"u{offset % 7}"))
    await settled(one, ledger, 300)
    assert max(sizes) == 20
    assert all(shop.of(f"u{user}") == list(range(user, 300, 7)) for user in range(7))
    await one.drain(5)


# ---------------------------------------------------------------- coming, going, and the ledger's moods


async def test_drain_finishes_what_is_in_flight_and_the_next_goes_on(ledger: Ledger) -> None:
    gate = asyncio.Event()

    async def answer(one: Item) -> Delivery:
        await gate.wait()
        return Delivered()

    shop = Shop(answer)
    one = sender(shop, ledger, policy(concurrency=2))
    await begin(one, ledger)
    for offset in range(10):
        one.offer(item(offset, f"u{offset}"))
    await until(lambda: len(shop.attempted) == 2)
    draining = asyncio.create_task(one.drain(5))
    await asyncio.sleep(0)
    gate.set()
    await draining
    assert len(shop.attempted) == 2
    assert await ledger.positions(CURSOR) == {0: Position(0, 2)}
    two = sender(shop, ledger)
    at = (await begin(two, ledger))[0].next_offset
    for offset in range(at, 10):
        two.offer(item(offset, f"u{offset}"))
    await settled(two, ledger, 10)
    assert sorted(shop.delivered) == sorted((f"u{n}", n) for n in range(10))
    await two.drain(5)


async def test_drain_gives_up_in_time(ledger: Ledger) -> None:
    async def answer(one: Item) -> Delivery:
        await asyncio.Event().wait()
        raise AssertionError

    one = sender(Shop(answer), ledger)
    await begin(one, ledger)
    one.offer(item(0, "u"))
    await until(lambda: one.status().in_flight == 1)
    await one.drain(0.01)
    assert await ledger.positions(CURSOR) == {0: Position(0, 0)}


async def test_partitions_are_given_away_and_taken_back(ledger: Ledger) -> None:
    gate = asyncio.Event()

    async def answer(one: Item) -> Delivery:
        if one.key == "slow":
            await gate.wait()
        return Delivered()

    shop = Shop(answer)
    one = sender(shop, ledger, policy(concurrency=2))
    await begin(one, ledger, (0, 1))
    one.offer(item(0, "slow", partition=0))
    one.offer(item(1, "slow", partition=0))
    one.offer(item(0, "b", partition=1))
    await until(lambda: shop.of("b") == [0] and ("slow", 0) in shop.attempted)
    giving = asyncio.create_task(one.revoke({0}))
    await asyncio.sleep(0)
    one.offer(item(2, "slow", partition=0))  # too late: not ours any more
    gate.set()
    await giving
    assert dict(one.positions) == {1: 1}
    assert (await ledger.positions(CURSOR))[0] == Position(0, 1)
    assert shop.of("slow") == [0]
    await one.start({0: Position(0, 1)})
    one.offer(item(1, "slow", partition=0))
    await settled(one, ledger, 2, partition=0)
    assert shop.of("slow") == [0, 1]
    assert one.status().window == 0
    await one.drain(5)


async def test_parked_users_leave_with_their_partition(ledger: Ledger) -> None:
    shop = Shop(lambda one: Rejected("http 400"))
    one = sender(shop, ledger)
    await begin(one, ledger)
    one.offer(item(0, "u"))
    await settled(one, ledger, 1)
    one.pause()
    await ledger.redrive([id_ for id_, _ in await ledger.dead(DeadFilter())], 0)
    await until(lambda: one.status().parked_keys == 1 and bool(one._park._turns))
    await asyncio.wait_for(one.revoke({0}), 1)
    assert (one.status().parked_keys, one._park._turns, len(one._workers.ready)) == (0, set(), 0)
    shop.answer = None
    one.resume()
    await one.start({0: Position(0, 1)})
    await until(lambda: shop.of("u") == [0])
    await settled(one, ledger, 1)
    await one.drain(5)


async def test_a_fenced_partition_is_given_up_and_others_go_on(ledger: Ledger) -> None:
    shop = Shop()
    one = sender(shop, ledger)
    await begin(one, ledger, (0, 1))
    await ledger.settle([Settlement(cursor=CURSOR, partition=0, from_offset=0, next_offset=7)])
    one.offer(item(0, "a", partition=0))
    one.offer(item(0, "b", partition=1))
    await settled(one, ledger, 1, partition=1)
    await until(lambda: 0 not in one.positions)
    assert (await ledger.positions(CURSOR))[0].next_offset == 7
    assert await ledger.counts(CURSOR) == {DELIVERED: 1}
    one.offer(item(1, "b", partition=1))
    await settled(one, ledger, 2, partition=1)
    assert one.status().window == 0
    await one.drain(5)


class MoodyLedger(MemoryLedger):
    """Fails now and then; `late` means after having written."""

    def __init__(self) -> None:
        super().__init__()
        self.moods: list[str] = []

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        mood = self.moods.pop() if self.moods else "well"
        if mood == "broken":
            raise LedgerError("disk full")
        await super().settle(settlements)
        if mood == "late":
            raise LedgerError("fsync failed")


@pytest.mark.parametrize("mood", ["broken", "late"])
async def test_a_failing_ledger_loses_no_count(mood: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mainstem.delivery.settle._LEDGER_RETRY_S", 0.005)
    ledger = MoodyLedger()
    ledger.moods = [mood] * (1 if mood == "late" else 3)
    shop = Shop()
    one = sender(shop, ledger, policy(window=8))
    await begin(one, ledger)
    for offset in range(50):
        await one.wait_room()
        one.offer(item(offset, f"u{offset % 3}"))
    await settled(one, ledger, 50)
    assert await ledger.counts(CURSOR) == {DELIVERED: 50}
    assert one.status().window == 0
    await one.drain(5)


async def test_settled_positions_are_told_after_they_are_durable(ledger: Ledger) -> None:
    told: list[dict[int, int]] = []
    one = sender(Shop(), ledger, on_settled=lambda moved: told.append(dict(moved)))
    await begin(one, ledger)
    for offset in range(20):
        one.offer(item(offset, "u"))
    await settled(one, ledger, 20)
    assert told[-1] == {0: 20}
    await one.drain(5)


# ---------------------------------------------------------------- everything at once


@pytest.mark.parametrize("seed", range(3))
async def test_no_loss_order_and_balance_in_chaos(seed: int, ledger: Ledger) -> None:
    """50 users x 40 events; random 200, 400, 408, 429, 500; restarts in between.

    Nothing is delivered after it was decided, the final deliveries of each user rise, the books balance.
    """
    rng = random.Random(seed)
    users, events = 50, 40
    total = users * events
    script: dict[tuple[str, int], list[int]] = {}
    order = [f"u{user}" for user in range(users) for _ in range(events)]
    rng.shuffle(order)
    for offset, user in enumerate(order):
        script[user, offset] = []
        while True:
            status = rng.choice((200, 200, 200, 400, 408, 429, 500))
            script[user, offset].append(status)
            if status in (200, 400):
                break
    finished: list[tuple[str, int]] = []
    settled_below = 0
    progress: Counter[tuple[str, int]] = Counter()

    def answer(one: Item) -> Delivery:
        place = (one.key, one.offset)
        statuses = script[place]
        status = statuses[min(progress[place], len(statuses) - 1)]
        progress[place] += 1
        assert one.offset >= settled_below or place not in finished, "sent again after it was settled"
        if status in (200, 400) and place not in finished:
            finished.append(place)
        match status:
            case 200:
                return Delivered()
            case 400:
                return Rejected("http 400")
            case 429:
                return Retry("http 429", after_s=0.001, throttled=True)
        return Retry(f"http {status}", destination_wide=status == 500)

    shop = Shop(answer)
    policies = policy(park_after_attempts=2, breaker_failures=6, breaker_open_s=0.002, window=300)
    offered = 0
    for round_number in range(6):
        one = sender(shop, ledger, policies)
        at = (await begin(one, ledger))[0].next_offset
        offset = at
        stop_at = total if round_number == 5 else min(total, at + rng.randrange(100, 500))
        while offset < stop_at:
            await one.wait_room()
            one.offer(item(offset, order[offset]))
            offset += 1
        offered = max(offered, offset)
        if round_number == 5:
            await settled(one, ledger, total)
        await one.drain(5)
        settled_below = (await ledger.positions(CURSOR))[0].next_offset
        books = await totals(ledger)
        assert books["settled"] == books.get("delivered", 0) + books.get("dead", 0) + books["parked"]
    books = await totals(ledger)
    assert books["settled"] == offered == total
    assert books["parked"] == 0
    assert books["dead"] == sum(statuses[-1] == 400 for statuses in script.values())
    assert len(set(finished)) == len(finished) == total
    for name in set(order):
        mine = [at for key, at in finished if key == name]
        assert mine == sorted(mine), f"order of {name}"


async def test_a_crash_repeats_but_never_skips_or_reorders(ledger: Ledger) -> None:
    rng = random.Random(11)
    shop = Shop(lambda one: rng.choice((Delivered(), Delivered(), Retry("http 500"))))
    order = [f"u{rng.randrange(12)}" for _ in range(600)]
    for round_number in range(8):
        one = sender(shop, ledger, policy(park_after_attempts=2), settle_every_s=0.002)
        at = (await begin(one, ledger))[0].next_offset
        for offset in range(at, len(order)):
            one.offer(item(offset, order[offset]))
        if round_number < 7:
            enough = len(shop.attempted) + 60
            await until(lambda enough=enough: len(shop.attempted) >= enough)  # type: ignore[misc]
            names = ("settle ", "park ", "send ")
            tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith(names)]
            assert len(tasks) == 10
            for task in tasks:  # as kill -9 would: nothing is drained, nothing more is settled
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            shop.busy.clear()
        else:
            await settled(one, ledger, len(order))
            await one.drain(5)
    for user in set(order):
        firsts = list(dict.fromkeys(shop.of(user)))
        assert firsts == [offset for offset, name in enumerate(order) if name == user]
    assert await ledger.counts(CURSOR) == {DELIVERED: len(order)}
