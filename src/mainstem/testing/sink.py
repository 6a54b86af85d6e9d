"""A destination to test against: a real HTTP server that records what it is sent, in order, and misbehaves by
script.

    async with Sink() as sink:
        sink.script = in_turn(lambda request: request.json()["userId"], {"u1": [500, Cut(), 200]})
        ... sink.url ...; sink.requests

As a program, it records request bodies as JSON lines: `python -m mainstem.testing.sink --port 9000 --record F`.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import httptools
import msgspec
import uvloop


class Answer(msgspec.Struct, frozen=True):
    """An ordinary answer."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b"{}"
    after_s: float = 0.0
    """How long it takes."""


class Cut(msgspec.Struct, frozen=True):
    """The connection is closed without an answer."""


class Never(msgspec.Struct, frozen=True):
    """No answer, and the connection stays open."""


Behaviour = Answer | Cut | Never


class Received(msgspec.Struct):
    """One request, in the order in which requests were complete."""

    method: str
    path: str
    """With the query."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    status: int = 0
    """What it was answered with; 0 = cut or never."""

    def json(self) -> Any:
        """Return the body, parsed."""
        return msgspec.json.decode(self.body)


Script = Callable[[Received], Behaviour | int]
"""Decides the answer to each request; a number is an `Answer` with that status."""


def always(behaviour: Behaviour | int) -> Script:
    """Return a script that answers everything alike."""
    return lambda request: behaviour


def in_turn(key: Callable[[Received], str], scripts: Mapping[str, Iterable[Behaviour | int]]) -> Script:
    """Return a script that answers the requests of each key in the order given, then 200."""
    turns = {name: iter(script) for name, script in scripts.items()}
    return lambda request: next(turns.get(key(request), iter(())), 200)


_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Sink:
    """The server. Listens on 127.0.0.1; `port` 0 chooses one."""

    def __init__(self, *, port: int = 0, record: BinaryIO | None = None, keep: bool = True) -> None:
        """
        Args:
            record: also write every request as a JSON line.
            keep: hold the requests in `requests`.
        """
        self.script: Script | None = None
        """None = 200 at once."""
        self.requests: list[Received] = []
        self.count = 0
        self.open_requests = 0
        """Received and not answered yet."""
        self.most_open = 0
        self._port = port
        self._record = record
        self._keep = keep
        self._server: asyncio.Server | None = None
        self.connections: set[_Connection] = set()
        self._arrived = asyncio.Event()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Begin to listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self._port, backlog=4096
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and cut all connections; `start` listens on the same port again."""
        if self._server is not None:
            self._server.close()
            for connection in list(self.connections):
                connection.abort()
            await self._server.wait_closed()
            self._server = None

    async def __aenter__(self) -> "Sink":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def wait_for(self, enough: Callable[["Sink"], bool], *, timeout_s: float = 20.0) -> None:
        """Wait until `enough` is true; it is asked after every request.

        Raises:
            TimeoutError: it did not become true in time.
        """
        async with asyncio.timeout(timeout_s):
            while not enough(self):
                self._arrived.clear()
                await self._arrived.wait()

    def take(self, connection: "_Connection", request: Received) -> None:
        """Record a request and answer it."""
        self.count += 1
        self._arrived.set()
        if self._keep:
            self.requests.append(request)
        if self._record is not None:
            self._record.write(
                b'{"path":%b,"body":%b}\n' % (msgspec.json.encode(request.path), request.body or b"null")
            )
        if self.script is None:
            request.status = 200
            connection.write(_OK)
            return
        behaviour = self.script(request)
        if isinstance(behaviour, int):
            behaviour = Answer(behaviour)
        self.open_requests += 1
        self.most_open = max(self.most_open, self.open_requests)
        if isinstance(behaviour, Cut):
            self.open_requests -= 1
            connection.abort()
        elif isinstance(behaviour, Answer):
            request.status = behaviour.status
            if behaviour.after_s:
                asyncio.get_running_loop().call_later(behaviour.after_s, self._answer, connection, behaviour)
            else:
                self._answer(connection, behaviour)

    def _answer(self, connection: "_Connection", answer: Answer) -> None:
        self.open_requests -= 1
        head = [f"HTTP/1.1 {answer.status} Scripted", f"content-length: {len(answer.body)}"]
        head += [f"{name}: {value}" for name, value in answer.headers]
        connection.write("\r\n".join(head).encode() + b"\r\n\r\n" + answer.body)


class _Connection(asyncio.Protocol):
    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._sink.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._sink.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # httptools calls these
    def on_message_begin(self) -> None:
        self._path = b""
        self._headers = {}
        self._body = []

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._sink.take(
            self,
            Received(
                self._parser.get_method().decode(),
                self._path.decode("latin-1"),
                self._headers,
                b"".join(self._body),
            ),
        )


async def _serve(port: int, record: Path | None) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    with contextlib.ExitStack() as stack:
        file = None if record is None else stack.enter_context(record.open("ab", buffering=0))
        sink = Sink(port=port, record=file, keep=False)
        await sink.start()
        sys.stdout.write(f"listening on {sink.url}\n")
        sys.stdout.flush()
        await stopped.wait()
        await sink.stop()
        sys.stdout.write(f"received {sink.count}\n")


def main() -> None:
    """Run a sink until TERM or INT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument(
        "--record", type=Path, default=None, help="append requests to this file as JSON lines"
    )
    arguments = parser.parse_args()
    uvloop.run(_serve(arguments.port, arguments.record))


if __name__ == "__main__":
    main()
