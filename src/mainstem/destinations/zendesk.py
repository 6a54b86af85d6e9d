"""Zendesk: users, organizations and their members, and user events.

Follows https://developer.zendesk.com/api-reference/ticketing/users/users/ (API v2), .../organizations/organizations/,
.../organizations/organization_memberships/ and https://developer.zendesk.com/api-reference/custom-data/events-api/,
read 2026-11. Auth: `EMAIL/token` and an API token by Basic authentication. Limits: 200 to 2,500 requests a minute by
plan, 5 updates of one user a minute, 100 memberships changes a minute.

An identify creates or updates a user, and makes its new e-mail the primary one if the settings say so;
`company.remove` in its traits takes the user out of an organization. A group creates or updates an organization and
makes the user a member. A track becomes an event of the user, who is created if need be. Traits that Zendesk has no
field for become custom fields, which are made when they are first seen.
"""

import re
from collections.abc import Generator, Mapping, Sequence
from typing import Any, ClassVar, Final

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
    Request,
    Response,
    Unit,
)
from mainstem.destinations.kit.body import quoted
from mainstem.destinations.kit.call import basic_auth, json_call
from mainstem.destinations.kit.dialogue import answer_of, or_postpone
from mainstem.destinations.kit.refuse import dialogue, refuse, skip
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.values import (
    first,
    get,
    mapping,
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

_SUBDOMAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_KNOWN_FOR_S: Final = 600.0
"""How long the lists of custom fields are believed, and fields that were made are not made again."""
_SOURCE: Final = "Rudder"
"""Names the profiles that events are filed under; those that customers have go by it."""


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    email: str = ""
    """E-mail of the agent or administrator that the API token is used by."""
    api_token: Secret = Secret("")
    """API token, made in Zendesk's Admin Center."""
    domain: str = ""
    """Subdomain of the account: `example` of https://example.zendesk.com."""
    password: Secret = Secret("")
    """Not used; the API token takes its place."""
    create_users_as_verified: bool = False
    """Create users as verified, so that Zendesk sends them no e-mail to verify theirs."""
    send_group_calls_without_user_id: bool = False
    """Write organizations of groups that have no userId; such groups are refused otherwise."""
    remove_users_from_organization: bool = False
    """Take users out of the organization `company.id` of their traits where `company.remove` is true."""
    search_by_external_id: bool = False
    """Find users by their id, and make the e-mail of an identify their primary one."""
    NEEDED_TO_SEND: ClassVar = frozenset({"email", "apiToken", "domain"})


_USER: Final = Table(
    Row("email", "email"),
    Row("name", "name"),
    Row("phone", "phone"),
    Row("alias", "alias"),
    Row("details", "details"),
    Row("notes", "notes"),
    Row("locale", "locale"),
    Row("locale_id", "localeId"),
    Row("moderator", "moderator"),
    Row("only_private_comments", "onlyPrivateComments"),
    Row("organization_id", "organizationId"),
    Row("default_group_id", "defaultGroupId"),
    Row("restricted_agent", "restrictedAgent"),
    Row("role", "role"),
    Row("custom_role_id", "customRoleId"),
    Row("signature", "signature"),
    Row("suspended", "suspended"),
    Row("tags", "tags"),
    Row("ticket_restriction", "ticketRestriction"),
    Row("time_zone", "timeZone", "timezone"),
)
_ORGANIZATION: Final = Table(
    Row("name", "name"),
    Row("domain_names", "domainNames", "domains"),
    Row("details", "details"),
    Row("notes", "notes"),
    Row("tags", "tags"),
    Row("group_id", "groupId"),
    Row("shared_comments", "sharedComments"),
    Row("shared_tickets", "sharedTickets"),
)


def _sources(table: Table) -> frozenset[str]:
    return frozenset(source for _, sources, _ in table.rows for source in sources)


_NOT_CUSTOM: Final = _sources(_USER) | {"userId", "id", "company", "anonymousId", "externalId"}
_NOT_CUSTOM_OF_ORGANIZATION: Final = _sources(_ORGANIZATION) | {"id", "externalId"}
_USER_ID: Final = ("traits.userId", "traits.id", "context.traits.userId", "context.traits.id", "userId")


class _Account:
    """The settings, compiled."""

    def __init__(self, config: Config, partner: str) -> None:
        self.config = config
        self.base = f"https://{config.domain}.zendesk.com/api/v2/"
        self.headers = {
            "Authorization": basic_auth(f"{config.email}/token", config.api_token.reveal()),
            "Content-Type": "application/json",
            "X-Zendesk-Marketplace-Name": partner,
        }
        if partner == "RudderStack":
            # Theirs, as Zendesk's marketplace knows them.
            self.headers["X-Zendesk-Marketplace-Organization-Id"] = "3339"
            self.headers["X-Zendesk-Marketplace-App-Id"] = "263241"

    def call(self, path: str, value: Json, *, method: str = "POST", **more: Any) -> Call:
        return json_call(self.base + path, value, method=method, headers=self.headers, **more)

    def bare(self, method: str, path: str, **more: Any) -> Call:
        return Call(url=self.base + path, method=method, headers=self.headers, **more)


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    accounts: dict[str, _Account] = {}
    # The host is made of it.
    lacks = (
        None
        if _SUBDOMAIN.fullmatch(config.domain)
        else "`domain` in the settings is no subdomain of Zendesk's"
    )

    def looking(event: Event, context: MapContext) -> Looking:
        if lacks is not None:
            refuse(lacks)
        account = accounts.get(context.partner)
        if account is None:
            account = accounts[context.partner] = _Account(config, context.partner)
        match event.type:
            case "identify":
                return (yield from _identify(event, account))
            case "group":
                return (yield from _group(event, account))
            case _:
                return (yield from _track(event, account))

    return dialogue(looking)


def make_batcher(config: Config) -> Batcher:
    """Return the batching: every event by itself; an identify is always a list of requests."""

    def batch(units: Sequence[Unit]) -> Sequence[Batch]:
        return [
            Batch(
                unit.calls,
                (unit.index,),
                batched=False,
                many=len(unit.calls) > 1 or unit.event.type == "identify",
            )
            for unit in units
        ]

    return batch


def _traits(message: Mapping[str, Json]) -> dict[str, Json]:
    return mapping(message.get("traits")) or mapping(get(message, "context.traits"))


# ---------------------------------------------------------------- users


def _identify(event: Event, account: _Account) -> Looking:
    message = event.message
    traits = _traits(message)
    if not traits:
        refuse("`traits` is missing; there is nothing to say about the user")
    queue = message.get("anonymousId")
    user = _USER.build(traits)
    user_id = first(message, *_USER_ID)
    custom = omit(traits, _NOT_CUSTOM)
    yield from _make_fields("user", custom, account)
    if user_id is not None:
        user["external_id"] = user_id
        custom = {"id": user_id, **custom}
    if custom:
        user["user_fields"] = custom
    if account.config.create_users_as_verified:
        user["verified"] = True
    write = account.call("users/create_or_update.json", {"user": user}, user_id=queue)
    calls: list[Call] = []
    if account.config.search_by_external_id and present(user.get("email")):
        answer = yield write
        or_postpone(answer, "creating or updating the user")
        found = get(answer.body, "user.id")
        if present(found):
            calls += yield from _primary(found, user["email"], account, queue)
    company = mapping(traits.get("company"))
    if account.config.remove_users_from_organization and truthy(company.get("remove")):
        membership = yield from _membership_to_end(message, traits, company.get("id"), account)
        if membership is not None:
            calls.append(account.bare("DELETE", membership, user_id=queue))
    return (*calls, write)


def _make_fields(kind: str, custom: Mapping[str, Json], account: _Account) -> Generator[Call, Answer, None]:
    """Make the custom fields that there are not yet; where that fails, Zendesk passes over their values."""
    answer = yield account.bare("GET", f"{kind}_fields.json", cache_s=_KNOWN_FOR_S)
    or_postpone(answer, f"list of {kind} fields")
    fields = mapping(answer.body).get(f"{kind}_fields")
    if not isinstance(fields, list):
        return
    known = {mapping(field).get("key") for field in fields if isinstance(mapping(field).get("key"), str)}
    for key in custom:
        if key in known:
            continue
        # `type` is required: https://developer.zendesk.com/api-reference/ticketing/users/user_fields/#json-format
        field = {"title": key, "active": True, "key": key, "description": key, "type": "text"}
        answer = yield account.call(f"{kind}_fields.json", {f"{kind}_field": field}, cache_s=_KNOWN_FOR_S)
        if answer.status:  # without an answer the write that follows will hardly get one either
            or_postpone(answer, f"making the {kind} field")


def _primary(found: Json, email: Json, account: _Account, queue: Json) -> Generator[Call, Answer, list[Call]]:
    """Return what makes an e-mail a user's primary one."""
    path = f"users/{quoted(text(found))}/identities"
    answer = yield account.bare("GET", path)
    identities = [
        one
        for one in sequence(mapping(answer.body).get("identities"))
        if isinstance(one, dict) and one.get("type") == "email" and present(one.get("id"))
    ]
    primary = next((one for one in identities if one.get("primary") is True), None)
    if primary is None or primary.get("value") == email:
        return []
    # Zendesk does not take the same e-mail twice.
    calls = [
        account.bare("DELETE", f"{path}/{quoted(text(one['id']))}", user_id=queue)
        for one in identities
        if one.get("value") == email
    ]
    identity = {"type": "email", "value": email, "verified": account.config.create_users_as_verified}
    change = account.call(
        f"{path}/{quoted(text(primary['id']))}", {"identity": identity}, method="PUT", user_id=queue
    )
    return [*calls, change]


def _find(
    message: Mapping[str, Json], traits: Mapping[str, Json], account: _Account
) -> Generator[Call, Answer, Json]:
    """Return the user in Zendesk as it is there, or None."""
    params: dict[str, Json] = {"query": traits.get("email")}
    if account.config.search_by_external_id and present(message.get("userId")):
        params = {"external_id": message["userId"]}
    answer = yield account.bare("GET", "users/search.json", params=params)
    or_postpone(answer, "search of the user")
    users = sequence(mapping(answer.body).get("users"))
    return users[0] if users and present(mapping(users[0]).get("id")) else None


def _find_or_create(
    message: Mapping[str, Json], traits: Mapping[str, Json], account: _Account
) -> Generator[Call, Answer, dict[str, Json]]:
    """Return the user in Zendesk as it is there."""
    email = traits.get("email")
    if not present(email):
        refuse("`traits.email` is missing; Zendesk's users are found by it")
    found = yield from _find(message, traits, account)
    if found is not None:
        return mapping(found)
    user = without_none(
        {"name": traits.get("name"), "external_id": first(message, "userId", *_USER_ID), "email": email}
    )
    if account.config.create_users_as_verified:
        user["verified"] = True
    answer = yield account.call("users/create_or_update.json", {"user": user})
    or_postpone(answer, "creating the user")
    made = mapping(mapping(answer.body).get("user"))
    if not present(made.get("id")):
        refuse(f"Zendesk has no user of this e-mail and did not create one (http {answer.status})")
    return made


def _membership_to_end(
    message: Mapping[str, Json], traits: Mapping[str, Json], organization: Json, account: _Account
) -> Generator[Call, Answer, str | None]:
    """Return the path of a user's membership in an organization, or None."""
    if not present(organization) or not present(traits.get("email")):
        return None
    found = yield from _find(message, traits, account)
    if found is None:
        return None
    path = f"users/{quoted(text(found['id']))}/organization_memberships"
    for one in (yield from _memberships(found["id"], account)):
        if text(one.get("organization_id")) == text(organization) and present(one.get("id")):
            return f"{path}/{quoted(text(one['id']))}.json"
    return None


def _memberships(user_id: Json, account: _Account) -> Generator[Call, Answer, list[dict[str, Json]]]:
    answer = yield account.bare("GET", f"users/{quoted(text(user_id))}/organization_memberships.json")
    or_postpone(answer, "list of the user's organizations")
    found = sequence(mapping(answer.body).get("organization_memberships"))
    return [one for one in found if isinstance(one, dict)]


# ---------------------------------------------------------------- organizations


def _group(event: Event, account: _Account) -> Looking:
    message = event.message
    user_id = message.get("userId")
    if not present(user_id) and not account.config.send_group_calls_without_user_id:
        refuse("`userId` is missing; the settings (`sendGroupCallsWithoutUserId`) want groups to have one")
    traits = mapping(message.get("traits"))
    if not traits:
        refuse("`traits` is missing; there is nothing to say about the organization")
    queue = message.get("anonymousId")
    organization = _ORGANIZATION.build(traits)
    custom = omit(traits, _NOT_CUSTOM_OF_ORGANIZATION)
    yield from _make_fields("organization", custom, account)
    group_id = message.get("groupId")
    if present(group_id):
        organization["external_id"] = group_id
        custom = {"id": group_id, **custom}
    if custom:
        organization["organization_fields"] = custom
    write = account.call("organizations/create_or_update.json", {"organization": organization}, user_id=queue)
    if not present(user_id):
        return (write,)
    answer = yield write
    or_postpone(answer, "creating or updating the organization")
    known = get(answer.body, "organization.id")
    if not present(known):
        refuse(
            f"Zendesk did not take the organization (http {answer.status}); it needs a `traits.name` of its own"
        )
    user = yield from _find_or_create(message, mapping(get(message, "context.traits")), account)
    if any(one.get("organization_id") == known for one in (yield from _memberships(user["id"], account))):
        skip("the user is a member of the organization already")
    body = {"organization_membership": {"user_id": user["id"], "organization_id": known}}
    return (account.call("organization_memberships.json", body, user_id=queue),)


# ---------------------------------------------------------------- events


def _track(event: Event, account: _Account) -> Looking:
    message = event.message
    if not event.name:
        refuse("`event` is missing; Zendesk's events go by their name")
    user = yield from _find_or_create(message, _traits(message), account)
    body = {
        "event": without_none(
            {
                "description": event.name,
                "type": event.name,
                "source": _SOURCE,
                "properties": message.get("properties"),
            }
        ),
        "profile": {
            "type": event.name,
            "source": _SOURCE,
            "identifiers": [{"type": "email", "value": user.get("email")}],
        },
    }
    path = f"users/{quoted(text(user['id']))}/events"
    return (account.call(path, body, user_id=message.get("anonymousId")),)


# ---------------------------------------------------------------- answers


def classify(request: Request, response: Response) -> Delivery | None:
    """Read Zendesk's answer: what was written comes back; what is not there any more need not be deleted."""
    if request.method == "DELETE" and response.status == 404:
        return Delivered("404: it is gone already", acceptance="accepted")
    body = mapping(answer_of(response).body)
    written = ("user", "organization", "organization_membership", "identity")
    if 200 <= response.status < 300 and any(present(mapping(body.get(kind)).get("id")) for kind in written):
        return Delivered(str(response.status), acceptance="accepted")
    return None


SPEC = DestinationSpec(
    name="ZENDESK",
    title="Zendesk",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track", "group"}),
    doc_url="https://developer.zendesk.com/api-reference/ticketing/users/users/",
    mapper=make_mapper,
    batcher=make_batcher,
    classify=classify,
    default_concurrency=4,
    proof="body",
    tables=(
        MappingTable(title="User, from traits", rows=_USER.rows),
        MappingTable(title="Organization, from the group's traits", rows=_ORGANIZATION.rows),
    ),
    limits="200 to 2,500 requests a minute by plan; 5 updates of one user a minute",
)
