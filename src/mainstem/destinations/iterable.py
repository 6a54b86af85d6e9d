"""Iterable: people, events, purchases and carts, push tokens and catalogs.

Follows https://api.iterable.com/api/docs (read 2026-11). Auth: a server-side API key in `Api-Key`/`api_key`. Limits:
1,000 users or 4 MB a bulk update, 500 of those requests a second; catalogs 1,000 items a request.

An identify updates a person, and registers the push token its context carries if the settings have a key for it.
`Order Completed` is a purchase, `Product Added` and `Product Removed` the cart, every other track an event; pages and
screens are events where the settings ask for them. An alias changes a person's e-mail address. Rows synced from a
warehouse to anything but `users` are items of the catalog of that name. Updates and events go in bulk.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final

import msgspec

from mainstem.destinations.base import (
    Batcher,
    Call,
    Delivered,
    Delivery,
    DestinationSpec,
    MapContext,
    Mapper,
    MappingTable,
    Payloads,
    Rejected,
    Request,
    Response,
    Schema,
    Unit,
)
from mainstem.destinations.kit.batching import together
from mainstem.destinations.kit.body import quoted
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.refuse import refuse, settled, skip
from mainstem.destinations.kit.spec_fields import TIMESTAMP, USER_OR_ANONYMOUS_ID
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.times import ms_of
from mainstem.destinations.kit.values import (
    first,
    mapping,
    number,
    parse_int,
    present,
    sequence,
    text,
    truthy,
)
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_HOSTS: Final = {"USDC": "https://api.iterable.com", "EUDC": "https://api.eu.iterable.com"}
_CATALOGS: Final = "catalogs"
_UPDATE: Final = "users/update"
_TRACK: Final = "events/track"
_BULK: Final = {_UPDATE: ("users/bulkUpdate", "users"), _TRACK: ("events/trackBulk", "events")}
_MOST: Final = 1000
_MOST_BYTES: Final = 4_000_000
_RETL_TYPE: Final = "ITERABLE-"
_CART: Final = frozenset(("product added", "product removed"))


def _categories(value: Json) -> list[Json]:
    return value if isinstance(value, list) else [value]


_WHEN: Final = Row("createdAt", *TIMESTAMP, as_=ms_of, text="milliseconds")
_CAMPAIGN: Final = (
    Row("campaignId", "properties.campaignId", as_=parse_int),
    Row("templateId", "properties.templateId", as_=parse_int),
)
_EVENT: Final = Table(
    Row("email", "properties.email", "traits.email", "context.traits.email"),
    Row("userId", *USER_OR_ANONYMOUS_ID),
    _WHEN,
    Row("dataFields", "properties"),
    *_CAMPAIGN,
)
_PURCHASE: Final = Table(
    Row("id", "properties.orderId", "properties.order_id", as_=text),
    Row("total", "properties.total", "properties.revenue", "properties.value", as_=number),
    _WHEN,
    Row("dataFields", "properties"),
    *_CAMPAIGN,
)
_ITEM: Final = Table(
    Row("id", "product_id", "productId", "id", "sku"),
    Row("sku", "sku"),
    Row("name", "name"),
    Row("description", "description"),
    Row("categories", "categories", "category", as_=_categories),
    Row("price", "price", as_=number),
    Row("quantity", "quantity", as_=number),
    Row("imageUrl", "image_url", "imageUrl"),
    Row("url", "url"),
)


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    api_key: Secret
    """A server-side API key of the project."""
    data_center: str | None = None
    """Where the project is: `USDC` (as without) or `EUDC`."""
    prefer_user_id: bool = False
    """Make people by their user id where Iterable does not know them by e-mail."""
    merge_nested_objects: bool = True
    """Merge objects in a person's fields with what is there; off: replace them."""
    register_device_or_browser_api_key: Secret = Secret("")
    """A mobile or web API key, to register push tokens with. Without, they are not registered."""
    package_name: str | None = None
    """The name of the mobile app in Iterable, for its push tokens."""
    map_to_single_event: bool = False
    """Call all pages `Loaded a Page`, and all screens `Loaded a Screen`."""
    track_all_pages: bool = False
    """Send all pages and screens."""
    track_categorised_pages: bool = False
    """Send pages and screens with a category."""
    track_named_pages: bool = False
    """Send pages and screens with a name."""


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    base = _HOSTS.get((config.data_center or "").strip().upper(), _HOSTS["USDC"]) + "/api/"
    headers = {"Content-Type": "application/json", "api_key": config.api_key.reveal()}
    token_key = config.register_device_or_browser_api_key.reveal()
    token_headers = {**headers, "api_key": token_key}

    def call(label: str, value: Json, headers: Mapping[str, str] = headers) -> Call:
        return json_call(base + label, value, headers=headers, label=label)

    def to_calls(event: Event, context: MapContext) -> Payloads:
        del context
        message = event.message
        match event.type:
            case "identify":
                kind, item_id, field = _retl(message)
                if kind and kind != "users":
                    return (_catalog_call(base, headers, kind, item_id, message),)
                more: dict[str, Json] = {field: item_id} if kind and field else {}
                person = _person(message, config, more)
                calls = [call(_UPDATE, person)]
                if token_key:
                    calls += [
                        call(label, body, token_headers) for label, body in _tokens(message, person, config)
                    ]
                return tuple(calls)
            case "track":
                name = event.name.strip().lower()
                if name == "order completed":
                    purchase = _PURCHASE.build(message)
                    return (call("commerce/trackPurchase", purchase | _bought(message, config)),)
                if name in _CART:
                    return (call("commerce/updateCart", _bought(message, config)),)
                return (call(_TRACK, _happening(message, event.name)),)
            case "page" | "screen":
                return (call(_TRACK, _happening(message, _view_name(event, config))),)
            case _:
                return (call("users/updateEmail", _addresses(message)),)

    return settled(to_calls)


# ---------------------------------------------------------------- people


def _traits(message: dict[str, Json]) -> dict[str, Json]:
    return mapping(message.get("traits")) or mapping(mapping(message.get("context")).get("traits"))


def _person(message: dict[str, Json], config: Config, more: dict[str, Json]) -> dict[str, Json]:
    traits = {**_traits(message), **more}
    email = more.get("email") or first(message, "traits.email", "context.traits.email", "properties.email")
    user_id = first(message, *USER_OR_ANONYMOUS_ID) or more.get("userId")
    if not present(email) and not present(user_id):
        refuse("`userId`, `anonymousId` and `traits.email` are missing; Iterable knows people by one of them")
    person: dict[str, Json] = {}
    if present(email):
        person["email"] = email
    if present(user_id):
        person["userId"] = user_id if isinstance(user_id, str) else text(user_id)
    if traits:
        person["dataFields"] = traits
    return {
        **person,
        "preferUserId": config.prefer_user_id,
        "mergeNestedObjects": config.merge_nested_objects,
    }


def _tokens(message: dict[str, Json], person: dict[str, Json], config: Config) -> list[tuple[str, Json]]:
    """Return the registrations of the push tokens in the context, as (operation, body)."""
    who: dict[str, Json] = {name: person[name] for name in ("email", "userId") if name in person}
    found: list[tuple[str, Json]] = []
    token = first(message, "context.device.token")
    if present(token):
        kind = text(first(message, "context.device.type") or "").lower()
        apple = kind in ("ios", "iphone", "ipad", "ipados", "watchos", "tvos")
        device: dict[str, Json] = {"token": token, "platform": "APNS" if apple else "GCM"}
        if config.package_name:
            device["applicationName"] = config.package_name
        body: dict[str, Json] = {"device": device, **who, "preferUserId": config.prefer_user_id}
        found.append(("users/registerDeviceToken", body))
    token = first(message, "context.os.token")
    if present(token):
        found.append(("users/registerBrowserToken", {"browserToken": token, **who}))
    return found


def _addresses(message: dict[str, Json]) -> dict[str, Json]:
    old, new = message.get("previousId"), message.get("userId")
    if not present(old) or not present(new):
        refuse("`previousId` or `userId` is missing; they are a person's old and new e-mail address")
    return {"currentEmail": old, "newEmail": new}


# ---------------------------------------------------------------- events


def _happening(message: dict[str, Json], name: str) -> dict[str, Json]:
    body = _EVENT.build(message)
    if "email" not in body and "userId" not in body:
        refuse("`userId`, `anonymousId` and the e-mail are missing; Iterable knows people by one of them")
    if name:
        body["eventName"] = name
    return body


def _view_name(event: Event, config: Config) -> str:
    message = event.message
    name = (
        first(message, "name", "properties.name")
        if event.type == "page"
        else first(message, "name", "event", "properties.name")
    )
    category = first(message, "properties.category", "category")
    if not (
        config.track_all_pages
        or (config.track_named_pages and name)
        or (config.track_categorised_pages and category)
    ):
        skip(f"{event.type} not wanted by the settings")
    if config.map_to_single_event:
        return f"Loaded a {event.type.capitalize()}"
    shown = name if config.track_all_pages or (config.track_named_pages and name) else category
    return f"{text(shown or category)} {event.type}" if shown or category else event.type


def _bought(message: dict[str, Json], config: Config) -> dict[str, Json]:
    properties = mapping(message.get("properties"))
    products = [item for item in sequence(properties.get("products")) if isinstance(item, dict)]
    items = [_ITEM.build(item) for item in products or [properties]]
    return {"user": _person(message, config, {}), "items": [item for item in items if item]}


# ---------------------------------------------------------------- catalogs


def _retl(message: dict[str, Json]) -> tuple[str, Json, str]:
    """Return what a row synced from a warehouse is, its id and the id's field; empty for other events."""
    context = mapping(message.get("context"))
    if truthy(context.get("mappedToDestination")):
        for entry in sequence(context.get("externalId")):
            kind, field = mapping(entry).get("type"), mapping(entry).get("identifierType")
            if isinstance(kind, str) and kind.upper().startswith(_RETL_TYPE):
                return kind[len(_RETL_TYPE) :], entry.get("id"), text(field) if field else ""
    return "", None, ""


def _catalog_call(
    base: str, headers: Mapping[str, str], name: str, item_id: Json, message: dict[str, Json]
) -> Call:
    if not present(item_id) or not isinstance(item_id, str | int | float):
        refuse("`context.externalId` has no id; it is the id of the catalog's item")
    body = {"documents": {text(item_id): _traits(message)}, "replaceUploadedFieldsOnly": True}
    return json_call(f"{base}catalogs/{quoted(name)}/items", body, headers=headers, label=_CATALOGS)


# ---------------------------------------------------------------- batches


def make_batcher(config: Config) -> Batcher:
    """Return the batching: updates, events and items of the same catalog in bulk; the rest by itself."""
    del config
    return lambda units: together(units, key=_key, merge=_merged, most=_MOST, most_bytes=_MOST_BYTES)


def _key(unit: Unit) -> Hashable | None:
    call = unit.calls[0]
    return (call.url, call.headers.get("api_key")) if call.label in _BULK or call.label == _CATALOGS else None


def _merged(calls: Sequence[Call]) -> Call:
    first_call = calls[0]
    bodies = [call.body.value for call in calls if call.body is not None]
    if first_call.label == _CATALOGS:
        documents: dict[str, Json] = {}
        for body in bodies:
            documents |= mapping(body.get("documents"))
        value: dict[str, Json] = {**bodies[0], "documents": documents}
        return json_call(first_call.url, value, headers=first_call.headers, label=_CATALOGS)
    label, field = _BULK[first_call.label]
    url = first_call.url.removesuffix(first_call.label) + label
    return json_call(url, {field: bodies}, headers=first_call.headers, label=label)


# ---------------------------------------------------------------- answers


def _failed(body: Mapping[str, Json]) -> dict[str, str]:
    """Return the e-mails and user ids that a bulk request failed for, and why."""
    failed: dict[str, str] = {}
    for place in (body, mapping(body.get("failedUpdates"))):
        for why, names in place.items():
            if why.endswith(("Emails", "UserIds")) and not why.startswith("noOp"):
                for name in sequence(names):
                    failed[text(name)] = why
    return failed


def classify(request: Request, response: Response) -> Delivery | None:
    """Iterable says `Success`, or how many of a bulk request failed."""
    del request
    body = mapping(answer_of(response).body)
    if response.status != 200:
        return None
    if body.get("failCount"):
        failed = _failed(body)
        why = ", ".join(sorted(set(failed.values()))) or "failed"
        return Rejected(f"{text(body['failCount'])} failed: {why}", answer="200")
    if body.get("code") == "Success" or "successCount" in body:
        return Delivered("200", acceptance="accepted")
    return None


def classify_each(
    call: Call, request: Request, response: Response, units: Sequence[Unit]
) -> Sequence[Delivery] | None:
    """A bulk request names the e-mails and user ids it failed for."""
    body = mapping(answer_of(response).body)
    if response.status != 200 or "failCount" not in body or call.body is None:
        return None
    failed = _failed(body)
    entries: list[Json] = next(iter(call.body.value.values()), [])
    if len(entries) != len(units) or (body["failCount"] and not failed):
        one = classify(request, response)
        return None if one is None else [one] * len(units)
    taken: Delivery = Delivered("200", acceptance="accepted")
    results: list[Delivery] = []
    for entry in entries:
        names = (text(mapping(entry).get(name)) for name in ("email", "userId"))
        why = next((failed[name] for name in names if name in failed), None)
        results.append(taken if why is None else Rejected(why, answer="200"))
    return results


def _bulk_schema(label: str, field: str, item: dict[str, Json]) -> Schema:
    return Schema(
        label=label,
        doc_url=f"https://api.iterable.com/api/docs#{label.replace('/', '_')}",
        schema={
            "type": "object",
            "required": [field],
            "properties": {field: {"type": "array", "minItems": 1, "maxItems": _MOST, "items": item}},
        },
    )


_WHO: Final[dict[str, Json]] = {
    "email": {"type": "string"},
    "userId": {"type": "string"},
    "dataFields": {"type": "object"},
}

SPEC = DestinationSpec(
    name="ITERABLE",
    title="Iterable",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen", "alias"}),
    doc_url="https://api.iterable.com/api/docs",
    mapper=make_mapper,
    batcher=make_batcher,
    default_max_batch=500,
    classify=classify,
    classify_each=classify_each,
    proof="each event",
    schemas=(
        _bulk_schema(
            "users/bulkUpdate",
            "users",
            {"type": "object", "properties": {**_WHO, "preferUserId": {"type": "boolean"}}},
        ),
        _bulk_schema(
            "events/trackBulk",
            "events",
            {
                "type": "object",
                "required": ["eventName"],
                "properties": {**_WHO, "eventName": {"type": "string"}, "campaignId": {"type": "integer"}},
            },
        ),
    ),
    tables=(
        MappingTable(title="An event", rows=_EVENT.rows),
        MappingTable(title="A purchase", rows=_PURCHASE.rows),
        MappingTable(title="An item (of properties.products)", rows=_ITEM.rows),
    ),
    limits="1,000 users or 4 MB a bulk update; 1,000 items of a catalog",
)
