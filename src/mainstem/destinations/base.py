"""What a destination is: typed settings, a pure mapping from canonical event to payload, and how to read answers.

pipeline -> **destination mapping** -> delivery. A destination module holds no retry, sleep, clock, batching
loop or logging: `delivery/` does that the same way for all of them. Adding one is: the module with its
`SPEC`, one line in `catalog.py`, its golden cases. A third party adds one from its own package with an entry
point in the group `mainstem.destinations`.
"""

import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol

import msgspec

from mainstem.events.canonical import Event
from mainstem.secret import Secret

# ---------------------------------------------------------------- payloads: what the mapping produces


class Request(msgspec.Struct, frozen=True):
    """One HTTP request, complete."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    secrets: tuple[str, ...] = ()
    """Texts in the url, headers or body that must not be shown: dry-run, explain and logs redact them."""


class Response(msgspec.Struct, frozen=True):
    """The answer to a request; header names are lower case, the body may be cut at the transport's bound."""

    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""


BodyKind = Literal["json", "json_array", "form", "xml", "gzip"]


class Body(msgspec.Struct, frozen=True):
    """What a request carries, before it becomes bytes (`kit.call.encode`)."""

    kind: BodyKind
    """json: an object. json_array: a list. form: an object of fields. xml: the document's text. gzip: a text,
    sent compressed."""
    value: Any


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request in its parts: what mappings make, what several events can be put together into, what
    `kit.call.encode` makes a `Request` of. Treat its members as read-only: attempts share them."""

    url: str
    """Without what is in `params`."""
    method: str = "POST"
    headers: Mapping[str, str] = {}
    params: Mapping[str, Any] = {}
    """Query parameters, in this order; null ones are left out."""
    body: Body | None = None
    user_id: Any = None
    """Whom the request is about, as RudderStack names the key of its queues. Shown, not sent."""
    label: str = ""
    """A short name of the vendor's operation (`users/track`): for metrics, batching and proofs of acceptance."""
    extra: Mapping[str, Any] = {}
    """More that RudderStack's transformer says beside a request, and batching may go by. Shown, not sent."""
    cache_s: float = 0.0
    """A look-up only: for how long its answer may be used again for the same request."""
    secrets: tuple[str, ...] = ()
    """Texts in it that must not be shown, beside those typed `Secret` in the settings."""
    aside: Mapping[str, Any] = {}
    """For the batching alone: neither shown nor sent."""


class Answer(msgspec.Struct, frozen=True):
    """What a look-up was answered, as mappings read it."""

    status: int
    """0 = there was no answer; `error` says why."""
    body: Any = None
    """Parsed JSON; the text if it is none."""
    headers: Mapping[str, str] = {}
    error: str = ""


class StreamMessage(msgspec.Struct, frozen=True):
    """One message for a broker (Kafka and the like)."""

    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    extra: Mapping[str, Any] = {}
    """What else this kind of broker takes (`kit` of its module says what): attributes, a schema id."""


Looking = Generator[Call, Answer, "tuple[Request | Call, ...]"]
"""A mapping that asks first: it yields look-ups, is sent their answers, and returns what to send. It does no I/O of
its own, so the same event and the same answers give the same requests. It may raise as `kit.refuse` says."""


class Dialogue(msgspec.Struct, frozen=True, eq=False):
    """What an event becomes at a destination that has to look something up: delivery holds the dialogue."""

    start: Callable[[], Looking]
    """Begins anew each time it is called."""


Payload = Request | Call | StreamMessage | Dialogue
Payloads = tuple[Payload, ...]
"""What one event becomes at one destination, to be sent in this order; empty = nothing to send (say why)."""


class Refusal(msgspec.Struct, frozen=True):
    """The mapping cannot send this event: a dead letter with this reason."""

    reason: str
    """Names the field and what to do."""
    status: int = 400
    """What RudderStack's transformer answers in this case."""


class Skip(msgspec.Struct, frozen=True):
    """The destination has no call for this event: filtered, by this rule."""

    rule: str
    status: int = 400
    """What RudderStack's transformer answers in this case."""


Mapped = Payloads | Refusal | Skip


# ---------------------------------------------------------------- results of one attempt


class Delivered(msgspec.Struct, frozen=True):
    """The destination took it."""

    answer: str = ""
    """Short text of the last answer, for `explain`."""
    acceptance: "Acceptance" = "unverifiable"
    warning: str = ""
    """What the destination complained about although it took the event."""


Acceptance = Literal["accepted", "accepted with warning", "unverifiable"]
"""How much a success proves. accepted: the answer says that this event was taken; accepted with warning: it was,
and something in it was not liked; unverifiable: a status without meaning (many vendors answer 200 to anything)."""


class Retry(msgspec.Struct, frozen=True):
    """Not taken, may be taken later."""

    reason: str
    after_s: float | None = None
    """The destination's own wish (Retry-After); None = our back-off."""
    throttled: bool = False
    """It said to slow down (429)."""
    destination_wide: bool = False
    """The destination as a whole is in trouble (network, 5xx, 401), not just this event: feeds the breaker."""
    answer: str = ""
    status: int = 500
    """What RudderStack's transformer answers in this case."""


class Rejected(msgspec.Struct, frozen=True):
    """Never will be taken: a dead letter."""

    reason: str
    answer: str = ""


Delivery = Delivered | Retry | Rejected | Skip
"""Skip: a look-up showed that the event is not for this destination; it is filtered."""


# ---------------------------------------------------------------- the specification of a destination


ACCESS_TOKEN: Final = "\ue000access_token\ue000"  # noqa: S105 - its place, not a token
"""Stands for the OAuth access token in the requests of a mapping; delivery puts in the one that holds when sending."""

_PLACEHOLDERS: Final = MappingProxyType({"access_token": ACCESS_TOKEN})
_NAMESPACE: Final = uuid.UUID("5f0f5b1c-7d0e-4b6e-9c64-0f2f6d0a7c11")


class MapContext(msgspec.Struct, frozen=True):
    """What a mapping may know besides the event: injected, so that dry runs repeat to the byte."""

    now_ms: int
    """The clock. Live delivery passes the event's receivedAt, so that every attempt is the same request."""
    destination_id: str
    source_name: str = ""
    metadata: Mapping[str, Any] = {}
    """Facts about the event's way under RudderStack's names: sourceId, sourceType, destinationId, workspaceId …"""
    secret: Mapping[str, str] = msgspec.field(default_factory=lambda: _PLACEHOLDERS)
    """OAuth: `access_token`, and what else the provider gave."""
    connection: Mapping[str, Any] = {}
    """Settings of the connection between source and destination (`config.destination`), where there are any."""
    partner: str = "Mainstem"
    """Who sends, where a vendor wants to know (Braze's `partner`, Amplitude's `library`)."""
    fixed_id: str = ""
    """Every id that `make_id` makes; empty = made of the event."""

    def make_id(self, event: Event, purpose: str = "") -> str:
        """Return a UUID for a request that needs one: the same for every attempt of the same event and purpose."""
        if self.fixed_id:
            return self.fixed_id
        return str(uuid.uuid5(_NAMESPACE, f"{self.destination_id}\n{event.message_id}\n{purpose}"))


class Mapper(Protocol):
    """The pure part, made once per connection from its settings."""

    def __call__(self, event: Event, context: MapContext) -> Mapped:
        """Map one event; never changes it, does no I/O; the same input gives the same bytes."""
        ...


class Unit(msgspec.Struct, frozen=True, eq=False):
    """An event in a batch being made."""

    index: int
    """Its place in the batch being made."""
    calls: tuple[Call, ...]
    """What its mapping made of it."""
    event: Event


class Batch(msgspec.Struct, frozen=True, eq=False):
    """Requests that carry some units: sent in this order, all or none."""

    calls: tuple[Call, ...]
    units: tuple[int, ...]
    """Indexes of the units they carry, ascending; every unit is in one batch."""
    batched: bool = True
    """Whether the vendor takes them as one batch (False: a unit by itself)."""
    refusal: Refusal | None = None
    """These units can't be sent after all; no calls then."""
    many: bool = False
    """Shown as a list although it is one call."""


Batching = Generator[Call, Answer, Sequence[Batch]]
"""As `Looking`, for batches."""
Batcher = Callable[[Sequence[Unit]], "Sequence[Batch] | Batching"]
"""Puts units (of one destination, in order) together by the vendor's rules; pure. Delivery sees to it that a user's
events are not put into batches out of their order."""

Classify = Callable[[Request, Response], Delivery | None]
"""Reads an answer; None = as `delivery.classify` reads it by its status."""
ClassifyEach = Callable[[Call, Request, Response, Sequence[Unit]], Sequence[Delivery] | None]
"""Reads the answer to a request that carries several units; one result per unit, in order. None = the same for all,
as `Classify` or the status says."""
Kind = Literal["http", "stream", "files", "tables"]

Proof = Literal["status", "body", "each event", "validation"]
"""What acceptance by this destination can be told by. status: nothing but the HTTP status (unverifiable). body: the
answer's body says whether it was taken. each event: it says so for each event of a batch. validation: the vendor has
an endpoint that checks a request without taking it."""


class OAuth(msgspec.Struct, frozen=True, kw_only=True):
    """How access tokens of a destination are renewed (RFC 6749, section 6)."""

    token_url: str
    scopes: tuple[str, ...] = ()


class OAuthGrant(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a destination that takes OAuth is given in its setting `oauth`."""

    client_id: str
    """Of your application at the provider."""
    client_secret: Secret
    refresh_token: Secret
    """What your application got when somebody allowed it to send."""
    token_url: str = ""
    """Where tokens are renewed; empty = the provider's usual place."""


class Schema(msgspec.Struct, frozen=True, kw_only=True):
    """What the vendor's documentation says a request's JSON body looks like, as JSON Schema (draft 2020-12)."""

    label: str
    """Of the calls it is for (`Call.label`); empty = all."""
    schema: Mapping[str, Any]
    doc_url: str


class MappingTable(msgspec.Struct, frozen=True, kw_only=True):
    """A table of the mapping, for the reference page (`kit.table.Table.rows`)."""

    title: str
    rows: tuple[tuple[str, tuple[str, ...], str], ...]
    """(target, sources in order of preference, what is done with the value)."""


class DestinationSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the rest of Mainstem knows about a destination type; feeds validation, docs, CLI, forms."""

    name: str
    """RudderStack's definition name, upper case (`WEBHOOK`); case does not matter in configuration."""
    title: str
    kind: Kind
    """http: requests through `delivery.transport`; stream: messages to a broker; files: lake and archive;
    tables: warehouses."""
    config: type[msgspec.Struct]
    """Settings; unknown fields are kept out of it but reported by `workspace check`."""
    message_types: frozenset[str]
    """Event types it has a call for; others are filtered by the rule `message type not supported`."""
    doc_url: str
    """The vendor's page that the mapping follows."""
    mapper: Callable[[Any], Mapper] | None = None
    """Makes the mapping from the settings (None for `files` and `tables`, which take events as they are)."""
    classify: Classify | None = None
    """Reads an answer; None = `delivery.classify`."""
    default_concurrency: int = 16
    """Requests in flight at once, over all users; one per user."""
    default_max_batch: int = 1
    """Events a single attempt may carry."""
    max_batch: Callable[[Any], int] | None = None
    """Events a single attempt may carry, where the settings say; None = `default_max_batch`."""
    batcher: Callable[[Any], Batcher] | None = None
    """Makes the batching from the settings; None = every event by itself."""
    classify_each: ClassifyEach | None = None
    """Reads an answer that has one result per event; None = `classify`'s result is everybody's."""
    oauth: OAuth | None = None
    proof: Proof = "status"
    validation: Callable[[Any, Call], Call | None] | None = None
    """The vendor's validating form of a request (settings, request), for `destination verify`; None = it has none."""
    schemas: tuple[Schema, ...] = ()
    tables: tuple[MappingTable, ...] = ()
    own_templates: bool = False
    """Whether its mapping reads references to the event in its settings itself (`pipeline.mapping` does otherwise)."""
    limits: str = ""
    """The vendor's documented limits, in a sentence."""


class StreamSink(Protocol):
    """The sending end of a broker."""

    async def send(self, messages: Sequence[StreamMessage]) -> Sequence[Delivery]:
        """Send messages in this order; one result per message, in the same order."""
        ...

    async def close(self) -> None: ...
