"""Salesforce: leads, contacts and records of any object.

Follows https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/ (REST API v50.0: sObject Rows,
Parameterized Search), read 2026-11. Auth: OAuth; by the password grant (user, password and security token, and a
connected app), or by an OAuth account. Limits: 100,000 requests a day and 1,000 more for each licence (Enterprise).

An identify updates the records that its external ids name (`Salesforce-Lead`, `Salesforce-Contact` …), else the lead
with its e-mail, else it creates one. Traits become the standard fields of the object, and others custom fields
(`plan__c`). Records of a warehouse (rETL) are found by the field that identifies them, and updated or created with
their traits as they are.
"""

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import msgspec

from mainstem.destinations.base import (
    Answer,
    Batch,
    Batcher,
    Call,
    Delivered,
    Delivery,
    DestinationSpec,
    Looking,
    MapContext,
    Mapper,
    MappingTable,
    OAuth,
    Request,
    Response,
    Retry,
    Unit,
)
from mainstem.destinations.kit.body import quoted
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import answer_of, ok, or_postpone
from mainstem.destinations.kit.paths import MISSING
from mainstem.destinations.kit.refuse import NotSent, dialogue, postpone, refuse
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.values import get, mapping, omit, present, sequence, text, truthy, without_none
from mainstem.destinations.kit.wire import url_error
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any
Session = tuple[str, dict[str, str], tuple[str, ...]]
"""Where the API is, the headers that open it, and what of them is secret."""

_VERSION: Final = "v50.0"
_SESSION_S: Final = 600.0
"""How long an access token is used: sessions of Salesforce last 15 minutes at least."""
_NAME: Final = re.compile(r"\w{1,80}", re.ASCII)
_ABSENT: Final = "n/a"
"""For the fields that Salesforce requires."""


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    user_name: str = ""
    """User that is logged in."""
    password: Secret = Secret("")
    """The user's password."""
    initial_access_token: Secret = Secret("")
    """The user's security token."""
    consumer_key: str = ""
    """Consumer key (client id) of your connected app in Salesforce, which allows the password grant."""
    consumer_secret: Secret = Secret("")
    """Consumer secret of the connected app."""
    sandbox: bool = False
    """Log in at test.salesforce.com instead of login.salesforce.com."""
    map_property: bool = True
    """Send traits as standard fields (`Email`) and custom fields (`plan__c`). False: send them as they are named."""
    use_contact_id: bool = False
    """Update the contact that a lead was converted to, instead of the lead."""
    NEEDED_TO_SEND: ClassVar = frozenset(
        {"userName", "password", "initialAccessToken", "consumerKey", "consumerSecret"}
    )


class OAuthConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    instance_url: str = ""
    """Where the organization's API is: https://example.my.salesforce.com."""
    map_property: bool = True
    """Send traits as standard fields (`Email`) and custom fields (`plan__c`). False: send them as they are named."""
    use_contact_id: bool = False
    """Update the contact that a lead was converted to, instead of the lead."""
    rudder_account_id: str = ""
    """Id of the OAuth account at RudderStack; not used, `oauth` takes its place."""
    NEEDED_TO_SEND: ClassVar = frozenset({"instanceUrl"})


_ADDRESS: Final = ("street", "city", "state", "country", "postalCode")
_PERSON: Final = (
    Row("Email", "email"),
    Row("FirstName", "firstName", "firstname", "first_name"),
    Row("LastName", "lastName", "lastname", "last_name", default=_ABSENT),
    Row("Phone", "phone"),
    Row("MobilePhone", "mobilePhone"),
    Row("Fax", "fax"),
    Row("Title", "title"),
    Row("Salutation", "salutation"),
    Row("Description", "description"),
    Row("LeadSource", "leadSource", "LeadSource"),
)
_LEAD: Final = Table(
    *_PERSON,
    Row("Company", "company.name", "company", default=_ABSENT),
    Row("Rating", "rating"),
    Row("Industry", "industry", "company.industry"),
    Row("Website", "website"),
    Row("Status", "status"),
    Row("AnnualRevenue", "annualRevenue"),
    Row("NumberOfEmployees", "employees", "company.employee_count"),
    Row("Street", "address.street", "street"),
    Row("City", "address.city", "city"),
    Row("State", "address.state", "state"),
    Row("Country", "address.country", "country"),
    Row("PostalCode", "address.postalCode", "postalCode", "address.zip", "zip"),
)
_CONTACT: Final = Table(
    *_PERSON,
    Row("Department", "department"),
    Row("Birthdate", "birthday", "birthdate"),
    Row("MailingStreet", "address.street", "street"),
    Row("MailingCity", "address.city", "city"),
    Row("MailingState", "address.state", "state"),
    Row("MailingCountry", "address.country", "country"),
    Row("MailingPostalCode", "address.postalCode", "postalCode", "address.zip", "zip"),
)


def _traits_read(table: Table) -> frozenset[str]:
    return frozenset(source.partition(".")[0] for _, sources, _ in table.rows for source in sources)


_NOT_CUSTOM: Final = {"name", "anonymousId", "userId", "id", "address"}
_TABLES: Final = {
    "Lead": (_LEAD, _traits_read(_LEAD) | _NOT_CUSTOM),
    "Contact": (_CONTACT, _traits_read(_CONTACT) | _NOT_CUSTOM),
}


class _Rules(msgspec.Struct, frozen=True):
    """What of the settings the mapping itself goes by."""

    map_property: bool
    use_contact_id: bool


Opening = Callable[[MapContext], Generator[Call, Answer, Session]]


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings: log in by the password grant."""

    def opening(context: MapContext) -> Generator[Call, Answer, Session]:
        # What RudderStack hands over as OAuth secret goes before the password.
        if "instance_url" in context.secret:
            return _oauth_session(context, "")
        return (yield from _log_in(config))

    return _mapper(opening, _Rules(config.map_property, config.use_contact_id))


def make_oauth_mapper(config: OAuthConfig) -> Mapper:
    """Return the mapping for these settings: the access token is delivery's."""

    def opening(context: MapContext) -> Generator[Call, Answer, Session]:
        yield from ()
        return _oauth_session(context, config.instance_url)

    return _mapper(opening, _Rules(config.map_property, config.use_contact_id))


def make_batcher(config: msgspec.Struct) -> Batcher:
    """Return the batching: every event by itself, as a list of requests."""

    def batch(units: Sequence[Unit]) -> Sequence[Batch]:
        return [Batch(unit.calls, (unit.index,), batched=False, many=True) for unit in units]

    return batch


def _mapper(opening: Opening, rules: _Rules) -> Mapper:
    def looking(event: Event, context: MapContext) -> Looking:
        session = yield from opening(context)
        if truthy(get(event.message, "context.mappedToDestination")):
            return ((yield from _record(event, session)),)
        return (yield from _identify(event, session, rules))

    return dialogue(looking)


# ---------------------------------------------------------------- sessions


def _log_in(config: Config) -> Generator[Call, Answer, Session]:
    host = "test" if config.sandbox else "login"
    password = config.password.reveal() + config.initial_access_token.reveal()
    answer = yield Call(
        url=f"https://{host}.salesforce.com/services/oauth2/token",
        params={
            "username": config.user_name,
            "password": password,
            "client_id": config.consumer_key or text(MISSING),
            "client_secret": config.consumer_secret.reveal() or text(MISSING),
            "grant_type": "password",
        },
        headers={"Content-Type": "application/json"},
        cache_s=_SESSION_S,
        secrets=(password, config.consumer_secret.reveal()),
    )
    body = mapping(answer.body)
    token, instance = body.get("access_token"), body.get("instance_url")
    if ok(answer) and isinstance(token, str) and token and isinstance(instance, str):
        return _session(instance, token)
    or_postpone(answer, "logging in")
    # Wrong credentials are put right by people; until then nothing may be lost.
    status = answer.status if answer.status >= 400 else 500
    reason = f"logging in: http {answer.status}, `userName`, `password` or the connected app in the settings is wrong"
    raise NotSent(Retry(reason, destination_wide=True, status=status))


def _oauth_session(context: MapContext, configured: str) -> Session:
    token = context.secret.get("access_token")
    if not token:
        postpone("there is no OAuth access token")
    instance = context.secret.get("instance_url") or configured
    if not instance:
        postpone(
            "`instanceUrl` is missing in the settings; give the organization's, https://….my.salesforce.com"
        )
    return _session(instance, token)


def _session(instance: str, token: str) -> Session:
    if url_error(instance) is not None or urlsplit(instance).scheme != "https":
        refuse("the organization's address (`instanceUrl`) must begin with https://")
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    return f"{instance.rstrip('/')}/services/data/{_VERSION}/", headers, (token,)


def _write(session: Session, kind: str, value: Json, record: str | None) -> Call:
    """Return what creates a record, or updates one."""
    base, headers, secrets = session
    # A POST that stands for a PATCH: https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/dome_upsert.htm
    way = f"/{quoted(record)}?_HttpMethod=PATCH" if record else ""
    return json_call(f"{base}sobjects/{kind}{way}", value, headers=headers, secrets=secrets)


def _search(session: Session, params: Mapping[str, Json]) -> Generator[Call, Answer, list[dict[str, Json]]]:
    base, headers, secrets = session
    answer = yield Call(
        url=f"{base}parameterizedSearch/", method="GET", params=params, headers=headers, secrets=secrets
    )
    _or_wait(answer, "search")
    found = sequence(mapping(answer.body).get("searchRecords"))
    return [record for record in found if isinstance(record, dict)]


def _or_wait(answer: Answer, what: str) -> None:
    """Go on after a 2xx; wait or refuse otherwise."""
    if ok(answer):
        return
    problem = _problem(answer.body)
    if problem == "REQUEST_LIMIT_EXCEEDED":
        postpone(f"{what}: {problem}", 429, throttled=True)
    or_postpone(answer, what)
    refuse(
        f"Salesforce: {what} failed (http {answer.status}{f', {problem}' if problem else ''})", answer.status
    )


# ---------------------------------------------------------------- people


def _identify(event: Event, session: Session, rules: _Rules) -> Looking:
    message = event.message
    traits = mapping(message.get("traits")) or mapping(get(message, "context.traits"))
    named = [
        (entry["type"][len("salesforce-") :], entry.get("id"))
        for entry in sequence(get(message, "context.externalId"))
        if isinstance(entry, dict) and text(entry.get("type")).lower().startswith("salesforce-")
    ]
    if named:
        calls: list[Call] = []
        for kind, record in named:
            if not _NAME.fullmatch(kind) or not present(record):
                refuse(
                    "`context.externalId` names no object and record of Salesforce's, as in Salesforce-Contact"
                )
            calls.append(_write(session, kind, _fields(kind, traits, rules), text(record)))
        return tuple(calls)
    email = traits.get("email")
    if not isinstance(email, str) or not email:
        refuse("`traits.email` is missing; Salesforce's leads are found by it")
    kind, found = yield from _lead(email, session, rules)
    return (_write(session, kind, _fields(kind, traits, rules), found),)


def _lead(email: str, session: Session, rules: _Rules) -> Generator[Call, Answer, tuple[str, str | None]]:
    """Return the object and the id of the record to be updated."""
    fields = "id,IsConverted,ConvertedContactId,IsDeleted"
    records = yield from _search(session, {"q": email, "sobject": "Lead", "Lead.fields": fields})
    if not records:
        return "Lead", None
    lead = records[0]
    if truthy(lead.get("IsDeleted")):
        refuse("Salesforce has deleted the lead of this e-mail; restore it or use another e-mail")
    contact = lead.get("ConvertedContactId")
    if rules.use_contact_id and truthy(lead.get("IsConverted")) and present(contact):
        return "Contact", text(contact)
    return "Lead", text(lead["Id"]) if present(lead.get("Id")) else None


def _fields(kind: str, traits: Mapping[str, Json], rules: _Rules) -> dict[str, Json]:
    if not rules.map_property:
        return without_none(traits)
    table, known = _TABLES.get(kind, (None, frozenset(_NOT_CUSTOM)))
    fields: dict[str, Json] = {}
    if table is not None:
        table.build(_with_names(traits), fields)
    if isinstance(fields.get("Company"), dict | list):
        fields["Company"] = _ABSENT
    custom = without_none(omit(traits, known))
    fields.update((name if name.endswith("__c") else f"{name}__c", value) for name, value in custom.items())
    return fields


def _with_names(traits: Mapping[str, Json]) -> dict[str, Json]:
    """Return traits in which a whole name stands for its parts."""
    name = traits.get("name")
    if not isinstance(name, str) or not name.strip():
        return dict(traits)
    head, _, rest = name.strip().partition(" ")
    parts = {"firstName": head, "lastName": rest.strip() or None}
    return {**parts, **without_none(traits)}


# ---------------------------------------------------------------- records of a warehouse


def _record(event: Event, session: Session) -> Generator[Call, Answer, Call]:
    message = event.message
    entry = mapping(next(iter(sequence(get(message, "context.externalId"))), None))
    kind = text(entry.get("type")).partition("-")[2].lower()
    field, value = entry.get("identifierType"), entry.get("id")
    if (
        not _NAME.fullmatch(kind)
        or not isinstance(field, str)
        or not _NAME.fullmatch(field)
        or not present(value)
    ):
        refuse(
            "`context.externalId` lacks `type`, `identifierType` or `id`; Salesforce's record is found by them"
        )
    traits = mapping(message.get("traits")) or mapping(get(message, "context.traits"))
    if field.lower() == "id":
        return _write(session, kind, omit(traits, {field}), text(value))
    records = yield from _search(
        session,
        {"q": text(value), "sobject": kind, "in": field, f"{kind}.fields": f"id,{field}"},
    )
    # The search is for words: only a record whose field is the value is it.
    same = [record for record in records if text(record.get(field)) == text(value)]
    if len(same) > 1:
        refuse(f"Salesforce has more than one {kind} with this `{field}`; identify records by a unique field")
    body = {**traits, field: value}
    found = same[0].get("Id") if same else None
    return _write(session, kind, body, text(found) if present(found) else None)


# ---------------------------------------------------------------- answers


def classify(request: Request, response: Response) -> Delivery | None:
    """Read Salesforce's answer.

    Error codes: https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/errorcodes.htm. The daily
    limit is told by a 403, and a session that has ended by codes of its own.
    """
    body = answer_of(response).body
    if 200 <= response.status < 300:
        if mapping(body).get("success") is True:
            return Delivered(str(response.status), acceptance="accepted")
        return None
    match _problem(body):
        case "REQUEST_LIMIT_EXCEEDED" | "SERVER_UNAVAILABLE" as problem:
            return Retry(problem, throttled=True)
        case "INVALID_SESSION_ID" | "INVALID_AUTH_HEADER" as problem:
            return Retry(problem, destination_wide=True)
        case "UNABLE_TO_LOCK_ROW" as problem:
            return Retry(problem)
    return None


def _problem(body: Json) -> str:
    """Return the error code of an answer, empty if it has none."""
    first = mapping(next(iter(sequence(body)), None))
    code = first.get("errorCode")
    return code if isinstance(code, str) and _NAME.fullmatch(code) else ""


_DOC: Final = "https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/"
_DOC_TABLES: Final = (
    MappingTable(title="Lead, from traits", rows=_LEAD.rows),
    MappingTable(title="Contact, from traits", rows=_CONTACT.rows),
)
_LIMITS: Final = "100,000 requests a day and 1,000 more for each licence (Enterprise edition)"

SPEC = DestinationSpec(
    name="SALESFORCE",
    title="Salesforce",
    kind="http",
    config=Config,
    message_types=frozenset({"identify"}),
    doc_url=_DOC,
    mapper=make_mapper,
    batcher=make_batcher,
    classify=classify,
    default_concurrency=8,
    proof="body",
    tables=_DOC_TABLES,
    limits=_LIMITS,
)


def _oauth_spec(name: str, title: str, host: str) -> DestinationSpec:
    return DestinationSpec(
        name=name,
        title=title,
        kind="http",
        config=OAuthConfig,
        message_types=frozenset({"identify"}),
        doc_url=_DOC,
        mapper=make_oauth_mapper,
        batcher=make_batcher,
        classify=classify,
        default_concurrency=8,
        oauth=OAuth(token_url=f"https://{host}.salesforce.com/services/oauth2/token"),
        proof="body",
        tables=_DOC_TABLES,
        limits=_LIMITS,
    )


OAUTH = _oauth_spec("SALESFORCE_OAUTH", "Salesforce (OAuth)", "login")
OAUTH_SANDBOX = _oauth_spec("SALESFORCE_OAUTH_SANDBOX", "Salesforce Sandbox (OAuth)", "test")
