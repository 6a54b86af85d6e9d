"""Hostile clients against the running product: clear 4xx, bounded memory, other clients unharmed."""

import asyncio
import contextlib
import gzip
import resource
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from mainstem.testing.sink import Sink
from tests.acceptance.evidence import (
    accepted,
    assert_exactly_once,
    assert_in_order,
    ids,
    number_of,
    user_of,
)
from tests.acceptance.serving import WRITE_KEY, Answered, Serving, resident_bytes, serving, track, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024
MAX_CONNECTIONS = 1_500
GROWTH_BYTES = 96 * MIB
"""The most that a gateway may ever take over what it takes at rest, over everything in this module: several
bodies of 8 MiB on the wire, decoded, and parsed, at once. One of the bombs below alone would be 512 MiB."""

WORKSPACE = """
workspace: {{id: t, name: T}}
sources:
  - {{id: web, name: Web, write_key: {key}, type: http}}
destinations:
  - {{id: hook, name: Hook, type: webhook, start: earliest, config: {{webhookUrl: "{sink}/in"}}}}
connections:
  - {{from: web, to: [hook]}}
"""


@dataclass
class Attacked:
    """The product, and a well-behaved client that goes on sending throughout."""

    product: Serving
    sink: Sink
    at_rest_bytes: int
    sent: list[str] = field(default_factory=list)
    number: int = 0

    async def client_is_served(self) -> None:
        """One more event of the good client is accepted."""
        event = track("good-user", self.number)
        self.number += 1
        await self.product.send([event])
        self.sent.append(str(event["messageId"]))

    def assert_memory_bounded(self) -> None:
        peak = resident_bytes(self.product.children()["gateway-0"], peak=True)
        grown = peak - self.at_rest_bytes
        assert grown < GROWTH_BYTES, f"the gateway grew by {grown / MIB:.0f} MiB"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def attacked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Attacked]:
    async with Sink() as sink:
        settings = {
            # So that slow clients are seen off while the test looks on.
            "gateway_header_timeout_s": 1.0,
            "gateway_body_timeout_s": 1.0,
            "gateway_max_connections": MAX_CONNECTIONS,
        }
        workspace = WORKSPACE.format(key=WRITE_KEY, sink=sink.url)
        directory = tmp_path_factory.mktemp("serve")
        async with serving(directory, workspace, settings=settings) as product:
            await product.send([track("warm-up", 0)])
            await product.settled()
            sink.requests.clear()
            gateway = product.children()["gateway-0"]
            found = Attacked(product, sink, resident_bytes(gateway))
            yield found
            # The same process has lived through everything.
            assert product.children()["gateway-0"] == gateway
            await product.settled()


Attack = Callable[[Attacked], Awaitable[None]]


async def _during(attack: Awaitable[None], attacked: Attacked) -> int:
    """Carry out an attack while the good client goes on; returns how often it was served meanwhile."""
    task = asyncio.ensure_future(attack)
    served = 0
    while not task.done() or served == 0:
        await attacked.client_is_served()
        served += 1
    await task
    return served


async def _judge(attacked: Attacked) -> None:
    """The good client's events arrive, each once and in order, and the gateway is no bigger than it may be."""
    attacked.assert_memory_bounded()
    wanted = set(attacked.sent)
    await until(
        "the good client's events are delivered",
        lambda: wanted <= set(ids(accepted(attacked.sink.requests))),
    )
    mine = [event for event in accepted(attacked.sink.requests) if event["userId"] == "good-user"]
    assert_exactly_once(attacked.sent, ids(mine), "webhook")
    assert_in_order(mine, user=user_of, number=number_of, where="webhook")


def _refused(answered: Answered, status: int) -> None:
    assert answered.status == status, answered
    assert isinstance(answered.body, dict), answered
    assert {"code", "message"} <= answered.body.keys(), answered


def _bomb(encoding: str) -> bytes:
    """Half a MiB on the wire, half a GiB of spaces behind it."""
    packer = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    spaces = b" " * (16 * MIB)
    body = packer.compress(b'{"batch":[')
    for _ in range(32):
        body += packer.compress(spaces)
    return body + packer.compress(b"]}") + packer.flush()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_decompression_bombs(attacked: Attacked, encoding: str) -> None:
    bomb = await asyncio.to_thread(_bomb, encoding)

    async def attack() -> None:
        headers = {"Content-Encoding": encoding}
        for answered in await asyncio.gather(
            *(attacked.product.post("/v1/batch", bomb, headers=headers) for _ in range(4))
        ):
            _refused(answered, 413)

    await _during(attack(), attacked)
    await _judge(attacked)


def _deep(depth: int) -> bytes:
    return b'{"userId":"u","event":"deep","properties":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"


BAD_BODIES: dict[str, bytes] = {
    "invalid UTF-8": b'{"userId":"\xff\xfe","event":"x"',
    "binary": bytes(range(256)) * 64,
    "not JSON": b"userId=u&event=x",
    "a number": b"12345",
    "brackets": b"[" * 5 * MIB,
    "a long string": b'{"userId":"' + b"a" * 5 * MIB,
    "empty": b"",
}


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_bodies_that_are_no_events(attacked: Attacked, name: str) -> None:
    async def attack() -> None:
        for path in ("/v1/track", "/v1/batch"):
            _refused(await attacked.product.post(path, BAD_BODIES[name]), 400)

    await _during(attack(), attacked)
    await _judge(attacked)


@pytest.mark.parametrize("depth", [1_000, 100_000])
async def test_deep_json(attacked: Attacked, depth: int) -> None:
    async def attack() -> None:
        _refused(await attacked.product.post("/v1/track", _deep(depth)), 400)

    await _during(attack(), attacked)
    await _judge(attacked)


async def test_one_deep_or_broken_event_does_not_cost_the_batch(attacked: Attacked) -> None:
    good = track("batch-user", 0)
    batch = b'{"batch":[%b,%b,%b]}' % (_deep(1_000), b"7", msgspec.json.encode(good))
    answered = await attacked.product.post("/v1/batch", batch)
    assert answered.status == 200, answered
    await until(
        "the good event is delivered",
        lambda: "batch-user-0" in ids(accepted(attacked.sink.requests)),
    )
    await _judge(attacked)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
async def test_a_batch_of_a_hundred_thousand_events(attacked: Attacked, packed: bool) -> None:
    """Within the bound on bytes where it is small, beyond the bound on events: nothing of it is taken."""
    body = b'{"batch":[' + b",".join([b'{"type":"track","userId":"u","event":"e"}'] * 100_000) + b"]}"
    headers = {"Content-Encoding": "gzip"} if packed else {}
    sent = gzip.compress(body, 1) if packed else body

    async def attack() -> None:
        for _ in range(3):
            _refused(await attacked.product.post("/v1/batch", sent, headers=headers), 413)

    await _during(attack(), attacked)
    await _judge(attacked)
    assert not [event for event in accepted(attacked.sink.requests) if event["userId"] == "u"]


async def test_bodies_beyond_the_bound(attacked: Attacked) -> None:
    async def attack() -> None:
        big = b'{"batch":[' + b" " * (12 * MIB) + b"]}"
        with contextlib.suppress(ConnectionError):
            _refused(await attacked.product.post("/v1/batch", big), 413)

    await _during(attack(), attacked)
    await _judge(attacked)


async def test_slow_clients(attacked: Attacked) -> None:
    """Requests that come byte by byte are cut by the time-outs, without a word: a real client then tries again,
    while 408 would make several SDKs drop the batch."""
    head = b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
    unfinished = [b"POST /v1/batch?", head + b"X-Slow: ", head + b'\r\n{"batch":[']

    async def slow(begin: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", attacked.product.port)
        answer = asyncio.ensure_future(reader.read(65536))
        try:
            writer.write(begin)
            while not answer.done():
                # A byte now and then is no reason to wait longer.
                writer.write(b"1")
                await asyncio.wait([answer], timeout=0.1)
            return answer.result() if answer.exception() is None else b""
        finally:
            answer.cancel()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def attack() -> None:
        async with asyncio.timeout(20.0):
            answers = await asyncio.gather(*(slow(begin) for begin in unfinished * 20))
        assert set(answers) == {b""}

    assert await _during(attack(), attacked) > 10
    await _judge(attacked)


async def test_thousands_of_idle_connections(attacked: Attacked) -> None:
    """Beyond the bound on connections a client is told 503 at once; those that are there are still served."""
    wanted = 3_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted + 500:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, wanted + 500), hard))
    await attacked.client_is_served()  # has its connection before the crowd comes
    idle: list[socket.socket] = []
    try:
        for _ in range(wanted // 100):
            idle += [socket.create_connection(("127.0.0.1", attacked.product.port), 10.0) for _ in range(100)]
            await attacked.client_is_served()
        first_beyond = idle[MAX_CONNECTIONS]
        first_beyond.setblocking(False)
        async with asyncio.timeout(10.0):
            told = await asyncio.get_running_loop().sock_recv(first_beyond, 65536)
        assert told.startswith(b"HTTP/1.1 503"), told
        attacked.assert_memory_bounded()
    finally:
        for connection in idle:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    async def anyone_is_served() -> bool:
        async with aiohttp.ClientSession() as newcomer:
            try:
                async with newcomer.get(f"{attacked.product.url}/health") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

    await until("new clients are served again", anyone_is_served)
    await attacked.client_is_served()
    await _judge(attacked)


async def test_nothing_hostile_unbalanced_the_books(attacked: Attacked) -> None:
    await attacked.client_is_served()
    await attacked.product.settled()
    assert (await attacked.product.cli("books")).returncode == 0
    assert Path(attacked.product.log).read_text().count("Traceback") == 0, attacked.product.log_tail()
