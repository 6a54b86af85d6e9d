"""Redis: a user's traits as a hash, or as a JSON document.

Follows RudderStack's Redis destination, its settings and keys
(https://www.rudderstack.com/docs/destinations/streaming-destinations/redis/, read 2026-11) and the commands
https://redis.io/docs/latest/commands/hset/ and https://redis.io/docs/latest/commands/json.set/. Auth: a password, TLS.
Sent by `delivery.redis`.

An identify becomes `HSET PREFIX:user:USER_ID` of its traits: nested ones under dotted names, lists as JSON. With
`useJSONModule` it becomes the JSON document of that key. Traits that a RudderStack Profiles run sends (with
`context.sources.profiles_model`) become the field of the model's name in the key
WORKSPACE:DESTINATION:ENTITY:ID_TYPE:USER_ID.
"""

from typing import Any, ClassVar

import msgspec

from mainstem.destinations.base import DestinationSpec, MapContext, Mapped, Mapper, StreamMessage
from mainstem.destinations.kit.body import json_bytes
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.values import get, json_text, mapping, present, text, traits_of
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"address"})

    address: str = ""
    """Host and port, `redis.example.com:6379`; of a cluster several, separated by commas."""
    password: Secret = Secret("")
    """The password, where there is one."""
    username: str = ""
    """The user of Redis' access control lists; empty = the default user."""
    cluster_mode: bool = False
    """The address is one of a cluster."""
    secure: bool = False
    """Connect with TLS."""
    skip_verify: bool = False
    """With TLS: don't check the server's certificate. For tests only."""
    ca_certificate: str = ""
    """With TLS: PEM text of the authority that signed the server's certificate; empty = the system's."""
    database: str = ""
    """The database's number; empty = 0."""
    prefix: str = ""
    """Put in front of every key of a user, with a colon."""
    use_json_module: bool = msgspec.field(default=False, name="useJSONModule")
    """Write JSON documents (`JSON.SET`, of Redis Stack or Redis 8) instead of hashes."""


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    prefix = f"{config.prefix.strip()}:" if config.prefix.strip() else ""

    def to_messages(event: Event, context: MapContext) -> Mapped:
        message = event.message
        if not event.user_id:
            refuse("`userId` is missing; traits are kept under it")
        traits = traits_of(message)
        sources = mapping(get(message, "context.sources"))
        if present(model := sources.get("profiles_model")):
            pieces = (
                context.metadata.get("workspaceId", ""),
                context.destination_id,
                sources.get("profiles_entity", ""),
                sources.get("profiles_id_type", ""),
                event.user_id,
            )
            key = ":".join(map(text, pieces))
            if config.use_json_module:
                command: dict[str, Json] = {"key": key, "path": text(model), "value": traits}
            else:
                command = {"hash": key, "key": text(model), "value": json_bytes(traits).decode()}
        else:
            key = f"{prefix}user:{event.user_id}"
            if config.use_json_module:
                command = {"key": key, "value": traits}
            else:
                command = {"key": key, "fields": _fields(traits)}
                if not command["fields"]:
                    refuse("the event has no traits; there is nothing to keep")
        sent = StreamMessage(
            topic=key,
            key=event.user_id.encode("utf-8", "surrogatepass"),
            value=json_bytes(command),
            extra={"message": command, "userId": event.user_id},
        )
        return (sent,)

    return settled(to_messages)


def _fields(traits: dict[str, Json]) -> dict[str, str]:
    """Return a hash's fields: texts as they are, all else as JSON; null and empty objects are left out."""
    found: dict[str, str] = {}

    def walk(path: str, value: Json) -> None:
        if isinstance(value, dict):
            for name, member in value.items():
                walk(f"{path}.{name}" if path else name, member)
        elif value is not None:
            found[path] = json_text(value)

    walk("", traits)
    return found


SPEC = DestinationSpec(
    name="REDIS",
    title="Redis",
    kind="stream",
    config=Config,
    message_types=frozenset({"identify"}),
    doc_url="https://redis.io/docs/latest/commands/hset/",
    mapper=make_mapper,
    default_max_batch=100,
    proof="each event",
)
