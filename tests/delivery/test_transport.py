"""The transport against real servers on loopback that behave, and misbehave."""

import asyncio
import gc
import inspect
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trustme
from pyreqwest import exceptions as driver

from mainstem.clock import FixedClock, SystemClock
from mainstem.delivery import errors
from mainstem.delivery.errors import (
    ConnectFailed,
    Cut,
    Refused,
    TimedOut,
    TlsFailed,
    TransportError,
    Unsendable,
)
from mainstem.delivery.guard import ALLOW_PRIVATE_KEY, AddressGuard
from mainstem.delivery.transport import (
    PyreqwestTransport,
    Resolve,
    TransportOptions,
    resolve_by_system,
    translate,
)
from mainstem.destinations.base import Request

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Answer = Callable[["Exchange"], Awaitable[None]]


class Exchange:
    """One request as a server saw it, and the means to answer it."""

    def __init__(
        self,
        head: bytes,
        body: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        number: int,
    ) -> None:
        line, *lines = head.decode().rstrip("\r\n").split("\r\n")
        self.method, self.path, _ = line.split(" ")
        self.headers = {name.lower(): value for name, value in (header.split(": ", 1) for header in lines)}
        self.body = body
        self.reader = reader
        self.writer = writer
        self.number = number

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


class Server:
    """Answers each request with the coroutine it was made with, and remembers what it saw."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.seen: list[Exchange] = []
        self._served = 0
        self.connections = 0
        self.open = 0
        self.changed = asyncio.Condition()
        self.port = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                ]
                body = await reader.readexactly(sum(lengths))
                exchange = Exchange(head, body, reader, writer, self._served)
                self._served += 1
                self.seen.append(exchange)
                await self._notify()
                await self._answer(exchange)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()
            await self._notify()

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(true)


@asynccontextmanager
async def serving(
    answer: Answer, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    server = Server(answer)
    handlers: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        task = asyncio.create_task(server.handle(reader, writer))
        handlers.add(task)
        task.add_done_callback(handlers.discard)

    listener = await asyncio.start_server(accept, host, port, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        for writer in writers:
            # TLS says goodbye before it closes: the loop may be gone by then.
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


Make = Callable[..., PyreqwestTransport]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        def build(
            *,
            guard: AddressGuard | None = None,
            clock: FixedClock | SystemClock | None = None,
            resolve: Resolve = resolve_by_system,
            **options: object,
        ) -> PyreqwestTransport:
            transport = PyreqwestTransport(
                guard or AddressGuard(allow_private=True),
                clock or SystemClock(),
                options=TransportOptions(**options),  # type: ignore[arg-type]
                resolve=resolve,
            )
            stack.push_async_callback(transport.close)
            return transport

        yield build


def answering(*addresses: Sequence[str]) -> Resolve:
    """Answer the n-th lookup with the n-th list, then with the last one for ever."""
    left = list(addresses)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    return resolve


def post(url: str, *headers: tuple[str, str], body: bytes = b'{"a":1}') -> Request:
    return Request("POST", url, headers, body)


async def ok(exchange: Exchange) -> None:
    await exchange.write(OK)


async def never(exchange: Exchange) -> None:
    """Take the request and stay silent until the other side leaves."""
    await exchange.reader.read()


# ---------------------------------------------------------------- what goes out and comes back


async def test_sends_method_path_headers_and_body_and_returns_the_answer(make: Make) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.write(
            b"HTTP/1.1 418 Teapot\r\nX-One: 1\r\nX-Two: a\r\nx-two: b\r\nContent-Length: 3\r\n\r\ntea"
        )

    async with serving(answer) as server:
        request = post(f"http://127.0.0.1:{server.port}/a%20b?c=d", ("X-Key", "k"), body=b"\x00\xff")
        response = await make().send(request, timeout_s=10)
    assert (response.status, response.body) == (418, b"tea")
    assert response.headers == {"x-one": "1", "x-two": "a, b", "content-length": "3"}
    [seen] = server.seen
    assert (seen.method, seen.path, seen.body) == ("POST", "/a%20b?c=d", b"\x00\xff")
    assert seen.headers["x-key"] == "k"
    assert seen.headers["host"] == f"127.0.0.1:{server.port}"
    assert seen.headers["user-agent"].startswith("Mainstem/")
    assert "accept-encoding" not in seen.headers
    assert "referer" not in seen.headers


async def test_the_request_may_name_its_own_user_agent(make: Make) -> None:
    async with serving(ok) as server:
        await make().send(post(f"http://127.0.0.1:{server.port}/", ("User-Agent", "Other/1")), timeout_s=10)
    assert server.seen[0].headers["user-agent"] == "Other/1"


async def test_an_empty_post_says_so_and_a_get_has_no_body(make: Make) -> None:
    async with serving(ok) as server:
        transport = make()
        await transport.send(post(f"http://127.0.0.1:{server.port}/", body=b""), timeout_s=10)
        await transport.send(Request("GET", f"http://127.0.0.1:{server.port}/"), timeout_s=10)
    assert server.seen[0].headers["content-length"] == "0"
    assert "content-length" not in server.seen[1].headers


async def test_framing_headers_of_the_request_are_not_believed(make: Make) -> None:
    framing = (("Content-Length", "3"), ("Transfer-Encoding", "chunked"), ("Connection", "close"))
    async with serving(ok) as server:
        transport = make()
        for _ in range(2):
            url = f"http://127.0.0.1:{server.port}/"
            await transport.send(post(url, *framing, ("X-Kept", "1"), body=b"12345"), timeout_s=10)
    assert [seen.body for seen in server.seen] == [b"12345"] * 2
    assert "transfer-encoding" not in server.seen[0].headers
    assert server.seen[0].headers["x-kept"] == "1"
    assert server.connections == 1


async def test_headers_that_are_not_text_are_left_out(make: Make) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.write(
            b"HTTP/1.1 200 OK\r\nX-Bad: \xff\xe9\r\nX-Good: 1\r\nX-Good: 2\r\nContent-Length: 0\r\n\r\n"
        )

    async with serving(answer) as server:
        response = await make().send(post(f"http://127.0.0.1:{server.port}/"), timeout_s=10)
    assert response.headers == {"x-good": "1, 2", "content-length": "0"}


@pytest.mark.parametrize(
    "request_",
    [
        post("nonsense"),
        post("http://h:99999/"),
        Request("PO ST", "http://127.0.0.1/"),
        post("http://127.0.0.1/", ("X-A", "secret\r\nInjected: 1")),
        post("http://127.0.0.1/", ("X A", "1")),
        post("http://127.0.0.1/", ("", "1")),
    ],
)
async def test_a_malformed_request_is_unsendable_for_ever(make: Make, request_: Request) -> None:
    with pytest.raises(Unsendable) as caught:
        await make().send(request_, timeout_s=10)
    assert not caught.value.retryable
    assert "secret" not in str(caught.value)


async def test_proxy_variables_of_the_environment_are_ignored(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(ok) as proxy, serving(ok) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        await make().send(post(f"http://127.0.0.1:{server.port}/"), timeout_s=10)
    assert len(server.seen) == 1
    assert proxy.connections == 0


# ---------------------------------------------------------------- connections


async def test_connections_are_kept_and_one_closed_while_idle_is_replaced_silently(
    make: Make,
) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.write(OK)
        if exchange.number == 1:
            exchange.writer.close()

    async with serving(answer) as server:
        transport = make()
        for sent in range(3):
            if sent == 2:
                await server.until(lambda: server.open == 0)
            response = await transport.send(post(f"http://127.0.0.1:{server.port}/"), timeout_s=10)
            assert response.status == 200
    assert server.connections == 2


async def test_a_kept_connection_that_is_cut_after_the_request_is_reported_not_repeated(
    make: Make,
) -> None:
    async def answer(exchange: Exchange) -> None:
        if exchange.number == 1:
            exchange.writer.close()
        else:
            await exchange.write(OK)

    async with serving(answer) as server:
        transport = make()
        await transport.send(post(f"http://127.0.0.1:{server.port}/"), timeout_s=10)
        with pytest.raises(Cut):
            await transport.send(post(f"http://127.0.0.1:{server.port}/"), timeout_s=10)
    assert len(server.seen) == 2


async def test_requests_beyond_the_bound_wait_and_say_so_when_they_run_out_of_time(
    make: Make,
) -> None:
    async with serving(never) as server:
        transport = make(max_in_flight_per_origin=1)
        url = f"http://127.0.0.1:{server.port}/"
        first = asyncio.create_task(transport.send(post(url), timeout_s=30))
        await server.until(lambda: len(server.seen) == 1)
        with pytest.raises(TimedOut, match="waiting for a free connection") as caught:
            await transport.send(post(url), timeout_s=0.1)
        assert caught.value.nothing_sent
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_origins_beyond_the_bound_lose_their_connections(make: Make) -> None:
    async with serving(ok) as one, serving(ok) as two, serving(ok) as three:
        transport = make(max_origins=2)
        for server in (one, two, one, three):
            await transport.send(post(f"http://127.0.0.1:{server.port}/"), timeout_s=10)
        await two.until(lambda: two.open == 0)
        assert (one.open, three.open) == (1, 1)


async def test_close_ends_what_is_in_flight_and_refuses_more(make: Make) -> None:
    async with serving(never) as server:
        transport = make()
        url = f"http://127.0.0.1:{server.port}/"
        flying = asyncio.create_task(transport.send(post(url), timeout_s=1))
        await server.until(lambda: len(server.seen) == 1)
        await transport.close()
        with pytest.raises(Cut):
            await flying
        with pytest.raises(ConnectFailed, match="closed"):
            await transport.send(post(url), timeout_s=10)
        await server.until(lambda: server.open == 0)


async def test_a_cancelled_send_leaves_no_connection_after_its_time(make: Make) -> None:
    async with serving(never) as server:
        transport = make()
        url = f"http://127.0.0.1:{server.port}/"
        flying = asyncio.create_task(transport.send(post(url), timeout_s=1))
        await server.until(lambda: len(server.seen) == 1)
        flying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flying
        await server.until(lambda: server.open == 0)


# ---------------------------------------------------------------- answers that go wrong


async def _cut(exchange: Exchange) -> None:
    exchange.writer.close()


async def _reset(exchange: Exchange) -> None:
    exchange.writer.transport.abort()


async def _cut_in_head(exchange: Exchange) -> None:
    await exchange.write(b"HTTP/1.1 200 OK\r\nContent-")
    exchange.writer.close()


async def _cut_in_body(exchange: Exchange) -> None:
    await exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    exchange.writer.close()


async def _garbage(exchange: Exchange) -> None:
    await exchange.write(b"\x00\x01\x02 not http\r\n\r\n")
    exchange.writer.close()


async def _two_lengths(exchange: Exchange) -> None:
    await exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")


async def _endless_head(exchange: Exchange) -> None:
    await exchange.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        await exchange.write(b"X-Filler: " + b"x" * 8000 + b"\r\n")


@pytest.mark.parametrize(
    "answer",
    [_cut, _reset, _cut_in_head, _cut_in_body, _garbage, _two_lengths, _endless_head],
    ids=lambda answer: answer.__name__.strip("_"),
)
async def test_an_answer_that_breaks_off_or_is_not_http_is_cut(make: Make, answer: Answer) -> None:
    async with serving(answer) as server:
        with pytest.raises(Cut) as caught:
            await make().send(post(f"http://127.0.0.1:{server.port}/?key=hush"), timeout_s=10)
    assert caught.value.retryable
    assert not caught.value.nothing_sent
    assert caught.value.origin == f"http://127.0.0.1:{server.port}"
    assert "hush" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert len(server.seen) == 1


async def _slow_head(exchange: Exchange) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 10_000:
        await exchange.write(bytes((byte,)))
        await asyncio.sleep(0.05)


async def _slow_body(exchange: Exchange) -> None:
    await exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
    for _ in range(10_000):
        await exchange.write(b"x")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("answer", "phase"), [(never, "answer"), (_slow_head, "answer"), (_slow_body, "body")]
)
async def test_slowness_is_bounded_by_the_total_time_and_names_its_phase(
    make: Make, answer: Answer, phase: errors.Phase
) -> None:
    async with serving(answer) as server:
        with pytest.raises(TimedOut) as caught:
            await make().send(post(f"http://127.0.0.1:{server.port}/"), timeout_s=0.3)
        assert caught.value.phase == phase
        assert not caught.value.nothing_sent
        await server.until(lambda: server.open == 0)


async def test_only_the_first_bytes_of_a_huge_answer_are_kept(make: Make) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
        while True:
            await exchange.write(b"x" * 65_536)

    async with serving(answer) as server:
        transport = make(max_answer_bytes=1000)
        for _ in range(2):
            response = await transport.send(post(f"http://127.0.0.1:{server.port}/"), timeout_s=10)
            assert response.body == b"x" * 1000
        await server.until(lambda: server.open == 0)


async def test_a_chunked_answer_is_put_together(make: Make) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for chunk in (b"2\r\nab\r\n", b"3\r\ncde\r\n", b"0\r\n\r\n"):
            await exchange.write(chunk)
            await asyncio.sleep(0)

    async with serving(answer) as server:
        transport = make()
        for _ in range(2):
            response = await transport.send(post(f"http://127.0.0.1:{server.port}/"), timeout_s=10)
            assert response.body == b"abcde"
    assert server.connections == 1


# ---------------------------------------------------------------- no connection


async def test_nobody_listening_is_connect_failed(make: Make) -> None:
    async with serving(ok) as server:
        port = server.port
    with pytest.raises(ConnectFailed) as caught:
        await make().send(post(f"http://127.0.0.1:{port}/"), timeout_s=10)
    assert caught.value.retryable
    assert caught.value.nothing_sent


@pytest.fixture
def unaccepting() -> Iterator[int]:
    """The port of a listener whose queue is full: connecting to it never ends."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # the kernel takes one or two, then drops the rest
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_never_being_accepted_times_out_while_connecting(make: Make, unaccepting: int) -> None:
    transport = make(connect_timeout_s=0.2)
    with pytest.raises(TimedOut) as caught:
        await transport.send(post(f"http://127.0.0.1:{unaccepting}/"), timeout_s=30)
    assert caught.value.phase == "connect"
    assert caught.value.nothing_sent


async def test_the_total_time_bounds_connecting_too(make: Make, unaccepting: int) -> None:
    with pytest.raises(TimedOut):
        await make(connect_timeout_s=30.0).send(post(f"http://127.0.0.1:{unaccepting}/"), timeout_s=0.2)


async def test_a_silent_address_is_passed_over_for_the_next(make: Make, unaccepting: int) -> None:
    async with serving(ok, host="127.0.0.3", port=unaccepting) as server:
        transport = make(connect_timeout_s=0.2, resolve=answering(["127.0.0.1", "127.0.0.3"]))
        request = post(f"http://half.test:{server.port}/")
        assert (await transport.send(request, timeout_s=30)).status == 200


@pytest.mark.parametrize("error", [socket.gaierror(-2, "Name unknown"), UnicodeError("label")])
async def test_a_name_that_does_not_resolve_is_connect_failed(make: Make, error: Exception) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        raise error

    with pytest.raises(ConnectFailed, match="does not resolve"):
        await make(resolve=resolve).send(post("http://gone.test/"), timeout_s=10)


async def test_a_name_with_an_impossible_label_is_connect_failed(make: Make) -> None:
    with pytest.raises(ConnectFailed, match="does not resolve"):
        await make().send(post(f"http://{'a' * 64}.localhost/"), timeout_s=10)


async def test_a_name_without_addresses_is_connect_failed(make: Make) -> None:
    with pytest.raises(ConnectFailed, match="no address"):
        await make(resolve=answering([])).send(post("http://empty.test/"), timeout_s=10)


async def test_a_slow_lookup_is_bounded_and_shared(make: Make) -> None:
    lookups = 0
    found = asyncio.Event()

    async def resolve(host: str, port: int) -> Sequence[str]:
        nonlocal lookups
        lookups += 1
        await found.wait()
        return ["127.0.0.1"]

    async with serving(ok) as server:
        transport = make(resolve=resolve)
        url = f"http://slow.test:{server.port}/"
        with pytest.raises(TimedOut) as caught:
            await transport.send(post(url), timeout_s=0.05)
        assert caught.value.phase == "resolve"
        waiting = [asyncio.create_task(transport.send(post(url), timeout_s=10)) for _ in range(20)]
        await asyncio.sleep(0)
        found.set()
        assert {response.status for response in await asyncio.gather(*waiting)} == {200}
    assert lookups == 1


async def test_close_during_a_lookup_fails_the_request(make: Make) -> None:
    looking = asyncio.Event()

    async def resolve(host: str, port: int) -> Sequence[str]:
        looking.set()
        await asyncio.Event().wait()
        return []

    transport = make(resolve=resolve)
    sending = asyncio.create_task(transport.send(post("http://slow.test/"), timeout_s=10))
    await looking.wait()
    await transport.close()
    with pytest.raises(ConnectFailed, match="closed"):
        await sending


async def test_cancelling_during_a_lookup_cancels_only_the_one_who_waits(make: Make) -> None:
    found = asyncio.Event()

    async def resolve(host: str, port: int) -> Sequence[str]:
        await found.wait()
        return ["127.0.0.1"]

    async with serving(ok) as server:
        transport = make(resolve=resolve)
        request = post(f"http://slow.test:{server.port}/")
        first, second = (asyncio.create_task(transport.send(request, timeout_s=10)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        found.set()
        assert (await second).status == 200
    assert len(server.seen) == 1


async def test_a_lookup_that_used_up_the_time_leaves_none_to_connect(make: Make) -> None:
    clock = FixedClock()

    async def resolve(host: str, port: int) -> Sequence[str]:
        clock.advance(11)
        return ["127.0.0.1"]

    async with serving(ok) as server:
        with pytest.raises(TimedOut) as caught:
            await make(clock=clock, resolve=resolve).send(
                post(f"http://slow.test:{server.port}/"), timeout_s=10
            )
    assert caught.value.nothing_sent
    assert server.connections == 0


async def test_other_addresses_are_tried_when_one_does_not_answer(make: Make) -> None:
    async with serving(ok, host="127.0.0.3") as server:
        transport = make(resolve=answering(["127.0.0.1", "127.0.0.2", "127.0.0.3"]))
        url = f"http://many.test:{server.port}/"
        sends = (transport.send(post(url), timeout_s=10) for _ in range(10))
        responses = await asyncio.gather(*sends)
    assert {response.status for response in responses} == {200}
    assert len(server.seen) == 10
    with pytest.raises(ConnectFailed):
        await transport.send(post(url), timeout_s=10)


# ---------------------------------------------------------------- the guard


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "2130706433",
        "017700000001",
        "127.0.0.1.",
        "１２７.０.０.１",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost",
        "user:password@127.0.0.1",
    ],
)
async def test_loopback_is_refused_however_it_is_spelled(make: Make, host: str) -> None:
    async with serving(ok) as server:
        with pytest.raises(Refused, match=ALLOW_PRIVATE_KEY) as caught:
            await make(guard=AddressGuard()).send(post(f"http://{host}:{server.port}/"), timeout_s=10)
    assert not caught.value.retryable
    assert "password" not in str(caught.value)
    assert server.connections == 0


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "file:///etc/passwd", "ws://127.0.0.1/", "data:,x"])
async def test_only_http_and_https_are_sent_to(make: Make, url: str) -> None:
    with pytest.raises(Refused, match="only http and https"):
        await make().send(post(url), timeout_s=10)


ONLY_LISTED = AddressGuard(allowed=["127.0.0.1/32", "127.0.0.3/32"])


async def test_a_name_that_turns_private_later_is_never_connected_to(make: Make) -> None:
    clock = FixedClock()
    lookups = answering(["127.0.0.1"], ["127.0.0.2"], ["127.0.0.2", "127.0.0.1"])
    async with serving(ok) as good, serving(ok, host="127.0.0.2", port=good.port) as forbidden:
        transport = make(guard=ONLY_LISTED, clock=clock, resolve=lookups, resolution_ttl_s=60)
        url = f"http://rebinding.test:{good.port}/"
        await transport.send(post(url), timeout_s=10)
        clock.advance(59)
        await transport.send(post(url), timeout_s=10)
        clock.advance(1)
        with pytest.raises(Refused, match=r"127\.0\.0\.2 is loopback"):
            await transport.send(post(url), timeout_s=10)
        await transport.send(post(url), timeout_s=10)
        assert len(good.seen) == 3
        assert good.seen[0].headers["host"] == f"rebinding.test:{good.port}"
        assert forbidden.connections == 0


async def test_a_name_that_moves_is_followed_and_the_old_connection_goes(make: Make) -> None:
    clock = FixedClock()
    lookups = answering(["127.0.0.1"], ["127.0.0.3", "127.0.0.1"], ["127.0.0.3"])
    async with serving(ok) as old, serving(ok, host="127.0.0.3", port=old.port) as new:
        transport = make(clock=clock, resolve=lookups, resolution_ttl_s=60)
        for _ in range(3):
            await transport.send(post(f"http://moving.test:{old.port}/"), timeout_s=10)
            clock.advance(60)
        assert (len(old.seen), len(new.seen)) == (2, 1)
        assert old.connections == 1
        await old.until(lambda: old.open == 0)


@pytest.mark.parametrize(
    "name",
    ["UPPER.Test", "dot.test.", "bücher.test", "ﬀ.test", "under_score.test", "a..test", "*.test", "%41.test"],
)
async def test_every_spelling_of_a_name_is_pinned(make: Make, name: str) -> None:
    # None of these names exists: an answer proves that the pinned address was used, not a second lookup.
    async with serving(ok) as server:
        transport = make(resolve=answering(["127.0.0.1"]))
        assert (await transport.send(post(f"http://{name}:{server.port}/"), timeout_s=10)).status == 200


# ---------------------------------------------------------------- redirects


def redirecting(status: int, location: str, times: int = 1) -> Answer:
    async def answer(exchange: Exchange) -> None:
        if exchange.number < times:
            await exchange.write(
                f"HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
            )
        else:
            await exchange.write(OK)

    return answer


CREDENTIALS = (
    ("Authorization", "Basic eDp5"),
    ("Cookie", "a=b"),
    ("X-Api-Key", "k"),
    ("Content-Type", "application/json"),
)


@pytest.mark.parametrize("status", [307, 308])
async def test_a_redirect_that_keeps_the_method_is_followed_whole(make: Make, status: int) -> None:
    async with serving(redirecting(status, "/there?x=1")) as server:
        url = f"http://127.0.0.1:{server.port}/here"
        response = await make().send(post(url, *CREDENTIALS, body=b"again"), timeout_s=10)
    assert response.status == 200
    assert [(seen.method, seen.path, seen.body) for seen in server.seen] == [
        ("POST", "/here", b"again"),
        ("POST", "/there?x=1", b"again"),
    ]
    assert server.seen[1].headers["authorization"] == "Basic eDp5"


async def test_credentials_do_not_follow_to_another_origin(make: Make) -> None:
    async with (
        serving(ok) as other,
        serving(redirecting(307, f"http://127.0.0.1:{other.port}/there")) as server,
    ):
        url = f"http://127.0.0.1:{server.port}/"
        await make().send(post(url, *CREDENTIALS, body=b"again"), timeout_s=10)
    [seen] = other.seen
    assert seen.body == b"again"
    assert seen.headers["content-type"] == "application/json"
    assert not {"authorization", "cookie", "x-api-key"} & seen.headers.keys()


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304])
async def test_other_redirects_are_the_answer(make: Make, status: int) -> None:
    async with serving(redirecting(status, "/there")) as server:
        response = await make().send(post(f"http://127.0.0.1:{server.port}/"), timeout_s=10)
    assert response.status == status
    assert response.headers["location"] == "/there"
    assert len(server.seen) == 1


async def test_a_redirect_to_a_forbidden_address_is_refused(make: Make) -> None:
    async with serving(ok, host="127.0.0.2") as forbidden:
        target = f"http://127.0.0.2:{forbidden.port}/latest/meta-data"
        async with serving(redirecting(307, target)) as server:
            with pytest.raises(Refused, match=r"127\.0\.0\.2"):
                await make(guard=ONLY_LISTED).send(post(f"http://127.0.0.1:{server.port}/"), timeout_s=10)
    assert forbidden.connections == 0


@pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://127.0.0.1/"])
async def test_a_redirect_to_another_scheme_is_refused(make: Make, location: str) -> None:
    async with serving(redirecting(307, location)) as server:
        with pytest.raises(Refused, match="only http and https"):
            await make().send(post(f"http://127.0.0.1:{server.port}/"), timeout_s=10)


async def test_redirects_end_after_three(make: Make) -> None:
    async with serving(redirecting(307, "/again", times=100)) as server:
        response = await make().send(post(f"http://127.0.0.1:{server.port}/"), timeout_s=10)
    assert response.status == 307
    assert len(server.seen) == 4


@pytest.mark.parametrize("location", ["http://h:99999/", "http://["])
async def test_a_redirect_to_nowhere_is_the_answer(make: Make, location: str) -> None:
    async with serving(redirecting(307, location)) as server:
        response = await make().send(post(f"http://127.0.0.1:{server.port}/"), timeout_s=10)
    assert response.status == 307


async def test_a_redirect_without_a_location_is_the_answer(make: Make) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.write(b"HTTP/1.1 307 Elsewhere\r\nContent-Length: 0\r\n\r\n")

    async with serving(answer) as server:
        response = await make().send(post(f"http://127.0.0.1:{server.port}/"), timeout_s=10)
    assert response.status == 307


# ---------------------------------------------------------------- TLS


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_for(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_tls_with_an_authority_of_the_companys_own(make: Make, authority: trustme.CA) -> None:
    ca_pem = authority.cert_pem.bytes()
    async with serving(ok, tls=tls_for(authority, "tls.test")) as server:
        transport = make(ca_pem=ca_pem, resolve=answering(["127.0.0.1"]))
        response = await transport.send(post(f"https://tls.test:{server.port}/"), timeout_s=10)
    assert response.status == 200


@pytest.mark.parametrize(("trusted", "name"), [(False, "tls.test"), (True, "other.test")])
async def test_an_unknown_issuer_or_a_wrong_name_is_tls_failed(
    make: Make, authority: trustme.CA, trusted: bool, name: str
) -> None:
    ca_pem = authority.cert_pem.bytes() if trusted else None
    async with serving(ok, tls=tls_for(authority, name)) as server:
        transport = make(ca_pem=ca_pem, resolve=answering(["127.0.0.1"]))
        with pytest.raises(TlsFailed, match="certificate") as caught:
            await transport.send(post(f"https://tls.test:{server.port}/"), timeout_s=10)
    assert caught.value.nothing_sent
    assert server.seen == []


async def test_https_is_never_redirected_to_http(make: Make, authority: trustme.CA) -> None:
    async with serving(ok) as plain:
        target = f"http://127.0.0.1:{plain.port}/"
        async with serving(redirecting(307, target), tls=tls_for(authority, "tls.test")) as server:
            transport = make(ca_pem=authority.cert_pem.bytes(), resolve=answering(["127.0.0.1"]))
            response = await transport.send(post(f"https://tls.test:{server.port}/"), timeout_s=10)
    assert response.status == 307
    assert plain.connections == 0


async def test_a_server_that_speaks_no_tls_is_tls_failed_one_that_hangs_up_is_connect_failed(
    make: Make,
) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1) and plain:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as listener:
        url = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
        plain = True
        with pytest.raises(TlsFailed):
            await make().send(post(url), timeout_s=10)
        plain = False
        with pytest.raises(ConnectFailed):
            await make().send(post(url), timeout_s=10)


async def test_a_broken_authority_certificate_fails_at_the_start(make: Make) -> None:
    with pytest.raises(ValueError, match=r".+"):
        make(ca_pem=b"-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n")


# ---------------------------------------------------------------- the driver's errors

MAPPED: dict[type[driver.PyreqwestError], type[TransportError]] = {
    driver.PyreqwestError: Cut,
    driver.DetailedPyreqwestError: Cut,
    driver.RequestError: Cut,
    driver.StatusError: Cut,
    driver.RedirectError: Cut,
    driver.DecodeError: Cut,
    driver.BodyDecodeError: Cut,
    driver.JSONDecodeError: Cut,
    driver.TransportError: Cut,
    driver.RequestTimeoutError: TimedOut,
    driver.NetworkError: Cut,
    driver.ConnectTimeoutError: TimedOut,
    driver.ReadTimeoutError: TimedOut,
    driver.WriteTimeoutError: TimedOut,
    driver.PoolTimeoutError: TimedOut,
    driver.ConnectError: Cut,
    driver.ReadError: Cut,
    driver.WriteError: Cut,
    driver.ClientClosedError: Cut,
    driver.BuilderError: Unsendable,
    driver.RequestPanicError: Cut,
}


def test_every_error_class_of_the_driver_is_mapped() -> None:
    classes = {
        value
        for value in vars(driver).values()
        if inspect.isclass(value) and issubclass(value, driver.PyreqwestError)
    }
    assert classes == MAPPED.keys()
    for kind, ours in MAPPED.items():
        error = kind.__new__(kind)
        if isinstance(error, driver.DetailedPyreqwestError):
            error.details = {"causes": [{"message": "error for url (http://h/?key=hush)"}]}
        mapped = translate(error, "http://h")
        assert type(mapped) is ours
        assert "hush" not in str(mapped)


def test_every_error_of_ours_says_whether_it_may_be_retried() -> None:
    permanent = {kind for kind in TransportError.__subclasses__() if not kind.retryable}
    assert permanent == {Unsendable, Refused}


# ---------------------------------------------------------------- soak


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
async def test_thousands_of_requests_good_and_bad_leave_nothing_behind(make: Make) -> None:
    async def answer(exchange: Exchange) -> None:
        match exchange.number % 10:
            case 3:
                exchange.writer.close()
            case 5:
                await _cut_in_body(exchange)
            case 7:
                await exchange.write(b"HTTP/1.1 500 No\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 9000)
            case _:
                await exchange.write(OK)

    async with serving(answer) as server:
        clock = FixedClock()
        # Every lookup moves the name, so that clients are rebuilt, too.
        moves = [["127.0.0.1"], ["127.0.0.3"]] * 1000
        transport = make(clock=clock, resolve=answering(*moves), max_answer_bytes=1000)
        async with serving(answer, host="127.0.0.3", port=server.port) as second:
            request = post(f"http://soak.test:{server.port}/", body=b"x" * 1024)

            async def some(count: int) -> None:
                async def one() -> None:
                    with suppress(Cut):
                        await transport.send(request, timeout_s=10)

                for _ in range(count // 20):
                    await asyncio.gather(*(one() for _ in range(20)))
                    clock.advance(10)
                    server.seen.clear()
                    second.seen.clear()
                gc.collect()

            await some(1000)
            await server.until(lambda: server.open <= 20)
            memory, descriptors = _resident_bytes(), _descriptors()
            await some(4000)
            # The servers' ends are in this process, too; what may stay open is bounded by the pools.
            assert _descriptors() <= descriptors + 2 * 20 * 2
            assert _resident_bytes() - memory < 8 * 1024 * 1024
