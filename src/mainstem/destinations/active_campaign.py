"""ActiveCampaign: contacts with their tags, lists and fields; events; domains of tracked sites.

Follows https://developers.activecampaign.com/reference/sync-a-contacts-data (API v3), .../reference/tags,
.../reference/update-list-status-for-contact, .../reference/track-event and .../reference/add-domain-to-whitelist, read
2026-11. Auth: the account's API key in the header Api-Token; events by the event key. Limits: 5 requests a second.

An identify creates or updates the contact with its e-mail; it gets the tags in `tags` (a list; they are made if need
be), joins and leaves the lists in `lists`, and its custom fields are filled from `fieldInfo`. A track or screen becomes
an event, which is made known to the account first. A page allows site tracking for its domain.
"""

from collections.abc import Generator, Mapping
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import msgspec

from mainstem.destinations.base import (
    Answer,
    Call,
    Delivered,
    Delivery,
    DestinationSpec,
    Looking,
    MapContext,
    Mapper,
    MappingTable,
    Rejected,
    Request,
    Response,
)
from mainstem.destinations.kit.body import json_bytes
from mainstem.destinations.kit.call import form_call, json_call
from mainstem.destinations.kit.dialogue import answer_of, ok, or_postpone
from mainstem.destinations.kit.refuse import dialogue, postpone, refuse
from mainstem.destinations.kit.spec_fields import PAGE_URL
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.values import first, get, mapping, number, present, sequence, text
from mainstem.destinations.kit.wire import url_error
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_PAGE: Final = 100
"""Most entries a list gives at once."""
_PAGES: Final = 50
"""Pages of a list that are read at most."""
_KNOWN_FOR_S: Final = 600.0
"""How long the account's tags, fields and events are believed. What was made meanwhile is remembered as long."""


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    api_key: Secret = Secret("")
    """API key of the account (Settings > Developer)."""
    api_url: str = ""
    """URL of the account's API: https://example.api-us1.com."""
    actid: str = ""
    """Id of the account for event tracking (Settings > Tracking > Event Tracking)."""
    event_key: Secret = Secret("")
    """Key for event tracking; tracks and screens need it."""
    NEEDED_TO_SEND: ClassVar = frozenset({"apiKey", "apiUrl"})


_CONTACT: Final = Table(
    Row("email", "email"),
    Row("phone", "phone"),
    Row("firstName", "firstName", "firstname", "first_name"),
    Row("lastName", "lastName", "lastname", "last_name"),
)
_LIST_STATUS: Final = {"subscribe": "1", "unsubscribe": "2"}


class _Account:
    """The settings, compiled."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.base = config.api_url.rstrip("/") + "/api/3/"
        self.token = {"Api-Token": config.api_key.reveal()}
        self.headers = {"Content-Type": "application/json", **self.token}
        self.lacks = url_error(config.api_url)

    def write(self, path: str, value: Json, **more: Any) -> Call:
        return json_call(self.base + path, value, headers=self.headers, **more)

    def read(self, path: str, **params: Json) -> Call:
        return Call(
            url=self.base + path, method="GET", params=params, headers=self.headers, cache_s=_KNOWN_FOR_S
        )


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    account = _Account(config)

    def looking(event: Event, context: MapContext) -> Looking:
        if account.lacks is not None:
            refuse(f"`apiUrl` in the settings {account.lacks}")
        match event.type:
            case "identify":
                return ((yield from _contact(event, account)),)
            case "page":
                return (_domain(event, account),)
            case _:
                return ((yield from _event(event, account)),)

    return dialogue(looking)


# ---------------------------------------------------------------- contacts


def _contact(event: Event, account: _Account) -> Generator[Call, Answer, Call]:
    message = event.message
    traits = mapping(message.get("traits")) or mapping(get(message, "context.traits"))
    contact = _CONTACT.build(traits)
    if "email" not in contact:
        refuse("`traits.email` is missing; ActiveCampaign's contacts go by it")
    tags = [tag for tag in sequence(traits.get("tags")) if isinstance(tag, str) and tag]
    lists = [
        (one.get("id"), _LIST_STATUS[one["status"]])
        for one in sequence(traits.get("lists"))
        if isinstance(one, dict) and present(one.get("id")) and text(one.get("status")) in _LIST_STATUS
    ]
    if tags or lists:
        contact_id = yield from _written(account, contact)
        if tags:
            yield from _tag(account, contact_id, tags)
        for known, status in lists:
            body = {"contactList": {"list": known, "contact": contact_id, "status": status}}
            _or_end((yield account.write("contactLists", body)), "changing the contact's list")
    values = yield from _field_values(account, mapping(traits.get("fieldInfo")))
    if values:
        contact["fieldValues"] = values
    return account.write("contact/sync", {"contact": contact})


def _written(account: _Account, contact: Json) -> Generator[Call, Answer, Json]:
    """Return the id of a contact, which only its writing tells."""
    answer = yield account.write("contact/sync", {"contact": dict(contact)})
    _or_end(answer, "creating or updating the contact")
    known = get(answer.body, "contact.id")
    return known if present(known) else postpone("ActiveCampaign answered without the contact's id")


def _tag(account: _Account, contact_id: Json, tags: list[str]) -> Generator[Call, Answer, None]:
    known = yield from _listed(account, "tags", "tag")
    ids = [known[tag] for tag in tags if tag in known]
    for tag in tags:
        if tag not in known:
            body = {"tag": {"tag": tag, "tagType": "contact", "description": ""}}
            answer = yield account.write("tags", body, cache_s=_KNOWN_FOR_S)
            _or_end(answer, "making the tag")
            if present(made := get(answer.body, "tag.id")):
                ids.append(made)
    for tag_id in ids:
        answer = yield account.write("contactTags", {"contactTag": {"contact": contact_id, "tag": tag_id}})
        _or_end(answer, "tagging the contact")


def _listed(account: _Account, path: str, name: str) -> Generator[Call, Answer, dict[str, Json]]:
    """Return the ids of what the account has, by a name."""
    found: dict[str, Json] = {}
    for page in range(_PAGES):
        more = {"offset": page * _PAGE} if page else {}
        answer = yield account.read(path, limit=_PAGE, **more)
        _or_end(answer, f"list of {path}")
        entries = sequence(mapping(answer.body).get(path))
        for one in entries:
            if isinstance(one, dict) and isinstance(one.get(name), str) and present(one.get("id")):
                found.setdefault(one[name], one["id"])
        total = number(get(answer.body, "meta.total")) or 0
        if not entries or (page + 1) * _PAGE >= total:
            break
    return found


def _field_values(account: _Account, info: Mapping[str, Json]) -> Generator[Call, Answer, list[Json]]:
    """Return the values of custom fields; those the account has no field for are left out."""
    if not info:
        return []
    known = yield from _listed(account, "fields", "title")
    return [
        {"field": known[title], "value": _field_value(value)}
        for title, value in info.items()
        if title in known and present(value) and not isinstance(value, dict)
    ]


def _field_value(value: Json) -> str:
    # Several values: https://developers.activecampaign.com/reference/create-fieldvalue
    return f"||{'||'.join(map(text, value))}||" if isinstance(value, list) else text(value)


def _or_end(answer: Answer, what: str) -> None:
    or_postpone(answer, what)
    if not ok(answer):
        said = mapping(next(iter(sequence(mapping(answer.body).get("errors"))), None)).get("title")
        told = f": {text(said)[:200]}" if present(said) else ""
        refuse(f"ActiveCampaign: {what} failed (http {answer.status}{told})", answer.status)
    if not isinstance(answer.body, dict):
        # It answers a wrong key with 200 and the page to log in.
        postpone(f"{what}: no JSON was answered; `apiUrl` or `apiKey` in the settings is wrong")


# ---------------------------------------------------------------- events and sites


def _event(event: Event, account: _Account) -> Generator[Call, Answer, Call]:
    message = event.message
    name = first(message, "event", "name")
    if not isinstance(name, str):
        refuse("`event` is missing; ActiveCampaign's events go by their name")
    if not account.config.actid or not account.config.event_key:
        refuse("`actid` or `eventKey` is missing in the settings; events need them")
    email = first(message, "context.traits.email", "traits.email", "properties.email")
    if email is None:
        refuse(
            "`context.traits.email` is missing; ActiveCampaign's events are about the contact with this e-mail"
        )
    answer = yield account.read("eventTrackingEvents")
    _or_end(answer, "list of events")
    known = [mapping(one).get("name") for one in sequence(mapping(answer.body).get("eventTrackingEvents"))]
    if name not in known:
        body = {"eventTrackingEvent": {"name": name}}
        answer = yield account.write("eventTrackingEvents", body, cache_s=_KNOWN_FOR_S)
        _or_end(answer, "making the event known")
    fields = {
        "key": account.config.event_key.reveal(),
        "actid": account.config.actid,
        "event": name,
        "visit": json_bytes({"email": email}).decode(),
    }
    data = get(message, "properties.name")
    if present(data):
        fields["eventdata"] = text(data)
    headers = {"Content-Type": "application/x-www-form-urlencoded", **account.token}
    return form_call(
        "https://trackcmp.net/event",
        fields,
        headers=headers,
        secrets=(account.config.event_key.reveal(),),
    )


def _domain(event: Event, account: _Account) -> Call:
    url = first(event.message, *PAGE_URL)
    if not isinstance(url, str) or url_error(url) is not None:
        refuse("`context.page.url` is missing or no URL; site tracking is allowed for its domain")
    host = urlsplit(url).hostname or ""
    body = {"siteTrackingDomain": {"name": host.removeprefix("www.")}}
    return account.write("siteTrackingDomains", body)


# ---------------------------------------------------------------- answers


def classify(request: Request, response: Response) -> Delivery | None:
    """Read the answer: to events it is a 200 in any case, with `success`; else what was written comes back."""
    if not 200 <= response.status < 300:
        return None
    body = mapping(answer_of(response).body)
    if "success" in body:
        if body["success"] in (1, True, "1"):
            return Delivered(str(response.status), acceptance="accepted")
        return Rejected(text(body.get("message") or "not taken")[:200])
    if present(get(body, "contact.id")) or present(get(body, "siteTrackingDomain.name")):
        return Delivered(str(response.status), acceptance="accepted")
    return None


SPEC = DestinationSpec(
    name="ACTIVE_CAMPAIGN",
    title="ActiveCampaign",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen"}),
    doc_url="https://developers.activecampaign.com/reference/sync-a-contacts-data",
    mapper=make_mapper,
    classify=classify,
    default_concurrency=4,
    proof="body",
    tables=(MappingTable(title="Contact, from traits", rows=_CONTACT.rows),),
    limits="5 requests a second",
)
