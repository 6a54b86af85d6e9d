"""LinkedIn Ads: conversions by LinkedIn's Conversions API.

Follows https://learn.microsoft.com/en-us/linkedin/marketing/integrations/ads-reporting/conversions-api (version
202511, read 2026-11). Auth: OAuth 2.0 with the scope rw_conversions. Limits: 5,000 conversions a request, 300 requests
a minute, conversions at most 90 days old.

A track becomes a conversion for each rule that the settings map it to; one that is mapped to none is not for LinkedIn.
Who it was is said by e-mail (SHA-256) and the ids in `context.externalId`.
"""

import re
from collections.abc import Mapping, Sequence
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
from mainstem.destinations.kit.refuse import postpone, refuse, settled, skip
from mainstem.destinations.kit.spec_fields import EMAIL, trait
from mainstem.destinations.kit.times import ms_of
from mainstem.destinations.kit.values import (
    external_id,
    first,
    mapping,
    number_text,
    parse_float,
    rounded,
    sequence,
    sha256,
    text,
    trimmed_lower,
    truthy,
)
from mainstem.events.canonical import Event

Json = Any

_URL: Final = "https://api.linkedin.com/rest/conversionEvents"
_VERSION: Final = "202511"
_MOST_EVENTS: Final = 5_000
_OLDEST_MS: Final = 90 * 86_400_000


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    ad_account_id: str = ""
    """The ad account's id; not read, a conversion rule belongs to one."""
    hash_data: bool = True
    """Hash the e-mail address (SHA-256); switch it off if events hold hashes already."""
    deduplication_key: str = ""
    """The path of an id in the event (`properties.order_id`) that LinkedIn knows the same event of its tag by;
    without, the messageId."""
    conversion_mapping: list[dict[str, Any]] = []
    """Which events are which conversions: `[{from: event, to: id of the conversion rule}]`."""


# ---------------------------------------------------------------- who

_ID_TYPES: Final = ("LINKEDIN_FIRST_PARTY_ADS_TRACKING_UUID", "ACXIOM_ID", "ORACLE_MOAT_ID")
_FIRST_NAME: Final = trait("firstName", "firstname", "first_name", properties=False)
_LAST_NAME: Final = trait("lastName", "lastname", "last_name", properties=False)
_TITLE: Final = trait("title", properties=False)
_COMPANY: Final = trait("companyName", "company.name", properties=False)


def _person(message: dict[str, Json], *, hashing: bool) -> dict[str, Json]:
    ids: list[Json] = []
    email = first(message, *EMAIL)
    if isinstance(email, str) and email.strip():
        ids.append({"idType": "SHA256_EMAIL", "idValue": sha256(trimmed_lower(email)) if hashing else email})
    for kind in _ID_TYPES:
        value = external_id(message, kind)
        if truthy(value) and not isinstance(value, dict | list):
            ids.append({"idType": kind, "idValue": text(value)})
    if not ids:
        refuse(
            f"there is neither `traits.email` nor an external id ({', '.join(_ID_TYPES)}); LinkedIn needs one of them"
        )
    person: dict[str, Json] = {"userIds": ids}
    names = first(message, *_FIRST_NAME), first(message, *_LAST_NAME)
    # LinkedIn takes both or neither.
    if all(isinstance(name, str) for name in names):
        person["userInfo"] = {"firstName": names[0], "lastName": names[1]}
        for field, sources in (("title", _TITLE), ("companyName", _COMPANY)):
            if isinstance(value := first(message, *sources), str):
                person["userInfo"][field] = value
    return person


# ---------------------------------------------------------------- what it was worth


def _price(product: Mapping[str, Json]) -> float | None:
    price = parse_float(product.get("price"))
    quantity = parse_float(product.get("quantity"))
    return None if price is None else price * (1 if quantity is None else quantity)


def _worth(properties: Mapping[str, Json]) -> dict[str, Json] | None:
    """Return what the products cost together, else what the event itself says; None for neither."""
    products = properties.get("products")
    if isinstance(products, list) and products:
        prices = [price for price in (_price(mapping(item)) for item in products) if price is not None]
        amount = sum(prices) if prices else None
    else:
        amount = _price(properties)
    if amount is None:
        amount = parse_float(first(properties, "revenue", "value", "total"))
    if amount is None:
        return None
    currency = properties.get("currency")
    code = currency if isinstance(currency, str) and currency else "USD"
    return {"currencyCode": code, "amount": number_text(rounded(amount, 2))}


# ---------------------------------------------------------------- the mapping


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    rules: dict[str, list[str]] = {}
    for row in config.conversion_mapping:
        if isinstance(row.get("from"), str) and row["from"].strip() and truthy(row.get("to")):
            rules.setdefault(row["from"].strip().lower(), []).append(text(row["to"]).strip())

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        given = message.get("event")
        if not isinstance(given, str) or not given.strip():
            refuse("`event` is missing or no text; LinkedIn needs an event's name")
        mapped = rules.get(given.strip().lower())
        if not mapped:
            skip("event not mapped")
        at_ms = ms_of(first(message, "timestamp", "originalTimestamp"))
        if at_ms is None:
            at_ms = context.now_ms
        if context.now_ms - at_ms > _OLDEST_MS:
            refuse("`timestamp` is more than 90 days old; LinkedIn takes no such conversions")
        element: dict[str, Json] = {
            "conversionHappenedAt": at_ms,
            "user": _person(message, hashing=config.hash_data),
        }
        if (event_id := first(message, config.deduplication_key or "messageId", "messageId")) is not None:
            element["eventId"] = text(event_id)
        if (worth := _worth(mapping(message.get("properties")))) is not None:
            element["conversionValue"] = worth
        token = context.secret.get("access_token") or postpone(
            "there is no access token; connect the LinkedIn account again", 500
        )
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "LinkedIn-Version": _VERSION,
            "X-RestLi-Method": "BATCH_CREATE",
            "X-Restli-Protocol-Version": "2.0.0",
        }
        elements = [{"conversion": f"urn:lla:llaPartnerConversion:{rule}", **element} for rule in mapped]
        return (json_call(_URL, {"elements": elements}, headers=headers),)

    return settled(to_calls)


# ---------------------------------------------------------------- batches and answers


def _elements_of(call: Call) -> list[Json]:
    return sequence(mapping(call.body and call.body.value).get("elements"))


def make_batcher(config: Config) -> Batcher:
    """Return the batching: conversions go together."""

    def key(unit: Unit) -> str:
        return text(unit.calls[0].headers.get("Authorization"))

    def merge(calls: Sequence[Call]) -> Call:
        return with_body(
            calls[0], {"elements": [element for call in calls for element in _elements_of(call)]}
        )

    def batch(units: Sequence[Unit]) -> list[Batch]:
        widest = max(len(_elements_of(unit.calls[0])) for unit in units) if units else 1
        return together(units, key=key, merge=merge, most=max(1, _MOST_EVENTS // max(1, widest)))

    return batch


def classify(request: Request, response: Response) -> Delivery | None:
    """LinkedIn says of each conversion whether it was created."""
    elements = sequence(mapping(answer_of(response).body).get("elements"))
    if response.status == 200 and elements and all(_created(mapping(item)) for item in elements):
        return Delivered("200", acceptance="accepted")
    return None


def _created(element: Mapping[str, Json]) -> bool:
    return element.get("status") in (200, 201)


_INDEX: Final = re.compile(r"Index: (\d+),\s*(.*?)(?=Index: \d+,|\Z)", re.DOTALL)


def classify_each(
    call: Call, request: Request, response: Response, units: Sequence[Unit]
) -> Sequence[Delivery] | None:
    """Each conversion of a batch has a status; after 400 or 422 the wrong ones are named and none was created."""
    body = mapping(answer_of(response).body)
    counts = [sum(len(_elements_of(part)) for part in unit.calls) for unit in units]
    elements = [mapping(item) for item in sequence(body.get("elements"))]
    if response.status == 200 and len(elements) == sum(counts):
        found: list[tuple[int, str]] = [_status_of(element) for element in elements]
    elif response.status in (400, 422) and isinstance(body.get("message"), str):
        wrong = {int(place): said.strip() for place, said in _INDEX.findall(body["message"][:100_000])}
        if not wrong or max(wrong) >= sum(counts):
            return None
        found = [
            (response.status, wrong[place]) if place in wrong else (0, "") for place in range(sum(counts))
        ]
    else:
        return None
    results: list[Delivery] = []
    place = 0
    for count in counts:
        results.append(_result(found[place : place + count]))
        place += count
    return results


def _status_of(element: Mapping[str, Json]) -> tuple[int, str]:
    status = element.get("status")
    error = mapping(element.get("error"))
    return (status if isinstance(status, int) else 500), text(error.get("message") or "")


def _result(found: Sequence[tuple[int, str]]) -> Delivery:
    """Return what the statuses of an event's conversions mean together; 0 = not tried."""
    worst = max(found, key=lambda one: (400 <= one[0] < 500 and one[0] != 429, one[0] == 0, one[0]))
    status, said = worst
    if status == 0:
        return Retry("not created because of another conversion in its batch")
    if status < 400:
        return Delivered("200", acceptance="accepted")
    if status == 429 or status >= 500:
        return Retry(f"conversion: status {status}", throttled=status == 429, answer=said[:512])
    return Rejected(f"conversion: status {status}", said[:512])


SPEC = DestinationSpec(
    name="LINKEDIN_ADS",
    title="LinkedIn Ads",
    kind="http",
    config=Config,
    message_types=frozenset({"track"}),
    doc_url="https://learn.microsoft.com/en-us/linkedin/marketing/integrations/ads-reporting/conversions-api",
    mapper=make_mapper,
    classify=classify,
    batcher=make_batcher,
    classify_each=classify_each,
    default_max_batch=_MOST_EVENTS,
    oauth=OAuth(
        token_url="https://www.linkedin.com/oauth/v2/accessToken",  # noqa: S106 - an address, not a token
        scopes=("rw_conversions", "r_ads"),
    ),
    proof="each event",
    schemas=(
        Schema(
            label="",
            doc_url="https://learn.microsoft.com/en-us/linkedin/marketing/integrations/ads-reporting/conversions-api",
            schema={
                "type": "object",
                "required": ["elements"],
                "properties": {
                    "elements": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": _MOST_EVENTS,
                        "items": {
                            "type": "object",
                            "required": ["conversion", "conversionHappenedAt", "user"],
                            "properties": {
                                "conversion": {"type": "string", "pattern": "^urn:lla:llaPartnerConversion:"},
                                "conversionHappenedAt": {"type": "integer"},
                                "conversionValue": {
                                    "type": "object",
                                    "required": ["currencyCode", "amount"],
                                    "properties": {"amount": {"type": "string"}},
                                },
                                "eventId": {"type": "string"},
                                "user": {
                                    "type": "object",
                                    "required": ["userIds"],
                                    "properties": {
                                        "userIds": {"type": "array", "minItems": 1},
                                        "userInfo": {"type": "object", "required": ["firstName", "lastName"]},
                                    },
                                },
                            },
                        },
                    }
                },
            },
        ),
    ),
    limits="5,000 conversions a request, 300 requests a minute, at most 90 days old",
)
