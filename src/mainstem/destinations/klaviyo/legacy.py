"""Klaviyo's revision 2023-02-22: a profile is made or found first, then changed; events carry the profile's own words.

https://developers.klaviyo.com/en/v2023-02-22/reference/api_overview (read 2026-11).
"""

from typing import Any, Final

from mainstem.destinations.base import Call, Dialogue, Looking, Payloads
from mainstem.destinations.kit.dialogue import ok, or_postpone
from mainstem.destinations.kit.refuse import postpone, refuse
from mainstem.destinations.kit.spec_fields import EMAIL, FIRST_NAME, LAST_NAME, PHONE, trait
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.times import iso_of
from mainstem.destinations.kit.values import (
    first,
    get,
    mapping,
    number,
    omit,
    present,
    sequence,
    text,
    traits_of,
)
from mainstem.destinations.klaviyo.settings import (
    SUBSCRIBE,
    Config,
    channels_of,
    flat_where_asked,
    request,
)
from mainstem.events.canonical import Event

Json = Any

_NAMED: Final = frozenset(
    [
        "email",
        "phone",
        "firstName",
        "firstname",
        "first_name",
        "lastName",
        "lastname",
        "last_name",
        "title",
        "organization",
        "city",
        "region",
        "country",
        "zip",
        "properties",
        "id",
        "userId",
        "anonymousId",
    ]
)
ATTRIBUTES: Final = Table(
    Row("external_id", "userId", "traits.userId", "context.traits.userId", "anonymousId", as_=text),
    Row("email", *EMAIL),
    Row("first_name", *FIRST_NAME),
    Row("last_name", *LAST_NAME),
    Row("phone_number", *PHONE),
    Row("title", *trait("title", properties=False)),
    Row("organization", *trait("organization", properties=False)),
    Row("location.city", *trait("city", "address.city", properties=False)),
    Row("location.region", *trait("region", "address.region", "address.state", properties=False)),
    Row("location.country", *trait("country", "address.country", properties=False)),
    Row("location.zip", *trait("zip", "address.zip", "address.postalCode", properties=False)),
    Row("location.address1", *trait("street", "address.street", properties=False)),
)
PROFILE: Final = Table(
    Row(("$email",), *EMAIL),
    Row(("$phone_number",), *PHONE),
    Row(("$id",), "userId", "traits.userId", "context.traits.userId", "anonymousId", as_=text),
    Row(("$first_name",), *FIRST_NAME),
    Row(("$last_name",), *LAST_NAME),
    Row(("$title",), *trait("title", properties=False)),
    Row(("$organization",), *trait("organization", properties=False)),
    Row(("$city",), *trait("city", "address.city", properties=False)),
    Row(("$region",), *trait("region", "address.region", properties=False)),
    Row(("$country",), *trait("country", "address.country", properties=False)),
    Row(("$zip",), *trait("zip", "address.zip", properties=False)),
)
_VIEWED: Final = Table(
    Row("ProductName", "name"),
    Row("ProductID", "product_id"),
    Row("SKU", "sku"),
    Row("ImageURL", "image_url"),
    Row("URL", "url"),
    Row("Brand", "brand"),
    Row("Price", "price"),
    Row("CompareAtPrice", "compare_at_price"),
    Row("Categories", "categories"),
)
_ADDED: Final = Table(
    Row(("$value",), "value"),
    Row("AddedItemProductName", "name"),
    Row("AddedItemProductID", "product_id"),
    Row("AddedItemSKU", "sku"),
    Row("AddedItemImageURL", "image_url"),
    Row("AddedItemURL", "url"),
    Row("AddedItemPrice", "price"),
    Row("AddedItemQuantity", "quantity"),
    Row("AddedItemCategories", "categories"),
    Row("ItemNames", "item_names"),
    Row("CheckoutURL", "checkout_url"),
)
_CHECKOUT: Final = Table(
    Row(("$event_id",), "order_id"),
    Row(("$value",), "value"),
    Row("Categories", "categories"),
    Row("ItemNames", "item_names"),
    Row("CheckoutURL", "checkout_url"),
)
_ITEM: Final = Table(
    Row("ProductID", "product_id"),
    Row("SKU", "sku"),
    Row("ProductName", "name"),
    Row("Quantity", "quantity"),
    Row("ItemPrice", "price"),
    Row("RowTotal", "total", "row_total"),
    Row("ProductURL", "url"),
    Row("ImageURL", "image_url"),
    Row("ProductCategories", "categories"),
)
_COMMERCE: Final = {
    "product viewed": ("Viewed Product", _VIEWED),
    "product clicked": ("Viewed Product", _VIEWED),
    "product added": ("Added to Cart", _ADDED),
    "checkout started": ("Started Checkout", _CHECKOUT),
}


def payloads(event: Event, config: Config) -> Payloads:
    """Return what an event becomes in this revision."""
    message = event.message
    if event.type == "group":
        return (_group(message, config),)
    if event.type == "identify":
        attributes = _attributes(message, config)
        return (Dialogue(lambda: _profile(message, attributes, config)),)
    return (request(config, "/api/events", {"data": _event(event, config)}),)


# ---------------------------------------------------------------- profiles


def _by_email(found: dict[str, Json], custom: dict[str, Json], key: str, config: Config) -> None:
    """Make the user id a custom property, where people are known by e-mail and phone only."""
    if config.enforce_email_as_primary and key in found:
        custom["_id"] = found.pop(key)


def _custom(message: dict[str, Json], config: Config) -> dict[str, Json]:
    return flat_where_asked(config, omit(traits_of(message), _NAMED))


def _attributes(message: dict[str, Json], config: Config) -> dict[str, Json]:
    attributes = ATTRIBUTES.build(message)
    custom = _custom(message, config)
    _by_email(attributes, custom, "external_id", config)
    if not any(name in attributes for name in ("external_id", "email", "phone_number")):
        refuse("`userId`, `traits.email` and `traits.phone` are missing; Klaviyo knows people by one of them")
    return {**attributes, "properties": custom}


def _profile(message: dict[str, Json], attributes: dict[str, Json], config: Config) -> Looking:
    """Make the profile, or learn the id of the one that is there already; then change it."""
    made = yield request(config, "/api/profiles", {"data": {"type": "profile", "attributes": attributes}})
    or_postpone(made, "making the profile")
    body = mapping(made.body)
    found = get(body, "data.id")
    if made.status == 409:
        found = get(sequence(body.get("errors")), "0.meta.duplicate_profile_id")
    elif not ok(made):
        refuse(
            f"making the profile: http {made.status}: {text(get(body, 'errors.0.detail', ''))}", made.status
        )
    if not present(found):
        postpone("making the profile: the answer names none")
    data = {"type": "profile", "id": found, "attributes": attributes}
    path = f"/api/profiles/{text(found)}"
    calls = [request(config, path, {"data": data}, method="PATCH", label="/api/profiles")]
    more = mapping(traits_of(message).get("properties"))
    list_id = more.get("listId") or config.list_id
    if more.get("subscribe") is True and list_id:
        channels = channels_of(more.get("consent")) or config.channels
        calls.append(_subscription(text(list_id), message, channels, config))
    return tuple(calls)


def _group(message: dict[str, Json], config: Config) -> Call:
    group_id = message.get("groupId")
    if not present(group_id):
        refuse("`groupId` is missing; it is the id of the list")
    traits = mapping(message.get("traits"))
    if traits.get("subscribe") is not True:
        refuse("`traits.subscribe` is not true; a group subscribes a person to a list")
    channels = channels_of(traits.get("consent")) or config.channels
    return _subscription(text(group_id), message, channels, config)


def _subscription(list_id: str, message: dict[str, Json], channels: tuple[str, ...], config: Config) -> Call:
    who: dict[str, Json] = {}
    for name, sources in (("email", EMAIL), ("phone_number", PHONE)):
        if present(value := first(message, *sources)):
            who[name] = value
    if not who:
        refuse("`traits.email` and `traits.phone` are missing; a subscription needs one of them")
    named = {channel: ["MARKETING"] for channel in channels if channel in ("email", "sms")}
    if named:
        who["channels"] = named
    attributes = {"list_id": list_id, "subscriptions": [who]}
    data = {"type": "profile-subscription-bulk-create-job", "attributes": attributes}
    return request(config, SUBSCRIBE, {"data": data})


# ---------------------------------------------------------------- events


def _event(event: Event, config: Config) -> Json:
    message = event.message
    properties = mapping(message.get("properties"))
    profile = PROFILE.build(message)
    custom = _custom(message, config)
    _by_email(profile, custom, "$id", config)
    if not profile:
        refuse("`userId`, `traits.email` and `traits.phone` are missing; Klaviyo knows people by one of them")
    name = first(message, "event", "name")
    if not isinstance(name, str):
        refuse("`event` is missing or no text; it names the metric")
    attributes: dict[str, Json] = {"metric": {"name": name}, "profile": {**profile, **custom}}
    known = _COMMERCE.get(name.strip().lower()) if event.type == "track" else None
    if known is not None:
        attributes["metric"] = {"name": known[0]}
        shown = known[1].build(properties)
        items = sequence(properties.get("items")) or sequence(properties.get("products"))
        if items and known[1] is not _VIEWED:
            shown["items"] = [_ITEM.build(item) for item in items if isinstance(item, dict)]
        attributes["properties"] = shown
    else:
        attributes["properties"] = flat_where_asked(config, properties)
        value = number(properties.get("revenue")) if present(properties.get("revenue")) else None
        if value is not None:
            attributes["value"] = value
    if (at := iso_of(message.get("timestamp"))) is not None:
        attributes["time"] = at
    return {"type": "event", "attributes": attributes}
