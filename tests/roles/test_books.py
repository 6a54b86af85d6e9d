"""Received = delivered + filtered + rejected + dead + pending, whatever happens."""

from pathlib import Path

from mainstem.ledger.base import DeadFilter
from mainstem.roles.books import Account, is_flow, read_all_books
from mainstem.testing.sink import Sink
from tests.roles.rig import rig, track, until, webhook, workspace

_STUBBORN = {
    "park_after_attempts": 1,
    "backoff_base_s": 0.01,
    "backoff_max_s": 0.02,
    "breaker_failures": 1000,
}


def account(**numbers: int) -> Account:
    zero = dict.fromkeys(("received", "delivered", "filtered", "rejected", "dead", "parked", "unsettled"), 0)
    return Account(cursor="c", lines=[], **{**zero, **numbers})


def test_parked_and_unread_events_are_pending() -> None:
    found = account(received=10, delivered=3, filtered=1, rejected=1, dead=1, parked=2, unsettled=2)
    assert found.pending == 4
    assert found.balanced
    assert not account(received=10, delivered=9).balanced
    assert not account(received=1, delivered=2).balanced


def test_an_archives_plan_is_no_flow() -> None:
    assert is_flow("hook")
    assert is_flow("replay:1")
    assert not is_flow("plan:archive")


async def test_every_outcome_has_its_line(tmp_path: Path) -> None:
    async with Sink() as sink:
        sink.script = lambda request: 400 if request.json()["userId"] == "bad" else 200
        known = workspace(webhook(sink.url), filters=[{"name": "no tests", "deny": ["Test*"]}])
        async with rig(known, tmp_path) as running:
            await running.send(
                [
                    track("good", 1),
                    track("good", 2, event="Test Run"),
                    track("bad", 1),
                    {"type": "track", "messageId": "nobody", "event": "X"},
                ]
            )
            before = await read_all_books(running.stream, running.ledger)
            assert before == []
            await running.worker()
            found = await running.settled(received=4)
        assert (found.delivered, found.filtered, found.rejected, found.dead) == (1, 1, 1, 1)
        (line,) = found.lines
        assert (line.source_id, line.received, line.settled, line.delivered) == ("web", 4, 4, 1)
        assert line.filtered == {"filter:no tests": 1}
        assert line.rejected == {"missing_ids": 1}
        assert line.dead == {"http 400": 1}


async def test_they_balance_while_events_are_parked_and_after_a_redrive(tmp_path: Path) -> None:
    answers = {"status": 500}
    async with Sink() as sink:
        sink.script = lambda request: answers["status"] if request.json()["userId"] == "ill" else 200
        known = workspace(webhook(sink.url, delivery={**_STUBBORN, "max_attempts": 3}))
        async with rig(known, tmp_path) as running:
            await running.worker()
            await running.send([track("well", 1), track("ill", 1), track("ill", 2), track("well", 2)])
            found = await running.settled(received=4)
            assert (found.delivered, found.dead, found.parked) == (2, 2, 0)
            dead = await running.ledger.dead(DeadFilter(destination_id="hook"))
            assert [letter.message_id for _, letter in dead] == ["ill-1", "ill-2"]
            answers["status"] = 200
            assert await running.ledger.redrive([key for key, _ in dead], running.clock.now_ms()) == 2
            assert (await running.account()).parked == 2
            found = await running.settled(received=4)
            assert (found.delivered, found.dead) == (4, 0)
            last = [request.json()["messageId"] for request in sink.requests][-2:]
            assert last == ["ill-1", "ill-2"]


async def test_they_balance_at_every_look_while_events_flow(tmp_path: Path) -> None:
    async with Sink() as sink, rig(workspace(webhook(sink.url)), tmp_path) as running:
        await running.worker()
        for turn in range(10):
            await running.send([track(f"u{number % 7}", 20 * turn + number) for number in range(20)])
            await running.account()
        found = await until("all is delivered", lambda: running.settled(received=200))
        assert found.delivered == 200


async def test_rejected_events_without_an_id_are_counted_each(tmp_path: Path) -> None:
    async with rig(workspace(webhook("http://127.0.0.1:9")), tmp_path) as running:
        await running.worker()
        await running.send([{"type": "track", "event": "X"}, {"type": "track", "event": "X"}, b"not json"])
        found = await running.settled(received=3)
        assert found.rejected == 3
        assert found.lines[0].received == 3
