"""A running gateway on a real socket, in front of the memory stream."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import msgspec
import pytest
import uvloop

from mainstem.clock import Clock, FixedClock
from mainstem.events.stored import StoredEvent, decode_stored
from mainstem.gateway.gateway import Gateway
from mainstem.gateway.settings import GatewaySettings
from mainstem.stream.base import Done, NewRecord, Producer, StreamError
from mainstem.stream.memory import MemoryStream
from mainstem.workspace.model import Source, WebhookMapping, Workspace
from tests.gateway.client import Client

NOW_MS = 1_790_000_000_000

WORKSPACE = Workspace(
    id="w1",
    version="1",
    sources=(
        Source(id="s1", name="Web", write_keys=("wk1", "wk1-next")),
        Source(id="s2", name="Off", write_keys=("wk-off",), enabled=False),
        Source(id="s3", name="Jitsu", write_keys=("jit",)),
        Source(id="s4", name="One origin", write_keys=("wk-origin",), origins=("https://shop.example",)),
        Source(
            id="s5",
            name="Hook",
            write_keys=("wk-hook",),
            webhook=WebhookMapping(
                event="body.action",
                user_id="body.user.id",
                message_id="headers.x-delivery",
                timestamp="body.at",
                properties="body.data",
            ),
        ),
    ),
)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run these tests on the loop of production."""
    return {"uvloop": uvloop.new_event_loop}


class FailingProducer:
    """A producer whose storage refuses, at the call or afterwards; or that never answers until told."""

    def __init__(self, *, at_once: StreamError | None = None, later: StreamError | None = None) -> None:
        self.at_once = at_once
        self.later = later
        self.backlog_bytes = 0
        self.waiting: list[tuple[Sequence[NewRecord], Done]] = []

    def submit(self, records: Sequence[NewRecord], done: Done) -> None:
        if self.at_once is not None:
            raise self.at_once
        if self.later is not None:
            asyncio.get_running_loop().call_soon(done, self.later)
        else:
            self.waiting.append((records, done))

    async def append(self, records: Sequence[NewRecord]) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        return


class Running:
    """A gateway that runs, and what it wrote."""

    def __init__(self, gateway: Gateway, stream: MemoryStream, port: int) -> None:
        self.gateway = gateway
        self.stream = stream
        self.port = port

    async def stored(self) -> list[StoredEvent]:
        """Return every stored event, in the order of the appends."""
        records = [
            record
            for partition in range(self.stream.partitions)
            for record in await self.stream.read(partition, 0, max_records=1_000_000, max_bytes=1 << 30)
        ]
        return [decode_stored(record.value) for record in sorted(records, key=lambda record: record.sequence)]

    async def client(self) -> Client:
        return await Client.connect(self.port)

    async def post(
        self,
        path: str,
        body: bytes | object = b"",
        headers: Mapping[str, str] | None = None,
        key: str = "wk1",
    ) -> tuple[int, dict[str, object]]:
        """POST on a connection of its own; return status and the JSON answer."""
        client = await self.client()
        try:
            answer = await client.post(path, body, headers, key=key)
            return answer.status, answer.json()
        finally:
            await client.close()


Start = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def start() -> Start:
    """Start a gateway; keywords are `GatewaySettings` fields, `clock`, `producer`, `workspace`, `ready`."""
    return running


@pytest.fixture
async def gateway() -> AsyncIterator[Running]:
    async with running() as it:
        yield it


@asynccontextmanager
async def running(
    *,
    clock: Clock | None = None,
    producer: Producer | FailingProducer | None = None,
    workspace: Workspace = WORKSPACE,
    ready: Callable[[], Mapping[str, str]] = dict,
    **settings: object,
) -> AsyncIterator[Running]:
    stream = MemoryStream()
    built = Gateway(
        producer or await stream.producer(),  # type: ignore[arg-type]
        workspace,
        clock or FixedClock(NOW_MS),
        msgspec.convert({"sweep_interval_s": 0.01, **settings}, GatewaySettings),
        ready,
    )
    sock = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(built.serve(sock))
    try:
        yield Running(built, stream, sock.getsockname()[1])
    finally:
        await built.drain(0.05)
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        sock.close()
        await stream.close()
