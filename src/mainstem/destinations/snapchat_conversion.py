"""Snapchat Conversion: website, app and offline events by Snap's Conversions API.

Follows https://developers.snap.com/api/marketing-api/Conversions-API/Parameters (version 3, read 2026-11) and, for
destinations that are still set to it, https://marketingapi.snapchat.com/docs/conversion.html (version 2, superseded).
Auth: a Conversions API token. Limits: 2,000 events a request, events at most 37 days old.

A track becomes the Snap event of its name: those of the e-commerce spec, Snap's own names, and what the settings map to
them; any other is refused. A page becomes `PAGE_VIEW`. Where it happened (`WEB`, `MOBILE_APP`, `OFFLINE`) is said by
`properties.eventConversionType`, else by the channel: web, mobile, or neither. Who it was is hashed (SHA-256).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

import msgspec

from mainstem.destinations.base import (
    Batch,
    Batcher,
    Body,
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
from mainstem.destinations.kit.batching import together, with_body
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.spec_fields import (
    ADVERTISING_ID,
    EMAIL,
    GENDER,
    IP,
    PAGE_URL,
    PHONE,
    trait,
)
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.times import happened_ms
from mainstem.destinations.kit.values import (
    first,
    get,
    mapping,
    number_text,
    parse_float,
    rounded,
    sequence,
    sha256,
    text,
    trimmed_lower,
    truthy,
)
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_MOST_EVENTS: Final = 2_000
_OLDEST_MS: Final = 37 * 86_400_000
_V2: Final = "https://tr.snapchat.com/v2/conversion"
_V3: Final = "https://tr.snapchat.com/v3/"


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"apiKey"})

    api_key: Secret = Secret("")
    """The Conversions API token."""
    api_version: str = "legacyApi"
    """`newApi` is version 3; `legacyApi` version 2, which Snap has superseded."""
    pixel_id: str = ""
    """The Snap pixel's id, which web and offline events need."""
    snap_app_id: str = ""
    """The app's id at Snap, which mobile events need."""
    app_id: str = ""
    """The app's id in its store, which mobile events need: a number on iOS, a package name on Android."""
    rudder_events_to_snap_events: list[dict[str, Any]] = []
    """Which events become which of Snap's: `[{from, to}]`."""
    enable_deduplication: bool = False
    """Send an id for Snap to recognise the same event from its pixel by."""
    deduplication_key: str = ""
    """The path of that id in the event (`properties.order_id`); without, the messageId."""


# ---------------------------------------------------------------- events


def _plain_name(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


_SNAP_EVENTS: Final = frozenset(
    (
        "PAGE_VIEW",
        "VIEW_CONTENT",
        "ADD_CART",
        "SIGN_UP",
        "SAVE",
        "START_CHECKOUT",
        "APP_OPEN",
        "ADD_BILLING",
        "SEARCH",
        "SUBSCRIBE",
        "AD_CLICK",
        "AD_VIEW",
        "COMPLETE_TUTORIAL",
        "LEVEL_COMPLETE",
        "INVITE",
        "LOGIN",
        "SHARE",
        "RESERVE",
        "ACHIEVEMENT_UNLOCKED",
        "ADD_TO_WISHLIST",
        "SPEND_CREDITS",
        "RATE",
        "START_TRIAL",
        "LIST_VIEW",
        "APP_INSTALL",
        "PURCHASE",
        *(f"CUSTOM_EVENT_{number}" for number in range(1, 6)),
    )
)
_OF_COMMERCE: Final[Mapping[str, str]] = {
    "products_searched": "SEARCH",
    "product_list_viewed": "VIEW_CONTENT",
    "promotion_viewed": "AD_VIEW",
    "promotion_clicked": "AD_CLICK",
    "product_viewed": "VIEW_CONTENT",
    "checkout_started": "START_CHECKOUT",
    "payment_info_entered": "ADD_BILLING",
    "order_completed": "PURCHASE",
    "product_added": "ADD_CART",
    "product_added_to_wishlist": "ADD_TO_WISHLIST",
}
_WITH_PRODUCTS: Final = frozenset(("product_list_viewed", "checkout_started", "order_completed"))
_OF_A_PRODUCT: Final = frozenset(("product_viewed", "product_added", "product_added_to_wishlist"))


def _snap_event(name: str) -> str | None:
    upper = name.upper()
    return _OF_COMMERCE.get(name) or (upper if upper in _SNAP_EVENTS else None)


def _category(properties: Mapping[str, Json]) -> Json:
    return properties.get("item_category") or properties.get("category")


def _sum(properties: Mapping[str, Json]) -> str | None:
    """Return what the products cost together, as text; the event's revenue goes before."""
    revenue = properties.get("revenue")
    if truthy(revenue):
        return text(revenue)
    products = [mapping(item) for item in sequence(properties.get("products"))]
    if not products:
        return None
    total = 0.0
    for product in products:
        price = parse_float(product.get("price"))
        quantity = parse_float(product.get("quantity"))
        total += (price or 0) * (1 if quantity is None else quantity)
    return number_text(rounded(total, 2))


def _ids(properties: Mapping[str, Json]) -> list[Json]:
    ids = [_product_id(mapping(item)) for item in sequence(properties.get("products"))]
    return [item for item in ids if truthy(item)]


def _product_id(product: Mapping[str, Json]) -> Json:
    return product.get("product_id") or product.get("sku") or product.get("id")


# ---------------------------------------------------------------- people

_NOT_DIGITS: Final = re.compile(r"\D+")


def _phone(value: Json) -> str:
    return _NOT_DIGITS.sub("", text(value)).lstrip("0")


def _hashed(normal: Callable[[Json], str]) -> Callable[[Json], str | None]:
    def sha_256(value: Json) -> str | None:
        if isinstance(value, dict | list):
            return None
        written = normal(value)
        return sha256(written) if written else None

    return sha_256


def _scalar(value: Json) -> Json:
    return None if isinstance(value, dict | list) else value


_LOWER: Final = _hashed(trimmed_lower)
_AS_IS: Final = _hashed(text)
PERSON: Final = Table(
    Row("em", *EMAIL, as_=_LOWER, text="SHA-256"),
    Row("ph", *PHONE, as_=_hashed(_phone), text="digits, SHA-256"),
    Row("fn", *trait("firstName", "firstname", "first_name", properties=False), as_=_LOWER, text="SHA-256"),
    Row("ln", *trait("lastName", "lastname", "last_name", properties=False), as_=_LOWER, text="SHA-256"),
    Row("ge", *GENDER, as_=_hashed(lambda value: trimmed_lower(value)[:1]), text="SHA-256 of m or f"),
    Row("ct", *trait("address.city", properties=False), as_=_LOWER, text="SHA-256"),
    Row("st", *trait("state", "address.state", properties=False), as_=_LOWER, text="SHA-256"),
    Row(
        "zp",
        *trait("zipcode", "zip", "address.zip", "address.postalCode", properties=False),
        as_=_LOWER,
        text="SHA-256",
    ),
    Row("country", *trait("country", "address.country", properties=False), as_=_LOWER, text="SHA-256"),
    Row("external_id", "userId", as_=_AS_IS, text="SHA-256"),
    Row("client_ip_address", *IP, as_=_scalar),
    Row("client_user_agent", "context.userAgent", as_=_scalar),
    Row("sc_click_id", "properties.click_id", "properties.sc_click_id", as_=_scalar),
    Row("sc_cookie1", "properties.uuid_c1", "properties.sc_cookie1", as_=_scalar),
    Row("madid", *ADVERTISING_ID, as_=_scalar),
)
_PERSON_V2: Final = Table(
    Row("hashed_email", *EMAIL, as_=_LOWER),
    Row("hashed_phone_number", *PHONE, as_=_hashed(_phone)),
    Row("hashed_ip_address", *IP, as_=_LOWER),
    Row("hashed_mobile_ad_id", *ADVERTISING_ID, as_=_AS_IS),
    Row("user_agent", "context.userAgent", as_=trimmed_lower),
    Row("click_id", "properties.click_id", "properties.sc_click_id", as_=_scalar),
    Row("uuid_c1", "properties.uuid_c1", "properties.sc_cookie1", as_=_scalar),
    Row("event_tag", "properties.event_tag"),
    Row("description", "properties.description"),
    Row("level", "properties.level"),
    Row("sign_up_method", "properties.sign_up_method"),
    Row("number_items", "properties.number_items", "properties.quantity"),
)
_APPLE: Final = frozenset(("ios", "ipados", "tvos", "watchos"))


def _platform(message: dict[str, Json]) -> str:
    kind = first(message, "context.device.type", "context.os.name")
    return trimmed_lower(kind) if isinstance(kind, str) else ""


_EXTINFO: Final = (
    "context.app.namespace",
    "context.app.build",
    "context.app.version",
    "context.os.version",
    "context.device.model",
    "context.locale",
    "",  # the time zone's abbreviation, which nobody sends
    "context.network.carrier",
    "context.screen.width",
    "context.screen.height",
    "context.screen.density",
    "",  # processor cores
    "",  # storage
    "",  # storage that is free
    "context.timezone",
)


def _extinfo(message: dict[str, Json]) -> list[str]:
    """Return `extinfo`: the device in 16 texts, in Snap's order, empty where unknown."""
    platform = _platform(message)
    kind = "i2" if platform in _APPLE else "a2" if platform == "android" else ""
    values = [get(message, path) if path else None for path in _EXTINFO]
    return [
        kind,
        *("" if value is None or isinstance(value, dict | list) else text(value) for value in values),
    ]


# ---------------------------------------------------------------- the mapping


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    token = config.api_key.reveal()
    renames: dict[str, str] = {}
    for row in config.rudder_events_to_snap_events:
        if isinstance(row.get("from"), str) and isinstance(row.get("to"), str) and row["from"] and row["to"]:
            renames.setdefault(_plain_name(row["from"]), _plain_name(row["to"]))
    send = _send_v3 if config.api_version == "newApi" else _send_v2

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        if not token:
            refuse("the setting `apiKey` is missing; Snap's API needs it")
        name, snap_event = _named(event)
        kind = _conversion_type(message)
        if kind == "MOBILE_APP":
            if not config.snap_app_id:
                refuse("the setting `snapAppId` is missing; events of apps need it")
            if not config.app_id:
                refuse("the setting `appId` is missing; events of apps need it")
        elif not config.pixel_id:
            refuse("the setting `pixelId` is missing; web and offline events need it")
        at_ms = happened_ms(message)
        if at_ms is None:
            at_ms = context.now_ms
        if context.now_ms - at_ms > _OLDEST_MS:
            refuse("`timestamp` is more than 37 days old; Snap takes no such events")
        event_id: Json = None
        if config.enable_deduplication:
            event_id = first(message, config.deduplication_key or "messageId", "messageId")
        return (send(config, token, message, name, snap_event, kind, at_ms, event_id),)

    def _named(event: Event) -> tuple[str, str]:
        if event.type == "page":
            return "", "PAGE_VIEW"
        given = event.message.get("event")
        if not isinstance(given, str) or not given.strip():
            refuse("`event` is missing; Snap needs an event's name")
        name = _plain_name(given)
        name = renames.get(name, name)
        snap_event = _snap_event(name)
        if snap_event is None:
            refuse("`event` is none of Snap's events; map it in the setting `rudderEventsToSnapEvents`")
        return name, snap_event

    return settled(to_calls)


_KINDS: Final = {"web": "WEB", "mobile": "MOBILE_APP", "mobile_app": "MOBILE_APP", "offline": "OFFLINE"}


def _conversion_type(message: dict[str, Json]) -> str:
    said = first(message, "properties.eventConversionType", "properties.action_source")
    kind = _KINDS.get(trimmed_lower(said)) if isinstance(said, str) else None
    if kind is not None:
        return kind
    channel = message.get("channel")
    return (
        {"web": "WEB", "mobile": "MOBILE_APP"}.get(channel, "OFFLINE")
        if isinstance(channel, str)
        else "OFFLINE"
    )


def _send_v2(
    config: Config,
    token: str,
    message: dict[str, Json],
    name: str,
    snap_event: str,
    kind: str,
    at_ms: int,
    event_id: Json,
) -> Call:
    properties = mapping(message.get("properties"))
    body: dict[str, Json] = {"event_type": snap_event}
    if name in _WITH_PRODUCTS:
        _set(body, "item_ids", _ids(properties))
        _set(body, "price", _sum(properties))
    elif name in _OF_A_PRODUCT:
        _set(body, "item_ids", _product_id(properties))
        _set(body, "price", properties.get("price"))
    elif name == "products_searched":
        _set(body, "search_string", properties.get("query"))
    elif name:
        _set(body, "price", properties.get("price"))
    if name in _OF_COMMERCE and name != "products_searched":
        _set(body, "item_category", _category(properties))
        _set(body, "currency", properties.get("currency"))
    if name == "order_completed":
        _set(body, "transaction_id", properties.get("order_id"))
        _set(body, "brands", properties.get("brands") or properties.get("brand"))
    elif name == "payment_info_entered":
        _set(body, "transaction_id", properties.get("checkout_id"))
    _PERSON_V2.build(message, body)
    if _platform(message) in _APPLE and (device := first(message, "context.device.id")) is not None:
        _set(body, "hashed_idfv", _AS_IS(device))
    if kind == "WEB":
        _set(body, "page_url", _page_url(message))
    body["timestamp"] = str(at_ms // 1000)
    body["event_conversion_type"] = kind
    if kind == "MOBILE_APP":
        body["snap_app_id"] = config.snap_app_id
        body["app_id"] = config.app_id
    else:
        body["pixel_id"] = config.pixel_id
    _set(body, "client_dedup_id", event_id)
    return json_call(
        _V2, body, headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    )


def _send_v3(
    config: Config,
    token: str,
    message: dict[str, Json],
    name: str,
    snap_event: str,
    kind: str,
    at_ms: int,
    event_id: Json,
) -> Call:
    properties = mapping(message.get("properties"))
    custom: dict[str, Json] = {}
    contents: list[Json] = []
    if name in _WITH_PRODUCTS:
        _set(custom, "content_ids", _ids(properties))
        _set(custom, "value", _sum(properties))
        contents = [_content(mapping(item)) for item in sequence(properties.get("products"))]
    elif name in _OF_A_PRODUCT:
        _set(custom, "content_ids", _product_id(properties))
        _set(custom, "value", properties.get("price"))
    elif name == "products_searched":
        _set(custom, "search_string", properties.get("query"))
    elif name:
        _set(custom, "price", properties.get("price"))
    if name in _OF_COMMERCE and name != "products_searched":
        _set(custom, "content_category", _category(properties))
        _set(custom, "currency", properties.get("currency"))
        contents = contents or [_content(properties)]
    contents = [entry for entry in contents if entry]
    _set(custom, "contents", contents)
    _set(custom, "num_items", first(message, "properties.number_items", "properties.num_items"))
    _set(custom, "sign_up_method", properties.get("sign_up_method"))
    if name == "order_completed":
        _set(custom, "brand", properties.get("brands") or properties.get("brand"))
        _set(custom, "order_id", properties.get("order_id"))
    elif name == "payment_info_entered" and event_id is None:
        event_id = properties.get("checkout_id")
    person = PERSON.build(message)
    if _platform(message) in _APPLE:
        _set(person, "idfv", _scalar(first(message, "context.device.id")))
    if not person:
        refuse("nothing tells whose event it is; Snapchat needs an e-mail, a phone, an address or another id")
    event: dict[str, Json] = {
        "event_name": snap_event,
        "event_time": str(at_ms // 1000),
        "action_source": kind,
        "user_data": person,
    }
    if kind == "WEB":
        _set(event, "event_source_url", _page_url(message))
    _set(event, "event_id", event_id)
    _set(event, "custom_data", custom)
    asset = config.pixel_id
    if kind == "MOBILE_APP":
        asset = config.snap_app_id
        event["app_data"] = {"app_id": config.app_id, "extinfo": _extinfo(message)}
    return json_call(
        f"{_V3}{asset}/events",
        {"data": [event]},
        headers={"Content-Type": "application/json"},
        params={"access_token": token},
    )


def _content(product: Mapping[str, Json]) -> dict[str, Json]:
    entry: dict[str, Json] = {}
    _set(entry, "id", _product_id(product))
    _set(entry, "item_price", product.get("price"))
    _set(entry, "quantity", product.get("quantity"))
    _set(entry, "brand", product.get("brand"))
    _set(entry, "delivery_category", product.get("delivery_category"))
    return entry


def _page_url(message: dict[str, Json]) -> Json:
    return _scalar(first(message, *reversed(PAGE_URL)))


def _set(target: dict[str, Json], name: str, value: Json) -> None:
    """Put a field where there is a value: not null, no empty text, list or object."""
    if value is None or (isinstance(value, str | list | dict) and not value):
        return
    target[name] = value


# ---------------------------------------------------------------- batches and answers


def make_batcher(config: Config) -> Batcher:
    """Return the batching: events of the same asset go together."""

    def key(unit: Unit) -> tuple[str, str]:
        call = unit.calls[0]
        return call.url, text(call.headers.get("Authorization"))

    def merge(calls: Sequence[Call]) -> Call:
        bodies = [call.body.value for call in calls if call.body is not None]
        if calls[0].url == _V2:
            return msgspec.structs.replace(calls[0], body=Body("json_array", bodies))
        return with_body(calls[0], {"data": [event for body in bodies for event in body["data"]]})

    def batch(units: Sequence[Unit]) -> list[Batch]:
        return together(units, key=key, merge=merge, most=_MOST_EVENTS)

    return batch


_TAKEN: Final = frozenset(("OK", "SUCCESS", "VALID"))


def classify(request: Request, response: Response) -> Delivery | None:
    """Snap says OK (version 3) or SUCCESS (version 2) of what it took."""
    if response.status != 200:
        return None
    body = mapping(answer_of(response).body)
    status = text(body.get("status")).upper()
    if status in _TAKEN:
        return Delivered("200", acceptance="accepted")
    if status in ("INVALID", "FAILED", "ERROR"):
        return Rejected(f"Snap answers {status}", text(body.get("reason"))[:512])
    return None


def classify_each(
    call: Call, request: Request, response: Response, units: Sequence[Unit]
) -> Sequence[Delivery] | None:
    """Version 3 names the events of a batch that it did not take (`error_records`)."""
    body = mapping(answer_of(response).body)
    records = sequence(body.get("error_records"))
    if not 200 <= response.status < 300 or not records:
        return None
    results: list[Delivery] = [Delivered(str(response.status), acceptance="accepted") for _ in units]
    for record in map(mapping, records):
        index = record.get("record_index")
        if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(results):
            reasons = text(record.get("error_reasons") or record.get("reason"))
            results[index] = Rejected("Snap did not take this event", reasons[:512])
    return results


def validation(config: Config, call: Call) -> Call | None:
    """Return the request that has Snap check events without taking them (version 3)."""
    if not call.url.startswith(_V3):
        return None
    return msgspec.structs.replace(call, url=f"{call.url}/validate")


SPEC = DestinationSpec(
    name="SNAPCHAT_CONVERSION",
    title="Snapchat Conversion",
    kind="http",
    config=Config,
    message_types=frozenset({"track", "page"}),
    doc_url="https://developers.snap.com/api/marketing-api/Conversions-API/Introduction",
    mapper=make_mapper,
    classify=classify,
    batcher=make_batcher,
    classify_each=classify_each,
    default_max_batch=_MOST_EVENTS,
    proof="each event",
    validation=validation,
    schemas=(
        Schema(
            label="",
            doc_url="https://developers.snap.com/api/marketing-api/Conversions-API/UsingTheAPI",
            # Version 2, which has a list or an object without `data`, is not what it is about.
            schema={
                "properties": {
                    "data": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": _MOST_EVENTS,
                        "items": {
                            "type": "object",
                            "required": ["event_name", "event_time", "action_source", "user_data"],
                            "properties": {
                                "event_name": {"enum": sorted(_SNAP_EVENTS)},
                                "action_source": {"enum": ["WEB", "MOBILE_APP", "OFFLINE"]},
                                "user_data": {"type": "object", "minProperties": 1},
                                "app_data": {
                                    "type": "object",
                                    "properties": {
                                        "extinfo": {"type": "array", "minItems": 16, "maxItems": 16}
                                    },
                                },
                            },
                        },
                    }
                },
            },
        ),
    ),
    tables=(MappingTable(title="Who (`user_data`)", rows=PERSON.rows),),
    limits="2,000 events a request, at most 37 days old",
)
