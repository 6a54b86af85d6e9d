"""Webhook: each event as it is, to a URL of your own.

Follows RudderStack's Webhook destination, settings and requests
(https://www.rudderstack.com/docs/destinations/webhooks/setup-guide/, read 2026-11), so that a server built
for it need not change.

Request: POST, PUT and PATCH carry the event as JSON, with `context.ip` filled from `request_ip` if it has none.
GET and DELETE carry no body: the event's `properties` (identify and group: its traits) become query parameters,
nested ones under dotted names (`cart.items[0].id`).
An event may add to its own request: `header` (an object: more headers; anything but a text is written as JSON) and
`appendPath` (a text put behind the URL). Both are taken out of what is sent. A header set here stays as set here.
Auth: put it into `headers`; their values are treated as secrets.
Limits: none of ours but the size of an event.
"""

from typing import Any, ClassVar, Final

import msgspec

from mainstem.destinations.base import Body, Call, DestinationSpec, MapContext, Mapped, Mapper, Refusal
from mainstem.destinations.kit.body import quoted, text_of
from mainstem.destinations.kit.paths import MISSING, Json, PathInvalid, Read
from mainstem.destinations.kit.refuse import settled
from mainstem.destinations.kit.templates import compile_text, constants, is_template
from mainstem.destinations.kit.values import flattened
from mainstem.destinations.kit.wire import (
    Headers,
    configured_url_error,
    header_error,
    header_secrets,
    merged,
    repr_without,
    url_error,
)
from mainstem.events.canonical import Event

METHODS: Final = ("POST", "PUT", "PATCH", "GET", "DELETE")
_JSON: Final = (("Content-Type", "application/json"),)
_BODILESS: Final = frozenset({"GET", "DELETE"})


class Header(msgspec.Struct, frozen=True, rename={"name": "from", "value": "to"}):
    """A header: `from` is its name, `to` its value."""

    name: str = ""
    value: str = ""

    def __repr__(self) -> str:
        return f"Header({self.name!r}, ***)"


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names and plainer ones."""

    SECRET_FIELDS: ClassVar = frozenset({"headers.to", "headers.*"})

    url: str = ""
    """Where to send. May hold references to the event, `https://example.com/{{ properties.shop }}`."""
    webhook_url: str = ""
    """RudderStack's name for `url`."""
    method: str = ""
    """POST (the default), PUT, PATCH, GET or DELETE."""
    webhook_method: str = ""
    """RudderStack's name for `method`."""
    headers: tuple[Header, ...] | dict[str, str] = ()
    """Headers to send: an object of names and values, or RudderStack's list of `{from: name, to: value}`.
    Values may hold references, `{{ context.traits.tenant || "none" }}`; one without a value is left out."""
    dynamic_request: bool = True
    """Let an event's own `header` and `appendPath` change its request. Whoever knows a source's write key can
    send them; with `false` they are sent as a part of the event like any other field."""

    def __post_init__(self) -> None:
        name = "webhookUrl" if self.webhook_url else "url"
        if not self.target:
            raise ValueError("`url` is missing; give the URL to send to, like https://example.com/hook")
        if problem := configured_url_error(self.target):
            raise ValueError(f"`{name}` {problem}")
        if self.verb not in METHODS:
            name = "webhookMethod" if self.webhook_method else "method"
            raise ValueError(f"`{name}` is not one of {', '.join(METHODS)}")
        for header, value in self.header_pairs:
            if problem := header_error(header, value):
                raise ValueError(f"`headers`: {problem}")
            try:
                compile_text(value)
            except PathInvalid as error:
                raise ValueError(f"`headers`: `{header}`: {error}") from None

    def __repr__(self) -> str:
        return repr_without(self, ("headers",))

    @property
    def target(self) -> str:
        """The URL, whichever name it was given under."""
        return (self.webhook_url or self.url).strip()

    @property
    def verb(self) -> str:
        """The method, whichever name it was given under."""
        return (self.webhook_method or self.method or "POST").upper()

    @property
    def header_pairs(self) -> tuple[tuple[str, str], ...]:
        """Names and values, without rows left empty."""
        if isinstance(self.headers, dict):
            return tuple(self.headers.items())
        return tuple((row.name.strip(), row.value) for row in self.headers if row.name.strip())


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    method, target = config.verb, config.target
    bodiless = method in _BODILESS
    dynamic = config.dynamic_request
    default = () if bodiless else _JSON
    fixed = merged((name, value) for name, value in config.header_pairs if not is_template(value))
    templated = [(name, compile_text(value)) for name, value in config.header_pairs if is_template(value)]
    read_url: Read | None = compile_text(target, quoted) if is_template(target) else None
    # Which events have nothing of their own in their headers is known beforehand for most workspaces.
    fixed_headers = merged(default, fixed)
    fixed_parts = _header_parts(fixed_headers)
    secrets = header_secrets((name, said) for name, value in config.header_pairs for said in constants(value))

    def to_call(event: Event, context: MapContext) -> Mapped:
        message = event.message
        url: Json = read_url(message) if read_url is not None else target
        if url is MISSING:
            return Refusal("`url`: the event has no value for a reference in it; give it a default with ||")
        configured, headers = fixed, fixed_headers
        if templated:
            own = [(name, read(message)) for name, read in templated]
            configured = merged(fixed, ((name, str(value)) for name, value in own if value is not MISSING))
            headers = merged(default, configured)
        if dynamic and ("header" in message or "appendPath" in message):
            more, path = message.get("header"), message.get("appendPath")
            if isinstance(more, dict):
                asked = ((name, text_of(value)) for name, value in more.items())
                headers = merged(default, asked, configured)
            if isinstance(path, str):
                url = _appended(url, path)
            message = {
                key: value
                for key, value in message.items()
                if not (key == "header" and isinstance(more, dict))
                and not (key == "appendPath" and isinstance(path, str))
            }
        if (read_url is not None or message is not event.message) and (problem := url_error(url)):
            return Refusal(f"the URL made for this event {problem}")
        parts = fixed_parts
        if headers is not fixed_headers:
            for name, value in headers:
                if problem := header_error(name, value):
                    return Refusal(problem)
            parts = _header_parts(headers)
        return (
            Call(
                url=url,
                method=method,
                headers=parts[0],
                params=_params(_details(message)) if bodiless else {},
                body=None if bodiless else Body("json", _with_ip(message)),
                user_id=message.get("anonymousId"),
                extra=parts[1],
                secrets=secrets,
            ),
        )

    return settled(to_call)


def _header_parts(headers: Headers) -> tuple[dict[str, str], dict[str, Json]]:
    """Return headers as they are sent, and as RudderStack's transformer spells them: in lower case."""
    return dict(headers), {"headers": {name.lower(): value for name, value in headers}}


def _params(details: Json) -> dict[str, Json]:
    """Return an object as query parameters: one a leaf, under its path; empty ones are written as JSON."""
    leaves = flattened(details, lists="bracket")
    return {
        path: text_of(value) if isinstance(value, dict | list) else value for path, value in leaves.items()
    }


def _appended(url: str, path: str) -> str:
    # Behind a bare host, only something that begins a path or a query: `.evil.example` or `@evil.example` would
    # make it another host, and take the configured headers there.
    _, _, behind_scheme = url.partition("://")
    bare = not any(mark in behind_scheme for mark in "/?#")
    return f"{url}/{path}" if path and bare and path[0] not in "/?#" else url + path


def _details(message: dict[str, Any]) -> Json:
    """Return what a request without a body says of the event."""
    if message.get("type") in ("identify", "group"):
        traits = message.get("traits")
        if isinstance(traits, dict) and traits:
            return traits
        context = message.get("context")
        return context.get("traits") if isinstance(context, dict) else None
    return message.get("properties")


def _with_ip(message: dict[str, Any]) -> dict[str, Any]:
    ip = message.get("request_ip")
    if not ip:
        return message
    context = message.get("context")
    if context is None:
        context = {}
    if not isinstance(context, dict) or context.get("ip"):
        return message
    return {**message, "context": {**context, "ip": ip}}


SPEC = DestinationSpec(
    name="WEBHOOK",
    title="Webhook",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen", "group", "alias", "merge"}),
    doc_url="https://www.rudderstack.com/docs/destinations/webhooks/setup-guide/",
    mapper=make_mapper,
    own_templates=True,
)
