"""What a destination is: typed settings, a pure mapping from canonical event to payload, and how to read answers.

pipeline -> **destination mapping** -> delivery. A destination module holds no retry, sleep, clock, batching
loop or logging: `delivery/` does that the same way for all of them. Adding one is: the module with its
`SPEC`, one line in `catalog.py`, its golden cases. A third party adds one from its own package with an entry
point in the group `mainstem.destinations`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from mainstem.events.canonical import Event

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


class StreamMessage(msgspec.Struct, frozen=True):
    """One message for a broker (Kafka and the like)."""

    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


Payload = Request | StreamMessage
Payloads = tuple[Payload, ...]
"""What one event becomes at one destination, to be sent in this order; empty = nothing to send (say why)."""


class Refusal(msgspec.Struct, frozen=True):
    """The mapping cannot send this event: a dead letter with this reason."""

    reason: str
    """Names the field and what to do."""


class Skip(msgspec.Struct, frozen=True):
    """The destination has no call for this event: filtered, by this rule."""

    rule: str


Mapped = Payloads | Refusal | Skip


# ---------------------------------------------------------------- results of one attempt


class Delivered(msgspec.Struct, frozen=True):
    """The destination took it."""

    answer: str = ""
    """Short text of the last answer, for `explain`."""


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


class Rejected(msgspec.Struct, frozen=True):
    """Never will be taken: a dead letter."""

    reason: str
    answer: str = ""


Delivery = Delivered | Retry | Rejected


# ---------------------------------------------------------------- the specification of a destination


class MapContext(msgspec.Struct, frozen=True):
    """What a mapping may know besides the event: injected, so that dry runs repeat to the byte."""

    now_ms: int
    """The clock. Live delivery passes the event's receivedAt, so that every attempt is the same request."""
    destination_id: str
    source_name: str = ""


class Mapper(Protocol):
    """The pure part, made once per connection from its settings."""

    def __call__(self, event: Event, context: MapContext) -> Mapped:
        """Map one event; never changes it, does no I/O; the same input gives the same bytes."""
        ...


Classify = Callable[[Request, Response], Delivery]
Kind = Literal["http", "stream", "files"]


class DestinationSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the rest of Mainstem knows about a destination type; feeds validation, docs, CLI, forms."""

    name: str
    """RudderStack's definition name, upper case (`WEBHOOK`); case does not matter in configuration."""
    title: str
    kind: Kind
    """http: requests through `delivery.transport`; stream: messages to a broker; files: lake and archive."""
    config: type[msgspec.Struct]
    """Settings; unknown fields are kept out of it but reported by `workspace check`."""
    message_types: frozenset[str]
    """Event types it has a call for; others are filtered by the rule `message type not supported`."""
    doc_url: str
    """The vendor's page that the mapping follows."""
    mapper: Callable[[Any], Mapper] | None = None
    """Makes the mapping from the settings (None for `files`, which write events as they are)."""
    classify: Classify | None = None
    """Reads an answer; None = `delivery.classify`."""
    default_concurrency: int = 16
    """Requests in flight at once, over all users; one per user."""
    default_max_batch: int = 1
    """Events a single attempt may carry."""


class StreamSink(Protocol):
    """The sending end of a broker."""

    async def send(self, messages: Sequence[StreamMessage]) -> Sequence[Delivery]:
        """Send messages in this order; one result per message, in the same order."""
        ...

    async def close(self) -> None: ...
