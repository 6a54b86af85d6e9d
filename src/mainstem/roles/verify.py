"""`mainstem destination verify`: one canary event to a destination, with the user's settings, step by step.

The very code of delivery, outside of it: nothing of the canary is in the log or in the books. It tells at which step it
would fail: settings, address, access token, mapping, look-ups, the vendor's validation, sending, reading the answer.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final, Literal

import msgspec

from mainstem.clock import Clock, iso_from_ms
from mainstem.delivery.classify import classify_failure, classify_http
from mainstem.delivery.errors import TransportError
from mainstem.delivery.http_attempt import HttpAttempt
from mainstem.delivery.item import Item
from mainstem.delivery.stream_attempt import StreamAttempt
from mainstem.delivery.transport import PyreqwestTransport
from mainstem.destinations.base import (
    Call,
    Delivered,
    Delivery,
    DestinationSpec,
    Dialogue,
    Payloads,
    Rejected,
    Retry,
    Skip,
)
from mainstem.destinations.catalog import find_spec
from mainstem.destinations.kit.call import encode
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.render import Redactor, cut, described, secrets_in
from mainstem.errors import MainstemError, SettingsError
from mainstem.events.canonical import Event, id_text
from mainstem.lake.open import check_archive
from mainstem.pipeline.errors import PlanInvalid
from mainstem.pipeline.outcome import Dead, Filtered, Refused, Send
from mainstem.pipeline.plan import Way, compile_plan
from mainstem.roles.flows import open_the_sink, open_tokens
from mainstem.roles.rooms import guard_of
from mainstem.roles.surroundings import FlowRefused
from mainstem.settings import Settings
from mainstem.workspace.model import Destination, Workspace

Level = Literal["ok", "warning", "error", "skipped"]

_ANSWER_LIMIT: Final = 2_000
_CANARY_ID: Final = "mainstem-canary"


class Step(msgspec.Struct, frozen=True):
    """What was tried, and how it went."""

    level: Level
    what: str
    detail: str = ""


def canary(kind: str, clock: Clock) -> dict[str, Any]:
    """Return an event that a vendor can take and people can recognise and delete."""
    now = iso_from_ms(clock.now_ms())
    traits = {"email": "mainstem-canary@example.com", "firstName": "Mainstem", "lastName": "Canary"}
    message: dict[str, Any] = {
        "type": kind,
        "messageId": f"{_CANARY_ID}-{clock.now_ms()}",
        "userId": _CANARY_ID,
        "anonymousId": _CANARY_ID,
        "context": {
            "traits": traits,
            "ip": "203.0.113.1",
            "userAgent": "Mozilla/5.0 (compatible; Mainstem canary)",
            "page": {"url": "https://example.com/canary", "path": "/canary", "title": "Canary"},
            "library": {"name": "mainstem", "version": "1"},
        },
        "originalTimestamp": now,
        "sentAt": now,
        "timestamp": now,
        "receivedAt": now,
    }
    if kind == "track":
        message |= {"event": "Mainstem Canary", "properties": {"value": 1, "currency": "USD"}}
    elif kind == "identify":
        message["traits"] = traits
    elif kind == "group":
        message |= {"groupId": _CANARY_ID, "traits": {"name": "Mainstem Canary"}}
    else:
        message |= {"name": "Mainstem Canary", "properties": {"url": "https://example.com/canary"}}
    return message


async def verify(
    settings: Settings,
    workspace: Workspace,
    destination_id: str,
    clock: Clock,
    *,
    message: Mapping[str, Any] | None = None,
    send: bool = True,
) -> AsyncIterator[Step]:
    """Yield each step; the last one that is an error is where it ends.

    Args:
        message: the event to send; None = a canary of a type that the destination takes.
        send: False stops before the event itself is sent; look-ups and the vendor's validation are done.

    Raises:
        SettingsError: there is no such destination.
    """
    destination = workspace.destination(destination_id)
    if destination is None:
        known = ", ".join(item.id for item in workspace.destinations)
        raise SettingsError(f"{destination_id}: not in the workspace; there are {known or 'none'}")
    spec = find_spec(destination.type)
    if spec is None or destination.config is None:
        yield Step(
            "error", "settings", destination.disabled_reason or "they can't be used; see workspace check"
        )
        return
    yield Step("ok", "settings", f"{spec.title}; {spec.doc_url}")
    async with AsyncExitStack() as stack:
        transport = PyreqwestTransport(guard_of(settings), clock)
        stack.push_async_callback(transport.close)
        visit = _Visit(settings, workspace, destination, spec, transport, clock)
        try:
            async for step in visit.steps(stack, message, send=send):
                yield step
        except MainstemError as error:
            yield Step("error", "send", str(error))


class _Visit:
    """One canary on its way."""

    def __init__(
        self,
        settings: Settings,
        workspace: Workspace,
        destination: Destination,
        spec: DestinationSpec,
        transport: PyreqwestTransport,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._workspace = workspace
        self._destination = destination
        self._spec = spec
        self._transport = transport
        self._clock = clock
        self._secrets = secrets_in((destination.config, destination.raw_config))
        self._timeout_s = destination.delivery.timeout_s

    async def steps(
        self, stack: AsyncExitStack, message: Mapping[str, Any] | None, *, send: bool
    ) -> AsyncIterator[Step]:
        if self._spec.kind == "files":
            place = await check_archive(
                self._destination.config, self._settings.data_path, self._clock.now_ms()
            )
            yield Step("ok", "store", f"{place} can be written")
            return
        tokens = None
        try:
            tokens = open_tokens(self._destination, self._spec, self._transport, self._clock)
        except FlowRefused as error:
            yield Step("error", "access token", str(error))
            return
        token: str | None = None
        if tokens is not None:
            current = await tokens.current()
            if not isinstance(current, str):
                yield _told("access token", current)
                return
            token = current
            yield Step("ok", "access token", "renewed")
        event, mapped = self._mapped(message)
        if isinstance(mapped, Step):
            yield mapped
            return
        yield Step("ok", "event", f"{event.type} {event.name}".strip() + f", messageId {event.message_id}")
        for payload in mapped:
            yield Step("ok", "request", described(payload, self._secrets))
        if self._spec.validation is not None:
            for payload in mapped:
                if isinstance(payload, Call):
                    yield await self._validate(payload, token)
        if not send:
            yield Step("skipped", "send", "not sent, as asked")
            return
        async for step in self._send(stack, event, mapped, tokens):
            yield step

    def _mapped(self, message: Mapping[str, Any] | None) -> tuple[Event, Payloads | Step]:
        """Map the given event, or the first canary that the destination has a request for."""
        kinds = [
            kind
            for kind in ("track", "identify", "page", "screen", "group")
            if kind in self._spec.message_types
        ]
        last: tuple[Event, Payloads | Step] | None = None
        for candidate in (
            [dict(message)] if message is not None else [canary(kind, self._clock) for kind in kinds]
        ):
            event = self._event(candidate)
            last = event, self._outcome(event)
            if not isinstance(last[1], Step):
                return last
        if last is None:
            event = self._event(canary("track", self._clock))
            return event, Step("error", "event", "give one with --event: it takes none of the usual types")
        return last

    def _event(self, message: dict[str, Any]) -> Event:
        kind = str(message.get("type", "track"))
        name = message.get("event") if kind == "track" else message.get("name")
        return Event(
            message=message,
            source_id="",
            message_id=id_text(message.get("messageId")) or f"{_CANARY_ID}-{self._clock.now_ms()}",
            type=kind,
            name=name if isinstance(name, str) else "",
            user_id=id_text(message.get("userId")),
            anonymous_id=id_text(message.get("anonymousId")),
            received_at_ms=self._clock.now_ms(),
            raw=b"",
        )

    def _outcome(self, event: Event) -> Payloads | Step:
        try:
            plan = compile_plan(self._workspace, self._destination, self._spec)
        except PlanInvalid as error:
            return Step("error", "settings", str(error))
        match plan.map(event, Way("canary", ())):
            case Send(payloads=payloads):
                return payloads
            case Filtered(rule=rule):
                return Step("error", "event", f"nothing is sent of it: {rule}; give another with --event")
            case Dead(reason=reason) | Refused(reason=reason):
                return Step("error", "event", f"it can't be sent: {reason}; give another with --event")

    async def _validate(self, call: Call, token: str | None) -> Step:
        assert self._spec.validation is not None  # noqa: S101 - asked before
        form = self._spec.validation(self._destination.config, call)
        if form is None:
            return Step("skipped", "vendor's validation", "it has none for this request")
        request = encode(form, token)
        try:
            response = await self._transport.send(request, timeout_s=self._timeout_s)
        except TransportError as error:
            return _told("vendor's validation", classify_failure(error))
        shown = Redactor((*request.secrets, *self._secrets)).text(
            cut(response.body.decode("utf-8", "replace"), _ANSWER_LIMIT)
        )
        if not 200 <= response.status < 300:
            return _told("vendor's validation", classify_http(request, response))
        body = answer_of(response).body
        complaints = body.get("validationMessages") if isinstance(body, dict) else None
        return Step("warning" if complaints else "ok", "vendor's validation", shown)

    async def _send(
        self, stack: AsyncExitStack, event: Event, payloads: Payloads, tokens: Any
    ) -> AsyncIterator[Step]:
        item = Item(
            partition=0,
            offset=0,
            sequence=0,
            key=event.key,
            login_key="",
            event=event,
            value=b"",
            payloads=payloads,
        )
        if self._spec.kind == "stream":
            guard = guard_of(self._settings)
            sink = open_the_sink(self._destination, self._spec, self._transport, guard, self._clock)
            stack.push_async_callback(sink.close)
            for result in await StreamAttempt(sink, secrets=self._secrets)([item]):
                yield _told("send", result, self._spec)
            return
        attempt = HttpAttempt(
            self._transport,
            timeout_s=self._timeout_s,
            clock=self._clock,
            spec=self._spec,
            config=self._destination.config,
            tokens=tokens,
            validate=True,
            secrets=self._secrets,
        )
        [result] = await attempt([item])
        if any(isinstance(payload, Dialogue) for payload in payloads) and item.last_sent is not None:
            yield Step("ok", "request after look-ups", attempt.describe(item))
        yield _told("send", result, self._spec)


def _told(what: str, result: Delivery, spec: DestinationSpec | None = None) -> Step:
    match result:
        case Delivered(answer=answer, acceptance=acceptance, warning=warning):
            proven = acceptance if spec is None or spec.kind != "stream" else "accepted"
            if warning:
                return Step("warning", what, f"{proven}: {warning}")
            hint = "" if proven == "accepted" else ": the answer proves no more than that it arrived"
            return Step("ok", what, f"{proven}{hint} ({answer or 'taken'})")
        case Skip(rule=rule):
            return Step("warning", what, f"filtered after look-ups: {rule}")
        case Retry(reason=reason, answer=answer):
            return Step("error", what, f"not now: {reason} {answer}".strip())
        case Rejected(reason=reason, answer=answer):
            return Step("error", what, f"refused: {reason} {answer}".strip())
