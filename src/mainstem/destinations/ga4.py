"""Google Analytics 4: events through the Measurement Protocol, for web streams (gtag) and app streams (Firebase).

Follows https://developers.google.com/analytics/devguides/collection/protocol/ga4/reference (read 2026-11); the
names of e-commerce events and their parameters are those of .../ga4/reference/events. Auth: an API secret of the data
stream. Limits: 25 events a request, 25 parameters an event, 25 user properties, 130 kB; event names of 40 characters,
user property names of 24 and values of 36; events of the last 72 hours.

A track becomes the GA4 event that its e-commerce name of the Segment spec stands for, or else an event of its own
name; a page becomes `page_view`, a group `join_group`. Nested properties are flattened with `_`, `products` become
`items`. Google answers 2xx to everything it receives: only its validation endpoint tells whether an event is right.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from mainstem.destinations.base import (
    Body,
    Call,
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
)
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.times import happened_ms
from mainstem.destinations.kit.values import external_id, mapping, number, present, text
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any
Object = dict[str, Json]

_URL: Final = "https://www.google-analytics.com/mp/collect"
_VALIDATION_URL: Final = "https://www.google-analytics.com/debug/mp/collect"
_DOC: Final = "https://developers.google.com/analytics/devguides/collection/protocol/ga4/reference"
_HEADERS: Final = {"HOST": "www.google-analytics.com", "Content-Type": "application/json"}
_OPTIONS: Final = ("Google Analytics 4", "GA4", "Google Analytics 4 (GA4)")
"""Names under which an event's `integrations` may say something for this destination."""

_OLDEST_MS: Final = 72 * 3600 * 1000
_NEWEST_MS: Final = 15 * 60 * 1000
"""Events may be backdated by 72 hours (reference, `timestamp_micros`); clocks may be ahead by a quarter of an hour."""

# https://developers.google.com/analytics/devguides/collection/protocol/ga4/reference#reserved_names
_RESERVED_EVENTS: Final = frozenset(
    [
        "ad_activeview",
        "ad_click",
        "ad_exposure",
        "ad_impression",
        "ad_query",
        "ad_reward",
        "adunit_exposure",
        "app_background",
        "app_clear_data",
        "app_exception",
        "app_install",
        "app_remove",
        "app_store_refund",
        "app_store_subscription_cancel",
        "app_store_subscription_convert",
        "app_store_subscription_renew",
        "app_update",
        "app_upgrade",
        "dynamic_link_app_open",
        "dynamic_link_app_update",
        "dynamic_link_first_open",
        "error",
        "firebase_campaign",
        "firebase_in_app_message_action",
        "firebase_in_app_message_dismiss",
        "firebase_in_app_message_impression",
        "first_open",
        "first_visit",
        "in_app_purchase",
        "notification_dismiss",
        "notification_foreground",
        "notification_open",
        "notification_receive",
        "notification_send",
        "os_update",
        "screen_view",
        "session_start",
        "session_start_with_rollout",
        "user_engagement",
    ]
)
_RESERVED_PREFIXES: Final = ("_", "firebase_", "ga_", "google_", "gtag.")
_RESERVED_USER_PROPERTIES: Final = frozenset(
    ["first_open_after_install", "first_open_time", "first_visit_time", "last_deep_link_referrer", "user_id"]
)
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_SPACE: Final = re.compile(r"\s+")
_LONGEST_NAME: Final = 40
_LONGEST_USER_PROPERTY: Final = 24
_LONGEST_USER_VALUE: Final = 36
_MOST_USER_PROPERTIES: Final = 25


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    api_secret: Secret
    """A Measurement Protocol API secret of the data stream."""
    types_of_client: Literal["gtag", "firebase"] = "gtag"
    """The kind of data stream: `gtag` for websites, `firebase` for apps."""
    measurement_id: str = ""
    """The measurement id of the web stream, like `G-1A2B3C4D5E`; for `gtag`."""
    firebase_app_id: str = ""
    """The app id, as Firebase's project settings show it; for `firebase`."""
    pii_properties_to_ignore: list[dict[str, Json]] = []
    """Traits that are not sent as user properties: a list of `{"piiProperty": "email"}`."""
    debug_mode: bool = False
    """Show the events in GA4's DebugView instead of counting them as a visitor's."""

    def __post_init__(self) -> None:
        if self.types_of_client == "gtag" and not self.measurement_id:
            raise ValueError("`measurementId` is missing; give the id of the web stream (G-…)")
        if self.types_of_client == "firebase" and not self.firebase_app_id:
            raise ValueError("`firebaseAppId` is missing; give the app id from Firebase's project settings")


# ---------------------------------------------------------------- the tables: from the Segment spec to GA4

_CURRENCY: Final = Row("currency", "currency")
_VALUE: Final = Row("value", "value", "total", as_=number)
_TRANSACTION: Final = (
    _CURRENCY,
    Row("transaction_id", "transaction_id", "order_id"),
    Row("affiliation", "affiliation"),
    Row("coupon", "coupon"),
    Row("shipping", "shipping", as_=number),
    Row("tax", "tax", as_=number),
)
_LIST: Final = (
    Row("item_list_id", "list_id", "item_list_id"),
    Row("item_list_name", "category", "item_list_name"),
)
_PROMOTION: Final = tuple(
    Row(name, name)
    for name in ("creative_name", "creative_slot", "location_id", "promotion_id", "promotion_name")
)

_ITEM: Final = Table(
    Row("item_id", "product_id", "item_id"),
    Row("item_name", "name", "item_name"),
    Row("affiliation", "affiliation"),
    Row("coupon", "coupon"),
    Row("currency", "currency"),
    Row("discount", "discount", as_=number),
    Row("index", "position", "index", as_=number),
    Row("item_brand", "brand", "item_brand"),
    Row("item_category", "category", "item_category"),
    *(Row(name, name) for name in ("item_category2", "item_category3", "item_category4", "item_category5")),
    Row("item_list_id", "item_list_id"),
    Row("item_list_name", "item_list_name"),
    Row("item_variant", "variant", "item_variant"),
    Row("location_id", "location_id"),
    Row("price", "price", as_=number),
    Row("quantity", "quantity", as_=number),
    *(Row(name, name) for name in ("promotion_id", "promotion_name", "creative_name", "creative_slot")),
)


def _sources(table: Table) -> frozenset[str]:
    return frozenset(source for _, sources, _ in table.rows for source in sources)


_ITEM_KEYS: Final = _sources(_ITEM)
_NEVER_CUSTOM: Final = frozenset(
    ("products", "items", "user_properties", "sessionId", "sessionNumber", "engagementTimeMsec")
)

Product = Literal["none", "optional", "required"]


class _Kind(msgspec.Struct, frozen=True, eq=False):
    """How one event of the Segment spec becomes one of GA4's."""

    name: str
    table: Table
    keys: frozenset[str]
    """Properties that the table has taken."""
    all_keys: frozenset[str]
    """The same where the properties are those of the one product, too."""
    product: Product
    """Whether the properties may be, or have to be, those of a product when there are no `products`."""
    price_is_value: bool
    """Whether price times quantity is the value when none is given."""
    defaults_currency: bool


def _kind(name: str, *rows: Row, product: Product = "none", price_is_value: bool = False) -> _Kind:
    table = Table(*rows)
    keys = _sources(table) | _NEVER_CUSTOM
    defaults_currency = _CURRENCY in rows
    return _Kind(name, table, keys, keys | _ITEM_KEYS, product, price_is_value, defaults_currency)


def _of_product(name: str) -> _Kind:
    return _kind(name, _CURRENCY, _VALUE, product="required", price_is_value=True)


_KINDS: Final[dict[str, _Kind]] = {
    "products_searched": _kind("search", Row("search_term", "query", "search_term")),
    "product_list_viewed": _kind("view_item_list", *_LIST, product="optional"),
    "promotion_viewed": _kind("view_promotion", *_PROMOTION),
    "promotion_clicked": _kind("select_promotion", *_PROMOTION),
    "product_clicked": _kind("select_item", *_LIST, product="required"),
    "product_viewed": _of_product("view_item"),
    "product_added": _of_product("add_to_cart"),
    "product_removed": _of_product("remove_from_cart"),
    "product_added_to_wishlist": _of_product("add_to_wishlist"),
    "cart_viewed": _kind("view_cart", _CURRENCY, _VALUE, product="optional"),
    "checkout_started": _kind(
        "begin_checkout", _CURRENCY, _VALUE, Row("coupon", "coupon"), product="optional"
    ),
    "payment_info_entered": _kind(
        "add_payment_info",
        _CURRENCY,
        _VALUE,
        Row("coupon", "coupon"),
        Row("payment_type", "payment_method", "payment_type"),
        product="optional",
    ),
    "checkout_step_completed": _kind(
        "add_shipping_info",
        _CURRENCY,
        _VALUE,
        Row("coupon", "coupon"),
        Row("shipping_tier", "shipping_method", "shipping_tier"),
        product="optional",
    ),
    "order_completed": _kind(
        "purchase",
        Row("value", "total", "value", "revenue", as_=number),
        *_TRANSACTION,
        product="optional",
    ),
    "order_refunded": _kind("refund", Row("value", "total", "value", as_=number), *_TRANSACTION),
    "product_shared": _kind(
        "share", Row("method", "share_via", "method"), Row("item_id", "item_id", "product_id")
    ),
    "cart_shared": _kind("share", Row("method", "share_via", "method"), Row("item_id", "item_id", "cart_id")),
    "generate_lead": _kind("generate_lead", _CURRENCY, Row("value", "value", as_=number)),
}
_PAGE_KEYS: Final = frozenset(("url", "title", "referrer")) | _NEVER_CUSTOM


# ---------------------------------------------------------------- the mapping


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    secret = config.api_secret.reveal()
    is_web = config.types_of_client == "gtag"
    params: dict[str, Json] = {"api_secret": secret}
    if is_web:
        params["measurement_id"] = config.measurement_id
    else:
        params["firebase_app_id"] = config.firebase_app_id
    ignored = frozenset(row["piiProperty"] for row in config.pii_properties_to_ignore if _names_one(row))
    debug = config.debug_mode

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        options = _options(message)
        body: Object = {}
        if is_web:
            body["client_id"] = _client_id(message, options)
        else:
            body["app_instance_id"] = text(
                external_id(message, "ga4AppInstanceId")
                or refuse("`context.externalId` has no `ga4AppInstanceId`; a Firebase stream needs it")
            )
        _stamp(body, message, context.now_ms)
        if event.user_id:
            body["user_id"] = event.user_id
        inner = mapping(message.get("context"))
        tracking = mapping(inner.get("device")).get("adTrackingEnabled")
        if tracking is not None:
            body["non_personalized_ads"] = tracking in (False, "false", "")
        given = mapping(message.get("traits" if event.type == "group" else "properties"))
        properties = _user_properties(inner, given, ignored)
        if properties:
            body["user_properties"] = properties
        consent = _consent(options)
        if consent:
            body["consent"] = consent
        name, parameters = _event_of(event, given)
        _page(parameters, inner, given if event.type == "page" else {})
        _session(parameters, inner, given, options)
        if debug:
            parameters["debug_mode"] = True
        body["events"] = [{"name": name, "params": parameters}]
        return (json_call(_URL, body, headers=_HEADERS, params=params, label="mp/collect"),)

    return settled(to_calls)


def _names_one(row: Mapping[str, Json]) -> bool:
    return isinstance(row.get("piiProperty"), str) and bool(row["piiProperty"])


def _options(message: Object) -> Object:
    integrations = message.get("integrations")
    if type(integrations) is dict:
        for name in _OPTIONS:
            if type(options := integrations.get(name)) is dict:
                return options
    return {}


def _client_id(message: Object, options: Object) -> str:
    value = (
        options.get("clientId")
        or external_id(message, "ga4ClientId")
        or message.get("anonymousId")
        or message.get("rudderId")
        or refuse("`anonymousId` is missing; GA4 needs it, or a `ga4ClientId` in `context.externalId`")
    )
    return text(value)


def _stamp(body: Object, message: Object, now_ms: int) -> None:
    at_ms = happened_ms(message)
    if at_ms is None:
        return
    if now_ms - at_ms > _OLDEST_MS:
        refuse("`timestamp` is more than 72 hours ago; GA4 takes no older events")
    if at_ms - now_ms > _NEWEST_MS:
        refuse("`timestamp` is more than 15 minutes ahead; set the clock that gave it")
    body["timestamp_micros"] = at_ms * 1000


def _user_properties(context: Object, given: Object, ignored: frozenset[str]) -> Object:
    """GA4 knows no nested values, and passes over whatever is beyond its limits."""
    found: Object = {}
    for source in (context.get("traits"), given.get("user_properties")):
        if type(source) is not dict:
            continue
        for key, value in source.items():
            if (
                (type(value) is str and 0 < len(value) <= _LONGEST_USER_VALUE)
                or type(value) is bool
                or isinstance(value, int | float)
            ) and (
                key not in ignored
                and key not in _RESERVED_USER_PROPERTIES
                and not key.startswith(_RESERVED_PREFIXES)
                and 0 < len(key) <= _LONGEST_USER_PROPERTY
                and (key in found or len(found) < _MOST_USER_PROPERTIES)
            ):
                found[key] = {"value": value}
    return found


def _consent(options: Object) -> Object:
    consents = mapping(options.get("consents"))
    return {
        key: consents[key]
        for key in ("ad_user_data", "ad_personalization")
        if consents.get(key) in ("GRANTED", "DENIED")
    }


def _event_of(event: Event, given: Object) -> tuple[str, Object]:
    """Return an event's name at GA4 and its parameters."""
    if event.type == "page":
        return "page_view", _custom({}, given, _PAGE_KEYS)
    if event.type == "group":
        group_id = event.message.get("groupId")
        return "join_group", _custom({"group_id": group_id} if group_id else {}, given, _NEVER_CUSTOM)
    raw = event.message.get("event")
    if not raw:
        refuse("`event` is missing; GA4 needs a name for the event")
    if not isinstance(raw, str):
        refuse("`event` is not a text; GA4 needs a name for the event")
    name = _SPACE.sub("_", raw.strip())
    kind = _KINDS.get(name.lower())
    if kind is None:
        _check_name(name)
        parameters: Object = {}
        if items := _items(given):
            parameters["items"] = items
        return name, _custom(parameters, given, _NEVER_CUSTOM)
    return kind.name, _commerce(kind, given)


def _check_name(name: str) -> None:
    if name in _RESERVED_EVENTS or name.lower() in _RESERVED_EVENTS:
        refuse(f"`event` is `{name}`, which GA4 keeps for itself; give it another name")
    if name.startswith(_RESERVED_PREFIXES):
        refuse(
            "`event` begins with `_`, `firebase_`, `ga_` or `google_`, which GA4 keeps for itself; rename it"
        )
    if len(name) > _LONGEST_NAME:
        refuse("`event` has more than 40 characters; GA4 takes no longer names")
    if _NAME.fullmatch(name) is None:
        refuse("`event` must begin with a letter and hold letters, digits and underscores only; rename it")


def _commerce(kind: _Kind, given: Object) -> Object:
    parameters = kind.table.build(given)
    keys = kind.keys
    items = _items(given)
    if not items and kind.product != "none":
        if present(given.get("product_id")) or present(given.get("name")):
            items = [_ITEM.build(given)]
            keys = kind.all_keys
        elif kind.product == "required":
            refuse("`properties.product_id` and `properties.name` are missing; GA4 needs one of them")
    if kind.price_is_value and "value" not in parameters:
        price, quantity = number(given.get("price")), number(given.get("quantity", 1))
        if price and quantity and math.isfinite(price * quantity):
            parameters["value"] = number(price * quantity)
    if kind.defaults_currency and "value" in parameters and "currency" not in parameters:
        parameters["currency"] = "USD"
    if items:
        parameters["items"] = items
    return _custom(parameters, given, keys)


def _items(given: Object) -> list[Object]:
    products = given.get("products") or given.get("items")
    if type(products) is not list:
        return []
    items: list[Object] = []
    for product in products:
        if type(product) is dict:
            item = _ITEM.build(product)
            if "item_id" not in item and "item_name" not in item:
                refuse("`properties.products` has one without `product_id` and `name`; GA4 needs one of them")
            items.append(_custom(item, product, _ITEM_KEYS))
    return items


def _custom(into: Object, given: Object, taken: frozenset[str]) -> Object:
    """Put the members that the tables did not take into an object, flattened by `_`; no reserved names, no nulls."""
    for key, value in given.items():
        if key in taken or key in into or value is None or value == "" or key.startswith(_RESERVED_PREFIXES):
            continue
        if type(value) is dict or type(value) is list:
            _flatten(key, value, into)
        else:
            into[key] = value
    return into


def _flatten(path: str, value: Json, into: Object) -> None:
    if type(value) is dict:
        for key, item in value.items():
            _flatten(f"{path}_{key}", item, into)
    elif type(value) is list:
        for index, item in enumerate(value):
            _flatten(f"{path}_{index}", item, into)
    elif value is not None and value != "":
        into[path] = value


def _page(parameters: Object, context: Object, own: Object) -> None:
    page = mapping(context.get("page"))
    for target, key in (("page_location", "url"), ("page_referrer", "referrer"), ("page_title", "title")):
        value = own.get(key) or page.get(key)
        if value and target not in parameters:
            parameters[target] = value


def _session(parameters: Object, context: Object, given: Object, options: Object) -> None:
    session = options.get("sessionId") or given.get("sessionId") or context.get("sessionId")
    if session and "session_id" not in parameters:
        parameters["session_id"] = session
    count = options.get("sessionNumber") or given.get("sessionNumber")
    if count and "session_number" not in parameters:
        parameters["session_number"] = count
    if "engagement_time_msec" not in parameters:
        # Without it a visitor does not count as active: .../ga4/sending-events#recommended_parameters_for_reports
        parameters["engagement_time_msec"] = given.get("engagementTimeMsec") or 1


# ---------------------------------------------------------------- what else is known of it


def validation(config: Config, call: Call) -> Call | None:
    """The same request to Google's validation server, which keeps nothing and lists what is wrong.

    https://developers.google.com/analytics/devguides/collection/protocol/ga4/validating-events
    """
    if call.body is None:
        return None
    body = Body("json", {**call.body.value, "validation_behavior": "ENFORCE_RECOMMENDATIONS"})
    return msgspec.structs.replace(call, url=_VALIDATION_URL, body=body)


def classify(request: Request, response: Response) -> Delivery | None:
    """The validation server answers 200 to what it would not take, and lists what is wrong; the other says nothing."""
    del request
    complaints = mapping(answer_of(response).body).get("validationMessages")
    if response.status != 200 or not isinstance(complaints, list) or not complaints:
        return None
    said = [text(mapping(one).get("description") or mapping(one).get("validationCode")) for one in complaints]
    return Rejected(f"Google's validation: {'; '.join(said)}"[:512], "200")


_NAME_SCHEMA: Final = {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_]*$", "maxLength": _LONGEST_NAME}
_SCALAR: Final = {"type": ["string", "number", "boolean"]}
_CONSENT_SCHEMA: Final = {"enum": ["GRANTED", "DENIED"]}
_SCHEMA: Final = Schema(
    label="mp/collect",
    doc_url=_DOC,
    schema={
        "type": "object",
        "required": ["events"],
        "oneOf": [{"required": ["client_id"]}, {"required": ["app_instance_id"]}],
        "additionalProperties": False,
        "properties": {
            "client_id": {"type": "string"},
            "app_instance_id": {"type": "string"},
            "user_id": {"type": "string"},
            "timestamp_micros": {"type": "integer"},
            "non_personalized_ads": {"type": "boolean"},
            "consent": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"ad_user_data": _CONSENT_SCHEMA, "ad_personalization": _CONSENT_SCHEMA},
            },
            "user_properties": {
                "type": "object",
                "maxProperties": _MOST_USER_PROPERTIES,
                "propertyNames": {"maxLength": _LONGEST_USER_PROPERTY},
                "additionalProperties": {
                    "type": "object",
                    "required": ["value"],
                    "properties": {"value": _SCALAR, "timestamp_micros": {"type": "integer"}},
                },
            },
            "events": {
                "type": "array",
                "minItems": 1,
                "maxItems": 25,
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": _NAME_SCHEMA,
                        "params": {
                            "type": "object",
                            "properties": {
                                "items": {
                                    "type": "array",
                                    "items": {
                                        "type": "object",
                                        "anyOf": [{"required": ["item_id"]}, {"required": ["item_name"]}],
                                        "additionalProperties": _SCALAR,
                                    },
                                }
                            },
                            "additionalProperties": _SCALAR,
                        },
                    },
                },
            },
        },
    },
)

SPEC = DestinationSpec(
    name="GA4",
    title="Google Analytics 4",
    kind="http",
    config=Config,
    message_types=frozenset({"track", "page", "group"}),
    doc_url=_DOC,
    mapper=make_mapper,
    classify=classify,
    proof="validation",
    validation=validation,
    schemas=(_SCHEMA,),
    tables=(
        MappingTable(title="A product", rows=_ITEM.rows),
        *(
            MappingTable(title=f"{name.replace('_', ' ').title()}: `{kind.name}`", rows=kind.table.rows)
            for name, kind in _KINDS.items()
        ),
    ),
    limits="25 parameters an event, 25 user properties, 130 kB a request; events of the last 72 hours",
)
