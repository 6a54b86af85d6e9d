"""TikTok Ads: website events by TikTok's Events API.

Follows https://business-api.tiktok.com/portal/docs?id=1771100865818625 (Events API 2.0) and, for destinations that are
still set to it, https://business-api.tiktok.com/portal/docs?id=1741601162187777 (Events API 1.0), v1.3
(address from memory, page not read: requests follow the conformance cases).
Auth: an access token in the header Access-Token. Limits: 1,000 events a request (1.0: 50).

A track becomes the TikTok event of its name: those of the e-commerce spec, TikTok's own names, and what the settings
map to them (one or several); any other is refused, or sent as a custom event if the settings say so. Who it was is
hashed (SHA-256) if the settings say so.
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
    MappingTable,
    Payloads,
    Rejected,
    Request,
    Response,
    Retry,
    Schema,
    Unit,
)
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.times import seconds_of
from mainstem.destinations.kit.values import (
    external_id,
    first,
    mapping,
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

_API: Final = "https://business-api.tiktok.com/open_api/v1.3/"
_TRACK_V1: Final = f"{_API}pixel/track/"
_BATCH_V1: Final = f"{_API}pixel/batch/"
_TRACK_V2: Final = f"{_API}event/track/"
_MOST_V1: Final = 50
_MOST_V2: Final = 1_000


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"accessToken", "pixelCode"})

    access_token: Secret = Secret("")
    """A long-term access token."""
    pixel_code: str = ""
    """The pixel's code (Events API 2.0: `event_source_id`)."""
    version: str = "v1"
    """`v2` is the Events API 2.0; `v1` the Events API 1.0, which TikTok has superseded."""
    hash_user_properties: bool = True
    """Hash who it was (SHA-256); switch it off if events hold hashes already."""
    events_to_standard: list[dict[str, Any]] = []
    """Which events become which of TikTok's: `[{from, to}]`; one may become several."""
    send_custom_events: bool = False
    """Send events that TikTok does not know under their own name."""


# ---------------------------------------------------------------- events

_STANDARD: Final = (
    "AddPaymentInfo",
    "AddToCart",
    "AddToWishlist",
    "ApplicationApproval",
    "ClickButton",
    "CompletePayment",
    "CompleteRegistration",
    "Contact",
    "CustomizeProduct",
    "Download",
    "FindLocation",
    "InitiateCheckout",
    "Lead",
    "PlaceAnOrder",
    "Purchase",
    "Schedule",
    "Search",
    "StartTrial",
    "SubmitApplication",
    "SubmitForm",
    "Subscribe",
    "ViewContent",
)
_BY_NAME: Final[Mapping[str, str]] = {
    **{name.lower(): name for name in _STANDARD},
    "product added to wishlist": "AddToWishlist",
    "product added": "AddToCart",
    "checkout started": "InitiateCheckout",
    "payment info entered": "AddPaymentInfo",
    "checkout step completed": "CompletePayment",
    "order completed": "PlaceAnOrder",
}

# ---------------------------------------------------------------- people

_NOT_IN_ZIP: Final = re.compile(r"[\s-]+")


def _scalar(value: Json) -> Json:
    return None if isinstance(value, dict) else value


def _each(change: Callable[[Json], str]) -> Callable[[Json], Json]:
    """Return a function that changes a value, or every value of a list: TikTok takes several phones and ids."""

    def changed(value: Json) -> Json:
        if isinstance(value, list):
            return [change(item) for item in value if not isinstance(item, dict | list)] or None
        return None if isinstance(value, dict) else change(value)

    return changed


def _trimmed(value: Json) -> str:
    return text(value).strip()


def _zip(value: Json) -> str:
    return _NOT_IN_ZIP.sub("", text(value))


def _sha(normal: Callable[[Json], str]) -> Callable[[Json], str]:
    return lambda value: sha256(normal(value))


_ID: Final = ("traits.email", "context.traits.email")
_NUMBER: Final = ("traits.phone", "context.traits.phone")


def _places(*names: str) -> tuple[str, ...]:
    paths = ("traits", "context.traits", "properties")
    return tuple(
        f"{path}.{name}" for path in paths for name in (*names, *(f"address.{name}" for name in names))
    )


def _person_v2(hashed: bool) -> Table:
    def row(target: str, sources: tuple[str, ...], normal: Callable[[Json], str]) -> Row:
        change = _each(_sha(normal) if hashed else _trimmed)
        return Row(target, *sources, as_=change, text="SHA-256, if the settings say so")

    return Table(
        row("email", (*_ID, "properties.email"), trimmed_lower),
        row("phone", (*_NUMBER, "properties.phone"), _trimmed),
        row("first_name", _places("firstName", "firstname", "first_name"), trimmed_lower),
        row("last_name", _places("lastName", "lastname", "last_name"), trimmed_lower),
        row("zip_code", _places("zip", "postalCode", "zipcode", "zip_code"), _zip),
        Row("city", *_places("city"), as_=_scalar),
        Row("state", *_places("state"), as_=_scalar),
        Row("country", *_places("country"), as_=_scalar),
        Row(
            "ttclid",
            "properties.ttclid",
            "context.ttclid",
            "traits.ttclid",
            "context.traits.ttclid",
            as_=_scalar,
        ),
        Row("ttp", "properties.ttp", "context.ttp", "traits.ttp", "context.traits.ttp", as_=_scalar),
        Row("locale", "context.locale", as_=_scalar),
        Row("ip", "context.ip", "request_ip", as_=_scalar),
        Row("user_agent", "context.userAgent", as_=_scalar),
    )


def _person_v1(hashed: bool) -> Table:
    def row(target: str, sources: tuple[str, ...], normal: Callable[[Json], str]) -> Row:
        return Row(target, *sources, as_=_each(_sha(normal) if hashed else _trimmed))

    return Table(
        row("phone_number", ("properties.context.user.phone_number", *_NUMBER, "properties.phone"), _trimmed),
        row("email", ("properties.context.user.email", *_ID, "properties.email"), trimmed_lower),
    )


_EVENT_ID: Final = ("properties.eventId", "properties.event_id", "messageId")
_TEST_CODE: Final = ("properties.testEventCode", "properties.test_event_code")
_CONTEXT_V1: Final = Table(
    Row("ad.callback", "properties.clickId", "properties.context.ad.callback"),
    Row("page.url", "properties.context.page.url", "context.page.url", "properties.url"),
    Row("page.referrer", "properties.context.page.referrer", "context.page.referrer", "properties.referrer"),
    Row("ip", "context.ip", "properties.context.ip", "request_ip"),
    Row("user_agent", "context.userAgent", "properties.context.userAgent"),
)
_PROPERTIES_V1: Final = Table(
    Row("currency", "properties.currency"),
    Row("value", "properties.value", "properties.revenue"),
    Row("description", "properties.description"),
    Row("query", "properties.query"),
)
_PAGE_V2: Final = Table(
    Row("url", "context.page.url", "properties.url", as_=_scalar),
    Row("referrer", "context.page.referrer", "properties.referrer", as_=_scalar),
)
PROPERTIES: Final = Table(
    Row("currency", "properties.currency"),
    Row("value", "properties.value", "properties.revenue"),
    Row("description", "properties.description"),
    Row("query", "properties.query"),
    Row("search_string", "properties.search_string", "properties.query"),
    Row("order_id", "properties.order_id", "properties.orderId", as_=text),
    Row("shop_id", "properties.shop_id", "properties.shopId", as_=text),
    Row("content_type", "properties.contentType", "properties.content_type"),
)
"""`properties` of an event (2.0)."""


def _contents(properties: Mapping[str, Json], content_type: Json) -> list[Json] | None:
    """Return `contents`: as given, else made of the products; None without either.

    Args:
        content_type: of entries that do not say it themselves; None leaves it out (2.0 has it once for all).
    """
    given = properties.get("contents")
    if truthy(given):
        return given if isinstance(given, list) else [given]
    products = properties.get("products")
    if not isinstance(products, list):
        return None
    made: list[Json] = []
    for product in map(mapping, products):
        item = product.get("product_id") or product.get("sku") or product.get("id")
        entry = without_none(
            {
                "content_id": text(item) if truthy(item) else None,
                "content_name": product.get("name"),
                "content_category": product.get("category"),
                "brand": product.get("brand"),
                "price": product.get("price"),
                "quantity": product.get("quantity"),
            }
        )
        if content_type is not None:
            entry["content_type"] = product.get("contentType") or content_type
        made.append(entry)
    return made


# ---------------------------------------------------------------- the mapping


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    token = config.access_token.reveal()
    headers = {"Access-Token": token, "Content-Type": "application/json"}
    renames: dict[str, list[str]] = {}
    for row in config.events_to_standard:
        if isinstance(row.get("from"), str) and isinstance(row.get("to"), str) and row["from"] and row["to"]:
            renames.setdefault(row["from"].strip().lower(), []).append(row["to"])
    hashed = config.hash_user_properties
    person_v1, person_v2 = _person_v1(hashed), _person_v2(hashed)
    of_id = _each(_sha(_trimmed) if hashed else _trimmed)
    second = config.version == "v2"

    def to_calls(event: Event, context: MapContext) -> Payloads:
        if not token:
            refuse("the setting `accessToken` is missing; TikTok's API needs it")
        if not config.pixel_code:
            refuse("the setting `pixelCode` is missing; TikTok's API needs it")
        message = event.message
        given = message.get("event")
        if not isinstance(given, str) or not given.strip():
            refuse("`event` is missing or no text; TikTok needs an event's name")
        names, standard = _named(given.strip())
        if second:
            return (_call_v2(message, context, names, standard),)
        return tuple(_call_v1(message, context, name) for name in names)

    def _named(given: str) -> tuple[list[str], bool]:
        """Return what to send it as, and whether by its own name as one of TikTok's."""
        key = given.lower()
        if key in renames:
            return renames[key], False
        if key in _BY_NAME:
            return [_BY_NAME[key]], True
        if config.send_custom_events:
            return [given], False
        return refuse(
            "`event` is none of TikTok's; map it in the setting `eventsToStandard`, or switch `sendCustomEvents` on"
        )

    def _tiktok_id(message: dict[str, Json]) -> Json:
        found = external_id(message, "tiktokExternalId")
        return of_id(found) if truthy(found) else None

    def _call_v1(message: dict[str, Json], context: MapContext, name: str) -> Call:
        properties = mapping(message.get("properties"))
        sent = _PROPERTIES_V1.build(message)
        content_type = properties.get("contentType") or properties.get("content_type") or "product"
        contents = _contents(properties, content_type)
        if contents is not None:
            sent["contents"] = contents
        around = _CONTEXT_V1.build(message)
        user = person_v1.build(message)
        if (own := _tiktok_id(message)) is not None:
            user["external_id"] = own
        if user:
            around["user"] = user
        body: dict[str, Json] = {"pixel_code": config.pixel_code, "event": name}
        body |= without_none(
            {
                "event_id": first(message, *_EVENT_ID),
                "timestamp": message.get("timestamp"),
                "test_event_code": first(message, *_TEST_CODE),
            }
        )
        body |= {"properties": sent, "context": around, "partner_name": context.partner}
        return json_call(_TRACK_V1, body, headers=headers, label="pixel/track")

    def _call_v2(message: dict[str, Json], context: MapContext, names: list[str], standard: bool) -> Call:
        properties = mapping(message.get("properties"))
        sent = PROPERTIES.build(message)
        if standard:
            sent.setdefault("content_type", "product")
        contents = _contents(properties, None)
        if contents:
            sent["contents"] = contents
            sent["num_items"] = len(contents)
            ids = [mapping(entry).get("content_id") for entry in contents]
            sent["contents_ids"] = [item for item in ids if truthy(item)]
        user = person_v2.build(message)
        if (own := _tiktok_id(message)) is not None:
            user["external_id"] = own
        event = without_none(
            {
                "event_id": first(message, *_EVENT_ID),
                "event_time": seconds_of(first(message, "timestamp", "originalTimestamp")),
                "properties": sent,
                "page": _PAGE_V2.build(message) or None,
                "user": user or None,
            }
        )
        event.setdefault("event_time", context.now_ms // 1000)
        body: dict[str, Json] = {
            "event_source": "web",
            "event_source_id": config.pixel_code,
            "partner_name": context.partner,
            "data": [{"event": name, **event} for name in names],
        }
        if (code := first(message, *_TEST_CODE)) is not None:
            body["test_event_code"] = code
        return json_call(_TRACK_V2, body, headers=headers, label="event/track")

    return settled(to_calls)


# ---------------------------------------------------------------- batches and answers


def _events_of(calls: Sequence[Call]) -> list[Json]:
    """Return the events that calls carry, as batches have them."""
    events: list[Json] = []
    for call in calls:
        body = mapping(call.body.value if call.body is not None else None)
        if call.url == _TRACK_V2:
            events += sequence(body.get("data"))
        else:
            own = {key: item for key, item in body.items() if key not in ("pixel_code", "partner_name")}
            events.append({"type": "track", **own})
    return events


def make_batcher(config: Config) -> Batcher:
    """Return the batching: events of a pixel go together, test events by themselves."""

    def batch(units: Sequence[Unit]) -> list[Batch]:
        batches: list[Batch] = []
        open_: dict[tuple[str, str, str], tuple[list[int], list[Json], Call]] = {}

        def close(key: tuple[str, str, str]) -> None:
            indexes, events, call = open_.pop(key)
            batches.append(Batch((_merged(call, events),), tuple(indexes)))

        for unit in units:
            if any("test_event_code" in mapping(call.body and call.body.value) for call in unit.calls):
                batches.append(Batch(unit.calls, (unit.index,), batched=False, many=True))
                continue
            call = unit.calls[0]
            body = mapping(call.body and call.body.value)
            pixel = body.get("event_source_id") or body.get("pixel_code")
            key = (call.url, text(call.headers.get("Access-Token")), text(pixel))
            events = _events_of(unit.calls)
            most = _MOST_V2 if call.url == _TRACK_V2 else _MOST_V1
            if key in open_ and len(open_[key][1]) + len(events) > most:
                close(key)
            indexes, together, _ = open_.setdefault(key, ([], [], call))
            indexes.append(unit.index)
            together += events
        for key in list(open_):
            close(key)
        return sorted(batches, key=lambda made: made.units[0])

    return batch


def _merged(call: Call, events: list[Json]) -> Call:
    body = mapping(call.body and call.body.value)
    if call.url == _TRACK_V2:
        return json_call(_TRACK_V2, {**body, "data": events}, headers=call.headers, label="event/track")
    together = {
        "pixel_code": body.get("pixel_code"),
        "partner_name": body.get("partner_name"),
        "batch": events,
    }
    return json_call(_BATCH_V1, together, headers=call.headers, label="pixel/batch")


# https://business-api.tiktok.com/portal/docs?id=1737172488964097 (return codes)
_PARTLY: Final = 20001
_TOO_MANY: Final = frozenset((40016, 40100, 40132, 40133))
_CREDENTIALS: Final = frozenset((40001, 40101, 40102, 40103, 40104, 40105))


def classify(request: Request, response: Response) -> Delivery | None:
    """TikTok answers 200 to nearly everything; `code` says what it means."""
    code, said = _said(response)
    if code is None or not 200 <= response.status < 300:
        return None
    if code == 0:
        return Delivered("200", acceptance="accepted")
    answer = f"{code} {said}"[:512]
    for secret in request.secrets:
        answer = answer.replace(secret, "***")
    if code == _PARTLY:
        return Delivered("200", acceptance="accepted with warning", warning=answer)
    if code in _TOO_MANY:
        return Retry(f"TikTok's code {code}: too many requests", throttled=True, answer=answer)
    if code in _CREDENTIALS:
        reason = f"TikTok's code {code}: the token is refused, or not for this pixel"
        return Retry(reason, destination_wide=True, answer=answer)
    if code >= 50000:
        return Retry(f"TikTok's code {code}", destination_wide=True, answer=answer)
    return Rejected(f"TikTok's code {code}", answer)


def classify_each(
    call: Call, request: Request, response: Response, units: Sequence[Unit]
) -> Sequence[Delivery] | None:
    """After a partial success TikTok names the events that it did not take, by their place in the request."""
    code, _ = _said(response)
    failed = sequence(mapping(mapping(answer_of(response).body).get("data")).get("failed_events"))
    if code != _PARTLY or not failed:
        return None
    reasons: dict[int, str] = {}
    for entry in map(mapping, failed):
        place = entry.get("order_in_list")
        if isinstance(place, int) and not isinstance(place, bool):
            reasons[place] = text(entry.get("error_message"))[:512]
    results: list[Delivery] = []
    place = 0
    for unit in units:
        count = len(_events_of(unit.calls))
        wrong = next((reasons[at] for at in range(place, place + count) if at in reasons), None)
        place += count
        taken = Delivered("200", acceptance="accepted")
        results.append(taken if wrong is None else Rejected("TikTok did not take this event", wrong))
    return results


def _said(response: Response) -> tuple[int | None, str]:
    body = mapping(answer_of(response).body)
    code = body.get("code")
    return (code if isinstance(code, int) and not isinstance(code, bool) else None), text(body.get("message"))


SPEC = DestinationSpec(
    name="TIKTOK_ADS",
    title="TikTok Ads",
    kind="http",
    config=Config,
    message_types=frozenset({"track"}),
    doc_url="https://business-api.tiktok.com/portal/docs?id=1771100865818625",
    mapper=make_mapper,
    classify=classify,
    batcher=make_batcher,
    classify_each=classify_each,
    default_max_batch=_MOST_V2,
    proof="each event",
    schemas=(
        Schema(
            label="event/track",
            doc_url="https://business-api.tiktok.com/portal/docs?id=1771100865818625",
            schema={
                "type": "object",
                "required": ["event_source", "event_source_id", "data"],
                "properties": {
                    "event_source": {"enum": ["web", "app", "offline", "crm"]},
                    "event_source_id": {"type": "string", "minLength": 1},
                    "data": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": _MOST_V2,
                        "items": {
                            "type": "object",
                            "required": ["event", "event_time"],
                            "properties": {
                                "event": {"type": "string", "minLength": 1},
                                "event_time": {"type": "integer"},
                                "user": {"type": "object"},
                                "page": {"type": "object"},
                                "properties": {"type": "object"},
                            },
                        },
                    },
                },
            },
        ),
    ),
    tables=(
        MappingTable(title="Who (`user`, 2.0)", rows=_person_v2(hashed=True).rows),
        MappingTable(title="What (`properties`, 2.0)", rows=PROPERTIES.rows),
    ),
    limits="1,000 events a request; 50 by the Events API 1.0",
)
