"""What the destinations at Meta have in common: the Graph API's address, its person data, how it says no.

Follows https://developers.facebook.com/docs/marketing-api/conversions-api (v25.0, read 2026-11). No destination itself;
`facebook_pixel`, `facebook_conversions` and `fb_custom_audience` are.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from mainstem.destinations.base import (
    Call,
    Delivered,
    Delivery,
    MapContext,
    Rejected,
    Request,
    Response,
    Retry,
)
from mainstem.destinations.kit.body import JsonTexts, json_bytes
from mainstem.destinations.kit.call import form_call
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.refuse import refuse
from mainstem.destinations.kit.spec_fields import (
    BIRTHDAY,
    CITY,
    COUNTRY,
    EMAIL,
    GENDER,
    IP,
    PAGE_URL,
    PHONE,
    STATE,
    USER_AGENT,
    USER_OR_ANONYMOUS_ID,
    ZIP,
    trait,
)
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.times import happened_ms, moment_of
from mainstem.destinations.kit.values import (
    first,
    integration_options,
    mapping,
    parse_float,
    pick,
    rounded,
    sequence,
    sha256,
    text,
    trimmed_lower,
    truthy,
)

Json = Any

GRAPH: Final = "https://graph.facebook.com/v25.0"
LIMITS: Final = "events at most 7 days old (62 in a physical store), and one minute ahead"

# ---------------------------------------------------------------- who: user_data

_NOT_DIGITS: Final = re.compile(r"\D+")
_NOT_IN_CITY: Final = re.compile(r"[^\w]+|\d+|_+")


def digits(value: Json) -> str:
    """Return a phone number as Meta hashes it: digits only, without leading zeros."""
    return _NOT_DIGITS.sub("", text(value)).lstrip("0")


def initial(value: Json) -> str:
    """Return a gender as Meta hashes it: f or m."""
    return trimmed_lower(value)[:1]


def _day(value: Json) -> str:
    moment = moment_of(value)
    return trimmed_lower(value) if moment is None else f"{moment:%Y%m%d}"


def _city(value: Json) -> str:
    return _NOT_IN_CITY.sub("", trimmed_lower(value))


def _as_text(value: Json) -> str | None:
    # Lists and objects name nobody.
    return None if isinstance(value, dict | list) else text(value)


# Properties of these names are those of things.
_FIRST_NAME: Final = trait("firstName", "firstname", "first_name", properties=False)
_LAST_NAME: Final = trait("lastName", "lastname", "last_name", properties=False)
_NAME: Final = trait("name", properties=False)
_PERSON: Final[tuple[tuple[str, tuple[str, ...], Callable[[Json], str]], ...]] = (
    ("external_id", USER_OR_ANONYMOUS_ID, lambda value: text(value).strip()),
    ("em", EMAIL, trimmed_lower),
    ("ph", PHONE, digits),
    ("ge", GENDER, initial),
    ("db", BIRTHDAY, _day),
    ("ln", _LAST_NAME, trimmed_lower),
    ("fn", _FIRST_NAME, trimmed_lower),
    ("ct", CITY, _city),
    ("st", STATE, _city),
    ("zp", ZIP, lambda value: trimmed_lower(value).replace(" ", "")),
    ("country", COUNTRY, trimmed_lower),
)
_FOUND: Final = (
    Row("client_ip_address", *IP),
    Row("client_user_agent", *USER_AGENT),
    Row("fbc", "context.fbc", "properties.fbc", "traits.fbc", "context.traits.fbc"),
    Row("fbp", "context.fbp", "properties.fbp", "traits.fbp", "context.traits.fbp"),
    Row("fb_login_id", "context.fb_login_id"),
    Row("lead_id", "context.lead_id"),
)


def _hashed(normal: Callable[[Json], str]) -> Callable[[Json], str | None]:
    def sha_256(value: Json) -> str | None:
        if isinstance(value, dict | list):
            return None
        written = normal(value)
        return sha256(written) if written else None

    return sha_256


PERSON: Final = Table(
    *(Row(target, *sources, as_=_hashed(normal), text="SHA-256") for target, sources, normal in _PERSON),
    *_FOUND,
)
"""`user_data` of an event."""
_PERSON_AS_IS: Final = Table(
    *(Row(target, *sources, as_=_as_text) for target, sources, _ in _PERSON),
    *_FOUND,
)


def user_data(
    message: dict[str, Json], *, names: Collection[str], without_external_id: bool, at_ms: int
) -> dict[str, Json]:
    """Return `user_data`, hashed unless the event says that it is (`integrations: {NAME: {hashed: true}}`).

    Args:
        names: the destination's in `integrations`.
        at_ms: when it happened, for a click id made of the page's address.
    """
    hashed = is_hashed(message, names)
    person = (_PERSON_AS_IS if hashed else PERSON).build(message)
    if not hashed and not ("fn" in person and "ln" in person):
        _add_names(message, person)
    if without_external_id:
        person.pop("external_id", None)
    if "fbc" not in person and (click := _click_id(message)):
        # https://developers.facebook.com/docs/marketing-api/conversions-api/parameters/fbp-and-fbc
        person["fbc"] = f"fb.1.{at_ms}.{click}"
    if not person:
        refuse(
            "there is nothing that tells who it was (an id, `traits.email`, `traits.phone`); Meta needs some of it"
        )
    return person


def _add_names(message: dict[str, Json], person: dict[str, Json]) -> None:
    """Add first and last name where the event has them only as one."""
    name = first(message, *_NAME)
    parts = name.lower().split() if isinstance(name, str) else []
    if parts:
        person.setdefault("fn", sha256(parts[0]))
    if len(parts) > 1:
        person.setdefault("ln", sha256(parts[-1]))


def is_hashed(message: dict[str, Json], names: Collection[str]) -> bool:
    """Tell whether an event says that its person data is hashed already."""
    return truthy(integration_options(message, *names).get("hashed"))


def _click_id(message: dict[str, Json]) -> str:
    url = first(message, *PAGE_URL)
    if not isinstance(url, str) or "fbclid=" not in url:
        return ""
    try:
        return parse_qs(urlsplit(url).query).get("fbclid", [""])[0]
    except ValueError:
        return ""


# ---------------------------------------------------------------- what: the event and its custom_data

_PERSONAL: Final = frozenset(
    (
        "email",
        "firstName",
        "lastName",
        "firstname",
        "lastname",
        "first_name",
        "last_name",
        "gender",
        "city",
        "country",
        "phone",
        "state",
        "zip",
        "birthday",
    )
)
_OF_THE_EVENT: Final = ("opt_out", "event_id", "action_source")
_EVENT_ID: Final = ("traits.event_id", "context.traits.event_id", "properties.event_id", "messageId")
_DELIVERIES: Final = frozenset(("home_delivery", "in_store", "curbside"))
_PLACES: Final = frozenset(
    (
        "email",
        "website",
        "app",
        "phone_call",
        "chat",
        "physical_store",
        "system_generated",
        "business_messaging",
        "other",
    )
)
_DAY_MS: Final = 86_400_000


class Privacy:
    """Which properties Meta gets: without those of people, by the settings."""

    __slots__ = ("_away", "_hash")

    def __init__(self, blacklist: Collection[Json], whitelist: Collection[Json]) -> None:
        """
        Args:
            blacklist: RudderStack's `blacklistPiiProperties`, which are hashed or taken out.
            whitelist: RudderStack's `whitelistPiiProperties`, which are sent although they are personal.
        """
        away, hashed = set(_PERSONAL), set()
        for row in map(mapping, whitelist):
            away.discard(text(row.get("whitelistPiiProperties") or "").strip())
        for row in map(mapping, blacklist):
            if name := text(row.get("blacklistPiiProperties") or "").strip():
                away.add(name)
                if truthy(row.get("blacklistPiiHash")):
                    hashed.add(name)
        self._away = frozenset(away)
        self._hash = frozenset(hashed)

    def apply(self, properties: Mapping[str, Json], *, hashed: bool) -> dict[str, Json]:
        """Return the properties that Meta may have.

        Args:
            hashed: the event says that what is to be hashed is.
        """
        sent: dict[str, Json] = {}
        for key, value in properties.items():
            if key in _OF_THE_EVENT:
                continue
            if key not in self._away:
                sent[key] = value
            elif key in self._hash:
                sent[key] = value if hashed else sha256(_lower_text(value))
        return sent


def _lower_text(value: Json) -> str:
    return json_bytes(value).decode() if isinstance(value, dict | list) else text(value)


def need_properties(properties: Mapping[str, Json]) -> None:
    """Refuse a standard event that says nothing."""
    if not any(key not in _OF_THE_EVENT for key in properties):
        refuse(
            "`properties` has nothing but opt_out, event_id and action_source; a standard event needs some"
        )


def money(value: Json, field: str) -> float:
    """Return an amount as a number; 0 without one."""
    if not truthy(value):
        return 0
    amount = parse_float(value)
    if amount is None:
        refuse(f"`{field}` is no number; Meta needs an amount like 9.99")
    return rounded(amount, 2)


def products(properties: Mapping[str, Json]) -> list[dict[str, Json]]:
    """Return an event's products; refuse it if they are anything but a list of objects."""
    given = properties.get("products")
    if not truthy(given):
        return []
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        refuse("`properties.products` is no list of objects; send one object for each product")
    return given


def product_id(product: Mapping[str, Json]) -> Json:
    """Return what Meta knows a product by."""
    return product.get("product_id") or product.get("sku") or product.get("id")


def content(item_id: Json, product: Mapping[str, Json], properties: Mapping[str, Json]) -> dict[str, Json]:
    """Return an entry of `contents`; quantity falls back to the event's."""
    entry = {"id": item_id, "quantity": product.get("quantity") or properties.get("quantity") or 1}
    if truthy(product.get("price")):
        entry["item_price"] = product["price"]
    return entry


def contents_of(
    items: Iterable[Mapping[str, Json]], properties: Mapping[str, Json]
) -> tuple[list[Json], list[Json]]:
    """Return `content_ids` and `contents` of the products that have an id, with the way they reach the buyer."""
    ids: list[Json] = []
    contents: list[Json] = []
    for product in items:
        if truthy(item := product_id(product)):
            ids.append(item)
            entry = content(item, product, properties)
            if (way := _delivery_category(product, properties)) is not None:
                entry["delivery_category"] = way
            contents.append(entry)
    return ids, contents


def search_query(properties: Mapping[str, Json]) -> Json:
    """Return what was searched for; an event whose query is no text is refused."""
    query = properties.get("query")
    if truthy(query) and (isinstance(query, bool) or not isinstance(query, str | int | float)):
        refuse("`properties.query` is no text; send what was searched for")
    return query


def _delivery_category(entry: Mapping[str, Json], properties: Mapping[str, Json]) -> str | None:
    """Return how a purchase reaches the buyer, if it is one of the ways that Meta knows."""
    way = entry.get("delivery_category") or properties.get("delivery_category")
    return way if isinstance(way, str) and way in _DELIVERIES else None


def category_text(category: Json) -> str:
    """Return a category as text: names of several, joined."""
    if isinstance(category, list):
        return ",".join(
            text(mapping(item).get("name", "")) if isinstance(item, dict) else text(item) for item in category
        )
    return text(category) if truthy(category) and not isinstance(category, dict) else ""


def event_name_of(event: Json) -> str:
    """Return a track's name; refuse one without."""
    if not isinstance(event, str) or not event.strip():
        refuse("`event` is missing or no text; Meta needs an event's name")
    return event


def renamed_events(rows: Collection[Json]) -> dict[str, str]:
    """Return RudderStack's `eventsToEvents` by the event's name in lower case."""
    found: dict[str, str] = {}
    for row in map(mapping, rows):
        if (
            isinstance(row.get("from"), str)
            and row["from"].strip()
            and isinstance(row.get("to"), str)
            and row["to"]
        ):
            found.setdefault(row["from"].strip().lower(), row["to"])
    return found


def checked_place(place: Json) -> str:
    """Return where an event happened (`action_source`); refuse what Meta does not know."""
    if not isinstance(place, str) or place not in _PLACES:
        refuse(f"`properties.action_source` is none of {', '.join(sorted(_PLACES))}")
    return place


def checked_time(message: dict[str, Json], context: MapContext, action_source: str) -> int:
    """Return when an event happened, in ms; refuse it if Meta would not take it any more."""
    at_ms = happened_ms(message)
    if at_ms is None:
        at_ms = context.now_ms
    most = 62 if action_source == "physical_store" else 7
    if context.now_ms - at_ms > most * _DAY_MS or at_ms - context.now_ms > 60_000:
        refuse(f"`timestamp` is more than {most} days old, or in the future; Meta takes no such events")
    return at_ms


def server_event(
    message: dict[str, Json],
    *,
    name: str,
    at_ms: int,
    person: Mapping[str, Json],
    action_source: Json,
    custom: Mapping[str, Json] | None,
    limited: bool,
) -> dict[str, Json]:
    """Return an event of the Conversions API.

    Args:
        limited: send `context.dataProcessingOptions`: the options, the country, the state.
    """
    properties = mapping(message.get("properties"))
    event: dict[str, Json] = {"user_data": person, "event_name": name, "event_time": at_ms // 1000}
    if (url := first(message, *PAGE_URL)) is not None:
        event["event_source_url"] = url
    if (event_id := first(message, *_EVENT_ID)) is not None:
        event["event_id"] = event_id
    event.update(pick(properties, ("opt_out",)))
    event["action_source"] = action_source
    if limited and (options := sequence(mapping(message.get("context")).get("dataProcessingOptions"))):
        fields = (
            "data_processing_options",
            "data_processing_options_country",
            "data_processing_options_state",
        )
        event.update(zip(fields, options, strict=False))
    if custom is not None:
        event["custom_data"] = custom
    return event


def events_call(dataset_id: str, token: str, event: Mapping[str, Json], test_code: str) -> Call:
    """Return the request that sends an event."""
    fields: dict[str, Json] = {"data": JsonTexts([json_bytes(event).decode()])}
    if test_code:
        fields["test_event_code"] = test_code
    return form_call(
        f"{GRAPH}/{dataset_id}/events?access_token={token}", fields, label="events", secrets=(token,)
    )


# ---------------------------------------------------------------- how it says no

# https://developers.facebook.com/docs/graph-api/guides/error-handling, .../docs/graph-api/overview/rate-limiting
_THROTTLED: Final = frozenset((4, 17, 32, 613)) | frozenset(range(80000, 80015))
_TRANSIENT: Final = frozenset((1, 2, 341, 368))
_CREDENTIALS: Final = frozenset((102, 190, 463, 467))
_PERMISSION: Final = frozenset((3, 10)) | frozenset(range(200, 300))
_ACCOUNT: Final = frozenset((2655, 1487301))
"""Terms that were not accepted, an audience that is not shared with the ad account: repaired by people."""
_NO_SUCH_OBJECT: Final = 33
"""A wrong id, or one the token may not see: nothing the event could change."""


def read_answer(
    request: Request, response: Response, taken: Callable[[dict[str, Json]], bool]
) -> Delivery | None:
    """Return what Meta's answer means; None where only its status tells.

    Args:
        taken: tells from the body of a 200 whether it proves that what was sent was taken.
    """
    said = answer_of(response).body
    if response.status == 400 and not isinstance(said, dict):
        # The Graph API answers in JSON: something in between has spoken.
        return Retry("http 400, but no answer of Meta's", destination_wide=True)
    body = mapping(said)
    error = body.get("error")
    if not isinstance(error, dict):
        if response.status == 200 and taken(body):
            return Delivered("200", acceptance="accepted")
        return None
    code = error.get("code") if isinstance(error.get("code"), int) else None
    subcode = error.get("error_subcode")
    why = error.get("error_user_msg") or error.get("message")
    reason = f"Meta's error {code}" + (f"/{subcode}" if isinstance(subcode, int) else "")
    answer = f"{response.status} {text(error.get('type', ''))}: {text(why)}"[:512]
    for secret in request.secrets:
        answer = answer.replace(secret, "***")
    if code in _THROTTLED:
        return Retry(f"{reason}: too many calls", throttled=True, answer=answer)
    if code in _CREDENTIALS:
        return Retry(f"{reason}: the access token is refused", destination_wide=True, answer=answer)
    if error.get("is_transient") is True or code in _TRANSIENT:
        return Retry(f"{reason}: transient", destination_wide=response.status >= 500, answer=answer)
    if code in _PERMISSION or code in _ACCOUNT or (code == 100 and subcode == _NO_SUCH_OBJECT):
        return Retry(f"{reason}: a permission is missing", destination_wide=True, answer=answer)
    if code == 100 or code in (2635, 2500):
        return Rejected(f"{reason}: invalid parameter", answer)
    if response.status == 200:
        return Rejected(reason, answer)
    return None


def classify_event(request: Request, response: Response) -> Delivery | None:
    """Meta says how many events it received; its errors have codes."""
    return read_answer(request, response, lambda body: body.get("events_received") == 1)
