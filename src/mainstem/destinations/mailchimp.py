"""Mailchimp: members of an audience, and their events.

Follows https://mailchimp.com/developer/marketing/api/lists/batch-subscribe-or-unsubscribe/,
.../list-members/add-or-update-list-member/ and .../list-member-events/add-event/ (Marketing API 3.0), read 2026-11.
Auth: the API key by Basic authentication. Limits: 10 requests at once, 500 members a batch, event names of 2 to 30
characters, merge tags of 10.

An identify adds or updates the member with its e-mail. Its status is what the event says
(`integrations.MailChimp.subscriptionStatus`), else the one the member has; new members are subscribed, or asked first
where the audience has double opt-in. A track becomes an event of the member. Records of a warehouse (rETL) are sent as
they are mapped.
"""

import re
from collections.abc import Generator, Hashable, Mapping, Sequence
from typing import Any, Final

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
    Rejected,
    Request,
    Response,
    Unit,
)
from mainstem.destinations.kit.batching import together
from mainstem.destinations.kit.body import quoted
from mainstem.destinations.kit.call import basic_auth, json_call
from mainstem.destinations.kit.dialogue import answer_of, ok, or_postpone
from mainstem.destinations.kit.refuse import dialogue, refuse
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.times import moment_of
from mainstem.destinations.kit.values import (
    first,
    get,
    integration_options,
    json_text,
    mapping,
    md5,
    present,
    sequence,
    text,
    trimmed_lower,
    truthy,
    without_none,
)
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_MOST: Final = 500
_KNOWN_FOR_S: Final = 600.0
"""How long an audience's settings are believed."""
_STATUSES: Final = ("subscribed", "unsubscribed", "cleaned", "pending", "transactional")
_DATACENTER: Final = re.compile(r"[A-Za-z0-9-]+")
_NOT_IN_TAG: Final = re.compile(r"[^A-Z0-9_]")
_PLAIN: Final = "https://{}.api.mailchimp.com/3.0/lists/"


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    api_key: Secret
    """API key of the account."""
    audience_id: str
    """Id of the audience (list); an event may name another: `integrations.MailChimp.listId`."""
    datacenter_id: str
    """The account's data center: what is behind the dash of the API key, like `us20`."""
    enable_merge_fields: bool = False
    """Send traits as merge fields, under their names in upper case, cut to 10 characters."""

    def __post_init__(self) -> None:
        if not self.api_key:
            raise ValueError("`apiKey` is empty; give the account's API key")
        if not self.audience_id:
            raise ValueError("`audienceId` is empty; give the audience's id")
        if not _DATACENTER.fullmatch(self.datacenter_id):
            raise ValueError("`datacenterId` is no data center, like us20")


def _birthday(value: Json) -> Json:
    """Return a date as Mailchimp wants birthdays: MM/DD."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,2}/\d{1,2}", value):
        return value
    moment = moment_of(value)
    return None if moment is None else f"{moment.month:02}/{moment.day:02}"


_MERGE_FIELDS: Final = Table(
    Row("FNAME", "firstName", "firstname", "first_name"),
    Row("LNAME", "lastName", "lastname", "last_name"),
    Row("PHONE", "phone"),
    Row("BIRTHDAY", "birthday", as_=_birthday, text="MM/DD"),
    Row("ADDRESS.addr1", "addressLine1", "address.addressLine1", "address.street"),
    Row("ADDRESS.addr2", "addressLine2", "address.addressLine2"),
    Row("ADDRESS.city", "city", "address.city"),
    Row("ADDRESS.state", "state", "address.state"),
    Row("ADDRESS.zip", "zip", "address.zip", "address.postalCode"),
    Row("ADDRESS.country", "country", "address.country"),
)
_ADDRESS_NEEDS: Final = frozenset(("addr1", "city", "state", "zip"))
_OF_ADDRESS: Final = frozenset(("addressLine1", "addressLine2", "city", "state", "zip", "country"))
_NOT_CUSTOM: Final = frozenset(
    (
        *("firstName", "firstname", "first_name", "lastName", "lastname", "last_name"),
        *("phone", "birthday", "address", "email", "status"),
    )
)


class _Account:
    """The settings, compiled."""

    def __init__(self, config: Config) -> None:
        self.audience_id = config.audience_id
        self.merges = config.enable_merge_fields
        self.lists = _PLAIN.format(config.datacenter_id)
        self.headers = {
            "Content-Type": "application/json",
            "Authorization": basic_auth("apiKey", config.api_key.reveal()),
        }

    def audience_of(self, message: Mapping[str, Json]) -> str:
        named = integration_options(message, "MailChimp", "Mailchimp", "MAILCHIMP").get("listId")
        return named if isinstance(named, str) and named else self.audience_id

    def read(self, path: str, **more: Any) -> Call:
        return Call(url=self.lists + path, method="GET", headers=self.headers, **more)


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    account = _Account(config)

    def looking(event: Event, context: MapContext) -> Looking:
        message = event.message
        audience = account.audience_of(message)
        if event.type == "track":
            return (_event(event, audience, account),)
        if truthy(get(message, "context.mappedToDestination")):
            member = _record(message)
        else:
            member = yield from _member(message, audience, account)
        if "status" in member and member["status"] not in _STATUSES:
            refuse(f"the member's status must be one of {', '.join(_STATUSES)}")
        return (
            json_call(
                account.lists + _path(audience, member["email_address"]),
                member,
                method="PUT",
                headers=account.headers,
                extra={"audienceId": audience},
            ),
        )

    return dialogue(looking)


def _path(audience: str, email: Json) -> str:
    # https://mailchimp.com/developer/marketing/docs/methods-parameters/#the-subscriber-hash-parameter
    return f"{quoted(audience)}/members/{md5(trimmed_lower(email))}"


def _email(message: Mapping[str, Json]) -> Json:
    email = first(message, "traits.email", "context.traits.email", "properties.email")
    return email if email is not None else refuse("`traits.email` is missing; Mailchimp's members go by it")


def _record(message: Mapping[str, Json]) -> dict[str, Json]:
    member = dict(mapping(message.get("traits")))
    entry = mapping(next(iter(sequence(get(message, "context.externalId"))), None))
    if isinstance(entry.get("identifierType"), str):
        member[entry["identifierType"]] = entry.get("id")
    if not present(member.get("email_address")):
        refuse("the record has no `email_address`; Mailchimp's members go by it")
    return member


def _member(
    message: Mapping[str, Json], audience: str, account: _Account
) -> Generator[Call, Answer, dict[str, Json]]:
    email = _email(message)
    traits = mapping(message.get("traits")) or mapping(get(message, "context.traits"))
    member: dict[str, Json] = {"email_address": email}
    if account.merges:
        merge_fields = _merge_fields(traits)
        if merge_fields:
            member["merge_fields"] = merge_fields
    said = integration_options(message, "MailChimp", "Mailchimp", "MAILCHIMP").get("subscriptionStatus")
    member["status"] = said if present(said) else (yield from _status(email, audience, account))
    return member


def _status(email: Json, audience: str, account: _Account) -> Generator[Call, Answer, Json]:
    """Return the status of a member: the one it has, or that of new members."""
    answer = yield account.read(_path(audience, email))
    if ok(answer) and present(mapping(answer.body).get("contact_id")):
        # Whoever has unsubscribed stays so: nobody but the member may change that.
        status = mapping(answer.body).get("status")
        return status if status in _STATUSES else "subscribed"
    if answer.status:  # without an answer the next question tells
        or_postpone(answer, "look-up of the member")
    answer = yield account.read(quoted(audience), cache_s=_KNOWN_FOR_S)
    or_postpone(answer, "look-up of the audience")
    if not ok(answer):
        refuse(
            f"Mailchimp does not know the audience (http {answer.status}); see `audienceId` in the settings"
        )
    return "pending" if mapping(answer.body).get("double_optin") is True else "subscribed"


def _merge_fields(traits: Mapping[str, Json]) -> dict[str, Json]:
    """Return traits as merge fields: https://mailchimp.com/developer/marketing/docs/merge-fields/."""
    fields = _MERGE_FIELDS.build(dict(traits))
    known = _NOT_CUSTOM
    if mapping(fields.get("ADDRESS")).keys() >= _ADDRESS_NEEDS:
        known = known | _OF_ADDRESS
    else:
        fields.pop("ADDRESS", None)  # Mailchimp takes whole addresses only
    for name, value in traits.items():
        tag = _NOT_IN_TAG.sub("_", name.strip().upper())[:10]
        if name not in known and tag and present(value):
            fields.setdefault(tag, json_text(value) if isinstance(value, dict | list) else value)
    return fields


def _event(event: Event, audience: str, account: _Account) -> Call:
    message = event.message
    email = _email(message)
    if not event.name:
        refuse("`event` is missing; Mailchimp's events go by their name")
    if not 2 <= len(event.name) <= 30:
        refuse("`event` must have 2 to 30 characters for Mailchimp")
    properties = mapping(message.get("properties"))
    moment = moment_of(first(message, "timestamp", "originalTimestamp"))
    syncing = properties.get("isSyncing", properties.get("is_syncing"))
    shown = {
        name: json_text(value)
        for name, value in without_none(properties).items()
        if name not in ("isSyncing", "is_syncing", "email")
    }
    body = without_none(
        {
            "name": re.sub(r"\s+", "_", event.name.strip()),
            "occurred_at": None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%S}+00:00",
            "is_syncing": syncing if isinstance(syncing, bool) else None,
            "properties": shown or None,
        }
    )
    url = f"{account.lists}{_path(audience, email)}/events"
    return json_call(url, body, headers=account.headers, extra={"audienceId": audience})


# ---------------------------------------------------------------- batches


def make_batcher(config: Config) -> Batcher:
    """Return the batching for these settings: members of an audience together, events by themselves."""
    merges = "true" if config.enable_merge_fields else "false"
    query = f"?skip_merge_validation={merges}&skip_duplicate_check=false"

    def key(unit: Unit) -> Hashable | None:
        call = unit.calls[0]
        return call.extra.get("audienceId") if call.method == "PUT" else None

    def merge(calls: Sequence[Call]) -> Call:
        base = calls[0].url.rpartition("/members/")[0]
        members = [call.body.value for call in calls if call.body]
        return json_call(
            base + query, {"members": members, "update_existing": True}, headers=calls[0].headers
        )

    def batch(units: Sequence[Unit]) -> Sequence[Batch]:
        return together(units, key=key, merge=merge, most=_MOST)

    return batch


# ---------------------------------------------------------------- answers


def classify(request: Request, response: Response) -> Delivery | None:
    """Read the answer to a single member."""
    body = mapping(answer_of(response).body)
    if 200 <= response.status < 300 and present(body.get("contact_id")):
        return Delivered(str(response.status), acceptance="accepted")
    return None


def classify_each(
    call: Call, request: Request, response: Response, units: Sequence[Unit]
) -> Sequence[Delivery] | None:
    """Read the answer to a batch of members: `errors` names those that were not taken, by their e-mail."""
    body = mapping(answer_of(response).body)
    if response.status != 200 or not ("errors" in body or "new_members" in body):
        return None
    problems = {
        trimmed_lower(mapping(error).get("email_address")): text(mapping(error).get("error"))
        for error in sequence(body.get("errors"))
    }
    taken = Delivered("200", acceptance="accepted")
    results: list[Delivery] = []
    for unit in units:
        member = mapping(unit.calls[0].body.value if unit.calls[0].body else None)
        problem = problems.get(trimmed_lower(member.get("email_address")))
        results.append(taken if problem is None else Rejected(problem))
    return results


SPEC = DestinationSpec(
    name="MAILCHIMP",
    title="Mailchimp",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track"}),
    doc_url="https://mailchimp.com/developer/marketing/api/list-members/add-or-update-list-member/",
    mapper=make_mapper,
    batcher=make_batcher,
    classify=classify,
    classify_each=classify_each,
    default_max_batch=_MOST,
    default_concurrency=8,
    proof="each event",
    tables=(MappingTable(title="Merge fields, from traits", rows=_MERGE_FIELDS.rows),),
    limits="10 requests at once; 500 members a batch; event names of 2 to 30 characters",
)
