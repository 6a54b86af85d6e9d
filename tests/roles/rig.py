"""What the role tests share: a workspace from its document, events as the gateway stores them, a worker on real
rooms (stream and ledger in memory, unless a test brings others), delivering to a real sink."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from mainstem.clock import Clock, SystemClock
from mainstem.delivery.guard import AddressGuard
from mainstem.delivery.transport import PyreqwestTransport
from mainstem.gateway.auth import KnownSource
from mainstem.gateway.ingest import Arrival, Intake
from mainstem.gateway.settings import GatewaySettings
from mainstem.ledger.base import Ledger
from mainstem.ledger.memory import MemoryLedger
from mainstem.pipeline.decode import Decoder
from mainstem.pipeline.reading import SharedReader, decode_with
from mainstem.pipeline.transform import Sandboxes, Transformer
from mainstem.roles.books import Account, read_books
from mainstem.roles.explain import Sighting, Whereabouts, explain_message
from mainstem.roles.rooms import CHECKS
from mainstem.roles.surroundings import Surroundings
from mainstem.roles.worker import Worker
from mainstem.stream.base import Stream
from mainstem.stream.memory import MemoryStream
from mainstem.transformations.sandbox.runtime import SandboxRuntime
from mainstem.workspace.model import Workspace
from mainstem.workspace.parse import parse_workspace

PARTITIONS = 4
START_MS = 1_795_416_000_000  # 2026-11-23T06:40:00Z


class FastClock(SystemClock):
    """A clock whose sleeps are short: what looks every second looks every few milliseconds."""

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s / 50)


def workspace(
    *destinations: Mapping[str, Any],
    filters: Sequence[Mapping[str, Any]] = (),
    connected: Sequence[str] | None = None,
    **more: Any,
) -> Workspace:
    """Source `web`, connected to every destination."""
    to = [item["id"] for item in destinations] if connected is None else connected
    document = {
        "workspace": {"id": "w", "name": "W"},
        "sources": [{"id": "web", "name": "Web", "write_key": "wk", "type": "http"}],
        "destinations": list(destinations),
        "connections": [{"from": "web", "to": [key], "filters": list(filters)} for key in to],
        **more,
    }
    return parse_workspace(msgspec.json.encode(document), origin="w.json", env={}, checks=CHECKS).workspace


def webhook(url: str, key: str = "hook", **more: Any) -> dict[str, Any]:
    """A webhook destination that begins at the beginning."""
    config = {"webhookUrl": f"{url}/in"}
    return {"id": key, "name": key, "type": "webhook", "start": "earliest", "config": config, **more}


def track(user: str, number: int, **more: Any) -> dict[str, Any]:
    """Event `number` of a user."""
    return {
        "type": "track",
        "messageId": f"{user}-{number}",
        "userId": user,
        "event": "Step",
        "properties": {"n": number},
        **more,
    }


def records(events: Sequence[Any], known: Workspace, *, at_ms: int = START_MS) -> Intake:
    """Events as the gateway stores them, received at one time."""
    source = KnownSource(known.sources[0], allowance=0)
    intake = Intake(source, Arrival(received_at_ms=at_ms, request_ip="10.0.0.9"), GatewaySettings())
    for event in events:
        intake.take(event if isinstance(event, bytes) else msgspec.json.encode(event))
    return intake


async def append(stream: Stream, events: Sequence[Any], known: Workspace, *, at_ms: int = START_MS) -> None:
    """Append events as the gateway does."""
    producer = await stream.producer()
    await producer.append(records(events, known, at_ms=at_ms).records)


async def until(what: str, condition: Callable[[], Awaitable[Any] | Any], timeout_s: float = 20.0) -> Any:
    """Wait until a condition gives something true; return that."""
    last: Any = None
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                last = condition()
                if isinstance(last, Awaitable):
                    last = await last
                if last:
                    return last
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"waited in vain until {what}; last: {last!r}") from None


class Told:
    """A workspace source that says what the test tells it."""

    def __init__(self, first: Workspace) -> None:
        self._first = self._newest = first
        self._changed = asyncio.Condition()

    async def current(self) -> Workspace:
        return self._newest

    async def changes(self) -> AsyncIterator[Workspace]:
        given = self._first
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda given=given: self._newest is not given)  # type: ignore[misc]
            given = self._newest
            yield given

    async def close(self) -> None:
        return

    async def tell(self, workspace: Workspace) -> None:
        """Replace the snapshot."""
        async with self._changed:
            self._newest = workspace
            self._changed.notify_all()


class Rig:
    """Rooms, and workers in them."""

    def __init__(
        self,
        known: Workspace,
        data_dir: Path,
        *,
        stream: Stream | None = None,
        ledger: Ledger | None = None,
        sandboxes: Sandboxes | None = None,
    ) -> None:
        self.clock: Clock = FastClock()
        self.stream: Stream = stream or MemoryStream(partitions=PARTITIONS, clock=self.clock)
        self.ledger: Ledger = ledger or MemoryLedger()
        self.told = Told(known)
        self.data_dir = data_dir
        self.workers: list[Worker] = []
        guard = AddressGuard(allow_private=False, allowed=("127.0.0.0/8",))
        self.transport = PyreqwestTransport(guard, self.clock)
        self._guard = guard
        # One that may fetch nothing; its sandboxes start when a test has user code.
        self.sandboxes: Sandboxes = sandboxes or SandboxRuntime()
        self.transformer = Transformer(self.sandboxes, self.clock)

    def around(self) -> Surroundings:
        """What a worker process would open."""
        return Surroundings(
            stream=self.stream,
            ledger=self.ledger,
            reader=SharedReader(self.stream, decode_with(Decoder(()))),
            transformer=self.transformer,
            transport=self.transport,
            guard=self._guard,
            clock=self.clock,
            data_dir=self.data_dir,
        )

    async def worker(self) -> Worker:
        """Start a worker."""
        worker = Worker(self.around(), self.told, geo=None, drain_timeout_s=5.0)
        await worker.start()
        self.workers.append(worker)
        return worker

    async def stop(self, worker: Worker) -> None:
        """Stop a worker, as SIGTERM does."""
        self.workers.remove(worker)
        await worker.stop()

    async def send(self, events: Sequence[Any], *, at_ms: int = START_MS) -> None:
        """Append events as the gateway does."""
        await append(self.stream, events, await self.told.current(), at_ms=at_ms)

    async def account(self, cursor: str = "hook") -> Account:
        """The books of a cursor; they must balance at every moment."""
        found = await read_books(self.stream, self.ledger, cursor)
        assert found.balanced, found
        return found

    async def settled(self, cursor: str = "hook", *, received: int | None = None) -> Account:
        """Wait until nothing is pending at a cursor."""

        async def nothing_pending() -> Account | None:
            found = await self.account(cursor)
            enough = received is None or found.received >= received
            return found if enough and not found.pending else None

        account: Account = await until(f"nothing is pending at {cursor}", nothing_pending)
        return account

    async def explain(self, message_id: str) -> Sighting:
        """The only sighting of a message."""
        known = await self.told.current()
        decoder = Decoder(known.sources)
        found = await explain_message(
            message_id, "", known, self.stream, self.ledger, decoder, self.transformer
        )
        assert len(found) == 1, found
        return found[0]

    async def where(self, message_id: str, destination_id: str = "hook") -> Whereabouts:
        """What became of a message at one destination."""
        return next(
            item
            for item in (await self.explain(message_id)).destinations
            if item.destination_id == destination_id
        )


@asynccontextmanager
async def rig(
    known: Workspace,
    data_dir: Path,
    *,
    stream: Stream | None = None,
    ledger: Ledger | None = None,
    sandboxes: Sandboxes | None = None,
) -> AsyncIterator[Rig]:
    """A rig whose workers are stopped at the end."""
    built = Rig(known, data_dir, stream=stream, ledger=ledger, sandboxes=sandboxes)
    try:
        yield built
    finally:
        for worker in list(built.workers):
            await built.stop(worker)
        await built.transformer.close()
        await built.sandboxes.close()
        await built.transport.close()
        await built.stream.close()
        await built.ledger.close()
