"""One request out, one answer back: guarded, bounded, with every driver error mapped to ours.

delivery lane -> **transport** -> destination. Retries, pacing and order are the lane's; here is one
attempt. What it guarantees:

- Connects only to addresses that `guard` let through: host names are looked up here, every address is
  checked, and the HTTP client is pinned to a checked one, so that a second lookup with another answer
  (DNS rebinding) cannot happen. Proxy variables of the environment are ignored for the same reason.
- Follows 307 and 308 only (method and body stay), `max_redirects` hops at most, each checked like the first; never
  from https to http. Other redirects would turn a POST into a GET: they are returned as they are.
- Keeps at most `max_answer_bytes` of an answer; a longer one costs its connection, not our memory.
- A kept-alive connection that turns out closed before anything was written is replaced silently (the
  client does that); once a byte may have left, it is `Cut`, because the destination may have acted.

The driver is pyreqwest (Rust's reqwest and hyper): https://docs.rs/reqwest.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import lru_cache
from importlib.metadata import version
from socket import SOCK_STREAM
from typing import Protocol

import msgspec
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import (
    BuilderError,
    ConnectError,
    ConnectTimeoutError,
    DetailedPyreqwestError,
    PoolTimeoutError,
    PyreqwestError,
    ReadTimeoutError,
    RequestTimeoutError,
)
from pyreqwest.http import HeaderMap, Url

from mainstem.clock import Clock
from mainstem.delivery.errors import (
    ConnectFailed,
    Cut,
    Refused,
    TimedOut,
    TlsFailed,
    TransportError,
    Unsendable,
)
from mainstem.delivery.guard import AddressGuard
from mainstem.destinations.base import Request, Response


class Transport(Protocol):
    """Sends one request."""

    async def send(self, request: Request, *, timeout_s: float) -> Response:
        """Send `request` and return the answer, whatever its status.

        Args:
            request: complete; framing headers (Content-Length and the like) are the transport's own.
            timeout_s: for everything: lookup, connection, redirects, and the answer's body.

        Raises:
            TransportError: one of its subclasses and nothing else; `retryable` says what to do.
        """
        ...

    async def close(self) -> None:
        """Close all connections; requests in flight end with `Cut`."""
        ...


Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host name and port to IP addresses in order of preference; raises OSError when there are none."""


async def resolve_by_system(host: str, port: int) -> Sequence[str]:
    """Look `host` up the way every program on this machine does (getaddrinfo, in a thread)."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


class TransportOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds and habits of a transport."""

    user_agent: str = f"Mainstem/{version('mainstem')}"
    """Sent unless the request sets its own."""
    connect_timeout_s: float = 5.0
    """For TCP and TLS together, per address."""
    idle_timeout_s: float = 4.0
    """Kept-alive connections are dropped after this; Node.js and uvicorn servers drop theirs after 5 s."""
    max_in_flight_per_origin: int = 256
    """Requests beyond it wait for a slot, within their own time."""
    max_idle_per_origin: int = 64
    """Connections kept open for the next request."""
    max_origins: int = 256
    """Origins with open connections; the least recently used one is closed first."""
    resolution_ttl_s: float = 60.0
    """How long the addresses of a host name are believed."""
    max_answer_bytes: int = 64 * 1024
    """Kept of an answer's body; the rest is never read."""
    max_redirects: int = 3
    """Hops that are followed; 0 = redirects are returned as they are."""
    ca_pem: bytes | None = None
    """A certificate authority trusted in addition to the system's, as PEM."""


DEFAULT_OPTIONS = TransportOptions()

_FOLLOWED = frozenset((307, 308))

# The client frames the message; a wrong Content-Length from configuration would desynchronise a connection
# that other requests share.
_FRAMING = frozenset(
    (
        "connection",
        "content-length",
        "expect",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)

# A server may answer 411 to these when they name no length; the client names none for an empty body.
_EXPECT_BODY = frozenset(("POST", "PUT", "PATCH"))

# What may follow a redirect to another origin. A list of the harmless, because any other header
# (`X-Api-Key`, `X-Vendor-Secret`) may be the credential.
_HARMLESS = frozenset(
    (
        "accept",
        "accept-encoding",
        "accept-language",
        "content-encoding",
        "content-language",
        "content-type",
        "user-agent",
    )
)

_Headers = tuple[tuple[str, str], ...]


class _Origin:
    """An origin we talk to: its checked addresses and the client pinned to one of them."""

    __slots__ = ("address", "addresses", "client", "expires_at", "host", "label", "switching")

    def __init__(
        self, label: str, host: str | None, addresses: Sequence[str], client: Client, expires_at: float
    ) -> None:
        self.label = label
        self.host = host
        """None when the URL names an address."""
        self.addresses = addresses
        self.address = addresses[0]
        self.client = client
        self.expires_at = expires_at
        self.switching = asyncio.Lock()


class PyreqwestTransport:
    """The default `Transport`. One client, hence one connection pool, per origin.

    Cancelling `send`, or closing, returns at once; an exchange in flight may run on unseen until its
    time-out (pyreqwest 0.15 does not abort it), so it counts as "may have been processed".
    """

    def __init__(
        self,
        guard: AddressGuard,
        clock: Clock,
        *,
        options: TransportOptions = DEFAULT_OPTIONS,
        resolve: Resolve = resolve_by_system,
    ) -> None:
        """Make a transport; opens nothing.

        Raises:
            ValueError: `options` hold something the client cannot use, for example a broken certificate.
        """
        self._guard = guard
        self._clock = clock
        self._options = options
        self._resolve = resolve
        self._origins: OrderedDict[str, _Origin] = OrderedDict()
        self._opening: dict[str, asyncio.Task[_Origin]] = {}
        self._closed = False
        self._builder().build()  # wrong options fail here, at start, not at the first event

    async def send(self, request: Request, *, timeout_s: float) -> Response:
        deadline = self._clock.monotonic() + timeout_s
        left_s = timeout_s
        headers = _without_framing(request.headers)
        try:
            url = Url(request.url)
        except ValueError as error:
            raise Unsendable("request", f"the URL is malformed: {error}") from None
        hops = 0
        while True:
            label = url.origin_ascii
            origin = self._origins.get(label)
            if origin is None or origin.expires_at <= self._clock.monotonic() or self._closed:
                origin = await self._open(label, url, left_s)
                left_s = deadline - self._clock.monotonic()
            else:
                self._origins.move_to_end(label)
            answer = await self._exchange(origin, request, url, headers, left_s, deadline)
            if answer.status not in _FOLLOWED or hops == self._options.max_redirects:
                return answer
            target = _redirect_target(url, answer)
            if target is None:
                return answer
            if target.origin_ascii != label:
                headers = tuple(pair for pair in headers if pair[0].lower() in _HARMLESS)
            url = target
            hops += 1
            left_s = deadline - self._clock.monotonic()

    async def close(self) -> None:
        self._closed = True
        for task in self._opening.values():
            task.cancel()
        clients = [origin.client for origin in self._origins.values()]
        self._origins.clear()
        for client in clients:
            await client.close()

    # ------------------------------------------------------------ one exchange

    async def _exchange(
        self,
        origin: _Origin,
        request: Request,
        url: Url,
        headers: _Headers,
        left_s: float,
        deadline: float,
    ) -> Response:
        """Send to the origin's address; if it cannot be connected to, to its other addresses in turn."""
        tried: list[str] = []
        while True:
            address = origin.address
            try:
                if left_s <= 0:
                    raise TimedOut(origin.label, "connect")
                return await self._attempt(origin, request, url, headers, left_s)
            except (ConnectFailed, TimedOut) as error:
                # Only where nothing was sent may it be sent again.
                if not error.nothing_sent or (isinstance(error, TimedOut) and error.phase == "pool"):
                    raise
                tried.append(address)
                left_s = deadline - self._clock.monotonic()
                if left_s <= 0 or not await self._switch(origin, tried):
                    raise

    async def _attempt(
        self, origin: _Origin, request: Request, url: Url, headers: _Headers, left_s: float
    ) -> Response:
        try:
            kept_bytes = self._options.max_answer_bytes
            building = origin.client.request(request.method, url).timeout(_timedelta(left_s))
            # Without it, `read` waits for more than was asked for.
            building.streamed_read_buffer_limit(kept_bytes)
            if headers:
                building.headers(headers)
            if request.body:
                building.body_bytes(request.body)
            elif request.method in _EXPECT_BODY:
                building.header("Content-Length", "0")
            async with building.build_streamed() as answer:
                body = await answer.body_reader.read(kept_bytes)
                return Response(
                    answer.status, _readable(answer.headers), b"" if body is None else bytes(body)
                )
        except PyreqwestError as error:
            # From None: the driver's text holds the whole URL, and with it keys and personal data.
            raise translate(error, origin.label) from None
        except ValueError as error:
            raise Unsendable(origin.label, f"the request is malformed: {_clip(error)}") from None

    # ------------------------------------------------------------ origins and their clients

    async def _open(self, label: str, url: Url, left_s: float) -> _Origin:
        """Look the origin up (again); requests that need the same one share the work."""
        if self._closed:
            raise ConnectFailed(label, "this transport is closed")
        task = self._opening.get(label)
        if task is None:
            task = asyncio.create_task(self._look_up(label, url))
            self._opening[label] = task
            task.add_done_callback(lambda done: self._looked_up(label, done))
        try:
            async with asyncio.timeout(left_s):
                return await asyncio.shield(task)
        except TimeoutError:
            raise TimedOut(label, "resolve") from None
        except asyncio.CancelledError:
            if task.cancelled() and self._closed:
                raise ConnectFailed(label, "this transport was closed") from None
            raise

    def _looked_up(self, label: str, task: "asyncio.Task[_Origin]") -> None:
        del self._opening[label]
        if not task.cancelled():
            task.exception()  # everybody who waited may be gone; their time-out said what there was to say

    async def _look_up(self, label: str, url: Url) -> _Origin:
        if url.scheme not in ("http", "https"):
            raise Refused(label, f"the scheme is {url.scheme}; only http and https are sent to")
        host, literal = url.domain, url.host_str or ""
        addresses = await self._addresses(label, host, url.port_or_known_default or 0, literal)
        never = float("inf")
        expires_at = self._clock.monotonic() + self._options.resolution_ttl_s if host else never
        origin = self._origins.get(label)
        if origin is not None and origin.address in addresses:
            origin.addresses, origin.expires_at = addresses, expires_at
        else:
            # Dropping the old client's last reference closes its connections once they are idle.
            client = await self._client(host, addresses[0])
            origin = _Origin(label, host, addresses, client, expires_at)
            self._origins[label] = origin
        self._origins.move_to_end(label)
        while len(self._origins) > self._options.max_origins:
            self._origins.popitem(last=False)
        return origin

    async def _addresses(self, label: str, host: str | None, port: int, literal: str) -> tuple[str, ...]:
        """Return the allowed addresses, each once, in the resolver's order; never none."""
        if host is None:
            found: Sequence[str] = (literal.strip("[]"),)
        else:
            try:
                found = await self._resolve(host, port)
            except (OSError, UnicodeError) as error:  # UnicodeError: an over-long or empty label
                raise ConnectFailed(label, f"the name does not resolve: {error}") from None
        reasons = {address: self._guard.check(address) for address in found}
        allowed = tuple(address for address, reason in reasons.items() if reason is None)
        if allowed:
            return allowed
        if not reasons:
            raise ConnectFailed(label, "the name resolves to no address")
        raise Refused(label, f"refused: {next(iter(reasons.values()))}")

    async def _switch(self, origin: _Origin, tried: Sequence[str]) -> bool:
        """Pin the origin to an address not tried yet; False when there is none."""
        async with origin.switching:
            if origin.address not in tried:
                return True  # another request has switched already
            fresh = next((address for address in origin.addresses if address not in tried), None)
            if fresh is None or self._closed:
                return False
            origin.client = await self._client(origin.host, fresh)
            origin.address = fresh
            return True

    async def _client(self, host: str | None, address: str) -> Client:
        builder = self._builder()
        if host is not None:
            builder = builder.resolve(host, address, 0)  # port 0: the URL's own
        # Reading the system's certificates takes some 8 ms.
        return await asyncio.get_running_loop().run_in_executor(None, builder.build)

    def _builder(self) -> ClientBuilder:
        options = self._options
        builder = (
            ClientBuilder()
            .no_proxy()
            .follow_redirects(False)
            .referer(False)
            .user_agent(options.user_agent)
            # Answers are short; refusing compression saves the work and the decompression bombs.
            .gzip(False)
            .brotli(False)
            .zstd(False)
            .deflate(False)
            .http2(True)
            # A connection through a gateway that forgot it is noticed between requests' time-outs.
            .http2_keep_alive_interval(timedelta(seconds=20))
            .http2_keep_alive_timeout(timedelta(seconds=10))
            .connect_timeout(timedelta(seconds=options.connect_timeout_s))
            .pool_idle_timeout(timedelta(seconds=options.idle_timeout_s))
            .pool_max_idle_per_host(options.max_idle_per_origin)
            .max_connections(options.max_in_flight_per_origin)
        )
        if options.ca_pem is not None:
            builder = builder.add_root_certificate_pem(options.ca_pem)
        return builder


# ---------------------------------------------------------------- headers, redirects


def _without_framing(headers: _Headers) -> _Headers:
    for name, _ in headers:
        if name.lower() in _FRAMING:
            return tuple(pair for pair in headers if pair[0].lower() not in _FRAMING)
    return headers


def _readable(headers: HeaderMap) -> dict[str, str]:
    """Return lower-case names to values; repeated ones joined by a comma; ones that are not text left out."""
    try:
        pairs = headers.items()
        read = dict(pairs)
        if len(read) == len(pairs):
            return read
    except ValueError:
        pass  # bytes beyond ASCII in some value: read one by one below
    joined: dict[str, str] = {}
    for name in headers:
        try:
            joined[name] = ", ".join(headers.getall(name))
        except ValueError:
            continue
    return joined


def _redirect_target(url: Url, answer: Response) -> Url | None:
    location = answer.headers.get("location")
    if location is None:
        return None
    try:
        target = url.join(location)
    except ValueError:
        return None
    downgrade = url.scheme == "https" and target.scheme != "https"
    return None if downgrade else target


@lru_cache(maxsize=64)
def _timedelta(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


# ---------------------------------------------------------------- the driver's errors

_NOT_TLS = ("tcp connect error", "dns error", "tls handshake eof", "os error")


def translate(error: PyreqwestError, label: str) -> TransportError:
    """Return ours for the driver's `error`. Its classes alone do not tell: the causes do.

    The driver names a time-out after its last known step ("ConnectTimeoutError" also while the answer is
    awaited) and a reset after the request was written "ConnectError"; hyper's own texts tell them apart.
    """
    causes = _causes(error)
    connecting = "client error (Connect)" in causes
    if isinstance(error, RequestTimeoutError):
        if isinstance(error, PoolTimeoutError):
            return TimedOut(label, "pool")
        if isinstance(error, ConnectTimeoutError) and connecting:
            return TimedOut(label, "connect")
        return TimedOut(label, "body" if isinstance(error, ReadTimeoutError) else "answer")
    if isinstance(error, BuilderError):
        return Unsendable(label, "the request is malformed")
    detail = causes[-1] if causes else type(error).__name__
    if isinstance(error, ConnectError) and connecting:
        plain = any(mark in cause for cause in causes for mark in _NOT_TLS)
        return ConnectFailed(label, detail) if plain else TlsFailed(label, detail)
    return Cut(label, detail)


def _causes(error: PyreqwestError) -> list[str]:
    """Return hyper's reasons, outermost first, without those that quote the URL."""
    details = error.details if isinstance(error, DetailedPyreqwestError) else None
    texts = [cause["message"] for cause in (details and details["causes"]) or ()]
    return [text for text in texts if "for url" not in text]


def _clip(error: Exception) -> str:
    """Return the kind of mistake without the value, which the driver quotes after a colon."""
    return str(error).partition(":")[0]
