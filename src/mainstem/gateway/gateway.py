"""The gateway: HTTP in, durable log out; 200 only after the event is on stable storage.

client -> http1 -> **gateway** -> stream. Routes, authentication, answers; the events themselves are read in
`ingest`. Written for the hot path: no coroutine, no task, no log line for an event request; metrics are added
up in plain integers and handed over once a second.

The wire surface is Segment's HTTP API (https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/),
RudderStack's (https://www.rudderstack.com/docs/api/http-api/) and Jitsu's (https://docs.jitsu.com/sending-data/http).
"""

import asyncio
import ipaddress
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from mainstem.clock import Clock
from mainstem.events.envelope import NotABatch, Unreadable, read_batch, read_item
from mainstem.gateway import answers
from mainstem.gateway.auth import KeyRing, KnownSource
from mainstem.gateway.body import BodyProblem, decode_body
from mainstem.gateway.cors import cors_headers, preflight
from mainstem.gateway.http1 import OVERLOADED, Answer, Exchange, Limits, Server
from mainstem.gateway.ingest import EVENT_TYPES, Arrival, Intake, plain_record
from mainstem.gateway.openapi import document
from mainstem.gateway.pixel import PIXEL, pixel_event, query_pairs
from mainstem.gateway.sdk_script import SdkScript
from mainstem.gateway.sdk_settings import is_host, segment_settings, source_config
from mainstem.gateway.settings import GatewaySettings
from mainstem.gateway.webhooks import webhook_bodies, webhook_event
from mainstem.stream.base import (
    AppendResult,
    Producer,
    StreamClosed,
    StreamError,
    StreamFull,
    StreamOverloaded,
)
from mainstem.telemetry.log import logger
from mainstem.telemetry.metrics import EVENT_WARNINGS, EVENTS_RECEIVED, REQUEST_SECONDS, REQUESTS, SHED
from mainstem.workspace.model import Workspace

_log = logger(__name__)

Endpoint = Callable[[Exchange, bytes], Answer | None]
"""Takes the exchange and its query; returns the answer, or None when it will answer later."""

_SHORT: Final = {"i": "identify", "t": "track", "p": "page", "s": "screen", "g": "group", "a": "alias"}
_SLICE: Final = 250
"""Events of a large batch that are read before other connections have their turn."""
_OBSERVED_A_TICK: Final = 500
"""Requests whose duration is observed between two ticks: a sample, when there are more."""


class Route:
    """What is at a path."""

    __slots__ = ("allow", "get", "label", "post")

    def __init__(self, label: str, *, get: Endpoint | None = None, post: Endpoint | None = None) -> None:
        self.label = label
        self.get = get
        self.post = post
        methods = [*(["GET", "HEAD"] if get else []), *(["POST"] if post else []), "OPTIONS"]
        self.allow = answers.error(
            405, "method_not_allowed", f"use {', '.join(methods)}", headers=[("allow", ", ".join(methods))]
        )


_NOTHING: Final = Route("none")


class _Receipt:
    """Answers one request when the stream says that its records are durable."""

    __slots__ = ("_answer", "_exchange", "_gateway", "_intake", "_label", "_source", "_started")

    def __init__(
        self,
        gateway: "Gateway",
        exchange: Exchange,
        label: str,
        source: KnownSource,
        intake: Intake,
        answer: Answer | None,
        started: float,
    ) -> None:
        self._gateway = gateway
        self._exchange = exchange
        self._label = label
        self._source = source
        self._intake = intake
        self._answer = answer
        self._started = started

    def __call__(self, result: AppendResult | StreamError) -> None:
        gateway = self._gateway
        if isinstance(result, StreamError):
            answer = self._answer or gateway.failure(result)
        else:
            source, intake = self._source, self._intake
            rejections = intake.rejections
            records = len(intake.records)
            if not intake.rejected_at:
                duplicates = len(result.duplicates)
                source.duplicates += duplicates
                source.accepted += records - duplicates
                answer = self._answer or answers.ACCEPTED
            else:
                again = sum(index not in intake.rejected_at for index in result.duplicates)
                refused = len(intake.rejected_at)
                source.duplicates += again
                source.accepted += records - refused - again
                source.rejected += refused
                good = records - len(rejections)
                if not rejections:
                    answer = self._answer or answers.ACCEPTED
                elif good:
                    answer = self._answer or answers.partly_accepted(good, rejections)
                else:
                    answer = self._answer or answers.all_rejected(rejections)
        if self._started:
            gateway.observe(self._started)
        gateway.answer(self._exchange, self._label, answer)


class _OneEvent:
    """What is at the paths of one event of one type.

    Nearly every such request has a key in its head that was good before, and an event with nothing odd about it.
    `post` takes these straight to the stream; all others, and all that would be refused, go to
    `Gateway.post_event`, which would answer those in the same way.
    """

    __slots__ = ("_gateway", "_kind", "accepted", "label")

    def __init__(self, gateway: "Gateway", kind: str, label: str) -> None:
        self._gateway = gateway
        self._kind = kind
        self.label = label
        self.accepted = 0
        """Requests answered 200 since the last tick."""

    def post(self, exchange: Exchange, query: bytes) -> Answer | None:
        """Take a request."""
        gateway = self._gateway
        headers = exchange.headers
        source = gateway._keys.remembered.get(headers.get(b"authorization", b""))
        if (
            source is None
            or not source.plain
            or gateway._wary
            or b"content-encoding" in headers
            or b"origin" in headers
            or b"sentat" in headers
            or gateway._producer.backlog_bytes > gateway._settings.max_backlog_bytes
        ):
            return gateway.post_event(exchange, query, self._kind, self.label)
        record = plain_record(
            source,
            self._kind,
            exchange.body,
            gateway._clock.now_ms(),
            exchange.connection.peer,
            gateway._settings,
        )
        if record is None:
            return gateway.post_event(exchange, query, self._kind, self.label)
        started = gateway.start() if gateway._observable > 0 else 0.0
        try:
            gateway._producer.submit((record,), _PlainReceipt(gateway, self, exchange, source, started))
        except StreamError as error:
            return gateway.failure(error)
        return None


class _PlainReceipt(msgspec.Struct):
    """Answers a request of one plain event when the stream says that it is durable. A struct is made in C."""

    gateway: "Gateway"
    endpoint: _OneEvent
    exchange: Exchange
    source: KnownSource
    started: float

    def __call__(self, result: AppendResult | StreamError) -> None:
        if self.started:
            self.gateway.observe(self.started)
        if isinstance(result, AppendResult):
            if result.duplicates:
                self.source.duplicates += 1
            else:
                self.source.accepted += 1
            self.endpoint.accepted += 1
            self.exchange.respond(answers.ACCEPTED)
        else:
            gateway = self.gateway
            gateway.answer(self.exchange, self.endpoint.label, gateway.failure(result))


class Gateway:
    """Serves the wire surface; a `Handler` of `http1.Server`.

    Args:
        producer: where events go; `submit` reports when they are durable.
        workspace: the first snapshot; `replace_workspace` brings later ones.
        clock: time.
        settings: limits and addresses.
        ready: what the gateway needs, by name, each `ok` or what is wrong in words: the truth of `/health`.
        version: what `/version` says.
    """

    def __init__(
        self,
        producer: Producer,
        workspace: Workspace,
        clock: Clock,
        settings: GatewaySettings | None = None,
        ready: Callable[[], Mapping[str, str]] = dict,
        version: Mapping[str, str] | None = None,
    ) -> None:
        self._producer = producer
        self._clock = clock
        self._settings = settings = settings or GatewaySettings()
        self._ready = ready
        self._workspace = workspace
        self._keys = KeyRing(workspace, settings.max_events_per_s * 10)
        self._proxies = tuple(ipaddress.ip_network(text, strict=False) for text in settings.trusted_proxies)
        self._wary = bool(self._proxies) or settings.max_events_per_s > 0
        """No request is taken as it is: its address is to be found out, or its rate is limited."""
        self._base_url = settings.public_url.rstrip("/")
        self._answered: dict[tuple[str, int], int] = defaultdict(int)
        """Requests since the last tick, by route and status."""
        self._observable = _OBSERVED_A_TICK
        """Requests whose duration may still be observed before the next tick."""
        self._version = answers.ok({"name": "mainstem", **(version or {})})
        self._openapi = answers.ok(document(settings))
        self._sdk_script = SdkScript()
        self._too_many = answers.error(
            413, "too_many_events", f"a batch holds at most {settings.max_batch_events} events"
        )
        self._ticked_at = clock.monotonic()
        self._one_events: list[_OneEvent] = []
        self._routes = self._table()
        self._server = Server(
            self,
            clock,
            Limits(
                max_header_bytes=settings.max_header_bytes,
                max_body_bytes=settings.max_request_bytes,
                max_buffered_bytes=settings.max_buffered_bytes,
                header_timeout_s=settings.header_timeout_s,
                body_timeout_s=settings.body_timeout_s,
                idle_timeout_s=settings.idle_timeout_s,
                max_connections=settings.max_connections,
                sweep_interval_s=settings.sweep_interval_s,
            ),
        )

    # ---- life

    async def serve(self, sock: socket.socket) -> None:
        """Serve an already listening socket until `drain`; the socket stays open and the caller's."""
        await self._server.serve(sock)

    async def drain(self, timeout_s: float) -> None:
        """Take no new connection, answer what came in (each answer closes its connection), then stop."""
        await self._server.drain(timeout_s)

    def replace_workspace(self, workspace: Workspace) -> None:
        """Use another snapshot from the next request on; requests under way end with the one they began."""
        self._flush_sources()
        self._workspace = workspace
        self._keys = KeyRing(workspace, self._settings.max_events_per_s * 10)

    # ---- Handler

    def handle(self, exchange: Exchange) -> None:
        """Answer a request, or see to it that it is answered."""
        url = exchange.url
        query = b""
        route = self._routes.get(url)
        if route is None:
            path, _, query = url.partition(b"?")
            route = self._routes.get(path) or self._special(path)
        method = exchange.method
        if method == b"POST" and route.post is not None:
            answer = route.post(exchange, query)
        elif method in (b"GET", b"HEAD") and route.get is not None:
            answer = route.get(exchange, query)
        elif method == b"OPTIONS":
            answer = preflight(exchange.headers)
        elif route is _NOTHING:
            answer = answers.NOT_FOUND
        else:
            answer = route.allow
        if answer is not None:
            self.answer(exchange, route.label, answer)

    def refusal_headers(self, headers: dict[bytes, bytes]) -> bytes:
        """Return the CORS lines for an answer to a request with these headers."""
        origin = headers.get(b"origin")
        return cors_headers(origin) if origin else b""

    def tick(self) -> None:
        """Hand the counts over to the metrics."""
        now = self._clock.monotonic()
        elapsed_s, self._ticked_at = now - self._ticked_at, now
        rate = self._settings.max_events_per_s
        if rate:
            for source in self._keys.sources:
                source.allowance = min(source.allowance + rate * elapsed_s, rate * 10)
        counts, self._answered = self._answered, defaultdict(int)
        for endpoint in self._one_events:
            if endpoint.accepted:
                counts[endpoint.label, 200] += endpoint.accepted
                endpoint.accepted = 0
        for (label, status), count in counts.items():
            REQUESTS.labels(label, str(status)).inc(count)
        self._observable = _OBSERVED_A_TICK
        self._flush_sources()

    # ---- answering

    def answer(self, exchange: Exchange, label: str, answer: Answer) -> None:
        """Send and count an answer."""
        self._answered[label, answer.status] += 1
        origin = exchange.headers.get(b"origin")
        if origin:
            exchange.respond(answer, cors_headers(origin))
        else:
            exchange.respond(answer)

    def failure(self, error: StreamError) -> Answer:
        """Return the answer for records that did not become durable."""
        if isinstance(error, StreamOverloaded):
            SHED.labels("backlog").inc()
            return OVERLOADED
        if isinstance(error, StreamFull):
            SHED.labels("stream_full").inc()
            return answers.STREAM_FULL
        if not isinstance(error, StreamClosed):
            _log.error("events could not be stored", error=str(error), kind=type(error).__name__)
        return answers.UNAVAILABLE

    def start(self) -> float:
        """Return when a request started, for `observe`."""
        self._observable -= 1
        return self._clock.monotonic()

    def observe(self, started: float) -> None:
        """Record how long a request took."""
        REQUEST_SECONDS.observe(self._clock.monotonic() - started)

    def _flush_sources(self) -> None:
        for source in self._keys.sources:
            for result in ("accepted", "duplicates", "rejected"):
                if count := getattr(source, result):
                    setattr(source, result, 0)
                    word = "duplicate" if result == "duplicates" else result
                    EVENTS_RECEIVED.labels(source.id, word).inc(count)
            if source.warnings:
                warnings, source.warnings = source.warnings, {}
                for warning, count in warnings.items():
                    EVENT_WARNINGS.labels(source.id, warning).inc(count)

    # ---- events

    def post_event(self, exchange: Exchange, query: bytes, forced_type: str, label: str) -> Answer | None:
        """Take a request of one event, whatever it is."""
        body = self._body(exchange)
        if isinstance(body, Answer):
            return body
        present, source = self._who(exchange.headers, query)
        if not present and label != "/api/s":
            source, present = self._by_body_key(body)
        if source is None or not self._may(source, exchange):
            return self._refused(present, source)
        if not body:
            return answers.error(400, "empty_body", "the request body is empty")
        intake = Intake(
            source, self._arrival(exchange, forced_type=forced_type, sent_at=True), self._settings
        )
        intake.take(body)
        return self._append(exchange, label, source, intake)

    def _post_batch(
        self, exchange: Exchange, query: bytes, *, label: str, channel: str = ""
    ) -> Answer | None:
        body = self._body(exchange)
        if isinstance(body, Answer):
            return body
        present, source = self._who(exchange.headers, query)
        if present and source is None:
            return answers.WRONG_WRITE_KEY
        batch = read_batch(body, self._settings.max_batch_events)
        if not present and batch.write_key:
            present, source = True, self._keys.by_key(batch.write_key)
        if source is None or not self._may(source, exchange):
            return self._refused(present, source)
        if isinstance(batch, NotABatch):
            status = 413 if batch.code == "too_many_events" else 400
            return answers.error(status, batch.code, batch.message)
        if not batch.items:
            return answers.error(400, "empty_batch", "empty batch payload")
        arrival = self._arrival(exchange, channel=channel, sent_at=not batch.sent_at)
        if batch.sent_at:
            arrival.sent_at = batch.sent_at
        arrival.context = batch.context
        arrival.integrations = batch.integrations
        arrival.replaced = batch.replaced
        intake = Intake(source, arrival, self._settings)
        take = intake.take
        if len(batch.items) <= _SLICE:
            for raw in batch.items:
                take(raw)
            return self._append(exchange, label, source, intake)
        self._in_slices(iter(batch.items), exchange, label, source, intake)
        return None

    def _in_slices(
        self, items: Iterator[bytes], exchange: Exchange, label: str, source: KnownSource, intake: Intake
    ) -> None:
        """Read a large batch with pauses, so that it does not hold up the other connections."""
        for _ in range(_SLICE):
            raw = next(items, None)
            if raw is None:
                answer = self._append(exchange, label, source, intake)
                if answer is not None:
                    self.answer(exchange, label, answer)
                return
            intake.take(raw)
        asyncio.get_running_loop().call_soon(self._in_slices, items, exchange, label, source, intake)

    def _append(
        self,
        exchange: Exchange,
        label: str,
        source: KnownSource,
        intake: Intake,
        answer: Answer | None = None,
    ) -> Answer | None:
        """Submit what was taken in; the receipt answers, with `answer` if one is given."""
        settings = self._settings
        if settings.max_events_per_s:
            # A batch larger than what is left goes through and is paid back: else it never could.
            if source.allowance <= 0:
                wait_s = 1 - source.allowance / settings.max_events_per_s
                return answer or answers.error(
                    429, "rate_limited", "max requests limit reached", retry_after_s=max(1, round(wait_s))
                )
            source.allowance -= len(intake.records)
        started = self.start() if self._observable > 0 else 0.0
        try:
            self._producer.submit(
                intake.records, _Receipt(self, exchange, label, source, intake, answer, started)
            )
        except StreamError as error:
            return answer or self.failure(error)
        return None

    def _body(self, exchange: Exchange) -> bytes | Answer:
        """Return the decoded body, or why not; sheds load before any work is done."""
        if self._producer.backlog_bytes > self._settings.max_backlog_bytes:
            SHED.labels("backlog").inc()
            return OVERLOADED
        encoding = exchange.headers.get(b"content-encoding")
        if encoding is None:
            return exchange.body
        body = decode_body(exchange.body, encoding, self._settings.max_request_bytes)
        if isinstance(body, BodyProblem):
            return answers.error(body.status, body.code, body.message)
        return body

    def _who(self, headers: dict[bytes, bytes], query: bytes) -> tuple[bool, KnownSource | None]:
        present, source = self._keys.by_headers(headers)
        if not present and query:
            key = _query_key(query)
            if key:
                return True, self._keys.by_key(key)
        return present, source

    def _by_body_key(self, body: bytes) -> tuple[KnownSource | None, bool]:
        if b"writeKey" not in body:
            return None, False
        item = read_item(body, self._settings.max_depth)
        key = item.message.get("writeKey") if not isinstance(item, Unreadable) else None
        return (self._keys.by_key(key), True) if isinstance(key, str) and key else (None, False)

    def _may(self, source: KnownSource, exchange: Exchange) -> bool:
        if not source.source.enabled:
            return False
        origin = exchange.headers.get(b"origin")
        return not source.origins or not origin or origin.lower() in source.origins

    def _refused(self, present: bool, source: KnownSource | None) -> Answer:
        if source is None:
            return answers.WRONG_WRITE_KEY if present else answers.MISSING_WRITE_KEY
        return answers.ORIGIN_REFUSED if source.source.enabled else answers.SOURCE_DISABLED

    def _arrival(
        self, exchange: Exchange, *, forced_type: str = "", channel: str = "", sent_at: bool = False
    ) -> Arrival:
        headers = exchange.headers
        from_browser = b"origin" in headers or channel in ("pixel", "beacon")
        return Arrival(
            received_at_ms=self._clock.now_ms(),
            request_ip=self._client_ip(exchange) if self._proxies else exchange.peer,
            sent_at=_header(headers, b"sentat") if sent_at else "",
            user_agent=_header(headers, b"user-agent") if from_browser else "",
            channel=channel,
            forced_type=forced_type,
        )

    # ---- addresses

    def _trusted(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        return any(address in network for network in self._proxies)

    def _client_ip(self, exchange: Exchange) -> str:
        """Return the rightmost address of X-Forwarded-For that is not a trusted proxy."""
        ip = exchange.peer
        hops = exchange.headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")
        while self._trusted(ip) and hops:
            hop = hops.pop().strip().removeprefix("::ffff:")
            try:
                ipaddress.ip_address(hop)
            except ValueError:
                break
            ip = hop
        return ip

    def _url_for(self, exchange: Exchange) -> str:
        """Return where SDKs are to send: the public URL, or as this request was addressed."""
        if self._base_url:
            return self._base_url
        host = _header(exchange.headers, b"host")
        if not is_host(host):
            host = "localhost"
        scheme = "http"
        if self._trusted(exchange.peer) and exchange.headers.get(b"x-forwarded-proto") == b"https":
            scheme = "https"
        return f"{scheme}://{host}"

    # ---- the other endpoints

    def _pixel(self, exchange: Exchange, query: bytes, *, kind: str) -> Answer | None:
        source = self._who(exchange.headers, query)[1]
        if source is None or not self._may(source, exchange):
            return PIXEL
        event = pixel_event(query, _header(exchange.headers, b"referer"))
        intake = Intake(source, self._arrival(exchange, forced_type=kind, channel="pixel"), self._settings)
        intake.take(msgspec.json.encode(event))
        return self._append(exchange, f"/pixel/v1/{kind}", source, intake, PIXEL)

    def _webhook(self, exchange: Exchange, query: bytes) -> Answer | None:
        body = self._body(exchange)
        if isinstance(body, Answer):
            return body
        present, source = self._who(exchange.headers, query)
        if source is None or not self._may(source, exchange):
            return self._refused(present, source)
        content_type = exchange.headers.get(b"content-type", b"")
        bodies = webhook_bodies(body, content_type, query, self._settings.max_depth)
        if isinstance(bodies, Unreadable):
            return answers.error(400, bodies.code, bodies.message)
        if len(bodies) > self._settings.max_batch_events:
            return self._too_many
        if not bodies:
            return answers.ACCEPTED
        intake = Intake(source, self._arrival(exchange, channel="webhook"), self._settings)
        mapping = source.source.webhook
        for one in bodies:
            event = webhook_event(mapping, one, query, exchange.headers)
            intake.take(msgspec.json.encode(event))
        return self._append(exchange, "/v1/webhook", source, intake)

    def _segment_settings(self, exchange: Exchange, key: str) -> Answer:
        source = self._keys.by_key(key)
        if source is None:
            return answers.WRONG_WRITE_KEY
        if not source.source.enabled:
            return answers.SOURCE_DISABLED
        return answers.ok(segment_settings(key, self._url_for(exchange)), [("cache-control", "no-cache")])

    def _source_config(self, exchange: Exchange, query: bytes) -> Answer:
        present, source = self._who(exchange.headers, query)
        if source is None:
            return answers.CONFIG_WRONG_WRITE_KEY if present else answers.MISSING_WRITE_KEY
        # The key as configured: what the client sent may be one in rotation, all of them are good.
        key = _query_key(query) or source.source.write_keys[0]
        config = source_config(source.source, key, self._workspace.id, self._url_for(exchange))
        return answers.ok(config, [("cache-control", "no-cache")])

    def _health(self, _exchange: Exchange, _query: bytes, *, ready: bool) -> Answer:
        checks = dict(self._ready())
        if ready and self._server.draining:
            checks["gateway"] = "draining"
        wrong = {name: words for name, words in checks.items() if words != "ok"}
        if not wrong:
            return answers.ok({"status": "ok", "checks": checks}, [("cache-control", "no-store")])
        failing = "; ".join(f"{name}: {words}" for name, words in wrong.items())
        body = {"code": "not_ready", "message": failing, "status": "failing", "checks": checks}
        return Answer(
            503, msgspec.json.encode(body), headers=[("retry-after", "1"), ("cache-control", "no-store")]
        )

    def _special(self, path: bytes) -> Route:
        """Return the route of a path that holds a write key."""
        parts = path.strip(b"/").split(b"/")
        if parts[:1] == [b"v1"]:
            parts = parts[1:]
        if len(parts) == 3 and parts[0] == b"projects" and parts[2] == b"settings":
            key = unquote(parts[1].decode("latin-1"))
            return Route(
                "/v1/projects/settings", get=lambda exchange, _query: self._segment_settings(exchange, key)
            )
        return _NOTHING

    def _table(self) -> dict[bytes, Route]:
        table: dict[bytes, Route] = {}

        def put(path: str, route: Route) -> None:
            table[path.encode()] = table[path.encode() + b"/"] = route

        for kind in sorted(EVENT_TYPES):
            label = f"/v1/{kind}"
            segment, jitsu = _OneEvent(self, kind, label), _OneEvent(self, kind, "/api/s")
            self._one_events += [segment, jitsu]
            put(label, Route(label, post=segment.post))
            route = Route("/api/s", post=jitsu.post)
            put(f"/api/s/{kind}", route)
            put(f"/api/s/s2s/{kind}", route)
        for short, kind in _SHORT.items():
            put(f"/v1/{short}", table[f"/v1/{kind}".encode()])
        batch = Route("/v1/batch", post=partial(self._post_batch, label="/v1/batch"))
        put("/v1/batch", batch)
        put("/v1/b", batch)
        put(
            "/v1/import",
            Route("/v1/import", post=partial(self._post_batch, label="/v1/import", channel="import")),
        )
        put(
            "/beacon/v1/batch",
            Route(
                "/beacon/v1/batch", post=partial(self._post_batch, label="/beacon/v1/batch", channel="beacon")
            ),
        )
        for kind in ("track", "page"):
            label = f"/pixel/v1/{kind}"
            put(label, Route(label, get=partial(self._pixel, kind=kind)))
        put("/v1/webhook", Route("/v1/webhook", get=self._webhook, post=self._webhook))
        put("/v1/m", Route("/v1/m", post=_fixed(answers.ACCEPTED)))
        put("/sourceConfig", Route("/sourceConfig", get=self._source_config))
        alive = Route("/health", get=partial(self._health, ready=False))
        put("/health", alive)
        table[b"/"] = alive
        put("/ready", Route("/ready", get=partial(self._health, ready=True)))
        put("/version", Route("/version", get=_fixed(self._version)))
        put("/openapi.json", Route("/openapi.json", get=_fixed(self._openapi)))
        script = self._sdk_script
        put("/sdk/mainstem.js", Route("/sdk", get=lambda exchange, _query: script.answer(exchange.headers)))
        robots = Answer(200, b"User-agent: *\nDisallow: /\n", "text/plain; charset=utf-8")
        put("/robots.txt", Route("/robots.txt", get=_fixed(robots)))
        return table


def _fixed(answer: Answer) -> Endpoint:
    return lambda _exchange, _query: answer


def _header(headers: dict[bytes, bytes], name: bytes) -> str:
    value: Any = headers.get(name)
    return value.decode("utf-8", "replace") if value else ""


def _query_key(query: bytes) -> str:
    if b"ritekey" not in query.lower():
        return ""
    return next((value for name, value in query_pairs(query) if name.lower() == "writekey"), "")
