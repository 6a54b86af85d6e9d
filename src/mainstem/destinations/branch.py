"""Branch: standard and custom events.

Follows https://help.branch.io/apidocs/events-api (version 2, read 2026-11). Auth: the Branch key, in the body. Branch
counts events when they arrive (there is no time in a request), and limits each app's rate with 429.

A track becomes the standard event that its e-commerce name of the Segment spec stands for, or else a custom event of
its own name; an identify becomes a custom event named after the person. Properties that Branch knows become
`event_data` or `content_items`, the others `custom_data`.
"""

from typing import Any, Final

import msgspec

from mainstem.destinations.base import (
    DestinationSpec,
    MapContext,
    Mapper,
    MappingTable,
    Payloads,
    Schema,
)
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.values import get, mapping, sequence, text
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any
Object = dict[str, Json]

_BASE: Final = "https://api2.branch.io/v2/event/"
_HEADERS: Final = {"Content-Type": "application/json", "Accept": "application/json"}
_DOC: Final = "https://help.branch.io/apidocs/events-api"
_APPLE: Final = frozenset(("ios", "ipados", "tvos", "watchos"))

_STANDARD: Final = {
    # Commerce
    "product added": "ADD_TO_CART",
    "product added to wishlist": "ADD_TO_WISHLIST",
    "cart viewed": "VIEW_CART",
    "checkout started": "INITIATE_PURCHASE",
    "payment info entered": "ADD_PAYMENT_INFO",
    "order completed": "PURCHASE",
    "credits spent": "SPEND_CREDITS",
    "promotion viewed": "VIEW_AD",
    "promotion clicked": "CLICK_AD",
    # Content
    "products searched": "SEARCH",
    "product viewed": "VIEW_ITEM",
    "product list viewed": "VIEW_ITEMS",
    "product reviewed": "RATE",
    "product shared": "SHARE",
}
"""https://help.branch.io/developers-hub/docs/track-branch-events: what the Segment spec has a name for."""
_OWN_NAMES: Final = frozenset(
    (
        *_STANDARD.values(),
        "RESERVE",
        "INITIATE_STREAM",
        "COMPLETE_STREAM",
        "COMPLETE_REGISTRATION",
        "COMPLETE_TUTORIAL",
        "ACHIEVE_LEVEL",
        "UNLOCK_ACHIEVEMENT",
        "INVITE",
        "LOGIN",
        "START_TRIAL",
        "SUBSCRIBE",
    )
)
"""Branch's standard events by their own names, which events may have, too (`Complete Registration`)."""


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    branch_key: Secret
    """The Branch key, from Account Settings."""


_USER: Final = Table(
    Row("os", "context.os.name"),
    Row("app_version", "context.app.version"),
    Row("screen_dpi", "context.screen.density"),
    Row("model", "context.device.model"),
    Row("user_agent", "context.userAgent"),
)
_APPLE_DEVICE: Final = Table(Row("idfa", "context.device.advertisingId"), Row("idfv", "context.device.id"))
_ANDROID: Final = Table(Row("aaid", "context.device.advertisingId"), Row("android_id", "context.device.id"))
_EVENT: Final = Table(
    Row("transaction_id", "transaction_id", "order_id"),
    Row("revenue", "revenue"),
    Row("currency", "currency"),
    Row("shipping", "shipping"),
    Row("tax", "tax"),
    Row("coupon", "coupon"),
    Row("affiliation", "affiliation"),
    Row("description", "description"),
    Row("search_query", "search_query", "query"),
)
_ITEM: Final = Table(
    Row("$canonical_identifier", "product_id"),
    Row("$sku", "sku"),
    Row("$product_name", "name"),
    Row("$product_brand", "brand"),
    Row("$product_category", "category"),
    Row("$product_variant", "variant"),
    Row("$price", "price"),
    Row("$quantity", "quantity"),
    Row("$rating", "rating"),
    Row("$og_image_url", "image_url"),
)


def _sources(table: Table) -> frozenset[str]:
    return frozenset(source for _, sources, _ in table.rows for source in sources)


_EVENT_KEYS: Final = _sources(_EVENT) | {"products"}
_TAKEN: Final = _EVENT_KEYS | _sources(_ITEM)


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    key = config.branch_key.reveal()

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        person = event.user_id or event.anonymous_id
        if not person:
            refuse("`userId` and `anonymousId` are missing; Branch needs one of them")
        if event.type == "identify":
            name, kind = person, "custom"
            given = mapping(message.get("traits")) or mapping(get(message, "context.traits"))
        else:
            name, kind = _name(event.name or refuse("`event` is missing; Branch needs a name for the event"))
            given = mapping(message.get("properties"))
        body: Object = {"branch_key": key, "name": name, "user_data": _user(message, person), **_data(given)}
        return (json_call(_BASE + kind, body, headers=_HEADERS, user_id=person, secrets=(key,)),)

    return settled(to_calls)


def _name(name: str) -> tuple[str, str]:
    """Return an event's name at Branch, and which kind of event it is."""
    words = " ".join(name.replace("_", " ").lower().split())
    standard = _STANDARD.get(words) or words.upper().replace(" ", "_")
    return (standard, "standard") if standard in _OWN_NAMES else (name, "custom")


def _user(message: Object, person: str) -> Object:
    user = _USER.build(message, {"developer_identity": person})
    if (version := get(message, "context.os.version")) is not None:
        user["os_version"] = version
    platform = text(user.get("os")).lower()
    if platform in _APPLE:
        _APPLE_DEVICE.build(message, user)
    elif platform == "android":
        _ANDROID.build(message, user)
    tracking = get(message, "context.device.adTrackingEnabled")
    if tracking is not None:
        user["limit_ad_tracking"] = tracking not in (True, "true")
    return user


def _data(given: Object) -> Object:
    """Return properties in the three parts that Branch has for them; none without any."""
    if not given:
        return {}
    products = [product for product in sequence(given.get("products")) if isinstance(product, dict)]
    body: Object = {"content_items": [_ITEM.build(product) for product in products or [given]]}
    if data := _EVENT.build(given):
        body["event_data"] = data
    taken = _EVENT_KEYS if products else _TAKEN
    if custom := {name: value for name, value in given.items() if name not in taken and value is not None}:
        body["custom_data"] = custom
    return body


_SCHEMA: Final = Schema(
    label="",
    doc_url=_DOC,
    schema={
        "type": "object",
        "required": ["branch_key", "name", "user_data"],
        "properties": {
            "branch_key": {"type": "string"},
            "name": {"type": "string"},
            "user_data": {
                "type": "object",
                "properties": {
                    "os": {"type": "string"},
                    "developer_identity": {"type": "string"},
                    "limit_ad_tracking": {"type": "boolean"},
                    "idfa": {"type": "string"},
                    "idfv": {"type": "string"},
                    "aaid": {"type": "string"},
                    "android_id": {"type": "string"},
                },
            },
            "event_data": {"type": "object"},
            "custom_data": {"type": "object"},
            "content_items": {"type": "array", "items": {"type": "object"}},
        },
    },
)

SPEC = DestinationSpec(
    name="BRANCH",
    title="Branch",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track"}),
    doc_url=_DOC,
    mapper=make_mapper,
    schemas=(_SCHEMA,),
    tables=(
        MappingTable(title="The person and the device", rows=_USER.rows),
        MappingTable(title="The device on iOS", rows=_APPLE_DEVICE.rows),
        MappingTable(title="The device on Android", rows=_ANDROID.rows),
        MappingTable(title="Properties: the event", rows=_EVENT.rows),
        MappingTable(title="Properties, or each of `products`: the content", rows=_ITEM.rows),
    ),
    limits="events count when they arrive; a rate for each app, told by Branch",
)
