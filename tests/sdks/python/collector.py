"""A collector of events that misbehaves as it is told: what the SDK meets when a server, or the way to it, has trouble.

    with Collector() as collector:
        collector.script = lambda request: Reply(503) if request.number < 3 else Reply(200)

Like the gateway it answers 200 once it has the events, knows a messageId again, and reads gzip. It runs on threads, so
that tests of a blocking library need no event loop; any port can be left (`stop`) and taken again (`start`).
"""

import json
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests.components.process import free_port

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Reply:
    """What to do with a request."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """None = what the gateway would say."""
    cut: bool = False
    """Take the events, and close the connection instead of answering."""
    reset: bool = False
    """Close the connection without having taken anything."""
    wait: threading.Event | None = None
    """Do not answer before this is set."""
    close: bool = False
    """Say that the connection ends with this answer."""


@dataclass(frozen=True)
class Request:
    """One batch as it came in."""

    number: int
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    """Without the gzip."""
    connection: int
    """Which connection of all it came by."""

    @property
    def batch(self) -> list[Event]:
        """Its events."""
        return list(json.loads(self.body)["batch"])

    @property
    def ids(self) -> list[str]:
        """Their messageIds."""
        return [event["messageId"] for event in self.batch]


Script = Callable[[Request], Reply]


class Collector:
    """See the module."""

    def __init__(self, script: Script | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self.script: Script = script or (lambda _: Reply())
        self.port = free_port()
        self.requests: list[Request] = []
        self.most_at_once = 0
        """The most requests that were ever under way at the same time."""
        self._accepted: dict[str, Event] = {}
        self._tls = tls
        self._lock = threading.Lock()
        self._under_way = 0
        self._connections = 0
        self._changed = threading.Condition()
        self._server: ThreadingHTTPServer | None = None
        self._open: set[socket.socket] = set()

    @property
    def url(self) -> str:
        """What to give a client as host."""
        return f"{'https' if self._tls else 'http'}://{'localhost' if self._tls else '127.0.0.1'}:{self.port}"

    @property
    def arrived(self) -> list[Event]:
        """What was accepted, each messageId once, in the order in which it first came."""
        with self._lock:
            return list(self._accepted.values())

    @property
    def ids(self) -> list[str]:
        """The messageIds of what was accepted."""
        return [event["messageId"] for event in self.arrived]

    def until(self, condition: Callable[["Collector"], bool], timeout_s: float = 30.0) -> None:
        """Wait until a condition holds that requests can bring about.

        Raises:
            AssertionError: It does not in time.
        """
        with self._changed:
            held = self._changed.wait_for(lambda: condition(self), timeout_s)
        assert held, f"waited in vain; {len(self.requests)} requests, {len(self.arrived)} events"

    def start(self) -> None:
        """Listen."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Leave the port and break every connection, as a server that is killed."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        with self._lock:
            opened, self._open = list(self._open), set()
        for connection in opened:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- for the handler

    def connected(self, connection: socket.socket) -> int:
        with self._lock:
            self._open.add(connection)
            self._connections += 1
            return self._connections

    def begin(self, path: str, headers: Mapping[str, str], body: bytes, connection: int) -> Request:
        with self._lock:
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
            request = Request(len(self.requests), path, headers, body, connection)
            self.requests.append(request)
        with self._changed:
            self._changed.notify_all()
        return request

    def end(self, request: Request, *, accepted: bool) -> None:
        """Called before the answer leaves: whoever has it may ask what has arrived."""
        with self._lock:
            self._under_way -= 1
            if accepted:
                for event in request.batch:
                    self._accepted.setdefault(event["messageId"], event)
        with self._changed:
            self._changed.notify_all()


def _handler(collector: Collector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            self.connection_number = collector.connected(self.connection)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = zlib.decompress(body, 31)
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = collector.begin(self.path, headers, body, self.connection_number)
            reply = Reply(500, body=b"the script failed")
            try:
                reply = collector.script(request)
                if reply.wait is not None:
                    reply.wait.wait(30.0)
            finally:
                collector.end(request, accepted=reply.status == 200 and not reply.reset)
            if reply.cut or reply.reset:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            answer = reply.body
            if answer is None:
                answer = (
                    b'{"success":true,"ok":true}'
                    if reply.status == 200
                    else json.dumps({"code": "scripted", "message": f"scripted {reply.status}"}).encode()
                )
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.close:
                self.send_header("Connection", "close")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def handle(self) -> None:
            try:
                super().handle()
            except (ConnectionError, ValueError, OSError):
                # The client, or `stop`, has closed it.
                self.close_connection = True

        def finish(self) -> None:
            try:
                super().finish()
            except (ConnectionError, ValueError, OSError):
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Nothing."""

    return Handler
