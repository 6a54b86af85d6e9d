"""The workspace snapshot: immutable, typed, complete; everything the data plane is told.

control plane, YAML file or workspaceConfig.json -> **snapshot** -> gateway and workers. Parsed once, passed
down, replaced as a whole. Names are RudderStack's and Segment's. Secrets are `Secret`, so no repr, log or
error shows them.
"""

from collections.abc import AsyncIterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Protocol

import msgspec

from mainstem.secret import Secret

Share = Annotated[float, msgspec.Meta(ge=0, le=100)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
"""Bounds that the loaders check; they end up in the JSON Schema too."""


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
    edge: tuple[str, ...] = ()
    """Ids of ready-made transformations that run in the gateway, before the event touches the disk (PII policies)."""

    def __repr__(self) -> str:
        """Name the source; its write keys let anybody send in its name, so they are not shown."""
        return f"Source(id={self.id!r}, type={self.type!r}, enabled={self.enabled})"

    def __rich_repr__(self) -> Any:
        yield "id", self.id
        yield "type", self.type
        yield "enabled", self.enabled


class WebhookMapping(msgspec.Struct, frozen=True, kw_only=True):
    """From a webhook's JSON or form body to an event. Each value is a dotted path into
    `{body, query, headers}`, or a fixed text in single quotes."""

    type: str = "'track'"
    """The event's type."""
    event: str = "'webhook'"
    """The event's name."""
    user_id: str = ""
    """The user's id; empty = none."""
    anonymous_id: str = ""
    """The anonymous id; empty = none."""
    message_id: str = ""
    """Empty = made by the gateway, so a repeated webhook is not recognised as a duplicate."""
    timestamp: str = ""
    """When it happened (ISO 8601); empty = when it was received."""
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
    sample_percent: Share = 100.0
    """The share of users that pass, by stable hash of the ordering key: the same users everywhere."""


class ConsentRule(msgspec.Struct, frozen=True, kw_only=True):
    """What consent a destination needs."""

    provider: str = ""
    """oneTrust, ketch, iubenda, custom; empty = any provider."""
    strategy: Literal["and", "or"] = "and"
    """and: every id must be consented; or: one is enough."""
    consents: tuple[str, ...] = ()
    """The ids of the consents."""


class TransformationLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one sandbox."""

    batch_events: AtLeastOne = 100
    """Events handed over at once at most."""
    timeout_s: Seconds = 4.0
    """For one batch; an event that alone takes longer fails. Waiting for `fetch` counts."""
    memory_mb: Annotated[int, msgspec.Meta(ge=16, le=4096)] = 128
    """For the code's own data; the sandbox itself comes on top."""


class CodeLibrary(msgspec.Struct, frozen=True, kw_only=True):
    """Code that transformations import by name."""

    name: str
    """What stands behind `from`: `import { f } from "name"`."""
    code: str
    language: Literal["javascript", "python"] = "javascript"
    version: str = ""


class Transformation(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable version of a transformation: user code, or a ready-made one with its settings."""

    id: str
    """`NAME@VERSION`; unique in the workspace, what connections and destinations refer to."""
    name: str
    """Shown in the books: `dropped by transformation NAME`."""
    version: str
    """Changes with the code, its libraries and its settings."""
    kind: Literal["javascript", "python", "ready"]
    code: str = ""
    """The user's code; empty when ready-made."""
    code_version: Literal["0", "1"] = "1"
    """0: RudderStack's legacy JavaScript, `function transform(events)`."""
    libraries: tuple[CodeLibrary, ...] = ()
    ready: str = ""
    """The ready-made transformation's name in `transformations.ready.catalog`."""
    settings: Any = None
    """Ready-made: its own settings struct, validated. Code: the mapping passed as `settings` to Segment's functions."""
    credentials: Mapping[str, Secret] = {}
    """What `getCredential(key)` tells the code."""
    allow_hosts: tuple[str, ...] = ()
    """Hosts that `fetch` may reach (exact names, or `*.example.com`); empty = `fetch` always fails."""
    geolocation: bool = False
    """Whether `geolocation(ip)` answers, from the operator's GeoIP database."""
    seeded: bool = True
    """Whether random numbers and the clock inside come from the event, so that replay and dry run repeat exactly."""
    limits: TransformationLimits = TransformationLimits()

    def __repr__(self) -> str:
        """Name it; settings may hold a salt."""
        return f"Transformation(id={self.id!r}, kind={self.kind!r})"

    def __rich_repr__(self) -> Any:
        yield "id", self.id
        yield "kind", self.kind


class DeliveryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a destination is delivered to."""

    concurrency: Count = 0
    """Requests in flight at once; 0 = the destination type's default. One per user whatever it is."""
    rate_per_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Requests a second at most; 0 = no static limit (429 still slows us down)."""
    timeout_s: Seconds = 10.0
    """One attempt, from connecting to the end of the answer."""
    retry_window_s: Annotated[float, msgspec.Meta(ge=0)] = 86_400.0
    """How long an event is retried, from its first attempt, before it is a dead letter."""
    max_attempts: Count = 0
    """Attempts before it is a dead letter, 0 = as many as the window allows."""
    backoff_base_s: Seconds = 0.5
    """The first wait before another attempt."""
    backoff_max_s: Seconds = 300.0
    """Full jitter: a random time up to base x 2^attempt, at most this."""
    park_after_s: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    """A user whose event keeps failing this long while others succeed is parked."""
    park_after_attempts: AtLeastOne = 5
    """… or after this many attempts, whichever comes first."""
    window: AtLeastOne = 10_000
    """Events held in memory at most (read, not yet settled)."""
    window_bytes: AtLeastOne = 32 * 1024 * 1024
    """… and bytes of them at most."""
    validate_requests: bool = False
    """Check each request against the vendor's documentation, where its destination type states a schema, before it is
    sent; an event whose request does not fit is a dead letter that names the field."""
    breaker_failures: AtLeastOne = 10
    """Destination-wide failures in a row that open the circuit breaker."""
    breaker_open_s: Seconds = 5.0
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
    disabled_reason: str = ""
    """Why a loader switched it off although the document says on: `has a transformation …`. Shown by
    `explain` and `workspace check`."""
    config: Any = None
    """The type's own settings struct, validated (`DestinationSpec.config`)."""
    raw_config: Mapping[str, Any] = {}
    """The settings as given (RudderStack's names), secrets as `Secret`."""
    client_config: Mapping[str, Any] = {}
    """The only settings that SDKs may be told (`/sourceConfig` is public)."""
    message_types: tuple[str, ...] = ()
    """Narrower than the type's own; empty = the type's."""
    consent: tuple[ConsentRule, ...] = ()
    one_trust_categories: tuple[str, ...] = ()
    ketch_purposes: tuple[str, ...] = ()
    transformations: tuple[str, ...] = ()
    """Ids of transformations, in order, for the events of every source; after the connection's own."""
    delivery: DeliveryPolicy = DeliveryPolicy()
    start: str = "latest"
    """Where a new destination begins: `latest`, `earliest`, or an ISO 8601 time of receivedAt."""

    def __repr__(self) -> str:
        """Name the destination; a type may keep secrets in plain fields of its settings (headers)."""
        return f"Destination(id={self.id!r}, type={self.type!r}, enabled={self.enabled})"

    def __rich_repr__(self) -> Any:
        yield "id", self.id
        yield "type", self.type
        yield "enabled", self.enabled


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """Events of one source go to one destination, through these rules."""

    source_id: str
    destination_id: str
    enabled: bool = True
    filters: tuple[Filter, ...] = ()
    transformations: tuple[str, ...] = ()
    """Ids of transformations, in order."""


class Workspace(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One snapshot."""

    id: str
    name: str = ""
    version: str
    """Changes with the content: a hash of the document, or the control plane's ETag."""
    sources: tuple[Source, ...] = ()
    destinations: tuple[Destination, ...] = ()
    connections: tuple[Connection, ...] = ()
    transformations: tuple[Transformation, ...] = ()
    """Every version that something refers to."""
    suppressed_user_ids: frozenset[str] = frozenset()
    """Events of these users are filtered by rule `suppressed`, everywhere."""

    # Each look-up is one dict access; the indexes are made at first use, once per snapshot.

    def source(self, source_id: str) -> Source | None:
        """Return the source, or None."""
        return self._sources.get(source_id)

    def source_by_write_key(self, write_key: str) -> Source | None:
        """Return the source that the key authenticates (enabled or not), or None."""
        return self._write_keys.get(write_key)

    def destination(self, destination_id: str) -> Destination | None:
        """Return the destination, or None."""
        return self._destinations.get(destination_id)

    def connections_from(self, source_id: str) -> tuple[Connection, ...]:
        """Return the source's connections in the document's order."""
        return self._from.get(source_id, ())

    def connections_to(self, destination_id: str) -> tuple[Connection, ...]:
        """Return the destination's connections in the document's order."""
        return self._to.get(destination_id, ())

    def transformation(self, transformation_id: str) -> Transformation | None:
        """Return that version, or None."""
        return self._transformations.get(transformation_id)

    def connection(self, source_id: str, destination_id: str) -> Connection | None:
        """Return the connection between the two, or None."""
        return self._pairs.get((source_id, destination_id))

    @cached_property
    def _sources(self) -> dict[str, Source]:
        return {source.id: source for source in self.sources}

    @cached_property
    def _write_keys(self) -> dict[str, Source]:
        return {key: source for source in self.sources for key in source.write_keys}

    @cached_property
    def _destinations(self) -> dict[str, Destination]:
        return {destination.id: destination for destination in self.destinations}

    @cached_property
    def _transformations(self) -> dict[str, Transformation]:
        return {item.id: item for item in self.transformations}

    @cached_property
    def _pairs(self) -> dict[tuple[str, str], Connection]:
        return {(item.source_id, item.destination_id): item for item in self.connections}

    @cached_property
    def _from(self) -> dict[str, tuple[Connection, ...]]:
        grouped: dict[str, list[Connection]] = {}
        for item in self.connections:
            grouped.setdefault(item.source_id, []).append(item)
        return {key: tuple(items) for key, items in grouped.items()}

    @cached_property
    def _to(self) -> dict[str, tuple[Connection, ...]]:
        grouped: dict[str, list[Connection]] = {}
        for item in self.connections:
            grouped.setdefault(item.destination_id, []).append(item)
        return {key: tuple(items) for key, items in grouped.items()}


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
