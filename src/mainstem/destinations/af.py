"""AppsFlyer: in-app events, server to server.

Follows https://dev.appsflyer.com/hc/reference/s2s-events-api3-post (versions 2 and 3 of the endpoint, read 2026-11).
Auth: the dev key, or for version 3 the server-to-server key, in the header `authentication`. Limits: 1 kB of event
values, event names of 100 characters, 60,000 events a minute.

A track is an event of its name, a page `page` and a screen `screen` (or named after it, by the settings). AppsFlyer
knows a device by its own id, which its SDK gives: the event has to bring it, as the external id `appsflyerExternalId`.
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
from mainstem.destinations.kit.body import json_bytes
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.spec_fields import IP
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.times import iso_of
from mainstem.destinations.kit.values import (
    external_id,
    first,
    get,
    integration_options,
    mapping,
    omit,
    pick,
    present,
    sequence,
    text,
)
from mainstem.destinations.kit.wire import with_path
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any
Object = dict[str, Json]

_DOC: Final = "https://dev.appsflyer.com/hc/reference/s2s-events-api3-post"
_APPLE: Final = frozenset(("ios", "ipados", "tvos", "watchos"))


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    auth_version: str = "v1"
    """`v1`: by the dev key; `v2`: by the server-to-server key, which AppsFlyer recommends."""
    dev_key: Secret = Secret("")
    """The dev key, from App settings; for `v1`."""
    s2s_key: Secret = msgspec.field(default=Secret(""), name="s2sKey")
    """A server-to-server key, from Security center; for `v2`."""
    android_app_id: str = ""
    """The Android app's package name, like `com.example.app`."""
    apple_app_id: str = ""
    """The Apple app's id in the App Store, digits only."""
    use_rich_event_name: bool = False
    """Name pages and screens after themselves: `Viewed Home Page` instead of `page`."""
    add_properties_at_root: bool = False
    """Send a track's properties as event values; without, they are in the one event value `properties`."""
    list_of_props: list[dict[str, Json]] = []
    """Properties that are event values in any case: a list of `{"property": "plan"}`."""
    af_currency_at_root: bool = False
    """Send the currency as the event value `af_currency`, too."""
    sharing_filter: str | list[str] = ""
    """Partners that must not get the events: their ids, or `all`."""

    def __post_init__(self) -> None:
        if self.auth_version == "v2" and not self.s2s_key:
            raise ValueError(
                "`s2sKey` is missing; give a server-to-server key from AppsFlyer's Security center"
            )
        if self.auth_version != "v2" and not self.dev_key:
            raise ValueError("`devKey` is missing; give the dev key from AppsFlyer's App settings")


_EVENT: Final = Table(
    Row("bundleIdentifier", "context.app.namespace"),
    Row("app_version_name", "context.app.version"),
    Row("customer_user_id", "userId"),
    Row("ip", *IP),
    Row("eventTime", "timestamp", as_=iso_of),
    Row("eventCurrency", "properties.currency"),
    Row("att", "context.device.attTrackingStatus"),
)
_ANDROID: Final = Table(Row("advertising_id", "context.device.advertisingId"))
_APPLE_DEVICE: Final = Table(Row("idfa", "context.device.advertisingId"), Row("idfv", "context.device.id"))
_VALUES: Final = Table(
    Row("af_revenue", "revenue"),
    Row("af_price", "price"),
    Row("af_quantity", "quantity"),
    Row("af_order_id", "order_id"),
    Row("af_content_id", "product_id"),
)
_OF_PRODUCTS: Final = (
    ("af_price", "price"),
    ("af_quantity", "quantity"),
    ("af_content_id", "product_id"),
)


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    newer = config.auth_version == "v2"
    key = (config.s2s_key if newer else config.dev_key).reveal()
    base = f"https://{'api3' if newer else 'api2'}.appsflyer.com/inappevent"
    label = f"{'v2' if newer else 'v1'}/inappevent"
    headers = {"Content-Type": "application/json", "authentication": key}
    apple_id = config.apple_app_id.removeprefix("id")
    android_url = with_path(base, (config.android_app_id,)) if config.android_app_id else ""
    apple_url = with_path(base, (f"id{apple_id}",)) if apple_id else ""
    at_root = frozenset(
        name for row in config.list_of_props if isinstance(name := row.get("property"), str) and name
    )

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        properties = mapping(message.get("properties"))
        name, values = _name(event, config), properties
        if event.type == "track":
            values = _values(properties, config, at_root)
        appsflyer_id = (
            external_id(message, "appsflyerExternalId")
            or integration_options(message, "AF", "AppsFlyer", "APPSFLYER").get("af_uid")
            or refuse(
                "`context.externalId` has no `appsflyerExternalId`; AppsFlyer knows a device by it alone"
            )
        )
        platform = text(
            get(message, "context.os.name")
            or refuse("`context.os.name` is missing; AppsFlyer needs the platform")
        ).lower()
        if platform == "android":
            url = android_url or refuse("`androidAppId` is not set; set it to send events of Android")
            device = _ANDROID
        elif platform in _APPLE:
            url = apple_url or refuse("`appleAppId` is not set; set it to send events of iOS")
            device = _APPLE_DEVICE
        else:
            refuse(f"`context.os.name` is `{platform[:40]}`; AppsFlyer takes events of Android and iOS")
        body: Object = {
            "eventName": name,
            "eventValue": json_bytes(values).decode() if values else "",
            "appsflyer_id": appsflyer_id,
        }
        _EVENT.build(message, body)
        device.build(message, body)
        # Also an empty one: AppsFlyer takes it for "not known".
        if (version := get(message, "context.os.version")) is not None:
            body["os"] = version
        if config.sharing_filter:
            body["sharing_filter"] = config.sharing_filter
        return (json_call(url, body, headers=headers, label=label),)

    return settled(to_calls)


def _name(event: Event, config: Config) -> str:
    if event.type == "track":
        return event.name or refuse("`event` is missing; AppsFlyer needs a name for the event")
    if not config.use_rich_event_name:
        return event.type
    name = event.name or first(event.message, "properties.name")
    return f"Viewed {text(name)} {event.type.title()}" if name else f"Viewed {event.type.title()}"


def _values(properties: Object, config: Config, at_root: frozenset[str]) -> Object:
    """Return a track's event values, with those that AppsFlyer knows under its names.

    https://support.appsflyer.com/hc/en-us/articles/115005544169-Rich-in-app-events-for-Android-and-iOS
    """
    if config.add_properties_at_root or not properties:
        values = dict(properties)
    else:
        values = {**pick(properties, at_root), "properties": omit(properties, at_root)}
    _VALUES.build(properties, values)
    products = [product for product in sequence(properties.get("products")) if isinstance(product, dict)]
    for target, source in _OF_PRODUCTS:
        if found := [product[source] for product in products if present(product.get(source))]:
            values[target] = found
    if config.af_currency_at_root and (currency := properties.get("currency")):
        values["af_currency"] = currency
    return values


_SCHEMA: Final = Schema(
    label="",
    doc_url=_DOC,
    schema={
        "type": "object",
        "required": ["appsflyer_id", "eventName", "eventValue"],
        "properties": {
            "appsflyer_id": {"type": "string"},
            "eventName": {"type": "string"},
            "eventValue": {"type": "string"},
            "eventTime": {"type": "string"},
            "eventCurrency": {"type": "string"},
            "bundleIdentifier": {"type": "string"},
            "app_version_name": {"type": "string"},
            "customer_user_id": {"type": "string"},
            "advertising_id": {"type": "string"},
            "idfa": {"type": "string"},
            "idfv": {"type": "string"},
            "att": {"type": ["integer", "string"]},
            "ip": {"type": "string"},
            "os": {"type": "string"},
            "sharing_filter": {"type": ["string", "array"]},
        },
    },
)

SPEC = DestinationSpec(
    name="AF",
    title="AppsFlyer",
    kind="http",
    config=Config,
    message_types=frozenset({"track", "page", "screen"}),
    doc_url=_DOC,
    mapper=make_mapper,
    schemas=(_SCHEMA,),
    tables=(
        MappingTable(title="An event", rows=_EVENT.rows),
        MappingTable(title="Identifiers on Android", rows=_ANDROID.rows),
        MappingTable(title="Identifiers on iOS", rows=_APPLE_DEVICE.rows),
        MappingTable(title="Event values, of a track's properties or of its products", rows=_VALUES.rows),
    ),
    limits="1 kB of event values, 60,000 events a minute",
)
