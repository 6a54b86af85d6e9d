"""The gatherer: moves one destination that takes batches through the log, exactly once.

stream -> **gatherer** -> writer. It gathers decisions about records until a flush is due (events, bytes, age),
notes a plan, has the plan written and settles; `plan.py` says why nothing is lost or doubled. A flush covers all
partitions owned here at once, so that files stay few and large, and tables are loaded seldom.
What has to be a function of its plan is made when there is one: records are read a second time, memory does not grow
with the flush, and the way through a crash is the same code as every day's. A writer that can do better has its batch
made ahead, while records are gathered and decoded anyhow.
While a plan is written, the next one is gathered: the writer waits for others most of the time.
"""

import asyncio
import random
import tempfile
from collections.abc import Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
import xxhash
from pyroaring import BitMap

from mainstem.bulk.errors import BulkError, PlanBroken
from mainstem.bulk.plan import Death, Gathering, Judge, Plan, Range, Verdict, notes_of, open_plan, read_note
from mainstem.bulk.staged import StagedReader, folder_of, path_of, sweep
from mainstem.bulk.writer import Making, Planned, Writer
from mainstem.clock import Clock
from mainstem.events.stored import StoredEvent, decode_stored
from mainstem.ledger.base import DeadLetter, Fenced, Ledger, LedgerError, Position, Settlement
from mainstem.stream.base import OffsetGone, Record, Stream, StreamClosed, StreamError
from mainstem.telemetry import metrics
from mainstem.telemetry.log import logger
from mainstem.transformations.base import SandboxUnavailable

_log = logger(__name__)

_READ_RECORDS: Final = 250
_WRITE_RECORDS: Final = 1000
_READ_BYTES: Final = 1024 * 1024
_IDLE_S: Final = 60.0
_LINGER_S: Final = 1.0
"""How long new records may wait to be read while a flush is not due: reading in gulps costs less."""
_FIRST_PARTITION: Final = 0
_LEFT_BEHIND_S: Final = 86_400.0
"""What was sealed is removed after this time, and twice the age of a flush, if no plan knows of it."""
_PASSING: Final = (BulkError, LedgerError, StreamError, SandboxUnavailable, OSError)
"""What is tried again for ever."""
_BACKOFF_BASE_S: Final = 0.5
_BACKOFF_MAX_S: Final = 60.0


class GathererStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a gatherer is doing, for people and metrics."""

    partitions: tuple[int, ...]
    gathered_events: int
    """Read and decided, not yet planned."""
    gathered_bytes: int
    open_plan: str
    """Id of the plan that is being carried out, empty if none."""
    flushes: int
    """Plans settled by this process."""
    files: int
    """Parts (files, tables) written by this process."""
    written_events: int
    last_flush_ms: int
    """When the last plan was settled, 0 = not yet."""
    failures: int
    """Attempts in a row that failed."""
    error: str
    """Why the last attempt failed, empty when it did not."""


class Gatherer:
    """Moves one cursor. Create, `assign` partitions as they come, `run` until told to stop."""

    def __init__(
        self,
        *,
        cursor: str,
        destination: str,
        writer: Writer,
        stream: Stream,
        ledger: Ledger,
        clock: Clock,
        judge: Judge,
        spool_dir: Path | None = None,
        chance: random.Random | None = None,
    ) -> None:
        """
        Args:
            cursor: the name under which events are settled.
            destination: the destination's id, for dead letters and metrics.
            judge: the destination's rules and transformations; must not raise for any record.
            writer: where it goes.
            spool_dir: where what was transformed is kept until it is written: the same for all workers, and durable.
                None = the system's temporary folder.
            chance: source of jitter.
        """
        self._cursor = cursor
        self._plan_cursor = f"plan:{cursor}"
        self._destination = destination
        self._writer = writer
        self._limits = writer.limits
        self._stream = stream
        self._ledger = ledger
        self._clock = clock
        self._judge = judge
        self._staged = folder_of((spool_dir or Path(tempfile.gettempdir())) / "staged", cursor)
        self._swept = False
        self._chance = chance or random.Random()  # noqa: S311 - jitter, not a secret
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._owned: frozenset[int] = frozenset()
        self._known = False
        """Whether `_next`, `_planned`, `_sequences` and `_plan` are what the ledger says."""
        self._next: dict[int, int] = {}
        """Next offset to gather, per owned partition."""
        self._planned: dict[int, int] = {}
        self._sequences: dict[int, int] = {}
        self._gathering = self._gather_from({})
        self._ahead: Making | None = None
        """What is made of `_gathering` already, if the writer makes batches ahead."""
        self._plan: Plan | None = None
        self._made: Making | None = None
        """What is made of `_plan`: whole, or all but finished."""
        self._taken_up = False
        """Whether `_plan` was found in the ledger, not made here just now."""
        self._writing: asyncio.Task[None] | None = None
        """Carries `_plan` out, while the next one is gathered. Until it has ended nobody else may touch `_plan`."""
        self._flushes = 0
        self._files = 0
        self._written = 0
        self._last_flush_ms = 0
        self._failures = 0
        self._error = ""

    # ------------------------------------------------------------ what the role calls

    async def assign(self, positions: Mapping[int, Position]) -> None:
        """Take over partitions; `positions` are those of the opened cursor, which begins where they say."""
        async with self._turn:
            await self._end_writing()
            await self._ledger.open_cursor(
                self._plan_cursor, {partition: at.next_offset for partition, at in positions.items()}
            )
            self._owned |= frozenset(positions)
            self._forget()
        self._changed.set()

    async def revoke(self, partitions: frozenset[int]) -> None:
        """Give partitions away. When it returns, nothing of them is being written here.

        What was gathered of them is dropped: nothing of it was written, and the next owner gathers it again. An
        open plan stays in the ledger, for any owner of one of its partitions to finish.
        """
        async with self._turn:
            await self._end_writing()
            self._owned -= partitions
            self._forget()
        self._changed.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Write until `stop` is set, then flush what was gathered and return.

        Failures of the store, ledger or stream are retried for ever, with back-off; the position stands still.

        Raises:
            StreamClosed: the stream was closed before `stop` was set.
        """
        try:
            while not stop.is_set():
                try:
                    async with self._turn:
                        busy = await self.step()
                    if not busy:
                        await self._wait(stop)
                except StreamClosed:
                    raise
                except _PASSING as error:
                    self._failed(error)
                    if isinstance(error, OSError):
                        async with self._turn:
                            await self._end_writing()
                            self._forget()  # of what is staged, part may be missing
                    await self._first(stop, self._clock.sleep(self._backoff_s()))
            await self._drain()
        finally:
            await self._leave_writing()
            self.close()

    async def flush_now(self) -> None:
        """Write everything that the log holds now, without waiting for size or age.

        Raises:
            BulkError, LedgerError, StreamError: it could not be done; nothing is lost, `run` or the next
                call goes on from there.
        """
        async with self._turn:
            bounds = await self._stream.bounds()
            while True:
                await self._be_able_to_gather()
                behind = any(self._next[partition] < bounds[partition].next for partition in self._next)
                if behind and not self._due() and not self._full():
                    await self._gather()
                elif self._writing is not None:
                    await self._collect()
                elif self._gathering.events:
                    await self._flush()
                elif not behind:
                    return

    async def written(self) -> None:
        """Wait until what is being written is in, and settled.

        Raises:
            BulkError, LedgerError, StreamError: it could not be done, see `flush_now`.
        """
        async with self._turn:
            await self._collect()

    def close(self) -> None:
        """Let go of temporary files, if it is not `run` to its end. What was not settled is taken up later."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        self._forget()

    def status(self) -> GathererStatus:
        """Return what it is doing."""
        return GathererStatus(
            partitions=tuple(sorted(self._owned)),
            gathered_events=self._gathering.events,
            gathered_bytes=self._gathering.length_bytes,
            open_plan=self._plan.id if self._plan is not None else "",
            flushes=self._flushes,
            files=self._files,
            written_events=self._written,
            last_flush_ms=self._last_flush_ms,
            failures=self._failures,
            error=self._error,
        )

    async def step(self) -> bool:
        """Do what can be done now: finish an open plan, read a gulp, begin to write what is due (see `written`). While
        nothing is being written, the writer sees to its upkeep.

        `run` calls it; callers that do so themselves must not run `run` beside it.

        Returns:
            Whether there may be more to do at once.
        """
        if self._writing is not None and self._writing.done():
            await self._collect()
        await self._be_able_to_gather()
        more = False
        if not self._due() and not self._full():
            more = await self._gather()
        is_due = self._due()
        if is_due:
            await self._collect()  # one plan at a time
            more = True
        if self._writing is None and _FIRST_PARTITION in self._owned:
            await self._writer.upkeep()
        # Somebody asked for a flush, and that was it; or the ledger has to be asked first.
        if is_due and self._known and self._due():
            await self._flush()
        self._failures = 0
        self._error = ""
        return more

    def _gather_from(self, starts: Mapping[int, int]) -> Gathering:
        return Gathering(self._writer.outcomes, self._writer.part, starts, self._staged)

    # ------------------------------------------------------------ where we stand

    def _forget(self) -> None:
        """What we believe of the ledger may be wrong: ask it before the next step. Nothing is being written."""
        self._known = False
        # Nobody knows of it, and it may not join on to where the ledger stands.
        self._leave_gathering({})
        self._leave_plan()

    def _leave_gathering(self, starts: Mapping[int, int]) -> None:
        self._gathering.close()
        self._gathering = self._gather_from(starts)
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = None

    def _leave_plan(self) -> None:
        if self._made is not None:
            self._made.close()
        self._made = None
        self._plan = None

    async def _be_able_to_gather(self) -> None:
        """Come to a state in which no plan is open in our partitions but the one that is being written."""
        while not self._known or (self._plan is not None and self._writing is None):
            if not self._known:
                await self._learn()
            if self._plan is not None:
                self._writing = asyncio.create_task(self._carry_out(self._plan))
                await self._collect()
                if self._taken_up:
                    # It was found, and in other partitions there may be another one.
                    self._forget()

    async def _learn(self) -> None:
        """Ask the ledger where we stand; take up a plan that is open in one of our partitions."""
        # The plan cursor first: the cursor itself, read later, is never behind the one that was read.
        plans = await self._ledger.positions(self._plan_cursor)
        settled = {
            partition: at.next_offset
            for partition, at in (await self._ledger.positions(self._cursor)).items()
        }
        planned = {partition: at.next_offset for partition, at in plans.items()}
        notes = {partition: read_note(at.note) for partition, at in plans.items()}
        if not self._owned <= settled.keys() & planned.keys():
            raise LedgerError(f"cursor {self._cursor} was forgotten while it is being written")
        plan: Plan | None = None
        for partition in sorted(self._owned):
            plan = open_plan(partition, settled, planned, notes)
            if plan is not None:
                break
            if settled[partition] != planned[partition]:
                await self._realign(partition, planned[partition], settled[partition])
                planned[partition] = settled[partition]
        # What was made and put belongs to one plan: begin afresh.
        self._leave_plan()
        if plan is not None:
            self._take_up(plan)
        self._sequences = {partition: notes[partition].sequence for partition in self._owned}
        self._gather_on({partition: planned[partition] for partition in self._owned})
        await self._hold_retention(settled)
        if not self._swept:
            # Of plans that are open anywhere, other workers' too.
            named = {
                notes[partition].plan_id
                for partition, at in planned.items()
                if settled.get(partition, at) < at
            }
            await asyncio.to_thread(self._sweep, named)
            self._swept = True

    def _gather_on(self, planned: Mapping[int, int]) -> None:
        """The ledger knows plans up to here: what comes next is gathered for another one."""
        self._planned = dict(planned)
        self._next = dict(planned)
        self._leave_gathering(self._planned)
        self._known = True

    def _sweep(self, named: Collection[str]) -> None:
        keep_s = _LEFT_BEHIND_S + 2 * self._limits.max_age_s
        removed = sweep(self._staged, named, before_ms=self._clock.now_ms() - round(keep_s * 1000))
        if removed:
            _log.info("staged events of a crash removed", destination=self._destination, files=removed)

    def _take_up(self, plan: Plan) -> None:
        self._plan, self._taken_up = plan, True
        _log.info("plan taken up", destination=self._destination, plan=plan.id)
        if plan.place != self._writer.place:
            _log.error(
                "the place was moved while a plan was open; what was written of it may be left in the old place",
                destination=self._destination,
                plan=plan.id,
                old_place=plan.place,
                place=self._writer.place,
            )

    async def _realign(self, partition: int, planned: int, settled: int) -> None:
        """Someone moved the cursor (a destination made anew under an old id): planning goes on from there."""
        _log.warning(
            "position was moved",
            destination=self._destination,
            partition=partition,
            planned=planned,
            settled=settled,
        )
        await self._ledger.settle(
            [
                Settlement(
                    cursor=self._plan_cursor, partition=partition, from_offset=planned, next_offset=settled
                ),
                Settlement(
                    cursor=self._cursor, partition=partition, from_offset=settled, next_offset=settled
                ),
            ]
        )

    async def _hold_retention(self, settled: Mapping[int, int]) -> None:
        # NotOwner (the partitions are on their way to another worker) is retried until `revoke` says which.
        await self._stream.commit(
            self._cursor, {partition: settled[partition] for partition in self._owned if partition in settled}
        )

    # ------------------------------------------------------------ gathering

    async def _gather(self) -> bool:
        """Read a gulp of each partition; say whether there was anything."""
        found = False
        for partition in sorted(self._owned):
            try:
                records = await self._stream.read(
                    partition, self._next[partition], max_records=_READ_RECORDS, max_bytes=_READ_BYTES
                )
            except OffsetGone as gone:
                await self._skip_gone(gone)
                return True
            if records:
                found = True
                verdicts = await self._judge(records)
                now = self._clock.monotonic()
                for record, verdict in zip(records, verdicts, strict=True):
                    self._gathering.add(record, verdict, now)
                self._next[partition] = records[-1].offset + 1
                await self._make_ahead(records, verdicts)
                # Rules are pure computation: let others have the loop between gulps.
                await asyncio.sleep(0)
        return found

    async def _make_ahead(self, records: Sequence[Record], verdicts: Sequence[Verdict]) -> None:
        if self._ahead is None and self._gathering.events == len(records):
            self._ahead = await asyncio.to_thread(self._writer.ahead)
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return
        written = [
            (record, verdict)
            for record, verdict in zip(records, verdicts, strict=True)
            if verdict.count.outcome in self._writer.outcomes
        ]
        try:
            await asyncio.to_thread(_add_ahead, ahead, written)
        except BaseException:
            # Part of them may be in: this batch is made when there is a plan.
            ahead.close()
            raise
        self._ahead = ahead

    def _due(self) -> bool:
        gathering = self._gathering
        if gathering.started_at is None:
            return False
        urgency = self._writer.urgency()
        if urgency != "when due":
            return urgency == "at once"
        return self._clock.monotonic() - gathering.started_at >= self._limits.max_age_s or self._full()

    def _full(self) -> bool:
        """Whether the batch is as large as it may be: what is made ahead of it lies on the disk."""
        gathering, limits = self._gathering, self._limits
        return (
            gathering.events >= limits.max_events
            or gathering.length_bytes >= limits.max_bytes
            or gathering.parts >= limits.max_parts
        )

    async def _skip_gone(self, gone: OffsetGone) -> None:
        """The hard limit of retention dropped records that were never written: go on after them, loudly.

        Only the operator's own limit does that; the stream counts the loss. Standing still would lose more.
        """
        _log.error(
            "events were dropped from the stream before they were written",
            destination=self._destination,
            partition=gone.partition,
            from_offset=self._next[gone.partition],
            to_offset=gone.earliest,
        )
        await self._end_writing()
        self._forget()
        planned = self._planned[gone.partition]
        if planned < gone.earliest:
            await self._ledger.settle(
                [
                    Settlement(
                        cursor=cursor,
                        partition=gone.partition,
                        from_offset=planned,
                        next_offset=gone.earliest,
                    )
                    for cursor in (self._plan_cursor, self._cursor)
                ]
            )

    # ------------------------------------------------------------ plan, write, settle

    async def _flush(self) -> None:
        """Plan what was gathered, and begin to write it. Nothing is being written."""
        sequence = 1 + max(self._sequences.values(), default=0)
        plan = self._gathering.plan(self._cursor, self._writer.place, self._writer.settings(), sequence)
        await asyncio.to_thread(self._gathering.seal, plan.id)
        notes = notes_of(plan)
        planning = [
            Settlement(
                cursor=self._plan_cursor,
                partition=item.partition,
                from_offset=item.from_offset,
                next_offset=item.to_offset,
                note=notes[item.partition],
            )
            for item in plan.ranges
        ]
        ahead, self._ahead = self._ahead, None
        planned = self._planned | {item.partition: item.to_offset for item in plan.ranges}
        sequences = self._sequences | {item.partition: plan.sequence for item in plan.ranges}
        # From here on the ledger is what counts, whatever happens to this call.
        self._forget()
        try:
            if plan.written == 0 and not plan.deaths:
                # Nothing to write: planned and settled in one step.
                await self._ledger.settle([*planning, *self._settlements(plan, ())])
                await self._done(plan)
                return
            await self._ledger.settle(planning)
            self._plan, self._made, self._taken_up, ahead = plan, ahead, False, None
        except Fenced:
            _log.warning("plan was made by another worker", destination=self._destination)
            return
        finally:
            if ahead is not None:
                ahead.close()
        self._sequences = sequences
        self._gather_on(planned)
        self._writing = asyncio.create_task(self._carry_out(plan))

    async def _carry_out(self, plan: Plan) -> None:
        """Write a plan's batch and settle it; may be repeated after any failure, by anyone."""
        if self._made is None:
            made = self._writer.begin(plan)
            try:
                deaths = await self._make(plan, made)
            except BaseException:
                made.close()
                raise
            self._made = made
        else:
            deaths = await self._make(plan, None) if plan.deaths else []
        await asyncio.to_thread(self._made.finish)
        self._files += await self._writer.write(plan, self._made)
        await self._ledger.settle(self._settlements(plan, deaths))

    async def _collect(self) -> None:
        """Wait for what is being written, if anything is, and take note of how it went.

        Raises:
            BulkError, LedgerError, StreamError, OSError: it failed; if `_plan` is still there, it is to be tried again.
        """
        if self._writing is None or self._plan is None:
            return
        plan = self._plan
        # If we are cancelled, it goes on: `close` is who ends it.
        await asyncio.wait([self._writing])
        writing, self._writing = self._writing, None
        try:
            writing.result()
        except Fenced:
            _log.info("plan was settled by another worker", destination=self._destination, plan=plan.id)
            self._forget()
        except PlanBroken:
            # Or it was settled by another worker, who then removed what was staged: the ledger knows.
            self._forget()
            raise
        except OffsetGone as gone:
            self._forget()
            await self._abandon(plan, gone)
        else:
            self._leave_plan()
            await self._done(plan)
            await self._hold_retention({item.partition: item.to_offset for item in plan.ranges})

    async def _end_writing(self) -> None:
        """Wait for what is being written, however it goes: if it fails, whoever owns its partitions takes it up."""
        try:
            await self._collect()
        except Exception as error:  # noqa: BLE001 - a bug, too: it is met again, by whoever has to do with it
            self._failed(error)

    async def _leave_writing(self) -> None:
        """Stop what is being written, in the middle if need be."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _make(self, plan: Plan, made: Making | None) -> list[DeadLetter]:
        """Read a plan's records again and make its batch; return its dead letters.

        Args:
            made: None: for the dead letters alone.
        """
        buried: list[DeadLetter] = []
        for item in plan.ranges:
            if not item.staged or made is None:
                buried += await self._make_range(plan, item, made, None)
                continue
            with closing(StagedReader(self._staged, plan.id, item.partition, item.staged)) as staged:
                buried += await self._make_range(plan, item, made, staged)
                await asyncio.to_thread(staged.finish)
        return buried

    async def _make_range(
        self, plan: Plan, item: Range, made: Making | None, staged: StagedReader | None
    ) -> list[DeadLetter]:
        deaths = {death.offset: death for death in plan.deaths if death.partition == item.partition}
        buried: list[DeadLetter] = []
        skipped = BitMap.deserialize(item.skipped)
        digest = xxhash.xxh3_128()
        offset = item.from_offset
        while offset < item.to_offset:
            records = await self._stream.read(
                item.partition,
                offset,
                max_records=min(_WRITE_RECORDS, item.to_offset - offset),
                max_bytes=_READ_BYTES,
            )
            if not records:
                raise PlanBroken(
                    f"partition {item.partition}: the log ends at {offset}, planned to {item.to_offset}"
                )
            offset = records[-1].offset + 1
            records = [record for record in records if record.offset < item.to_offset]
            for record in records:
                digest.update(record.value)
                death = deaths.get(record.offset)
                if death is not None:
                    buried.append(self._dead_letter(record, death))
            if made is not None:
                await asyncio.to_thread(_add, made, item, skipped, records, staged)
        if digest.digest() != item.digest:
            raise PlanBroken(
                f"partition {item.partition}, offsets {item.from_offset} to {item.to_offset}: the log gives "
                "other records than were planned"
            )
        return buried

    def _settlements(self, plan: Plan, deaths: Sequence[DeadLetter]) -> list[Settlement]:
        return [
            Settlement(
                cursor=self._cursor,
                partition=item.partition,
                from_offset=item.from_offset,
                next_offset=item.to_offset,
                counts=dict(plan.counts) if item.partition == plan.lead else {},
                bury=deaths if item.partition == plan.lead else (),
            )
            for item in plan.ranges
        ]

    async def _done(self, plan: Plan) -> None:
        """Take note that a plan is settled, by us."""
        await self._discard(plan)
        await self._writer.settled(plan)
        self._flushes += 1
        self._written += plan.written
        self._last_flush_ms = self._clock.now_ms()
        for key, count in plan.counts:
            metrics.OUTCOMES.labels(key.source_id, self._destination, key.outcome, key.reason).inc(count)

    async def _discard(self, plan: Plan) -> None:
        """Remove what was staged for a plan that is settled."""
        for item in plan.ranges:
            if item.staged:
                path = path_of(self._staged, plan.id, item.partition)
                await asyncio.to_thread(path.unlink, missing_ok=True)

    async def _abandon(self, plan: Plan, gone: OffsetGone) -> None:
        """The hard limit of retention dropped records of an open plan: it can't be carried out any more."""
        _log.error(
            "events of an open plan were dropped from the stream; parts of it may be missing",
            destination=self._destination,
            plan=plan.id,
            partition=gone.partition,
            earliest=gone.earliest,
        )
        await self._ledger.settle(
            [
                Settlement(
                    cursor=self._cursor,
                    partition=item.partition,
                    from_offset=item.from_offset,
                    next_offset=item.to_offset,
                )
                for item in plan.ranges
            ]
        )
        await self._discard(plan)

    def _dead_letter(self, record: Record, death: Death) -> DeadLetter:
        try:
            stored = decode_stored(record.value)
        except (msgspec.DecodeError, msgspec.ValidationError):
            stored = StoredEvent("", "", "", record.timestamp_ms, b"")
        return DeadLetter(
            cursor=self._cursor,
            destination_id=self._destination,
            key=record.key.decode("utf-8", "replace"),
            sequence=record.sequence,
            partition=record.partition,
            offset=record.offset,
            value=record.value,
            source_id=stored.source_id,
            message_id=stored.message_id,
            event_type=stored.type,
            event_name="",
            received_at_ms=stored.received_at_ms,
            died_at_ms=self._clock.now_ms(),
            reason=death.reason,
            answer=death.detail,
        )

    # ------------------------------------------------------------ waiting

    async def _drain(self) -> None:
        """Write what was gathered, once; what fails is taken up by the next start."""
        try:
            async with self._turn:
                if self._plan is not None or self._gathering.events:
                    await self._collect()
                    await self._be_able_to_gather()
                    if self._gathering.events:
                        await self._flush()
                        await self._collect()
        except _PASSING as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        self._error = f"{type(error).__name__}: {error}"
        _log.warning(
            "batch failed", destination=self._destination, error=self._error, failures=self._failures
        )

    def _backoff_s(self) -> float:
        ceiling = min(_BACKOFF_MAX_S, _BACKOFF_BASE_S * 2 ** min(self._failures, 10))
        return self._chance.uniform(0, ceiling)

    async def _wait(self, stop: asyncio.Event) -> None:
        """Wait until there is something to read, or a flush is due, or someone wants something."""
        if not self._owned:
            await self._first(stop, self._clock.sleep(_IDLE_S))
        elif self._gathering.started_at is None and self._limits.max_age_s < _LINGER_S:
            await self._first(stop, self._stream.wait(dict(self._next), timeout_s=_IDLE_S))
        elif self._gathering.started_at is None:
            # Who may gather for a minute need not be woken at once, and looking once a second costs less.
            await self._first(stop, self._clock.sleep(_LINGER_S))
        else:
            left_s = self._gathering.started_at + self._limits.max_age_s - self._clock.monotonic()
            # What is over its time and not written is not to be written now.
            await self._first(stop, self._clock.sleep(min(left_s, _LINGER_S) if left_s > 0 else _LINGER_S))

    async def _first(self, stop: asyncio.Event, waited_for: Coroutine[Any, Any, object]) -> None:
        """Wait for `waited_for`, `stop`, a change of partitions or the end of a write, whichever comes first."""
        waited = asyncio.ensure_future(waited_for)
        others = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(self._changed.wait())]
        written = [self._writing] if self._writing is not None else []
        try:
            await asyncio.wait([waited, *others, *written], return_when=asyncio.FIRST_COMPLETED)
        finally:
            unfinished = [task for task in (waited, *others) if not task.done()]
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)
        self._changed.clear()
        if not waited.cancelled():
            waited.result()


def _add(
    made: Making,
    item: Range,
    skipped: BitMap,
    records: Iterable[Record],
    staged: StagedReader | None,
) -> None:
    def planned() -> Iterator[Planned]:
        for record in records:
            if record.offset - item.from_offset in skipped:
                continue
            instead = staged.of(record.offset) if staged is not None else None
            if instead is None:
                yield decode_stored(record.value), record.partition, record.offset, record.sequence, None
            else:
                for event in instead:
                    yield event, record.partition, record.offset, record.sequence, None

    made.add(planned())


def _add_ahead(made: Making, decided: Iterable[tuple[Record, Verdict]]) -> None:
    def planned() -> Iterator[Planned]:
        for record, verdict in decided:
            if verdict.instead is not None:
                for event in verdict.instead:
                    yield event, record.partition, record.offset, record.sequence, None
            else:
                stored = verdict.stored or decode_stored(record.value)
                yield stored, record.partition, record.offset, record.sequence, verdict.event

    made.add(planned())
