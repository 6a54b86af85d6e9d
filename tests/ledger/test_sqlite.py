"""What the SQLite ledger adds to the contract: several processes, durability of the file, clear refusals."""

import asyncio
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from mainstem.ledger.base import CountKey, DeadFilter, Fenced, LedgerBusy, LedgerError, Position, Settlement
from mainstem.ledger.sqlite import SCHEMA_VERSION, open_ledger

LINE = CountKey("site", 1, "delivered")


def step(cursor: str, from_offset: int, next_offset: int) -> Settlement:
    return Settlement(
        cursor=cursor,
        partition=0,
        from_offset=from_offset,
        next_offset=next_offset,
        counts={LINE: next_offset - from_offset},
    )


async def test_it_survives_reopening(tmp_path: Path) -> None:
    first = await open_ledger(tmp_path / "ledger.db")
    await first.open_cursor("a", {0: 0})
    await first.settle([step("a", 0, 5)])
    await first.close()
    second = await open_ledger(tmp_path / "ledger.db")
    assert await second.positions("a") == {0: Position(0, 5)}
    assert await second.counts("a") == {LINE: 5}
    await second.close()


async def test_calls_that_wait_together_fail_alone(tmp_path: Path) -> None:
    ledger = await open_ledger(tmp_path / "ledger.db")
    for cursor in "abc":
        await ledger.open_cursor(cursor, {0: 0})
    results = await asyncio.gather(
        ledger.settle([step("a", 0, 1)]),
        ledger.settle([step("b", 7, 9)]),
        ledger.settle([step("c", 0, 2)]),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), Fenced, type(None)]
    assert {cursor: at[0].next_offset for cursor, at in (await ledger.cursors()).items()} == {
        "a": 1,
        "b": 0,
        "c": 2,
    }
    await ledger.close()


async def test_two_openings_see_one_another_and_fence(tmp_path: Path) -> None:
    one = await open_ledger(tmp_path / "ledger.db")
    two = await open_ledger(tmp_path / "ledger.db")
    await one.open_cursor("a", {0: 0})
    await one.settle([step("a", 0, 1)])
    assert await two.positions("a") == {0: Position(0, 1)}
    await two.settle([step("a", 1, 2)])
    with pytest.raises(Fenced):
        await one.settle([step("a", 1, 2)])
    before = await one.version()
    await two.redrive([], 0)
    assert await one.version() != before
    await one.close()
    await two.close()


async def test_a_held_lock_is_busy_and_nothing_is_written(tmp_path: Path) -> None:
    ledger = await open_ledger(tmp_path / "ledger.db", busy_timeout_s=0.01)
    await ledger.open_cursor("a", {0: 0})
    other = apsw.Connection(str(tmp_path / "ledger.db"))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerBusy):
        await ledger.settle([step("a", 0, 1)])
    assert await ledger.positions("a") == {0: Position(0, 0)}  # reading goes on
    other.execute("ROLLBACK")
    await ledger.settle([step("a", 0, 1)])
    other.close()
    await ledger.close()


async def test_a_full_disk_is_an_error_and_passes(tmp_path: Path) -> None:
    ledger = await open_ledger(tmp_path / "ledger.db")
    await ledger.open_cursor("a", {0: 0})
    writer = ledger._writer._db
    (pages,) = writer.execute("PRAGMA page_count").fetchone() or (0,)
    writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LedgerError):
        await ledger.put_status("hook", b"x" * 100_000)
    writer.execute("PRAGMA max_page_count = 1000000")
    await ledger.put_status("hook", b"x" * 100_000)
    await ledger.close()


async def test_foreign_and_newer_files_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    db = apsw.Connection(str(foreign))
    db.execute("CREATE TABLE t (x)")
    db.close()
    with pytest.raises(LedgerError, match="not a ledger"):
        await open_ledger(foreign)
    (tmp_path / "text.db").write_text("nothing like SQLite at all" * 100)
    with pytest.raises(LedgerError, match="NotADB"):
        await open_ledger(tmp_path / "text.db")
    newer = tmp_path / "newer.db"
    await (await open_ledger(newer)).close()
    db = apsw.Connection(str(newer))
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(LedgerError, match="newer Mainstem"):
        await open_ledger(newer)


async def test_a_ledger_of_the_first_schema_is_taken_over(tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    ledger = await open_ledger(old)
    await ledger.open_cursor("hook", {0: 3})
    await ledger.close()
    db = apsw.Connection(str(old))
    db.execute("DROP TABLE remark")
    db.execute("PRAGMA user_version = 1")
    db.close()
    ledger = await open_ledger(old)
    assert await ledger.positions("hook") == {0: Position(3, 3)}
    assert await ledger.remarks("hook", "m1") == []
    await ledger.close()


async def test_a_closed_ledger_says_so(tmp_path: Path) -> None:
    ledger = await open_ledger(tmp_path / "ledger.db")
    await ledger.close()
    with pytest.raises(LedgerError, match="closed"):
        await ledger.put_status("hook", b"")
    with pytest.raises(LedgerError, match="closed"):
        await ledger.statuses()


_KILLED = """
import asyncio, sys
from pathlib import Path
from mainstem.ledger.base import CountKey, DeadLetter, Settlement
from mainstem.ledger.sqlite import open_ledger

async def main() -> None:
    ledger = await open_ledger(Path(sys.argv[1]))
    at = (await ledger.open_cursor("a", {0: 0}))[0].next_offset
    while True:
        letter = DeadLetter(
            cursor="a", destination_id="d", key="k", sequence=at, partition=0, offset=at, value=b"v" * 500,
            source_id="site", message_id=str(at), event_type="track", event_name="", received_at_ms=3_600_000,
            died_at_ms=1, reason="r",
        )
        await ledger.settle([Settlement(
            cursor="a", partition=0, from_offset=at, next_offset=at + 1,
            counts={CountKey("site", 1, "dead", "r"): 1}, bury=[letter],
        )])
        at += 1
        print(at, flush=True)

asyncio.run(main())
"""


async def test_what_was_settled_outlives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    acknowledged = 0
    for round_number in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert child.stdout is not None
        for _ in range(20 + 7 * round_number):
            acknowledged = int(child.stdout.readline())
        child.kill()
        rest = child.stdout.read().split()
        child.wait()
        child.stdout.close()
        acknowledged = int(rest[-1]) if rest else acknowledged
        ledger = await open_ledger(path)
        at = (await ledger.positions("a"))[0].next_offset
        assert acknowledged <= at <= acknowledged + 1
        assert await ledger.counts("a") == {CountKey("site", 1, "dead", "r"): at}
        letters = await ledger.dead(DeadFilter(), limit=10_000)
        assert [letter.offset for _, letter in letters] == list(range(at))
        await ledger.close()
