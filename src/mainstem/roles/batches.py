"""The flow of a destination that takes batches: files of an archive or lake, tables of a warehouse.

reading -> judge (rules, transformations) -> **batch flow** -> gatherer -> writer. What differs between files and tables
is the writer; everything else is the same loop.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from mainstem.bulk.gatherer import Gatherer
from mainstem.bulk.plan import Verdict
from mainstem.bulk.writer import Writer
from mainstem.destinations.kit.body import json_bytes
from mainstem.events.canonical import Event
from mainstem.events.stored import StoredEvent
from mainstem.lake.open import addresses, open_writer
from mainstem.ledger.base import HOUR_MS, CountKey, Position
from mainstem.pipeline.decode import Decoder
from mainstem.pipeline.judge import judge_by
from mainstem.pipeline.outcome import (
    DEAD,
    DELIVERED,
    FILTERED,
    REJECTED,
    Dead,
    Filtered,
    Outcome,
    Refused,
    Send,
)
from mainstem.pipeline.plan import DestinationPlan
from mainstem.roles.runner import reason_class
from mainstem.roles.surroundings import FlowRefused, Surroundings
from mainstem.stream.base import Record, StreamClosed
from mainstem.telemetry.log import logger

_log = logger(__name__)

_RETRY_S: Final = 5.0


def spool_of(data_dir: Path) -> Path:
    """Return where batches are made and kept until they are written."""
    folder = data_dir / "spool"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class BatchFlow:
    """A destination that is written to in batches."""

    def __init__(self, plan: DestinationPlan, around: Surroundings, writer: Writer) -> None:
        destination = plan.destination
        self._kind = plan.spec.kind
        self._destination_id = destination.id
        self._transformer = around.transformer
        self._judge = judge_by(plan, around.transformer)
        self._reader = around.reader
        self._clock = around.clock
        self._gatherer = Gatherer(
            cursor=destination.id,
            destination=destination.id,
            writer=writer,
            stream=around.stream,
            ledger=around.ledger,
            clock=around.clock,
            judge=self._verdicts,
            spool_dir=spool_of(around.data_dir),
        )
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def replace_plan(self, plan: DestinationPlan, decoder: Decoder) -> None:
        self._judge = judge_by(plan, self._transformer)

    async def assign(self, positions: Mapping[int, Position]) -> None:
        await self._gatherer.assign(positions)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"batches {self._destination_id}")

    async def revoke(self, partitions: frozenset[int]) -> None:
        await self._gatherer.revoke(partitions)

    async def drain(self, timeout_s: float) -> None:
        self._stop.set()
        if self._task is not None:
            # What is not flushed in time is gathered again by the next owner: nothing is lost.
            done, _ = await asyncio.wait([self._task], timeout=timeout_s)
            if not done:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)

    def status(self) -> Any:
        return {"kind": self._kind, **msgspec.to_builtins(self._gatherer.status())}

    async def _run(self) -> None:
        while not self._stop.is_set():
            try:
                await self._gatherer.run(self._stop)
            except StreamClosed:
                return
            except Exception:  # noqa: BLE001 - a bug met by one event must not end the flow unseen
                _log.exception(
                    "batches failed and begin again at their position", destination=self._destination_id
                )
                await self._clock.sleep(_RETRY_S)

    async def _verdicts(self, records: Sequence[Record]) -> Sequence[Verdict]:
        decoded = self._reader.decoded(records)
        outcomes = await self._judge([one.event for one in decoded])
        return [
            _verdict(one.stored, one.event, outcome) for one, outcome in zip(decoded, outcomes, strict=True)
        ]


def open_archive_flow(plan: DestinationPlan, around: Surroundings) -> BatchFlow:
    """Return the flow of an archive.

    Raises:
        FlowRefused: an address of its settings is not allowed.
    """
    config = plan.destination.config
    for url in addresses(config):
        if refusal := around.guard.check_url(url):
            raise FlowRefused(f"destination {plan.destination.id}: {url}: {refusal}")
    writer = open_writer(config, around.data_dir, around.clock, spool_of(around.data_dir))
    return BatchFlow(plan, around, writer)


def _verdict(stored: StoredEvent, event: Event, outcome: Outcome) -> Verdict:
    hour = event.received_at_ms // HOUR_MS
    match outcome:
        case Send(transformed=transformed):
            count = CountKey(event.source_id, hour, DELIVERED)
            if transformed is None:
                return Verdict(count, stored=stored, event=event)
            try:
                return Verdict(count, instead=tuple(_stored(stored, part) for part in transformed))
            except RecursionError:
                return Verdict(CountKey(event.source_id, hour, DEAD, "the event is nested too deeply"))
        case Filtered(rule=rule):
            return Verdict(CountKey(event.source_id, hour, FILTERED, rule))
        case Refused(reason=reason):
            return Verdict(CountKey(event.source_id, hour, REJECTED, reason_class(reason)))
        case Dead(reason=reason, detail=detail):
            return Verdict(CountKey(event.source_id, hour, DEAD, reason), detail=detail)


def _stored(stored: StoredEvent, part: Event) -> StoredEvent:
    """Return what a file holds of a transformed event. Nothing that the code took out may come in by a side door:
    what was kept beside the message is in the message, where the code saw it."""
    request_ip = part.message.get("request_ip")
    return StoredEvent(
        source_id=stored.source_id,
        message_id=part.message_id,
        type=part.type,
        received_at_ms=stored.received_at_ms,
        raw=json_bytes(part.message),
        request_ip=request_ip if isinstance(request_ip, str) else "",
        message_id_made=stored.message_id_made,
        channel=stored.channel,
    )
