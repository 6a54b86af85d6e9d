"""The HTTP/1.1 server: order, bounds, time limits, overload, draining."""

import asyncio
import socket
from typing import cast

import msgspec
import pytest

from mainstem.clock import FixedClock
from mainstem.gateway.gateway import Gateway
from mainstem.stream.base import AppendResult, StreamClosed, StreamError, StreamFull, StreamOverloaded
from tests.gateway.client import Client, basic
from tests.gateway.conftest import NOW_MS, WORKSPACE, FailingProducer, Running, Start

AUTH = f"Authorization: {basic('wk1')}\r\n".encode()
EVENT = b'{"userId":"u","messageId":"m%d"}'


def track(number: int, extra: bytes = b"") -> bytes:
    body = EVENT % number
    return b"POST /v1/track HTTP/1.1\r\n" + AUTH + extra + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def until(condition: object) -> None:
    async with asyncio.timeout(20):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0)


async def test_pipelined_requests_are_answered_in_order(gateway: Running) -> None:
    client = await gateway.client()
    # Durable answers come later than immediate ones: order must hold across both kinds.
    await client.send(
        track(1) + b"GET /nowhere HTTP/1.1\r\n\r\n" + track(2) + b"GET /health HTTP/1.1\r\n\r\n" + track(3)
    )
    assert [(await client.receive()).status for _ in range(5)] == [200, 404, 200, 200, 200]
    await client.close()
    assert [event.message_id for event in await gateway.stored()] == ["m1", "m2", "m3"]


async def test_two_thousand_pipelined_requests(gateway: Running) -> None:
    client = await gateway.client()
    sending = asyncio.create_task(client.send(b"".join(track(number) for number in range(2000))))
    assert {(await client.receive()).status for _ in range(2000)} == {200}
    await sending
    await client.close()
    assert [event.message_id for event in await gateway.stored()] == [f"m{number}" for number in range(2000)]


async def test_byte_by_byte(gateway: Running) -> None:
    client = await gateway.client()
    for byte in track(1) + track(2):
        await client.send(bytes([byte]))
    assert [(await client.receive()).status for _ in range(2)] == [200, 200]
    await client.close()


async def test_chunked_body_with_extension_and_trailer(gateway: Running) -> None:
    client = await gateway.client()
    body = EVENT % 1
    head = b"POST /v1/track HTTP/1.1\r\n" + AUTH + b"Transfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in body)
    await client.send(head + chunks + b"0\r\nAuthorization: Basic bm8=\r\n\r\n" + track(2))
    assert [(await client.receive()).status for _ in range(2)] == [200, 200]
    await client.close()


async def test_expect_continue(gateway: Running) -> None:
    client = await gateway.client()
    body = EVENT % 1
    await client.send(
        b"POST /v1/track HTTP/1.1\r\n"
        + AUTH
        + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    assert (await client.receive()).status == 100
    await client.send(body)
    assert (await client.receive()).status == 200
    await client.send(b"POST /v1/track HTTP/1.1\r\nExpect: magic\r\nContent-Length: 9\r\n\r\n")
    assert (await client.receive()).status == 417
    await client.close()


async def test_expect_continue_with_a_body_too_large_is_refused_before_it_is_sent(start: Start) -> None:
    async with start(max_request_bytes=1000) as gateway:
        client = await gateway.client()
        await client.send(b"POST /v1/track HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n")
        assert (await client.receive()).status == 413
        await client.close()


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_connection_close(gateway: Running, version: bytes) -> None:
    client = await gateway.client()
    extra = b"Connection: close\r\n" if version == b"1.1" else b""
    await client.send(track(1, extra).replace(b"HTTP/1.1", b"HTTP/" + version))
    answer = await client.receive()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    client.end()
    assert await client.closed() == b""
    await client.close()


async def test_a_client_that_only_sends_still_gets_its_answer(gateway: Running) -> None:
    client = await gateway.client()
    await client.send(track(1, b"Connection: close\r\n"))
    client.end()
    assert (await client.receive()).status == 200
    assert await client.closed() == b""
    await client.close()


async def test_an_offered_upgrade_is_declined_and_the_request_answered(gateway: Running) -> None:
    client = await gateway.client()
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    await client.send(track(1, offer) + track(2))
    assert [(await client.receive()).status for _ in range(2)] == [200, 200]
    await client.close()
    assert [event.message_id for event in await gateway.stored()] == ["m1", "m2"]


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,  # TLS on a plain port
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header\r\n\r\n",
        b"POST /v1/track HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"POST /v1/track HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/track HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_not_http_is_400_and_closed(gateway: Running, data: bytes) -> None:
    client = await gateway.client()
    await client.send(data)
    answer = await client.receive()
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert set(answer.json()) == {"code", "message"}
    await client.close()


async def test_connect_is_answered_and_closed(gateway: Running) -> None:
    client = await gateway.client()
    await client.send(b"CONNECT example.com:443 HTTP/1.1\r\n\r\n")
    assert (await client.receive()).status == 404
    assert await client.closed() == b""
    await client.close()


async def test_bounds_of_head_and_body(start: Start) -> None:
    async with start(max_request_bytes=1000, max_header_bytes=2000) as gateway:
        for data, status in [
            (b"GET /" + b"x" * 3000, 431),
            (b"GET / HTTP/1.1\r\nX: " + b"x" * 3000, 431),
            (b"POST /v1/track HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", 413),
            (b"POST /v1/track HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001, 413),
            (b"POST /v1/track HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"x" * 9000, 413),
        ]:
            client = await gateway.client()
            await client.send(data)
            assert (await client.receive()).status == status
            # The rest of what the client sends is thrown away, so that it can read the answer.
            await client.send(b"x" * 100_000)
            client.end()
            assert await client.closed() == b""
            await client.close()
        good = await gateway.client()
        await good.send(track(1))
        assert (await good.receive()).status == 200
        await good.close()


async def test_bytes_of_unfinished_bodies_are_bounded(start: Start) -> None:
    async with start(max_buffered_bytes=100_000) as gateway:
        head = b"POST /v1/track HTTP/1.1\r\n" + AUTH + b"Content-Length: 90000\r\n\r\n"
        first, second = await gateway.client(), await gateway.client()
        await first.send(head + b" " * 80_000)
        await until(lambda: gateway.gateway._server.buffered_bytes >= 80_000)
        await second.send(head + b" " * 80_000)
        answer = await second.receive()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        body = EVENT % 1
        await first.send(b" " * (10_000 - len(body)) + body)
        assert (await first.receive()).status == 200
        assert gateway.gateway._server.buffered_bytes == 0
        await first.close()
        await second.close()


@pytest.mark.parametrize(
    ("begun", "limit_s"),
    [(b"POST /v1/tr", 10), (track(1)[:-5], 60), (b"", 75), (track(1), 75)],
    ids=["head", "body", "nothing", "kept alive"],
)
async def test_a_slow_client_is_closed(start: Start, begun: bytes, limit_s: float) -> None:
    clock = FixedClock(NOW_MS)
    async with start(clock=clock) as gateway:
        client, other = await gateway.client(), await gateway.client()
        await client.send(begun)
        if begun == track(1):
            assert (await client.receive()).status == 200
        await other.send(track(2))
        assert (await other.receive()).status == 200
        [slow] = [it for it in gateway.gateway._server.connections if it._phase != 0 or limit_s == 75][:1]
        await until(lambda: slow._timed_phase == slow._phase)
        clock.advance(limit_s - 1)
        gateway.gateway._server.sweep()
        assert slow in gateway.gateway._server.connections
        clock.advance(2)
        assert await client.closed() == b""
        await client.close()
        await other.close()


async def test_a_client_that_does_not_read_stops_being_read_and_is_cut(start: Start) -> None:
    clock = FixedClock(NOW_MS)
    async with start(clock=clock) as gateway:
        client = await gateway.client()
        cast("asyncio.Transport", client._writer.transport).pause_reading()
        request = b"GET /openapi.json HTTP/1.1\r\n\r\n" * 100
        for _ in range(20):
            client._writer.write(request)
        await until(lambda: any(it._writing_paused for it in gateway.gateway._server.connections))
        clock.advance(61)
        await until(lambda: not gateway.gateway._server.connections)
        client._writer.transport.abort()


async def test_too_many_connections_are_told_503(start: Start) -> None:
    async with start(max_connections=2) as gateway:
        clients = [await gateway.client() for _ in range(2)]
        await until(lambda: len(gateway.gateway._server.connections) == 2)
        extra = await gateway.client()
        answer = await extra.receive()
        assert (answer.status, answer.headers["connection"]) == (503, "close")
        await clients[0].send(track(1))
        assert (await clients[0].receive()).status == 200
        for client in (*clients, extra):
            await client.close()


@pytest.mark.parametrize(
    ("producer", "code"),
    [
        (FailingProducer(at_once=StreamOverloaded()), "overloaded"),
        (FailingProducer(later=StreamOverloaded()), "overloaded"),
        (FailingProducer(later=StreamFull()), "stream_full"),
        (FailingProducer(at_once=StreamClosed()), "unavailable"),
        (FailingProducer(later=StreamError("disk on fire")), "unavailable"),
    ],
)
async def test_a_stream_that_can_not_store_is_503(start: Start, producer: FailingProducer, code: str) -> None:
    async with start(producer=producer) as gateway:
        client = await gateway.client()
        for _ in range(2):
            answer = await client.post("/v1/track", EVENT % 1)
            assert (answer.status, answer.json()["code"]) == (503, code)
            assert int(answer.headers["retry-after"]) >= 1
        pixel = await client.request("GET", "/pixel/v1/track?writeKey=wk1&userId=u")
        assert pixel.status == 200
        await client.close()


async def test_a_backlog_above_its_bound_is_503_before_the_body_is_read(start: Start) -> None:
    producer = FailingProducer()
    async with start(producer=producer, max_backlog_bytes=1000) as gateway:
        producer.backlog_bytes = 1001
        client = await gateway.client()
        assert (await client.post("/v1/batch", b"not even json")).status == 503
        await client.close()
        assert producer.waiting == []


async def test_no_answer_before_the_stream_says_durable(start: Start) -> None:
    producer = FailingProducer()
    async with start(producer=producer) as gateway:
        client = await gateway.client()
        await client.send(track(1) + b"GET /health HTTP/1.1\r\n\r\n")
        await until(lambda: producer.waiting)
        await (probe := await gateway.client()).request("GET", "/health")
        assert client._reader._buffer == b""  # type: ignore[attr-defined]
        producer.waiting[0][1](AppendResult(1))
        assert [(await client.receive()).status for _ in range(2)] == [200, 200]
        await client.close()
        await probe.close()


async def test_a_client_that_leaves_before_its_answer_costs_nothing(start: Start) -> None:
    producer = FailingProducer()
    async with start(producer=producer) as gateway:
        client = await gateway.client()
        await client.send(track(1))
        await until(lambda: producer.waiting)
        client._writer.transport.abort()
        producer.waiting[0][1](AppendResult(1))
        await until(lambda: not gateway.gateway._server.connections)
        assert (await gateway.post("/v1/m"))[0] == 200


async def test_a_bug_in_one_request_is_500_and_the_connection_goes_on(start: Start) -> None:
    def broken() -> dict[str, str]:
        raise RuntimeError("a bug")

    async with start(ready=broken) as gateway:
        client = await gateway.client()
        answer = await client.request("GET", "/health")
        assert (answer.status, answer.json()["code"]) == (500, "internal_error")
        assert (await client.post("/v1/track", EVENT % 1)).status == 200
        await client.close()


async def test_draining_answers_what_came_in_and_the_next_gateway_takes_the_socket() -> None:
    """Two gateways on one listening socket, one after the other: no connection is ever refused."""
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    producer = FailingProducer()
    old = Gateway(producer, WORKSPACE, FixedClock(NOW_MS))  # type: ignore[arg-type]
    serving = asyncio.create_task(old.serve(sock))
    busy, idle = await Client.connect(port), await Client.connect(port)
    await busy.send(track(1))
    await until(lambda: producer.waiting and len(old._server.connections) == 2)
    draining = asyncio.create_task(old.drain(20))
    assert await idle.closed() == b""
    # Nobody accepts now; the socket queues.
    waiting = await Client.connect(port)
    await waiting.send(track(2))
    producer.waiting[0][1](AppendResult(1))
    answer = await busy.receive()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert await busy.closed() == b""
    await draining
    await serving
    later = FailingProducer()
    new = Gateway(later, WORKSPACE, FixedClock(NOW_MS))  # type: ignore[arg-type]
    serving = asyncio.create_task(new.serve(sock))
    await until(lambda: later.waiting)
    later.waiting[0][1](AppendResult(1))
    assert (await waiting.receive()).status == 200
    for client in (busy, idle, waiting):
        await client.close()
    await new.drain(0)
    await serving
    sock.close()


async def test_draining_cuts_what_does_not_end() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    producer = FailingProducer()
    gateway = Gateway(producer, WORKSPACE, FixedClock(NOW_MS))  # type: ignore[arg-type]
    serving = asyncio.create_task(gateway.serve(sock))
    client = await Client.connect(sock.getsockname()[1])
    await client.send(track(1))
    await until(lambda: producer.waiting)
    await gateway.drain(0.01)
    await serving
    assert await client.closed() == b""
    await client.close()
    sock.close()


async def test_head_has_no_body_and_the_length_of_get(gateway: Running) -> None:
    client = await gateway.client()
    head = await client.request("HEAD", "/openapi.json")
    full = await client.request("GET", "/openapi.json")
    assert head.body == b""
    assert head.headers["content-length"] == str(len(full.body))
    assert msgspec.json.decode(full.body)["openapi"] == "3.1.0"
    await client.close()
