"""Braze: user attributes, custom events, purchases, subscription groups and merges over its REST API.

Follows https://www.braze.com/docs/api/endpoints/user_data/post_user_track, .../post_user_identify,
.../post_users_merge and https://www.braze.com/docs/api/endpoints/subscription_groups/post_update_user_subscription_group_status_v2
(read 2026-11). Auth: a REST API key with the permissions `users.track`, `users.identify`, `users.merge` and, for
groups, `subscription.status.set`, as a bearer token. Limits: 75 objects a `users/track` request on plans by monthly
active users, which others allow as well; 50 merges a request.

A person is known by `external_id`, the userId. Without one by an alias, the anonymousId under the label `rudder_id`;
an identify that has both tells Braze so first (`users/identify`, best effort: the attributes are sent whatever it
answers). An identify becomes attributes; a track, page and screen a custom event, with the attributes that came
along; an order purchases, or one of Braze's recommended events where the settings say so. A group becomes an
attribute, or sets a subscription group where the settings say so; an alias merges two users.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import msgspec

from mainstem.destinations.base import (
    Batch,
    Batcher,
    Batching,
    Body,
    Call,
    Delivered,
    Delivery,
    DestinationSpec,
    Dialogue,
    Looking,
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
from mainstem.destinations.braze.deduplication import without_known
from mainstem.destinations.braze.ecommerce import PRODUCT_ROWS, ROWS, purchases, recommended
from mainstem.destinations.kit.batching import alone
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.refuse import refuse, settled, skip
from mainstem.destinations.kit.spec_fields import USER_ID
from mainstem.destinations.kit.times import iso
from mainstem.destinations.kit.values import (
    external_id,
    first,
    integration_options,
    mapping,
    present,
    sequence,
    text,
)
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any
Object = dict[str, Any]

_NAMES: Final = ("BRAZE", "Braze", "braze")
_TRACK, _SUBSCRIBE, _MERGE = "users/track", "v2/subscription/status/set", "users/merge"
_MOST: Final = {_TRACK: 75, _SUBSCRIBE: 25, _MERGE: 50}
"""Objects of a request, https://www.braze.com/docs/api/endpoints/user_data/post_user_track#rate-limit."""
_ALIAS_LABEL: Final = "rudder_id"
"""Profiles that are there already have it: a new label would make every anonymous person a new one."""


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"restApiKey", "dataCenter"})

    rest_api_key: Secret = Secret("")
    """A REST API key with the permissions above."""
    app_key: str = ""
    """The app's identifier; only devices need it."""
    data_center: str = ""
    """Where the account is: `US-01` to `US-08`, `EU-01`, `EU-02`, `AU-01` and so on."""
    enable_subscription_group_in_group_call: bool = False
    """Let a group call set the subscription group of its groupId, by the trait `subscriptionState`."""
    enable_nested_array_operations: bool = False
    """Read `{add, update, remove}` in a trait as Braze's operations on an array of objects; the property
    `mergeObjectsUpdateOperation` of an event merges objects instead of replacing them."""
    send_purchase_event_with_extra_properties: bool = False
    """Send a product's other fields as its purchase's properties."""
    support_dedup: bool = False
    """Ask for the profile first and leave out custom attributes that it has; the key needs `users.export.ids`."""
    use_ecommerce_recommended_events: bool = False
    """Send the Segment spec's e-commerce events as Braze's recommended events (`ecommerce.order_placed`)."""


# ---------------------------------------------------------------- the tables

_ATTRIBUTES: Final = {
    "firstName": "first_name",
    "lastName": "last_name",
    "avatar": "image_url",
    "birthday": "dob",
}
_GENDERS: Final = {
    **dict.fromkeys(("woman", "female", "w", "f"), "F"),
    **dict.fromkeys(("man", "male", "m"), "M"),
    **dict.fromkeys(("other", "o"), "O"),
    **dict.fromkeys(("not applicable", "n"), "N"),
    **dict.fromkeys(("prefer not to say", "p"), "P"),
}
"""https://www.braze.com/docs/api/objects_filters/user_attributes_object/"""
_RESERVED: Final = frozenset(("time", "event_name"))
"""Of an event's properties, https://www.braze.com/docs/api/objects_filters/event_object/."""
_STATES: Final = frozenset(("subscribed", "unsubscribed"))


# ---------------------------------------------------------------- the mapping


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    base = _base_url(config.data_center)
    headers = _headers(config)
    secrets = (config.rest_api_key.reveal(),)
    nested = config.enable_nested_array_operations

    def call(label: str, value: Object, user_id: Json = None, partner: str = "") -> Call:
        return Call(
            url=f"{base}/{label}",
            headers=headers,
            body=Body("json", value),
            user_id=user_id,
            label=label,
            secrets=secrets,
            aside={"partner": partner},
        )

    def identify(message: Object, context: MapContext, options: Object) -> Payloads:
        who, user_id = _who(message, options)
        attributes = _attributes(message, nested)
        body = {"attributes": [{**attributes, **who}]}
        calls = (call(_TRACK, body, user_id, context.partner),) if attributes else ()
        alias = _alias(message, options)
        if "external_id" not in who or alias is None:
            return calls or skip("no traits")

        def talk() -> Looking:
            yield json_call(
                f"{base}/users/identify",
                {
                    "aliases_to_identify": [{"external_id": who["external_id"], "user_alias": alias}],
                    "merge_behavior": "merge",
                },
                headers=headers,
                secrets=secrets,
            )
            return calls or skip("no traits")

        return (Dialogue(talk),)

    def track(event: Event, context: MapContext, options: Object) -> Payloads:
        message = event.message
        who, user_id = _who(message, options)
        body: Object = {"partner": context.partner}
        attributes = _attributes(message, nested)
        if attributes:
            body["attributes"] = [{**attributes, **who}]
        about = who
        if present(options.get("appId")):
            about = {**who, "app_id": options["appId"]}
        time = first(message, "timestamp", "originalTimestamp")
        if time is None:
            time = iso(context.now_ms)
        given = message.get("properties")
        if event.type == "track":
            name = message.get("event")
            if not present(name):
                refuse("`event` is missing; Braze needs the name of a track event")
            name = text(name)
            known_as = name.strip().lower()
            if config.use_ecommerce_recommended_events:
                special = recommended(known_as, mapping(given), _source(message))
                if special is not None:
                    body["events"] = [{"name": special[0], "time": time, "properties": special[1], **about}]
                    return (call(_TRACK, body, user_id),)
            elif known_as == "order completed":
                body["purchases"] = purchases(
                    given, time, about, with_properties=config.send_purchase_event_with_extra_properties
                )
                return (call(_TRACK, body, user_id),)
        else:
            name = first(message, "name", "properties.name", "event")
            name = text(name) if name is not None else f"{event.type.capitalize()} Viewed"
        one: Object = {"name": name, "time": time}
        if isinstance(given, dict):
            one["properties"] = {name: value for name, value in given.items() if name not in _RESERVED}
        one.update(about)
        body["events"] = [one]
        return (call(_TRACK, body, user_id),)

    def group(message: Object, context: MapContext, options: Object) -> Payloads:
        group_id = first(message, "groupId", "traits.groupId")
        if group_id is None:
            refuse("`groupId` is missing; Braze needs the group's id")
        if config.enable_subscription_group_in_group_call:
            return (call(_SUBSCRIBE, {"subscription_groups": [_subscription(message, group_id)]}),)
        who, user_id = _who(message, options)
        attributes = {f"ab_rudder_group_{text(group_id)}": True, **who}
        return (call(_TRACK, {"partner": context.partner, "attributes": [attributes]}, user_id),)

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        options = integration_options(message, *_NAMES)
        if event.type in ("track", "page", "screen"):
            return track(event, context, options)
        if event.type == "identify":
            return identify(message, context, options)
        if event.type == "group":
            return group(message, context, options)
        if event.type != "alias":
            refuse("`type` is missing or none that Braze has a call for")
        return (call(_MERGE, {"merge_updates": [_merge(message)]}, message["userId"]),)

    return settled(to_calls)


def _headers(config: Config) -> Mapping[str, str]:
    return {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Authorization": f"Bearer {config.rest_api_key.reveal()}",
    }


def _base_url(data_center: str) -> str:
    """Return the REST endpoint of a data centre, https://www.braze.com/docs/api/basics/#endpoints."""
    region, _, number = data_center.strip().lower().partition("-")
    if region == "us":
        return f"https://rest.iad-{number}.braze.com"
    if region == "eu":
        return f"https://rest.fra-{number}.braze.eu"
    return f"https://rest.{region}-{number}.braze.com"


def _alias(message: Object, options: Object) -> Object | None:
    given = mapping(options.get("alias"))
    if present(given.get("alias_name")) and present(given.get("alias_label")):
        return {"alias_name": given["alias_name"], "alias_label": given["alias_label"]}
    anonymous_id = message.get("anonymousId")
    return {"alias_name": anonymous_id, "alias_label": _ALIAS_LABEL} if present(anonymous_id) else None


def _external_id(message: Object) -> Json:
    context = message.get("context")
    if isinstance(context, dict) and "externalId" in context:
        found = external_id(message, "brazeExternalId")
        if not present(found) and context.get("mappedToDestination"):
            for entry in sequence(context["externalId"])[:1]:
                if mapping(entry).get("identifierType") == "external_id":
                    found = entry.get("id")
        if present(found):
            return found
    return first(message, *USER_ID)


def _who(message: Object, options: Object) -> tuple[Object, Json]:
    """Return the fields that say whom an object is about, and by which id the request is ordered."""
    known_as = _external_id(message)
    if known_as is not None:
        return {"external_id": known_as}, known_as
    alias = _alias(message, options)
    if alias is None:
        refuse("`userId` and `anonymousId` are missing; Braze needs one of them")
    return {"_update_existing_only": False, "user_alias": alias}, message.get("anonymousId")


def _attributes(message: Object, nested: bool) -> Object:
    """Return the attributes that an event's traits become, under Braze's names; empty without traits."""
    traits = message.get("traits")
    context = message.get("context")
    context = context if isinstance(context, dict) else {}
    if not isinstance(traits, dict):
        traits = context.get("traits")
        if not isinstance(traits, dict):
            return {}
    email = traits.get("email")
    if email is not None and not isinstance(email, str):
        refuse("`traits.email` is no text; send an e-mail address, or null to remove it")
    if context.get("mappedToDestination"):
        return dict(traits)
    attributes: Object = {}
    for name, value in traits.items():
        if name == "gender":
            if value is None:
                attributes[name] = None
            elif isinstance(value, str) and (gender := _GENDERS.get(value.lower())):
                attributes[name] = gender
        elif name == "address":
            if isinstance(value, dict):
                place = {"home_city": value.get("city"), "country": value.get("country")}
                attributes.update((target, found) for target, found in place.items() if present(found))
        elif nested and isinstance(value, dict):
            attributes[name] = _operations(value)
        else:
            target = _ATTRIBUTES.get(name)
            attributes.setdefault(name if target is None else target, value)
    if nested and attributes:
        # Where RudderStack's documentation has it: beside, not in, the traits.
        wish = mapping(message.get("properties")).get("mergeObjectsUpdateOperation")
        attributes["_merge_objects"] = bool(wish)
    return attributes


def _operations(value: Object) -> Object:
    """Return the operations on an array of objects as Braze writes them; another object as it is.

    https://www.braze.com/docs/user_guide/data/activation/attributes/array_of_objects
    """
    if not any(isinstance(value.get(name), list) for name in ("add", "update", "remove")):
        return value
    made: Object = {}
    for name in ("update", "remove", "add"):
        items = value.get(name)
        if not isinstance(items, list):
            continue
        if name == "add":
            made["$add"] = items
            continue
        made[f"${name}"] = []
        for item in items:
            fields = mapping(item)
            identifier = text(fields.get("identifier"))
            one: Object = {"$identifier_key": identifier, "$identifier_value": fields.get(identifier)}
            if name == "update":
                one["$new_object"] = {
                    part: inner for part, inner in fields.items() if part not in ("identifier", identifier)
                }
            made[f"${name}"].append(one)
    return made


def _source(message: Object) -> str:
    """Return where an e-commerce event is from, in Braze's words."""
    channel = message.get("channel")
    if channel == "mobile":
        system = first(message, "context.os.name", "context.device.type")
        return text(system).lower() if system is not None else "mobile"
    return channel if isinstance(channel, str) and channel else "web"


def _subscription(message: Object, group_id: Json) -> Object:
    state = first(message, "traits.subscriptionState", "context.traits.subscriptionState")
    if state not in _STATES:
        refuse("`traits.subscriptionState` is missing or wrong; send `subscribed` or `unsubscribed`")
    made: Object = {"subscription_group_id": group_id, "subscription_state": state}
    for target, paths in (
        ("external_ids", ()),
        ("phones", ("traits.phone", "context.traits.phone")),
        ("emails", ("traits.email", "context.traits.email")),
    ):
        value = first(message, *paths) if paths else _external_id(message)
        if value is not None:
            made[target] = [value]
    if len(made) == 2:
        refuse("`userId`, `traits.email` and `traits.phone` are missing; Braze needs one of them")
    return made


def _merge(message: Object) -> Object:
    for field in ("userId", "previousId"):
        if not present(message.get(field)):
            refuse(f"`{field}` is missing; Braze needs both users of a merge")
    return {
        "identifier_to_merge": {"external_id": message["previousId"]},
        "identifier_to_keep": {"external_id": message["userId"]},
    }


# ---------------------------------------------------------------- batches


def make_batcher(config: Config) -> Batcher:
    """Return the batching: one request for each kind of object, `users/track` first."""
    export_url = f"{_base_url(config.data_center)}/users/export/ids"
    headers = _headers(config)

    def batcher(units: Sequence[Unit]) -> Sequence[Batch] | Batching:
        return reduced(units) if config.support_dedup else _batches(units)

    def reduced(units: Sequence[Unit]) -> Batching:
        tracks = [unit for unit in units if _label(unit) == _TRACK]
        left = yield from without_known(tracks, export_url, headers)
        nothing = [unit.index for unit in left if not unit.calls]
        others = [unit for unit in units if _label(unit) != _TRACK]
        batches = _batches([*(unit for unit in left if unit.calls), *others])
        return [*batches, Batch((), tuple(nothing))] if nothing else batches

    return batcher


def _label(unit: Unit) -> str:
    return unit.calls[0].label if len(unit.calls) == 1 else ""


def _batches(units: Sequence[Unit]) -> list[Batch]:
    batches: list[Batch] = []
    for label in (_TRACK, _SUBSCRIBE, _MERGE):
        chunk: list[Unit] = []
        size = 0
        for unit in units:
            if _label(unit) != label:
                continue
            more = _size(unit.calls[0])
            if chunk and size + more > _MOST[label]:
                batches.append(_together(label, chunk))
                chunk, size = [], 0
            chunk.append(unit)
            size += more
        if chunk:
            batches.append(_together(label, chunk))
    return [*batches, *(alone(unit) for unit in units if _label(unit) not in _MOST)]


def _body_of(call: Call) -> Object:
    return mapping(call.body.value) if call.body is not None else {}


def _parts(body: Object) -> dict[str, int]:
    """Return how many objects of each array a request has."""
    return {name: len(items) for name, items in body.items() if isinstance(items, list)}


def _size(call: Call) -> int:
    return sum(_parts(_body_of(call)).values())


def _together(label: str, units: Sequence[Unit]) -> Batch:
    bodies = [_body_of(unit.calls[0]) for unit in units]
    body: Object = {}
    if label == _TRACK:
        first_call = units[0].calls[0]
        body["partner"] = bodies[0].get("partner") or first_call.aside.get("partner")
    for one in bodies:
        for name, items in one.items():
            if isinstance(items, list):
                body.setdefault(name, []).extend(items)
    if label == _SUBSCRIBE:
        body["subscription_groups"] = _merged_groups(body["subscription_groups"])
    aside = {"parts": [_parts(one) for one in bodies]}
    call = msgspec.structs.replace(units[0].calls[0], body=Body("json", body), user_id=None, aside=aside)
    return Batch((call,), tuple(unit.index for unit in units))


def _merged_groups(groups: Sequence[Object]) -> list[Object]:
    """Return one entry for each group and state, with everybody in it once."""
    merged: dict[tuple[str, str], Object] = {}
    for group in groups:
        key = (text(group["subscription_group_id"]), group["subscription_state"])
        here = merged.setdefault(
            key, {name: group[name] for name in group if not isinstance(group[name], list)}
        )
        for name in ("external_ids", "phones", "emails"):
            for value in group.get(name, ()):
                if value not in here.setdefault(name, []):
                    here[name].append(value)
    return list(merged.values())


# ---------------------------------------------------------------- answers


def classify(request: Request, response: Response) -> Delivery | None:
    """Braze says `success` of what it queued, and lists what it did not like."""
    body = mapping(answer_of(response).body)
    if not 200 <= response.status < 300 or body.get("message") not in ("success", "queued"):
        return None
    errors = sequence(body.get("errors"))
    if errors:
        warning = "; ".join(_error_text(error) for error in errors[:3])
        return Delivered(str(response.status), "accepted with warning", warning)
    return Delivered(str(response.status), "accepted")


def classify_each(
    call: Call, request: Request, response: Response, units: Sequence[Unit]
) -> Sequence[Delivery] | None:
    """Read which objects of a `users/track` request Braze did not take: `errors` names them by array and index."""
    body = mapping(answer_of(response).body)
    taken = 200 <= response.status < 300
    errors = _errors_by_place(body)
    if call.label != _TRACK or not errors or not (taken or response.status == 400):
        return None
    results: list[Delivery] = []
    at = dict.fromkeys(("attributes", "events", "purchases"), 0)
    # What a batching left out of a unit is not in the request either.
    parts = call.aside.get("parts") or [_parts(_body_of(unit.calls[0])) for unit in units]
    for part in parts:
        wrong: list[str] = []
        size = sum(part.values())
        for name, count in part.items():
            if name in at:
                places = range(at[name], at[name] + count)
                at[name] += count
                wrong += [errors[name, place] for place in places if (name, place) in errors]
        if wrong and (len(wrong) == size or not taken):
            results.append(Rejected(f"http {response.status}: {wrong[0]}"))
        elif wrong:
            results.append(Delivered(str(response.status), "accepted with warning", "; ".join(wrong[:3])))
        elif taken:
            results.append(Delivered(str(response.status), "accepted"))
        else:
            results.append(Retry("http 400: together with an event that was refused", 0.0))
    return results


def _errors_by_place(body: Object) -> dict[tuple[str, int], str]:
    found: dict[tuple[str, int], str] = {}
    for error in sequence(body.get("errors")):
        fields = mapping(error)
        array, index = fields.get("input_array"), fields.get("index")
        if isinstance(array, str) and isinstance(index, int):
            found[array, index] = _error_text(error)
    return found


def _error_text(error: Json) -> str:
    return text(mapping(error).get("type") or error)[:200]


# ---------------------------------------------------------------- the specification

_WHO_SCHEMA: Final = {
    "anyOf": [{"required": [name]} for name in ("external_id", "user_alias", "braze_id", "email", "phone")],
    "properties": {
        "external_id": {"type": "string", "minLength": 1},
        "user_alias": {
            "type": "object",
            "required": ["alias_name", "alias_label"],
            "properties": {"alias_name": {"type": "string"}, "alias_label": {"type": "string"}},
        },
    },
}


def _objects(required: Sequence[str], properties: Mapping[str, Any]) -> Object:
    return {
        "type": "array",
        "maxItems": _MOST[_TRACK],
        "items": {
            "type": "object",
            "required": list(required),
            "allOf": [_WHO_SCHEMA],
            "properties": properties,
        },
    }


_TRACK_SCHEMA: Final = {
    "type": "object",
    "anyOf": [{"required": [name]} for name in ("attributes", "events", "purchases")],
    "properties": {
        "partner": {"type": "string"},
        "attributes": _objects(
            (),
            {
                "email": {"type": ["string", "null"]},
                "gender": {"enum": ["M", "F", "O", "N", "P", None]},
                "_update_existing_only": {"type": "boolean"},
            },
        ),
        "events": _objects(
            ("name", "time"),
            {
                "name": {"type": "string", "minLength": 1},
                "time": {"type": "string"},
                "app_id": {"type": "string"},
                "properties": {"type": "object"},
            },
        ),
        "purchases": _objects(
            ("product_id", "currency", "price", "time"),
            {
                "product_id": {"type": "string"},
                "currency": {"type": "string", "minLength": 3, "maxLength": 3},
                "price": {"type": "number"},
                "quantity": {"type": "integer", "minimum": 1},
                "time": {"type": "string"},
                "properties": {"type": "object"},
            },
        ),
    },
}
_DOCS: Final = "https://www.braze.com/docs/api/endpoints/"

SPEC = DestinationSpec(
    name="BRAZE",
    title="Braze",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen", "group", "alias"}),
    doc_url=f"{_DOCS}user_data/post_user_track",
    mapper=make_mapper,
    batcher=make_batcher,
    default_max_batch=75,
    classify=classify,
    classify_each=classify_each,
    proof="each event",
    schemas=(
        Schema(label=_TRACK, schema=_TRACK_SCHEMA, doc_url=f"{_DOCS}user_data/post_user_track"),
        Schema(
            label=_MERGE,
            schema={
                "type": "object",
                "required": ["merge_updates"],
                "properties": {
                    "merge_updates": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": _MOST[_MERGE],
                        "items": {
                            "type": "object",
                            "required": ["identifier_to_merge", "identifier_to_keep"],
                        },
                    }
                },
            },
            doc_url=f"{_DOCS}user_data/post_users_merge",
        ),
        Schema(
            label=_SUBSCRIBE,
            schema={
                "type": "object",
                "required": ["subscription_groups"],
                "properties": {
                    "subscription_groups": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["subscription_group_id", "subscription_state"],
                            "properties": {"subscription_state": {"enum": sorted(_STATES)}},
                        },
                    }
                },
            },
            doc_url=f"{_DOCS}subscription_groups/post_update_user_subscription_group_status_v2",
        ),
    ),
    tables=(
        MappingTable(
            title="Attributes",
            rows=(
                *((target, (f"traits.{name}",), "") for name, target in _ATTRIBUTES.items()),
                ("gender", ("traits.gender",), "F, M, O, N or P"),
                ("home_city", ("traits.address.city",), ""),
                ("country", ("traits.address.country", "traits.country"), ""),
                ("every other trait", ("traits.*",), "by its own name"),
            ),
        ),
        MappingTable(title="Recommended events", rows=ROWS),
        MappingTable(title="Their products", rows=PRODUCT_ROWS),
    ),
    limits="75 objects a request, 50 merges a request; rates by the contract",
)
