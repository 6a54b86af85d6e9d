"""Workers that transform: books, order, sharing; sandboxes that are slow or not there; partitions that go meanwhile."""

import asyncio
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mainstem.ledger.base import DeadFilter
from mainstem.roles.replays import replay_cursor
from mainstem.roles.worker import Worker
from mainstem.testing.sink import Answer, Sink
from mainstem.transformations.base import BatchRun, Dropped, Given, Kept, Result
from mainstem.workspace.model import Transformation, Workspace
from tests.acceptance.evidence import archived
from tests.pipeline.sandboxes import InProcess, Metadata, version
from tests.roles.rig import Rig, rig, track, until, webhook, workspace
from tests.roles.test_replays import ended, replay

Message = dict[str, Any]

_ARCHIVE = {
    "id": "files",
    "name": "Files",
    "type": "archive",
    "start": "earliest",
    "config": {"url": "archive", "maxAgeS": 0.1},
}
_QUICK = {"backoff_base_s": 0.001, "backoff_max_s": 0.002}


def transforming(known: Workspace, *versions: Transformation, at: Sequence[str] = ()) -> Workspace:
    """The workspace with these versions, in this order, at the connections to `at` (or all of them)."""
    ids = tuple(item.id for item in versions)
    return msgspec.structs.replace(
        known,
        version=f"{known.version}+{ids}",
        transformations=versions,
        connections=tuple(
            msgspec.structs.replace(connection, transformations=ids)
            if not at or connection.destination_id in at
            else connection
            for connection in known.connections
        ),
    )


def by_number(message: Message, _: Metadata) -> Any:
    """Of five events one is dropped, one fails, one is expanded, one is renamed, one stays."""
    match message["properties"]["n"] % 5:
        case 0:
            return None
        case 1:
            raise ValueError("one in five")
        case 2:
            return [{**message, "part": part} for part in range(3)]
        case 3:
            return {**message, "userId": "somebody else"}
    return message


def got(sink: Sink) -> list[Mapping[str, Any]]:
    return [request.json() for request in sink.requests]


async def test_each_record_has_one_outcome_and_each_user_one_order(tmp_path: Path) -> None:
    sandboxes = InProcess(sort=by_number)
    async with Sink() as sink:
        known = transforming(workspace(webhook(sink.url)), version("sort"))
        async with rig(known, tmp_path, sandboxes=sandboxes) as running:
            await running.worker()
            await running.send([track(f"u{number % 7}", number) for number in range(100)])
            found = await running.settled(received=100)
            assert (found.delivered, found.filtered, found.dead) == (60, 20, 20)
            (line,) = found.lines
            assert line.filtered == {"dropped by transformation sort": 20}
            assert line.dead == {"transformation sort failed": 20}
            messages = got(sink)
            assert len(messages) == 20 * 3 + 40
            # The order is that of the lane: of the user as received.
            for user in range(7):
                mine = [m["properties"]["n"] for m in messages if m["properties"]["n"] % 7 == user]
                assert mine == sorted(mine)
            parts = [m["messageId"] for m in messages if m["properties"]["n"] == 2]
            assert parts == ["u2-2", "u2-2:1", "u2-2:2"]
            # What died says why; repaired, it is redriven.
            letters = await running.ledger.dead(DeadFilter())
            assert {(letter.reason, letter.answer) for _, letter in letters} == {
                ("transformation sort failed", "ValueError: one in five")
            }
            found_one = await running.where("u1-1")
            assert (found_one.state, found_one.detail) == ("dead", "ValueError: one in five")
            sandboxes.codes["sort"] = lambda m, _: m
            await running.ledger.redrive([key for key, _ in letters], 0)
            found = await running.settled(received=100)
            assert (found.delivered, found.dead) == (80, 0)


async def test_a_record_that_was_expanded_goes_on_behind_what_was_accepted(tmp_path: Path) -> None:
    sandboxes = InProcess(split=lambda m, _: [{**m, "part": part} for part in range(3)])
    async with Sink() as sink:
        known = transforming(workspace(webhook(sink.url, delivery=_QUICK)), version("split"))
        failed: list[str] = []

        def once(request: Any) -> Answer:
            if request.json()["part"] == 1 and not failed:
                failed.append(request.json()["messageId"])
                return Answer(status=503)
            return Answer()

        sink.script = once
        async with rig(known, tmp_path, sandboxes=sandboxes) as running:
            await running.worker()
            await running.send([track("ann", 1)])
            await running.settled(received=1)
            assert [m["messageId"] for m in got(sink)] == ["ann-1", "ann-1:1", "ann-1:1", "ann-1:2"]


async def test_a_sandbox_that_is_not_there_makes_the_cursor_wait_and_say_so(tmp_path: Path) -> None:
    sandboxes = InProcess(same=lambda m, _: m)
    sandboxes.unavailable = "this machine lacks landlock"
    async with Sink() as sink:
        plain = workspace(webhook(sink.url), webhook(sink.url, "plain"), _ARCHIVE)
        known = transforming(plain, version("same"), at=["hook", "files"])
        async with rig(known, tmp_path, sandboxes=sandboxes) as running:
            worker = await running.worker()
            await running.send([track("ann", number) for number in range(20)])

            async def all_say_so() -> bool:
                statuses = await worker.statuses()
                return all("lacks landlock" in statuses[key].get("error", "") for key in ("hook", "files"))

            await until("both say so", all_say_so)
            assert running.transformer.troubles == {"same@1": "this machine lacks landlock"}
            # Nobody else is disturbed, and nothing dies.
            await running.settled("plain", received=20)
            assert (await running.account("hook")).unsettled == 20
            assert "lacks landlock" in (await running.where("ann-3")).detail
            sandboxes.unavailable = ""
            found = await running.settled("hook", received=20)
            assert (found.delivered, found.dead) == (20, 0)
            assert (await running.settled("files", received=20)).delivered == 20
            assert running.transformer.troubles == {}
            statuses = await worker.statuses()
            assert not statuses["hook"].get("error")


async def test_partitions_given_away_while_code_runs_are_not_offered_here(tmp_path: Path) -> None:
    sandboxes = InProcess(same=lambda m, _: m)
    async with Sink() as sink:
        known = transforming(workspace(webhook(sink.url)), version("same"))
        async with rig(known, tmp_path, sandboxes=sandboxes) as running:
            first = await running.worker()
            sandboxes.open.clear()
            await running.send([track(f"u{number % 20}", number) for number in range(200)])
            await until("code runs", lambda: sandboxes.waiting)
            second = await running.worker()
            await until("both have partitions", lambda: _owned(first) and _owned(second))
            # And back, while the first batch still runs.
            await running.stop(second)
            await until(
                "the first has all again", lambda: len(_owned(first)) == len(_owned(first) | _owned(second))
            )
            sandboxes.open.set()
            found = await running.settled(received=200)
            assert found.delivered == 200
            messages = got(sink)
            assert len(messages) == len({m["messageId"] for m in messages}) == 200
            for user in range(20):
                mine = [m["properties"]["n"] for m in messages if m["userId"] == f"u{user}"]
                assert mine == sorted(mine)


def _owned(worker: Worker) -> frozenset[int]:
    return worker._owned


async def test_stopped_while_code_runs_nothing_is_lost_and_nothing_comes_twice(tmp_path: Path) -> None:
    sandboxes = InProcess(same=lambda m, _: m)
    async with Sink() as sink:
        known = transforming(workspace(webhook(sink.url), _ARCHIVE), version("same"))
        async with rig(known, tmp_path, sandboxes=sandboxes) as running:
            first = await running.worker()
            sandboxes.open.clear()
            await running.send([track(f"u{number % 5}", number) for number in range(50)])
            await until("code runs", lambda: sandboxes.waiting)
            stopping = asyncio.create_task(running.stop(first))
            await until("the runner has stopped", lambda: _runner_ended(first))
            sandboxes.open.set()
            await stopping
            assert sink.count == 0
            await running.worker()
            assert (await running.settled(received=50)).delivered == 50
            assert sorted(m["properties"]["n"] for m in got(sink)) == list(range(50))
            await running.settled("files", received=50)
            assert len(archived(tmp_path)) == 50


def _runner_ended(worker: Worker) -> bool:
    flow: Any = worker._running["hook"].flow if worker._running else None
    return flow is None or flow._runner._task.done()


class Merging(InProcess):
    """As `transformBatch` that makes one event of all of a user: the first one carries the numbers of all."""

    async def run(
        self, transformation: Transformation, given: Sequence[Given], *, logs: bool = False
    ) -> BatchRun:
        numbers: dict[str, list[int]] = {}
        for one in given:
            numbers.setdefault(one.message["userId"], []).append(one.message["properties"]["n"])
        results: list[Result] = []
        for one in given:
            all_of = numbers.pop(one.message["userId"], None)
            results.append(Dropped() if all_of is None else Kept(({**one.message, "all": all_of},)))
        return BatchRun(tuple(results))


async def test_what_the_first_event_of_a_user_carries_outlives_a_restart(tmp_path: Path) -> None:
    sandboxes = Merging()
    async with Sink() as sink:
        sink.script = lambda _: Answer(status=503)
        known = transforming(workspace(webhook(sink.url, delivery=_QUICK)), version("merge"))
        async with rig(known, tmp_path, sandboxes=sandboxes) as running:
            await running.send([track(f"u{number % 3}", number) for number in range(30)])
            first = await running.worker()
            await until("it was tried", lambda: sink.count)
            await running.stop(first)
            sink.script = lambda _: Answer()
            tried = sink.count
            await running.worker()
            found = await running.settled(received=30)
            assert found.delivered + found.filtered == 30
            assert found.filtered > 0
            carried = [number for message in got(sink)[tried:] for number in message["all"]]
            assert sorted(carried) == list(range(30))


async def test_parked_events_are_transformed_by_the_version_that_holds_now(tmp_path: Path) -> None:
    sandboxes = InProcess(mark=lambda m, _: {**m, "mark": 1}, late=lambda m, _: {**m, "mark": 2})
    delivery = {**_QUICK, "park_after_attempts": 2, "breaker_failures": 1000}
    async with Sink() as sink:
        plain = workspace(webhook(sink.url, delivery=delivery))
        broken = {"ann"}
        sink.script = lambda request: Answer(status=408 if request.json()["userId"] in broken else 200)
        async with rig(transforming(plain, version("mark")), tmp_path, sandboxes=sandboxes) as running:
            await running.worker()
            await running.send([track("ann", 1)])

            async def parked() -> bool:
                # Others succeed meanwhile: so it is this user, not the destination.
                await running.send([track("well", sink.count)])
                return (await running.account()).parked == 1

            await until("it is parked", parked)
            # Meanwhile the sandbox is not there: the parked event waits, it does not die.
            sandboxes.unavailable = "no memory"
            await running.told.tell(transforming(plain, version("late")))
            await until("the new version is tried", lambda: running.transformer.troubles.get("late@1"))
            broken.clear()
            tried = sink.count
            runs = len(sandboxes.runs)
            await until("it was tried in vain", lambda: len(sandboxes.runs) > runs)
            assert (sink.count, (await running.account()).parked) == (tried, 1)
            sandboxes.unavailable = ""
            found = await running.settled(received=1)
            assert (found.delivered, found.dead) == (found.received, 0)
            assert [m["mark"] for m in got(sink) if m["userId"] == "ann"][-1] == 2


async def test_the_archive_holds_what_the_code_made_and_raw_bytes_where_there_is_none(tmp_path: Path) -> None:
    sandboxes = InProcess(sort=by_number)
    raw = {**_ARCHIVE, "id": "raw", "config": {"url": "raw", "maxAgeS": 0.1}}
    async with Sink() as sink:
        known = transforming(
            workspace(webhook(sink.url), _ARCHIVE, raw), version("sort"), at=["hook", "files"]
        )
        async with rig(known, tmp_path, sandboxes=sandboxes) as running:
            await running.worker()
            odd = b'{"type":"track",  "messageId":"x-4","userId":"x","event":"Step","properties":{"n":4.0}}'
            await running.send([*(track(f"u{number % 3}", number) for number in range(20)), odd])
            found = await running.settled("files", received=21)
            assert (found.delivered, found.filtered, found.dead) == (13, 4, 4)
            assert (await running.settled("raw", received=21)).delivered == 21
            await running.settled("hook", received=21)
            lines = archived(tmp_path / "archive")
            sent = {m["messageId"]: m for m in got(sink)}
            assert sorted(line["messageId"] for line in lines) == sorted(sent)
            for line in lines:
                assert line["raw"]["messageId"] == line["messageId"]
                assert line["raw"].get("part") == sent[line["messageId"]].get("part")
            assert [line["requestIp"] for line in lines] == ["10.0.0.9"] * len(lines)
            assert odd in b"".join(_contents(tmp_path / "raw"))
            await until(
                "nothing is staged any more", lambda: not list((tmp_path / "spool").rglob("*.staged"))
            )
            # One run per event for both, however they came by.
            seen = [key for _, batch in sandboxes.runs for key in batch]
            assert len(seen) == len(set(seen)) == 21


def _contents(folder: Path) -> list[bytes]:
    return [gzip.decompress(path.read_bytes()) for path in folder.rglob("*.jsonl.gz")]


async def test_what_the_code_took_out_is_not_kept_beside_the_message(tmp_path: Path) -> None:
    def forget(message: Message, _: Metadata) -> Message:
        return {key: value for key, value in message.items() if key not in ("request_ip", "context")}

    async with rig(
        transforming(workspace(_ARCHIVE), version("forget")), tmp_path, sandboxes=InProcess(forget=forget)
    ) as running:
        await running.worker()
        await running.send([track("ann", 1, context={"ip": "192.0.2.7"})])
        await running.settled("files", received=1)
        written = b"".join(_contents(tmp_path))
        assert b"ann-1" in written
        assert b"10.0.0.9" not in written
        assert b"192.0.2.7" not in written


async def test_replays_transform_too_from_the_stream_and_from_an_archive(tmp_path: Path) -> None:
    sandboxes = InProcess(mark=lambda m, _: {**m, "mark": 1}, late=lambda m, _: {**m, "mark": 2})
    async with Sink() as sink:
        plain = workspace(webhook(sink.url), _ARCHIVE)
        known = transforming(plain, version("mark"), at=["hook"])
        async with rig(known, tmp_path, sandboxes=sandboxes) as running:
            await running.worker()
            await running.send([track("ann", number) for number in range(5)])
            await running.settled("hook", received=5)
            await running.settled("files", received=5)
            await running.told.tell(transforming(plain, version("late"), at=["hook"]))
            await until("the new version is ready", lambda: "late@1" in sandboxes.prepared)
            for name, origin in (("r1", "stream"), ("r2", "archive")):
                before = sink.count
                await running.ledger.put_replay(
                    replay(id=name, origin=origin, archive_destination_id="files")
                )
                found = await ended(running, name)
                assert (found.state, found.sent) == ("done", 5), found
                assert {m["mark"] for m in got(sink)[before:]} == {2}
                counts = await running.ledger.counts(replay_cursor(name))
                assert sum(counts.values()) == 5


async def test_a_new_version_is_ready_before_it_is_switched_to(tmp_path: Path) -> None:
    sandboxes = InProcess(mark=lambda m, _: {**m, "mark": 1}, late=lambda m, _: {**m, "mark": 2})
    async with Sink() as sink:
        plain = workspace(webhook(sink.url))
        async with rig(transforming(plain, version("mark")), tmp_path, sandboxes=sandboxes) as running:
            await running.worker()
            assert sandboxes.prepared == ["mark@1"]
            await running.send([track("ann", 1)])
            await running.settled(received=1)
            await running.told.tell(transforming(plain, version("late")))

            async def second_version() -> bool:
                await running.send([track("bob", sink.count)])
                await running.settled()
                return bool(got(sink)[-1]["mark"] == 2)

            await until("the new version is used", second_version)
            assert sandboxes.prepared == ["mark@1", "late@1"]
            first_late = next(number for number, (name, _) in enumerate(sandboxes.runs) if name == "late@1")
            assert {name for name, _ in sandboxes.runs[first_late:]} == {"late@1"}


async def test_real_code_in_a_real_sandbox(tmp_path: Path) -> None:
    code = """
    export function transformEvent(event, metadata) {
      if (event.properties.n === 0) return
      if (event.properties.n === 1) throw new Error("no good")
      event.properties.from = metadata(event).sourceId
      return event.properties.n === 2 ? [event, event] : event
    }
    """
    async with Sink() as sink:
        javascript = Transformation(id="real@1", name="real", version="1", kind="javascript", code=code)
        known = transforming(workspace(webhook(sink.url), _ARCHIVE), javascript)
        async with rig(known, tmp_path) as running:
            await _all_is_well(running, sink)


async def _all_is_well(running: Rig, sink: Sink) -> None:
    await running.worker()
    await running.send([track("ann", number) for number in range(4)])
    found = await running.settled(received=4)
    assert (found.delivered, found.filtered, found.dead) == (2, 1, 1)
    assert [(m["messageId"], m["properties"]["from"]) for m in got(sink)] == [
        ("ann-2", "web"),
        ("ann-2:1", "web"),
        ("ann-3", "web"),
    ]
    where = await running.where("ann-2")
    assert (where.state, [one.result for one in where.transformations]) == ("delivered", ["expanded"])
    where = await running.where("ann-1")
    assert where.state == "dead"
    assert "no good" in where.detail
    assert (await running.settled("files", received=4)).delivered == 2
