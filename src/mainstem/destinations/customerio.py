"""Customer.io: people, what they do, their devices and the objects they belong to.

Follows https://docs.customer.io/api/track/ (Track API v1 and v2, read 2026-11). Auth: site id and API key (basic).
Limits: 500 kB a batch and 32 kB each of its entries; an anonymous event's name has at most 100 bytes.

An identify makes or changes a person; track, page and screen are events; a group is an object with a relationship to
the person; an alias merges two people. `Application Installed`, `Application Opened` and an event named in the
settings register the device whose token they carry, `Application Uninstalled` removes it. A `record` (of a warehouse
sync) is a person or an event. Everything goes in batches (`/v2/batch`); a request by itself is the v1 API's.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from mainstem.destinations.base import (
    Batch,
    Batcher,
    Call,
    Delivered,
    Delivery,
    DestinationSpec,
    MapContext,
    Mapper,
    Payloads,
    Rejected,
    Request,
    Response,
    Schema,
    Unit,
)
from mainstem.destinations.kit.batching import together
from mainstem.destinations.kit.body import quoted
from mainstem.destinations.kit.call import basic_auth, json_call
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.times import happened_ms, seconds_of
from mainstem.destinations.kit.values import (
    defined,
    first,
    is_email,
    mapping,
    omit,
    present,
    sequence,
    text,
    truthy,
)
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_BATCH: Final = "v2/batch"
_MOST_BYTES: Final = 500_000
_MOST: Final = 1000
_LONGEST_ANONYMOUS_NAME: Final = 100
_REGISTERING: Final = frozenset(("Application Installed", "Application Opened"))
_REMOVING: Final = "Application Uninstalled"
_APPLE: Final = frozenset(("ios", "iphone", "ipad", "ipados", "watchos", "tvos", "visionos"))
_GROUP_ACTIONS: Final = frozenset(("identify", "delete", "add_relationships", "delete_relationships"))
_NOT_ATTRIBUTES: Final = frozenset(("anonymousId", "userId", "address", "createdAt"))
_ID: Final = ("userId", "traits.userId", "traits.id", "context.traits.userId", "context.traits.id")
_EMAIL: Final = ("traits.email", "context.traits.email", "properties.email")


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    site_id: str = msgspec.field(name="siteID")
    """The site id of the workspace's Track API."""
    api_key: Secret
    """The API key of the workspace's Track API."""
    datacenter: str | None = None
    """Where the workspace is: `US` (as without) or `EU`."""
    datacenter_eu: bool = msgspec.field(name="datacenterEU", default=False)
    """The workspace is in the EU, as older settings say it."""
    device_token_event_name: str | None = None
    """An event that registers the device too, besides `Application Installed` and `Application Opened`."""


class _Person(msgspec.Struct, frozen=True):
    """Whom an event is about; one of them is there."""

    user_id: str = ""
    email: str = ""
    anonymous_id: str = ""

    @property
    def known(self) -> str:
        return self.user_id or self.email

    @property
    def identifiers(self) -> dict[str, str]:
        if self.user_id:
            return {"id": self.user_id}
        return {"email": self.email} if self.email else {"anonymous_id": self.anonymous_id}


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    host = _host(config)
    base = f"{host}/api/v1"
    headers = {"Authorization": basic_auth(config.site_id, config.api_key.reveal())}
    token_event = config.device_token_event_name

    def call(method: str, path: str, label: str, value: Json, message: dict[str, Json]) -> Payloads:
        more: dict[str, Any] = {
            "method": method,
            "headers": headers,
            "label": label,
            "user_id": first(message, *_ID, "anonymousId"),
            "extra": {"statusCode": 200},
        }
        url = base + path
        return (Call(url=url, **more) if value is None else json_call(url, value, **more),)

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        if event.type == "record":
            return (
                json_call(f"{host}/api/{_BATCH}", _record(message, context), headers=headers, label=_BATCH),
            )
        if event.type == "group":
            return (
                json_call(
                    f"{host}/api/{_BATCH}",
                    _object(message),
                    headers=headers,
                    label=_BATCH,
                    user_id=first(message, *_ID, "anonymousId"),
                    extra={"statusCode": 200},
                ),
            )
        if event.type == "alias":
            return call("POST", "/merge_customers", "v1/merge_customers", _merged_people(message), message)
        person = _person(message)
        if event.type == "identify":
            if not person.known:
                refuse(
                    "`userId` is missing, and so is `traits.email`; Customer.io knows people by one of them"
                )
            attributes = {**mapping(message.get("user_properties")), **_attributes(message)}
            return call("PUT", f"/customers/{quoted(person.known)}", "v1/customers", attributes, message)
        way = _device_way(event, token_event)
        token = _device_token(message) if way else ""
        if way == "delete":
            if not person.known or not token:
                refuse(
                    "`context.device.token` is missing, or `userId` and e-mail are; a device is removed by both"
                )
            path = f"/customers/{quoted(person.known)}/devices/{quoted(token)}"
            return call("DELETE", path, "v1/customers/devices/delete", None, message)
        if way == "add" and person.known and token:
            device = {**mapping(message.get("properties")), "id": token, **_device(message)}
            path = f"/customers/{quoted(person.known)}/devices"
            return call("PUT", path, "v1/customers/devices", {"device": device}, message)
        body = _happening(event, person)
        if person.known:
            path = f"/customers/{quoted(person.known)}/events"
            return call("POST", path, "v1/customers/events", body, message)
        return call("POST", "/events", "v1/events", {**body, "anonymous_id": person.anonymous_id}, message)

    return settled(to_calls)


def _host(config: Config) -> str:
    european = config.datacenter_eu or (config.datacenter or "").strip().upper() == "EU"
    return "https://track-eu.customer.io" if european else "https://track.customer.io"


# ---------------------------------------------------------------- people


def _retl_id(message: dict[str, Json]) -> tuple[str, Json]:
    """Return the identifier of a row synced from a warehouse, as (field, value); empty without."""
    context = mapping(message.get("context"))
    if truthy(context.get("mappedToDestination")):
        for entry in sequence(context.get("externalId")):
            field = mapping(entry).get("identifierType")
            if isinstance(field, str) and field and present(entry.get("id")):
                return field, entry["id"]
    return "", None


def _scalar(value: Json) -> str:
    return text(value) if isinstance(value, str | int | float) and present(value) else ""


def _person(message: dict[str, Json]) -> _Person:
    field, value = _retl_id(message)
    user_id = _scalar(first(message, *_ID)) or (_scalar(value) if field in ("userId", "id") else "")
    email = _scalar(first(message, *_EMAIL)) or (_scalar(value) if field == "email" else "")
    person = _Person(user_id, email, _scalar(message.get("anonymousId")))
    if not person.known and not person.anonymous_id:
        refuse("`userId` and `anonymousId` are missing, and so is an e-mail; Customer.io needs one of them")
    return person


def _attributes(message: dict[str, Json]) -> dict[str, Json]:
    traits = message.get("traits")
    if not isinstance(traits, dict):
        traits = mapping(mapping(message.get("context")).get("traits"))
    attributes = omit(traits, _NOT_ATTRIBUTES)
    address = traits.get("address")
    if isinstance(address, dict):
        attributes |= address
    elif defined(address):
        attributes["address"] = address
    created = seconds_of(first(message, "traits.createdAt", "context.traits.createdAt"))
    if created is not None:
        attributes["created_at"] = created
    field, value = _retl_id(message)
    if field and field not in _NOT_ATTRIBUTES:
        attributes[field] = value
    if (at := _happened(message)) is not None:
        attributes["_timestamp"] = at
    if present(message.get("anonymousId")):
        attributes["anonymous_id"] = message["anonymousId"]
    return attributes


def _merged_people(message: dict[str, Json]) -> dict[str, Json]:
    new, old = _scalar(message.get("userId")), _scalar(message.get("previousId"))
    if not new or not old:
        refuse("`userId` or `previousId` is missing; a merge needs the person who stays and the one who goes")
    return {"primary": _by(new), "secondary": _by(old)}


def _by(user_id: str) -> dict[str, str]:
    return {"email": user_id} if is_email(user_id) else {"id": user_id}


def _object(message: dict[str, Json]) -> dict[str, Json]:
    """Return a group as an entry of a batch: an object, and who belongs to it."""
    group_id = _scalar(message.get("groupId"))
    if not group_id:
        refuse("`groupId` is missing; it is the object's id")
    traits = mapping(message.get("traits"))
    action = traits.get("action") or "identify"
    if action not in _GROUP_ACTIONS:
        refuse(f"`traits.action` is none of {', '.join(sorted(_GROUP_ACTIONS))}")
    item: dict[str, Json] = {
        "type": "object",
        "action": action,
        "identifiers": {
            "object_id": group_id,
            "object_type_id": _scalar(traits.get("objectTypeId")) or "1",
        },
        "attributes": omit(traits, ("action", "objectTypeId")),
    }
    user_id = _scalar(message.get("userId")) or _scalar(first(message, "context.traits.email"))
    if user_id:
        item["cio_relationships"] = [{"identifiers": _by(user_id)}]
    return item


# ---------------------------------------------------------------- events


def _happened(message: dict[str, Json]) -> int | None:
    at_ms = happened_ms(message)
    return None if at_ms is None else at_ms // 1000


def _name(event: Event, person: _Person) -> str | None:
    message = event.message
    if event.type == "screen":
        name = first(message, "event", "name", "properties.name")
        room = _LONGEST_ANONYMOUS_NAME - len("Viewed  Screen")
    elif event.type == "page":
        name = first(message, "name", "properties.url")
        room = _LONGEST_ANONYMOUS_NAME
    else:
        name = message.get("event")
        room = _LONGEST_ANONYMOUS_NAME
        if not isinstance(name, str) or not name:
            refuse("`event` is missing or no text; an event needs a name")
    if not person.known:
        if not isinstance(name, str):
            refuse("the name is missing or no text; an anonymous event needs one")
        name = name.encode("utf-8", "replace")[:room].decode("utf-8", "ignore")
    if event.type == "screen":
        return f"Viewed {_scalar(name)} Screen" if name else "Viewed Screen"
    return _scalar(name) or None


def _happening(event: Event, person: _Person) -> dict[str, Json]:
    body: dict[str, Json] = {"type": "page" if event.type == "page" else "event"}
    if (name := _name(event, person)) is not None:
        body["name"] = name
    if isinstance(properties := event.message.get("properties"), dict):
        body["data"] = properties
    if (at := _happened(event.message)) is not None:
        body["timestamp"] = at
    return body


def _device_way(event: Event, token_event: str | None) -> str:
    if event.type != "track":
        return ""
    name = event.message.get("event")
    if name == _REMOVING:
        return "delete"
    return "add" if isinstance(name, str) and (name in _REGISTERING or name == token_event) else ""


def _device_token(message: dict[str, Json]) -> str:
    return _scalar(first(message, "context.device.token"))


def _device(message: dict[str, Json]) -> dict[str, Json]:
    device: dict[str, Json] = {}
    kind = _scalar(first(message, "context.device.type")).lower()
    if kind:
        device["platform"] = "ios" if kind in _APPLE else kind
    if (at := _happened(message)) is not None:
        device["last_used"] = at
    return device


# ---------------------------------------------------------------- rows of a warehouse


def _record(message: dict[str, Json], context: MapContext) -> dict[str, Json]:
    settings = mapping(mapping(context.connection.get("config")).get("destination"))
    action = message.get("action")
    if action not in ("insert", "update", "delete"):
        refuse("`action` is not insert, update or delete; a record says what happened to the row")
    given = {**mapping(message.get("identifiers")), **mapping(message.get("fields"))}
    name = next((name for name in ("cio_id", "id", "email") if _scalar(given.get(name))), "")
    if not name:
        refuse("`identifiers` has no `id` or `email`; Customer.io knows people by one of them")
    item: dict[str, Json] = {"type": "person", "identifiers": {name: _scalar(given.pop(name))}}
    if settings.get("object") == "event":
        return _event_row(item, given, action)
    if action == "delete":
        return {**item, "action": "delete"}
    item["action"] = "identify"
    if given:
        item["attributes"] = given
    return item


def _event_row(item: dict[str, Json], given: dict[str, Json], action: str) -> dict[str, Json]:
    if action == "delete":
        refuse("`action` is delete; Customer.io keeps events")
    name = _scalar(given.pop("name", None))
    if not name:
        refuse("`identifiers.name` is missing; it is the event's name")
    item |= {"action": "event", "name": name}
    created = given.pop("created_at", None)
    if present(created):
        at = seconds_of(created)
        if at is None:
            refuse("`identifiers.created_at` is no time; it says when the event happened")
        item["timestamp"] = at
    if given:
        item["attributes"] = given
    return item


# ---------------------------------------------------------------- batches


def make_batcher(config: Config) -> Batcher:
    """Return the batching: everything goes into one list, in order."""
    url = f"{_host(config)}/api/{_BATCH}"
    headers = {
        "Authorization": basic_auth(config.site_id, config.api_key.reveal()),
        "Content-Type": "application/json",
    }
    token_event = config.device_token_event_name

    def merge(calls: Sequence[Call]) -> Call:
        items = [call.body.value for call in calls if call.body is not None]
        return json_call(url, {"batch": items}, headers=headers, label=_BATCH)

    def batch(units: Sequence[Unit]) -> Sequence[Batch]:
        entries = [
            Unit(unit.index, (json_call(url, _entry(unit, token_event)),), unit.event) for unit in units
        ]
        return together(entries, key=lambda _: _BATCH, merge=merge, most=_MOST, most_bytes=_MOST_BYTES)

    return batch


def _entry(unit: Unit, token_event: str | None) -> Json:
    """Return an event as an entry of a batch; that it can be one was seen when it was mapped."""
    (call,) = unit.calls
    if call.label == _BATCH:
        return call.body.value if call.body is not None else {}
    event = unit.event
    message = event.message
    if event.type == "alias":
        return {"type": "person", "action": "merge", **_merged_people(message)}
    person = _person(message)
    entry: dict[str, Json] = {"type": "person", "identifiers": person.identifiers}
    if event.type == "identify":
        return {**entry, "action": "identify", "attributes": _attributes(message)}
    if call.label == "v1/customers/devices/delete":
        return {**entry, "action": "delete_device", "device": {"token": _device_token(message)}}
    properties = message.get("properties")
    if call.label == "v1/customers/devices":
        device = {"token": _device_token(message), **_device(message)}
        if isinstance(properties, dict) and properties:
            device["attributes"] = properties
        return {**entry, "action": "add_device", "device": device}
    body = _happening(event, person)
    entry["action"] = "event" if event.type == "track" else event.type
    if "name" in body:
        entry["name"] = body["name"]
    if isinstance(properties, dict):
        entry["attributes"] = properties
    if "timestamp" in body:
        entry["timestamp"] = body["timestamp"]
    return entry


def _errors(response: Response) -> dict[int, str] | None:
    """Return what is wrong with the entries of a batch, by their place; None if the answer does not say so."""
    errors = mapping(answer_of(response).body).get("errors")
    if response.status not in (200, 207) or not isinstance(errors, list | None):
        return None
    found: dict[int, str] = {}
    for error in errors or ():
        said = mapping(error)
        place = said.get("batch_index")
        reason = f"{text(said.get('reason') or '')} {text(said.get('field') or '')}: {text(said.get('message') or '')}"
        found[place if isinstance(place, int) else -1] = reason.strip()[:500]
    return found


def classify(request: Request, response: Response) -> Delivery | None:
    """A batch that was taken answers 200 with nothing in it; 207 names the entries that were not."""
    if not request.url.endswith(_BATCH):
        return None
    errors = _errors(response)
    if errors is None:
        return None
    if errors:
        return Rejected(next(iter(errors.values())), answer=str(response.status))
    return Delivered(str(response.status), acceptance="accepted")


def classify_each(
    call: Call, request: Request, response: Response, units: Sequence[Unit]
) -> Sequence[Delivery] | None:
    """207: some entries of the batch were not taken, by their `batch_index`."""
    del call, request
    errors = _errors(response)
    if errors is None:
        return None
    answer = str(response.status)
    everyone = errors.get(-1)
    return [
        Rejected(said, answer=answer)
        if (said := errors.get(place) or everyone)
        else Delivered(answer, acceptance="accepted")
        for place in range(len(units))
    ]


_DOC: Final = "https://docs.customer.io/api/track/#operation/batch"

SPEC = DestinationSpec(
    name="CUSTOMERIO",
    title="Customer.io",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen", "group", "alias", "record"}),
    doc_url=_DOC,
    mapper=make_mapper,
    batcher=make_batcher,
    default_max_batch=100,
    classify=classify,
    classify_each=classify_each,
    proof="each event",
    schemas=(
        Schema(
            label=_BATCH,
            doc_url=_DOC,
            schema={
                "type": "object",
                # An entry by itself is what mappings make; it goes in a batch.
                "anyOf": [{"required": ["batch"]}, {"required": ["type", "action"]}],
                "properties": {
                    "batch": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["type", "action"],
                            "properties": {
                                "type": {"enum": ["person", "object", "delivery"]},
                                "action": {"type": "string"},
                                "identifiers": {"type": "object", "minProperties": 1},
                                "name": {"type": "string"},
                                "timestamp": {"type": "integer"},
                                "attributes": {"type": "object"},
                                "device": {"type": "object", "required": ["token"]},
                            },
                        },
                    }
                },
            },
        ),
    ),
    limits="500 kB a batch, 32 kB each of its entries; 100 bytes of an anonymous event's name",
)
