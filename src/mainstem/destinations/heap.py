"""Heap: events and the properties of people.

Follows https://developers.heap.io/reference/track-1 and .../add-user-properties (address from memory, page not read:
requests follow the conformance cases). Auth: the environment's
app id, in the body. Limits: 1,024 characters a property's value, 30 requests in 30 seconds per person and app.

A track is an event of its name, an identify adds a person's properties. Heap knows no nested values: they are
flattened (`address.city`, `products[0].sku`).
"""

from typing import Any, Final, Literal

import msgspec

from mainstem.destinations.base import DestinationSpec, MapContext, Mapper, Payloads, Schema
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.values import first, flattened, get, mapping, omit, without_none
from mainstem.events.canonical import Event

Json = Any
Object = dict[str, Json]

_BASES: Final = {"us": "https://heapanalytics.com/api/", "eu": "https://c.eu.heap-api.com/api/"}
_HEADERS: Final = {"Content-Type": "application/json", "Accept": "application/json"}
_DOC: Final = "https://developers.heap.io/reference/server-side-apis-overview"


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    app_id: str
    """The id of the environment, from Account > Manage > Projects."""
    data_residency: Literal["us", "eu"] = "us"
    """Where Heap keeps the data."""


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    base = _BASES[config.data_residency]

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        person = event.user_id or event.anonymous_id
        if not person:
            refuse("`userId` and `anonymousId` are missing; Heap needs one of them")
        body: Object = {"app_id": config.app_id, "identity": person}
        if event.type == "identify":
            path = "add_user_properties"
            given = mapping(message.get("traits")) or mapping(get(message, "context.traits"))
        else:
            path = "track"
            properties = mapping(message.get("properties"))
            given = omit(properties, ("idempotencyKey",))
            body["event"] = event.name or refuse("`event` is missing; Heap needs a name for the event")
            if (at := first(message, "timestamp", "originalTimestamp")) is not None:
                body["timestamp"] = at
            if key := properties.get("idempotencyKey"):
                body["idempotency_key"] = key
        if properties_sent := without_none(flattened(given, lists="bracket", keep_empty=False)):
            body["properties"] = properties_sent
        return (json_call(base + path, body, headers=_HEADERS, user_id=person),)

    return settled(to_calls)


_SCHEMA: Final = Schema(
    label="",
    doc_url=_DOC,
    schema={
        "type": "object",
        "required": ["app_id", "identity"],
        "properties": {
            "app_id": {"type": "string"},
            "identity": {"type": "string", "maxLength": 255},
            "event": {"type": "string", "maxLength": 1024},
            "timestamp": {"type": ["string", "integer"]},
            "idempotency_key": {"type": "string"},
            "properties": {
                "type": "object",
                "additionalProperties": {"type": ["string", "number", "boolean"], "maxLength": 1024},
            },
        },
    },
)

SPEC = DestinationSpec(
    name="HEAP",
    title="Heap",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track"}),
    doc_url=_DOC,
    mapper=make_mapper,
    schemas=(_SCHEMA,),
    limits="1,024 characters a value, 30 requests in 30 seconds per person",
)
