"""One batch to the server and its answer, over HTTP/1.1 with keep-alive, on a thread that has other duties.

    store -> sender -> **transport** -> POST {host}/v1/batch

http.client writes and reads; the socket under it never blocks. While it waits (for a connection, a handshake, room in
the socket's buffer, an answer) `meanwhile` is called every few milliseconds, and what the callers produce is put
on the disk. So one thread is enough, and a silent server does not widen the window of `durability="batch"`.
Names are looked up by a thread that lives no longer than that, as the system's resolver can't be asked without waiting.

TLS certificates are verified against the system's authorities. Proxies are those of the environment (HTTP_PROXY,
HTTPS_PROXY, NO_PROXY) unless some are given.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import http.client
import io
import os
import select
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable
from urllib.parse import unquote, urlsplit

from mainstem_analytics.version import VERSION

SLICE_S = 0.02
_MAX_ANSWER_BYTES = 256 * 1024
_PATH = "/v1/batch"
_UNDER_WAY = (errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", errno.EWOULDBLOCK))


class TransportFailed(Exception):
    """No answer: the name, the connection, TLS, or the time."""


class Abandoned(Exception):
    """`meanwhile` said that there is no time left to wait for an answer."""


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


@dataclass(frozen=True)
class Endpoint:
    """Where events go, as parsed from `host`."""

    secure: bool
    name: str
    port: int
    path: str

    @classmethod
    def parse(cls, host: str) -> Endpoint:
        """Read `https://events.example.com`, with or without a path, a trailing slash, `/v1/batch`.

        Raises:
            ValueError: It is no http or https address.
        """
        address = host if "://" in host else f"https://{host}"
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"host must be an address like https://events.example.com, not {host!r}")
        secure = parts.scheme == "https"
        path = parts.path.rstrip("/")
        path = path if path.endswith(_PATH) else path + _PATH
        return cls(secure, parts.hostname, parts.port or (443 if secure else 80), path)

    @property
    def authority(self) -> str:
        """Name and port, as the Host header has them."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port == (443 if self.secure else 80) else f"{name}:{self.port}"


@dataclass(frozen=True)
class _Proxy:
    name: str
    port: int
    credentials: str = field(repr=False)
    """For `Proxy-Authorization: Basic`; empty if it asks for none."""


class Transport:
    """A connection to one server, opened when it is needed and kept."""

    def __init__(
        self,
        endpoint: Endpoint,
        write_key: str,
        *,
        timeout_s: float,
        meanwhile: Callable[[], None],
        proxies: Mapping[str, str] | str | None = None,
    ) -> None:
        """
        Args:
            timeout_s: of silence, while connecting or waiting for the answer.
            meanwhile: called every 20 ms while waiting; may raise `Abandoned`.
            proxies: by scheme, as Requests takes them, or one for all; None = the environment's.
        """
        self._endpoint = endpoint
        self._headers = {
            "Host": endpoint.authority,
            "Content-Type": "application/json",
            "User-Agent": f"mainstem-analytics-python/{VERSION}",
            "Authorization": "Basic " + base64.b64encode(f"{write_key}:".encode()).decode(),
        }
        self._timeout_s = timeout_s
        self._meanwhile = meanwhile
        self._proxies = {"http": proxies, "https": proxies} if isinstance(proxies, str) else proxies
        self._connection: _Connection | None = None
        self._tls: ssl.SSLContext | None = None

    def post(self, body: bytes, *, gzipped: bool) -> Answer:
        """Send one batch.

        Raises:
            TransportFailed: There was no answer; whether the server has the batch is not known.
            Abandoned: `meanwhile` raised it.
        """
        headers = {**self._headers, "Content-Length": str(len(body))}
        if gzipped:
            headers["Content-Encoding"] = "gzip"
        kept = self._connection is not None
        try:
            return self._exchange(body, headers)
        except (ConnectionError, http.client.BadStatusLine) as error:
            # A server may close a kept connection at any moment. The messageIds are the same: no harm in a second try.
            self.close()
            if not kept:
                raise TransportFailed(_words(error)) from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise TransportFailed(_words(error)) from error
        except BaseException:
            self.close()
            raise
        try:
            return self._exchange(body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise TransportFailed(_words(error)) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _exchange(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        if self._connection is not None and self._connection.hung_up():
            self.close()
        if self._connection is None:
            self._connection = self._connect()
        connection = self._connection
        connection.request("POST", connection.target, body, headers)
        response = connection.getresponse()
        content = response.read(_MAX_ANSWER_BYTES)
        answer = Answer(
            response.status, {name.lower(): value for name, value in response.getheaders()}, content
        )
        if response.will_close or response.read(1):
            self.close()
        return answer

    def _connect(self) -> _Connection:
        endpoint = self._endpoint
        tls = None
        if endpoint.secure:
            tls = self._tls = self._tls or ssl.create_default_context()
        proxy = self._proxy()
        connection = _Connection(endpoint, proxy, tls, self._timeout_s, self._meanwhile)
        if proxy is not None and not endpoint.secure:
            connection.target = f"http://{endpoint.authority}{endpoint.path}"
        return connection

    def _proxy(self) -> _Proxy | None:
        scheme = "https" if self._endpoint.secure else "http"
        if self._proxies is not None:
            found = self._proxies.get(scheme)
        elif urllib.request.proxy_bypass(self._endpoint.authority):
            found = None
        else:
            found = urllib.request.getproxies().get(scheme)
        if not found:
            return None
        parts = urlsplit(found if "://" in found else f"http://{found}")
        if not parts.hostname or parts.scheme != "http":
            raise OSError("the proxy's address must be http://name:port")
        credentials = ""
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            credentials = base64.b64encode(pair.encode()).decode()
        return _Proxy(parts.hostname, parts.port or 80, credentials)


class _Connection(http.client.HTTPConnection):
    """http.client's, over a socket that does not block."""

    def __init__(
        self,
        endpoint: Endpoint,
        proxy: _Proxy | None,
        tls: ssl.SSLContext | None,
        timeout_s: float,
        meanwhile: Callable[[], None],
    ) -> None:
        super().__init__(endpoint.name, endpoint.port)
        self.target = endpoint.path
        self._endpoint = endpoint
        self._proxy = proxy
        self._tls = tls
        self._timeout_s = timeout_s
        self._meanwhile = meanwhile
        self._patient: _PatientSocket | None = None

    def connect(self) -> None:
        """Open the connection; called by `request`."""
        first = self._proxy or self._endpoint
        patient = self._reach(first.name, first.port)
        try:
            if self._proxy is not None and self._tls is not None:
                self._tunnel_through(patient)
            if self._tls is not None:
                patient.secure(self._tls, self._endpoint.name)
        except BaseException:
            patient.close()
            raise
        self._patient = patient
        self.sock: Any = patient

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any) -> None:
        """Send; a proxy that is spoken to in plain HTTP is told who asks."""
        if self._proxy is not None and self._tls is None and self._proxy.credentials:
            headers = {**headers, "Proxy-Authorization": f"Basic {self._proxy.credentials}"}
        super().request(method, url, body, headers, **options)

    def hung_up(self) -> bool:
        """Whether the other side has closed (or said something unasked), which makes it of no use."""
        return self._patient is not None and self._patient.readable_now()

    def _reach(self, name: str, port: int) -> _PatientSocket:
        failed: OSError = OSError(f"no address for {name}")
        for family, kind, protocol, _, address in self._resolve(name, port):
            raw = socket.socket(family, kind, protocol)
            patient = _PatientSocket(raw, self._timeout_s, self._meanwhile)
            try:
                raw.setblocking(False)
                patient.reach(address)
            except OSError as error:
                patient.close()
                failed = error
            except BaseException:
                patient.close()
                raise
            else:
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return patient
        raise failed

    def _resolve(self, name: str, port: int) -> list[Any]:
        found: list[Any] = []
        failed: list[OSError] = []
        with contextlib.suppress(OSError, UnicodeError):
            # An address needs no asking.
            return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)

        def ask() -> None:
            try:
                found.extend(socket.getaddrinfo(name, port, type=socket.SOCK_STREAM))
            except OSError as error:
                failed.append(error)
            except UnicodeError as error:
                failed.append(OSError(f"{name} is no name of a host: {error}"))

        thread = threading.Thread(target=ask, name="mainstem-analytics-resolver", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The interpreter ends and starts no thread any more.
            ask()
        else:
            deadline = time.monotonic() + self._timeout_s
            while thread.is_alive():
                thread.join(SLICE_S)
                self._meanwhile()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the name {name} could not be looked up in time")
        if failed:
            raise failed[0]
        return found

    def _tunnel_through(self, patient: _PatientSocket) -> None:
        assert self._proxy is not None  # noqa: S101 - for the type checker
        authority = f"{self._endpoint.name}:{self._endpoint.port}"
        proved = (
            f"Proxy-Authorization: Basic {self._proxy.credentials}\r\n" if self._proxy.credentials else ""
        )
        patient.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{proved}\r\n".encode())
        response = http.client.HTTPResponse(patient, method="CONNECT")  # type: ignore[arg-type]
        response.begin()
        if response.status != 200:
            raise OSError(f"the proxy answers {response.status} to CONNECT")


class _PatientSocket:
    """What http.client needs of a socket, on one that does not block."""

    def __init__(self, raw: socket.socket, timeout_s: float, meanwhile: Callable[[], None]) -> None:
        self._raw = raw
        self._timeout_s = timeout_s
        self._meanwhile = meanwhile
        self._readers = 0
        self._closing = False

    def reach(self, address: Any) -> None:
        problem = self._raw.connect_ex(address)
        if problem not in (0, *_UNDER_WAY):
            raise OSError(problem, os.strerror(problem))
        if problem:
            self._wait(writing=True)
            problem = self._raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if problem:
                raise OSError(problem, os.strerror(problem))

    def secure(self, tls: ssl.SSLContext, name: str) -> None:
        wrapped = tls.wrap_socket(self._raw, server_hostname=name, do_handshake_on_connect=False)
        self._raw = wrapped
        self._patiently(wrapped.do_handshake)

    def sendall(self, data: Any) -> None:
        rest = memoryview(data).cast("B")
        while rest:
            sent = self._patiently(partial(self._raw.send, rest), writing=True)
            rest = rest[sent:]

    def receive(self, buffer: Any) -> int:
        return int(self._patiently(lambda: self._raw.recv_into(buffer)))

    def makefile(self, mode: str) -> io.BufferedReader:
        """What http.client reads the answer from; the socket stays open for as long as this does."""
        self._readers += 1
        return io.BufferedReader(_Incoming(self))

    def reader_closed(self) -> None:
        self._readers -= 1
        if self._closing and not self._readers:
            self._raw.close()

    def readable_now(self) -> bool:
        return _ready(self._raw, writing=False, timeout_s=0.0)

    def close(self) -> None:
        self._closing = True
        if not self._readers:
            self._raw.close()

    def _patiently(self, action: Callable[[], Any], *, writing: bool = False) -> Any:
        while True:
            try:
                return action()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as wants:
                writing = isinstance(wants, ssl.SSLWantWriteError)
            except BlockingIOError:
                pass
            self._wait(writing=writing)

    def _wait(self, *, writing: bool) -> None:
        deadline = time.monotonic() + self._timeout_s
        while not _ready(self._raw, writing=writing, timeout_s=SLICE_S):
            self._meanwhile()
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer for {self._timeout_s:g} s")


class _Incoming(io.RawIOBase):
    """The read end, for http.client's buffer."""

    def __init__(self, patient: _PatientSocket) -> None:
        self._patient = patient

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._patient.receive(buffer)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._patient.reader_closed()


def _ready(raw: socket.socket, *, writing: bool, timeout_s: float) -> bool:
    if hasattr(select, "poll"):
        # select() knows no descriptor above 1023.
        poll = select.poll()
        poll.register(raw, select.POLLOUT if writing else select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))
    watched = [raw]
    found = select.select([] if writing else watched, watched if writing else [], watched, timeout_s)
    return any(found)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
