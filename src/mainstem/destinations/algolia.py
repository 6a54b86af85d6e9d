"""Algolia Insights: clicks, views and conversions that follow searches.

Follows https://www.algolia.com/doc/rest-api/insights/ (`POST /1/events`) and RudderStack's mapping
(https://www.rudderstack.com/docs/destinations/streaming-destinations/algolia-insights/; both read 2026-11). Auth: an
API key with the `search` right, in headers. Limits: 1,000 events and 2 MB a request; 20 objects or 10 filters an event;
events of the last four days. One wrong event makes Algolia refuse the whole request, so events go one by one.

A track becomes an event of the type that its `eventType` property says, or `eventTypeSettings` for its name. What it
is about are either objects (`objectIds`, or the `objectId`s of `products`) or `filters`. A click that followed a search
has both `queryId` and `positions`. Conversions say what was bought: `value`, `currency`, `eventSubtype`, and of each
product its price, quantity, discount and queryID.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from mainstem.destinations.base import (
    Batch,
    Batcher,
    Call,
    DestinationSpec,
    MapContext,
    Mapper,
    MappingTable,
    Payloads,
    Schema,
    Unit,
)
from mainstem.destinations.kit.batching import together, with_body
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.values import (
    defined_not_empty,
    mapping,
    number,
    pick,
    present,
    sequence,
    text,
    truthy,
    without_none,
)
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_URL: Final = "https://insights.algolia.io/1/events"
_TYPES: Final = frozenset({"click", "view", "conversion"})
_SUBTYPES: Final = frozenset({"purchase", "addToCart"})
_MOST_OBJECTS: Final = 20
_MOST_FILTERS: Final = 10
_MOST: Final = 1000
_MOST_BYTES: Final = 1_900_000


def _ids(value: Json) -> list[str] | None:
    found = [text(item) for item in sequence(value) if present(item)]
    return found[:_MOST_OBJECTS] or None


def _filters(value: Json) -> list[str] | None:
    found = [text(item) for item in sequence(value) if present(item)]
    return found[:_MOST_FILTERS] or None


def _milliseconds(value: Json) -> float | None:
    at = number(value)
    return at if at else None


_FIELDS: Final = Table(
    Row("index", "properties.index", required=True),
    Row("userToken", "userId", "anonymousId", required=True, as_=text),
    Row("queryID", "properties.queryId", "properties.queryID"),
    Row("timestamp", "properties.timestamp", as_=_milliseconds, text="milliseconds"),
    Row("objectIDs", "properties.objectIds", "properties.objectIDs", as_=_ids, text="20 at most"),
    Row("filters", "properties.filters", as_=_filters, text="10 at most"),
)


class EventType(msgspec.Struct, frozen=True, rename={"name": "from", "kind": "to"}):
    """An event name and its type."""

    name: str = ""
    kind: str = ""


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    api_key: Secret
    """An API key with the right `search`."""
    application_id: str
    """The application's id."""
    event_type_settings: tuple[EventType, ...] = ()
    """Rows `{from: event name, to: click, view or conversion}`; an event's own `eventType` property goes before. Names
    are compared without case."""


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    headers = {
        "X-Algolia-Application-Id": config.application_id,
        "X-Algolia-API-Key": config.api_key.reveal(),
    }
    kinds = {row.name.strip().lower(): row.kind for row in config.event_type_settings if row.name.strip()}

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        name = event.name.strip().lower() or refuse("`event` is missing; Algolia's events have names")
        properties = mapping(message.get("properties"))
        kind = text(properties.get("eventType") or kinds.get(name) or "").strip().lower()
        if not kind:
            refuse("`properties.eventType` is missing; add it, or this event to `eventTypeSettings`")
        if kind not in _TYPES:
            refuse(f"`eventType` is `{kind[:64]}`; it is one of click, view and conversion")
        sent = _FIELDS.build(message)
        sent |= {"eventName": name, "eventType": kind}
        products = [mapping(item) for item in sequence(properties.get("products"))]
        if products and "objectIDs" not in sent:
            products = [item for item in products if present(_object_id(item))][:_MOST_OBJECTS]
            if products:
                sent["objectIDs"] = [text(_object_id(item)) for item in products]
        if ("objectIDs" in sent) == ("filters" in sent):
            refuse("give either `objectIds` (or products with them) or `filters`, not both, not none")
        if kind == "click" and "objectIDs" in sent:
            _add_positions(sent, properties, products)
        if kind == "conversion":
            _add_purchase(sent, properties, products)
        return (json_call(_URL, {"events": [sent]}, headers=headers),)

    return settled(to_calls)


def _object_id(product: dict[str, Json]) -> Json:
    return product.get("objectId") or product.get("objectID")


def _add_positions(
    sent: dict[str, Json], properties: dict[str, Json], products: Sequence[dict[str, Json]]
) -> None:
    given = sequence(properties.get("positions"))[:_MOST_OBJECTS] or [
        item.get("position") for item in products
    ]
    positions = [
        int(at) for item in given if truthy(item) and (at := number(item)) is not None and at == int(at)
    ]
    if len(positions) != len(given):
        positions = []
    if bool(positions) != ("queryID" in sent):
        refuse("a click has both `queryId` and whole numbers as `positions`, or neither")
    if positions:
        if len(positions) != len(sent["objectIDs"]):
            refuse("`positions` and `objectIds` differ in length; each object has one position")
        sent["positions"] = positions


def _add_purchase(
    sent: dict[str, Json], properties: dict[str, Json], products: Sequence[dict[str, Json]]
) -> None:
    sent |= {name: properties[name] for name in ("value", "currency") if present(properties.get(name))}
    if properties.get("eventSubtype") in _SUBTYPES:
        sent["eventSubtype"] = properties["eventSubtype"]
    data = [_object_data(item) for item in products]
    if not any(data):
        return
    if "currency" not in sent and any("price" in item or "discount" in item for item in data):
        refuse("`properties.currency` is missing; the products have prices")
    sent["objectData"] = data


def _object_data(product: dict[str, Json]) -> dict[str, Json]:
    """Return what Algolia wants to know of a product: amounts as text, the quantity as a whole number."""
    said = {name: item for name, item in pick(product, ("price", "discount")).items() if present(item)}
    quantity = number(product.get("quantity")) if present(product.get("quantity")) else None
    return {
        **{name: text(item) for name, item in said.items()},
        **without_none({"quantity": None if quantity is None else int(quantity)}),
        **{name: item for name, item in pick(product, ("queryID",)).items() if defined_not_empty(item)},
    }


def make_batcher(config: Config) -> Batcher:
    """Return the batching for these settings."""

    def batch(units: Sequence[Unit]) -> Sequence[Batch]:
        return together(
            units, key=lambda unit: unit.calls[0].url, merge=_merged, most=_MOST, most_bytes=_MOST_BYTES
        )

    return batch


def _merged(calls: Sequence[Call]) -> Call:
    return with_body(
        calls[0], {"events": [item for call in calls if call.body for item in call.body.value["events"]]}
    )


SPEC = DestinationSpec(
    name="ALGOLIA",
    title="Algolia Insights",
    kind="http",
    config=Config,
    message_types=frozenset({"track"}),
    doc_url="https://www.algolia.com/doc/rest-api/insights/",
    mapper=make_mapper,
    batcher=make_batcher,
    # Algolia does not say which event of a refused request was wrong.
    default_max_batch=1000,
    tables=(MappingTable(title="Event", rows=_FIELDS.rows),),
    schemas=(
        Schema(
            label="",
            doc_url="https://www.algolia.com/doc/rest-api/insights/",
            schema={
                "type": "object",
                "required": ["events"],
                "properties": {
                    "events": {
                        "type": "array",
                        "maxItems": _MOST,
                        "items": {
                            "type": "object",
                            "required": ["eventType", "eventName", "index", "userToken"],
                            "properties": {
                                "eventType": {"enum": sorted(_TYPES)},
                                "eventName": {"type": "string", "minLength": 1, "maxLength": 64},
                                "index": {"type": "string", "minLength": 1},
                                "userToken": {"type": "string", "pattern": "^[a-zA-Z0-9_=/+-]{1,129}$"},
                                "timestamp": {"type": "integer"},
                                "queryID": {"type": "string", "pattern": "^[a-f0-9]{32}$"},
                                "objectIDs": {"type": "array", "maxItems": _MOST_OBJECTS},
                                "filters": {"type": "array", "maxItems": _MOST_FILTERS},
                                "positions": {"type": "array", "items": {"type": "integer", "minimum": 1}},
                            },
                        },
                    }
                },
            },
        ),
    ),
    limits="1,000 events and 2 MB a request; events of the last four days",
)
