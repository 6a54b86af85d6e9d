"""The HTTP/1.1 server under the gateway: one protocol object a connection, no coroutine or task a request.

client -> **http1** -> gateway. Measured on this path, ASGI and RSGI servers spend more on their own interface
than the whole ingest costs, so requests go from the parser (llhttp) straight to a `Handler`, and the answer
straight to the socket. RFC 9112: keep-alive, pipelining (answers in the order of the requests), chunked
bodies, `Expect: 100-continue`. TLS and HTTP/2 belong to a proxy in front.

Bounds, all in `Limits`: head bytes, body bytes (refused from Content-Length, else while reading), bytes of
unfinished bodies over all connections, connections, requests waiting in one connection, and time: one timer a
server sweeps all connections, so a connection costs no timer of its own. A connection that is too slow is
closed without an answer: every SDK retries a broken connection, while several drop a batch on 408.
"""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus
from typing import Final, Protocol, cast

import httptools
import msgspec

from mainstem.clock import Clock
from mainstem.telemetry.log import logger
from mainstem.telemetry.metrics import CONNECTIONS, SHED

_log = logger(__name__)

_MAX_PIPELINED: Final = 128
"""Requests of one connection that may wait for answers before we stop reading from it."""
_DRAIN_IDLE_S: Final = 1.0
"""How long a draining server still answers on connections that look idle (RFC 9112 §9.5: the client may be writing)."""
_LINGER_S: Final = 5.0
"""How long a refused client may go on sending before we close: closing at once resets the connection, and the
client might never see the answer (RFC 9112 §9.6)."""
_LINGER_BYTES: Final = 64 * 1024 * 1024
_LINGERING_CONNECTIONS: Final = 256
"""Connections above the limit that are told 503 in words; beyond these they are cut."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the server allows a client."""

    max_header_bytes: int = 32 * 1024
    max_body_bytes: int = 8 * 1024 * 1024
    max_buffered_bytes: int = 256 * 1024 * 1024
    header_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    idle_timeout_s: float = 75.0
    max_connections: int = 10_000
    sweep_interval_s: float = 1.0


class Answer:
    """A response, made once and sent many times."""

    __slots__ = ("_date", "_head", "_plain", "_rest", "_start", "status")

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = "application/json",
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        lines = [f"{name}: {value}\r\n" for name, value in headers]
        if status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            lines.append(f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n")
        self.status = status
        self._start = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
        self._head = "".join(lines).encode("latin-1") + b"\r\n"
        self._rest = self._head + body
        self._date = b""
        self._plain = b""

    def plain(self, date: bytes) -> bytes:
        """Return the bytes to send when there is nothing to add; put together once per date."""
        if self._date is not date:
            self._date = date
            self._plain = self._start + date + self._rest
        return self._plain

    def render(self, date: bytes, extra: bytes = b"", *, head_only: bool = False) -> bytes:
        """Return the bytes to send; `extra` are whole header lines."""
        return self._start + date + extra + (self._head if head_only else self._rest)


TOO_LARGE: Final = Answer(413, b'{"code":"request_too_large","message":"request size exceeds max limit"}')
BAD_REQUEST: Final = Answer(400, b'{"code":"bad_http","message":"the request is not valid HTTP/1.1"}')
HEAD_TOO_LARGE: Final = Answer(
    431, b'{"code":"headers_too_large","message":"the request headers are too large"}'
)
UNKNOWN_EXPECTATION: Final = Answer(
    417, b'{"code":"unknown_expectation","message":"only Expect: 100-continue is understood"}'
)
FAILED: Final = Answer(500, b'{"code":"internal_error","message":"the request could not be handled"}')
OVERLOADED: Final = Answer(
    503,
    b'{"code":"overloaded","message":"too much at once: try again later"}',
    headers=[("retry-after", "1")],
)
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE: Final = b"connection: close\r\n"


class Handler(Protocol):
    """What answers the requests."""

    def handle(self, exchange: "Exchange") -> None:
        """Answer now, or keep the exchange and answer later, on the event loop, exactly once."""
        ...

    def refusal_headers(self, headers: dict[bytes, bytes]) -> bytes:
        """Return header lines for an answer that the server gives by itself (CORS)."""
        ...

    def tick(self) -> None:
        """Called at every sweep, about once a second."""
        ...


class Exchange:
    """One request and the place for its answer."""

    __slots__ = ("_answer", "_last", "body", "connection", "headers", "method", "url")

    def __init__(
        self,
        connection: "Connection",
        method: bytes,
        url: bytes,
        headers: dict[bytes, bytes],
        body: bytes,
        last: bool,
    ) -> None:
        self.connection = connection
        self.method = method
        self.url = url
        """The request target as it came: path, `?`, query."""
        self.headers = headers
        """Lower-case names; values of a repeated header are joined by commas."""
        self.body = body
        self._last = last
        self._answer = b""

    @property
    def peer(self) -> str:
        """The address the connection comes from."""
        return self.connection.peer

    def respond(self, answer: Answer, extra: bytes = b"") -> None:
        """Send the answer, in its turn; `extra` are whole header lines. A client that has gone is no error."""
        connection = self.connection
        server = connection.server
        if self._last or server.draining:
            self._last = True
            extra += _CLOSE
        if extra or self.method == b"HEAD":
            payload = answer.render(server.date, extra, head_only=self.method == b"HEAD")
        else:
            # As `plain` does, without the call.
            payload = answer._plain if answer._date is server.date else answer.plain(server.date)
        queue = connection.queue
        if not queue:
            return
        if queue[0] is not self:
            self._answer = payload
            return
        transport = connection._transport
        if transport is not None:
            transport.write(payload)
        queue.popleft()
        if self._last:
            connection.finish()
        elif queue:
            _send_ready(connection)

    def close_after(self) -> None:
        """Close the connection after this answer."""
        self._last = True


def _send_ready(connection: "Connection") -> None:
    queue = connection.queue
    while queue and queue[0]._answer:
        exchange = queue.popleft()
        connection.send(exchange._answer)
        if exchange._last:
            connection.finish()
            return
    connection.resume_if_drained()


_IDLE: Final = 0
_HEAD: Final = 1
_BODY: Final = 2


class Connection(asyncio.Protocol):
    """One client connection. The parser calls the `on_…` methods."""

    __slots__ = (
        "_accounted", "_chunks", "_closing", "_completed", "_ended", "_headers", "_linger_bytes", "_parser", "_phase",
        "_reading_paused", "_refused", "_since", "_size", "_timed_phase", "_transport", "_upgrade", "_url",
        "_wire_bytes", "_writing_paused", "peer", "queue", "server",
    )  # fmt: skip

    def __init__(self, server: "Server") -> None:
        self.server = server
        self.peer = ""
        self.queue: deque[Exchange] = deque()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._chunks: list[bytes] = []
        self._size = 0
        self._completed = False
        """A request ended within the piece of data being fed."""
        self._accounted = 0
        """Bytes of the unfinished body counted in `server.buffered_bytes`."""
        self._wire_bytes = 0
        self._phase = _IDLE
        self._timed_phase = _IDLE
        self._since = server.now
        """When the timed phase began."""
        self._refused = False
        """No more requests are read: what still comes in is thrown away."""
        self._closing = False
        """The last answer is on its way."""
        self._ended = False
        """The client has sent its last byte."""
        self._linger_bytes = 0
        self._upgrade = False
        self._reading_paused = False
        self._writing_paused = False

    # ---- transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have all the methods but not the base class.
        self._transport = cast("asyncio.Transport", transport)
        address = transport.get_extra_info("peername")
        self.peer = address[0].removeprefix("::ffff:") if isinstance(address, tuple) else ""
        server = self.server
        open_now = len(server.connections)
        if open_now >= server.limits.max_connections + _LINGERING_CONNECTIONS:
            SHED.labels("connections").inc()
            self._transport.abort()
            return
        server.connections.add(self)
        if open_now >= server.limits.max_connections:
            SHED.labels("connections").inc()
            self.refuse(OVERLOADED)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        self.server.buffered_bytes -= self._accounted
        self._accounted = 0
        self.queue.clear()
        self._transport = None
        del self._parser  # it holds this object: no garbage left for the collector
        self._chunks = []
        if not self.server.connections:
            self.server.quiet.set()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self._linger_bytes += len(data)
            if self._linger_bytes > _LINGER_BYTES:
                self.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline_upgrade(data[offer.args[0] :])
            return
        except httptools.HttpParserError:
            if not self._refused:
                self.refuse(BAD_REQUEST)
            return
        phase = self._phase
        if phase == _IDLE:
            self._since = self.server.now
            self._timed_phase = _IDLE
            self._completed = False
        else:
            self._unfinished(phase, len(data))

    def _unfinished(self, phase: int, fed: int) -> None:
        """Keep the bounds of a request that has not come in whole."""
        limits = self.server.limits
        if phase != self._timed_phase:
            self._timed_phase = phase
            self._since = self.server.now
            self._wire_bytes = 0
        if self._completed:
            # Whole requests came in with this piece: how much of it belongs to the unfinished one is not
            # known, and is less than one read.
            self._completed = False
        else:
            self._wire_bytes += fed
        if phase == _HEAD:
            if self._wire_bytes > limits.max_header_bytes and not self._refused:
                self.refuse(HEAD_TOO_LARGE)
            return
        self.server.buffered_bytes += self._size - self._accounted
        self._accounted = self._size
        if self.server.buffered_bytes > limits.max_buffered_bytes:
            SHED.labels("backlog").inc()
            self.refuse(OVERLOADED)
        elif self._wire_bytes > 2 * limits.max_body_bytes + limits.max_header_bytes:
            # Chunk headers, extensions and trailers count as well.
            self.refuse(TOO_LARGE)

    def _decline_upgrade(self, rest: bytes) -> None:
        """Go on in HTTP/1.1 (RFC 9110 §7.8): Java's client offers h2c with its first request."""
        if not self._upgrade:  # CONNECT, which has its answer already
            self._refused = True
            if self.queue:
                self.queue[-1].close_after()
            else:
                self.finish()
            return
        head = [self._parser.get_method() + b" " + self._url + b" HTTP/1.1\r\n"]
        head += [
            b"%b: %b\r\n" % (name, value)
            for name, value in self._headers.items()
            if name not in (b"upgrade", b"connection", b"http2-settings")
        ]
        self._reset()
        self._upgrade = False
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join(head) + b"\r\n" + rest)

    def eof_received(self) -> bool:
        """The client has sent its last byte: what came in is still answered, then the connection closes."""
        self._ended = True
        if self.queue:
            self.queue[-1].close_after()
        return bool(self.queue)

    def pause_writing(self) -> None:
        self._writing_paused = True
        self._since = self.server.now
        self._pause_reading()

    def resume_writing(self) -> None:
        self._writing_paused = False
        self.resume_if_drained()

    def _pause_reading(self) -> None:
        if not self._reading_paused and self._transport is not None and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_if_drained(self) -> None:
        """Read on if reading was paused and its reason is over."""
        if not self._reading_paused or self._writing_paused or len(self.queue) >= _MAX_PIPELINED:
            return
        if self._transport is not None and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()

    # ---- parser

    def on_url(self, url: bytes) -> None:
        self._phase = _HEAD
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase != _HEAD:
            return  # a trailer
        name = name.lower()
        headers = self._headers
        if name in headers:
            value = headers[name] + b", " + value
        headers[name] = value

    def on_headers_complete(self) -> None:
        self._phase = _BODY
        headers = self._headers
        length = headers.get(b"content-length")
        if length is not None and int(length) > self.server.limits.max_body_bytes:
            self.refuse(TOO_LARGE)
            return
        if b"expect" in headers:
            if headers[b"expect"].lower() != b"100-continue":
                self.refuse(UNKNOWN_EXPECTATION)
            elif not self.queue and length != b"0":
                self.send(_CONTINUE)
        if b"upgrade" in headers:
            self._upgrade = bool(self._parser.should_upgrade())

    def on_body(self, chunk: bytes) -> None:
        if self._refused:
            return
        self._size += len(chunk)
        if self._size > self.server.limits.max_body_bytes:
            self.refuse(TOO_LARGE)
            return
        self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        if self._refused or self._upgrade:
            return
        chunks = self._chunks
        body = (chunks[0] if len(chunks) == 1 else b"".join(chunks)) if chunks else b""
        parser = self._parser
        last = not parser.should_keep_alive()
        exchange = Exchange(self, parser.get_method(), self._url, self._headers, body, last)
        self._reset()
        queue = self.queue
        queue.append(exchange)
        if last:
            self._refused = True
        elif len(queue) >= _MAX_PIPELINED:
            self._pause_reading()
        try:
            self.server.handler.handle(exchange)
        except Exception:  # noqa: BLE001 - a bug in one request is logged, answered 500 and costs no other
            _log.exception("a request could not be handled")
            exchange.respond(FAILED, self.server.handler.refusal_headers(exchange.headers))

    def _reset(self) -> None:
        if self._accounted:
            self.server.buffered_bytes -= self._accounted
            self._accounted = 0
        if self._chunks:
            self._chunks = []
        self._url = b""
        self._headers = {}
        self._size = 0
        self._phase = _IDLE
        self._timed_phase = _IDLE
        self._completed = True

    # ---- out

    def send(self, payload: bytes) -> None:
        """Write bytes; the order is the caller's."""
        transport = self._transport
        if transport is not None:
            transport.write(payload)

    def refuse(self, answer: Answer) -> None:
        """Answer what is being read now, and close: its end can't be told or is not wanted."""
        exchange = Exchange(self, b"", self._url, self._headers, b"", last=True)
        extra = self.server.handler.refusal_headers(self._headers)
        self._reset()
        self._refused = True
        self._since = self.server.now
        self.queue.append(exchange)
        exchange.respond(answer, extra)

    def finish(self) -> None:
        """Close after the last answer, once the client has stopped sending or has had its time."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._refused = True
        self._closing = True
        self._since = self.server.now
        self.queue.clear()
        if self._ended or self.server.draining:
            transport.close()
            return
        if self._reading_paused:
            self._reading_paused = False
            transport.resume_reading()
        with contextlib.suppress(OSError, RuntimeError):  # the client may have gone
            transport.write_eof()

    def close_if_idle(self) -> None:
        """Close now if nothing is being read or answered."""
        if self._phase == _IDLE and not self.queue and not self._closing and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    def check(self, now: float) -> None:
        """Close if a time limit has passed."""
        waited_s = now - self._since
        limits = self.server.limits
        if self._closing:
            if waited_s > _LINGER_S:
                self.abort()
        elif self._writing_paused:
            if waited_s > limits.body_timeout_s:
                self.abort()
        elif self._phase == _HEAD:
            if waited_s > limits.header_timeout_s:
                self.abort()
        elif self._phase == _BODY:
            if waited_s > limits.body_timeout_s:
                self.abort()
        elif not self.queue and waited_s > limits.idle_timeout_s and self._transport is not None:
            self._transport.close()


class Server:
    """Serves one handler on one listening socket."""

    def __init__(self, handler: Handler, clock: Clock, limits: Limits | None = None) -> None:
        self.handler = handler
        self.limits = limits or Limits()
        self.connections: set[Connection] = set()
        self.buffered_bytes = 0
        """Bytes of bodies that have not come in whole, over all connections."""
        self.draining = False
        self.quiet = asyncio.Event()
        self._clock = clock
        self.now = clock.monotonic()
        """The time of the last sweep: what the limits are measured by."""
        self.date = b""
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = asyncio.Event()
        self._read_clock()

    async def serve(self, sock: socket.socket) -> None:
        """Accept from a listening socket until `drain`. The socket stays the caller's, open and listening, so
        that another process, or the next server of this one, takes over without a refused connection."""
        loop = asyncio.get_running_loop()
        # backlog: listen() is called again on the socket; a burst waits in the kernel, not refused.
        own = sock.dup()
        own.setblocking(False)
        self._server = await loop.create_server(lambda: Connection(self), sock=own, backlog=4096)
        self._timer = loop.call_later(self.limits.sweep_interval_s, self._sweep_and_repeat)
        await self._stopped.wait()

    async def drain(self, timeout_s: float) -> None:
        """Stop accepting, finish what is in flight, close; after `timeout_s` cut what is left.

        A request may be on its way on a connection that looks idle: for a moment it is still answered, and the
        answer closes the connection. What is idle after that moment is closed.
        """
        self.draining = True
        if self._server is not None:
            self._server.close()
        self.quiet.clear()
        grace_s = min(_DRAIN_IDLE_S, timeout_s)
        for wait_s in (grace_s, timeout_s - grace_s):
            if self.connections:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.quiet.wait(), wait_s)
            for connection in list(self.connections):
                connection.close_if_idle()
        for connection in list(self.connections):
            connection.abort()
        if self._timer is not None:
            self._timer.cancel()
        self.sweep()
        self._stopped.set()

    def sweep(self) -> None:
        """Move the server's time on, close connections whose time is over, let the handler tick."""
        self._read_clock()
        now = self.now
        for connection in list(self.connections):
            connection.check(now)
        CONNECTIONS.set(len(self.connections))
        self.handler.tick()

    def _sweep_and_repeat(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(
            self.limits.sweep_interval_s, self._sweep_and_repeat
        )
        self.sweep()

    def _read_clock(self) -> None:
        self.now = self._clock.monotonic()
        moment = datetime.fromtimestamp(self._clock.now_ms() // 1000, UTC)
        self.date = b"date: " + format_datetime(moment, usegmt=True).encode() + b"\r\n"
