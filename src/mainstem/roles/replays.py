"""Replays: history sent again to one destination, in a lane of its own beside the live flow.

A replay is a row in the ledger, put there by `mainstem replay`; workers notice it and run it. From the stream
it is a cursor that starts in the past: every worker replays the partitions it owns. From an archive it goes
through the files in order, in the worker that owns partition 0; file and line are its partition and offset.
Rules, lanes, retries, park, dead letters and books are those of the live flow, under the cursor
`replay:<id>`. Between a replay and the live flow there is no order.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from mainstem.delivery.sender import Sender
from mainstem.destinations.base import StreamSink
from mainstem.errors import MainstemError
from mainstem.events.canonical import Event
from mainstem.events.stored import encode_stored
from mainstem.lake.open import open_archive
from mainstem.lake.reader import Archive
from mainstem.ledger.base import Ledger, LedgerError, Position, Replay
from mainstem.pipeline.decode import Decoder
from mainstem.pipeline.judge import Narrow, judge_by
from mainstem.pipeline.outcome import DELIVERED, Filtered, Outcome
from mainstem.pipeline.plan import DestinationPlan
from mainstem.pipeline.where import Failed, Where
from mainstem.roles.flows import make_sender
from mainstem.roles.runner import Rules, Runner, offer
from mainstem.roles.surroundings import FlowRefused, Surroundings
from mainstem.stream.base import Stream, StreamError
from mainstem.telemetry.log import logger
from mainstem.transformations.base import SandboxUnavailable
from mainstem.workspace.model import Destination

_log = logger(__name__)

OUTSIDE: Final = Filtered("outside the replay")
_NOT_WANTED: Final = Filtered("replay where")
_OPEN: Final = ("waiting", "running")
_ARCHIVE_OWNER: Final = 0
"""The partition whose owner reads archives."""
_BATCH_EVENTS: Final = 100
"""Lines of an archive that are judged at once."""
_SANDBOX_RETRY_S: Final = 1.0


def replay_cursor(replay_id: str) -> str:
    """Return the name under which a replay is settled."""
    return f"replay:{replay_id}"


def is_replay(cursor: str) -> bool:
    """Whether a cursor is a replay's."""
    return cursor.startswith("replay:")


def narrow_to(replay: Replay) -> Narrow:
    """Return the rule that leaves only a replay's time and filter to the live rules.

    Raises:
        ExpressionInvalid: the filter does not compile.
    """
    where = Where(replay.where) if replay.where else None

    def narrow(event: Event) -> Filtered | None:
        if not replay.from_ms <= event.received_at_ms < replay.to_ms:
            return OUTSIDE
        if where is not None and event.kind == "event":
            verdict = where(event.message)
            if isinstance(verdict, Failed):
                return Filtered("replay where failed", verdict.reason)
            if verdict is not True:
                return _NOT_WANTED
        return None

    return narrow


class _Lane(Protocol):
    """A running replay in this process."""

    async def assign(self, partitions: frozenset[int]) -> None: ...

    async def revoke(self, partitions: frozenset[int]) -> None: ...

    async def drain(self, timeout_s: float) -> None: ...

    async def finished(self) -> bool:
        """Whether everything has been read and settled, by all workers."""
        ...

    @property
    def reopened(self) -> bool:
        """It reads nothing: the replay is over, but dead letters of it were redriven."""
        ...

    @property
    def failure(self) -> str:
        """Why it can't go on; empty if it can."""
        ...


class ReplayDesk:
    """Starts, watches and ends the replays of a worker."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._lanes: dict[str, _Lane] = {}
        self._lane_plans: dict[str, DestinationPlan] = {}
        """What each lane was made of."""
        self._plans: Mapping[str, DestinationPlan] = {}
        self._archives: Mapping[str, Destination] = {}
        self._decoder = Decoder(())
        self._owned: frozenset[int] = frozenset()
        self._version = -1

    async def replace_plans(
        self, plans: Mapping[str, DestinationPlan], archives: Mapping[str, Destination], decoder: Decoder
    ) -> None:
        """Use another snapshot: replays begin again, at their place, with the rules that hold now. One whose
        destination is disabled or gone waits for it."""
        self._plans, self._archives, self._decoder = plans, archives, decoder
        self._version = -1
        await asyncio.gather(*(self._close(replay_id) for replay_id in list(self._lanes)))

    async def _close(self, replay_id: str) -> None:
        lane, plan = self._lanes.pop(replay_id), self._lane_plans.pop(replay_id)
        await lane.drain(plan.destination.delivery.timeout_s)

    async def assign(self, partitions: frozenset[int]) -> None:
        """Own more partitions."""
        self._owned |= partitions
        for lane in self._lanes.values():
            await lane.assign(partitions)

    async def revoke(self, partitions: frozenset[int]) -> None:
        """Own fewer partitions."""
        self._owned -= partitions
        await asyncio.gather(*(lane.revoke(partitions) for lane in self._lanes.values()))
        if _ARCHIVE_OWNER in partitions:
            for key in [key for key, lane in self._lanes.items() if isinstance(lane, _ArchiveLane)]:
                del self._lane_plans[key]
                await self._lanes.pop(key).drain(0)

    async def stop(self, timeout_s: float) -> None:
        """Let replays go; the next owner goes on where they are."""
        await asyncio.gather(*(lane.drain(timeout_s) for lane in self._lanes.values()))
        self._lanes.clear()
        self._lane_plans.clear()

    async def look(self) -> None:
        """Start what is waiting, end what is finished or cancelled."""
        version = await self._around.ledger.version()
        if version == self._version and not self._lanes:
            return
        self._version = version
        for replay in await self._around.ledger.replays():
            lane = self._lanes.get(replay.id)
            if lane is not None:
                await self._watch(replay, lane)
            elif self._runs_here(replay):
                await self._take_up(replay)

    def _runs_here(self, replay: Replay) -> bool:
        if replay.destination_id not in self._plans:
            return False
        return _ARCHIVE_OWNER in self._owned if replay.origin == "archive" else bool(self._owned)

    async def _take_up(self, replay: Replay) -> None:
        ledger = self._around.ledger
        reopened = False
        if replay.state == "done":
            # Dead letters of a finished replay that were redriven.
            reopened = bool(await ledger.parked_keys(replay_cursor(replay.id)))
        if replay.state not in _OPEN and not reopened:
            return
        try:
            lane = await self._open(replay, reading=not reopened)
        except (LedgerError, StreamError):
            self._version = -1  # passing trouble: look again
            raise
        except MainstemError as error:
            _log.error("replay can't be run", replay=replay.id, error=str(error))
            await ledger.put_replay(msgspec.structs.replace(replay, state="failed", error=str(error)))
            return
        self._lanes[replay.id] = lane
        self._lane_plans[replay.id] = self._plans[replay.destination_id]
        await lane.assign(self._owned)
        if not reopened and replay.state == "waiting":
            known = next(item for item in await ledger.replays() if item.id == replay.id)
            await ledger.put_replay(msgspec.structs.replace(known, state="running"))
        _log.info("replay runs", replay=replay.id, destination=replay.destination_id, origin=replay.origin)

    async def _watch(self, replay: Replay, lane: _Lane) -> None:
        ledger, stream = self._around.ledger, self._around.stream
        # Also when another worker saw the end before us: what is still parked is then taken up again as such.
        ended = replay.state not in _OPEN and not (replay.state == "done" and lane.reopened)
        failure = lane.failure
        if not ended and not failure and not await lane.finished():
            return
        await self._close(replay.id)
        if ended:
            await stream.forget(replay_cursor(replay.id))
            return
        counts = await ledger.counts(replay_cursor(replay.id))
        read = sum(count for key, count in counts.items() if key.reason != OUTSIDE.rule)
        sent = sum(count for key, count in counts.items() if key.outcome == DELIVERED)
        await ledger.put_replay(
            msgspec.structs.replace(
                replay,
                state="failed" if failure else "done",
                error=failure,
                read=read,
                sent=sent,
            )
        )
        await stream.forget(replay_cursor(replay.id))
        _log.info("replay ended", replay=replay.id, sent=sent, error=failure)

    async def _open(self, replay: Replay, *, reading: bool) -> _Lane:
        plan = self._plans[replay.destination_id]
        if plan.spec.kind == "files":
            raise FlowRefused(
                "a replay into an archive would write events twice: an archive is exact already"
            )
        if plan.spec.kind == "tables":
            raise FlowRefused("history goes into a warehouse by `mainstem warehouse backfill`")
        judge = judge_by(
            plan,
            self._around.transformer,
            narrow=narrow_to(replay),
            # An archive's places are not those of the log.
            share=replay.origin != "archive",
        )
        rules = Rules(judge, self._decoder)
        cursor = replay_cursor(replay.id)
        sender, sink = make_sender(plan, rules, self._around, cursor=cursor)
        if replay.origin == "archive":
            archive = self._archives.get(replay.archive_destination_id)
            if archive is None:
                raise FlowRefused(
                    f"no archive destination `{replay.archive_destination_id}` in the workspace"
                )
            return await _ArchiveLane.open(
                replay, archive, self._around, rules, sender, sink, reading=reading
            )
        return await _StreamLane.open(replay, self._around, rules, sender, sink, reading=reading)


class _StreamLane:
    """A replay from the stream."""

    def __init__(
        self,
        runner: Runner,
        sink: StreamSink | None,
        cursor: str,
        end: Mapping[int, int],
        ledger: Ledger,
        *,
        reopened: bool,
    ) -> None:
        self.reopened = reopened
        self._runner = runner
        self._sink = sink
        self._cursor = cursor
        self._end = end
        self._ledger = ledger
        self.failure = ""

    @classmethod
    async def open(
        cls,
        replay: Replay,
        around: Surroundings,
        rules: Rules,
        sender: Sender,
        sink: StreamSink | None,
        *,
        reading: bool,
    ) -> "_StreamLane":
        cursor = replay_cursor(replay.id)
        stream = around.stream
        bounds = await stream.bounds()
        starts = {
            partition: max(at.earliest, await stream.offset_at(partition, replay.from_ms))
            for partition, at in bounds.items()
        }
        positions = await around.ledger.open_cursor(cursor, starts)
        end = {
            partition: bounds[partition].next if reading else at.next_offset
            for partition, at in positions.items()
        }
        if reading:
            await _hold(stream, cursor, positions)
        runner = Runner(
            cursor=cursor,
            rules=rules,
            sender=sender,
            reader=around.reader,
            stream=stream,
            ledger=around.ledger,
            clock=around.clock,
            end=end,
        )
        return cls(runner, sink, cursor, end, around.ledger, reopened=not reading)

    async def assign(self, partitions: frozenset[int]) -> None:
        positions = await self._ledger.positions(self._cursor)
        await self._runner.assign({part: at for part, at in positions.items() if part in partitions})

    async def revoke(self, partitions: frozenset[int]) -> None:
        await self._runner.revoke(partitions)

    async def drain(self, timeout_s: float) -> None:
        await self._runner.drain(timeout_s)
        if self._sink is not None:
            await self._sink.close()

    async def finished(self) -> bool:
        positions = await self._ledger.positions(self._cursor)
        if any(at.next_offset < self._end[partition] for partition, at in positions.items()):
            return False
        return not await self._ledger.parked_keys(self._cursor)


async def _hold(stream: Stream, cursor: str, positions: Mapping[int, Position]) -> None:
    """Keep retention away from what the replay still has to read."""
    await stream.commit(cursor, {partition: at.next_offset for partition, at in positions.items()})


class _ArchiveLane:
    """A replay from an archive's files. Partition = place of the file in `Replay.files`, offset = line."""

    def __init__(
        self,
        replay: Replay,
        reader: Archive,
        around: Surroundings,
        rules: Rules,
        sender: Sender,
        sink: StreamSink | None,
        *,
        reading: bool,
    ) -> None:
        self._replay = replay
        self._reader = reader
        self._around = around
        self._rules = rules
        self._sender = sender
        self._sink = sink
        self._cursor = replay_cursor(replay.id)
        self._task: asyncio.Task[None] | None = None
        self.reopened = not reading
        self._all_read = not reading
        self.failure = ""

    @classmethod
    async def open(
        cls,
        replay: Replay,
        archive: Destination,
        around: Surroundings,
        rules: Rules,
        sender: Sender,
        sink: StreamSink | None,
        *,
        reading: bool,
    ) -> "_ArchiveLane":
        reader = await asyncio.to_thread(open_archive, archive.config, Path(around.data_dir))
        try:
            if not replay.files:
                found = [name.name async for name in reader.files(from_ms=replay.from_ms, to_ms=replay.to_ms)]
                replay = msgspec.structs.replace(replay, files=tuple(found))
                await around.ledger.put_replay(replay)
        except BaseException:
            reader.close()
            raise
        return cls(replay, reader, around, rules, sender, sink, reading=reading)

    async def assign(self, partitions: frozenset[int]) -> None:
        if _ARCHIVE_OWNER in partitions and self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"replay {self._replay.id}")

    async def revoke(self, partitions: frozenset[int]) -> None:
        if _ARCHIVE_OWNER in partitions:
            await self._stop_reading()
            await self._sender.revoke(list(self._sender.positions))

    async def drain(self, timeout_s: float) -> None:
        await self._stop_reading()
        self._reader.close()
        await self._sender.drain(timeout_s)
        if self._sink is not None:
            await self._sink.close()

    async def finished(self) -> bool:
        if not self._all_read:
            return False
        status = self._sender.status()
        return status.window == 0 and not await self._around.ledger.parked_keys(self._cursor)

    async def _stop_reading(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        try:
            await self._read()
        except MainstemError as error:
            self.failure = str(error)
        except Exception as bug:  # noqa: BLE001 - told to whoever asked for the replay; live flows go on
            _log.exception("replay failed", replay=self._replay.id)
            self.failure = f"{type(bug).__name__}: {bug}"

    async def _read(self) -> None:
        files = self._replay.files
        positions = await self._around.ledger.open_cursor(self._cursor, dict.fromkeys(range(len(files)), 0))
        await self._sender.start(positions)
        if self.reopened:
            return
        sequence = 0
        for place, name in enumerate(files):
            line = 0
            batch: list[tuple[Event, bytes]] = []
            async for archived in self._reader.read(name):
                sequence += 1
                if line >= positions[place].next_offset:
                    value = encode_stored(archived.event)
                    _, event = self._rules.decoder.decode(place, line, sequence, value)
                    batch.append((event, value))
                    if len(batch) == _BATCH_EVENTS:
                        await self._offer(batch)
                        batch = []
                line += 1
            await self._offer(batch)
        self._all_read = True

    async def _offer(self, batch: Sequence[tuple[Event, bytes]]) -> None:
        if not batch:
            return
        await self._sender.wait_room()
        outcomes = await self._judged([event for event, _ in batch])
        for (event, value), outcome in zip(batch, outcomes, strict=True):
            offer(self._sender, event, value, outcome)

    async def _judged(self, events: Sequence[Event]) -> Sequence[Outcome]:
        while True:
            try:
                return await self._rules.judge(events)
            except SandboxUnavailable as error:
                _log.error("replay can't go on now", replay=self._replay.id, error=str(error))
                await self._around.clock.sleep(_SANDBOX_RETRY_S)
