"""HubSpot: contacts, custom behavioural events, and any CRM object from a warehouse.

Follows https://developers.hubspot.com/docs/reference/api/crm/objects/contacts (CRM API v3),
https://developers.hubspot.com/docs/reference/api/analytics-and-events/custom-events (events v3) and, for accounts that
still use them, the legacy contacts v1 API and the event tracking endpoint; read 2026-11. Auth: the access token of a
private app as a bearer token, or the API key of old accounts as a query parameter. Limits: 100 records a batch,
100 to 190 requests in 10 seconds by subscription, 5 searches a second.

An identify creates or updates a contact: where the look-up field is unique in the account by one upsert for all, else
by a search for each. A track whose name is mapped is sent as a custom event. Records of a warehouse (rETL) become
objects of the type their external id names, or associations between two objects. Traits become properties under
HubSpot's spelling (lower case, underscores); those the account has no property for are left out. Dates are cut to
midnight UTC, as HubSpot wants them.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final

import msgspec

from mainstem.destinations.base import (
    Answer,
    Batch,
    Batcher,
    Batching,
    Body,
    Call,
    Delivered,
    Delivery,
    DestinationSpec,
    Looking,
    MapContext,
    Mapper,
    MappingTable,
    Refusal,
    Rejected,
    Request,
    Response,
    Schema,
    Unit,
)
from mainstem.destinations.kit.batching import alone
from mainstem.destinations.kit.body import json_bytes
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import answer_of, ok, or_postpone
from mainstem.destinations.kit.paths import MISSING
from mainstem.destinations.kit.refuse import dialogue, refuse
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.times import ms_of
from mainstem.destinations.kit.values import (
    first,
    get,
    json_text,
    mapping,
    number,
    present,
    sequence,
    text,
    truthy,
)
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_HOST: Final = "https://api.hubapi.com"
_MOST: Final = 100
"""https://developers.hubspot.com/docs/guides/api/crm/objects/contacts: records a batch, values of an IN filter."""
_DAY_MS: Final = 86_400_000
_KNOWN_FOR_S: Final = 600.0
"""How long the account's list of properties is believed: it changes when somebody edits it by hand."""
_TO_FIND: Final = "toFind"
"""In `Call.extra` of a record that has to be searched for: what its batch looks for. Taken out before sending."""
_APART: Final = "apart"


class EventProperty(msgspec.Struct, frozen=True, rename="camel"):
    """A property of an event, and the property of HubSpot's that it becomes."""

    source: str = msgspec.field(name="from", default="")
    target: str = msgspec.field(name="to", default="")


class EventMapping(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An event, and the custom event of HubSpot's that it becomes."""

    rs_event_name: str = ""
    hubspot_event_name: str = ""
    event_properties: tuple[EventProperty, ...] = ()


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    authorization_type: str = "legacyApiKey"
    """`newPrivateAppApi`: by the access token of a private app. `legacyApiKey`: by the API key of an old account."""
    access_token: Secret = Secret("")
    """Access token of the private app; needed with `newPrivateAppApi`. It needs the scopes of what is written."""
    api_key: Secret = Secret("")
    """API key; needed with `legacyApiKey`."""
    hub_id: str = msgspec.field(name="hubID", default="")
    """The account's number (Hub ID); needed with `legacyApiKey` and for events of the legacy API."""
    api_version: str = "legacyApi"
    """`newApi`: CRM v3 and custom behavioural events. `legacyApi`: contacts v1 and the tracking endpoint."""
    lookup_field: str = "email"
    """New API: the property by which contacts are found; the e-mail where an event lacks it. A property that is unique
    in the account makes batches possible."""
    hubspot_events: tuple[EventMapping, ...] = ()
    """New API: which events become which custom behavioural events, and their properties."""
    do_association: bool = False
    """Whether records may be associations between objects. Taken over from RudderStack; the record itself decides."""


_CONTACT: Final = Table(
    Row("email", "traits.email"),
    Row("firstname", "traits.firstname", "traits.firstName", "traits.first_name"),
    Row("lastname", "traits.lastname", "traits.lastName", "traits.last_name"),
    Row("phone", "traits.phone"),
    Row("company", "traits.companyName", "traits.company.name", "traits.company"),
    Row("jobtitle", "traits.position", "traits.jobTitle"),
    Row("address", "traits.address.street", "traits.address"),
    Row("city", "traits.city", "traits.address.city"),
    Row("state", "traits.state", "traits.address.state"),
    Row("zip", "traits.zip", "traits.address.postalCode", "traits.address.zip"),
    Row("country", "traits.country", "traits.address.country"),
)
_SPELLINGS: Final = frozenset(
    ("firstname", "first_name", "lastname", "last_name", "companyname", "company", "position", "address")
)
"""Traits, as HubSpot would spell them, that the table has dealt with."""


class _Account:
    """The settings, compiled: what every request to the account carries."""

    def __init__(self, config: Config) -> None:
        self.private = config.authorization_type == "newPrivateAppApi"
        self.new = config.api_version == "newApi"
        self.secret = (config.access_token if self.private else config.api_key).reveal()
        self.hub_id = config.hub_id
        self.lookup_field = config.lookup_field or "email"
        self.events = {
            one.rs_event_name.strip().lower(): (
                one.hubspot_event_name,
                tuple((pair.source, pair.target) for pair in one.event_properties),
            )
            for one in config.hubspot_events
        }
        self.headers = {"Content-Type": "application/json"}
        if self.private:
            self.headers["Authorization"] = f"Bearer {self.secret}"
        self.params: dict[str, Json] = {} if self.private else {"hapikey": self.secret}

    def lacks(self) -> str | None:
        if self.private:
            return None if self.secret else "`accessToken` is missing in the settings; give the private app's"
        if not self.hub_id:
            return "`hubID` is missing in the settings; give the account's number"
        return None if self.secret else "`apiKey` is missing in the settings; give the account's"

    def call(self, path: str, value: Json, **more: Any) -> Call:
        return json_call(
            _HOST + path,
            value,
            headers=self.headers,
            params=self.params,
            label=path,
            secrets=(self.secret,),
            **more,
        )

    def read(self, path: str) -> Call:
        return Call(
            url=_HOST + path,
            method="GET",
            headers=self.headers,
            params=self.params,
            cache_s=_KNOWN_FOR_S,
            secrets=(self.secret,),
        )


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    account = _Account(config)
    lacks = account.lacks()

    def looking(event: Event, context: MapContext) -> Looking:
        if lacks is not None:
            refuse(lacks)
        if truthy(get(event.message, "context.mappedToDestination")) and (
            get(event.message, "context.mappedToDestination") != "false"
        ):
            return (yield from _record(event, context, account))
        if event.type == "identify":
            identify = _contact if account.new else _legacy_contact
            return (yield from identify(event, context, account))
        if account.new:
            return (_marked(_behaviour(event, account), context),)
        return (yield from _legacy_event(event, context, account))

    return dialogue(looking)


def _marked(call: Call, context: MapContext, **extra: Json) -> Call:
    """Return a call that says whose it is, and whether it has to go by itself: for batching."""
    if context.metadata.get("dontBatch") is True:
        extra[_APART] = True
    return msgspec.structs.replace(call, user_id=context.metadata.get("userId"), extra=extra)


# ---------------------------------------------------------------- what is asked of the account


def _property_types(account: _Account) -> Generator[Call, Answer, dict[str, Json]]:
    """Return the type of each property that contacts of this account have."""
    answer = yield account.read("/properties/v1/contacts/properties")
    or_postpone(answer, "list of contact properties")
    if not ok(answer):
        refuse(
            f"HubSpot did not give its list of contact properties (http {answer.status}); check the credentials",
            answer.status,
        )
    return {
        one["name"]: one.get("type")
        for one in sequence(answer.body)
        if isinstance(one, dict) and isinstance(one.get("name"), str)
    }


def _unique_properties(account: _Account, kind: str) -> Generator[Call, Answer, frozenset[str]]:
    """Return the properties of a type of objects by which HubSpot can upsert."""
    answer = yield account.read(f"/crm/v3/properties/{kind}")
    or_postpone(answer, f"list of properties of {kind}")
    if not ok(answer):
        refuse(
            f"HubSpot did not give its list of properties of {kind} (http {answer.status}); check the credentials",
            answer.status,
        )
    return frozenset(
        one["name"]
        for one in sequence(mapping(answer.body).get("results"))
        if isinstance(one, dict) and one.get("hasUniqueValue") is True and isinstance(one.get("name"), str)
    )


# ---------------------------------------------------------------- contacts


def _traits(message: Mapping[str, Json]) -> dict[str, Json]:
    return mapping(message.get("traits")) or mapping(get(message, "context.traits"))


def _spelling(name: str) -> str:
    """Return a trait's name as HubSpot allows it: lower case, underscores for spaces and points."""
    return name.strip().lower().replace(" ", "_").replace(".", "_")


def _properties(traits: Mapping[str, Json], types: Mapping[str, Json]) -> dict[str, Json]:
    """Return the properties of a contact that traits become."""
    found = _CONTACT.build({"traits": traits})
    for name in ("company", "address"):
        if isinstance(found.get(name), dict | list):
            del found[name]
    for name, value in traits.items():
        spelling = _spelling(name)
        if spelling in types and spelling not in found and spelling not in _SPELLINGS and present(value):
            found[spelling] = value
    return {name: _fitting(name, value, types.get(name)) for name, value in found.items()}


def _fitting(name: str, value: Json, kind: Json) -> Json:
    """Return a value as a property of this type takes it: one that does not fit costs the whole batch."""
    if kind == "date":
        return _midnight(value)
    if kind == "string":
        return json_text(value)
    if kind == "number" and (isinstance(value, dict | list | bool) or number(value) is None):
        refuse(f"the trait `{name}` is no number, as HubSpot's property of this name is; send a number")
    if kind == "bool" and value not in (True, False, "true", "false"):
        refuse(f"the trait `{name}` is not true or false, as HubSpot's property of this name is")
    return value


def _midnight(value: Json) -> Json:
    at_ms = ms_of(value)
    return value if at_ms is None else at_ms - at_ms % _DAY_MS


def _contact(event: Event, context: MapContext, account: _Account) -> Looking:
    traits = _traits(event.message)
    if not traits:
        refuse(f"`traits` is missing; HubSpot finds the contact by `{account.lookup_field}` in it")
    name = account.lookup_field
    value = traits.get(name)
    if not present(value):
        name, value = "email", traits.get("email")
    if not present(value):
        refuse(
            f"`traits.{account.lookup_field}` and `traits.email` are missing; HubSpot finds the contact by them"
        )
    unique = yield from _unique_properties(account, "contacts")
    types = yield from _property_types(account)
    properties = _properties(traits, types)
    if name in unique:
        call = account.call(
            "/crm/v3/objects/contacts/batch/upsert",
            {"inputs": [_upsert(name, value, properties, event, context)]},
        )
        return (_marked(call, context),)
    answer = yield account.call(
        "/crm/v3/objects/contacts/search",
        {
            "filterGroups": [{"filters": [{"propertyName": name, "value": value, "operator": "EQ"}]}],
            "sorts": ["ascending"],
            "properties": [name],
            "limit": 2,
            "after": 0,
        },
    )
    or_postpone(answer, "search of the contact")
    if not ok(answer):
        refuse(f"HubSpot's search of the contact failed (http {answer.status})", answer.status)
    results = sequence(mapping(answer.body).get("results"))
    if len(results) > 1:
        refuse(f"HubSpot has more than one contact with this `{name}`; look up by a property that is unique")
    if results:
        return (_marked(_update(account, "contacts", mapping(results[0]).get("id"), properties), context),)
    call = account.call(
        "/crm/v3/objects/contacts/batch/create", {"inputs": [{"properties": {**properties, name: value}}]}
    )
    return (_marked(call, context),)


def _upsert(name: str, value: Json, properties: Json, event: Event, context: MapContext) -> dict[str, Json]:
    # The trace id comes back with the error of this record: https://developers.hubspot.com/docs/reference/api/other-resources/error-handling
    trace = context.metadata.get("jobId")
    return {
        "id": text(value),
        "idProperty": name,
        "properties": properties,
        "objectWriteTraceId": event.message_id if trace is None else text(trace),
    }


def _update(account: _Account, kind: str, found_id: Json, properties: Json) -> Call:
    return account.call(
        f"/crm/v3/objects/{kind}/batch/update", {"inputs": [{"properties": properties, "id": found_id}]}
    )


def _legacy_contact(event: Event, context: MapContext, account: _Account) -> Looking:
    traits = _traits(event.message)
    email = traits.get("email")
    if not present(email):
        refuse("`traits.email` is missing; HubSpot's contacts are found by their e-mail")
    types = yield from _property_types(account)
    properties = _properties(traits, types)
    del properties["email"]
    pairs = [{"property": name, "value": value} for name, value in properties.items()]
    path = "/contacts/v1/contact/batch/"
    call = Call(
        url=_HOST + path,
        headers=account.headers,
        params=account.params,
        body=Body("json_array", [{"email": email, "properties": pairs}]),
        label=path,
        secrets=(account.secret,),
    )
    return (_marked(call, context),)


# ---------------------------------------------------------------- events


def _behaviour(event: Event, account: _Account) -> Call:
    message = event.message
    if not event.name:
        refuse("`event` is missing or no text; HubSpot's custom events go by their name")
    if not account.events:
        refuse(
            "the settings map no events (`hubspotEvents`); say which custom event of HubSpot's each becomes"
        )
    found = account.events.get(event.name.strip().lower())
    if found is None or not found[0]:
        refuse(f"the settings do not map the event `{event.name[:100]}`; add it to `hubspotEvents`")
    name, pairs = found
    body: dict[str, Json] = {
        field: value
        for field in ("email", "utk", "objectId")
        if (value := first(message, *(f"{place}.{field}" for place in _PLACES))) is not None
    }
    for entry in sequence(get(message, "context.externalId")):
        identifier = mapping(entry).get("identifierType")
        if identifier in ("email", "utk", "objectId") and present(entry.get("id")):
            body.setdefault(identifier, entry["id"])
    if not body:
        refuse(
            "`traits.email`, `traits.utk` and `properties.objectId` are missing; HubSpot needs one of them"
        )
    occurred = first(message, "properties.occurredAt", "properties.occurred_at")
    if occurred is not None:
        body["occurredAt"] = occurred
    properties = mapping(message.get("properties"))
    body["eventName"] = name
    body["properties"] = {
        target: value
        for source, target in pairs
        if target
        and present(value := properties[source] if source in properties else get(properties, source))
    }
    return account.call("/events/v3/send", body)


_PLACES: Final = ("traits", "context.traits", "properties")


def _legacy_event(event: Event, context: MapContext, account: _Account) -> Looking:
    message = event.message
    if not event.name:
        refuse("`event` is missing or no text; HubSpot's events go by their name")
    if not account.hub_id:
        refuse("`hubID` is missing in the settings; HubSpot's tracking endpoint needs the account's number")
    types = yield from _property_types(account)
    params: dict[str, Json] = {"_a": account.hub_id, "_n": event.name}
    revenue = first(message, "properties.revenue", "properties.value", "properties.total")
    if revenue is not None:
        params["_m"] = revenue
    if present(known := get(message, "properties.id")):
        params["id"] = known
    params.update(_properties(_traits(message), types))
    call = Call(
        url="https://track.hubspot.com/v1/event",
        method="GET",
        headers=account.headers,
        params=params,
        label="/v1/event",
    )
    return (_marked(call, context),)


# ---------------------------------------------------------------- records of a warehouse


def _record(event: Event, context: MapContext, account: _Account) -> Looking:
    message = event.message
    entry = next(filter(_is_hubspots, sequence(get(message, "context.externalId"))), None)
    if entry is None:
        refuse("`context.externalId` has no entry of HubSpot's (`HS-…`); a record needs one")
    kind = entry["type"][3:]
    traits = mapping(message.get("traits"))
    if kind.lower() == "association":
        call = _association(entry, traits, account)
        return (_marked(call, context),)
    name, value = entry.get("identifierType"), entry.get("id")
    if not isinstance(name, str) or not name or not present(value):
        refuse("`context.externalId` lacks `identifierType` or `id`; HubSpot finds the record by them")
    if not kind.replace("_", "").replace("-", "").isalnum():
        refuse("`context.externalId` names no type of HubSpot's objects; write it as in HS-contacts")
    types = yield from _property_types(account)
    properties = {key: _midnight(item) if types.get(key) == "date" else item for key, item in traits.items()}
    if account.new:
        unique = yield from _unique_properties(account, kind)
        if name in unique:
            call = account.call(
                f"/crm/v3/objects/{kind}/batch/upsert",
                {"inputs": [_upsert(name, value, properties, event, context)]},
            )
            return (_marked(call, context),)
    call = account.call(f"/crm/v3/objects/{kind}/batch/create", {"inputs": [{"properties": properties}]})
    return (_marked(call, context, **{_TO_FIND: (kind, name, value)}),)


def _is_hubspots(entry: Json) -> bool:
    kind = mapping(entry).get("type")
    return isinstance(kind, str) and kind.upper().startswith("HS-")


def _association(entry: Mapping[str, Json], traits: Mapping[str, Json], account: _Account) -> Call:
    one, other = entry.get("fromObjectType"), entry.get("toObjectType")
    if not isinstance(one, str) or not isinstance(other, str) or not (one.isalnum() and other.isalnum()):
        refuse("`context.externalId` lacks `fromObjectType` or `toObjectType`; an association needs both")
    if not present(entry.get("associationTypeId")):
        refuse("`context.externalId` lacks `associationTypeId`; an association needs its type")
    return account.call(
        f"/crm/v3/associations/{one}/{other}/batch/create",
        {"inputs": [{**traits, "type": entry["associationTypeId"]}]},
    )


# ---------------------------------------------------------------- batches


def make_batcher(config: Config) -> Batcher:
    """Return the batching for these settings.

    A user's identifies and events stay in their order: what comes before a change from one to the other goes into
    earlier requests than what comes after.
    """
    account = _Account(config)

    def batch(units: Sequence[Unit]) -> Batching:
        batches: list[Batch] = []
        for wave in _waves(units):
            batches += yield from _wave_batches(wave, account)
        return batches

    return batch


def _waves(units: Sequence[Unit]) -> list[list[Unit]]:
    waves: dict[int, list[Unit]] = {}
    last: dict[Json, int] = {}
    for unit in units:
        user = unit.calls[0].user_id if unit.calls else None
        key = user if isinstance(user, str) and user else unit.event.key
        parity = int(unit.event.type == "track")
        wave = last.get(key, parity)
        if wave % 2 != parity:
            wave += 1
        last[key] = wave
        waves.setdefault(wave, []).append(unit)
    return [waves[wave] for wave in sorted(waves)]


def _wave_batches(wave: Sequence[Unit], account: _Account) -> Batching:
    batches: list[Batch] = []
    groups: dict[Json, list[tuple[Unit, Call]]] = {}
    sought: dict[tuple[str, str], list[Unit]] = {}
    for unit in wave:
        [call] = unit.calls
        if _TO_FIND in call.extra:
            kind, name, _ = call.extra[_TO_FIND]
            sought.setdefault((kind, name), []).append(unit)
    found: dict[tuple[str, str], dict[str, tuple[Json, bool]]] = {}
    lost: dict[tuple[str, str], Refusal] = {}
    for (kind, name), searching in sought.items():
        answered = yield from _search(
            account, kind, name, [unit.calls[0].extra[_TO_FIND][2] for unit in searching]
        )
        if isinstance(answered, Refusal):
            lost[kind, name] = answered
        else:
            found[kind, name] = answered
    for unit in wave:
        [call] = unit.calls
        if _TO_FIND in call.extra:
            kind, name, value = call.extra[_TO_FIND]
            if (kind, name) in lost:
                batches.append(Batch((), (unit.index,), batched=False, refusal=lost[kind, name]))
                continue
            call = _decided(call, account, kind, name, value, found[kind, name])
        bare = msgspec.structs.replace(call, user_id=None, extra={})
        if call.label.endswith(("/send", "/event")):
            batches.append(alone(Unit(unit.index, (bare,), unit.event)))
        else:
            group = (call.url, unit.index if _APART in unit.calls[0].extra else None)
            groups.setdefault(group, []).append((unit, bare))
    for members in groups.values():
        for start in range(0, len(members), _MOST):
            chunk = members[start : start + _MOST]
            batches.append(
                Batch((_merged([call for _, call in chunk]),), tuple(unit.index for unit, _ in chunk))
            )
    return batches


def _search(
    account: _Account, kind: str, name: str, values: Sequence[Json]
) -> Generator[Call, Answer, dict[str, tuple[Json, bool]] | Refusal]:
    """Return the objects that have one of these values: value -> (id, whether it is only a second e-mail)."""
    found: dict[str, tuple[Json, bool]] = {}
    wanted = list({text(value): value for value in values}.values())
    names = [name, "hs_additional_emails"] if name == "email" else [name]
    for start in range(0, len(wanted), _MOST):
        after: Json = 0
        while after is not None:
            answer = yield account.call(
                f"/crm/v3/objects/{kind}/search",
                {
                    "filterGroups": [
                        {
                            "filters": [
                                {
                                    "propertyName": each,
                                    "values": wanted[start : start + _MOST],
                                    "operator": "IN",
                                }
                            ]
                        }
                        for each in names
                    ],
                    "properties": names,
                    "limit": 100,
                    "after": after,
                },
            )
            or_postpone(answer, "search of records")
            if not ok(answer):
                return Refusal(f"HubSpot's search of {kind} failed (http {answer.status})", answer.status)
            for result in sequence(mapping(answer.body).get("results")):
                properties = mapping(mapping(result).get("properties"))
                for extra in text(properties.get("hs_additional_emails") or "").split(";"):
                    if extra and name == "email":
                        found.setdefault(extra, (result.get("id"), True))
                if present(properties.get(name)):
                    found[text(properties[name])] = (result.get("id"), False)
            following = get(answer.body, "paging.next.after")
            after = following if following != after else None
    return found


def _decided(
    call: Call, account: _Account, kind: str, name: str, value: Json, found: Mapping[str, tuple[Json, bool]]
) -> Call:
    """Return the creation or the update of a record, now that it is known whether there is one."""
    assert call.body is not None  # noqa: S101 - for the type checker: `_record` gives it one
    properties = call.body.value["inputs"][0]["properties"]
    hit = found.get(text(value))
    if hit is None and isinstance(value, str):
        hit = found.get(value.lower())  # HubSpot keeps e-mails in lower case
    if hit is None:
        return account.call(
            f"/crm/v3/objects/{kind}/batch/create", {"inputs": [{"properties": {**properties, name: value}}]}
        )
    found_id, second = hit
    # A contact found by its second e-mail keeps its first.
    return _update(account, kind, found_id, properties if second else {**properties, name: value})


def _merged(calls: Sequence[Call]) -> Call:
    """Return one request for several; HubSpot turns down a batch that names a record twice, so those are merged."""
    body = calls[0].body
    assert body is not None  # noqa: S101 - for the type checker: requests for batches have one
    if body.kind == "json_array":
        contacts = [contact for call in calls if call.body for contact in call.body.value]
        return msgspec.structs.replace(calls[0], body=Body("json_array", contacts))
    inputs: dict[Json, Json] = {}
    for call in calls:
        for one in call.body.value["inputs"] if call.body else ():
            key = _record_key(one)
            if key in inputs:
                earlier = inputs[key]
                inputs[key] = {**earlier, "properties": {**earlier["properties"], **one["properties"]}}
            else:
                inputs[key] = one
    return msgspec.structs.replace(calls[0], body=Body("json", {"inputs": list(inputs.values())}))


def _record_key(one: Mapping[str, Json]) -> Json:
    if "properties" not in one:
        return json_bytes(one)
    if "id" in one:
        return text(one["id"])
    email = one["properties"].get("email")
    return f"email {text(email)}" if present(email) else id(one)


# ---------------------------------------------------------------- answers


def classify(request: Request, response: Response) -> Delivery | None:
    """Read the answer to a single record or event: `results` proves that a record was taken."""
    body = answer_of(response).body
    if not (200 <= response.status < 300 and isinstance(body, dict) and "results" in body):
        return None
    if problems := _problems(body):
        return Rejected(next(iter(problems.values())))
    if sequence(body["results"]):
        return Delivered(str(response.status), acceptance="accepted")
    return Rejected("HubSpot answered that it had done nothing: neither results nor errors")


def classify_each(
    call: Call, request: Request, response: Response, units: Sequence[Unit]
) -> Sequence[Delivery] | None:
    """Read the answer to an upsert, which names the records it did not take by their trace id (207)."""
    body = answer_of(response).body
    if not (200 <= response.status < 300 and isinstance(body, dict) and "results" in body):
        return None
    problems = _problems(body)
    if not problems and not sequence(body["results"]):
        rejected = Rejected("HubSpot answered that it had done nothing: neither results nor errors")
        return [rejected for _ in units]
    inputs = [mapping(one) for one in sequence(mapping(call.body.value if call.body else None).get("inputs"))]
    if len(inputs) != len(units):  # records that are there twice went as one
        by_id = {text(one.get("id")): one for one in inputs}
        inputs = [by_id.get(_id_of(unit), {}) for unit in units]
    taken = Delivered(str(response.status), acceptance="accepted")
    anybodys = problems.get("")
    results: list[Delivery] = []
    for one in inputs:
        problem = problems.get(text(one.get("objectWriteTraceId")), anybodys)
        results.append(taken if problem is None else Rejected(problem))
    return results


def _id_of(unit: Unit) -> str:
    body = unit.calls[0].body if unit.calls else None
    inputs = sequence(mapping(body.value if body else None).get("inputs"))
    return text(mapping(inputs[0]).get("id")) if inputs else ""


def _problems(body: Mapping[str, Json]) -> dict[str, str]:
    """Return what HubSpot says is wrong with each trace id; under `` what concerns nobody by name."""
    problems: dict[str, str] = {}
    for error in sequence(body.get("errors")):
        said = text(mapping(error).get("message", MISSING))
        traces = get(error, "context.objectWriteTraceId")
        for trace in traces if isinstance(traces, list) and traces else [traces]:
            problems["" if trace is None else text(trace)] = said
    return problems


_BATCH_SCHEMA: Final = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "inputs": {
            "type": "array",
            "minItems": 1,
            "maxItems": _MOST,
            "items": {
                "type": "object",
                "required": ["id", "properties"],
                "properties": {
                    "id": {"type": "string"},
                    "idProperty": {"type": "string"},
                    "objectWriteTraceId": {"type": "string"},
                    "properties": {"type": "object"},
                },
                "additionalProperties": False,
            },
        }
    },
    "additionalProperties": False,
}

SPEC = DestinationSpec(
    name="HS",
    title="HubSpot",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track"}),
    doc_url="https://developers.hubspot.com/docs/reference/api/crm/objects/contacts",
    mapper=make_mapper,
    classify=classify,
    batcher=make_batcher,
    classify_each=classify_each,
    default_max_batch=_MOST,
    default_concurrency=8,
    proof="each event",
    schemas=(
        Schema(
            label="/crm/v3/objects/contacts/batch/upsert",
            schema=_BATCH_SCHEMA,
            doc_url="https://developers.hubspot.com/docs/reference/api/crm/objects/contacts",
        ),
    ),
    tables=(MappingTable(title="Contact", rows=_CONTACT.rows),),
    limits="100 records a batch; 100 to 190 requests in 10 seconds by subscription; 5 searches a second",
)
