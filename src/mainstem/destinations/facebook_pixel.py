"""Facebook Pixel: website and app events by the Conversions API.

Follows https://developers.facebook.com/docs/marketing-api/conversions-api/parameters (Graph API v25.0, read 2026-11).
Auth: an access token of the business. Limits: events at most 7 days old (62 in a physical store), 1,000 a request.

A track is sent under its name; names of the e-commerce spec, and those renamed by the settings, become Meta's standard
events. A page becomes `PageView` or `Viewed page NAME`, a screen likewise, an identify (with advanced matching on) an
event `identify`. A person's data is hashed (SHA-256), properties that are personal are taken out.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

import msgspec

from mainstem.destinations.base import (
    DestinationSpec,
    MapContext,
    Mapper,
    MappingTable,
    Payloads,
)
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.values import (
    defined,
    first,
    flattened,
    integration_options,
    mapping,
    pairs,
    text,
    truthy,
    without_none,
)
from mainstem.destinations.meta_graph import (
    LIMITS,
    PERSON,
    Privacy,
    category_text,
    checked_place,
    checked_time,
    classify_event,
    content,
    contents_of,
    event_name_of,
    events_call,
    is_hashed,
    money,
    need_properties,
    product_id,
    products,
    renamed_events,
    search_query,
    server_event,
    user_data,
)
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any
_Properties = Mapping[str, Json]
_Standard = Callable[[_Properties, "Config", Callable[[str], Json]], dict[str, Json]]

NAMES: Final = ("FacebookPixel", "FACEBOOK_PIXEL", "Facebook Pixel", "facebook_pixel", "Facebook_Pixel")


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"pixelId", "accessToken"})

    pixel_id: str = ""
    """The pixel's id."""
    access_token: Secret = Secret("")
    """An access token of the business that owns the pixel."""
    standard_page_call: bool = False
    """Send pages and screens as the standard event `PageView`."""
    value_field_identifier: str = ""
    """What a product's value is when it is viewed or added: `properties.price` or `properties.value`."""
    advanced_mapping: bool = False
    """Advanced matching: send identify events too."""
    limited_data_usage: bool = msgspec.field(default=False, name="limitedDataUSage")
    """Send `context.dataProcessingOptions`, Meta's limited data use."""
    test_destination: bool = False
    """Send events as test events, with `testEventCode`."""
    test_event_code: str = ""
    """The code of the Test Events tab of Meta's Events Manager."""
    remove_external_id: bool = False
    """Leave the user's id (`external_id`) out."""
    events_to_events: list[dict[str, Any]] = []
    """Which events become which standard events: `[{from, to}]`."""
    event_custom_properties: list[Any] = []
    """Of the browser's pixel; not read here, where all properties are sent."""
    blacklist_pii_properties: list[dict[str, Any]] = []
    """More properties to take out (`blacklistPiiProperties`), or to send hashed (`blacklistPiiHash`)."""
    whitelist_pii_properties: list[dict[str, Any]] = []
    """Personal properties to send all the same (`whitelistPiiProperties`)."""
    category_to_content: list[dict[str, Any]] = []
    """Which `properties.category` has which `content_type`: `[{from, to}]`."""


# ---------------------------------------------------------------- standard events


def _viewed_list(
    properties: _Properties, config: Config, content_type: Callable[[str], Json]
) -> dict[str, Json]:
    ids: list[Json] = []
    contents: list[Json] = []
    kind = "product"
    for product in products(properties):
        if truthy(item := product_id(product)):
            ids.append(item)
            contents.append(content(item, product, properties))
    category = category_text(properties.get("category"))
    if not ids:
        kind = "product_group"
        if category:
            ids.append(category)
            contents.append({"id": category, "quantity": 1})
    return {
        "content_ids": ids,
        "content_type": content_type(kind),
        "contents": contents,
        "content_category": category,
        "value": money(properties.get("value"), "properties.value"),
        "currency": properties.get("currency") or "USD",
    }


def _one_product(
    properties: _Properties, config: Config, content_type: Callable[[str], Json]
) -> dict[str, Json]:
    item = product_id(properties)
    field = config.value_field_identifier.removeprefix("properties.")
    value = properties.get(field) if field in ("value", "price") else None
    return {
        "content_ids": [item] if truthy(item) else [],
        "content_type": content_type("product"),
        "content_name": properties.get("product_name") or properties.get("name") or "",
        "content_category": category_text(properties.get("category")),
        "currency": properties.get("currency") or "USD",
        "value": money(value, f"properties.{field}"),
        "contents": [content(item, properties, properties)] if truthy(item) else [],
    }


def _basket(properties: _Properties, config: Config, content_type: Callable[[str], Json]) -> dict[str, Json]:
    ids, contents = contents_of(products(properties), properties)
    return {
        "content_category": category_text(properties.get("category")),
        "content_ids": ids,
        "content_type": content_type("product"),
        "currency": properties.get("currency") or "USD",
        "value": money(properties.get("revenue"), "properties.revenue"),
        "contents": contents,
        "num_items": len(ids),
    }


def _search(properties: _Properties, config: Config, content_type: Callable[[str], Json]) -> dict[str, Json]:
    query = search_query(properties)
    item = product_id(properties)
    return {
        "content_ids": [item] if truthy(item) else [],
        "content_category": category_text(properties.get("category")),
        "value": money(properties.get("value"), "properties.value"),
        "contents": [content(item, properties, properties)] if truthy(item) else [],
        **without_none({"search_string": query}),
    }


_OF_COMMERCE: Final[Mapping[str, tuple[str, _Standard]]] = {
    "product list viewed": ("ViewContent", _viewed_list),
    "product viewed": ("ViewContent", _one_product),
    "product added": ("AddToCart", _one_product),
    "order completed": ("Purchase", _basket),
    "products searched": ("Search", _search),
    "checkout started": ("InitiateCheckout", _basket),
}
_BY_STANDARD_NAME: Final[Mapping[str, _Standard]] = {
    "ViewContent": _one_product,
    "AddToCart": _one_product,
    "Purchase": _basket,
    "Search": _search,
    "InitiateCheckout": _basket,
}
_OTHER_STANDARD: Final = frozenset(
    (
        "AddToWishlist",
        "AddPaymentInfo",
        "Lead",
        "CompleteRegistration",
        "Contact",
        "CustomizeProduct",
        "Donate",
        "FindLocation",
        "Schedule",
        "StartTrial",
        "SubmitApplication",
        "Subscribe",
        "PageView",
    )
)


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    if not config.pixel_id or not config.access_token.reveal():
        missing = "accessToken" if config.pixel_id else "pixelId"
        return settled(
            lambda event, context: refuse(f"the setting `{missing}` is missing; Meta's API needs it")
        )
    token = config.access_token.reveal()
    test_code = config.test_event_code if config.test_destination else ""
    renames = renamed_events(config.events_to_events)
    types_of_categories = pairs(config.category_to_content)
    privacy = Privacy(config.blacklist_pii_properties, config.whitelist_pii_properties)

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        properties = mapping(message.get("properties"))
        action_source = checked_place(
            properties.get("action_source") or _action_source(message.get("channel"))
        )
        at_ms = checked_time(message, context, action_source)
        custom: dict[str, Json] | None = None
        if event.type == "identify":
            if not config.advanced_mapping:
                refuse("identify events need the setting `advancedMapping`; switch it on to send them")
            name = "identify"
        else:
            name, standard = _named(event)
            is_standard = standard is not None or name in _OTHER_STANDARD
            if is_standard:
                need_properties(properties)
            custom = privacy.apply(properties, hashed=is_hashed(message, NAMES))
            custom = flattened(custom, lists="bracket", keep_empty=False)
            if standard is not None:
                custom |= standard(properties, config, content_type_of(message, properties))
            elif event.type == "track" and defined(properties.get("revenue")):
                custom.pop("revenue", None)
                custom["value"] = money(properties["revenue"], "properties.revenue")
        person = user_data(message, names=NAMES, without_external_id=config.remove_external_id, at_ms=at_ms)
        sent = server_event(
            message,
            name=name,
            at_ms=at_ms,
            person=person,
            action_source=action_source,
            custom=custom,
            limited=config.limited_data_usage,
        )
        return (events_call(config.pixel_id, token, sent, test_code),)

    def _named(event: Event) -> tuple[str, _Standard | None]:
        if event.type != "track":
            if config.standard_page_call:
                return "PageView", None
            name = first(event.message, "name", "properties.name")
            return (f"Viewed {event.type} {text(name)}" if name else f"Viewed {event.type}"), None
        given = event_name_of(event.message.get("event"))
        key = given.strip().lower()
        if (renamed := renames.get(key)) is not None:
            return renamed, _BY_STANDARD_NAME.get(renamed)
        if (known := _OF_COMMERCE.get(key)) is not None:
            return known
        return given, _BY_STANDARD_NAME.get(given)

    def content_type_of(message: dict[str, Json], properties: _Properties) -> Callable[[str], Json]:
        def content_type(default: str) -> Json:
            said = properties.get("content_type") or integration_options(message, *NAMES).get("contentType")
            category = properties.get("category")
            mapped = types_of_categories.get(category) if isinstance(category, str) else None
            return said or mapped or default

        return content_type

    return settled(to_calls)


def _action_source(channel: Json) -> str:
    return {"web": "website", "mobile": "app"}.get(channel, "other") if isinstance(channel, str) else "other"


SPEC = DestinationSpec(
    name="FACEBOOK_PIXEL",
    title="Facebook Pixel",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen"}),
    doc_url="https://developers.facebook.com/docs/marketing-api/conversions-api",
    mapper=make_mapper,
    classify=classify_event,
    proof="body",
    tables=(MappingTable(title="Who (`user_data`)", rows=PERSON.rows),),
    limits=LIMITS,
)
