"""The worker: destinations come, go and change while events flow; several workers share one log."""

from pathlib import Path

import pytest

from mainstem.roles.rooms import ensure_cursors
from mainstem.testing.sink import Sink
from tests.roles.rig import START_MS, rig, track, until, webhook, workspace


def sent(sink: Sink, path: str = "/in") -> list[str]:
    return [request.json()["messageId"] for request in sink.requests if request.path == path]


async def test_destinations_are_added_and_removed_and_come_back_to_their_place(tmp_path: Path) -> None:
    async with Sink() as one, Sink() as two:
        both = workspace(webhook(one.url, "one"), webhook(two.url, "two"))
        only = workspace(webhook(one.url, "one"))
        async with rig(only, tmp_path) as running:
            worker = await running.worker()
            await running.send([track("ann", 1)])
            await running.settled("one", received=1)
            await running.told.tell(both)
            await until("the new one has all from the earliest", lambda: sent(two) == ["ann-1"])
            await running.settled("two", received=1)
            await running.told.tell(only)

            async def gone() -> bool:
                return "two" not in await worker.statuses()

            await until("it is gone", gone)
            await running.send([track("ann", 2)])
            await running.settled("one", received=2)
            assert sent(two) == ["ann-1"]
            await running.told.tell(both)
            await until("it goes on at its place", lambda: sent(two) == ["ann-1", "ann-2"])
            assert sent(one) == ["ann-1", "ann-2"]


async def test_a_disabled_destination_keeps_its_place_and_says_so(tmp_path: Path) -> None:
    async with Sink() as sink:
        on, off = workspace(webhook(sink.url)), workspace(webhook(sink.url, enabled=False))
        async with rig(on, tmp_path) as running:
            worker = await running.worker()
            await running.send([track("ann", 1)])
            await running.settled(received=1)
            await running.told.tell(off)

            async def disabled() -> bool:
                return bool((await worker.statuses())["hook"] == {"state": "disabled"})

            await until("it is disabled", disabled)
            assert (await running.ledger.statuses())["hook"] == b'{"state":"disabled"}'
            await running.send([track("ann", 2)])
            assert (await running.account()).pending == 1
            await running.told.tell(on)
            await until("it resumes", lambda: sent(sink) == ["ann-1", "ann-2"])


async def test_changed_settings_are_used_from_the_position_on(tmp_path: Path) -> None:
    # An event in the very moment of the change: the runner is woken and cancelled at once.
    async with Sink() as old, Sink() as new, rig(workspace(webhook(old.url)), tmp_path) as running:
        await running.worker()
        await running.send([track("ann", 1)])
        await running.settled(received=1)
        await running.told.tell(workspace(webhook(new.url)))
        await running.send([track("ann", 2)])
        number = 2

        async def used() -> bool:
            nonlocal number
            await running.settled(received=number)
            number += 1
            await running.send([track("ann", number)])
            return new.count > 0

        await until("the new address is used", used)
        await running.settled(received=number)
        assert sent(old) + sent(new) == [f"ann-{n}" for n in range(1, number + 1)]


async def test_changed_rules_hold_without_a_new_flow(tmp_path: Path) -> None:
    async with Sink() as sink, rig(workspace(webhook(sink.url)), tmp_path) as running:
        worker = await running.worker()
        await running.send([track("ann", 1)])
        await running.settled(received=1)
        flow = worker._running["hook"].flow
        await running.told.tell(workspace(webhook(sink.url), filters=[{"name": "none", "deny": ["*"]}]))

        async def filtered() -> bool:
            await running.send([track("ann", 2 + sink.count)])
            return (await running.account()).filtered > 0

        await until("it is filtered", filtered)
        assert worker._running["hook"].flow is flow


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("archive", {"url": "s3://bucket", "endpoint": "http://10.0.0.1"}),
        ("iceberg_archive", {"catalog": "rest", "catalogUri": "http://10.0.0.1"}),
        ("iceberg_archive", {"catalog": "rest", "oauth2ServerUri": "http://10.0.0.1"}),
    ],
)
async def test_a_refused_destination_is_shown_keeps_its_place_and_disturbs_nobody(
    kind: str, config: dict[str, str], tmp_path: Path
) -> None:
    archive = {"id": "files", "name": "F", "type": kind, "start": "earliest"}
    bad = {**archive, "config": config}
    async with Sink() as sink:
        known = workspace(webhook(sink.url), bad)
        async with rig(known, tmp_path) as running:
            worker = await running.worker()
            await running.send([track("ann", 1)])
            await running.settled(received=1)
            status = (await worker.statuses())["files"]
            assert status["state"] == "refused"
            assert "http://10.0.0.1" in status["error"]
            assert b'"state":"refused"' in (await running.ledger.statuses())["files"]
            assert (await running.account("files")).pending == 1
            good = workspace(webhook(sink.url), {**archive, "config": {"url": "good", "maxAgeS": 0.1}})
            await running.told.tell(good)
            found = await running.settled("files", received=1)
            assert found.delivered == 1


async def test_positions_are_told_to_the_stream_so_that_retention_goes_on(tmp_path: Path) -> None:
    async with Sink() as sink, rig(workspace(webhook(sink.url)), tmp_path) as running:
        await running.worker()
        await running.send([track(f"u{number}", number) for number in range(20)])
        await running.settled(received=20)

        async def told() -> bool:
            bounds = await running.stream.bounds()
            return dict(await running.stream.committed("hook")) == {
                part: at.next for part, at in bounds.items()
            }

        await until("the stream knows", told)


async def test_two_workers_share_the_partitions_and_keep_each_users_order(tmp_path: Path) -> None:
    async with Sink() as sink, rig(workspace(webhook(sink.url)), tmp_path) as running:
        first = await running.worker()
        second = await running.worker()
        await until("they share", lambda: len(first._owned) == len(second._owned) == 2)
        await running.send([track(f"u{number % 20}", number) for number in range(100)])
        await until("half is delivered", lambda: sink.count > 50)
        await running.stop(first)
        await running.send([track(f"u{number % 20}", number) for number in range(100, 200)])
        found = await running.settled(received=200)
        assert found.delivered == 200
        by_user: dict[str, list[int]] = {}
        for request in sink.requests:
            event = request.json()
            numbers = by_user.setdefault(event["userId"], [])
            if event["properties"]["n"] not in numbers:
                numbers.append(event["properties"]["n"])
        assert all(numbers == sorted(numbers) for numbers in by_user.values())
        assert sum(map(len, by_user.values())) == 200


async def test_a_new_destination_misses_nothing_from_the_moment_it_has_its_place(tmp_path: Path) -> None:
    async with Sink() as sink:
        known = workspace(
            webhook(sink.url, "latest", start="latest"),
            webhook(sink.url, "earliest", start="earliest"),
            webhook(sink.url, "moment", start="2026-11-23T06:50:00Z"),
        )
        async with rig(known, tmp_path) as running:
            await running.send([track("ann", 1)], at_ms=START_MS)
            await running.send([track("ann", 2)], at_ms=START_MS + 600_000)
            # This is what `serve` does before it accepts an event, and so before it says that it is up.
            await ensure_cursors(known, running.stream, running.ledger)
            await running.send([track("ann", 3)], at_ms=START_MS + 1_200_000)
            await running.worker()
            got = {name: (await running.settled(name)).delivered for name in ("latest", "earliest", "moment")}
            assert got == {"latest": 1, "earliest": 3, "moment": 2}
            # Known ones keep their place, whatever `start` says.
            await ensure_cursors(known, running.stream, running.ledger)
            assert (await running.account("latest")).received == 1
