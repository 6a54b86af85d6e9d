"""One destination's flow in this process, whatever its kind: through lanes of requests, or into files."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from mainstem.bulk.gatherer import Gatherer
from mainstem.bulk.plan import Verdict
from mainstem.clock import Clock
from mainstem.delivery.guard import AddressGuard
from mainstem.delivery.http_attempt import HttpAttempt
from mainstem.delivery.sender import Sender
from mainstem.delivery.sinks import SinkRoom, open_sink
from mainstem.delivery.stream_attempt import StreamAttempt
from mainstem.delivery.tokens import Tokens
from mainstem.delivery.transport import Transport
from mainstem.destinations.archive import archive_config
from mainstem.destinations.base import DestinationSpec, StreamSink
from mainstem.destinations.catalog import oauth_grant
from mainstem.destinations.kit.body import json_bytes
from mainstem.destinations.render import secrets_in
from mainstem.errors import MainstemError
from mainstem.events.canonical import Event
from mainstem.events.stored import StoredEvent
from mainstem.lake.archive_writer import ArchiveWriter
from mainstem.lake.store import open_store
from mainstem.ledger.base import HOUR_MS, CountKey, Ledger, Position
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
from mainstem.pipeline.reading import SharedReader, decode_with
from mainstem.pipeline.transform import Transformer
from mainstem.roles.runner import Rules, Runner, reason_class
from mainstem.stream.base import Record, Stream, StreamClosed
from mainstem.telemetry.log import logger
from mainstem.workspace.model import Destination

_log = logger(__name__)

_RETRY_S: Final = 5.0


class FlowRefused(MainstemError):
    """A destination can't run as it is configured; it keeps its place until that is repaired."""


class Surroundings(msgspec.Struct, frozen=True):
    """What every flow of a process is made of."""

    stream: Stream
    ledger: Ledger
    reader: SharedReader
    transformer: Transformer
    transport: Transport
    guard: AddressGuard
    clock: Clock
    data_dir: Path


class Flow(Protocol):
    """What the worker does with a destination."""

    def replace_plan(self, plan: DestinationPlan, decoder: Decoder) -> None:
        """Use other rules from the next event on."""
        ...

    async def assign(self, positions: Mapping[int, Position]) -> None: ...

    async def revoke(self, partitions: frozenset[int]) -> None: ...

    async def drain(self, timeout_s: float) -> None:
        """Finish what is in flight, settle, stop."""
        ...

    def status(self) -> Any:
        """Return its condition, JSON-able."""
        ...


def open_flow(plan: DestinationPlan, decoder: Decoder, around: Surroundings) -> Flow:
    """Return the flow of a destination; it begins with the first `assign`.

    Raises:
        FlowRefused: the settings can't be used here.
    """
    if plan.spec.kind == "files":
        return FilesFlow(plan, decoder, around)
    return LaneFlow(plan, decoder, around)


def make_sender(
    plan: DestinationPlan, rules: Rules, around: Surroundings, *, cursor: str
) -> tuple[Sender, StreamSink | None]:
    """Return the sending side of a destination for one cursor, and the broker's end if it has one."""
    destination, spec = plan.destination, plan.spec
    sink: StreamSink | None = None
    secrets = secrets_in((destination.config, destination.raw_config))
    if spec.kind == "stream":
        sink = open_the_sink(destination, spec, around.transport, around.guard, around.clock)
        attempt: HttpAttempt | StreamAttempt = StreamAttempt(sink, secrets=secrets)
    else:
        attempt = HttpAttempt(
            around.transport,
            timeout_s=destination.delivery.timeout_s,
            clock=around.clock,
            spec=spec,
            config=destination.config,
            tokens=open_tokens(destination, spec, around.transport, around.clock),
            validate=destination.delivery.validate_requests,
            secrets=secrets,
        )
    sender = Sender(
        cursor=cursor,
        destination=destination,
        spec=spec,
        attempt=attempt,
        prepare=rules.prepare,
        ledger=around.ledger,
        clock=around.clock,
        rng=random.Random(),  # noqa: S311 - jitter, not a secret
    )
    return sender, sink


def open_tokens(
    destination: Destination, spec: DestinationSpec, transport: Transport, clock: Clock
) -> Tokens | None:
    """Return where a destination's access tokens come from; None if it takes no OAuth.

    Raises:
        FlowRefused: it takes OAuth and has no grant.
    """
    if spec.oauth is None:
        return None
    grant = oauth_grant(destination.raw_config)
    if grant is None:
        raise FlowRefused(f"destination {destination.id}: `config.oauth` is missing")
    return Tokens(spec.oauth, grant, transport, clock, timeout_s=destination.delivery.timeout_s)


def open_the_sink(
    destination: Destination, spec: DestinationSpec, transport: Transport, guard: AddressGuard, clock: Clock
) -> StreamSink:
    """Return the sending end of a destination that is a broker.

    Raises:
        FlowRefused: no sink knows its type.
    """
    room = SinkRoom(transport, guard, clock, destination.delivery.timeout_s)
    sink = open_sink(spec.name, destination.config, room)
    if sink is None:
        raise FlowRefused(f"destination {destination.id}: no sender for type {spec.name}")
    return sink


def _spool(data_dir: Path) -> Path:
    folder = data_dir / "spool"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class LaneFlow:
    """A destination that is sent to event by event."""

    def __init__(self, plan: DestinationPlan, decoder: Decoder, around: Surroundings) -> None:
        cursor = plan.destination.id
        self._transformer = around.transformer
        self._rules = Rules(judge_by(plan, around.transformer), decoder)
        self._sender, self._sink = make_sender(plan, self._rules, around, cursor=cursor)
        self._runner = Runner(
            cursor=cursor,
            rules=self._rules,
            sender=self._sender,
            reader=around.reader,
            stream=around.stream,
            ledger=around.ledger,
            clock=around.clock,
        )

    def replace_plan(self, plan: DestinationPlan, decoder: Decoder) -> None:
        self._rules.judge, self._rules.decoder = judge_by(plan, self._transformer), decoder

    async def assign(self, positions: Mapping[int, Position]) -> None:
        await self._runner.assign(positions)

    async def revoke(self, partitions: frozenset[int]) -> None:
        await self._runner.revoke(partitions)

    async def drain(self, timeout_s: float) -> None:
        await self._runner.drain(timeout_s)
        if self._sink is not None:
            await self._sink.close()

    def status(self) -> Any:
        status = {"kind": "lanes", **msgspec.to_builtins(self._sender.status())}
        return {**status, "error": self._runner.failure} if self._runner.failure else status


class FilesFlow:
    """A destination that is written to in files."""

    def __init__(self, plan: DestinationPlan, decoder: Decoder, around: Surroundings) -> None:
        destination = plan.destination
        config = destination.config
        endpoint = archive_config(config).endpoint
        refusal = around.guard.check_url(endpoint) if endpoint else None
        if refusal:
            raise FlowRefused(f"destination {destination.id}: endpoint {endpoint}: {refusal}")
        self._destination_id = destination.id
        self._transformer = around.transformer
        self._judge = judge_by(plan, around.transformer)
        self._decode = decode_with(decoder)
        self._clock = around.clock
        spool_dir = _spool(around.data_dir)
        self._gatherer = Gatherer(
            cursor=destination.id,
            destination=destination.id,
            writer=ArchiveWriter(config, open_store(config, around.data_dir), spool_dir),
            stream=around.stream,
            ledger=around.ledger,
            clock=around.clock,
            judge=self._verdicts,
            spool_dir=spool_dir,
        )
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def replace_plan(self, plan: DestinationPlan, decoder: Decoder) -> None:
        self._judge, self._decode = judge_by(plan, self._transformer), decode_with(decoder)

    async def assign(self, positions: Mapping[int, Position]) -> None:
        await self._gatherer.assign(positions)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"archiver {self._destination_id}")

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
        return {"kind": "files", **msgspec.to_builtins(self._gatherer.status())}

    async def _run(self) -> None:
        while not self._stop.is_set():
            try:
                await self._gatherer.run(self._stop)
            except StreamClosed:
                return
            except Exception:  # noqa: BLE001 - a bug met by one event must not end the archive unseen
                _log.exception(
                    "archive failed and begins again at its position", destination=self._destination_id
                )
                await self._clock.sleep(_RETRY_S)

    async def _verdicts(self, records: Sequence[Record]) -> Sequence[Verdict]:
        decoded = [self._decode(record) for record in records]
        outcomes = await self._judge([event for _, event in decoded])
        return [
            _verdict(stored, event, outcome)
            for (stored, event), outcome in zip(decoded, outcomes, strict=True)
        ]


def _verdict(stored: StoredEvent, event: Event, outcome: Outcome) -> Verdict:
    hour = event.received_at_ms // HOUR_MS
    match outcome:
        case Send(transformed=transformed):
            count = CountKey(event.source_id, hour, DELIVERED)
            if transformed is None:
                return Verdict(count)
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
