"""Klaviyo: profiles, events and subscriptions.

Follows https://developers.klaviyo.com/en/reference/api_overview (revisions 2024-10-15 and 2026-04-15, read 2026-11;
2023-02-22 in `legacy`). Auth: a private API key. Limits: 350 events a second and 3,500 a minute; 1,000 profiles a
subscription job, 100 a job that ends subscriptions; phone numbers in E.164.

An identify makes or changes a profile, and subscribes it to a list or ends that where its traits say so
(`properties.subscribe`, `.listId`, `.consent`); a group does only that, its id is the list's. Track and screen are
events. Subscriptions to the same list go together.
"""

import re
from collections.abc import Hashable, Sequence
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
    MappingTable,
    Payloads,
    Rejected,
    Request,
    Response,
    Retry,
    Schema,
    Unit,
)
from mainstem.destinations.kit.batching import alone
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.spec_fields import EMAIL, FIRST_NAME, LAST_NAME, PHONE, trait
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.times import iso_of
from mainstem.destinations.kit.values import (
    first,
    get,
    integration_options,
    mapping,
    omit,
    parse_float,
    present,
    sequence,
    text,
    traits_of,
)
from mainstem.destinations.klaviyo import legacy
from mainstem.destinations.klaviyo.settings import (
    SUBSCRIBE,
    UNSUBSCRIBE,
    Config,
    channels_of,
    flat_where_asked,
    profile_id,
    request,
)
from mainstem.events.canonical import Event

Json = Any

_IMPORT: Final = "/api/profile-import"
_EVENTS: Final = "/api/events"
_MOST: Final = {SUBSCRIBE: 100, UNSUBSCRIBE: 100}
"""People a subscription job; Klaviyo takes 1,000 and 100, but each one's profile goes by itself beside it."""
_NOT_IN_PHONE: Final = re.compile(r"[\s().\-]")
_PHONE: Final = re.compile(r"\+[1-9]\d{4,14}")
_PERSON: Final = re.compile(r"/profiles/data/(\d{1,6})(?:/|$)")
"""Where an error of a subscription job says whom it is about."""
_NAMED: Final = frozenset(
    [
        "email",
        "phone",
        "firstName",
        "firstname",
        "first_name",
        "lastName",
        "lastname",
        "last_name",
        "title",
        "organization",
        "city",
        "region",
        "country",
        "zip",
        "street",
        "image",
        "properties",
        "id",
        "userId",
        "anonymousId",
        "consent",
        "subscribe",
    ]
)


def _e164(value: Json) -> Json:
    if not isinstance(value, str) or not _PHONE.fullmatch(_NOT_IN_PHONE.sub("", value)):
        refuse("`traits.phone` is not in E.164: a plus, the country's code, the number, as in +15550100000")
    return value


_e164.__name__ = "E.164"

_PROFILE: Final = Table(
    Row("external_id", "userId", "traits.userId", "context.traits.userId", as_=text),
    Row("anonymous_id", "anonymousId", as_=text),
    Row("email", *EMAIL),
    Row("first_name", *FIRST_NAME),
    Row("last_name", *LAST_NAME),
    Row("phone_number", *PHONE, as_=_e164),
    Row("title", *trait("title", properties=False)),
    Row("organization", *trait("organization", properties=False)),
    Row("image", *trait("image", properties=False)),
    Row("location.city", *trait("city", "address.city", properties=False)),
    Row("location.region", *trait("region", "address.region", "address.state", properties=False)),
    Row("location.country", *trait("country", "address.country", properties=False)),
    Row("location.zip", *trait("zip", "address.zip", "address.postalCode", properties=False)),
    Row("location.address1", *trait("street", "address.street", properties=False)),
)


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""

    def to_calls(event: Event, context: MapContext) -> Payloads:
        del context
        if config.version == "v1":
            return legacy.payloads(event, config)
        message = event.message
        if event.type == "group":
            return (_group(message, config),)
        if event.type == "identify":
            return _identify(message, config)
        return (request(config, _EVENTS, {"data": _event(event, config)}),)

    return settled(to_calls)


# ---------------------------------------------------------------- profiles


def _profile(message: dict[str, Json], config: Config) -> tuple[dict[str, Json], dict[str, Json]]:
    """Return a profile's attributes, and what is done to its properties beside setting them."""
    attributes = _PROFILE.build(message)
    custom = omit(traits_of(message), _NAMED)
    options = integration_options(message, "Klaviyo", "KLAVIYO", "klaviyo")
    patch: dict[str, Json] = {}
    for option, way in (("fieldsToAppend", "append"), ("fieldsToUnappend", "unappend")):
        named = [name for name in sequence(options.get(option)) if isinstance(name, str) and name in custom]
        if named:
            patch[way] = {name: custom.pop(name) for name in named}
    if unset := sequence(options.get("fieldsToUnset")):
        patch["unset"] = unset
    properties = flat_where_asked(config, custom)
    if config.enforce_email_as_primary:
        if "external_id" in attributes:
            properties = {**properties, "_id": attributes.pop("external_id")}
        if "email" not in attributes and "phone_number" not in attributes:
            refuse(
                "`traits.email` and `traits.phone` are missing; by the settings people are known by one of them"
            )
    known = ("external_id", "anonymous_id", "email", "phone_number")
    if not any(name in attributes for name in known) and not profile_id(message):
        refuse("`userId`, `anonymousId`, e-mail and phone are missing; Klaviyo knows people by one of them")
    return {**attributes, "properties": properties}, {"patch_properties": patch}


def _identified(message: dict[str, Json], rest: dict[str, Json]) -> dict[str, Json]:
    found = profile_id(message)
    return {"type": "profile", **({"id": found} if found else {}), **rest}


def _identify(message: dict[str, Json], config: Config) -> Payloads:
    attributes, meta = _profile(message, config)
    data = _identified(message, {"attributes": attributes, "meta": meta})
    profile = request(config, _IMPORT, {"data": data})
    more = mapping(traits_of(message).get("properties"))
    list_id = more.get("listId") or config.list_id
    if not isinstance(more.get("subscribe"), bool) or not present(list_id):
        return (profile,)
    channels = channels_of(more.get("consent")) or config.channels
    return profile, _subscription(more["subscribe"], text(list_id), message, channels, config)


def _group(message: dict[str, Json], config: Config) -> Call:
    group_id = message.get("groupId")
    if not present(group_id):
        refuse("`groupId` is missing; it is the id of the list")
    traits = mapping(message.get("traits"))
    if not isinstance(traits.get("subscribe"), bool):
        refuse(
            "`traits.subscribe` is neither true nor false; a group subscribes a person to a list, or ends that"
        )
    channels = channels_of(traits.get("consent")) or config.channels
    return _subscription(traits["subscribe"], text(group_id), message, channels, config)


def _subscription(
    wanted: bool, list_id: str, message: dict[str, Json], channels: tuple[str, ...], config: Config
) -> Call:
    email, phone = first(message, *EMAIL), first(message, *PHONE)
    attributes: dict[str, Json] = {}
    if present(email):
        attributes["email"] = email
    if present(phone):
        attributes["phone_number"] = _e164(phone)
    if not attributes:
        refuse("`traits.email` and `traits.phone` are missing; a subscription needs one of them")
    reachable = {"email": "email" in attributes, "sms": "phone_number" in attributes}
    consent = {"marketing": {"consent": "SUBSCRIBED" if wanted else "UNSUBSCRIBED"}}
    subscriptions = {channel: consent for channel in channels if reachable.get(channel)}
    # The revision before 2026 ends all subscriptions to the list, and takes no channels.
    if subscriptions and (wanted or config.version == "v3"):
        attributes["subscriptions"] = subscriptions
    path = SUBSCRIBE if wanted else UNSUBSCRIBE
    data = {
        "type": f"profile-subscription-bulk-{'create' if wanted else 'delete'}-job",
        "attributes": {"profiles": {"data": [{"type": "profile", "attributes": attributes}]}},
        "relationships": {"list": {"data": {"type": "list", "id": list_id}}},
    }
    return request(config, path, {"data": data})


# ---------------------------------------------------------------- events


def _event(event: Event, config: Config) -> Json:
    message = event.message
    name = first(message, "event", "name")
    if not isinstance(name, str):
        refuse("`event` is missing or no text; it names the metric")
    profile, meta = _profile(message, config)
    properties = mapping(message.get("properties"))
    attributes: dict[str, Json] = {
        "metric": {"data": {"type": "metric", "attributes": {"name": name}}},
        "properties": flat_where_asked(config, properties),
        "profile": {"data": _identified(message, {"attributes": {**profile, "meta": meta}})},
    }
    if present(message.get("messageId")):
        attributes["unique_id"] = text(message["messageId"])
    if (at := iso_of(message.get("timestamp"))) is not None:
        attributes["time"] = at
    value = first(properties, "value", "revenue", "total")
    if value is not None:
        amount = parse_float(value)
        if amount is None:
            refuse("`properties.value` is no number; Klaviyo wants what the event is worth")
        attributes["value"] = amount
        if isinstance(currency := properties.get("currency"), str) and currency:
            attributes["value_currency"] = currency
    return {"type": "event", "attributes": attributes}


# ---------------------------------------------------------------- batches


def make_batcher(config: Config) -> Batcher:
    """Return the batching: subscriptions to the same list, with the profiles they are about before them."""
    return _batches if config.version != "v1" else lambda units: [alone(unit) for unit in units]


def _batches(units: Sequence[Unit]) -> list[Batch]:
    open_: dict[Hashable, list[list[Unit]]] = {}
    order: list[list[Unit]] = []
    for unit in units:
        key = _key(unit)
        chunks = open_.setdefault(key, []) if key is not None else []
        if not chunks or len(chunks[-1]) >= _MOST[unit.calls[-1].label]:
            chunks.append([])
            order.append(chunks[-1])
        chunks[-1].append(unit)
    return [_batch(chunk) for chunk in order]


def _key(unit: Unit) -> Hashable | None:
    """Return what subscriptions that go together have in common; None for everything else."""
    if unit.event.type not in ("identify", "group") or unit.calls[-1].label not in _MOST:
        return None
    call = unit.calls[-1]
    list_id = get(_value(call), "data.relationships.list.data.id")
    return call.url, repr(call.headers), text(list_id), len(unit.calls)


def _batch(units: Sequence[Unit]) -> Batch:
    (first_unit, *_) = units
    if first_unit.event.type not in ("identify", "group"):
        return alone(first_unit)
    calls = [call for unit in units for call in unit.calls if call.label == _IMPORT]
    jobs = [unit.calls[-1] for unit in units if unit.calls[-1].label in _MOST]
    if jobs:
        calls.append(_merged(jobs))
    return Batch(tuple(calls), tuple(unit.index for unit in units), many=True)


def _value(call: Call) -> Json:
    return call.body.value if call.body is not None else None


def _merged(jobs: Sequence[Call]) -> Call:
    job = jobs[0]
    people = [person for each in jobs for person in get(_value(each), "data.attributes.profiles.data", [])]
    data = {**get(_value(job), "data"), "attributes": {"profiles": {"data": people}}}
    assert job.body is not None  # noqa: S101 - all of these have one
    return msgspec.structs.replace(job, body=msgspec.structs.replace(job.body, value={"data": data}))


def classify(request: Request, response: Response) -> Delivery | None:
    """Klaviyo answers with the profile it made or changed; jobs and events it only says to have taken (202)."""
    del request
    if response.status in (200, 201) and present(get(answer_of(response).body, "data.id")):
        return Delivered(str(response.status), acceptance="accepted")
    return None


def classify_each(
    call: Call, request: Request, response: Response, units: Sequence[Unit]
) -> Sequence[Delivery] | None:
    """A request of a batch that is refused is one person's: the others are sent again without them."""
    del request
    if len(units) < 2 or response.status not in (400, 404, 409, 422):
        return None
    errors = sequence(get(answer_of(response).body, "errors"))
    said = f"http {response.status}: {text(get(errors, '0.detail', ''))}"[:500]
    if call.label in _MOST:
        pointers = (text(get(error, "source.pointer", "")) for error in errors)
        wrong = {int(found[1]) for pointer in pointers if (found := _PERSON.search(pointer))}
    else:
        wrong = {place for place, unit in enumerate(units) if call in unit.calls}
    if not wrong or not any(place in wrong for place in range(len(units))):
        return None
    answer = str(response.status)
    again = Retry("another one of the batch was refused", after_s=0.0, answer=answer)
    return [Rejected(said, answer=answer) if place in wrong else again for place in range(len(units))]


def _schema(label: str, kind: str, attributes: dict[str, Json], required: Sequence[str] = ()) -> Schema:
    return Schema(
        label=label,
        doc_url="https://developers.klaviyo.com/en/reference/api_overview",
        schema={
            "type": "object",
            "required": ["data"],
            "properties": {
                "data": {
                    "type": "object",
                    "required": ["type", "attributes"],
                    "properties": {
                        "type": {"const": kind},
                        "attributes": {
                            "type": "object",
                            "required": list(required),
                            "properties": attributes,
                        },
                    },
                }
            },
        },
    )


SPEC = DestinationSpec(
    name="KLAVIYO",
    title="Klaviyo",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track", "screen", "group"}),
    doc_url="https://developers.klaviyo.com/en/reference/api_overview",
    mapper=make_mapper,
    batcher=make_batcher,
    default_max_batch=100,
    classify=classify,
    classify_each=classify_each,
    proof="body",
    schemas=(
        _schema(_IMPORT, "profile", {"email": {"type": "string"}, "properties": {"type": "object"}}),
        _schema(
            _EVENTS,
            "event",
            {"properties": {"type": "object"}, "value": {"type": "number"}, "time": {"type": "string"}},
            ("properties", "metric", "profile"),
        ),
    ),
    tables=(
        MappingTable(title="A profile", rows=_PROFILE.rows),
        MappingTable(title="A profile, revision 2023-02-22", rows=legacy.ATTRIBUTES.rows),
        MappingTable(title="The profile of an event, revision 2023-02-22", rows=legacy.PROFILE.rows),
    ),
    limits="350 events a second and 3,500 a minute; 1,000 profiles a subscription job",
)
