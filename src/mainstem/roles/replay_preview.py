"""What a replay would send, before anything is sent: counts, reasons and samples, by the very same rules."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, closing
from typing import Any, Final

import msgspec

from mainstem.clock import Clock, iso_from_ms
from mainstem.destinations.catalog import find_spec
from mainstem.errors import SettingsError
from mainstem.events.canonical import Event
from mainstem.events.stored import encode_stored
from mainstem.lake.open import open_archive
from mainstem.lake.reader import events_of
from mainstem.ledger.base import Replay
from mainstem.pipeline.decode import Decoder
from mainstem.pipeline.explain import explain_one
from mainstem.pipeline.judge import Judge, judge_by
from mainstem.pipeline.outcome import Dead, Filtered, Outcome, Refused, Send
from mainstem.pipeline.plan import compile_plan
from mainstem.pipeline.reading import MergedReader, SharedReader, decode_with
from mainstem.pipeline.transform import Chains
from mainstem.roles.replays import OUTSIDE, narrow_to
from mainstem.roles.rooms import open_geo, open_the_stream, open_the_workspace
from mainstem.roles.sandboxes import open_transformer, tools_of
from mainstem.settings import Settings
from mainstem.stream.base import Stream
from mainstem.workspace.model import Workspace

_SAMPLES: Final = 3
_BATCH_EVENTS: Final = 100
_REPORT_EVERY: Final = 1000


class Preview(msgspec.Struct, kw_only=True):
    """What a replay would do."""

    read: int = 0
    """Events received in the time asked for."""
    would_send: int = 0
    not_sent: dict[str, int] = msgspec.field(default_factory=dict)
    """Why, and how many."""
    by_event: dict[str, int] = msgspec.field(default_factory=dict)
    """Events that would be sent, by type and name, most first."""
    samples: list[Any] = msgspec.field(default_factory=list)
    """The first of them with the exact requests, secrets hidden."""
    missing_before: str = ""
    """The stream holds events only since then, which is later than asked for; empty if it holds all."""


async def preview_replay(
    settings: Settings, clock: Clock, replay: Replay, stack: AsyncExitStack, on_read: Callable[[int], None]
) -> Preview:
    """Read what the replay would read and judge it by the same rules.

    Raises:
        SettingsError: the destination or the archive is not in the workspace.
        ExpressionInvalid: the filter does not compile.
        PlanInvalid: the destination's rules do not compile.
        SandboxUnavailable: its transformations can't run here.
    """
    workspace = await (await open_the_workspace(settings, clock, stack)).current()
    destination = workspace.destination(replay.destination_id)
    if destination is None:
        known = ", ".join(item.id for item in workspace.destinations)
        raise SettingsError(f"--destination {replay.destination_id}: not in the workspace; there are {known}")
    spec = find_spec(destination.type)
    if spec is None or spec.kind == "files":
        raise SettingsError(
            f"--destination {destination.id}: an archive holds every event exactly once already"
        )
    if spec.kind == "tables":
        raise SettingsError(
            f"--destination {destination.id}: history goes into a warehouse by `mainstem warehouse backfill`"
        )
    geo = open_geo(settings, stack)
    plan = compile_plan(workspace, destination, spec, Chains(workspace, tools_of(geo)))
    transformer = open_transformer(settings, clock, geo, stack)
    judge = judge_by(plan, transformer, narrow=narrow_to(replay), share=False)
    decoder = Decoder(workspace.sources, geo)
    found = Preview()
    if replay.origin == "archive":
        events = _from_archive(settings, replay, workspace, decoder)
    else:
        stream = await open_the_stream(settings, clock, stack)
        found.missing_before = await _missing(stream, replay)
        events = _from_stream(stream, replay, decoder)
    names: Counter[str] = Counter()
    async for event, outcome in _judged(events, judge):
        if outcome is OUTSIDE:
            continue
        found.read += 1
        if found.read % _REPORT_EVERY == 0:
            on_read(found.read)
        match outcome:
            case Send():
                found.would_send += 1
                names[f"{event.type} {event.name}".strip()] += 1
                if len(found.samples) < _SAMPLES:
                    found.samples.append(msgspec.to_builtins(await explain_one(event, plan, transformer)))
            case Filtered(rule=rule):
                found.not_sent[rule] = found.not_sent.get(rule, 0) + 1
            case Refused(reason=reason) | Dead(reason=reason):
                found.not_sent[reason] = found.not_sent.get(reason, 0) + 1
    found.by_event = dict(names.most_common())
    return found


async def _judged(events: AsyncIterator[Event], judge: Judge) -> AsyncIterator[tuple[Event, Outcome]]:
    batch: list[Event] = []
    async for event in events:
        batch.append(event)
        if len(batch) == _BATCH_EVENTS:
            for judged in zip(batch, await judge(batch), strict=True):
                yield judged
            batch = []
    for judged in zip(batch, await judge(batch), strict=True):
        yield judged


async def _missing(stream: Stream, replay: Replay) -> str:
    """Return since when the stream holds events, if it has dropped some of the time asked for."""
    oldest_ms = 0
    for partition, at in (await stream.bounds()).items():
        if at.earliest > 0:
            records = await stream.read(partition, at.earliest, max_records=1, max_bytes=1)
            if records and records[0].timestamp_ms > replay.from_ms:
                oldest_ms = max(oldest_ms, records[0].timestamp_ms)
    return iso_from_ms(oldest_ms) if oldest_ms else ""


async def _from_stream(stream: Stream, replay: Replay, decoder: Decoder) -> AsyncIterator[Event]:
    bounds = await stream.bounds()
    end = {partition: at.next for partition, at in bounds.items()}
    merged = MergedReader(SharedReader(stream, decode_with(decoder)), stream)
    merged.assign(
        {
            partition: max(at.earliest, await stream.offset_at(partition, replay.from_ms))
            for partition, at in bounds.items()
        }
    )
    while batch := await merged.next(end=end):
        for decoded in batch:
            yield decoded.event


async def _from_archive(
    settings: Settings, replay: Replay, workspace: Workspace, decoder: Decoder
) -> AsyncIterator[Event]:
    archive = workspace.destination(replay.archive_destination_id)
    spec = find_spec(archive.type) if archive is not None else None
    if archive is None or spec is None or spec.kind != "files":
        raise SettingsError(
            f"--from-archive {replay.archive_destination_id}: not an archive of the workspace"
        )
    reader = await asyncio.to_thread(open_archive, archive.config, settings.data_path)
    with closing(reader):
        number = 0
        async for archived in events_of(reader, from_ms=replay.from_ms, to_ms=replay.to_ms):
            number += 1
            yield decoder.decode(0, number, number, encode_stored(archived.event))[1]
