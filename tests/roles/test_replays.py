"""Replays: history again, in a lane of its own, exactly what the preview said."""

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mainstem.destinations import iceberg_archive
from mainstem.lake.iceberg_table import ArchiveTable
from mainstem.ledger.base import DeadFilter, Replay
from mainstem.roles.replays import replay_cursor
from mainstem.testing.sink import Answer, Sink
from tests.roles.rig import START_MS, Rig, rig, track, until, webhook, workspace

_MINUTE_MS = 60_000
_ARCHIVE = {
    "id": "files",
    "name": "Files",
    "type": "archive",
    "start": "earliest",
    "config": {"url": "archive", "maxAgeS": 0.1},
}
_TABLE = {**_ARCHIVE, "type": "iceberg_archive", "config": {"maxAgeS": 0.1}}
archives = pytest.mark.parametrize("archive", [_ARCHIVE, _TABLE], ids=["files", "iceberg"])


def replay(**given: Any) -> Replay:
    return Replay(
        **{
            "id": "r1",
            "destination_id": "hook",
            "from_ms": START_MS,
            "to_ms": START_MS + 60 * _MINUTE_MS,
            **given,
        }
    )


async def state(running: Rig, replay_id: str = "r1") -> Replay:
    return next(item for item in await running.ledger.replays() if item.id == replay_id)


async def ended(running: Rig, replay_id: str = "r1") -> Replay:
    async def over() -> Replay | None:
        found = await state(running, replay_id)
        return found if found.state in ("done", "failed") else None

    found: Replay = await until("the replay has ended", over)
    return found


async def history(running: Rig, count: int = 30, users: int = 5) -> None:
    """One event a minute."""
    for number in range(count):
        await running.send([track(f"u{number % users}", number)], at_ms=START_MS + number * _MINUTE_MS)


def numbers(sink: Sink, since: int = 0) -> list[int]:
    return [request.json()["properties"]["n"] for request in sink.requests[since:]]


async def test_a_time_range_and_a_filter_are_sent_in_order_and_counted(tmp_path: Path) -> None:
    async with Sink() as sink, rig(workspace(webhook(sink.url)), tmp_path) as running:
        await running.worker()
        await history(running)
        await running.settled(received=30)
        await running.ledger.put_replay(
            replay(
                from_ms=START_MS + 5 * _MINUTE_MS,
                to_ms=START_MS + 25 * _MINUTE_MS,
                where="event.properties.n % 2 == 0",
            )
        )
        found = await ended(running)
        assert (found.state, found.read, found.sent, found.error) == ("done", 20, 10, "")
        again = numbers(sink, 30)
        assert sorted(again) == list(range(6, 25, 2))
        for user in range(5):
            mine = [n for n in again if n % 5 == user]
            assert mine == sorted(mine)
        account = await running.account(replay_cursor("r1"))
        assert (account.delivered, account.pending) == (10, 0)
        # It no longer holds retention back.
        assert replay_cursor("r1") not in await running.stream.cursors()


async def test_its_lane_does_not_wait_for_a_slow_live_flow(tmp_path: Path) -> None:
    async with Sink() as sink, rig(workspace(webhook(sink.url)), tmp_path) as running:
        await running.worker()
        await history(running, 10)
        await running.settled(received=10)
        sink.script = lambda request: Answer(after_s=60) if request.json()["userId"] == "slow" else 200
        late_ms = START_MS + 120 * _MINUTE_MS
        await running.send([track("slow", 100)], at_ms=late_ms)
        await running.ledger.put_replay(replay())
        found = await ended(running)
        assert (found.state, found.sent) == ("done", 10)
        assert (await running.account()).pending == 1
        sink.script = None


async def test_cancelled_it_stops_and_stays_so(tmp_path: Path) -> None:
    delivery = {"concurrency": 1}
    async with Sink() as sink, rig(workspace(webhook(sink.url, delivery=delivery)), tmp_path) as running:
        await running.worker()
        await history(running, 20)
        await running.settled(received=20)
        sink.script = lambda request: Answer(after_s=0.05)
        await running.ledger.put_replay(replay())
        await until("it runs", lambda: sink.count > 20)
        await running.ledger.put_replay(msgspec.structs.replace(await state(running), state="cancelled"))

        async def forgotten() -> bool:
            return replay_cursor("r1") not in await running.stream.cursors()

        await until("it is let go", forgotten)
        assert (await state(running)).state == "cancelled"
        assert sink.count < 40


async def test_it_goes_on_after_a_restart_of_the_worker(tmp_path: Path) -> None:
    delivery = {"concurrency": 1}
    async with Sink() as sink, rig(workspace(webhook(sink.url, delivery=delivery)), tmp_path) as running:
        worker = await running.worker()
        await history(running, 20)
        await running.settled(received=20)
        sink.script = lambda request: Answer(after_s=0.02)
        await running.ledger.put_replay(replay())
        await until("it runs", lambda: sink.count > 25)
        await running.stop(worker)
        assert (await state(running)).state == "running"
        # What came meanwhile is not part of it, however far the log reaches now.
        await running.send([track("u1", 100)], at_ms=START_MS + 90 * _MINUTE_MS)
        sink.script = None
        await running.worker()
        found = await ended(running)
        assert (found.state, found.sent) == ("done", 20)
        assert set(numbers(sink, 20)) - {100} == set(range(20))


async def test_several_workers_end_it_together(tmp_path: Path) -> None:
    async with Sink() as sink, rig(workspace(webhook(sink.url)), tmp_path) as running:
        one, two = await running.worker(), await running.worker()
        await until("they share", lambda: len(one._owned) == len(two._owned) == 2)
        await history(running)
        await running.settled(received=30)
        await running.ledger.put_replay(replay())
        found = await ended(running)
        assert (found.state, found.sent) == ("done", 30)
        assert sorted(numbers(sink, 30)) == list(range(30))
        await until("no lane is left", lambda: not one._replays._lanes and not two._replays._lanes)


@archives
async def test_an_archive_is_replayed_and_what_died_is_redriven_after_its_end(
    archive: dict[str, Any], tmp_path: Path
) -> None:
    async with Sink() as sink, rig(workspace(webhook(sink.url), archive), tmp_path) as running:
        await running.worker()
        await history(running, 12)
        await running.settled("hook", received=12)
        await running.settled("files", received=12)
        sink.script = lambda request: 400 if request.json()["properties"]["n"] == 3 else 200
        await running.ledger.put_replay(replay(origin="archive", archive_destination_id="files"))
        found = await ended(running)
        assert (found.state, found.sent, found.error) == ("done", 11, "")
        assert sorted(numbers(sink, 12)) == list(range(12))
        assert found.files
        for name in ("archive", "iceberg"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)  # what is redriven needs no files
        sink.script = None
        dead = [key for key, letter in await running.ledger.dead(DeadFilter()) if letter.message_id == "u3-3"]
        assert await running.ledger.redrive(dead, running.clock.now_ms()) == 1
        await until("it is sent again", lambda: sink.count == 25)
        assert numbers(sink)[-1] == 3

        async def booked() -> bool:
            counts = await running.ledger.counts(replay_cursor("r1"))
            return sum(count for key, count in counts.items() if key.outcome == "delivered") == 12

        await until("the books know", booked)
        assert (await state(running)).state == "done"


@archives
async def test_an_archive_goes_on_where_it_was_after_a_restart(
    archive: dict[str, Any], tmp_path: Path
) -> None:
    delivery = {"concurrency": 1}
    async with Sink() as sink:
        known = workspace(webhook(sink.url, delivery=delivery), archive)
        async with rig(known, tmp_path) as running:
            worker = await running.worker()
            await history(running, 20)
            await running.settled("hook", received=20)
            await running.settled("files", received=20)
            sink.script = lambda request: Answer(after_s=0.02)
            await running.ledger.put_replay(replay(origin="archive", archive_destination_id="files"))
            await until("it runs", lambda: sink.count > 25)
            await running.stop(worker)
            sink.script = None
            if archive is _TABLE:
                # What its small files are joined to meanwhile holds the same files of an archive.
                table = ArchiveTable.open(iceberg_archive.Config(), tmp_path)
                done = table.upkeep(every_ms=0, keep=timedelta(0), now_ms=running.clock.now_ms())
                table.close()
                assert done is not None
            await running.worker()
            found = await ended(running)
            assert (found.state, found.sent) == ("done", 20)
            assert set(numbers(sink, 20)) == set(range(20))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"where": "event.nonsense(("}, "in: event.nonsense(("),
        ({"origin": "archive", "archive_destination_id": "nowhere"}, "no archive destination `nowhere`"),
        ({"destination_id": "files"}, "an archive is exact already"),
    ],
)
async def test_one_that_cannot_be_run_says_why_and_disturbs_nobody(
    given: dict[str, Any], words: str, tmp_path: Path
) -> None:
    async with Sink() as sink, rig(workspace(webhook(sink.url), _ARCHIVE), tmp_path) as running:
        await running.worker()
        await running.ledger.put_replay(replay(**given))
        found = await ended(running)
        assert found.state == "failed"
        assert words in found.error
        await running.send([track("ann", 1)])
        await running.settled("hook", received=1)


async def test_one_whose_destination_is_disabled_waits_for_it(tmp_path: Path) -> None:
    async with Sink() as sink:
        delivery = {"timeout_s": 1}
        on = workspace(webhook(sink.url, delivery=delivery))
        off = workspace(webhook(sink.url, delivery=delivery, enabled=False))
        async with rig(on, tmp_path) as running:
            worker = await running.worker()
            await history(running, 10)
            await running.settled(received=10)
            sink.script = lambda request: Answer(after_s=60)
            await running.ledger.put_replay(replay())
            await until("it runs", lambda: sink.count > 10)
            await running.told.tell(off)
            await until(
                "it is stopped", lambda: not worker._replays._lanes and "hook" in worker._paused, 30.0
            )
            assert (await state(running)).state == "running"
            sink.script = None
            await running.told.tell(on)
            assert (await ended(running)).sent == 10
