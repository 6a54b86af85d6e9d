"""Criteo Audience: people into and out of a contact list.

Follows https://developers.criteo.com/marketing-solutions/docs/contact-list (API 2026-07, read 2026-11). Auth: OAuth.
Limits: 50,000 identifiers a request; 250 requests a minute.

An `audiencelist` event carries people in `properties.listData.add` and `.remove`; each is known by the field that the
list's kind names (e-mail, mobile advertising id, LiveRamp's IdentityLink, or Criteo's GUM).
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from mainstem.destinations.base import (
    Batch,
    Batcher,
    Delivered,
    Delivery,
    DestinationSpec,
    MapContext,
    Mapper,
    OAuth,
    Payloads,
    Rejected,
    Request,
    Response,
    Schema,
    Unit,
)
from mainstem.destinations.kit.batching import alone
from mainstem.destinations.kit.body import quoted
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.refuse import postpone, refuse, settled
from mainstem.destinations.kit.values import get, mapping, present, sequence, text, truthy
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_API: Final = "https://api.criteo.com/2026-07"
_MOST: Final = 50_000
_RETL_TYPE: Final = "CRITEO_AUDIENCE-"
_KINDS: Final = {kind.lower(): kind for kind in ("email", "madid", "identityLink", "gum")}


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    audience_id: str | int | None = None
    """The id of the contact list."""
    audience_type: str = "email"
    """What people are known by: `email`, `madid`, `identityLink` or `gum`."""
    gum_caller_id: str | int | None = None
    """Your id at Criteo's GUM; required for `gum`."""
    client_id: str | None = None
    """RudderStack's place for the application's id; kept, not used: `oauth.clientId` is."""
    client_secret: Secret = Secret("")
    """RudderStack's place for the application's secret; kept, not used: `oauth.clientSecret` is."""
    rudder_account_id: str | None = None
    """RudderStack's reference to the connected account; kept, not used."""
    ad_account_id: str | int | None = msgspec.field(name="warehouse-adAccountId", default=None)
    """The advertiser's id, as syncs of a warehouse keep it; not used."""


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    kind = _KINDS.get(config.audience_type.strip().lower())
    caller = text(config.gum_caller_id) if present(config.gum_caller_id) else ""

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        if kind is None:
            refuse(f"the setting `audienceType` is none of {', '.join(_KINDS.values())}")
        if kind == "gum" and not caller:
            refuse("the setting `gumCallerId` is empty; lists of kind gum need it")
        lists = get(message, "properties.listData")
        if not isinstance(lists, dict):
            refuse("`properties.listData` is missing; it holds who is added and removed")
        changes = [
            (way, identifiers)
            for way, people in lists.items()
            if way in ("add", "remove") and (identifiers := _identifiers(people, kind))
        ]
        if not changes:
            refuse(f"`properties.listData` has nobody with `{kind}` under `add` or `remove`")
        audience = text(config.audience_id) if present(config.audience_id) else _retl_audience(message)
        if not audience:
            refuse("the setting `audienceId` is empty and the event names no list; give the id of the list")
        token = context.secret.get("access_token")
        if not token:
            postpone("there is no access token; connect the Criteo account again", 500)
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "Accept": "application/json",
        }
        return tuple(
            json_call(
                f"{_API}/audiences/{quoted(audience)}/contactlist",
                {
                    "data": {
                        "type": "ContactlistAmendment",
                        "attributes": _amendment(way, kind, chunk, caller),
                    }
                },
                method="PATCH",
                headers=headers,
            )
            for way, identifiers in changes
            for chunk in (identifiers[at : at + _MOST] for at in range(0, len(identifiers), _MOST))
        )

    return settled(to_calls)


def _identifiers(people: Json, kind: str) -> list[str]:
    found = (mapping(person).get(kind) for person in sequence(people))
    return [text(value) for value in found if isinstance(value, str | int) and truthy(value)]


def _amendment(way: str, kind: str, identifiers: list[str], caller: str) -> dict[str, Json]:
    attributes: dict[str, Json] = {
        "operation": way,
        "identifierType": kind,
        "identifiers": identifiers,
        "internalIdentifiers": False,
    }
    if kind == "gum":
        attributes["gumCallerId"] = caller
    return attributes


def _retl_audience(message: dict[str, Json]) -> str:
    """Return the list that a row synced from a warehouse is for."""
    if truthy(get(message, "context.mappedToDestination")):
        for entry in sequence(get(message, "context.externalId")):
            kind = mapping(entry).get("type")
            if isinstance(kind, str) and kind.startswith(_RETL_TYPE):
                return kind.removeprefix(_RETL_TYPE)
    return ""


def make_batcher(config: Config) -> Batcher:
    """Return the batching: an event by itself, its requests as a list."""
    del config

    def batch(units: Sequence[Unit]) -> list[Batch]:
        return [msgspec.structs.replace(alone(unit), many=True) for unit in units]

    return batch


def classify(request: Request, response: Response) -> Delivery | None:
    """Criteo answers with how many identifiers were valid, and examples of those that were not."""
    del request
    body = mapping(answer_of(response).body)
    if response.status != 200:
        return None
    if errors := sequence(body.get("errors")):
        title = mapping(errors[0]).get("title") or mapping(errors[0]).get("code") or "error"
        return Rejected(text(title)[:500], answer="200")
    counts = mapping(get(body, "data.attributes"))
    if counts.get("nbInvalidIdentifiers"):
        return Delivered(
            "200",
            acceptance="accepted with warning",
            warning=f"{text(counts['nbInvalidIdentifiers'])} identifiers are not valid",
        )
    return Delivered("200", acceptance="accepted") if "nbValidIdentifiers" in counts else None


_DOC: Final = "https://developers.criteo.com/marketing-solutions/docs/contact-list"

SPEC = DestinationSpec(
    name="CRITEO_AUDIENCE",
    title="Criteo Audience",
    kind="http",
    config=Config,
    message_types=frozenset({"audiencelist"}),
    doc_url=_DOC,
    mapper=make_mapper,
    batcher=make_batcher,
    classify=classify,
    oauth=OAuth(token_url="https://api.criteo.com/oauth2/token"),  # noqa: S106 - an address
    proof="body",
    schemas=(
        Schema(
            label="",
            doc_url=_DOC,
            schema={
                "type": "object",
                "required": ["data"],
                "properties": {
                    "data": {
                        "type": "object",
                        "required": ["type", "attributes"],
                        "properties": {
                            "type": {"const": "ContactlistAmendment"},
                            "attributes": {
                                "type": "object",
                                "required": ["operation", "identifierType", "identifiers"],
                                "properties": {
                                    "operation": {"enum": ["add", "remove"]},
                                    "identifierType": {"enum": list(_KINDS.values())},
                                    "identifiers": {"type": "array", "minItems": 1, "maxItems": _MOST},
                                },
                            },
                        },
                    }
                },
            },
        ),
    ),
    limits="50,000 identifiers a request; 250 requests a minute",
)
