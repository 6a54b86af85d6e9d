"""The shape of our workspace document, as YAML file or as the control plane's JSON.

These structs are the one definition: the decoder, the JSON Schema and `docs/reference/workspace.md` are made
from them. Rules, consent, delivery and webhook mappings are written as the model has them.
"""

import re
from typing import Annotated, Any, Final, Literal

import msgspec

from mainstem.workspace.model import ConsentRule, DeliveryPolicy, Filter, TransformationLimits, WebhookMapping

_ID: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
Id = Annotated[str, msgspec.Meta(pattern=_ID)]
MessageType = Literal["identify", "track", "page", "screen", "group", "alias", "merge"]


def is_id(text: str) -> bool:
    """Whether the text may be an id: it goes into file paths, metric labels and cursor names."""
    return re.fullmatch(_ID, text) is not None


class WorkspaceNames(msgspec.Struct, frozen=True, kw_only=True):
    """Which workspace this is."""

    id: Id
    """Letters, digits, `.`, `_`, `-`. Shown in metrics and logs; never changes."""
    name: str = ""
    """For people."""


class SourceDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Where events come from. Needs `write_key` or `write_keys`."""

    id: Id
    """Never changes: the stream, the archive and the books know the source by it."""
    name: str = ""
    """For people; the id when absent."""
    write_key: str = ""
    """What an SDK is initialised with. Jitsu's SDKs want `id:secret` or 25 characters that begin with `c`."""
    write_keys: tuple[str, ...] = ()
    """Several of them, while a key is being rotated."""
    type: str = "http"
    """`web`, `server`, `mobile`, `webhook` …: shown to people and SDKs; only `webhook` sources take
    `/v1/webhook`."""
    enabled: bool = True
    """`false`: its events are refused with 404, which mobile SDKs understand as an order to wait."""
    origins: tuple[str, ...] = ()
    """Browser origins that may send (`https://www.example.com`); empty = any."""
    webhook: WebhookMapping | None = None
    """How a webhook body becomes an event; absent = a track with the body as properties."""
    geo_enrichment: bool = False
    """Add `context.geo` from the sender's address."""
    user_agent_enrichment: bool = False
    """Add what the user agent says of browser, system and device."""
    bots: Literal["pass", "flag", "drop"] = "pass"
    """Known crawlers: nothing, `context.isBot = true`, or filtered by rule `bot`."""
    edge: tuple[str, ...] = ()
    """Names of ready-made transformations that run in the gateway, in this order: what they take out of an event
    never touches the disk."""


class DestinationDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A place events go to."""

    id: Id
    """Never changes: its cursor is known by it. A new id starts anew."""
    name: str = ""
    """For people, and a name by which `integrations` of an event may address it; the id when absent."""
    type: str
    """`webhook`, `http`, `archive`, `kafka` …; case does not matter."""
    display_name: str = ""
    """One more name by which `integrations` of an event may address it."""
    enabled: bool = True
    """`false` stops its cursor and keeps its place; `true` goes on from there."""
    config: dict[str, Any] = {}
    """The type's own settings: see its page. Take secrets from the environment: `${NAME}`."""
    client_config: dict[str, Any] = {}
    """Settings that SDKs may be told; public, so no secrets."""
    message_types: tuple[MessageType, ...] = ()
    """Narrower than what the type takes; empty = all it takes."""
    consent: tuple[ConsentRule, ...] = ()
    """What must be consented to before an event may go there."""
    one_trust_categories: tuple[str, ...] = ()
    """OneTrust cookie categories, each of which must not be denied."""
    ketch_purposes: tuple[str, ...] = ()
    """Ketch purposes, one of which must not be denied."""
    transformations: tuple[str, ...] = ()
    """Names of transformations, run in this order for the events of every source, after the connection's own.
    `name` is the latest version, `name@3` that one."""
    delivery: DeliveryPolicy = DeliveryPolicy()
    """Rate, retries, time-outs, parking."""
    start: str = "latest"
    """Where a new destination begins: `latest`, `earliest`, or an ISO 8601 time of receivedAt."""


class ConnectionDocument(msgspec.Struct, frozen=True, kw_only=True, rename={"source": "from"}):
    """Events of one source go to these destinations, through these rules."""

    source: str
    """The source's id."""
    to: str | tuple[str, ...]
    """The destination's id, or a list of them."""
    enabled: bool = True
    """`false`: its events are filtered by rule, not kept back."""
    filters: tuple[Filter, ...] = ()
    """All of them must let an event pass."""
    transformations: tuple[str, ...] = ()
    """Names of transformations, run in this order on what the filters let pass. `name` is the latest version,
    `name@3` that one."""


class TransformationDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What changes events after the filters and before the destination. One of `folder`, `file`, `code` and
    `ready` says what it does. Paths are relative to the document and stay in its folder."""

    name: Id
    """What connections and destinations refer to. Shown in the books: `dropped by transformation NAME`."""
    version: int | str = ""
    """With `folder`: the published version that the name alone means; absent = the latest. Else this item's own
    version; absent = a hash of its content. Items of one name need different ones."""
    folder: str = ""
    """A folder with published versions, as `mainstem transformation` makes it: `transformations/NAME`."""
    file: str = ""
    """A file with code: `.js` or `.py`. Used as it is at each moment, without versions."""
    code: str = ""
    """The code itself. `${` in it is code, no reference to the environment."""
    language: Literal["javascript", "python"] | None = None
    """Of `code`; absent = `javascript`. A file says it by its name."""
    code_version: Literal["0", "1"] = "1"
    """`0`: RudderStack's legacy JavaScript, `function transform(events)`."""
    ready: str = ""
    """The name of a ready-made transformation."""
    settings: dict[str, Any] = {}
    """Of the ready-made one; or what Segment's functions get as `settings`. With `folder` these come on top of the
    published ones. Take secrets from the environment: `${NAME}`."""
    credentials: dict[str, Any] = {}
    """What `getCredential(key)` tells the code. Take the values from the environment: `${NAME}`."""
    allow_hosts: tuple[str, ...] = ()
    """Hosts that `fetch` may reach (`api.example.com`, `*.example.com`); empty = `fetch` always fails."""
    geolocation: bool = False
    """Whether `geolocation(ip)` answers, from the operator's GeoIP database."""
    seeded: bool = True
    """Whether random numbers and the clock inside come from the event, so that replay and dry run repeat exactly."""
    limits: TransformationLimits = TransformationLimits()
    """Time, memory and batch size."""


class LibraryDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Code that transformations import by name; `file` or `code`. A folder's published versions hold the libraries
    they were published with and don't look here."""

    name: str
    """What stands behind `from`: `import { f } from "name"`, `from name import f`."""
    file: str = ""
    """A file with code: `.js` or `.py`."""
    code: str = ""
    """The code itself."""
    language: Literal["javascript", "python"] | None = None
    """Of `code`; absent = `javascript`."""


class WorkspaceDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document."""

    workspace: WorkspaceNames
    """Which workspace this is."""
    sources: tuple[SourceDocument, ...] = ()
    """Where events come from."""
    destinations: tuple[DestinationDocument, ...] = ()
    """Where they go."""
    connections: tuple[ConnectionDocument, ...] = ()
    """What goes where."""
    transformations: tuple[TransformationDocument, ...] = ()
    """What changes events on their way."""
    libraries: tuple[LibraryDocument, ...] = ()
    """Code that transformations share."""
    suppressed_user_ids: tuple[str, ...] = ()
    """Events of these users go nowhere: rule `suppressed`."""
