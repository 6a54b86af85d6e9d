"""Delivery by HTTP to a real server that misbehaves: nothing is lost, each user's order is kept."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
from tests.delivery.kit import begin, item, policy, sender, settled, totals

from mainstem.clock import SystemClock
from mainstem.delivery.guard import AddressGuard
from mainstem.delivery.http_attempt import HttpAttempt
from mainstem.delivery.item import Item
from mainstem.delivery.stream_attempt import StreamAttempt
from mainstem.delivery.transport import PyreqwestTransport
from mainstem.destinations.base import Delivered, Delivery, Rejected, Retry, StreamMessage
from mainstem.ledger.base import DeadFilter, Ledger
from mainstem.ledger.sqlite import open_ledger
from mainstem.testing.sink import Answer, Behaviour, Cut, Never, Received, Sink, always, in_turn


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = await open_ledger(tmp_path / "ledger.db")
    yield opened
    await opened.close()


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    async with Sink() as running:
        yield running


@pytest.fixture
async def transport() -> AsyncIterator[PyreqwestTransport]:
    opened = PyreqwestTransport(AddressGuard(allow_private=True), SystemClock())
    yield opened
    await opened.close()


def user_of(request: Received) -> str:
    return str(request.json()["user"])


def accepted(sink: Sink, user: str) -> list[int]:
    """Return the offsets a user's accepted requests had, without repetitions."""
    offsets = [
        request.json()["offset"]
        for request in sink.requests
        if request.status == 200 and user_of(request) == user
    ]
    return list(dict.fromkeys(offsets))


@pytest.mark.parametrize("seed", range(2))
async def test_a_flaky_server(seed: int, sink: Sink, transport: PyreqwestTransport, ledger: Ledger) -> None:
    rng = random.Random(seed)

    def misbehave(request: Received) -> Behaviour | int:
        return rng.choice(
            (
                200,
                200,
                200,
                200,
                500,
                503,
                408,
                Answer(429, (("retry-after", "0"),)),
                Cut(),
                Answer(200, after_s=0.01),
            )
        )

    sink.script = misbehave
    attempt = HttpAttempt(transport, timeout_s=2.0, clock=SystemClock())
    policies = policy(park_after_attempts=3, breaker_failures=8, breaker_open_s=0.005)
    one = sender(attempt, ledger, policies)
    await begin(one, ledger)
    for offset in range(400):
        one.offer(item(offset, f"u{offset % 20}", url=sink.url))
    await settled(one, ledger, 400)
    for user in range(20):
        assert accepted(sink, f"u{user}") == list(range(user, 400, 20))
    assert await totals(ledger) == {"delivered": 400, "parked": 0, "settled": 400}
    await one.drain(5)


async def test_a_stubborn_user_holds_nobody_up(
    sink: Sink, transport: PyreqwestTransport, ledger: Ledger
) -> None:
    healed = asyncio.Event()

    def misbehave(request: Received) -> Behaviour | int:
        return 500 if user_of(request) == "sick" and not healed.is_set() else 200

    sink.script = misbehave
    one = sender(
        HttpAttempt(transport, timeout_s=2.0, clock=SystemClock()), ledger, policy(park_after_attempts=2)
    )
    await begin(one, ledger)
    for offset in range(100):
        one.offer(item(offset, "sick" if offset % 5 == 0 else f"u{offset % 4}", url=sink.url))
    await sink.wait_for(lambda s: sum(request.status == 200 for request in s.requests) == 80)
    healed.set()
    await settled(one, ledger, 100)
    assert accepted(sink, "sick") == list(range(0, 100, 5))
    await one.drain(5)


async def test_a_dead_server_that_comes_back(
    sink: Sink, transport: PyreqwestTransport, ledger: Ledger
) -> None:
    await sink.stop()
    one = sender(
        HttpAttempt(transport, timeout_s=2.0, clock=SystemClock()),
        ledger,
        policy(breaker_failures=3, max_attempts=5),
    )
    await begin(one, ledger)
    for offset in range(30):
        one.offer(item(offset, f"u{offset % 3}", url=sink.url))
    async with asyncio.timeout(8):
        while one.status().breaker == "closed":
            await asyncio.sleep(0.002)
    assert "ConnectFailed" in one.status().last_error
    await sink.start()
    await settled(one, ledger, 30)
    assert [accepted(sink, f"u{user}") for user in range(3)] == [
        list(range(user, 30, 3)) for user in range(3)
    ]
    assert await ledger.dead(DeadFilter()) == []
    await one.drain(5)


async def test_silence_is_timed_out_and_tried_again(
    sink: Sink, transport: PyreqwestTransport, ledger: Ledger
) -> None:
    sink.script = in_turn(user_of, {"u0": [Never(), 200]})
    one = sender(HttpAttempt(transport, timeout_s=0.1, clock=SystemClock()), ledger)
    await begin(one, ledger)
    for offset in range(4):
        one.offer(item(offset, f"u{offset % 2}", url=sink.url))
    await settled(one, ledger, 4)
    assert accepted(sink, "u0") == [0, 2]
    assert "TimedOut" in one.status().last_error
    await one.drain(5)


async def test_a_restart_in_the_middle_goes_on(
    sink: Sink, transport: PyreqwestTransport, ledger: Ledger
) -> None:
    rng = random.Random(5)
    sink.script = lambda request: rng.choice((200, 500))
    offset = 0
    for _ in range(4):
        one = sender(
            HttpAttempt(transport, timeout_s=2.0, clock=SystemClock()), ledger, policy(park_after_attempts=2)
        )
        offset = (await begin(one, ledger))[0].next_offset
        seen = sink.count
        while offset < 200:
            one.offer(item(offset, f"u{offset % 10}", url=sink.url))
            offset += 1
        await sink.wait_for(lambda s, seen=seen: s.count >= seen + 40)  # type: ignore[misc]
        await one.drain(5)
        books = await totals(ledger)
        assert books["settled"] == books["delivered"] + books["parked"]
    sink.script = None
    last = sender(HttpAttempt(transport, timeout_s=2.0, clock=SystemClock()), ledger)
    for at in range((await begin(last, ledger))[0].next_offset, 200):
        last.offer(item(at, f"u{at % 10}", url=sink.url))
    await settled(last, ledger, 200)
    await last.drain(5)
    for user in range(10):
        assert accepted(sink, f"u{user}") == list(range(user, 200, 10))
    assert (await totals(ledger))["delivered"] == 200


async def test_requests_that_were_accepted_are_not_repeated(
    sink: Sink, transport: PyreqwestTransport, ledger: Ledger
) -> None:
    sink.script = in_turn(lambda request: request.path, {"/1": [500, 500, 200]})
    one = sender(HttpAttempt(transport, timeout_s=2.0, clock=SystemClock()), ledger)
    await begin(one, ledger)
    one.offer(item(0, "u", url=sink.url, payloads=3))
    await settled(one, ledger, 1)
    assert [request.path for request in sink.requests] == ["/0", "/1", "/1", "/1", "/2"]
    sink.script = always(400)
    one.offer(item(1, "u", url=sink.url, payloads=2))
    await settled(one, ledger, 2)
    ((_, letter),) = await ledger.dead(DeadFilter())
    assert msgspec.json.decode(letter.request)["url"] == f"{sink.url}/0"
    assert (letter.reason, letter.answer) == ("http 400", "400 {}")
    await one.drain(5)


class Broker:
    """A `StreamSink` that takes messages by script."""

    def __init__(self, *results: Delivery) -> None:
        self.results = list(results)
        self.got: list[bytes] = []

    async def send(self, messages: Sequence[StreamMessage]) -> Sequence[Delivery]:
        self.got += [message.value for message in messages]
        given, self.results = self.results[: len(messages)], self.results[len(messages) :]
        return given

    async def close(self) -> None: ...


async def test_messages_go_in_one_batch_and_results_come_back_by_event() -> None:
    def event(offset: int, *values: bytes) -> Item:
        plain = item(offset, f"u{offset}")
        plain.payloads = tuple(StreamMessage("t", b"k", value) for value in values)
        return plain

    broker = Broker(Delivered(), Delivered(), Retry("full"), Delivered(), Rejected("too large"))
    attempt = StreamAttempt(broker)
    items = [event(0, b"a"), event(1, b"b", b"c", b"d"), event(2, b"e"), event(3), item(4, "http")]
    results = await attempt(items)
    assert broker.got == [b"a", b"b", b"c", b"d", b"e"]
    assert [type(result) for result in results] == [Delivered, Retry, Rejected, Delivered, Rejected]
    assert [one.sent for one in items[:3]] == [1, 1, 0]
    broker.results = [Delivered(), Delivered()]
    assert await attempt([items[1]]) == [Delivered()]
    assert broker.got[5:] == [b"c", b"d"]
    assert msgspec.json.decode(attempt.describe(items[2]))["valueText"] == "e"
    assert attempt.describe(items[3]) == ""
