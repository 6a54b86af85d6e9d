"""Reddit: website, app and store conversions by Reddit's Conversions API.

Follows https://ads-api.reddit.com/docs/v3/operations/Post%20Conversion%20Events (API v3, read 2026-11) and, for
destinations that are still set to it, https://ads-api.reddit.com/docs/v2/ (API v2.0). Auth: OAuth 2.0 with the scope
adsconversions. Limits: 1,000 events a request, events at most 7 days old.

A track becomes the Reddit event of its name: those of the e-commerce spec and what the settings map to them (one or
several); any other is a custom event under its own name. Who it was is hashed (SHA-256) if the settings say so.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

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
    OAuth,
    Payloads,
    Rejected,
    Request,
    Response,
    Retry,
    Schema,
    Unit,
)
from mainstem.destinations.kit.batching import together, with_body
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.refuse import postpone, refuse, settled
from mainstem.destinations.kit.spec_fields import (
    ADVERTISING_ID,
    EMAIL,
    IP,
    PAGE_URL,
    USER_OR_ANONYMOUS_ID,
)
from mainstem.destinations.kit.times import iso, ms_of
from mainstem.destinations.kit.values import (
    first,
    get,
    mapping,
    number,
    parse_float,
    rounded,
    sequence,
    sha256,
    text,
    trimmed_lower,
    truthy,
    without_none,
)
from mainstem.events.canonical import Event

Json = Any

_V2: Final = "https://ads-api.reddit.com/api/v2.0/conversions/events/"
_V3: Final = "https://ads-api.reddit.com/api/v3/pixels/"
_MOST_EVENTS: Final = 1_000
_OLDEST_MS: Final = 7 * 86_400_000


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"accountId"})

    account_id: str = ""
    """The account's id (v2.0), which is the pixel's id (v3)."""
    version: str = "v2"
    """`v3`, or `v2` for API v2.0, which Reddit has superseded."""
    hash_data: bool = True
    """Hash who it was (SHA-256); switch it off if events hold hashes already."""
    events_mapping: list[dict[str, Any]] = []
    """Which events become which of Reddit's: `[{from, to}]`; one may become several."""


# ---------------------------------------------------------------- events

_STANDARD: Final = (
    "PageVisit",
    "ViewContent",
    "Search",
    "AddToCart",
    "AddToWishlist",
    "Purchase",
    "Lead",
    "SignUp",
)
_BY_NAME: Final[Mapping[str, str]] = {
    "product list viewed": "ViewContent",
    "product viewed": "ViewContent",
    "products searched": "Search",
    "product added": "AddToCart",
    "product added to wishlist": "AddToWishlist",
    "order completed": "Purchase",
    **{name.lower(): name for name in _STANDARD},
}
_HUMP: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PLACES: Final = frozenset(("WEBSITE", "APP", "OTHER", "PHYSICAL_STORE"))


def _names(event: Event, renames: Mapping[str, list[str]]) -> list[tuple[str, str]]:
    """Return what to send an event as: (one of Reddit's, the custom event's name)."""
    given = event.message.get("event")
    if not isinstance(given, str) or not given.strip():
        refuse("`event` is missing or no text; Reddit needs an event's name")
    key = given.strip().lower()
    if key in renames:
        return [(name, "") if name in _STANDARD else ("Custom", name) for name in renames[key]]
    known = _BY_NAME.get(key)
    return [(known, "") if known is not None else ("Custom", given.strip())]


# ---------------------------------------------------------------- people


def _person(message: dict[str, Json], hashed: bool, *, third: bool) -> dict[str, Json]:
    """Return `user`.

    Args:
        hashed: hash what identifies a person.
        third: as version 3 wants it.
    """

    def write(value: Json, normal: Callable[[Json], str] = text) -> str | None:
        if value is None or isinstance(value, dict | list):
            return None
        return sha256(normal(value)) if hashed else text(value)

    system = trimmed_lower(first(message, "context.device.type", "context.os.name") or "")
    screen = mapping(get(message, "context.screen"))
    dimensions = without_none({"width": number(screen.get("width")), "height": number(screen.get("height"))})
    dimensions = {name: size for name, size in dimensions.items() if size}
    return without_none(
        {
            "idfa" if system in ("ios", "ipados") else "aaid": write(first(message, *ADVERTISING_ID)),
            "email": write(first(message, *EMAIL), trimmed_lower),
            "external_id": write(first(message, *USER_OR_ANONYMOUS_ID)),
            "ip_address": write(first(message, *IP)),
            "user_agent": _scalar(first(message, "context.userAgent")),
            "uuid": _scalar(first(message, "properties.uuid", "context.uuid")),
            "screen_dimensions": dimensions if dimensions or not third else None,
        }
    )


def _scalar(value: Json) -> Json:
    return None if isinstance(value, dict | list) else value


# ---------------------------------------------------------------- what was sold


def _products(properties: Mapping[str, Json], *, third: bool) -> list[Json]:
    """Return the products; an event of one product has it in its properties."""
    listed = properties.get("products")
    items = [mapping(item) for item in listed] if isinstance(listed, list) and listed else [properties]
    made: list[Json] = []
    for item in items:
        product_id = item.get("product_id") or item.get("sku") or item.get("id")
        product = {
            "id": text(product_id) if truthy(product_id) else None,
            "name": item.get("name"),
            "category": item.get("category"),
        }
        if third:
            product |= {"item_price": item.get("price"), "quantity": item.get("quantity")}
        if kept := without_none(product):
            made.append(kept)
    return made


def _value(properties: Mapping[str, Json], kind: str) -> float | None:
    """Return what an event is worth; None where Reddit wants no value."""
    if kind == "AddToCart":
        price = parse_float(properties.get("price"))
        quantity = parse_float(properties.get("quantity"))
        return None if price is None else rounded(price * (1 if quantity is None else quantity), 2)
    if kind == "Purchase":
        return parse_float(first(properties, "revenue", "value", "total"))
    return None


def _metadata(message: dict[str, Json], kind: str, *, third: bool) -> dict[str, Json]:
    properties = mapping(message.get("properties"))
    listed = sequence(properties.get("products"))
    metadata: dict[str, Json] = {}
    if products := _products(properties, third=third):
        metadata["products"] = products
    if kind == "Purchase" or (third and listed and kind in ("AddToCart", "AddToWishlist")):
        metadata["item_count"] = len(listed)
    elif kind in ("AddToCart", "AddToWishlist"):
        metadata["item_count"] = number(properties.get("quantity")) or 0
    value = _value(properties, kind)
    if value is not None:
        if third:
            metadata["value"] = value
        else:
            metadata["value"] = rounded(value * 100)
            metadata["value_decimal"] = rounded(value, 2)
    if kind in ("Purchase", "AddToCart") and truthy(properties.get("currency")):
        metadata["currency"] = properties["currency"]
    conversion = first(message, "properties.conversion_id", "properties.conversionId", "messageId")
    if conversion is not None:
        metadata["conversion_id"] = text(conversion)
    return metadata


# ---------------------------------------------------------------- the mapping


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    renames: dict[str, list[str]] = {}
    for row in config.events_mapping:
        if isinstance(row.get("from"), str) and isinstance(row.get("to"), str) and row["from"] and row["to"]:
            renames.setdefault(row["from"].strip().lower(), []).append(row["to"])
    make = _body_v3 if config.version == "v3" else _body_v2
    url = f"{_V3}{config.account_id}/conversion_events" if config.version == "v3" else _V2 + config.account_id

    def to_calls(event: Event, context: MapContext) -> Payloads:
        if not config.account_id:
            refuse("the setting `accountId` is missing; Reddit's API needs it")
        names = _names(event, renames)
        token = context.secret.get("access_token") or postpone(
            "there is no access token; connect the Reddit account again", 500
        )
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        body = make(event.message, context, names, config.hash_data)
        return (json_call(url, body, headers=headers),)

    return settled(to_calls)


def _happened_ms(message: dict[str, Json], context: MapContext) -> int:
    at_ms = ms_of(first(message, "timestamp", "originalTimestamp"))
    return context.now_ms if at_ms is None else at_ms


def _click(message: dict[str, Json]) -> Json:
    return _scalar(first(message, "properties.clickId", "properties.click_id", "context.clickId"))


def _body_v2(
    message: dict[str, Json], context: MapContext, names: Sequence[tuple[str, str]], hashed: bool
) -> dict[str, Json]:
    person = _person(message, hashed, third=False)
    events = [
        without_none(
            {
                "event_at": iso(_happened_ms(message, context)),
                "event_type": without_none({"tracking_type": kind, "custom_event_name": custom or None}),
                "click_id": _click(message),
                "user": person,
                "event_metadata": _metadata(message, kind, third=False) or None,
            }
        )
        for kind, custom in names
    ]
    return {"events": events}


def _body_v3(
    message: dict[str, Json], context: MapContext, names: Sequence[tuple[str, str]], hashed: bool
) -> dict[str, Json]:
    at_ms = _happened_ms(message, context)
    if context.now_ms - at_ms > _OLDEST_MS:
        refuse("`timestamp` is more than 7 days old; Reddit takes no such events")
    person = _person(message, hashed, third=True)
    place = _place(message, app="aaid" in person or "idfa" in person)
    events = [
        without_none(
            {
                "event_at": at_ms,
                "action_source": place,
                "event_source_url": _scalar(first(message, *PAGE_URL)) if place == "WEBSITE" else None,
                "type": without_none(
                    {"tracking_type": _HUMP.sub("_", kind).upper(), "custom_event_name": custom or None}
                ),
                "click_id": _click(message),
                "user": person,
                "metadata": _metadata(message, kind, third=True) or None,
            }
        )
        for kind, custom in names
    ]
    data: dict[str, Json] = {"partner": context.partner.upper(), "events": events}
    if (test := first(message, "properties.test_id", "properties.testId")) is not None:
        data["test_id"] = test
    return {"data": data}


def _place(message: dict[str, Json], *, app: bool) -> str:
    said = first(message, "properties.action_source", "properties.actionSource")
    place = said.strip().upper() if isinstance(said, str) else ""
    if place in _PLACES:
        return place
    return "APP" if app or message.get("channel") == "mobile" else "WEBSITE"


# ---------------------------------------------------------------- batches and answers


def _events_of(call: Call) -> list[Json]:
    body = mapping(call.body.value if call.body is not None else None)
    return sequence(body.get("events") or mapping(body.get("data")).get("events"))


def make_batcher(config: Config) -> Batcher:
    """Return the batching: events of an account go together, those of a test by themselves."""

    def key(unit: Unit) -> tuple[str, str, int]:
        call = unit.calls[0]
        data = mapping(mapping(call.body and call.body.value).get("data"))
        alone = unit.index if "test_id" in data else -1
        return call.url, text(call.headers.get("Authorization")), alone

    def merge(calls: Sequence[Call]) -> Call:
        events = [event for call in calls for event in _events_of(call)]
        body = mapping(calls[0].body and calls[0].body.value)
        data = body.get("data")
        return with_body(
            calls[0], {"events": events} if data is None else {"data": {**data, "events": events}}
        )

    def batch(units: Sequence[Unit]) -> list[Batch]:
        widest = max(len(_events_of(unit.calls[0])) for unit in units) if units else 1
        return together(units, key=key, merge=merge, most=max(1, _MOST_EVENTS // max(1, widest)))

    return batch


def classify(request: Request, response: Response) -> Delivery | None:
    """Reddit says how many events it processed; it answers 403 to what it can't read, too."""
    body = mapping(answer_of(response).body)
    said = text(mapping(body.get("error")).get("explanation") or body.get("message") or "")
    if response.status == 200 and said.startswith("Successfully processed"):
        return Delivered("200", acceptance="accepted")
    if response.status == 403 and said.startswith("JSON error"):
        return Rejected("http 403: Reddit could not read the event", said[:512])
    return None


def classify_each(
    call: Call, request: Request, response: Response, units: Sequence[Unit]
) -> Sequence[Delivery] | None:
    """Because of one event that it does not want Reddit processes none, and names it: the others are sent again."""
    invalid = [mapping(item) for item in sequence(mapping(answer_of(response).body).get("invalid_events"))]
    if response.status != 400 or not invalid:
        return None
    reasons = {_mark(mapping(item.get("event"))): text(item.get("error_message"))[:512] for item in invalid}
    results: list[Delivery] = []
    for unit in units:
        marks = [_mark(event) for part in unit.calls for event in _events_of(part)]
        wrong = next((reasons[mark] for mark in marks if mark in reasons), None)
        if wrong is None:
            results.append(Retry("not processed because of another event in its batch"))
        else:
            results.append(Rejected("Reddit did not take this event", wrong))
    # If none is known again, the answer stands for all: sending them again would give it again.
    return results if any(isinstance(one, Rejected) for one in results) else None


def _mark(event: Mapping[str, Json]) -> str:
    return repr([event.get("event_at"), event.get("event_type"), sorted(mapping(event.get("user")).items())])


SPEC = DestinationSpec(
    name="REDDIT",
    title="Reddit",
    kind="http",
    config=Config,
    message_types=frozenset({"track"}),
    doc_url="https://ads-api.reddit.com/docs/v3/operations/Post%20Conversion%20Events",
    mapper=make_mapper,
    classify=classify,
    batcher=make_batcher,
    classify_each=classify_each,
    default_max_batch=_MOST_EVENTS,
    oauth=OAuth(
        token_url="https://www.reddit.com/api/v1/access_token",  # noqa: S106 - an address, not a token
        scopes=("adsconversions",),
    ),
    proof="body",
    schemas=(
        Schema(
            label="",
            doc_url="https://ads-api.reddit.com/docs/v3/operations/Post%20Conversion%20Events",
            schema={
                "type": "object",
                "properties": {
                    "data": {
                        "type": "object",
                        "required": ["events"],
                        "properties": {
                            "events": {
                                "type": "array",
                                "minItems": 1,
                                "maxItems": _MOST_EVENTS,
                                "items": {
                                    "type": "object",
                                    "required": ["event_at", "action_source", "type"],
                                    "properties": {
                                        "event_at": {"type": "integer"},
                                        "action_source": {"enum": sorted(_PLACES)},
                                        "type": {"type": "object", "required": ["tracking_type"]},
                                    },
                                },
                            }
                        },
                    }
                },
            },
        ),
    ),
    limits="1,000 events a request, at most 7 days old",
)
