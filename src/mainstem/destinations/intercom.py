"""Intercom: contacts, companies and events.

Follows https://developers.intercom.com/docs/references/2.10/rest-api/api.intercom.io/contacts (API 2.10, and 1.4 for
workspaces that have not moved), read 2026-11. Auth: an access token as a bearer token. Limits: 10,000 requests a
minute for an app, 100 custom attributes a contact.

An identify creates or updates a contact; under 2.10 it is searched for first, by e-mail and user id or by the field
that the event names (`integrations.INTERCOM.lookup`). `company.remove` in its traits takes the contact out of a
company. A track becomes an event. A group creates or updates a company and puts the contact into it, with the tags
in `context.traits.tags`. Records of a warehouse (rETL) are sent as they are mapped.
"""

from collections.abc import Generator, Mapping
from typing import Any, ClassVar, Final

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
    Request,
    Response,
    Retry,
)
from mainstem.destinations.kit.body import quoted
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import answer_of, ok, or_postpone
from mainstem.destinations.kit.refuse import dialogue, refuse
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.times import seconds_of
from mainstem.destinations.kit.values import (
    first,
    flattened,
    get,
    integration_options,
    json_text,
    mapping,
    md5,
    number,
    omit,
    present,
    sequence,
    text,
    truthy,
    without_none,
)
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    api_key: Secret = Secret("")
    """Access token of your app in Intercom."""
    api_version: str = "v2"
    """`v2`: Intercom's API 2.10. `v1`: API 1.4, with users instead of contacts."""
    api_server: str = "standard"
    """Where the workspace is hosted: `standard` (US), `eu` or `au`."""
    app_id: str = ""
    """Id of the workspace; only the web SDK needs it."""
    send_anonymous_id: bool = False
    """Use the anonymousId as the user's id where an event has no userId."""
    update_last_request_at: bool = True
    """API 1.4: let an identify count as the moment at which the user was last seen."""
    collect_context: bool = False
    """API 1.4: send app, device and operating system of the context as custom attributes (`app_name`, `os_name` …)."""
    NEEDED_TO_SEND: ClassVar = frozenset({"apiKey"})


def _seconds(value: Json) -> int | None:
    return seconds_of(value)


def _number(value: Json) -> Json:
    return number(value)


_NAMES: Final = ("firstName", "lastName")
_CONTACT: Final = Table(
    Row("email", "email"),
    Row("phone", "phone"),
    Row("avatar", "avatar"),
    Row("last_seen_at", "lastSeenAt", as_=_seconds, text="Unix seconds"),
    Row("signed_up_at", "createdAt", as_=_seconds, text="Unix seconds"),
    Row("role", "role"),
    Row("owner_id", "ownerId", as_=_number, text="as a number"),
    Row("unsubscribed_from_emails", "unsubscribedFromEmails"),
)
_CONTACT_TRAITS: Final = frozenset(
    (
        *("email", "phone", "avatar", "lastSeenAt", "createdAt", "role", "ownerId", "unsubscribedFromEmails"),
        *("userId", "external_id", "company", "name"),
        *_NAMES,
    )
)
_USER: Final = Table(
    Row("email", "email"),
    Row("phone", "phone"),
    Row("signed_up_at", "createdAt", as_=_seconds, text="Unix seconds"),
    Row("last_seen_user_agent", "userAgent"),
    Row("unsubscribed_from_emails", "unsubscribedFromEmails"),
)
_USER_TRAITS: Final = frozenset(
    ("email", "phone", "createdAt", "unsubscribedFromEmails", "userId", "company", "name", *_NAMES)
)
_COMPANY: Final = Table(
    Row("name", "name"),
    Row("website", "website"),
    Row("plan", "plan"),
    Row("size", "size", as_=_number, text="as a number"),
    Row("industry", "industry"),
    Row("monthly_spend", "monthlySpend", "monthly_spend", as_=_number, text="as a number"),
    Row("remote_created_at", "remoteCreatedAt", "createdAt", as_=_seconds, text="Unix seconds"),
)
_COMPANY_TRAITS: Final = frozenset(
    (
        *("name", "website", "plan", "size", "industry", "monthlySpend", "monthly_spend"),
        *("remoteCreatedAt", "createdAt", "userId"),
    )
)
_CONTEXT: Final = Table(
    Row("app_name", "app.name"),
    Row("app_version", "app.version"),
    Row("device_model", "device.model"),
    Row("device_manufacturer", "device.manufacturer"),
    Row("device_type", "device.type"),
    Row("os_name", "os.name"),
    Row("os_version", "os.version"),
    Row("carrier", "network.carrier"),
)
_HOSTS: Final = {"eu": "https://api.eu.intercom.io", "au": "https://api.au.intercom.io"}


class _Workspace:
    """The settings, compiled."""

    def __init__(self, config: Config, partner: str) -> None:
        self.config = config
        self.old = config.api_version == "v1"
        self.host = _HOSTS.get(config.api_server, "https://api.intercom.io")
        self.headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {config.api_key.reveal()}",
            "Accept": "application/json",
            "Intercom-Version": "1.4" if self.old else "2.10",
            "User-Agent": partner,
        }

    def call(self, path: str, value: Json, *, method: str = "POST", user_id: Json = None) -> Call:
        return json_call(
            self.host + path,
            value,
            method=method,
            headers=self.headers,
            user_id=user_id,
        )

    def bare(self, method: str, path: str, params: Mapping[str, Json] | None = None) -> Call:
        return Call(url=self.host + path, method=method, headers=self.headers, params=params or {})


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    workspaces: dict[str, _Workspace] = {}

    def looking(event: Event, context: MapContext) -> Looking:
        if not config.api_key:
            refuse("`apiKey` is missing in the settings; give an access token of your app in Intercom")
        workspace = workspaces.get(context.partner)
        if workspace is None:
            workspace = workspaces[context.partner] = _Workspace(config, context.partner)
        match event.type:
            case "identify" if workspace.old:
                return (_user(event, workspace),)
            case "identify":
                return (yield from _contact(event, workspace))
            case "track":
                return (_event(event, workspace),)
            case _ if workspace.old:
                return _company_of_user(event, workspace)
            case _:
                return (yield from _company(event, workspace))

    return dialogue(looking)


# ---------------------------------------------------------------- who


def _traits(message: Mapping[str, Json]) -> dict[str, Json]:
    return mapping(message.get("traits")) or mapping(get(message, "context.traits"))


def _is_record(message: Mapping[str, Json]) -> bool:
    return truthy(get(message, "context.mappedToDestination"))


def _user_id(message: Mapping[str, Json], workspace: _Workspace, *, traits: bool = True) -> Json:
    paths = ("userId", "traits.userId", "context.traits.userId") if traits else ("userId",)
    found = first(message, *paths)
    if found is None and workspace.config.send_anonymous_id:
        found = first(message, "anonymousId")
    return found


def _queue_id(message: Mapping[str, Json], workspace: _Workspace) -> Json:
    return message.get("anonymousId") if workspace.old else None


def _name(traits: Mapping[str, Json]) -> Json:
    name = traits.get("name")
    if present(name):
        return name
    return " ".join(text(part) for key in _NAMES if present(part := traits.get(key))) or None


def _record(message: Mapping[str, Json]) -> dict[str, Json]:
    """Return the body that a record of a warehouse has been mapped to."""
    body = dict(mapping(message.get("traits")))
    entry = mapping(next(iter(sequence(get(message, "context.externalId"))), None))
    if isinstance(entry.get("identifierType"), str) and present(entry.get("id")):
        body[entry["identifierType"]] = entry["id"]
    if present(body.get("user_id")):
        body["external_id"] = body["user_id"]
    return body


# ---------------------------------------------------------------- contacts


def _contact(event: Event, workspace: _Workspace) -> Looking:
    message = event.message
    body = _record(message) if _is_record(message) else _contact_body(message, workspace)
    if not present(body.get("email")) and not present(body.get("external_id")):
        refuse("`userId` and `traits.email` are missing; Intercom's contacts need one of them")
    found = yield from _search(message, workspace)
    if found is None:
        return (workspace.call("/contacts", body),)
    company = mapping(_traits(message).get("company"))
    if truthy(company.get("remove")) and present(company.get("id")):
        yield from _detach(found, company["id"], workspace)
    return (workspace.call(f"/contacts/{quoted(found)}", body, method="PUT"),)


def _contact_body(message: Mapping[str, Json], workspace: _Workspace) -> dict[str, Json]:
    traits = _traits(message)
    body = _CONTACT.build(traits)
    external_id = _user_id(message, workspace)
    if external_id is not None:
        body["external_id"] = external_id
    if (name := _name(traits)) is not None:
        body["name"] = name
    unsubscribed = get(message, "context.unsubscribedFromEmails")
    if isinstance(unsubscribed, bool):
        body["unsubscribed_from_emails"] = unsubscribed
    custom = _custom(omit(traits, _CONTACT_TRAITS))
    if custom:
        body["custom_attributes"] = custom
    return body


def _custom(traits: Mapping[str, Json]) -> dict[str, Json]:
    """Return traits as custom attributes, which are flat: `address.city`, `tags[0]`."""
    return flattened(traits, lists="bracket", keep_empty=False)


def _search(message: Mapping[str, Json], workspace: _Workspace) -> Generator[Call, Answer, str | None]:
    """Return the id of the contact, or None."""
    traits = _traits(message)
    wanted: list[tuple[str, Json]] = []
    operator = "AND"
    lookup = integration_options(message, "INTERCOM", "Intercom", "intercom").get("lookup")
    if _is_record(message):
        entry = mapping(next(iter(sequence(get(message, "context.externalId"))), None))
        field = entry.get("identifierType")
        if isinstance(field, str) and present(entry.get("id")):
            wanted.append(("external_id" if field == "user_id" else field, entry["id"]))
    elif isinstance(lookup, str) and lookup:
        if present(value := traits.get(lookup)):
            wanted.append((lookup, value))
    else:
        operator = "OR"
        wanted += [("email", traits.get("email")), ("external_id", _user_id(message, workspace))]
        # A group's traits are the company's.
        if message.get("type") == "group":
            wanted[0] = ("email", get(message, "context.traits.email"))
            wanted[1] = ("external_id", _user_id(message, workspace, traits=False))
        wanted = [(field, value) for field, value in wanted if present(value)]
    if not wanted:
        return None
    conditions = [{"field": field, "operator": "=", "value": value} for field, value in wanted]
    answer = yield workspace.call("/contacts/search", {"query": {"operator": operator, "value": conditions}})
    _or_end(answer, "search of the contact")
    contacts = sequence(mapping(answer.body).get("data"))
    found = mapping(contacts[0]).get("id") if contacts else None
    return text(found) if present(found) else None


def _detach(contact_id: str, company_id: Json, workspace: _Workspace) -> Generator[Call, Answer, None]:
    answer = yield workspace.bare("GET", "/companies", {"company_id": text(company_id)})
    or_postpone(answer, "look-up of the company")
    found = mapping(answer.body).get("id")
    if not ok(answer) or not present(found):
        refuse(f"Intercom has no such company, `traits.company.id` {_said(answer)}")
    answer = yield workspace.bare("DELETE", f"/contacts/{quoted(contact_id)}/companies/{quoted(text(found))}")
    or_postpone(answer, "taking the contact out of the company")
    if not ok(answer):
        refuse(f"Intercom did not take the contact out of the company {_said(answer)}")


def _or_end(answer: Answer, what: str) -> None:
    or_postpone(answer, what)
    if not ok(answer):
        refuse(f"Intercom: {what} failed {_said(answer)}", answer.status)


def _said(answer: Answer) -> str:
    errors = sequence(mapping(answer.body).get("errors"))
    message = mapping(errors[0]).get("message") if errors else None
    return f"(http {answer.status}" + (f": {text(message)[:200]})" if present(message) else ")")


# ---------------------------------------------------------------- users of the old API


def _user(event: Event, workspace: _Workspace) -> Call:
    message = event.message
    queue = _queue_id(message, workspace)
    if _is_record(message):
        body = _record(message)
        body.pop("external_id", None)
        if not present(body.get("email")) and not present(body.get("user_id")):
            refuse("`user_id` and `email` of the record are missing; Intercom's users need one of them")
        return workspace.call("/users", body, user_id=queue)
    traits = _traits(message)
    body = _USER.build({**traits, "userAgent": get(message, "context.userAgent")})
    user_id = _user_id(message, workspace)
    if user_id is not None:
        body["user_id"] = user_id
    if "email" not in body and user_id is None:
        refuse("`userId` and `traits.email` are missing; Intercom's users need one of them")
    if (name := _name(traits)) is not None:
        body["name"] = name
    custom = _custom(omit(traits, _USER_TRAITS))
    if workspace.config.collect_context:
        custom.update(_CONTEXT.build(mapping(message.get("context"))))
    if custom:
        body["custom_attributes"] = custom
    company = mapping(traits.get("company"))
    if present(company.get("id")) or present(company.get("name")):
        body["companies"] = [_company_in_user(company)]
    body["update_last_request_at"] = workspace.config.update_last_request_at
    return workspace.call("/users", body, user_id=queue)


def _company_in_user(company: Mapping[str, Json]) -> dict[str, Json]:
    body = _COMPANY.build(dict(company))
    known = company.get("id")
    # Companies that were never given an id are known by the hash of their name.
    body["company_id"] = known if present(known) else md5(text(company.get("name")))
    if truthy(company.get("remove")):
        body["remove"] = True
    custom = {
        key: json_text(value) if isinstance(value, dict | list) else value
        for key, value in without_none(omit(company, _COMPANY_TRAITS | {"id", "remove"})).items()
    }
    if custom:
        body["custom_attributes"] = custom
    return body


# ---------------------------------------------------------------- events


def _event(event: Event, workspace: _Workspace) -> Call:
    message = event.message
    queue = _queue_id(message, workspace)
    if _is_record(message):
        body = _record(message)
        if not present(body.get("event_name")):
            body["event_name"] = event.name
    else:
        body = without_none(
            {
                "event_name": event.name,
                "user_id": _user_id(message, workspace),
                "email": first(message, "traits.email", "context.traits.email"),
                "created" if workspace.old else "created_at": seconds_of(
                    first(message, "timestamp", "originalTimestamp")
                ),
            }
        )
        metadata = _metadata(mapping(message.get("properties")))
        if metadata:
            body["metadata"] = metadata
    if not body.get("event_name"):
        refuse("`event` is missing; Intercom's events go by their name")
    if not present(body.get("user_id")) and not present(body.get("email")):
        refuse("`userId` and `traits.email` are missing; Intercom's events need one of them")
    return workspace.call("/events", body, user_id=queue)


_SHOWN: Final = ({"amount", "currency"}, {"url", "value"})


def _metadata(properties: Mapping[str, Json]) -> dict[str, Json]:
    """Return properties as metadata: flat, but for links and amounts of money, which Intercom shows as such.

    https://developers.intercom.com/docs/references/2.10/rest-api/api.intercom.io/data-events/createdataevent
    """
    kept: dict[str, Json] = {}
    for key, value in properties.items():
        nested = isinstance(value, dict | list)
        if nested and not any(shown <= mapping(value).keys() for shown in _SHOWN):
            kept.update(_custom({key: value}))
        else:
            kept[key] = value
    return kept


# ---------------------------------------------------------------- companies


def _company_body(message: Mapping[str, Json]) -> dict[str, Json]:
    group_id = message.get("groupId")
    if not present(group_id):
        refuse("`groupId` is missing; Intercom's companies go by it")
    traits = mapping(message.get("traits"))
    body = _COMPANY.build(traits)
    body["company_id"] = group_id
    custom = _custom(omit(traits, _COMPANY_TRAITS))
    if custom:
        body["custom_attributes"] = custom
    return body


def _company_of_user(event: Event, workspace: _Workspace) -> tuple[Call, ...]:
    message = event.message
    body = _company_body(message)
    queue = _queue_id(message, workspace)
    company = workspace.call("/companies", body, user_id=queue)
    who = without_none(
        {
            "user_id": _user_id(message, workspace, traits=False),
            "email": get(message, "context.traits.email"),
        }
    )
    if not who:
        return (company,)
    joined = [without_none({"company_id": body["company_id"], "name": body.get("name")})]
    return company, workspace.call("/users", {**who, "companies": joined}, user_id=queue)


def _company(event: Event, workspace: _Workspace) -> Looking:
    message = event.message
    body = _company_body(message)
    company = workspace.call("/companies", body)
    found = yield from _search(message, workspace)
    if found is None:
        return (company,)
    # The id under which Intercom keeps the company is in the answer to writing it, which changes nothing the
    # second time.
    answer = yield company
    _or_end(answer, "creating or updating the company")
    known = mapping(answer.body).get("id")
    if not present(known):
        refuse("Intercom answered without the company's id, so that the contact can't be put into it")
    for tag in sequence(get(message, "context.traits.tags")):
        if isinstance(tag, str) and tag:
            answer = yield workspace.call("/tags", {"name": tag, "companies": [{"id": known}]})
            _or_end(answer, "tagging the company")
    return (workspace.call(f"/contacts/{quoted(found)}/companies", {"id": known}),)


# ---------------------------------------------------------------- answers


def classify(request: Request, response: Response) -> Delivery | None:
    """Read Intercom's answer.

    A conflict (409) is another request's about the same contact, made between our search and this one: the next
    search finds it. What was written comes back with its id.
    """
    if response.status == 409:
        return Retry("http 409: the contact was made meanwhile")
    body = mapping(answer_of(response).body)
    if 200 <= response.status < 300 and present(body.get("id")):
        return Delivered(str(response.status), acceptance="accepted")
    return None


SPEC = DestinationSpec(
    name="INTERCOM",
    title="Intercom",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track", "group"}),
    doc_url="https://developers.intercom.com/docs/references/2.10/rest-api/api.intercom.io/contacts",
    mapper=make_mapper,
    classify=classify,
    proof="body",
    tables=(
        MappingTable(title="Contact (API 2.10), from traits", rows=_CONTACT.rows),
        MappingTable(title="User (API 1.4), from traits", rows=_USER.rows),
        MappingTable(title="Company, from the group's traits", rows=_COMPANY.rows),
    ),
    limits="10,000 requests a minute; 100 custom attributes a contact",
)
