"""WebEngage: users and their events.

Follows https://docs.webengage.com/docs/rest-api-tracking-users and https://docs.webengage.com/docs/rest-api-tracking-events
(API v1) and RudderStack's mapping (https://www.rudderstack.com/docs/destinations/streaming-destinations/webengage/; all
read 2026-11). Auth: the API key as a bearer token. Limits: 100 characters an id, 50 a name, 1,000 a text; 25 custom
attributes of each type.

identify: a user with WebEngage's own attributes, and all other traits as `attributes`. track: an event of its name.
page and screen: `Viewed CATEGORY NAME page`, `Viewed CATEGORY NAME screen`.
"""

from typing import Any, Final

import msgspec

from mainstem.destinations.base import (
    Delivered,
    Delivery,
    DestinationSpec,
    MapContext,
    Mapper,
    MappingTable,
    Payloads,
    Request,
    Response,
    Retry,
)
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.spec_fields import TIMESTAMP
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.times import moment_of
from mainstem.destinations.kit.values import first, mapping, omit, present, text, traits_of
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_HOSTS: Final = {
    "standard": "api.webengage.com",
    "ind": "api.in.webengage.com",
    "ksa": "api.ksa.webengage.com",
}
_GENDERS: Final = {
    "m": "male",
    "male": "male",
    "f": "female",
    "female": "female",
    "o": "other",
    "other": "other",
}


def _gender(value: Json) -> str | None:
    return _GENDERS.get(text(value).strip().lower())


def _time(value: Json) -> str:
    """Return a time as WebEngage wants it: 2021-09-01T15:46:51+0000."""
    moment = moment_of(value)
    if moment is None:
        refuse("a time or birth date of the event can't be read; write it as ISO 8601, 2026-01-31T12:00:00Z")
    return f"{moment:%Y-%m-%dT%H:%M:%S}+0000"


_USER: Final = Table(
    Row("firstName", "firstName", "firstname", "first_name"),
    Row("lastName", "lastName", "lastname", "last_name"),
    Row("email", "email"),
    Row("phone", "phone"),
    Row("gender", "gender", as_=_gender, text="male, female or other"),
    Row("birthDate", "birthday", "dateOfBirth", "dateofbirth", "dob", "DOB", as_=_time),
    Row("company", "company.name"),
    Row("emailOptIn", "emailOptIn"),
    Row("smsOptIn", "smsOptIn"),
    Row("whatsappOptIn", "whatsappOptIn"),
    Row("hashedEmail", "hashedEmail"),
    Row("hashedPhone", "hashedPhone"),
    Row("postalCode", "postalCode", "postalcode", "address.postalCode"),
    Row("region", "region", "address.region"),
    Row("locality", "locality", "address.locality"),
    Row("city", "city", "address.city"),
    Row("country", "country", "address.country"),
)
_NOT_CUSTOM: Final = frozenset(
    {source.partition(".")[0] for _, sources, _ in _USER.rows for source in sources}
    | {"name", "attributes", "userId", "anonymousId"}
)
_EVENT_TIME: Final = Table(Row("eventTime", *TIMESTAMP, as_=_time))


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    license_code: str
    """The account's license code."""
    api_key: Secret
    """The key of the REST API."""
    data_center: str = "standard"
    """standard, ind (India) or ksa (Saudi Arabia)."""

    def __post_init__(self) -> None:
        if self.data_center not in _HOSTS:
            raise ValueError(f"`dataCenter` is not one of {', '.join(_HOSTS)}")


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {config.api_key.reveal()}"}
    base = f"https://{_HOSTS[config.data_center]}/v1/accounts/{config.license_code}"

    def to_calls(event: Event, context: MapContext) -> Payloads:
        if event.user_id:
            who = {"userId": event.user_id}
        elif event.anonymous_id:
            who = {"anonymousId": event.anonymous_id}
        else:
            refuse("`userId` and `anonymousId` are missing; WebEngage needs one of them")
        if event.type == "identify":
            return (json_call(f"{base}/users", {**who, **_user(event.message)}, headers=headers),)
        body = {**who, "eventName": _event_name(event), **_EVENT_TIME.build(event.message)}
        properties = mapping(event.message.get("properties"))
        if properties:
            body["eventData"] = properties
        return (json_call(f"{base}/events", body, headers=headers),)

    return settled(to_calls)


def _user(message: dict[str, Json]) -> dict[str, Json]:
    traits = traits_of(message)
    user = _USER.build(traits)
    if "firstName" not in user and "lastName" not in user and present(traits.get("name")):
        given, _, family = text(traits["name"]).strip().partition(" ")
        user |= {"firstName": given, **({"lastName": family.strip()} if family.strip() else {})}
    custom = {**omit(traits, _NOT_CUSTOM), **mapping(traits.get("attributes"))}
    custom = {name: value for name, value in custom.items() if value is not None}
    return {**user, "attributes": custom} if custom else user


def _event_name(event: Event) -> str:
    if event.type == "track":
        return event.name or refuse("`event` is missing; WebEngage's events have names")
    category = first(event.message, "properties.category", "category")
    name = first(event.message, "name", "properties.name")
    return " ".join(["Viewed", *(text(part) for part in (category, name) if part), event.type])


def classify(request: Request, response: Response) -> Delivery | None:
    """WebEngage says `{"response": {"status": "queued"}}` of what it takes; 404 when the license code is wrong."""
    if response.status == 404:
        return Retry(
            "http 404: WebEngage does not know the license code", destination_wide=True, answer="404"
        )
    status = mapping(mapping(answer_of(response).body).get("response")).get("status")
    if 200 <= response.status < 300 and status in ("queued", "success"):
        return Delivered(str(response.status), acceptance="accepted")
    return None


SPEC = DestinationSpec(
    name="WEBENGAGE",
    title="WebEngage",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen"}),
    doc_url="https://docs.webengage.com/docs/rest-api-tracking-events",
    mapper=make_mapper,
    classify=classify,
    proof="body",
    tables=(MappingTable(title="User, of the traits", rows=_USER.rows),),
    limits="100 characters an id, 50 a name, 1,000 a text",
)
