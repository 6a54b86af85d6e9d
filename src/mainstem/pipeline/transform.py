"""Transform: the chain of transformations between the rules and the mapping, run once for all who share it.

rules -> **transform** -> mapping. A connection's transformations come first, then the destination's. What one
gives goes into the next. Ready-made ones are pure and run here; user code runs in a sandbox, in batches.

Chains of one snapshot share their beginnings: two destinations whose chains begin with the same versions share
those links, and what a link made of an event is kept for a while, so that it runs once. Where the code looked
at the destination, each destination has its own result.

What comes out has a messageId that a retry finds again: a message keeps the id that the code gave it, if no
earlier one of the same event has it; else it gets the event's own id, or `<id>:<n>` for the n-th, from 0.
"""

import asyncio
import traceback
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import PurePath
from typing import Any, Final, Literal, Protocol

import msgspec

from mainstem.clock import Clock
from mainstem.events.canonical import Event, id_text, iso_text
from mainstem.pipeline.outcome import Dead, Filtered
from mainstem.telemetry import metrics
from mainstem.telemetry.log import logger
from mainstem.transformations.base import (
    About,
    BatchRun,
    Change,
    Dropped,
    Failed,
    Given,
    Kept,
    Result,
    Runtime,
    SandboxUnavailable,
)
from mainstem.transformations.ready.base import NO_TOOLS, Tools
from mainstem.transformations.ready.catalog import change_for
from mainstem.workspace.model import Connection, Destination, Source, Transformation, Workspace

_log = logger(__name__)

_RUNS_AT_ONCE: Final = 4
"""Batches of one link under way for one caller."""
_CHANGES_AT_ONCE: Final = 50
"""Ready-made changes without letting others have the loop."""
_KEPT_RESULTS: Final = 8_192
_KEPT_BYTES: Final = 32 * 1024 * 1024


class Chain:
    """A transformation behind the chain before it. Made by `Chains`; the same object for all who share it."""

    __slots__ = ("before", "change", "runs_code", "sees_destination", "transformation", "users")

    def __init__(self, before: "Chain | None", transformation: Transformation, change: Change | None) -> None:
        self.before = before
        self.transformation = transformation
        self.change = change
        """None = user code."""
        self.runs_code: bool = change is None or (before is not None and before.runs_code)
        self.users: set[str] = set()
        """Ids of the destinations whose chains begin with this one."""
        self.sees_destination = False
        """Whether its code, or that of a chain before it, ever looked at the destination."""

    @property
    def links(self) -> tuple["Chain", ...]:
        """Itself behind everything before it."""
        return (*(self.before.links if self.before is not None else ()), self)


class UnknownTransformation(LookupError):
    """A connection or destination names a transformation that the workspace does not have; the text says which."""


class Chains:
    """The chains of one snapshot."""

    def __init__(self, workspace: Workspace, tools: Tools = NO_TOOLS) -> None:
        """
        Args:
            tools: what the operator provides to ready-made transformations.
        """
        self._workspace = workspace
        self._tools = tools
        self._made: dict[tuple[str, ...], Chain] = {}

    def of(self, connection: Connection, destination: Destination) -> Chain | None:
        """Return what stands between the two; None if nothing does.

        Raises:
            UnknownTransformation: there is no transformation of a name.
        """
        ids = connection.transformations + destination.transformations
        chain: Chain | None = None
        for end in range(1, len(ids) + 1):
            chain = self._made.get(ids[:end]) or self._link(chain, ids[:end])
            chain.users.add(destination.id)
        return chain

    def _link(self, before: Chain | None, ids: tuple[str, ...]) -> Chain:
        transformation = self._workspace.transformation(ids[-1])
        if transformation is None:
            raise UnknownTransformation(f"transformation {ids[-1]} is not in the workspace")
        change: Change | None = None
        if transformation.kind == "ready":
            try:
                change = change_for(transformation, self._tools)
            except KeyError:
                problem = f"transformation {ids[-1]}: there is no ready-made `{transformation.ready}`"
                raise UnknownTransformation(problem) from None
        chain = self._made[ids] = Chain(before, transformation, change)
        return chain


class Surface(msgspec.Struct, frozen=True):
    """Between which two an event is transformed: what `metadata(event)` tells of them."""

    destination_id: str
    metadata: Mapping[str, Any]
    """The fields that are the same for all events; see `surface`."""


def surface(workspace: Workspace, source: Source, destination: Destination) -> Surface:
    """Return the metadata of a connection, by RudderStack's names."""
    return Surface(
        destination.id,
        {
            "workspaceId": workspace.id,
            "sourceId": source.id,
            "originalSourceId": source.id,
            "sourceName": source.name,
            "sourceType": source.type,
            "sourceCategory": "webhook" if source.webhook is not None else source.type,
            "destinationId": destination.id,
            "destinationName": destination.name,
            "destinationType": destination.type,
        },
    )


class Made(msgspec.Struct, frozen=True):
    """What a chain made of an event."""

    messages: tuple[dict[str, Any], ...]
    """Not empty, unless there is an `end`."""
    end: Filtered | Dead | None = None
    """Why it does not go on."""
    saw_destination: bool = False


class Applied(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What one transformation did with an event, for people."""

    transformation: str
    """Its id, `NAME@VERSION`."""
    result: Literal["unchanged", "changed", "expanded", "dropped", "failed"]
    events: int
    """How many go on."""
    reason: str = ""
    """Why it failed."""
    logs: tuple[str, ...] = ()
    """What the code logged."""


def transformed(event: Event, message: dict[str, Any]) -> Event:
    """Return the event with another message: place, time and stored bytes stay, the rest is read again."""
    if message is event.message:
        return event
    kind = message.get("type")
    event_type = kind if isinstance(kind, str) else ""
    name = message.get("event") if event_type == "track" else message.get("name")
    return Event(
        message=message,
        source_id=event.source_id,
        message_id=id_text(message.get("messageId")),
        type=event_type,
        name=name if isinstance(name, str) else "",
        user_id=id_text(message.get("userId")),
        anonymous_id=id_text(message.get("anonymousId")),
        received_at_ms=event.received_at_ms,
        raw=event.raw,
        partition=event.partition,
        offset=event.offset,
        sequence=event.sequence,
    )


_Place = tuple[Chain, int, int, str]
"""Chain, partition, offset, and the destination where the chain looks at it."""
_Coming = asyncio.Future[tuple[Made, str]]
"""What is being made, and for which destination."""


class Sandboxes(Runtime, Protocol):
    """A runtime that can be made ready before it is needed."""

    async def prepare(self, transformation: Transformation) -> None:
        """Start what the first batch would wait for.

        Raises:
            SandboxUnavailable: the machine can't run it now.
        """
        ...


class Transformer:
    """Runs chains. One a process, shared by all flows, so that a chain runs once per event."""

    def __init__(self, runtime: Sandboxes, clock: Clock, *, most_warm: int = 8) -> None:
        """
        Args:
            most_warm: versions that are warmed up at most; more would end one another's sandboxes.
        """
        self._runtime = runtime
        self._clock = clock
        self._most_warm = most_warm
        self._warm: frozenset[str] = frozenset()
        self._troubles: dict[str, str] = {}
        """By version: why it can't be run now."""
        self._kept: OrderedDict[_Place, tuple[Made, int]] = OrderedDict()
        self._kept_bytes = 0
        self._coming: dict[_Place, _Coming] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def apply(
        self, chain: Chain, events: Sequence[Event], between: Surface, *, share: bool = True
    ) -> Sequence[Made]:
        """Return what the chain makes of each event, in the same order.

        Args:
            share: take and leave results by the events' places in the log; False where partition and offset
                are not those of the log.

        Raises:
            SandboxUnavailable: user code can't be run now; the events have to wait.
        """
        if not share or len(chain.users) < 2:
            return await self._make(chain, events, between, share=share)
        return await self._shared(chain, events, between)

    async def trace(self, chain: Chain, event: Event, between: Surface) -> tuple[Made, Sequence[Applied]]:
        """Return what the chain makes of one event, and link by link how it came to that, logs included.

        Raises:
            SandboxUnavailable: user code can't be run now.
        """
        made = Made((event.message,))
        told: list[Applied] = []
        for link in chain.links:
            before = made.messages
            (made,), logs = await self._link(link, [event], [made], between, logs=True)
            told.append(_applied(link.transformation, before, made, logs))
            if made.end is not None:
                break
        return made, told

    async def warm_up(self, transformations: Iterable[Transformation], *, timeout_s: float) -> None:
        """Make versions ready that were not in the last snapshot, before events need them.

        What is not ready in time goes on in the background; what can't be made ready is left to its first batch.
        """
        code = {item.id: item for item in transformations if item.kind != "ready"}
        fresh = [item for item in code.values() if item.id not in self._warm][: self._most_warm]
        self._warm = frozenset(code)
        self._troubles = {key: why for key, why in self._troubles.items() if key in code}
        if not fresh:
            return
        tasks = [asyncio.create_task(self._prepare(item)) for item in fresh]
        for task in tasks:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await asyncio.wait(tasks, timeout=timeout_s)

    async def _prepare(self, transformation: Transformation) -> None:
        try:
            await self._runtime.prepare(transformation)
        except SandboxUnavailable as error:
            self._troubles[transformation.id] = str(error)
            _log.error("a sandbox can't be made ready", transformation=transformation.id, error=str(error))

    @property
    def troubles(self) -> Mapping[str, str]:
        """Why versions of user code can't be run now, by their ids; empty while all can."""
        return self._troubles

    async def close(self) -> None:
        """End what is under way; who waits for it is told that the sandbox is unavailable."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------ once for all

    async def _shared(self, chain: Chain, events: Sequence[Event], between: Surface) -> Sequence[Made]:
        found: dict[int, Made] = {}
        todo: Iterable[int] = range(len(events))
        while todo:
            waits = self._take_or_begin(chain, events, todo, between, found)
            if waits:
                await asyncio.wait(set(waits.values()))
            todo = []
            for index, future in waits.items():
                made, destination_id = future.result()
                if made.saw_destination and destination_id != between.destination_id:
                    # Made for another destination. The chain is known for that now: next time it is ours.
                    todo.append(index)
                else:
                    found[index] = made
        return [found[index] for index in range(len(events))]

    def _take_or_begin(
        self,
        chain: Chain,
        events: Sequence[Event],
        wanted: Iterable[int],
        between: Surface,
        found: dict[int, Made],
    ) -> dict[int, _Coming]:
        """Put what is kept into `found`, begin with what nobody has begun with; return what is to be waited for."""
        waits: dict[int, _Coming] = {}
        mine: dict[_Place, Event] = {}
        whose = between.destination_id if chain.sees_destination else ""
        loop = asyncio.get_running_loop()
        for index in wanted:
            event = events[index]
            place = (chain, event.partition, event.offset, whose)
            kept = self._kept.get(place)
            if kept is not None:
                found[index] = kept[0]
                continue
            coming = self._coming.get(place)
            if coming is None:
                coming = self._coming[place] = loop.create_future()
                mine[place] = event
            waits[index] = coming
        if mine:
            # A task of its own: who asked may be cancelled while others wait for the same.
            task = asyncio.create_task(self._fill(chain, mine, between))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return waits

    async def _fill(self, chain: Chain, mine: Mapping[_Place, Event], between: Surface) -> None:
        error: BaseException
        try:
            made = await self._make(chain, list(mine.values()), between, share=True)
        except asyncio.CancelledError:
            error = SandboxUnavailable("the process is stopping")
        except Exception as trouble:  # noqa: BLE001 - it is everybody's who waits
            error = trouble
        else:
            for (place, event), one in zip(mine.items(), made, strict=True):
                self._coming.pop(place).set_result((one, between.destination_id))
                if one.saw_destination:
                    chain.sees_destination = True
                    place = (chain, event.partition, event.offset, between.destination_id)
                self._keep(place, one, len(event.raw))
            return
        for place in mine:
            coming = self._coming.pop(place)
            coming.set_exception(error)
            coming.exception()  # whoever waited may be gone

    def _keep(self, place: _Place, made: Made, raw_bytes: int) -> None:
        size = raw_bytes * max(1, len(made.messages))
        if place not in self._kept:
            self._kept[place] = (made, size)
            self._kept_bytes += size
        while len(self._kept) > _KEPT_RESULTS or self._kept_bytes > _KEPT_BYTES:
            _, (_, gone) = self._kept.popitem(last=False)
            self._kept_bytes -= gone

    # ------------------------------------------------------------ link by link

    async def _make(
        self, chain: Chain, events: Sequence[Event], between: Surface, *, share: bool
    ) -> Sequence[Made]:
        if chain.before is None:
            before: Sequence[Made] = [Made((event.message,)) for event in events]
        else:
            before = await self.apply(chain.before, events, between, share=share)
        made, _ = await self._link(chain, events, before, between)
        return made

    async def _link(
        self,
        chain: Chain,
        events: Sequence[Event],
        before: Sequence[Made],
        between: Surface,
        *,
        logs: bool = False,
    ) -> tuple[Sequence[Made], tuple[str, ...]]:
        """Run one transformation over what those before it made."""
        into = [
            (event, message, event.message_id if len(made.messages) == 1 else f"{event.message_id}:{number}")
            for event, made in zip(events, before, strict=True)
            for number, message in enumerate(made.messages)
        ]
        told: list[str] = []
        saw = False
        if chain.change is not None:
            results = await _changed(chain.change, into)
        else:
            results = []
            for run in await self._run(chain.transformation, into, between, logs=logs):
                results += run.results
                told += run.logs
                saw = saw or run.saw_destination
        left = iter(results)
        out = [
            one
            if one.end is not None
            else _joined(
                chain.transformation,
                event,
                list(islice(left, len(one.messages))),
                saw=saw or one.saw_destination,
            )
            for event, one in zip(events, before, strict=True)
        ]
        _count(chain.transformation.name, before, out)
        return out, tuple(told)

    async def _run(
        self,
        transformation: Transformation,
        into: Sequence[tuple[Event, dict[str, Any], str]],
        between: Surface,
        *,
        logs: bool,
    ) -> Sequence[BatchRun]:
        same = {
            **between.metadata,
            "transformationId": transformation.name,
            "transformationVersionId": transformation.version,
        }
        given = [
            Given(message, _metadata(same, event, message), seed, event.received_at_ms)
            for event, message, seed in into
        ]
        size = transformation.limits.batch_events
        batches = [given[start : start + size] for start in range(0, len(given), size)]
        runs: list[BatchRun] = []
        for start in range(0, len(batches), _RUNS_AT_ONCE):
            ended = await asyncio.gather(
                *(
                    self._timed(transformation, batch, logs=logs)
                    for batch in batches[start : start + _RUNS_AT_ONCE]
                ),
                return_exceptions=True,
            )
            for run in ended:
                if isinstance(run, BaseException):
                    raise run
                runs.append(run)
        return runs

    async def _timed(self, transformation: Transformation, batch: Sequence[Given], *, logs: bool) -> BatchRun:
        began = self._clock.monotonic()
        try:
            run = await self._runtime.run(transformation, batch, logs=logs)
        except SandboxUnavailable as error:
            self._troubles[transformation.id] = str(error)
            raise
        self._troubles.pop(transformation.id, None)
        metrics.TRANSFORMATION_SECONDS.labels(transformation.name).observe(self._clock.monotonic() - began)
        return run


def _metadata(same: Mapping[str, Any], event: Event, message: Mapping[str, Any]) -> Mapping[str, Any]:
    name = message.get("event")
    return {
        **same,
        "messageId": message.get("messageId"),
        "eventName": name if isinstance(name, str) else "",
        "eventType": message.get("type"),
        "receivedAt": iso_text(event.received_at_ms),
    }


async def _changed(change: Change, into: Sequence[tuple[Event, dict[str, Any], str]]) -> list[Result]:
    results: list[Result] = []
    for number, (event, message, message_id) in enumerate(into, 1):
        about = About(event.source_id, message_id, event.key, event.received_at_ms)
        try:
            results.append(change(message, about))
        except MemoryError:
            raise  # the machine's trouble, not the event's
        except Exception as error:  # noqa: BLE001 - a bug met by one event must not stop the loop, nor lose the event
            results.append(Failed(_bug(error)))
        if number % _CHANGES_AT_ONCE == 0:
            await asyncio.sleep(0)
    return results


def _bug(error: Exception) -> str:
    # The class and the place, never the text: it may quote the event.
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    place = f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


def _joined(transformation: Transformation, event: Event, results: Sequence[Result], *, saw: bool) -> Made:
    """Put together what became of the messages of one event."""
    messages: list[dict[str, Any]] = []
    for result in results:
        match result:
            case Kept(messages=kept):
                messages += kept
            case Failed(reason=reason):
                # Nothing of it goes on: half an event at a destination could not be repaired.
                return Made((), Dead(f"transformation {transformation.name} failed", reason), saw)
            case Dropped():
                pass
    if not messages:
        return Made((), Filtered(f"dropped by transformation {transformation.name}"), saw)
    return Made(_identified(messages, event.message_id), None, saw)


def _identified(messages: Sequence[dict[str, Any]], message_id: str) -> tuple[dict[str, Any], ...]:
    """Give every message an id of its own that a retry gives it again; see the module's text."""
    used: set[str] = set()
    done: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        given = message.get("messageId")
        wanted = id_text(given)
        if not wanted or wanted in used:
            wanted = message_id if message_id not in used else f"{message_id}:{number}"
            while wanted in used:
                wanted += f":{number}"
        used.add(wanted)
        done.append(message if wanted == given else {**message, "messageId": wanted})
    return tuple(done)


def _count(name: str, before: Sequence[Made], after: Sequence[Made]) -> None:
    counts: Counter[str] = Counter(
        _word(one.messages, made) for one, made in zip(before, after, strict=True) if one.end is None
    )
    for result, events in counts.items():
        metrics.TRANSFORMED.labels(name, result).inc(events)


def _word(
    before: Sequence[Mapping[str, Any]], made: Made
) -> Literal["kept", "expanded", "dropped", "failed"]:
    if isinstance(made.end, Dead):
        return "failed"
    if made.end is not None:
        return "dropped"
    return "expanded" if len(made.messages) > len(before) else "kept"


def _applied(
    transformation: Transformation, before: Sequence[Mapping[str, Any]], made: Made, logs: tuple[str, ...]
) -> Applied:
    word = _word(before, made)
    return Applied(
        transformation=transformation.id,
        result=word if word != "kept" else "unchanged" if list(made.messages) == list(before) else "changed",
        events=len(made.messages),
        reason=made.end.detail if isinstance(made.end, Dead) else "",
        logs=logs,
    )
