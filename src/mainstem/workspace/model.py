"""The workspace snapshot: immutable, typed, complete; everything the data plane is told.

control plane, YAML file or workspaceConfig.json -> **snapshot** -> gateway and workers. Parsed once, passed
down, replaced as a whole. Names are RudderStack's and Segment's. Secrets are `Secret`, so no repr, log or
error shows them.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal, Protocol

import msgspec


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where events come from: one write key."""

    id: str
    name: str
    write_keys: tuple[str, ...]
    """Any of these authenticates (several while a key is being rotated)."""
    type: str = "http"
    """web, server, mobile, webhook …: shown to people, sent to SDKs."""
    enabled: bool = True
    origins: tuple[str, ...] = ()
    """Browser origins that may send; empty = any."""
    webhook: "WebhookMapping | None" = None
    """How a webhook body becomes an event; None = a track with the body as properties."""
    geo_enrichment: bool = False
    user_agent_enrichment: bool = False
    bots: Literal["pass", "flag", "drop"] = "pass"
    """What is done with events of known crawlers: nothing, `context.isBot = true`, or filtered by rule `bot`."""


class WebhookMapping(msgspec.Struct, frozen=True, kw_only=True):
    """From a webhook's JSON or form body to an event. Each value is a dotted path into
    `{body, query, headers}`, or a fixed text in single quotes."""

    type: str = "'track'"
    event: str = "'webhook'"
    user_id: str = ""
    anonymous_id: str = ""
    message_id: str = ""
    """Empty = made by the gateway, so a repeated webhook is not recognised as a duplicate."""
    timestamp: str = ""
    properties: str = "body"
    """The path whose value becomes `properties` (or `traits` for identify and group)."""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of a connection. An event passes when it satisfies every given field."""

    name: str
    """Shown in the books and by `explain` as `filter:<name>`."""
    types: tuple[str, ...] = ()
    """Event types that pass; empty = all."""
    allow: tuple[str, ...] = ()
    """Event names that pass (exact, or with `*`); empty = all. Concerns track, page and screen only."""
    deny: tuple[str, ...] = ()
    """Event names that do not pass (exact, or with `*`)."""
    where: str = ""
    """A CEL expression over `event` (the canonical message); the event passes when it is true."""
    sample_percent: float = 100.0
    """The share of users that pass, by stable hash of the ordering key: the same users everywhere."""


class ConsentRule(msgspec.Struct, frozen=True, kw_only=True):
    """What consent a destination needs."""

    provider: str = ""
    """oneTrust, ketch, iubenda, custom; empty = any provider."""
    strategy: Literal["and", "or"] = "and"
    """and: every id must be consented; or: one is enough."""
    consents: tuple[str, ...] = ()


class DeliveryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a destination is delivered to."""

    concurrency: int = 0
    """Requests in flight at once; 0 = the destination type's default. One per user whatever it is."""
    rate_per_s: float = 0.0
    """Requests a second at most; 0 = no static limit (429 still slows us down)."""
    timeout_s: float = 10.0
    """One attempt, from connecting to the end of the answer."""
    retry_window_s: float = 86_400.0
    """How long an event is retried, from its first attempt, before it is a dead letter."""
    max_attempts: int = 0
    """Attempts before it is a dead letter, 0 = as many as the window allows."""
    backoff_base_s: float = 0.5
    backoff_max_s: float = 300.0
    """Full jitter: a random time up to base x 2^attempt, at most this."""
    park_after_s: float = 30.0
    """A user whose event keeps failing this long while others succeed is parked."""
    park_after_attempts: int = 5
    """… or after this many attempts, whichever comes first."""
    window: int = 10_000
    """Events held in memory at most (read, not yet settled)."""
    window_bytes: int = 32 * 1024 * 1024
    breaker_failures: int = 10
    """Destination-wide failures in a row that open the circuit breaker."""
    breaker_open_s: float = 5.0
    """How long it stays open before one probe; doubles to ten times this while probes fail."""


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """A place events go to."""

    id: str
    name: str
    type: str
    """The type's name in `destinations.catalog` (upper case)."""
    display_name: str = ""
    """The name by which `integrations` of an event addresses it besides `name` and `type`."""
    enabled: bool = True
    config: Any = None
    """The type's own settings struct, validated (`DestinationSpec.config`)."""
    raw_config: Mapping[str, Any] = {}
    """The settings as given (RudderStack's names), secrets as `Secret`."""
    message_types: tuple[str, ...] = ()
    """Narrower than the type's own; empty = the type's."""
    consent: tuple[ConsentRule, ...] = ()
    one_trust_categories: tuple[str, ...] = ()
    ketch_purposes: tuple[str, ...] = ()
    delivery: DeliveryPolicy = DeliveryPolicy()
    start: str = "latest"
    """Where a new destination begins: `latest`, `earliest`, or an ISO 8601 time of receivedAt."""


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """Events of one source go to one destination, through these rules."""

    source_id: str
    destination_id: str
    enabled: bool = True
    filters: tuple[Filter, ...] = ()


class Workspace(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot."""

    id: str
    name: str = ""
    version: str
    """Changes with the content: a hash of the document, or the control plane's ETag."""
    sources: tuple[Source, ...] = ()
    destinations: tuple[Destination, ...] = ()
    connections: tuple[Connection, ...] = ()
    suppressed_user_ids: frozenset[str] = frozenset()
    """Events of these users are filtered by rule `suppressed`, everywhere."""

    def source(self, source_id: str) -> Source | None:
        """Return the source, or None."""
        return next((source for source in self.sources if source.id == source_id), None)

    def destination(self, destination_id: str) -> Destination | None:
        """Return the destination, or None."""
        return next((item for item in self.destinations if item.id == destination_id), None)


class WorkspaceSource(Protocol):
    """Where snapshots come from. The data plane knows this protocol only; `control` implements the serving
    side."""

    async def current(self) -> Workspace:
        """Return the newest good snapshot (from the place itself, else the last good copy on disk).

        Raises:
            WorkspaceInvalid: there is no good copy and the document is wrong.
            WorkspaceUnavailable: there is no good copy and the place can't be read.
        """
        ...

    def changes(self) -> AsyncIterator[Workspace]:
        """Yield each new good snapshot after `current`, for ever. A broken new document is logged with its
        problems, counted, and the old snapshot stays."""
        ...

    async def close(self) -> None: ...
