"""Marketo Engage: leads, custom activities and custom objects.

Follows https://experienceleague.adobe.com/en/docs/marketo-developer/marketo/rest/lead-database/leads, .../activities
and .../custom-objects (REST API v1), read 2026-11. Auth: OAuth by client credentials of a custom service. Limits: 100
requests in 20 seconds, 10 at once, 50,000 a day.

An identify updates the lead, which is looked up by Marketo's id (an external id `marketoLeadId`), e-mail, user id or
anonymous id, and created where the settings say so. A track that the settings map becomes a custom activity of the
lead. Records of a warehouse (rETL) become custom objects.
"""

import re
from collections.abc import Generator, Mapping
from typing import Any, Final

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
    Retry,
)
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import answer_of, ok, or_postpone
from mainstem.destinations.kit.refuse import NotSent, dialogue, postpone, refuse
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.times import iso_of
from mainstem.destinations.kit.values import (
    external_id,
    first,
    get,
    mapping,
    number,
    omit,
    pairs,
    present,
    sequence,
    text,
    truthy,
)
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_TOKEN_S: Final = 60.0
"""How long a token is used before it is asked for again. Marketo gives the same one until it ends, after an hour."""
_HOST_LABEL: Final = re.compile(r"[A-Za-z0-9_-]+")
_NAME: Final = re.compile(r"\w{1,100}", re.ASCII)

# https://experienceleague.adobe.com/en/docs/marketo-developer/marketo/rest/error-codes
_TOKEN_ENDED: Final = frozenset(("601", "602"))
_AGAIN: Final = frozenset(("604", "608", "611", "614", "713"))
_SLOWER: Final = frozenset(("502", "606", "607", "615"))


class ActivityMapping(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An event, and the custom activity of Marketo's that it becomes."""

    event: str = ""
    marketo_primarykey: str = ""
    marketo_activity_id: str = ""


class Pair(msgspec.Struct, frozen=True):
    """A name, and the one it gets at Marketo."""

    source: str = msgspec.field(name="from", default="")
    target: str = msgspec.field(name="to", default="")


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    account_id: str
    """Munchkin id of the account: `123-ABC-456` of https://123-ABC-456.mktorest.com."""
    client_id: str
    """Client id of the custom service in Marketo's LaunchPoint."""
    client_secret: Secret
    """Client secret of the custom service."""
    track_anonymous_events: bool = False
    """Send events of people who have no user id, by their anonymous id. It takes a field `anonymousId` of leads."""
    create_if_not_exist: bool = False
    """Create leads that are not there."""
    lead_trait_mapping: tuple[Pair, ...] = ()
    """Traits, and the fields of leads that they become, beside the usual ones."""
    rudder_events_mapping: tuple[ActivityMapping, ...] = ()
    """Events, the ids of the custom activities that they become, and the properties with the activity's primary
    attribute."""
    custom_activity_property_map: tuple[Pair, ...] = ()
    """Properties of events, and the attributes of custom activities that they become."""
    custom_activity_event_map: tuple[Pair, ...] = ()
    """Events and activity ids, as older configurations have them."""
    custom_activity_primary_key_map: tuple[Pair, ...] = ()
    """Events and properties with the primary attribute, as older configurations have them."""

    def __post_init__(self) -> None:
        if not _HOST_LABEL.fullmatch(self.account_id):
            raise ValueError("`accountId` is no Munchkin id, like 123-ABC-456")


_LEAD: Final = Table(
    Row("Email", "email"),
    Row("FirstName", "firstName"),
    Row("LastName", "lastName"),
    Row("Phone", "phone"),
    Row("Title", "title"),
    Row("Address", "address.street"),
    Row("City", "address.city"),
    Row("State", "address.state"),
    Row("Country", "address.country"),
    Row("PostalCode", "address.postalCode"),
)


class _Account:
    """The settings, compiled."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.base = f"https://{config.account_id}.mktorest.com/"
        secret = config.client_secret.reveal()
        self.token_call = Call(
            url=f"{self.base}identity/oauth/token",
            method="GET",
            params={
                "client_id": config.client_id,
                "client_secret": secret,
                "grant_type": "client_credentials",
            },
            cache_s=_TOKEN_S,
            secrets=(secret,),
        )
        activities = {one.source: (one.target, "") for one in config.custom_activity_event_map}
        for one in config.custom_activity_primary_key_map:
            activities[one.source] = (activities.get(one.source, ("", ""))[0], one.target)
        for mapped in config.rudder_events_mapping:
            activities[mapped.event] = (mapped.marketo_activity_id, mapped.marketo_primarykey)
        self.activities = activities
        self.attributes = [(one.source, one.target) for one in config.custom_activity_property_map]
        self.traits = pairs([{"from": one.source, "to": one.target} for one in config.lead_trait_mapping])

    def write(self, path: str, value: Json, token: str) -> Call:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        return json_call(f"{self.base}rest/v1/{path}", value, headers=headers, secrets=(token,))


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    account = _Account(config)

    def looking(event: Event, context: MapContext) -> Looking:
        if not config.client_id or not config.client_secret:
            refuse(
                "`clientId` or `clientSecret` is missing in the settings; give those of the custom service"
            )
        if truthy(get(event.message, "context.mappedToDestination")):
            path, body = _record(event)
            token = yield from _token(account)
            return (account.write(path, body, token),)
        if event.type == "track":
            return ((yield from _activity(event, account)),)
        return ((yield from _identify(event, account)),)

    return dialogue(looking)


# ---------------------------------------------------------------- asking Marketo


def _token(account: _Account) -> Generator[Call, Answer, str]:
    answer = yield account.token_call
    _check(answer, "token")
    body = mapping(answer.body)
    token = body.get("access_token")
    if not isinstance(token, str) or not token or body.get("expires_in") == 0:
        postpone("token: Marketo gave one that has ended")
    return token


def _check(answer: Answer, what: str) -> None:
    """Go on after a success; wait or refuse otherwise."""
    or_postpone(answer, what)
    body = mapping(answer.body)
    if ok(answer) and body.get("success") is not False:
        return
    code, said = _problem(body)
    reason = f"Marketo: {what} failed: {said or f'http {answer.status}'}"
    if code in _SLOWER:
        postpone(reason, 429, throttled=True)
    if code in _AGAIN:
        postpone(reason)
    if code in _TOKEN_ENDED:
        raise NotSent(Retry(reason, destination_wide=True))
    refuse(reason, answer.status if answer.status >= 400 else 400)


def _problem(body: Mapping[str, Json]) -> tuple[str, str]:
    error = mapping(next(iter(sequence(body.get("errors"))), None))
    return text(error.get("code") or ""), text(error.get("message") or "")[:200]


def _find(account: _Account, token: str, field: str, value: Json) -> Generator[Call, Answer, Json]:
    """Return the id of the lead whose field has this value, or None."""
    answer = yield Call(
        url=f"{account.base}rest/v1/leads.json",
        method="GET",
        params={"filterValues": text(value), "filterType": field},
        headers={"Authorization": f"Bearer {token}"},
        secrets=(token,),
    )
    _check(answer, f"look-up of the lead by {field}")
    lead = mapping(next(iter(sequence(mapping(answer.body).get("result"))), None)).get("id")
    return lead if present(lead) else None


def _lead_id(
    message: Mapping[str, Json], account: _Account, token: str, *, anonymous: bool
) -> Generator[Call, Answer, Json]:
    """Return the id of the lead that an event is about; created if need be."""
    known = external_id(message, "marketoLeadId")
    if present(known):
        return known
    ids = _ids(message, anonymous=anonymous)
    for field, value in ids:
        found = yield from _find(account, token, field, value)
        if found is not None:
            return found
    if not ids:
        refuse("`userId` and `traits.email` are missing; Marketo's leads are found by them")
    if not account.config.create_if_not_exist:
        refuse("Marketo has no such lead, and the settings (`createIfNotExist`) do not allow to create it")
    field, value = ids[0]
    body = {"action": "createOrUpdate", "input": [{field: value}], "lookupField": field}
    answer = yield account.write("leads.json", body, token)
    _check(answer, "creating the lead")
    made = mapping(next(iter(sequence(mapping(answer.body).get("result"))), None)).get("id")
    return made if present(made) else refuse("Marketo did not create the lead")


def _ids(message: Mapping[str, Json], *, anonymous: bool) -> list[tuple[str, Json]]:
    """Return the fields that leads are found by, best first, with the event's values."""
    email = first(message, "traits.email", "context.traits.email", "properties.email")
    if email is None:
        for entry in sequence(get(message, "context.externalId")):
            if mapping(entry).get("identifierType") == "email" and present(entry.get("id")):
                email = entry["id"]
    ids = [("email", email), ("userId", first(message, "userId"))]
    if anonymous:
        ids.append(("anonymousId", first(message, "anonymousId")))
    return [(field, value) for field, value in ids if value is not None]


# ---------------------------------------------------------------- what is sent


def _identify(event: Event, account: _Account) -> Generator[Call, Answer, Call]:
    message = event.message
    traits = mapping(message.get("traits")) or mapping(get(message, "context.traits"))
    if not traits:
        refuse("`traits` is missing; there is nothing to say about the lead")
    token = yield from _token(account)
    lead = _LEAD.build(traits)
    lead.update(
        (target, value) for source, target in account.traits.items() if present(value := get(traits, source))
    )
    if present(message.get("userId")):
        lead["userId"] = message["userId"]
    lead["id"] = yield from _lead_id(message, account, token, anonymous=True)
    return account.write(
        "leads.json", {"action": "createOrUpdate", "input": [lead], "lookupField": "id"}, token
    )


def _activity(event: Event, account: _Account) -> Generator[Call, Answer, Call]:
    message = event.message
    if not account.config.track_anonymous_events and not _ids(message, anonymous=False):
        refuse("`userId` is missing, and the settings (`trackAnonymousEvents`) do not allow anonymous events")
    kind, primary_key = account.activities.get(event.name, ("", ""))
    kind_id = number(kind) if kind else None
    if kind_id is None:
        refuse(f"the settings do not map the event `{event.name[:100]}` to a custom activity of Marketo's")
    properties = mapping(message.get("properties"))
    primary = properties.get(primary_key)
    if not present(primary):
        refuse(f"`properties.{primary_key}` is missing; it is the activity's primary attribute")
    token = yield from _token(account)
    lead_id = yield from _lead_id(message, account, token, anonymous=account.config.track_anonymous_events)
    attributes = [
        {"name": target, "value": value}
        for source, target in account.attributes
        if source != primary_key and target and present(value := properties.get(source))
    ]
    activity = {
        "activityDate": iso_of(first(message, "timestamp", "originalTimestamp")),
        "activityTypeId": kind_id,
        "attributes": attributes,
        "leadId": lead_id,
        "primaryAttributeValue": primary,
    }
    return account.write("activities/external.json", {"input": [activity]}, token)


def _record(event: Event) -> tuple[str, Json]:
    """Return the path and the body of a record of a warehouse."""
    message = event.message
    entry = mapping(next(iter(sequence(get(message, "context.externalId"))), None))
    kind = text(entry.get("type")).partition("-")[2]
    field, value = entry.get("identifierType"), entry.get("id")
    if not _NAME.fullmatch(kind) or not isinstance(field, str) or not present(value):
        refuse(
            "`context.externalId` lacks `type`, `identifierType` or `id`; Marketo's object is found by them"
        )
    # Only Marketo sets its own ids.
    fields = {**omit(mapping(message.get("traits")), ("marketoGUID",)), field: value}
    if kind.lower() in ("lead", "leads"):
        return "leads.json", {"action": "createOrUpdate", "input": [fields], "lookupField": field}
    return f"customobjects/{kind}.json", {
        "action": "createOrUpdate",
        "dedupeBy": "idField" if field == "marketoGUID" else "dedupeFields",
        "input": [fields],
    }


# ---------------------------------------------------------------- answers


def classify(request: Request, response: Response) -> Delivery | None:
    """Read Marketo's answer: what went wrong is told in the body of a 200, for the request or for the record."""
    body = mapping(answer_of(response).body)
    if not 200 <= response.status < 300:
        return None
    if "success" not in body:
        return Retry("Marketo answered without saying whether it took it")
    if body["success"] is not True:
        code, said = _problem(body)
        reason = f"{code}: {said}"
        if code in _SLOWER:
            return Retry(reason, throttled=True)
        if code in _TOKEN_ENDED:
            return Retry(reason, destination_wide=True)
        return Retry(reason) if code in _AGAIN else Rejected(reason)
    record = mapping(next(iter(sequence(body.get("result"))), None))
    if record.get("status") == "skipped":
        code, said = _problem({"errors": record.get("reasons")})
        return Rejected(f"{code}: {said}")
    if record.get("status") in ("created", "updated", "added"):
        return Delivered(str(response.status), acceptance="accepted")
    return None


SPEC = DestinationSpec(
    name="MARKETO",
    title="Marketo Engage",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track"}),
    doc_url="https://experienceleague.adobe.com/en/docs/marketo-developer/marketo/rest/lead-database/leads",
    mapper=make_mapper,
    classify=classify,
    default_concurrency=8,
    proof="body",
    tables=(MappingTable(title="Lead, from traits", rows=_LEAD.rows),),
    limits="100 requests in 20 seconds, 10 at once, 50,000 a day",
)
