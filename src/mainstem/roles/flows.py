"""One destination's flow in this process, whatever its kind: through lanes of requests, or into files."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from mainstem.clock import Clock
from mainstem.delivery.guard import AddressGuard
from mainstem.delivery.http_attempt import HttpAttempt
from mainstem.delivery.sender import Sender
from mainstem.delivery.sinks import SinkRoom, open_sink
from mainstem.delivery.stream_attempt import StreamAttempt
from mainstem.delivery.tokens import Tokens, oauth_tokens
from mainstem.delivery.transport import Transport
from mainstem.destinations.base import DestinationSpec, StreamSink
from mainstem.destinations.catalog import oauth_grant
from mainstem.destinations.render import secrets_in
from mainstem.ledger.base import Position
from mainstem.pipeline.decode import Decoder
from mainstem.pipeline.judge import judge_by
from mainstem.pipeline.plan import DestinationPlan
from mainstem.roles.batches import open_archive_flow
from mainstem.roles.runner import Rules, Runner
from mainstem.roles.surroundings import FlowRefused, Surroundings
from mainstem.telemetry.log import logger
from mainstem.workspace.model import Destination

_log = logger(__name__)

_RETRY_S: Final = 5.0


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
        return open_archive_flow(plan, around)
    if plan.spec.kind == "tables":
        from mainstem.roles.warehouses import open_warehouse_flow

        return open_warehouse_flow(plan, decoder, around)
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
    return oauth_tokens(spec.oauth, grant, transport, clock, timeout_s=destination.delivery.timeout_s)


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
