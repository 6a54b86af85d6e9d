"""HTTP: a request of your own design for each event: URL, query, headers, auth and a JSON, form or XML body.

Follows RudderStack's HTTP Webhook destination, its settings and requests
(https://www.rudderstack.com/docs/destinations/http-webhook/setup-guide/, read 2026-11), and adds templates.

Values: `$.traits.email` takes a value from the event (`$.items[*].id` from all elements, `$` the whole event);
`{{ traits.plan || "free" }}` puts one into a text, with a default; `'text'`, `2`, `true` and other text are constants.
What the event does not have is left out: of the body, the query, the headers. Null is left out too, except in JSON
and XML bodies. Only the URL must be complete: an event without a value for a piece of its path is a dead letter,
because `DELETE /contacts/` is another request than the one meant.
Body: of POST, PUT and PATCH; from `body`, else `propertiesMapping`, else the whole event with `isDefaultMapping`,
else none. An empty object is no body. GET and DELETE send none.
Auth: none, basic, bearer token, API key in a header.
Batching (`isBatchingEnabled`): events whose URL, query and headers are the same go together, their JSON bodies as an
array. XML and forms have no such form: those events are sent one by one.
"""

import base64
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from mainstem.destinations.base import (
    Batch,
    Batcher,
    Body,
    Call,
    DestinationSpec,
    MapContext,
    Mapped,
    Mapper,
    Refusal,
    Unit,
)
from mainstem.destinations.kit.batching import alone, together
from mainstem.destinations.kit.body import json_bytes, quoted, text_of, xml_bytes
from mainstem.destinations.kit.paths import (
    MISSING,
    Json,
    PathInvalid,
    Read,
    compile_read,
    compile_value,
    compile_write,
    copied,
    is_path,
    literal,
    parse_path,
    wildcards,
    without_gaps,
)
from mainstem.destinations.kit.refuse import settled
from mainstem.destinations.kit.templates import compile_text, compile_tree, constants, is_template
from mainstem.destinations.kit.values import parse_int
from mainstem.destinations.kit.wire import (
    configured_url_error,
    header_error,
    header_secrets,
    merged,
    repr_without,
    url_error,
    with_path,
)
from mainstem.events.canonical import Event
from mainstem.secret import Secret

METHODS: Final = ("POST", "PUT", "PATCH", "GET", "DELETE")
FORMATS: Final = ("JSON", "XML", "FORM")
_BODILESS: Final = frozenset({"GET", "DELETE"})
_CONTENT_TYPES: Final = {
    "JSON": "application/json",
    "XML": "application/xml",
    "FORM": "application/x-www-form-urlencoded",
}
_NONE: Final = Secret("")
_DEFAULT_BATCH: Final = 100


class Row(msgspec.Struct, frozen=True, rename={"target": "to", "value": "from"}):
    """A value and its place: `from` is a path or a constant, `to` where it goes."""

    target: str = ""
    value: Any = ""

    def __repr__(self) -> str:
        shown = self.value if isinstance(self.value, str) and is_path(self.value) else "***"
        return f"Row({self.target!r} <- {shown})"


class PathParam(msgspec.Struct, frozen=True):
    """A piece of the URL's path: a path into the event, or a constant."""

    path: str = ""


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names and plainer ones."""

    SECRET_FIELDS: ClassVar = frozenset({"headers.from", "headers.*"})

    url: str = ""
    """Where to send. May hold references to the event, `https://example.com/{{ properties.shop }}`."""
    api_url: str = ""
    """RudderStack's name for `url`."""
    method: str = "POST"
    """POST, PUT, PATCH, GET or DELETE."""
    path_params: tuple[PathParam | str, ...] = ()
    """Pieces put behind the URL's path in this order, each a path into the event or a constant, or an object
    `{path: …}` with one."""
    query_params: tuple[Row, ...] | dict[str, Any] = ()
    """Query parameters: an object of names and values, or rows `{from: value, to: name}`. Objects and lists in
    the event become JSON text."""
    headers: tuple[Row, ...] | dict[str, Any] = ()
    """Headers: an object of names and values, or rows `{from: value, to: name}`. Constants are treated as secrets.
    An object or a list in the event can't be a header's value: the event becomes a dead letter."""
    auth: Literal["noAuth", "basicAuth", "bearerTokenAuth", "apiKeyAuth"] = "noAuth"
    """Which of the credentials below to send."""
    username: str = ""
    """For basicAuth."""
    password: Secret = _NONE
    """For basicAuth."""
    bearer_token: Secret = _NONE
    """For bearerTokenAuth."""
    api_key_name: str = ""
    """For apiKeyAuth: the header's name."""
    api_key_value: Secret = _NONE
    """For apiKeyAuth: the header's value."""
    format: str = "JSON"
    """JSON, XML or FORM. A form has one field for each top-level member; deeper values are JSON text in it."""
    body: Any = UNSET
    """The body as a template: any JSON, whose texts may be paths and references. `$` sends the whole event."""
    properties_mapping: tuple[Row, ...] = ()
    """The body by rows `{from: value, to: path in the body}`; used when `body` is not given."""
    is_default_mapping: bool = False
    """Send the whole event as the body; used when there is neither `body` nor `propertiesMapping`."""
    xml_root_key: str = "root"
    """Name of an XML body's outermost element."""
    is_batching_enabled: bool = False
    """Send events whose URL, query and headers are the same together: their bodies as a JSON array. JSON only."""
    max_batch_size: int | str = ""
    """Events in one request at most, with `isBatchingEnabled`; empty = 100."""

    def __post_init__(self) -> None:
        name = "apiUrl" if self.api_url else "url"
        if not self.target:
            raise ValueError("`url` is missing; give the URL to send to, like https://example.com/api")
        if problem := configured_url_error(self.target):
            raise ValueError(f"`{name}` {problem}")
        if self.method.upper() not in METHODS:
            raise ValueError(f"`method` is not one of {', '.join(METHODS)}")
        if self.format.upper() not in FORMATS:
            raise ValueError(f"`format` is not one of {', '.join(FORMATS)}")
        if self.auth == "basicAuth" and not self.username:
            raise ValueError("`username` is missing; basicAuth needs it")
        if self.auth == "bearerTokenAuth" and not self.bearer_token:
            raise ValueError("`bearerToken` is missing; bearerTokenAuth needs it")
        if self.auth == "apiKeyAuth" and not self.api_key_name:
            raise ValueError("`apiKeyName` is missing; apiKeyAuth needs the name of a header")
        if self.batch_size is None:
            raise ValueError("`maxBatchSize` is no whole number above 0")
        for header, value in _auth_headers(self):
            if problem := header_error(header, value):
                setting = "apiKeyName" if self.auth == "apiKeyAuth" else self.auth
                raise ValueError(f"`{setting}`: {problem}")
        _compiled("body", lambda: compile_tree(self.body))
        _compiled("propertiesMapping", lambda: _body_rows(self.properties_mapping))
        _compiled("headers", lambda: _header_parts(self.headers))
        _compiled("queryParams", lambda: _named_reads(self.query_params))
        _compiled("pathParams", lambda: _path_reads(self.path_params))

    def __repr__(self) -> str:
        return repr_without(self, ("headers", "query_params", "body"))

    @property
    def target(self) -> str:
        """The URL, whichever name it was given under."""
        return (self.api_url or self.url).strip()

    @property
    def batch_size(self) -> int | None:
        """Events in one request at most; None if what is given is no such number."""
        given = parse_int(self.max_batch_size) if self.max_batch_size != "" else _DEFAULT_BATCH
        return given if given is not None and given > 0 else None

    def warnings(self) -> tuple[tuple[str, str], ...]:
        """Return what is allowed but hardly meant: (setting, text)."""
        found: list[tuple[str, str]] = []
        if self.is_batching_enabled:
            kind = self.format.upper()
            if kind != "JSON":
                found.append(
                    ("isBatchingEnabled", f"{kind} bodies are not batched: events are sent one by one")
                )
        has_body = self.body is not UNSET or self.properties_mapping or self.is_default_mapping
        method = self.method.upper()
        if method in _BODILESS and has_body and not self.is_default_mapping:
            field = "body" if self.body is not UNSET else "propertiesMapping"
            found.append((field, f"{method} sends no body; use queryParams, or another method"))
        if method not in _BODILESS and not has_body:
            found.append(("body", f"{method} is sent without a body; `body: $` sends the whole event"))
        return tuple(found)


_NamedRead = tuple[str, Read]


def _compiled(setting: str, compile_: Callable[[], object]) -> None:
    try:
        compile_()
    except PathInvalid as error:
        raise ValueError(f"`{setting}`: {error}") from None


def _value(given: Any) -> Read:
    """Compile the value side of a row."""
    if isinstance(given, str):
        return compile_text(given) if is_template(given) else compile_value(given)
    return lambda _: given


def _name(target: str) -> str:
    """Return the name that `$.h1`, `$['h1']` or plain `h1` stands for; empty if it is none."""
    if not is_path(target):
        return target.strip()
    return ".".join(str(step) for step in parse_path(target))


def _named_reads(rows: tuple[Row, ...] | dict[str, Any]) -> list[_NamedRead]:
    if isinstance(rows, dict):
        return [(name, compile_tree(value)) for name, value in rows.items()]
    named = ((_name(row.target), row) for row in rows)
    return [(name, _value(row.value)) for name, row in named if name]


def _header_parts(rows: tuple[Row, ...] | dict[str, Any]) -> list[_NamedRead]:
    reads = _named_reads(rows)
    for name, _ in reads:
        if problem := header_error(name, ""):
            raise PathInvalid(problem)
    return reads


def _said_in_headers(rows: tuple[Row, ...] | dict[str, Any]) -> list[tuple[str, str]]:
    """Return (header, text) of what the settings themselves put into headers: constants, and those in templates."""
    said: list[tuple[str, str]] = []
    as_rows = () if isinstance(rows, dict) else rows
    pairs = [
        *(rows.items() if isinstance(rows, dict) else ()),
        *((_name(row.target), row.value) for row in as_rows),
    ]
    for name, value in pairs:
        if not isinstance(value, str):
            said.append((name, text_of(value)))
        elif is_template(value):
            said += [(name, text) for text in constants(value)]
        elif not is_path(value):
            said.append((name, value if isinstance(rows, dict) else text_of(literal(value))))
    return said


def _path_reads(params: tuple[PathParam | str, ...]) -> list[tuple[str, Read]]:
    texts = [param if isinstance(param, str) else param.path for param in params]
    return [(text, _value(text)) for text in texts if text.strip()]


def _body_rows(rows: tuple[Row, ...]) -> list[tuple[Read, Callable[[Json, Json], Json]]]:
    compiled = []
    for row in rows:
        if not row.target.strip():
            continue
        steps = parse_path(row.target)
        value = row.value
        every = wildcards(parse_path(value)) if isinstance(value, str) and is_path(value) else 0
        if wildcards(steps) > every:
            raise PathInvalid(
                f"`{row.target}` has more [*] than what it is made `from`; name one element, like [0]"
            )
        compiled.append((_value(value), compile_write(steps)))
    return compiled


def _auth_headers(config: Config) -> tuple[tuple[str, str], ...]:
    if config.auth == "basicAuth":
        pair = f"{config.username}:{config.password.reveal()}"
        return (("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}"),)
    if config.auth == "bearerTokenAuth":
        return (("Authorization", f"Bearer {config.bearer_token.reveal()}"),)
    if config.auth == "apiKeyAuth":
        return ((config.api_key_name, config.api_key_value.reveal()),)
    return ()


def _secrets(config: Config) -> tuple[str, ...]:
    given = {
        config.password.reveal(),
        config.bearer_token.reveal(),
        config.api_key_value.reveal(),
        *(value.rpartition(" ")[2] for _, value in _auth_headers(config)),
        *header_secrets(_said_in_headers(config.headers)),
    }
    return tuple(sorted(given - {""}))


_BuildBody = Callable[[dict[str, Any]], Json]


def _make_body(config: Config) -> _BuildBody | None:
    if config.method.upper() in _BODILESS:
        return None
    if not isinstance(config.body, UnsetType):
        tree = compile_tree(config.body)
        return lambda message: without_gaps(tree(message))
    if config.properties_mapping:
        rows = _body_rows(config.properties_mapping)

        def build(message: dict[str, Any]) -> Json:
            body: Json = MISSING
            for read, write in rows:
                value = read(message)
                if value is not MISSING:
                    body = write(body, copied(value))
            return without_gaps(body)

        return build
    return compile_read(()) if config.is_default_mapping else None


def _make_parts(config: Config) -> Callable[[Json], Body]:
    kind, root = config.format.upper(), config.xml_root_key or "root"
    if kind == "XML":
        return lambda body: Body("xml", xml_bytes(body, root).decode())
    if kind == "FORM":
        return lambda body: Body("form", _fields(body))
    return lambda body: Body("json_array" if isinstance(body, list) else "json", body)


def _fields(body: Json) -> dict[str, str]:
    members = body if isinstance(body, dict) else {"body": body}
    return {name: text_of(value) for name, value in members.items() if value is not None}


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    method, target = config.method.upper(), config.target
    read_url: Read | None = compile_text(target, quoted) if is_template(target) else None
    path_reads = _path_reads(config.path_params)
    query_reads = _named_reads(config.query_params)
    header_reads = _header_parts(config.headers)
    base = dict(merged((("Content-Type", _CONTENT_TYPES[config.format.upper()]),), _auth_headers(config)))
    secrets = _secrets(config)
    build, parts = _make_body(config), _make_parts(config)

    def to_call(event: Event, context: MapContext) -> Mapped:
        message = event.message
        url = _url(target if read_url is None else read_url(message), path_reads, message)
        if isinstance(url, Refusal):
            return url
        if read_url is not None and (problem := url_error(url)):
            return Refusal(f"the URL made for this event {problem}")
        headers = _headers(header_reads, message)
        if isinstance(headers, Refusal):
            return headers
        body = MISSING if build is None else build(message)
        return (
            Call(
                url=url,
                method=method,
                # One may be there twice, in two spellings; only the later, the event's own, is sent.
                headers={**base, **headers} if headers else base,
                params=_query(query_reads, message) if query_reads else {},
                body=None if body is MISSING or body == {} else parts(body),
                secrets=secrets,
            ),
        )

    return settled(to_call)


def max_batch(config: Config) -> int:
    """Return how many events may be in one request."""
    batches = config.is_batching_enabled and config.format.upper() == "JSON"
    return (config.batch_size or 1) if batches else 1


def make_batcher(config: Config) -> Batcher:
    """Return the batching for these settings."""
    most = max_batch(config)
    if not config.is_batching_enabled or config.format.upper() != "JSON":
        return lambda units: [alone(unit) for unit in units]

    def batch(units: Sequence[Unit]) -> Sequence[Batch]:
        return together(units, key=_same_request, merge=_merged, most=most)

    return batch


def _same_request(unit: Unit) -> bytes:
    call = unit.calls[0]
    return json_bytes([call.url, call.params, call.headers])


def _merged(calls: Sequence[Call]) -> Call:
    first = calls[0]
    bodies = [call.body.value for call in calls if call.body is not None]
    if first.method in _BODILESS:
        # What RudderStack's transformer shows; there is nothing to send in a body.
        shown = {"JSON": {}, "JSON_ARRAY": {"batch": "[]"}, "XML": {}, "FORM": {}}
        return msgspec.structs.replace(first, extra={"body": shown})
    return msgspec.structs.replace(first, body=Body("json_array", bodies))


def _query(reads: list[_NamedRead], message: dict[str, Any]) -> dict[str, Json]:
    params: dict[str, Json] = {}
    for name, read in reads:
        value = read(message)
        if _absent(value):
            continue
        text = text_of(without_gaps(value))
        if name in params:  # the same name again: sent as often
            before = params[name]
            params[name] = [*before, text] if isinstance(before, list) else [before, text]
        else:
            params[name] = text
    return params


def _absent(value: Json) -> bool:
    return value is MISSING or value is None


def _url(url: Json, path_reads: list[tuple[str, Read]], message: dict[str, Any]) -> str | Refusal:
    if url is MISSING:
        return Refusal("`url`: the event has no value for a reference in it; give it a default with ||")
    pieces = []
    for text, read in path_reads:
        value = read(message)
        if _absent(value) or value == "":
            return Refusal(f"pathParams: the event has no `{text}`")
        if isinstance(value, dict | list):
            return Refusal(f"pathParams: `{text}` is no single value in this event")
        piece = text_of(value)
        if piece in (".", ".."):
            # Clients resolve these before they send: DELETE /contacts/.. would be DELETE /.
            return Refusal(f"pathParams: `{text}` is `{piece}` in this event, which would mean another URL")
        pieces.append(piece)
    return with_path(str(url), pieces)


def _headers(reads: list[_NamedRead], message: dict[str, Any]) -> dict[str, str] | Refusal:
    headers = {}
    for name, read in reads:
        value = read(message)
        if _absent(value):
            continue
        if isinstance(value, dict | list):
            return Refusal(
                f"headers: `{name}` is an object or a list in this event; a header's value is a text"
            )
        text = text_of(value)
        if problem := header_error(name, text):
            return Refusal(problem)
        headers[name] = text
    return headers


SPEC = DestinationSpec(
    name="HTTP",
    title="HTTP",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen", "group", "alias", "merge"}),
    doc_url="https://www.rudderstack.com/docs/destinations/http-webhook/setup-guide/",
    mapper=make_mapper,
    batcher=make_batcher,
    default_max_batch=_DEFAULT_BATCH,
    max_batch=max_batch,
    own_templates=True,
)
