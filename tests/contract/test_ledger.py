"""What every ledger must do, by the words of `ledger.base`."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mainstem.ledger.base import (
    MOST_REMARKS,
    CountKey,
    DeadFilter,
    DeadLetter,
    Fenced,
    Ledger,
    Parked,
    ParkedResult,
    Position,
    Remark,
    Replay,
    Settlement,
)
from mainstem.ledger.memory import MemoryLedger
from mainstem.ledger.sqlite import open_ledger

HOUR = 3_600_000
CURSOR = "hook"
DELIVERED = CountKey("site", 1, "delivered")


@pytest.fixture(params=["memory", "sqlite"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledger]:
    opened: Ledger = (
        MemoryLedger() if request.param == "memory" else await open_ledger(tmp_path / "ledger.db")
    )
    yield opened
    await opened.close()


def parked(key: str, sequence: int, **fields: Any) -> Parked:
    given = {"partition": 0, "offset": sequence, "message_id": f"m{sequence}", **fields}
    return Parked(
        cursor=CURSOR,
        destination_id="hook",
        key=key,
        sequence=sequence,
        value=b"\x00stored",
        source_id="site",
        received_at_ms=HOUR,
        parked_at_ms=5,
        **given,
    )


def letter(key: str, sequence: int, **fields: Any) -> DeadLetter:
    given = {
        "cursor": CURSOR,
        "destination_id": "hook",
        "source_id": "site",
        "event_type": "track",
        "event_name": "Bought",
        "message_id": f"m{sequence}",
        "died_at_ms": 100 + sequence,
        "reason": "http 400",
        **fields,
    }
    return DeadLetter(
        key=key,
        sequence=sequence,
        partition=0,
        offset=sequence,
        value=b"stored",
        received_at_ms=HOUR,
        attempts=3,
        request='{"url": "…"}',
        answer="bad",
        **given,
    )


def step(from_offset: int, next_offset: int, **fields: Any) -> Settlement:
    given = {"cursor": CURSOR, "partition": 0, **fields}
    return Settlement(from_offset=from_offset, next_offset=next_offset, **given)


async def dead_of(ledger: Ledger, **where: Any) -> list[str]:
    return [found.message_id for _, found in await ledger.dead(DeadFilter(**where))]


# ---------------------------------------------------------------- positions and the books


async def test_a_cursor_begins_once(ledger: Ledger) -> None:
    assert await ledger.open_cursor(CURSOR, {0: 7, 1: 0}) == {0: Position(7, 7), 1: Position(0, 0)}
    await ledger.settle([step(7, 9)])
    assert await ledger.open_cursor(CURSOR, {0: 100, 2: 5}) == {
        0: Position(7, 9),
        1: Position(0, 0),
        2: Position(5, 5),
    }
    assert await ledger.positions("other") == {}
    assert set(await ledger.cursors()) == {CURSOR}


async def test_settle_moves_everything_together(ledger: Ledger) -> None:
    await ledger.open_cursor(CURSOR, {0: 0, 1: 0})
    await ledger.settle(
        [
            step(0, 3, counts={DELIVERED: 2}, park=[parked("u1", 2)], note=b"plan"),
            step(0, 1, partition=1, counts={DELIVERED: 1}),
            step(3, 4, counts={CountKey("site", 1, "dead", "http 400"): 1}, bury=[letter("u2", 3)]),
        ]
    )
    assert await ledger.positions(CURSOR) == {0: Position(0, 4, b"plan"), 1: Position(0, 1)}
    assert await ledger.counts(CURSOR) == {DELIVERED: 3, CountKey("site", 1, "dead", "http 400"): 1}
    assert await ledger.parked(CURSOR) == [parked("u1", 2)]
    assert [found for _, found in await ledger.dead(DeadFilter())] == [letter("u2", 3)]


async def test_remarks_are_kept_with_the_step_that_made_them(ledger: Ledger) -> None:
    await ledger.open_cursor(CURSOR, {0: 0})
    remark = Remark(cursor=CURSOR, source_id="site", message_id="m1", at_ms=9, text="`age` was ignored")
    later = msgspec.structs.replace(remark, at_ms=10, text="again")
    await ledger.settle([step(0, 2, counts={DELIVERED: 1}, park=[parked("u1", 1)], remarks=[remark])])
    done = ParkedResult(parked=parked("u1", 1), fate="delivered", remark=later)
    await ledger.finish_parked([done, done])  # the second time there is nothing to finish
    assert await ledger.remarks(CURSOR, "m1") == [remark, later]
    assert await ledger.remarks(CURSOR, "m2") == await ledger.remarks("other", "m1") == []


async def test_only_the_last_remarks_are_kept(ledger: Ledger) -> None:
    await ledger.open_cursor(CURSOR, {0: 0})
    many = [
        Remark(cursor=CURSOR, source_id="site", message_id=f"m{n}", at_ms=n, text="")
        for n in range(MOST_REMARKS + 1)
    ]
    await ledger.settle([step(0, 1, remarks=many)])
    assert await ledger.remarks(CURSOR, "m0") == []
    assert await ledger.remarks(CURSOR, "m1") == [many[1]]
    assert await ledger.remarks(CURSOR, f"m{MOST_REMARKS}") == [many[-1]]


@pytest.mark.parametrize("from_offset", [0, 2])
async def test_settle_elsewhere_is_fenced_and_writes_nothing(ledger: Ledger, from_offset: int) -> None:
    await ledger.open_cursor(CURSOR, {0: 0, 1: 0})
    await ledger.settle([step(0, 1)])
    with pytest.raises(Fenced):
        await ledger.settle(
            [
                step(
                    0, 5, partition=1, counts={DELIVERED: 5}, park=[parked("u1", 2)], bury=[letter("u2", 3)]
                ),
                step(from_offset, 3, counts={DELIVERED: 2}),
            ]
        )
    assert await ledger.positions(CURSOR) == {0: Position(0, 1), 1: Position(0, 0)}
    assert await ledger.counts(CURSOR) == {}
    assert await ledger.parked(CURSOR) == []
    assert await ledger.dead(DeadFilter()) == []


async def test_settle_of_an_unknown_cursor_is_fenced(ledger: Ledger) -> None:
    with pytest.raises(Fenced):
        await ledger.settle([step(0, 1)])
    with pytest.raises(Fenced):
        await ledger.settle([step(0, 1, cursor="replay:1")])


async def test_forget_keeps_the_dead_letters(ledger: Ledger) -> None:
    await ledger.open_cursor(CURSOR, {0: 0})
    await ledger.settle([step(0, 2, counts={DELIVERED: 1}, park=[parked("u1", 1)], bury=[letter("u2", 2)])])
    before = await ledger.version()
    await ledger.forget(CURSOR)
    assert await ledger.version() != before
    assert await ledger.cursors() == {}
    assert await ledger.counts(CURSOR) == {}
    assert await ledger.parked_keys(CURSOR) == {}
    assert await dead_of(ledger) == ["m2"]


# ---------------------------------------------------------------- the park


async def test_parked_heads_come_due_in_their_order(ledger: Ledger) -> None:
    await ledger.open_cursor(CURSOR, {0: 0, 1: 0})
    rows = [
        parked("late", 1, next_attempt_ms=900),
        parked("late", 2),
        parked("second", 4),
        parked("second", 3, next_attempt_ms=20),
        parked("first", 5, next_attempt_ms=10),
        parked("elsewhere", 6, partition=1, next_attempt_ms=15),
    ]
    await ledger.settle([step(0, 6, park=rows)])
    assert await ledger.parked_keys(CURSOR) == {"late": 2, "second": 2, "first": 1, "elsewhere": 1}
    assert await ledger.parked_keys(CURSOR, partitions={1}) == {"elsewhere": 1}

    async def due(now_ms: int, limit: int = 10, **only: Any) -> list[str]:
        return [row.message_id for row in await ledger.parked_due(CURSOR, now_ms, limit, **only)]

    assert await due(9) == []
    assert await due(20) == ["m5", "m6", "m3"]
    assert await due(1000) == ["m5", "m6", "m3", "m1"]
    assert await due(1000, 2) == ["m5", "m6"]
    assert await due(1000, partitions={0}) == ["m5", "m3", "m1"]
    assert await due(1000, partitions=()) == []
    assert [row.message_id for row in await ledger.parked(CURSOR)] == ["m6", "m5", "m1", "m2", "m3", "m4"]
    assert [row.message_id for row in await ledger.parked(CURSOR, key="second")] == ["m3", "m4"]
    assert [row.message_id for row in await ledger.parked(CURSOR, message_id="m2")] == ["m2"]
    assert len(await ledger.parked(CURSOR, limit=3)) == 3


async def test_a_parked_event_is_finished_once(ledger: Ledger) -> None:
    await ledger.open_cursor(CURSOR, {0: 0})
    await ledger.settle([step(0, 3, park=[parked("u", 1), parked("u", 2), parked("u", 3)])])
    (head,) = await ledger.parked_due(CURSOR, 10, 10)
    again = msgspec.structs.replace(
        head, attempts=4, sent=1, first_attempt_ms=6, next_attempt_ms=50, reason="http 500", answer="sorry"
    )
    await ledger.finish_parked([ParkedResult(parked=again, fate="again")])
    assert await ledger.parked_due(CURSOR, 49, 10) == []
    assert await ledger.parked_due(CURSOR, 50, 10) == [again]

    await ledger.finish_parked([ParkedResult(parked=again, fate="delivered")] * 2)
    await ledger.finish_parked([ParkedResult(parked=again, fate="again")])
    assert await ledger.counts(CURSOR) == {DELIVERED: 1}
    assert await ledger.parked_due(CURSOR, 10, 10) == [parked("u", 2)]
    assert await ledger.parked_keys(CURSOR) == {"u": 2}

    await ledger.finish_parked(
        [
            ParkedResult(parked=parked("u", 2), fate="dead", reason="http 400", dead=letter("u", 2)),
            ParkedResult(parked=parked("u", 3), fate="filtered", reason="consent"),
        ]
    )
    assert await ledger.parked_keys(CURSOR) == {}
    assert await ledger.counts(CURSOR) == {
        DELIVERED: 1,
        CountKey("site", 1, "dead", "http 400"): 1,
        CountKey("site", 1, "filtered", "consent"): 1,
    }
    assert await dead_of(ledger) == ["m2"]


# ---------------------------------------------------------------- dead letters


async def test_dead_letters_are_filtered(ledger: Ledger) -> None:
    await ledger.open_cursor(CURSOR, {0: 0})
    letters = [
        letter("u1", 1, reason="http 404", source_id="app"),
        letter("u1", 2, destination_id="crm", event_type="page", event_name="Home"),
        letter("u2", 3, reason="retry window over", event_name="Sold"),
    ]
    await ledger.settle([step(0, 4, bury=letters)])
    assert await dead_of(ledger) == ["m1", "m2", "m3"]
    assert await dead_of(ledger, destination_id="hook") == ["m1", "m3"]
    assert await dead_of(ledger, source_id="app") == ["m1"]
    assert await dead_of(ledger, message_id="m2") == ["m2"]
    assert await dead_of(ledger, event_type="page") == ["m2"]
    assert await dead_of(ledger, event_name="Sold", destination_id="hook") == ["m3"]
    assert await dead_of(ledger, reason_contains="http") == ["m1", "m2"]
    assert await dead_of(ledger, died_from_ms=102) == ["m2", "m3"]
    assert await dead_of(ledger, died_to_ms=102) == ["m1"]
    (first, _), *_ = await ledger.dead(DeadFilter(), limit=1)
    assert [found.message_id for _, found in await ledger.dead(DeadFilter(), after_id=first)] == ["m2", "m3"]


async def test_redriven_letters_are_parked_in_order(ledger: Ledger) -> None:
    await ledger.open_cursor(CURSOR, {0: 0})
    dead_line = CountKey("site", 1, "dead", "http 400")
    await ledger.settle(
        [
            step(
                0,
                5,
                counts={dead_line: 3},
                bury=[letter("u", 2), letter("u", 1), letter("v", 4)],
                park=[parked("u", 3, next_attempt_ms=10**6)],
            )
        ]
    )
    ids = [id_ for id_, found in await ledger.dead(DeadFilter()) if found.key == "u"]
    before = await ledger.version()
    assert await ledger.redrive([*ids, 999], now_ms=70) == 2
    assert await ledger.version() != before
    assert await ledger.redrive(ids, now_ms=71) == 0
    assert await dead_of(ledger) == ["m4"]
    assert await ledger.counts(CURSOR) == {dead_line: 1}
    assert [row.message_id for row in await ledger.parked(CURSOR, key="u")] == ["m1", "m2", "m3"]
    (head,) = await ledger.parked_due(CURSOR, 70, 10)
    assert (head.message_id, head.attempts, head.first_attempt_ms, head.value) == ("m1", 0, 0, b"stored")
    assert await ledger.parked_keys(CURSOR) == {"u": 3}


async def test_a_letter_of_a_forgotten_cursor_takes_nothing_from_the_books(ledger: Ledger) -> None:
    await ledger.open_cursor(CURSOR, {0: 0})
    dead_line = CountKey("site", 1, "dead", "http 400")
    await ledger.settle([step(0, 1, counts={dead_line: 1}, bury=[letter("u", 1)])])
    await ledger.forget(CURSOR)
    (id_,) = [id_ for id_, _ in await ledger.dead(DeadFilter())]
    assert await ledger.redrive([id_], now_ms=1) == 1
    assert await ledger.counts(CURSOR) == {}
    assert await ledger.parked_keys(CURSOR) == {"u": 1}


# ---------------------------------------------------------------- replays and conditions


async def test_a_finished_replay_stays_finished(ledger: Ledger) -> None:
    replay = Replay(id="r1", destination_id="hook", from_ms=0, to_ms=9, where="true", created_at_ms=2)
    other = msgspec.structs.replace(replay, id="r0", created_at_ms=3)
    await ledger.put_replay(replay)
    await ledger.put_replay(other)
    before = await ledger.version()
    running = msgspec.structs.replace(replay, state="running", read=5)
    await ledger.put_replay(running)
    changed = await ledger.version()
    assert changed != before
    await ledger.put_replay(msgspec.structs.replace(running, read=6))
    assert await ledger.version() == changed
    cancelled = msgspec.structs.replace(running, state="cancelled")
    await ledger.put_replay(cancelled)
    await ledger.put_replay(running)
    assert await ledger.replays() == [cancelled, other]


async def test_conditions_are_replaced(ledger: Ledger) -> None:
    await ledger.put_status("hook", b"{}")
    await ledger.put_status("hook", b'{"breaker": "open"}')
    assert await ledger.statuses() == {"hook": b'{"breaker": "open"}'}
    await ledger.check()
