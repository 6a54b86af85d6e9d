"""Google Ads Remarketing Lists: people into and out of a Customer Match list.

Two of Google's APIs take them (both read 2026-11). The Data Manager API (v1), the newer one:
https://developers.google.com/data-manager/api/reference/rest/v1/audienceMembers/ingest. The Google Ads API (v23), for
developer tokens that used it for Customer Match before: offline user data jobs,
https://developers.google.com/google-ads/api/docs/remarketing/audience-segments/customer-match/get-started. Auth: OAuth;
the Google Ads API also wants a developer token. Limits: 10,000 people a request; 100,000 identifiers a request.

An `audiencelist` event carries people in `properties.listData.add` and `.remove`. A `record` (of a warehouse sync)
carries one person in `fields` or `identifiers`; insert and update add, delete removes; records of the same action go
together. E-mail, phone and names are normalised and hashed here, unless the settings say they are already.
"""

from collections.abc import Hashable, Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar, Final, Literal

import msgspec

from mainstem.destinations.base import (
    Batch,
    Batcher,
    Batching,
    Call,
    Delivered,
    Delivery,
    DestinationSpec,
    MapContext,
    Mapper,
    OAuth,
    Payloads,
    Refusal,
    Request,
    Response,
    Schema,
    Unit,
)
from mainstem.destinations.google_ads import api, people
from mainstem.destinations.kit.batching import together, with_body
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.refuse import NotSent, refuse, settled
from mainstem.destinations.kit.values import mapping, sequence, text, truthy, without_none
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_DATA_MANAGER: Final = "https://datamanager.googleapis.com"
_INGEST: Final = "/v1/audienceMembers:ingest"
_REMOVE: Final = "/v1/audienceMembers:remove"
_JOBS: Final = "offlineUserDataJobs"
_MOST_PEOPLE: Final = 10_000
_RETL_TYPE: Final = "GOOGLE_ADWORDS_REMARKETING_LISTS-"
_DATA_MANAGER_CONSENTS: Final = {"GRANTED": "CONSENT_GRANTED", "DENIED": "CONSENT_DENIED"}
_ACTIONS: Final = {"insert": "add", "update": "add", "delete": "remove"}
_EVERYTHING: Final = ("email", "phone", "addressInfo")


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"customerId"})

    customer_id: str | int = ""
    """The id of the Google Ads account, with or without dashes."""
    audience_id: str | int | None = None
    """The id of the Customer Match list."""
    sub_account: bool = False
    """Whether the account is reached through a manager account."""
    login_customer_id: str | int | None = None
    """The id of the manager account; required with `subAccount`."""
    type_of_list: str = "General"
    """What identifies people in the list: `General` (e-mail, phone, address), `userID` (your own ids) or
    `mobileDeviceID` (advertising ids)."""
    user_schema: tuple[str, ...] = _EVERYTHING
    """Which identifiers to send to a General list: `email`, `phone`, `addressInfo`."""
    is_hash_required: bool = True
    """Hash e-mail, phone and names here. Off: the events hold SHA-256 hashes already."""
    user_data_consent: str | None = None
    """Consent to send user data to Google: `GRANTED`, `DENIED`, `UNSPECIFIED` or `UNKNOWN`."""
    personalization_consent: str | None = None
    """Consent to personalised ads: as above."""
    api: Literal["", "dataManager", "googleAds"] = ""
    """Which API to send by. Left empty: by the kind of account that RudderStack's settings name; without that, the
    Google Ads API if there is a developer token, else the Data Manager API."""
    developer_token: Secret = Secret("")
    """Your developer token of the Google Ads API; not needed for the Data Manager API."""
    rudder_account_id: str | None = None
    """RudderStack's reference to the connected account; kept, not used."""


class _List(msgspec.Struct, frozen=True):
    """The list an event is for, and how people are put into it."""

    audience_id: str
    kind: str
    schema: tuple[str, ...]
    hashing: bool
    user_data: str | None
    personalization: str | None


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    customer_id = api.plain_id(config.customer_id)
    login_id = api.plain_id(config.login_customer_id)
    configured = _List(
        text(config.audience_id or ""),
        config.type_of_list,
        config.user_schema,
        config.is_hash_required,
        config.user_data_consent,
        config.personalization_consent,
    )

    def to_calls(event: Event, context: MapContext) -> Payloads:
        if config.sub_account and not login_id:
            refuse("the setting `loginCustomerId` is empty; with `subAccount` it names the manager account")
        message = event.message
        target = _list_of(message, context.connection, configured)
        data_manager = _by_data_manager(config, context)
        make = _member if data_manager else _operand
        if event.type == "record":
            added, removed = _of_record(message, context, target, make)
        else:
            added, removed = _of_lists(message, target, make)
        if not target.audience_id:
            refuse("the setting `audienceId` is empty and the event names no list; give the id of the list")
        token = api.access_token(context)
        if data_manager:
            headers = api.headers_of(token, Secret(""), login_id if config.sub_account else "")
            account = _destination(customer_id, login_id if config.sub_account else "", target.audience_id)
            return _data_manager_calls(account, added, removed, target, headers)
        headers = api.headers_of(token, config.developer_token, login_id if config.sub_account else "")
        return _job_descriptions(customer_id, added, removed, target, headers, message)

    return settled(to_calls)


def _by_data_manager(config: Config, context: MapContext) -> bool:
    if config.api:
        return config.api == "dataManager"
    account = mapping(context.metadata.get("deliveryAccount")).get("accountDefinitionName")
    if isinstance(account, str) and account:
        return account.endswith("_DM_OAUTH")
    return not config.developer_token


def _list_of(message: dict[str, Json], connection: Mapping[str, Json], configured: _List) -> _List:
    synced = mapping(mapping(connection.get("config")).get("destination"))
    if synced.get("schemaVersion") == "1.1":
        audience = synced.get("audienceId") or configured.audience_id
        consents = (
            synced.get("userDataConsent", configured.user_data),
            synced.get("personalizationConsent", configured.personalization),
        )
        return _List(
            text(audience),
            text(synced.get("typeOfList") or configured.kind),
            _EVERYTHING,
            truthy(synced.get("isHashRequired", configured.hashing)),
            *consents,
        )
    context = mapping(message.get("context"))
    if truthy(context.get("mappedToDestination")):
        for entry in sequence(context.get("externalId")):
            kind = mapping(entry).get("type")
            if isinstance(kind, str) and kind.startswith(_RETL_TYPE):
                return msgspec.structs.replace(configured, audience_id=kind.removeprefix(_RETL_TYPE))
    return configured


# ---------------------------------------------------------------- people


def _of_record(
    message: dict[str, Json], context: MapContext, target: _List, make: Any
) -> tuple[list[Json], list[Json]]:
    action = message.get("action")
    way = _ACTIONS.get(action) if isinstance(action, str) else None
    if way is None:
        refuse("`action` is not insert, update or delete; a record says what happened to the row")
    synced = mapping(mapping(context.connection.get("config")).get("destination"))
    names = ("identifiers", "fields") if synced.get("schemaVersion") == "1.1" else ("fields", "identifiers")
    person = next((value for name in names if isinstance(value := message.get(name), dict)), {})
    made = make(person, target)
    if made is None:
        refuse(f"`{names[0]}` holds nothing that identifies a person in a list of type {target.kind}")
    return ([made], []) if way == "add" else ([], [made])


def _of_lists(message: dict[str, Json], target: _List, make: Any) -> tuple[list[Json], list[Json]]:
    lists = mapping(mapping(message.get("properties")).get("listData"))
    added, removed = (
        [
            made
            for person in sequence(lists.get(way))
            if isinstance(person, dict) and (made := make(person, target)) is not None
        ]
        for way in ("add", "remove")
    )
    if not added and not removed:
        refuse(
            "`properties.listData` has nobody under `add` or `remove` who can be identified in a list of type "
            f"{target.kind}; give their {', '.join(target.schema) if target.kind == 'General' else 'ids'}"
        )
    return added, removed


def _hash(person: dict[str, Json], field: str, target: _List) -> str | None:
    return people.hashed(field, person.get(field), hashing=target.hashing, field=field)


def _plain(value: Json) -> Json:
    """Return a country or postal code; null and 0 are none."""
    return value if truthy(value) and isinstance(value, str | int | float) else None


def _operand(person: dict[str, Json], target: _List) -> Json:
    """Return a person as the Google Ads API takes one, None if nothing identifies them."""
    if target.kind == "userID":
        found = person.get("thirdPartyUserId")
        return {"userIdentifiers": [{"thirdPartyUserId": text(found)}]} if _plain(found) else None
    if target.kind == "mobileDeviceID":
        found = person.get("mobileId")
        return {"userIdentifiers": [{"mobileId": text(found)}]} if _plain(found) else None
    identifiers: list[Json] = []
    for name in target.schema:
        if name == "email" and (email := _hash(person, "email", target)):
            identifiers.append({"hashedEmail": email})
        elif name == "phone" and (phone := _hash(person, "phone", target)):
            identifiers.append({"hashedPhoneNumber": phone})
        elif name == "addressInfo":
            address = without_none(
                {
                    "hashedFirstName": _hash(person, "firstName", target),
                    "hashedLastName": _hash(person, "lastName", target),
                    "countryCode": _plain(person.get("country")),
                    "postalCode": _plain(person.get("postalCode")),
                }
            )
            if address:
                identifiers.append({"addressInfo": address})
    return {"userIdentifiers": identifiers} if identifiers else None


def _member(person: dict[str, Json], target: _List) -> Json:
    """Return a person as the Data Manager API takes one, None if nothing identifies them."""
    consent = _data_manager_consent(target)
    if target.kind == "userID":
        found = person.get("thirdPartyUserId")
        return {"consent": consent, "userIdData": {"userId": text(found)}} if _plain(found) else None
    if target.kind == "mobileDeviceID":
        found = person.get("mobileId")
        return {"consent": consent, "mobileData": {"mobileIds": [text(found)]}} if _plain(found) else None
    identifiers: list[Json] = []
    for name in target.schema:
        if name == "email" and (email := _hash(person, "email", target)):
            identifiers.append({"emailAddress": email})
        elif name == "phone" and (phone := _hash(person, "phone", target)):
            identifiers.append({"phoneNumber": phone})
        elif name == "addressInfo":
            address = {
                "givenName": _hash(person, "firstName", target),
                "familyName": _hash(person, "lastName", target),
                "regionCode": _plain(person.get("country")),
                "postalCode": _plain(person.get("postalCode")),
            }
            # All four are required: .../rest/v1/UserData#AddressInfo
            if None not in address.values():
                identifiers.append({"addressInfo": address})
    return {"consent": consent, "userData": {"userIdentifiers": identifiers}} if identifiers else None


# ---------------------------------------------------------------- requests


def _data_manager_consent(target: _List) -> dict[str, str]:
    return {
        "adPersonalization": _DATA_MANAGER_CONSENTS.get(
            text(target.personalization), "CONSENT_STATUS_UNSPECIFIED"
        ),
        "adUserData": _DATA_MANAGER_CONSENTS.get(text(target.user_data), "CONSENT_STATUS_UNSPECIFIED"),
    }


def _destination(customer_id: str, login_id: str, audience_id: str) -> Json:
    destination: dict[str, Json] = {
        "operatingAccount": {"accountId": customer_id, "accountType": "GOOGLE_ADS"},
    }
    if login_id:
        destination["loginAccount"] = {"accountId": login_id, "accountType": "GOOGLE_ADS"}
    destination["productDestinationId"] = audience_id
    return destination


def _data_manager_calls(
    account: Json, added: list[Json], removed: list[Json], target: _List, headers: Mapping[str, str]
) -> tuple[Call, ...]:
    ingested: dict[str, Json] = {
        "consent": _data_manager_consent(target),
        "termsOfService": {"customerMatchTermsOfServiceStatus": "ACCEPTED"},
    }
    return tuple(
        json_call(
            _DATA_MANAGER + path,
            {"destinations": [account], "audienceMembers": chunk, "encoding": "HEX", **more},
            headers=headers,
            label=path,
        )
        for path, members, more in ((_INGEST, added, ingested), (_REMOVE, removed, {}))
        for chunk in _chunks(members)
    )


def _job_descriptions(
    customer_id: str,
    added: list[Json],
    removed: list[Json],
    target: _List,
    headers: Mapping[str, str],
    message: dict[str, Json],
) -> tuple[Call, ...]:
    consent = {
        "adPersonalization": api.consent_status(target.personalization),
        "adUserData": api.consent_status(target.user_data),
    }
    properties = mapping(message.get("properties"))
    partial = properties.get("enablePartialFailure")
    ways = [("create", added), ("remove", removed)]
    # In the order the event names them, which is the order they are done in.
    if next((key for key in mapping(properties.get("listData")) if key in ("add", "remove")), "") == "remove":
        ways.reverse()
    return tuple(
        json_call(
            f"{api.API}/customers/{customer_id}/{_JOBS}",
            without_none({"enablePartialFailure": partial})
            | {"operations": [{way: person} for person in chunk]},
            headers=headers,
            params={"listId": target.audience_id, "customerId": customer_id, "consent": consent},
            label=_JOBS,
        )
        for way, operands in ways
        for chunk in _chunks(operands)
    )


def _chunks(items: list[Json]) -> list[list[Json]]:
    return [items[start : start + _MOST_PEOPLE] for start in range(0, len(items), _MOST_PEOPLE)]


# ---------------------------------------------------------------- batches


def make_batcher(config: Config) -> Batcher:
    """Return the batching: records of the same action for the same list go together.

    With a developer token a description of a job becomes the job: it is made and filled here, what remains to be
    sent starts it. Only neighbours share a job then: batches that change nobody's order are made once.
    """

    def by_jobs(units: Sequence[Unit]) -> Batching:
        batches: list[Batch] = []
        for batch in (batch for run in _runs(units) for batch in _batches(run)):
            if batch.calls[0].label == _JOBS:
                batches += yield from _with_jobs(batch, units)
            else:
                batches.append(batch)
        return batches

    return by_jobs if config.developer_token else _batches


def _batches(units: Sequence[Unit]) -> list[Batch]:
    # A list even of one request, as RudderStack's server expects it of this destination.
    return [
        msgspec.structs.replace(batch, many=True)
        for batch in together(units, key=_key, merge=_merged, most=_MOST_PEOPLE)
    ]


def _runs(units: Sequence[Unit]) -> list[list[Unit]]:
    return [list(run) for _, run in groupby(units, key=lambda unit: _key(unit) or unit.index)]


def _key(unit: Unit) -> Hashable | None:
    if unit.event.type != "record":
        return None
    call = unit.calls[0]
    rest = {name: value for name, value in mapping(_value(call)).items() if name != _field(call)}
    return repr((text(unit.event.message.get("action")), call.url, call.headers, call.params, rest))


def _field(call: Call) -> str:
    return "operations" if call.label == _JOBS else "audienceMembers"


def _value(call: Call) -> Json:
    return call.body.value if call.body is not None else None


def _merged(calls: Sequence[Call]) -> Call:
    return api.with_list(calls, _field(calls[0]))


def _with_jobs(batch: Batch, units: Sequence[Unit]) -> Batching:
    own = {unit.index: unit for unit in units}
    runs: list[Call] = []
    refused: dict[int, str] = {}
    try:
        for call in batch.calls:
            body = _value(call)
            if batch.batched:
                body = {"enablePartialFailure": True, **body}
            job = {
                "type": "CUSTOMER_MATCH_USER_LIST",
                "customerMatchUserListMetadata": {
                    "userList": f"customers/{call.params['customerId']}/userLists/{call.params['listId']}",
                    "consent": call.params["consent"],
                },
            }
            customer_id = text(call.params["customerId"])
            run, failed = yield from api.job_calls(customer_id, {"job": job}, body, call.headers)
            runs.append(run)
            if batch.batched:
                refused |= {
                    index: failed.get(place) or failed.get(-1, "")
                    for place, index in enumerate(batch.units)
                    if place in failed or -1 in failed
                }
    except NotSent as end:
        if not isinstance(end.outcome, Refusal):
            raise
        return [msgspec.structs.replace(batch, calls=(), refusal=end.outcome)]
    taken = tuple(index for index in batch.units if index not in refused and index in own)
    batches = [Batch((), (index,), refusal=Refusal(why)) for index, why in refused.items()]
    if taken:
        batches.append(msgspec.structs.replace(batch, calls=tuple(runs), units=taken))
    return batches


def classify(request: Request, response: Response) -> Delivery | None:
    """The Data Manager API answers with a request id, and with warnings about fields it did not use."""
    if not request.url.startswith(_DATA_MANAGER):
        return api.classify(request, response)
    body = mapping(answer_of(response).body)
    if response.status != 200 or not body.get("requestId"):
        return None
    warnings = sequence(body.get("fieldWarnings"))
    if not warnings:
        return Delivered("200", acceptance="accepted")
    said = "; ".join(
        text(mapping(warning).get("description") or mapping(warning).get("field") or "")
        for warning in warnings
    )
    return Delivered("200", acceptance="accepted with warning", warning=said[:500])


def validation(config: Config, call: Call) -> Call | None:
    """The Data Manager API checks a request without taking it (`validateOnly`)."""
    del config
    return with_body(call, {**_value(call), "validateOnly": True}) if call.label != _JOBS else None


_DOC: Final = "https://developers.google.com/data-manager/api/reference/rest/v1/audienceMembers/"


def _schema(way: str) -> Schema:
    account = {
        "type": "object",
        "required": ["accountId", "accountType"],
        "properties": {
            "accountId": {"type": "string", "pattern": "^[0-9]+$"},
            "accountType": {"type": "string"},
        },
    }
    return Schema(
        label=f"/v1/audienceMembers:{way}",
        doc_url=_DOC + way,
        schema={
            "type": "object",
            "required": ["destinations", "audienceMembers"],
            "properties": {
                "destinations": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 10,
                    "items": {
                        "type": "object",
                        "required": ["operatingAccount", "productDestinationId"],
                        "properties": {
                            "operatingAccount": account,
                            "loginAccount": account,
                            "productDestinationId": {"type": "string"},
                        },
                    },
                },
                "audienceMembers": {"type": "array", "minItems": 1, "maxItems": _MOST_PEOPLE},
                "encoding": {"enum": ["HEX", "BASE64"]},
            },
        },
    )


SPEC = DestinationSpec(
    name="GOOGLE_ADWORDS_REMARKETING_LISTS",
    title="Google Ads Remarketing Lists (Customer Match)",
    kind="http",
    config=Config,
    message_types=frozenset({"audiencelist", "record"}),
    doc_url=_DOC + "ingest",
    mapper=make_mapper,
    batcher=make_batcher,
    default_max_batch=1000,
    classify=classify,
    oauth=OAuth(token_url=api.TOKEN_URL, scopes=("https://www.googleapis.com/auth/datamanager", api.SCOPE)),
    proof="body",
    validation=validation,
    schemas=(_schema("ingest"), _schema("remove")),
    limits="10,000 people a request; lists need 100 active users (1,000 on Search) before they serve",
)
