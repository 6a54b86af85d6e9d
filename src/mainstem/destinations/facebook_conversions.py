"""Facebook Conversions: website, app and offline events by Meta's Conversions API.

Follows https://developers.facebook.com/docs/marketing-api/conversions-api/parameters (Graph API v25.0, read 2026-11).
Auth: an access token of the business. Limits: events at most 7 days old (62 in a physical store), 1,000 a request.

A track is sent under its name; names of the e-commerce spec, and those renamed by the settings, become Meta's standard
events. A page or screen becomes `PageView`. A person's data is hashed (SHA-256), properties that are personal are taken
out.
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
from mainstem.destinations.kit.values import mapping, pairs, truthy, without_none
from mainstem.destinations.meta_graph import (
    LIMITS,
    PERSON,
    Privacy,
    category_text,
    checked_place,
    checked_time,
    classify_event,
    contents_of,
    event_name_of,
    events_call,
    is_hashed,
    money,
    need_properties,
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
_Standard = Callable[[_Properties], dict[str, Json]]

NAMES: Final = (
    "FacebookConversions",
    "FACEBOOK_CONVERSIONS",
    "Facebook Conversions",
    "facebook_conversions",
    "Facebook_Conversions",
)


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"datasetId", "accessToken"})

    dataset_id: str = ""
    """The dataset's id; a pixel's id is one."""
    access_token: Secret = Secret("")
    """An access token of the business that owns the dataset."""
    action_source: str = "other"
    """Where events happen, if they do not say so in `properties.action_source`: email, website, app, phone_call, chat,
    physical_store, system_generated, business_messaging or other."""
    limited_data_usage: bool = False
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
    """Not read: all properties are sent."""
    blacklist_pii_properties: list[dict[str, Any]] = []
    """More properties to take out (`blacklistPiiProperties`), or to send hashed (`blacklistPiiHash`)."""
    whitelist_pii_properties: list[dict[str, Any]] = []
    """Personal properties to send all the same (`whitelistPiiProperties`)."""
    category_to_content: list[dict[str, Any]] = []
    """Which `properties.category` has which `content_type`: `[{from, to}]`."""


# ---------------------------------------------------------------- standard events


def _contents(properties: _Properties) -> dict[str, Json]:
    # A product's own events have it in the properties themselves.
    ids, contents = contents_of(products(properties) or (properties,), properties)
    return {"content_ids": ids, "contents": contents, "content_type": "product"}


def _viewed_list(properties: _Properties) -> dict[str, Json]:
    found = _contents(properties) if products(properties) else {"content_ids": [], "contents": []}
    category = category_text(properties.get("category"))
    if not found["content_ids"]:
        found["content_type"] = "product_group"
        if category:
            found["content_ids"] = [category]
            found["contents"] = [{"id": category, "quantity": 1}]
    return {**found, "content_category": category or None}


def _product(properties: _Properties) -> dict[str, Json]:
    return {
        **_contents(properties),
        "content_name": properties.get("product_name") or properties.get("name"),
        "content_category": category_text(properties.get("category")) or None,
    }


def _search(properties: _Properties) -> dict[str, Json]:
    query = search_query(properties)
    return {
        **_contents(properties),
        "content_category": category_text(properties.get("category")) or None,
        "search_string": query or None,
    }


def _basket(properties: _Properties) -> dict[str, Json]:
    found = _contents(properties) if products(properties) else {"content_ids": [], "contents": []}
    return {
        **found,
        "content_type": "product",
        "content_category": category_text(properties.get("category")) or None,
        "num_items": len(found["content_ids"]),
    }


_OF_COMMERCE: Final[Mapping[str, tuple[str, _Standard]]] = {
    "product list viewed": ("ViewContent", _viewed_list),
    "product viewed": ("ViewContent", _product),
    "product added": ("AddToCart", _product),
    "product added to wishlist": ("AddToWishlist", _product),
    "payment info entered": ("AddPaymentInfo", _product),
    "products searched": ("Search", _search),
    "order completed": ("Purchase", _basket),
    "checkout started": ("InitiateCheckout", _basket),
}
_BY_STANDARD_NAME: Final[Mapping[str, _Standard]] = {
    "ViewContent": _product,
    "AddToCart": _product,
    "AddToWishlist": _product,
    "AddPaymentInfo": _product,
    "Search": _search,
    "Purchase": _basket,
    "InitiateCheckout": _basket,
}


def _money(properties: _Properties) -> dict[str, Json]:
    field = "revenue" if truthy(properties.get("revenue")) else "value"
    if not truthy(properties.get(field)):
        return {}
    return {
        "value": money(properties[field], f"properties.{field}"),
        "currency": properties.get("currency") or "USD",
    }


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    if not config.dataset_id or not config.access_token.reveal():
        missing = "accessToken" if config.dataset_id else "datasetId"
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
        name, standard = _named(event)
        action_source = checked_place(properties.get("action_source") or config.action_source or "other")
        at_ms = checked_time(message, context, action_source)
        custom = privacy.apply(properties, hashed=is_hashed(message, NAMES))
        if standard is not None:
            need_properties(properties)
            custom |= _typed(without_none(standard(properties)), properties)
            custom["currency"] = properties.get("currency") or "USD"
        custom |= _money(properties)
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
        return (events_call(config.dataset_id, token, sent, test_code),)

    def _named(event: Event) -> tuple[str, _Standard | None]:
        if event.type != "track":
            return "PageView", None
        given = event_name_of(event.message.get("event"))
        key = given.strip().lower()
        if (renamed := renames.get(key)) is not None:
            return renamed, _BY_STANDARD_NAME.get(renamed)
        if (known := _OF_COMMERCE.get(key)) is not None:
            return known
        return given, _BY_STANDARD_NAME.get(given)

    def _typed(fields: dict[str, Json], properties: _Properties) -> dict[str, Json]:
        category = properties.get("category")
        mapped = types_of_categories.get(category) if isinstance(category, str) else None
        fields["content_type"] = properties.get("content_type") or mapped or fields["content_type"]
        return fields

    return settled(to_calls)


SPEC = DestinationSpec(
    name="FACEBOOK_CONVERSIONS",
    title="Facebook Conversions",
    kind="http",
    config=Config,
    message_types=frozenset({"track", "page", "screen"}),
    doc_url="https://developers.facebook.com/docs/marketing-api/conversions-api",
    mapper=make_mapper,
    classify=classify_event,
    proof="body",
    tables=(MappingTable(title="Who (`user_data`)", rows=PERSON.rows),),
    limits=LIMITS,
)
