"""Amplitude: events, user properties and groups over the HTTP V2 API; batches over the Batch Event Upload API.

Follows https://amplitude.com/docs/apis/analytics/http-v2 and .../batch-event-upload, .../group-identify,
.../user-mapping (HTTP V2, read 2026-11). Auth: the project's API key in the body. Limits: 1 MB and 2,000 events a
request of HTTP V2, 20 MB a batch; ids shorter than five characters are dropped from batches, so events with such an
id go by HTTP V2 alone, where `min_id_length` allows them.

An identify becomes a `$identify` event; a page `Viewed NAME Page` and a screen `Viewed NAME Screen`, or the name that
the settings make; a track an event of its name, with its revenue where there is one, and with one more event
`Product Purchased` for each product unless the settings say otherwise. A group sets the user's group and the group's
properties, an alias maps one user id to another.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
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
    Retry,
    Schema,
    Unit,
)
from mainstem.destinations.kit.batching import together
from mainstem.destinations.kit.call import form_call
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.paths import MISSING, PathInvalid
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.spec_fields import USER_ID
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.templates import compile_text
from mainstem.destinations.kit.times import happened_ms
from mainstem.destinations.kit.values import (
    first,
    integration_options,
    mapping,
    number,
    present,
    sequence,
    text,
    truthy,
)
from mainstem.events.canonical import Event
from mainstem.events.user_agent import MAX_CHARACTERS, described
from mainstem.secret import Secret

Json = Any
Object = dict[str, Any]

_HOSTS: Final = {"eu": "https://api.eu.amplitude.com"}
_STANDARD: Final = "https://api2.amplitude.com"
_JSON: Final = {"Content-Type": "application/json"}
_NAMES: Final = ("Amplitude", "AM")
_TYPES: Final = frozenset(("identify", "track", "page", "screen", "group", "alias"))
_SHORTEST_ID: Final = 5
"""Of a batch, https://amplitude.com/docs/apis/analytics/batch-event-upload#limits-and-considerations."""
_BATCH_EVENTS: Final = 500
_BATCH_BYTES: Final = 18_000_000
_THROTTLED_S: Final = 30.0
"""https://amplitude.com/docs/apis/analytics/http-v2#429s-in-depth: pause for 30 seconds."""


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"apiKey"})

    api_key: Secret = Secret("")
    """The project's API key."""
    api_secret: Secret = Secret("")
    """The project's secret key; only deleting users needs it."""
    residency_server: str = "standard"
    """Where the project's data are: `standard` (US) or `EU`."""
    group_type_trait: str = ""
    """The trait of a group call that holds the group's type."""
    group_value_trait: str = ""
    """The trait of a group call that holds the group's name."""
    track_products_once: bool = False
    """Leave an order's products in its event; otherwise each becomes an event `Product Purchased`."""
    track_revenue_per_product: bool = False
    """Count revenue in the events of the products, not in the order's."""
    map_device_brand: bool = False
    """Take `context.device.brand` as the device's brand, instead of a mobile device's manufacturer."""
    traits_to_increment: tuple[dict[str, Any], ...] = ()
    """Traits to add to what is there (`$add`), as `{"traits": "logins"}`."""
    traits_to_set_once: tuple[dict[str, Any], ...] = ()
    """Traits to set only if they are not (`$setOnce`)."""
    traits_to_append: tuple[dict[str, Any], ...] = ()
    """Traits to append to a list (`$append`)."""
    traits_to_prepend: tuple[dict[str, Any], ...] = ()
    """Traits to prepend to a list (`$prepend`)."""
    use_user_defined_page_event_name: bool = False
    """Name the events of pages by `userProvidedPageEventString`."""
    user_provided_page_event_string: str = ""
    """The name of a page's event, with references such as `{{ context.page.title }}`; empty = the page's name."""
    use_user_defined_screen_event_name: bool = False
    """Name the events of screens by `userProvidedScreenEventString`."""
    user_provided_screen_event_string: str = ""
    """The name of a screen's event, with references such as `{{ event }}`; empty = the screen's name."""

    def __post_init__(self) -> None:
        for name, template in (
            ("userProvidedPageEventString", self.user_provided_page_event_string),
            ("userProvidedScreenEventString", self.user_provided_screen_event_string),
        ):
            try:
                compile_text(template)
            except PathInvalid as error:
                raise ValueError(f"`{name}`: {error}") from None


# ---------------------------------------------------------------- the tables


def _whole(value: Json) -> Json:
    """Return a session's or an event's id as Amplitude counts them: an integer, and none is 0."""
    found = number(value)
    return found if isinstance(found, int) and found else None


_DEVICE: Final = (
    Row("os_name", "context.os.name"),
    Row("os_version", "context.os.version"),
    Row("device_model", "context.device.model"),
    Row("device_manufacturer", "context.device.manufacturer"),
    Row("platform", "context.device.type"),
    Row("device_id", "context.device.id", "anonymousId"),
    Row("carrier", "context.network.carrier"),
    Row("app_name", "context.app.name"),
    Row("app_version", "context.app.version"),
    Row("language", "context.locale"),
    Row("ip", "context.ip", "request_ip"),
    Row("user_id", *USER_ID),
    Row("location_lat", "context.location.latitude"),
    Row("location_lng", "context.location.longitude"),
    Row("dma", "context.location.dma"),
    Row("region", "context.location.region"),
    Row(
        "country",
        "context.location.country",
        "traits.country",
        "traits.address.country",
        "context.traits.address.country",
    ),
    Row("city", "context.location.city", "traits.city", "traits.address.city", "context.traits.address.city"),
)
FIELDS: Final = Table(*_DEVICE, Row("insert_id", "messageId"))
GROUP_FIELDS: Final = Table(*_DEVICE)
_REVENUE_FIELDS: Final = {
    "product_id": "productId",
    "revenue_type": "revenueType",
    "revenueType": "revenueType",
    "price": "price",
    "quantity": "quantity",
    "revenue": "revenue",
}
_PURCHASES: Final = frozenset(("order completed", "completed order", "product purchased"))
"""Events whose revenue is of the type `Purchased`, https://segment.com/docs/connections/spec/ecommerce/v2/."""
_IDENTIFY_FIELDS: Final = frozenset(
    (
        *("user_id", "device_id", "app_version", "platform", "os_name", "os_version", "device_brand"),
        *("device_manufacturer", "device_model", "carrier", "country", "region", "city", "dma", "language"),
        *("paying", "start_version"),
    )
)
"""What a mapped identify may set beside user properties, https://amplitude.com/docs/apis/analytics/identify."""
_PLACE: Final = ("city", "country")
_APPLE: Final = frozenset(("ios", "ipados", "watchos", "tvos", "macos", "mac os"))


# ---------------------------------------------------------------- the mapping


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    key = config.api_key.reveal()
    host = _host(config)
    events_url, group_url, alias_url = f"{host}/2/httpapi", f"{host}/groupidentify", f"{host}/usermap"
    options = {"min_id_length": 1}
    secrets = (key,)
    operations = _operations(config)
    page_name = _naming(
        "Page", config.use_user_defined_page_event_name, config.user_provided_page_event_string
    )
    screen_name = _naming(
        "Screen", config.use_user_defined_screen_event_name, config.user_provided_screen_event_string
    )
    brand_by_manufacturer = not config.map_device_brand
    products_apart = not config.track_products_once
    revenue_apart = config.track_revenue_per_product

    def event_call(body: Object, user_id: Json) -> Call:
        return Call(
            url=events_url,
            headers=_JSON,
            body=Body("json", {"api_key": key, "events": [body], "options": options}),
            user_id=user_id,
            label="2/httpapi",
            secrets=secrets,
        )

    def form(url: str, name: str, value: Object, user_id: Json) -> Call:
        fields = {"api_key": key, name: [value]}
        return form_call(url, fields, user_id=user_id, label=url.rpartition("/")[2], secrets=secrets)

    def to_calls(event: Event, context: MapContext) -> Payloads:
        if not key:
            refuse("`apiKey` is missing in the settings; copy it from the project's settings in Amplitude")
        message = event.message
        kind = event.type
        if kind not in _TYPES:
            refuse("`type` is missing or none that Amplitude has a call for")
        who = message.get("anonymousId")
        own = integration_options(message, *_NAMES)
        given = message.get("context")
        given = given if isinstance(given, dict) else {}
        if kind == "alias":
            fields = _alias(message, own, _campaign(given))
            return (form(alias_url, "mapping", fields, who),)
        body = (GROUP_FIELDS if kind == "group" else FIELDS).build(message)
        if "user_id" not in body and "device_id" not in body:
            refuse("`userId` and `anonymousId` are missing; Amplitude needs a user or a device")
        body["library"] = context.partner.lower()
        body["time"] = happened_ms(message) or 0
        body["session_id"] = (
            _whole(own.get("session_id"))
            or _whole(given.get("sessionId"))
            or _whole(message.get("session_id"))
            or -1
        )
        if own:
            _set_options(body, own)
        _set_device(body, message.get("channel"), given, brand_by_manufacturer)
        user_properties = _campaign(given)
        body["user_properties"] = user_properties
        if kind == "group":
            group = _group(message, own, config)
            body["event_type"] = "$identify"
            body["groups"] = {group["group_type"]: group["group_value"]}
            user_properties[group["group_type"]] = group["group_value"]
            return event_call(body, who), form(group_url, "identification", group, who)
        traits = message.get("traits")
        if not isinstance(traits, dict):
            traits = mapping(given.get("traits"))
        if kind == "identify":
            body["event_type"] = "$identify"
            _set_traits(body, user_properties, traits, operations)
            if given.get("mappedToDestination"):
                _set_mapped(body, user_properties, traits, given)
            if unset := {text(name): "-" for name in sequence(own.get("fieldsToUnset"))}:
                user_properties["$unset"] = unset
            return (event_call(body, who),)
        user_properties.update(traits)
        address = traits.get("address")
        if isinstance(address, dict):
            user_properties["address"] = {
                name: value for name, value in address.items() if name not in _PLACE
            }
        given_properties = message.get("properties")
        properties = mapping(given_properties)
        if kind != "track":
            name = first(message, "name", "event")
            if name is not None:
                body["event_properties"] = {**properties, "name": name}
            elif isinstance(given_properties, dict):
                body["event_properties"] = given_properties
            if name is None:
                name = first(message, "properties.name")
            body["event_type"] = (page_name if kind == "page" else screen_name)(name, message)
            return (event_call(body, who),)
        name = message.get("event")
        if not present(name):
            refuse("`event` is missing; Amplitude needs the name of a track event")
        body["event_type"] = text(name)
        if not isinstance(given_properties, dict):
            return (event_call(body, who),)
        products = properties.get("products")
        has_products = isinstance(products, list) and bool(products)
        if has_products and products_apart:
            body["event_properties"] = {n: value for n, value in properties.items() if n != "products"}
        else:
            body["event_properties"] = properties
        more: list[Object] = []
        if has_products and (products_apart or revenue_apart):
            more = _products(body, sequence(products), revenue_apart)
        if not (has_products and revenue_apart):
            _set_order_revenue(body)
        return (event_call(body, who), *(event_call(one, who) for one in more))

    return settled(to_calls)


def _host(config: Config) -> str:
    return _HOSTS.get(config.residency_server.lower(), _STANDARD)


def _operations(config: Config) -> dict[str, str]:
    """Return the operation of each trait that is not simply set."""
    found: dict[str, str] = {}
    for operation, rows in (
        ("$add", config.traits_to_increment),
        ("$setOnce", config.traits_to_set_once),
        ("$append", config.traits_to_append),
        ("$prepend", config.traits_to_prepend),
    ):
        for row in rows:
            name = row.get("traits")
            if isinstance(name, str) and name:
                found[name] = operation
    return found


def _naming(noun: str, by_settings: bool, template: str) -> Callable[[Json, Object], str]:
    """Return how the event of a page or screen is named, given its name and the message."""
    fill = compile_text(template.strip()) if by_settings and template.strip() else None

    def named(name: Json, message: Object) -> str:
        if not by_settings:
            return f"Viewed {text(name) if present(name) else ''} {noun}"
        made = MISSING if fill is None else fill(message)
        if made is MISSING:
            made = name if present(name) else ""
        return text(made) or refuse(
            "`name` is missing; the settings name the events of pages and screens by it"
        )

    return named


def _set_options(body: Object, own: Object) -> None:
    event_id = _whole(own.get("event_id"))
    if event_id is not None:
        body["event_id"] = event_id
    if own.get("skipUserPropertiesSync"):
        body["$skip_user_properties_sync"] = True
    groups = own.get("groups")
    if isinstance(groups, dict) and groups:
        kind, value = groups.get("group_type"), groups.get("group_value")
        body["groups"] = {kind: value} if isinstance(kind, str) and kind and present(value) else groups


def _set_device(body: Object, channel: Json, given: Object, brand_by_manufacturer: bool) -> None:
    device = given.get("device")
    device = device if isinstance(device, dict) else {}
    if channel == "web":
        agent = given.get("userAgent")
        if isinstance(agent, str) and agent:
            body["platform"] = "Web"
            body.update(_of_agent(agent[:MAX_CHARACTERS]))
    elif channel == "mobile":
        if brand_by_manufacturer and present(device.get("manufacturer")):
            body["device_brand"] = device["manufacturer"]
        platform = device.get("type")
        platform = platform.lower() if isinstance(platform, str) else ""
        if platform in _APPLE:
            ids = (("idfa", device.get("advertisingId")), ("idfv", device.get("id")))
            body.update((name, value) for name, value in ids if present(value))
        elif platform == "android" and present(device.get("advertisingId")):
            body["adid"] = device["advertisingId"]
    if not brand_by_manufacturer and present(device.get("brand")):
        body["device_brand"] = device["brand"]


@lru_cache(4096)
def _of_agent(agent: str) -> Mapping[str, str]:
    """Return what a browser's User-Agent says, the way Amplitude's own SDK for browsers reports it."""
    said = described(agent)
    browser, system, device = said.get("browser", {}), said.get("os", {}), said.get("device", {})
    model, brand = device.get("model"), device.get("brand")
    if model in (None, "Mac"):
        # A computer has the name of its system as its model, and no manufacturer.
        model, brand = ("Mac" if model else system.get("name")), None
    found = {
        "os_name": browser.get("name"),
        "os_version": browser.get("version"),
        "device_model": model,
        "device_manufacturer": brand,
    }
    return {name: value for name, value in found.items() if value}


def _campaign(given: Object) -> Object:
    """Return the user properties that every event has: where the visit came from."""
    found: Object = {}
    page = given.get("page")
    if isinstance(page, dict):
        for name in ("initial_referrer", "initial_referring_domain"):
            if present(page.get(name)):
                found[name] = page[name]
    campaign = given.get("campaign")
    if isinstance(campaign, dict):
        for name, value in campaign.items():
            found[f"utm_{name}"] = value
    return found


def _set_traits(body: Object, user_properties: Object, traits: Object, operations: Mapping[str, str]) -> None:
    """Put an identify's traits in: an address member by member, the place beside them, operations by themselves."""
    for name, value in traits.items():
        if name in _PLACE:
            continue
        operation = operations.get(name)
        if operation is not None:
            user_properties.setdefault(operation, {})[name] = value
        elif name == "address" and isinstance(value, dict):
            for part, inner in value.items():
                if part not in _PLACE:
                    user_properties.setdefault(part, inner)
        else:
            user_properties[name] = value


def _set_mapped(body: Object, user_properties: Object, traits: Object, given: Object) -> None:
    """Put in what a warehouse's row was mapped to: Amplitude's own fields by their names, and the id it is known by."""
    for name in traits:
        if name in _IDENTIFY_FIELDS and present(traits[name]):
            body[name] = traits[name]
            user_properties.pop(name, None)
    for entry in sequence(given.get("externalId"))[:1]:
        kind, value = mapping(entry).get("identifierType"), mapping(entry).get("id")
        if isinstance(kind, str) and kind and present(value):
            user_properties[kind] = value
            if kind in _IDENTIFY_FIELDS:
                body[kind] = value


def _group(message: Object, own: Object, config: Config) -> Object:
    groups = own.get("groups")
    if isinstance(groups, dict):
        found = {"group_type": groups.get("group_type"), "group_value": groups.get("group_value")}
        properties = groups.get("group_properties")
    else:
        properties = message.get("traits")
        traits = mapping(properties)
        found = {
            "group_type": traits.get(config.group_type_trait),
            "group_value": traits.get(config.group_value_trait),
        }
    kind, value = found["group_type"], found["group_value"]
    if not (isinstance(kind, str) and kind):
        refuse("the group's type is missing; set `groupTypeTrait` and send that trait as a text")
    if not truthy(value) or isinstance(value, bool | list | dict):
        refuse("the group's name is missing or no text; set `groupValueTrait` and send that trait as a text")
    if isinstance(properties, dict):
        found["group_properties"] = properties
    return found


def _alias(message: Object, own: Object, user_properties: Object) -> Object:
    unmap = own.get("unmap")
    fields: Object
    if present(unmap):
        fields = {"user_id": unmap, "unmap": True}
    else:
        fields = {
            "global_user_id": first(message, *USER_ID),
            "user_id": first(message, "previousId", "traits.previousId", "context.traits.previousId"),
        }
        fields = {name: value for name, value in fields.items() if value is not None}
    event_id = _whole(own.get("event_id"))
    if event_id is not None:
        fields["event_id"] = event_id
    if user_properties:
        fields["user_properties"] = user_properties
    return fields


# ---------------------------------------------------------------- revenue


def _set_order_revenue(body: Object) -> None:
    """Count an order's revenue: Amplitude's fields beside the event's properties, and out of those."""
    properties = body["event_properties"]
    if not present(properties.get("revenue")):
        return
    if not present(properties.get("price")):
        # Amplitude computes revenue as price * quantity: one thing at the price of all.
        properties = {**properties, "price": properties["revenue"], "quantity": 1}
        body["event_properties"] = properties
    _set_revenue(body)


def _set_revenue(body: Object) -> None:
    properties = body["event_properties"]
    left = {}
    for name, value in properties.items():
        target = _REVENUE_FIELDS.get(name)
        if target is None:
            left[name] = value
        elif present(value):
            body.setdefault(target, value)
    if "revenueType" not in body and text(body["event_type"]).lower() in _PURCHASES:
        body["revenueType"] = "Purchased"
    body["event_properties"] = left


def _products(order: Object, products: Sequence[Json], with_revenue: bool) -> list[Object]:
    """Return an event for each product of an order."""
    found: list[Object] = []
    for count, product in enumerate(products, 1):
        if not isinstance(product, dict):
            continue
        body = {**order, "event_type": "Product Purchased", "event_properties": {**product}}
        if "insert_id" in order:
            body["insert_id"] = f"{text(order['insert_id'])}-{count}"
        if with_revenue:
            _set_revenue(body)
        found.append(body)
    return found


# ---------------------------------------------------------------- batches


def make_batcher(config: Config) -> Batcher:
    """Return the batching for these settings: what HTTP V2 takes goes together by the batch API."""
    url = f"{_host(config)}/batch"

    def merge(calls: Sequence[Call]) -> Call:
        bodies = [mapping(call.body.value) for call in calls if call.body is not None]
        events = [event for body in bodies for event in _events_of(body)]
        return msgspec.structs.replace(
            calls[0],
            url=url,
            label="batch",
            body=Body("json", {"api_key": bodies[0].get("api_key"), "events": events}),
        )

    def batcher(units: Sequence[Unit]) -> Sequence[Batch]:
        return together(units, key=_batch_key, merge=merge, most=_BATCH_EVENTS, most_bytes=_BATCH_BYTES)

    return batcher


def _events_of(body: Object) -> list[Json]:
    events = body.get("events")
    return events if isinstance(events, list) else [events]


def _batch_key(unit: Unit) -> str | None:
    call = unit.calls[0]
    if call.label != "2/httpapi" or call.body is None:
        return None
    for event in _events_of(mapping(call.body.value)):
        for name in ("user_id", "device_id"):
            value = mapping(event).get(name)
            if value is not None and len(text(value)) < _SHORTEST_ID:
                return None
    return call.label


# ---------------------------------------------------------------- answers


_SLOW_USERS: Final = ("throttled_users", "exceeded_daily_quota_users")
_SLOW_DEVICES: Final = ("throttled_devices", "exceeded_daily_quota_devices")


def classify(request: Request, response: Response) -> Delivery | None:
    """Read an answer about one event, or one that says the same of all."""
    body = mapping(answer_of(response).body)
    status = response.status
    if 200 <= status < 300:
        taken = body.get("events_ingested")
        if body.get("code") == 200 and isinstance(taken, int) and taken > 0:
            return Delivered(str(status), acceptance="accepted")
        # The group and mapping APIs answer with the text `success`.
        proved = response.body.strip() == b"success"
        return Delivered(str(status), acceptance="accepted" if proved else "unverifiable")
    if status == 429:
        # Where it names users or devices, only theirs are too many: the destination goes on with the others.
        named = any(mapping(body.get(part)) for part in (*_SLOW_USERS, *_SLOW_DEVICES))
        return Retry("http 429: too many events of a user or device", _THROTTLED_S, throttled=not named)
    if status == 400 and _is_about_key(body):
        # A wrong key is repaired by people; until then nothing may be lost.
        return Retry(f"http 400: {_said(body)}", destination_wide=True)
    if status == 400:
        return Rejected(f"http 400: {_said(body)}")
    if status == 413:
        return Rejected("http 413: the event is larger than Amplitude takes (1 MB)")
    return None


def classify_each(
    call: Call, request: Request, response: Response, units: Sequence[Unit]
) -> Sequence[Delivery] | None:
    """Read an answer about several events: nothing of the request was taken, and which of them are why."""
    body = mapping(answer_of(response).body)
    status = response.status
    events = call.body.value.get("events") if call.body is not None and call.body.kind == "json" else None
    if not isinstance(events, list) or len(events) != len(units) or len(units) == 1:
        return None
    if 200 <= status < 300:
        all_taken = body.get("events_ingested") == len(events)
        return [Delivered(str(status), acceptance="accepted" if all_taken else "unverifiable")] * len(units)
    if status == 429:
        slow = _throttled(body, events)
        if not slow:
            return None
        return [
            Retry("http 429: too many events of this user or device", _THROTTLED_S)
            if index in slow
            else Retry("http 429: together with a throttled user or device", 0.0)
            for index in range(len(units))
        ]
    if status != 400 or _is_about_key(body):
        return None
    wrong = _wrong(body, events)
    if not wrong:
        return None
    return [
        Rejected(f"http 400: {wrong[index]}")
        if index in wrong
        else Retry("http 400: together with an event that was refused", 0.0)
        for index in range(len(units))
    ]


def _is_about_key(body: Object) -> bool:
    return "api key" in _said(body).lower() or body.get("missing_field") == "api_key"


def _said(body: Object) -> str:
    """Return the vendor's reason, without the values it may quote."""
    said = text(body["error"])[:200] if isinstance(body.get("error"), str) else "the event was refused"
    for part in (
        "events_with_invalid_fields",
        "events_with_missing_fields",
        "events_with_invalid_id_lengths",
    ):
        if fields := mapping(body.get(part)):
            said += f" ({part.removeprefix('events_with_').replace('_', ' ')}: {', '.join(fields)})"
    return said


def _wrong(body: Object, events: Sequence[Json]) -> dict[int, str]:
    """Return the events a 400 is about, by their index, and what is wrong with them."""
    found: dict[int, str] = {}
    for part, words in (
        ("events_with_invalid_fields", "`{}` is invalid"),
        ("events_with_missing_fields", "`{}` is missing"),
        ("events_with_invalid_id_lengths", "`{}` is too short"),
    ):
        for field, indexes in mapping(body.get(part)).items():
            for index in sequence(indexes):
                if isinstance(index, int):
                    found[index] = words.format(field)
    for index in sequence(body.get("silenced_events")):
        if isinstance(index, int):
            found[index] = "the device is silenced"
    silenced = {one for one in sequence(body.get("silenced_devices")) if isinstance(one, str)}
    for index, event in enumerate(events):
        if mapping(event).get("device_id") in silenced:
            found[index] = "the device is silenced"
    return found


def _throttled(body: Object, events: Sequence[Json]) -> set[int]:
    found = {index for index in sequence(body.get("throttled_events")) if isinstance(index, int)}
    devices = {one for part in _SLOW_DEVICES for one in mapping(body.get(part))}
    users = {one for part in _SLOW_USERS for one in mapping(body.get(part))}
    for index, event in enumerate(events):
        fields = mapping(event)
        if text(fields.get("device_id")) in devices or text(fields.get("user_id")) in users:
            found.add(index)
    return found


# ---------------------------------------------------------------- the specification

_TEXTS: Final = (
    *("app_version", "platform", "os_name", "os_version", "device_brand", "device_manufacturer"),
    *("device_model", "carrier", "country", "region", "city", "dma", "language", "revenueType", "productId"),
    *("idfa", "idfv", "adid", "insert_id", "library", "ip"),
)
_EVENT_SCHEMA: Final = {
    "type": "object",
    "required": ["event_type"],
    "anyOf": [{"required": ["user_id"]}, {"required": ["device_id"]}],
    "properties": {
        "event_type": {"type": "string", "minLength": 1},
        "user_id": {"type": ["string", "null"]},
        "device_id": {"type": ["string", "null"]},
        "time": {"type": "integer"},
        "event_properties": {"type": "object"},
        "user_properties": {"type": "object"},
        "groups": {"type": "object"},
        "price": {"type": "number"},
        "quantity": {"type": "integer"},
        "revenue": {"type": "number"},
        "location_lat": {"type": ["number", "string"]},
        "location_lng": {"type": ["number", "string"]},
        "event_id": {"type": "integer"},
        "session_id": {"type": "integer"},
        **{name: {"type": "string"} for name in _TEXTS},
    },
}
_BODY_SCHEMA: Final = {
    "type": "object",
    "required": ["api_key", "events"],
    "properties": {
        "api_key": {"type": "string", "minLength": 1},
        "events": {"type": "array", "minItems": 1, "maxItems": 2000, "items": _EVENT_SCHEMA},
        "options": {"type": "object", "properties": {"min_id_length": {"type": "integer", "minimum": 1}}},
    },
}
_DOCS: Final = "https://amplitude.com/docs/apis/analytics/"

SPEC = DestinationSpec(
    name="AM",
    title="Amplitude",
    kind="http",
    config=Config,
    message_types=_TYPES,
    doc_url=f"{_DOCS}http-v2",
    mapper=make_mapper,
    batcher=make_batcher,
    default_max_batch=_BATCH_EVENTS,
    classify=classify,
    classify_each=classify_each,
    proof="each event",
    schemas=(
        Schema(label="2/httpapi", schema=_BODY_SCHEMA, doc_url=f"{_DOCS}http-v2"),
        Schema(label="batch", schema=_BODY_SCHEMA, doc_url=f"{_DOCS}batch-event-upload"),
    ),
    tables=(
        MappingTable(title="Every event", rows=FIELDS.rows),
        MappingTable(
            title="Revenue, from an event's or a product's properties",
            rows=tuple((target, (f"properties.{name}",), "") for name, target in _REVENUE_FIELDS.items()),
        ),
    ),
    limits="2,000 events and 1 MB a request, 20 MB a batch, 30 events a second of one user or device",
)
