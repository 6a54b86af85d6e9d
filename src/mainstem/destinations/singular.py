"""Singular: sessions and events of apps and games, server to server.

Follows https://support.singular.net/hc/en-us/articles/31496864868635-Server-to-Server-EVENT-Endpoint-API-Reference
and .../360048588672-Server-to-Server-S2S-API-Endpoint-Reference (versions 1 and 2 of the API, read 2026-11). Auth:
the SDK key, as a query parameter. Limits: event names of 32 characters; 5 attributes of 500 characters each are
reported on.

A track that is a session (by the settings, or because an application was installed, updated or opened) goes to
`launch`, any other to `evt`; one with several `products` becomes an event for each of them, with its revenue. With a
Singular device id (`integrations.Singular.singularDeviceId`) the second version of the API is used, which needs no
identifiers of the platform.
"""

from typing import Any, ClassVar, Final

import msgspec

from mainstem.destinations.base import (
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
)
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.spec_fields import IP, TIMESTAMP
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.times import seconds_of
from mainstem.destinations.kit.values import get, integration_options, mapping, number, omit, sequence, text
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any
Object = dict[str, Json]

_BASE: Final = "https://s2s.singular.net/api"
_LIFECYCLE: Final = frozenset(("application installed", "application updated", "application opened"))
_APPLE: Final = frozenset(("ios", "ipados", "tvos", "watchos"))
_GAMES: Final = frozenset(("metaquest", "nintendo", "pc", "playstation", "xbox"))
"""Platforms of PC and console games, known to Singular by its own device id alone."""


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"apiKey"})

    api_key: Secret = Secret("")
    """The SDK key, from Developer Tools > SDK Integration > SDK Keys."""
    session_event_list: list[dict[str, Json]] = []
    """Names of events that are sessions, beside those of the application's life: `{"sessionEventName": "login"}`."""


# ---------------------------------------------------------------- the tables

_APP: Final = (
    Row("i", "context.app.namespace", required=True),
    Row("ip", *IP, required=True),
    Row("ve", "context.os.version"),
    Row("utime", *TIMESTAMP, as_=seconds_of),
)
_MOBILE: Final = (*_APP, Row("custom_user_id", "userId"))
_SESSION: Final = (
    *_MOBILE,
    Row("app_v", "context.app.version", required=True),
    Row("n", "context.app.name"),
    Row("bd", "context.app.build"),
    Row("mo", "context.device.model"),
    Row("ma", "context.device.manufacturer"),
    Row("lc", "context.locale"),
    Row("cn", "context.network.carrier"),
    Row("ua", "context.userAgent", "properties.userAgent"),
    Row("install", "properties.install"),
    Row("install_time", *TIMESTAMP, as_=seconds_of),
    Row("update_time", *TIMESTAMP, as_=seconds_of),
    Row("openuri", "properties.url"),
    Row("sessionNotificationName", "event"),
)
_ANDROID_IDS: Final = (
    Row("aifa", "context.device.advertisingId"),
    Row("andi", "context.device.id"),
    Row("asid", "properties.asid"),
)
_APPLE_IDS: Final = (Row("idfa", "context.device.advertisingId"), Row("idfv", "context.device.id"))
_SKAN: Final = (
    Row("att_authorization_status", "context.device.attTrackingStatus"),
    Row("skan_conversion_value", "properties.skan_conversion_value"),
    Row("skan_first_call_timestamp", "properties.skan_first_call_timestamp", as_=seconds_of),
    Row("skan_last_call_timestamp", "properties.skan_last_call_timestamp", as_=seconds_of),
)
_ANDROID_SESSION: Final = Table(
    *_SESSION,
    Row("fcm", "context.device.token"),
    Row("install_source", "properties.referring_application", default=""),
)
_APPLE_SESSION: Final = Table(
    *_SESSION,
    *_SKAN,
    Row("apns_token", "context.device.token"),
    Row("attribution_token", "properties.attribution_token"),
    Row("install_receipt", "properties.install_receipt", required=True),
)
_REVENUE: Final = (
    Row("cur", "properties.currency"),
    Row("purchase_product_id", "properties.product_id", "properties.sku"),
    Row("is_revenue_event", "properties.is_revenue_event"),
)
_PURCHASE: Final = (
    *_REVENUE,
    Row("purchase_receipt", "properties.purchase_receipt"),
    Row("purchase_transaction_id", "properties.purchase_transaction_id"),
)
_ANDROID_EVENT: Final = Table(
    Row("n", "event"), *_MOBILE, *_PURCHASE, Row("receipt_signature", "properties.receipt_signature")
)
_APPLE_EVENT: Final = Table(Row("n", "event"), *_MOBILE, *_PURCHASE, *_SKAN)
_GAME: Final = (
    *_APP,
    Row("p", "context.os.name"),
    Row("av", "context.app.version"),
    Row("sdid", "context.device.id"),
    Row("ua", "context.userAgent"),
    Row("os", "properties.os"),
    Row("install", "properties.install"),
    Row("install_source", "properties.install_source"),
    Row("data_sharing_options", "properties.data_sharing_options"),
)
_GAME_SESSION: Final = Table(*_GAME)
_GAME_EVENT: Final = Table(Row("n", "event"), *_GAME, *_REVENUE)
_ANDROID_DEVICE: Final = Table(*_ANDROID_IDS)
_APPLE_DEVICE: Final = Table(*_APPLE_IDS)

_IN_PRODUCT: Final = frozenset(("products", "product_id", "sku", "price", "quantity"))


def _own_properties(*tables: Table) -> frozenset[str]:
    """Return the properties that tables take: the rest is the event's attributes."""
    taken = {
        source.removeprefix("properties.")
        for table in tables
        for _, sources, _ in table.rows
        for source in sources
        if source.startswith("properties.")
    }
    return frozenset(taken) | _IN_PRODUCT


_ANDROID_TAKEN: Final = _own_properties(_ANDROID_EVENT, _ANDROID_DEVICE)
_APPLE_TAKEN: Final = _own_properties(_APPLE_EVENT, _APPLE_DEVICE)


# ---------------------------------------------------------------- the mapping


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    key = config.api_key.reveal()
    sessions = {
        name.strip()
        for row in config.session_event_list
        if isinstance(name := row.get("sessionEventName"), str) and name.strip()
    }

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        name = event.name.strip() or refuse("`event` is missing; Singular needs a name for the event")
        platform = text(
            get(message, "context.os.name")
            or refuse("`context.os.name` is missing; Singular needs the platform")
        ).lower()
        is_session = name in sessions or name.lower() in _LIFECYCLE
        options = integration_options(message, "Singular", "SINGULAR")
        device_id = options.get("singularDeviceId")
        made = _session(message, platform) if is_session else _events(message, platform)
        identity: Object = {"sdid": device_id} if device_id else _device(message, platform)
        extra: Object = {"a": key, "partner": context.partner.lower()}
        if isinstance(limit := options.get("limitDataSharing"), bool):
            extra["data_sharing_options"] = {"limit_data_sharing": limit}
        path = f"/{'v2' if device_id else 'v1'}/{'launch' if is_session else 'evt'}"
        return tuple(
            Call(
                method="GET",
                url=_BASE + path,
                params={**one, **identity, **extra},
                label=path,
                secrets=(key,),
            )
            for one in made
        )

    return settled(to_calls)


def _session(message: Object, platform: str) -> list[Object]:
    if platform == "android":
        built = _ANDROID_SESSION.build(message, {"p": "Android"})
    elif platform in _APPLE:
        built = _APPLE_SESSION.build(message, {"p": "iOS"})
    elif platform in _GAMES:
        return [_GAME_SESSION.build(message)]
    else:
        refuse(f"`context.os.name` is `{platform[:40]}`, which Singular does not know; {_KNOWN}")
    built["c"] = _connection(message)
    built["dnt"] = 0 if get(message, "context.device.adTrackingEnabled") is True else 1
    return [built]


def _events(message: Object, platform: str) -> list[Object]:
    properties = mapping(message.get("properties"))
    if platform == "android":
        built = _ANDROID_EVENT.build(message, {"p": "Android"})
        taken = _ANDROID_TAKEN
    elif platform in _APPLE:
        built = _APPLE_EVENT.build(message, {"p": "iOS"})
        taken = _APPLE_TAKEN
    elif platform in _GAMES:
        return _with_revenue(_GAME_EVENT.build(message), properties)
    else:
        refuse(f"`context.os.name` is `{platform[:40]}`, which Singular does not know; {_KNOWN}")
    built["c"] = _connection(message)
    if attributes := omit(properties, taken):
        built["e"] = attributes
    return _with_revenue(built, properties)


_KNOWN: Final = "it takes Android, iOS, PC, Xbox, PlayStation, Nintendo and MetaQuest"


def _device(message: Object, platform: str) -> Object:
    if platform == "android":
        return _ANDROID_DEVICE.build(message)
    return _APPLE_DEVICE.build(message) if platform in _APPLE else {}


def _connection(message: Object) -> str:
    return "wifi" if get(message, "context.network.wifi") else "carrier"


def _with_revenue(event: Object, properties: Object) -> list[Object]:
    """Return the event with its amount, or one event for each of its products with theirs."""
    products = [product for product in sequence(properties.get("products")) if isinstance(product, dict)]
    if not products:
        amount = _amount(properties)
        return [event if amount is None else {**event, "amt": amount, "is_revenue_event": True}]
    events: list[Object] = []
    for product in products:
        one = {**event, "is_revenue_event": True}
        if (product_id := product.get("product_id") or product.get("sku")) is not None:
            one["purchase_product_id"] = product_id
        price, quantity = number(product.get("price")), number(product.get("quantity", 1))
        if price is not None and quantity is not None:
            one["amt"] = number(price * quantity)
        events.append(one)
    return events


def _amount(properties: Object) -> float | None:
    for name in ("total", "value", "revenue"):
        if properties.get(name) is not None and (amount := number(properties[name])) is not None:
            return amount
    if properties.get("price") is None:
        return None
    price, quantity = number(properties["price"]), number(properties.get("quantity", 1))
    return None if price is None or quantity is None else number(price * quantity)


def classify(request: Request, response: Response) -> Delivery | None:
    """Singular answers 200 to everything, and says in the body whether it took it."""
    body = mapping(answer_of(response).body)
    if response.status != 200:
        return None
    if body.get("status") == "ok":
        return Delivered("ok", acceptance="accepted")
    if body.get("status") == "error":
        reason = text(body.get("reason") or "no reason given")[:200]
        return Rejected(f"Singular refused it: {reason}", reason)
    return None


SPEC = DestinationSpec(
    name="SINGULAR",
    title="Singular",
    kind="http",
    config=Config,
    message_types=frozenset({"track"}),
    doc_url="https://support.singular.net/hc/en-us/articles/31496864868635",
    mapper=make_mapper,
    classify=classify,
    proof="body",
    tables=(
        MappingTable(title="A session on Android", rows=_ANDROID_SESSION.rows),
        MappingTable(title="A session on iOS", rows=_APPLE_SESSION.rows),
        MappingTable(title="A session of a game", rows=_GAME_SESSION.rows),
        MappingTable(title="An event on Android", rows=_ANDROID_EVENT.rows),
        MappingTable(title="An event on iOS", rows=_APPLE_EVENT.rows),
        MappingTable(title="An event of a game", rows=_GAME_EVENT.rows),
        MappingTable(title="Identifiers on Android, without a Singular device id", rows=_ANDROID_DEVICE.rows),
        MappingTable(title="Identifiers on iOS, without a Singular device id", rows=_APPLE_DEVICE.rows),
    ),
)
