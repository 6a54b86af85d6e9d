"""Pinterest Tag: website, app and offline events by Pinterest's conversions API.

Follows https://developers.pinterest.com/docs/api/v5/events-create/ (API v5, read 2026-11); destinations that are still
set to it send the same events to the API before (`ct.pinterest.com/events/v3`). Auth: a conversion token. Limits:
1,000 events a request, 5,000 requests a second for an ad account.

A track becomes the Pinterest event of its name: those of the e-commerce spec and what the settings map to them (one or
several); any other is sent under its own name, or as `custom` if the settings say so. A page with a name and a category
becomes `view_category`, any other `page_visit`. Who it was is hashed (SHA-256) unless the settings say that it is.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from mainstem.destinations.base import (
    Batch,
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
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.spec_fields import (
    ADVERTISING_ID,
    BIRTHDAY,
    CITY,
    COUNTRY,
    EMAIL,
    FIRST_NAME,
    GENDER,
    IP,
    LAST_NAME,
    PAGE_URL,
    PHONE,
    STATE,
    USER_OR_ANONYMOUS_ID,
    ZIP,
)
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.times import moment_of, seconds_of
from mainstem.destinations.kit.values import (
    first,
    get,
    json_text,
    mapping,
    number,
    number_text,
    sequence,
    sha256,
    text,
    trimmed_lower,
    truthy,
    without_none,
)
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_LEGACY: Final = "https://ct.pinterest.com/events/v3"
_ACCOUNTS: Final = "https://api.pinterest.com/v5/ad_accounts/"
_MOST_EVENTS: Final = 1_000


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    api_version: str = "legacyApi"
    """`newApi` is version 5; `legacyApi` the API before it."""
    ad_account_id: str = ""
    """The ad account's id, for version 5."""
    conversion_token: Secret = Secret("")
    """The conversion token, for version 5."""
    advertiser_id: str = ""
    """The advertiser's id, for the API before version 5."""
    tag_id: str = ""
    """The tag's id, for the browser; not read here."""
    app_id: str = ""
    """The app's id in its store."""
    sending_un_hashed_data: bool = True
    """Whether events hold who it was as it is; switch it off if they hold hashes."""
    send_external_id: bool = False
    """Send the user's id (`external_id`), hashed."""
    send_as_custom_event: bool = False
    """Send events that Pinterest does not know as `custom`, not under their own name."""
    send_as_test_event: bool = False
    """Have Pinterest check events without taking them."""
    enable_deduplication: bool = False
    """Take the event's id for Pinterest from `deduplicationKey`."""
    deduplication_key: str = ""
    """The path of that id in the event (`properties.order_id`); without, the messageId."""
    events_mapping: list[dict[str, Any]] = []
    """Which events become which of Pinterest's: `[{from, to}]`; one may become several."""
    enhanced_match: bool = False
    """Of the browser's tag; not read here."""
    custom_properties: list[Any] = []
    """Of the browser's tag; not read here."""


# ---------------------------------------------------------------- events

_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[\s-]+")
_OF_COMMERCE: Final[Mapping[str, str]] = {
    "order completed": "checkout",
    "product added": "add_to_cart",
    "products searched": "search",
    "product list filtered": "search",
}
_SOURCES: Final = frozenset(("app_android", "app_ios", "web", "offline"))


def _snake(name: str) -> str:
    return _HUMP.sub("_", name.strip()).lower()


def _action_source(message: dict[str, Json]) -> str:
    said = first(
        message, "properties.action_source", "properties.actionSource", "context.action_source", "channel"
    )
    source = trimmed_lower(said) if isinstance(said, str) else ""
    if source == "mobile":
        kind = first(message, "context.device.type", "context.os.name")
        source = f"app_{trimmed_lower(kind)}"
    if source not in _SOURCES:
        refuse(
            "`channel` is no place that Pinterest knows; say web, offline, app_ios or app_android in"
            " `properties.action_source`"
        )
    return source


# ---------------------------------------------------------------- people

_NOT_DIGITS: Final = re.compile(r"\D+")
_SPACES: Final = re.compile(r"\s+")


def _digits(value: Json) -> str:
    return _NOT_DIGITS.sub("", text(value))


def _together(value: Json) -> str:
    return _SPACES.sub("", trimmed_lower(value))


def _initial(value: Json) -> str:
    return trimmed_lower(value)[:1]


def _day(value: Json) -> str:
    moment = moment_of(value)
    return f"{moment:%Y%m%d}" if moment is not None else _digits(value)


def _trimmed(value: Json) -> str:
    return text(value).strip()


def _people(*, hashed: bool, external: bool) -> Table:
    """Return `user_data`.

    Args:
        hashed: whether events hold hashes, which are sent as they are.
        external: whether the user's id is sent.
    """

    def row(target: str, sources: tuple[str, ...], normal: Callable[[Json], str]) -> Row:
        def listed(value: Json) -> list[str] | None:
            items = value if isinstance(value, list) else [value]
            written = [
                text(item) if hashed else sha256(normal(item))
                for item in items
                if truthy(item) and not isinstance(item, dict | list)
            ]
            return written or None

        return Row(target, *sources, as_=listed, text="a list, SHA-256 unless the settings say that it is")

    rows = [
        row("em", EMAIL, trimmed_lower),
        row("ph", PHONE, _digits),
        row("ge", GENDER, _initial),
        row("db", BIRTHDAY, _day),
        row("ln", LAST_NAME, _together),
        row("fn", FIRST_NAME, _together),
        row("ct", CITY, _together),
        row("st", STATE, _together),
        row("zp", ZIP, _together),
        row("country", COUNTRY, _together),
        row("hashed_maids", ADVERTISING_ID, _trimmed),
    ]
    if external:
        rows.append(row("external_id", USER_OR_ANONYMOUS_ID, _trimmed))
    return Table(
        *rows,
        Row("client_ip_address", *IP, as_=_scalar),
        Row("client_user_agent", "context.userAgent", as_=_scalar),
        Row("click_id", "properties.clickId", "properties.click_id", "context.clickId", as_=_scalar_text),
        Row(
            "partner_id",
            "traits.partnerId",
            "context.traits.partnerId",
            "properties.partnerId",
            as_=_scalar_text,
        ),
    )


def _scalar(value: Json) -> Json:
    return None if isinstance(value, dict | list) else value


def _scalar_text(value: Json) -> str | None:
    return None if isinstance(value, dict | list) else text(value)


# ---------------------------------------------------------------- the event

COMMON: Final = Table(
    Row("event_source_url", *PAGE_URL, as_=_scalar),
    Row("partner_name", "properties.partnerName", "properties.partner_name"),
    Row("app_name", "context.app.name"),
    Row("app_version", "context.app.version"),
    Row("device_brand", "context.device.manufacturer"),
    Row("device_carrier", "context.network.carrier"),
    Row("device_model", "context.device.model"),
    Row("device_type", "context.device.type"),
    Row("os_version", "context.os.version"),
    Row("wifi", "context.network.wifi"),
    Row("language", "context.locale"),
)


def _amount(value: Json) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number_text(value)
    return json_text(value)


CUSTOM: Final = Table(
    Row("currency", "properties.currency"),
    Row("value", "properties.value", "properties.total", "properties.revenue", as_=_amount),
    Row("order_id", "properties.order_id", "properties.orderId", as_=_scalar_text),
    Row("opt_out_type", "properties.optOutType", "properties.opt_out_type"),
    Row("search_string", "properties.query", "properties.search_string", as_=_scalar_text),
    Row("content_name", "properties.contentName", "properties.content_name"),
    Row("content_category", "properties.contentCategory", "properties.content_category"),
    Row("content_brand", "properties.contentBrand", "properties.content_brand"),
)


def _custom_data(message: dict[str, Json]) -> dict[str, Json]:
    properties = mapping(message.get("properties"))
    custom = CUSTOM.build(message)
    products = [mapping(item) for item in sequence(properties.get("products"))]
    contents = [_content(product, properties) for product in products or [properties]]
    custom["contents"] = contents
    ids = [entry["id"] for entry in contents if "id" in entry]
    if ids:
        custom["content_ids"] = ids
    said = first(properties, "numOfItems", "num_items")
    if said is not None:
        custom["num_items"] = number(said)
    elif products:
        custom["num_items"] = sum(number(entry["quantity"]) or 0 for entry in contents)
    else:
        custom["num_items"] = number(properties.get("quantity")) or 0
    if custom["num_items"] is None:
        del custom["num_items"]
    return custom


def _content(product: Mapping[str, Json], properties: Mapping[str, Json]) -> dict[str, Json]:
    item = product.get("product_id") or product.get("sku") or product.get("id")
    price = product.get("price")
    return without_none(
        {
            "id": text(item) if truthy(item) else None,
            "item_category": product.get("category"),
            "item_name": product.get("name"),
            "item_brand": product.get("brand"),
            "quantity": product.get("quantity") or properties.get("quantity") or 1,
            "item_price": _amount(price) if price is not None else None,
        }
    )


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    token = config.conversion_token.reveal()
    new = config.api_version == "newApi"
    lacking = _lacking(config)
    url = f"{_ACCOUNTS}{config.ad_account_id}/events" if new else _LEGACY
    headers = {"Content-Type": "application/json"}
    if new:
        headers["Authorization"] = f"Bearer {token}"
    params = {"test": True} if config.send_as_test_event else {}
    people = _people(hashed=not config.sending_un_hashed_data, external=config.send_external_id)
    id_path = config.deduplication_key if config.enable_deduplication else ""
    renames: dict[str, list[str]] = {}
    for row in config.events_mapping:
        if isinstance(row.get("from"), str) and isinstance(row.get("to"), str) and row["from"] and row["to"]:
            renames.setdefault(row["from"].strip().lower(), []).append(_snake(row["to"]))

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        if lacking:
            refuse(f"the setting `{lacking}` is missing; Pinterest's API needs it")
        names = _names(event)
        body: dict[str, Json] = {
            "event_time": _seconds(message, context),
            "action_source": _action_source(message),
            "event_id": first(message, id_path or "messageId", "messageId"),
        }
        COMMON.build(message, body)
        if config.app_id:
            body["app_id"] = config.app_id
        if not new:
            body["advertiser_id"] = config.advertiser_id
        if get(message, "context.device.adTrackingEnabled") is False:
            body["opt_out"] = True
        person = people.build(message)
        if not ("em" in person or "hashed_maids" in person or person.keys() >= _PAIR):
            refuse(
                "there is nothing that tells who it was: `traits.email`, `context.device.advertisingId`, or both"
                " `context.ip` and `context.userAgent`; Pinterest needs one of them"
            )
        body["user_data"] = person
        if event.type == "track" and mapping(message.get("properties")):
            body["custom_data"] = _custom_data(message)
        body = without_none(body)
        return tuple(
            json_call(url, {"event_name": name, **body}, headers=headers, params=params) for name in names
        )

    def _names(event: Event) -> list[str]:
        message = event.message
        if event.type == "page":
            category = first(message, "category", "properties.category")
            return ["view_category" if event.name and category is not None else "page_visit"]
        given = message.get("event")
        if not isinstance(given, str) or not given.strip():
            refuse("`event` is missing or no text; Pinterest needs an event's name")
        key = given.strip().lower()
        if key in renames:
            return renames[key]
        if key in _OF_COMMERCE:
            return [_OF_COMMERCE[key]]
        return ["custom" if config.send_as_custom_event else given.strip()]

    return settled(to_calls)


_PAIR: Final = frozenset(("client_ip_address", "client_user_agent"))


def _seconds(message: dict[str, Json], context: MapContext) -> int:
    at = seconds_of(first(message, "timestamp", "originalTimestamp"))
    return context.now_ms // 1000 if at is None else at


def _lacking(config: Config) -> str:
    if config.api_version != "newApi":
        return "" if config.advertiser_id else "advertiserId"
    if not config.ad_account_id:
        return "adAccountId"
    return "" if config.conversion_token.reveal() else "conversionToken"


# ---------------------------------------------------------------- batches and answers


def make_batcher(config: Config) -> Batcher:
    """Return the batching: events of an account go together."""

    def batch(units: Sequence[Unit]) -> list[Batch]:
        batches: list[Batch] = []
        open_: dict[tuple[str, str, bool], tuple[list[int], list[Json], Call]] = {}

        def close(key: tuple[str, str, bool]) -> None:
            indexes, events, call = open_.pop(key)
            whole = json_call(call.url, {"data": events}, headers=call.headers, params=call.params)
            batches.append(Batch((whole,), tuple(indexes)))

        for unit in units:
            call = unit.calls[0]
            key = (call.url, text(call.headers.get("Authorization")), "test" in call.params)
            if key in open_ and len(open_[key][1]) + len(unit.calls) > _MOST_EVENTS:
                close(key)
            indexes, events, _ = open_.setdefault(key, ([], [], call))
            indexes.append(unit.index)
            events += [part.body.value for part in unit.calls if part.body is not None]
        for key in list(open_):
            close(key)
        return sorted(batches, key=lambda made: made.units[0])

    return batch


def classify(request: Request, response: Response) -> Delivery | None:
    """Pinterest says how many of the events it processed."""
    body = mapping(answer_of(response).body)
    received, processed = body.get("num_events_received"), body.get("num_events_processed")
    if response.status == 200 and isinstance(received, int) and received > 0 and received == processed:
        return Delivered("200", acceptance="accepted")
    return None


def classify_each(
    call: Call, request: Request, response: Response, units: Sequence[Unit]
) -> Sequence[Delivery] | None:
    """Pinterest says of each event whether it was processed: with 200, and with 422 where some were not."""
    events = [mapping(item) for item in sequence(mapping(answer_of(response).body).get("events"))]
    if response.status not in (200, 422) or len(events) != sum(len(unit.calls) for unit in units):
        return None
    results: list[Delivery] = []
    place = 0
    for unit in units:
        own = events[place : place + len(unit.calls)]
        place += len(unit.calls)
        wrong = next((item for item in own if item.get("status") != "processed"), None)
        warning = next((text(item["warning_message"]) for item in own if item.get("warning_message")), "")
        if wrong is not None:
            reason = text(wrong.get("error_message") or wrong.get("status"))
            results.append(Rejected("Pinterest did not take this event", reason[:512]))
        elif warning:
            results.append(Delivered("200", acceptance="accepted with warning", warning=warning[:512]))
        else:
            results.append(Delivered("200", acceptance="accepted"))
    return results


def validation(config: Config, call: Call) -> Call | None:
    """Return the request that has Pinterest check events without taking them."""
    return msgspec.structs.replace(call, params={**call.params, "test": True})


SPEC = DestinationSpec(
    name="PINTEREST_TAG",
    title="Pinterest Tag",
    kind="http",
    config=Config,
    message_types=frozenset({"track", "page"}),
    doc_url="https://developers.pinterest.com/docs/api/v5/events-create/",
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
            doc_url="https://developers.pinterest.com/docs/api/v5/events-create/",
            schema={
                "type": "object",
                "properties": {
                    "data": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": _MOST_EVENTS,
                        "items": {
                            "type": "object",
                            "required": [
                                "event_name",
                                "action_source",
                                "event_time",
                                "event_id",
                                "user_data",
                            ],
                            "properties": {
                                "event_name": {"type": "string", "minLength": 1},
                                "action_source": {"enum": sorted(_SOURCES)},
                                "event_time": {"type": "integer"},
                                "event_id": {"type": "string"},
                                "user_data": {"type": "object", "minProperties": 1},
                                "custom_data": {"type": "object"},
                            },
                        },
                    }
                },
            },
        ),
    ),
    tables=(
        MappingTable(title="Who (`user_data`)", rows=_people(hashed=False, external=True).rows),
        MappingTable(title="What (`custom_data`)", rows=CUSTOM.rows),
        MappingTable(title="Where", rows=COMMON.rows),
    ),
    limits="1,000 events a request, 5,000 requests a second for an ad account",
)
