"""Mixpanel: events by the import API, profiles and group profiles by the engage and groups APIs.

Follows https://developer.mixpanel.com/reference/import-events, .../profile-set, .../profile-append-to-list-property,
.../group-set-property and .../create-identity (read 2026-11). Auth: the project's token, or a service account.
Limits: 2,000 events or profile updates a request, 200 group updates; events older than five years are refused.

A track becomes an event of its name, with `$transactions` of the profile where it has a revenue; a page and a screen
`Loaded a Page` and `Loaded a Screen`, or what the settings make of them. An identify updates the profile and, with
the original ID merge, merges the anonymousId into the userId; an alias makes one. A group puts the user into the
groups that the settings name, and sets the groups' properties.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Final

import msgspec

from mainstem.destinations.base import (
    Batch,
    Batcher,
    Body,
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
    Schema,
    Unit,
)
from mainstem.destinations.kit.batching import body_length
from mainstem.destinations.kit.call import basic_auth
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.paths import MISSING, PathInvalid
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.templates import compile_text
from mainstem.destinations.kit.times import iso, ms_of
from mainstem.destinations.kit.values import first, get, mapping, present, put, sequence, text, traits_of
from mainstem.events.canonical import Event
from mainstem.events.user_agent import MAX_CHARACTERS, described
from mainstem.secret import Secret

Json = Any
Object = dict[str, Any]

_HOSTS: Final = {"eu": "https://api-eu.mixpanel.com", "in": "https://api-in.mixpanel.com"}
_STANDARD: Final = "https://api.mixpanel.com"
_JSON: Final = {"Content-Type": "application/json"}
_MOST: Final = {"engage": 2000, "groups": 200, "import": 2000, "bytes": 9_000_000}
"""Items of a request, and its bytes (10 MB are allowed):
https://developer.mixpanel.com/reference/import-events#high-level-requirements."""
_OLDEST_MS: Final = 5 * 365 * 86_400_000
_INSERT_ID_LENGTH: Final = 36
_APPLE: Final = frozenset(("ios", "ipados", "watchos", "tvos", "macos"))


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"token"})

    token: str = ""
    """The project's token."""
    api_secret: Secret = Secret("")
    """The project's API secret; the token takes its place in all that is sent."""
    data_residency: str = "us"
    """Where the project's data are: `us`, `eu` or `in`."""
    identity_merge_api: str = "original"
    """How the project merges identities: `original` or `simplified`."""
    strict_mode: bool = False
    """Let Mixpanel check each event and say which it did not take."""
    service_account_user_name: str = ""
    """A service account that imports, with the two below; empty = the token."""
    service_account_secret: Secret = Secret("")
    """Its secret."""
    project_id: str = ""
    """The project's id."""
    use_new_mapping: bool = False
    """Send first and last names as Mixpanel's own `$first_name` and `$last_name`."""
    use_user_defined_page_event_name: bool = False
    """Name the events of pages by `userDefinedPageEventTemplate`."""
    user_defined_page_event_template: str = ""
    """The name of a page's event, with references such as `{{ name }}`."""
    use_user_defined_screen_event_name: bool = False
    """Name the events of screens by `userDefinedScreenEventTemplate`."""
    user_defined_screen_event_template: str = ""
    """The name of a screen's event, with references such as `{{ name }}`."""
    drop_traits_in_track_event: bool = False
    """Leave the user's traits out of events."""
    group_key_settings: tuple[dict[str, Any], ...] = ()
    """The traits of a group call that are group keys, as `{"groupKey": "company"}`."""
    set_once_properties: tuple[dict[str, Any], ...] = ()
    """Traits to set only if they are not, as `{"property": "plan"}`."""
    union_properties: tuple[dict[str, Any], ...] = ()
    """Traits to add to a list of the profile where they are not in it yet, as `{"property": "interests"}`."""
    append_properties: tuple[dict[str, Any], ...] = ()
    """Traits to append to a list of the profile, as `{"property": "viewedPlans"}`."""
    prop_increments: tuple[dict[str, Any], ...] = ()
    """Properties of events to add to the profile's, as `{"property": "items"}`."""
    event_increments: tuple[dict[str, Any], ...] = ()
    """Events to count in the profile, as `{"property": "Song Played"}`."""

    def __post_init__(self) -> None:
        for name, template in (
            ("userDefinedPageEventTemplate", self.user_defined_page_event_template),
            ("userDefinedScreenEventTemplate", self.user_defined_screen_event_template),
        ):
            try:
                compile_text(template)
            except PathInvalid as error:
                raise ValueError(f"`{name}`: {error}") from None


# ---------------------------------------------------------------- the tables


def _insert_id(value: Json) -> Json:
    """Return an id that Mixpanel takes: at most 36 characters, the last ones, which differ."""
    return text(value)[-_INSERT_ID_LENGTH:]


EVENT: Final = Table(
    Row("ip", "context.ip", "request_ip"),
    Row("campaign_id", "context.campaign.name"),
    Row("$user_id", "userId"),
    Row("$current_url", "context.page.url"),
    Row("$os", "context.os.name"),
    Row("$referrer", "context.page.referrer"),
    Row("$screen_height", "context.screen.height"),
    Row("$screen_width", "context.screen.width"),
    Row("$screen_dpi", "context.screen.density"),
    Row("$carrier", "context.network.carrier"),
    Row("$os_version", "context.os.version"),
    Row("$device", "context.device.name"),
    Row("$manufacturer", "context.device.manufacturer"),
    Row("$model", "context.device.model"),
    Row("mp_device_model", "context.device.model"),
    Row("$wifi", "context.network.wifi"),
    Row("$bluetooth_enabled", "context.network.bluetooth"),
    Row("mp_lib", "context.library.name"),
    Row("$initial_referrer", "context.page.initial_referrer"),
    Row("$initial_referring_domain", "context.page.initial_referring_domain"),
    Row("$app_build_number", "context.app.build"),
    Row("$app_version_string", "context.app.version"),
    Row("$insert_id", "messageId", as_=_insert_id, text="the last 36 characters"),
    Row("$session_id", "context.sessionId", as_=text),
    Row("$app_name", "context.app.name"),
    Row("$app_namespace", "context.app.namespace"),
)
_PROFILE: Final = {
    "$created": ("createdAt",),
    "$email": ("email",),
    "$first_name": ("firstName", "firstname", "first_name"),
    "$last_name": ("lastName", "lastname", "last_name"),
    "$name": ("name",),
    "$phone": ("phone",),
    "$avatar": ("avatar",),
    "$country_code": ("country", "address.country"),
    "$city": ("city", "address.city"),
    "$region": ("state", "region", "address.state", "address.region"),
    "$unsubscribed": ("unsubscribed",),
}
_OLD_NAMES: Final = {"$first_name": "$firstName", "$last_name": "$lastName"}
_PROFILE_TRAITS: Final = frozenset(
    ("address", *(name for names in _PROFILE.values() for name in names if "." not in name))
)
DEVICE: Final = Table(
    Row("$carrier", "context.network.carrier"),
    Row("$manufacturer", "context.device.manufacturer"),
    Row("$model", "context.device.model"),
    Row("$screen_height", "context.screen.height"),
    Row("$screen_width", "context.screen.width"),
    Row("$wifi", "context.network.wifi"),
    Row("$initial_referrer", "context.page.initial_referrer"),
    Row("$initial_referring_domain", "context.page.initial_referring_domain"),
)
ANDROID: Final = Table(
    Row("$android_devices", "context.device.token", as_=lambda token: [token], text="as a list"),
    Row("$os", "context.os.name"),
    Row("$android_model", "context.device.model"),
    Row("$android_os_version", "context.os.version"),
    Row("$android_manufacturer", "context.device.manufacturer"),
    Row("$android_app_version", "context.app.version"),
    Row("$android_app_version_code", "context.app.build"),
    Row("$android_brand", "context.device.manufacturer"),
)
IOS: Final = Table(
    Row("$ios_devices", "context.device.token", as_=lambda token: [token], text="as a list"),
    Row("$os", "context.os.name"),
    Row("$ios_device_model", "context.device.model"),
    Row("$ios_version", "context.os.version"),
    Row("$ios_app_release", "context.app.version"),
    Row("$ios_app_version", "context.app.build"),
)


# ---------------------------------------------------------------- the mapping


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    token = config.token
    host = _HOSTS.get(config.data_residency.lower(), _STANDARD)
    simplified = config.identity_merge_api == "simplified"
    account, secret = config.service_account_user_name, config.service_account_secret.reveal()
    import_params: Object = {"strict": 1 if config.strict_mode else 0}
    authorization = basic_auth(token, "")
    if account and secret and config.project_id:
        authorization = basic_auth(account, secret)
        import_params["project_id"] = config.project_id
    import_headers = {"Authorization": authorization, **_JSON}
    secrets = (authorization,)
    group_keys = _names(config.group_key_settings, "groupKey")
    once = _names(config.set_once_properties, "property")
    union, append = _names(config.union_properties, "property"), _names(config.append_properties, "property")
    increments = _names(config.prop_increments, "property")
    counted = frozenset(_names(config.event_increments, "property"))
    names = {
        "page": _naming(
            "Page", config.use_user_defined_page_event_name, config.user_defined_page_event_template
        ),
        "screen": _naming(
            "Screen", config.use_user_defined_screen_event_name, config.user_defined_screen_event_template
        ),
    }

    def imported(item: Object, user_id: Json) -> Call:
        return Call(
            url=f"{host}/import/",
            headers=import_headers,
            params=import_params,
            body=Body("json_array", [item]),
            user_id=user_id,
            label="import",
            secrets=secrets,
        )

    def updated(label: str, item: Object, user_id: Json) -> Call:
        return Call(
            url=f"{host}/{label}/",
            headers=_JSON,
            params={"verbose": 2},
            body=Body("json_array", [item]),
            user_id=user_id,
            label=label,
        )

    def distinct_id(message: Object) -> Json:
        user_id = message.get("userId")
        if present(user_id):
            return user_id
        anonymous_id = message.get("anonymousId")
        if not present(anonymous_id):
            refuse("`userId` and `anonymousId` are missing; Mixpanel needs one of them as `distinct_id`")
        return f"$device:{text(anonymous_id)}" if simplified else anonymous_id

    def properties_of(event: Event, now_ms: int, *, traits: bool) -> Object:
        message = event.message
        context = message.get("context")
        context = context if isinstance(context, dict) else {}
        properties = {**mapping(message.get("properties"))}
        if traits:
            properties.update(mapping(context.get("traits")))
        EVENT.build(message, properties)
        properties["token"] = token
        properties["distinct_id"] = distinct_id(message)
        properties["time"] = _recent_ms(message, now_ms)
        for name, value in mapping(context.get("campaign")).items():
            properties["utm_campaign" if name == "name" else f"utm_{name}"] = value
        if simplified and present(message.get("anonymousId")):
            properties["$device_id"] = message["anonymousId"]
        properties.update(_browser(message, context))
        return properties

    def track(event: Event, now_ms: int, who: Json) -> Payloads:
        message = event.message
        name = message.get("event")
        if not present(name):
            refuse("`event` is missing; Mixpanel needs the name of a track event")
        properties = properties_of(event, now_ms, traits=not config.drop_traits_in_track_event)
        given = mapping(message.get("properties"))
        person = {"$token": token, "$distinct_id": properties["distinct_id"]}
        calls: list[Call] = []
        if revenue := given.get("revenue"):
            bought = {"$time": iso(properties["time"]), "$amount": revenue}
            calls.append(updated("engage", {"$append": {"$transactions": bought}, **person}, who))
        added = {
            name: given[name]
            for name in increments
            if isinstance(given.get(name), int | float) and not isinstance(given[name], bool)
        }
        if isinstance(name, str) and name in counted:
            added[name] = 1
        if added:
            calls.append(updated("engage", {"$add": added, **person}, who))
        return (*calls, imported({"event": name, "properties": properties}, who))

    def page(event: Event, now_ms: int, who: Json) -> Payloads:
        message = event.message
        properties = properties_of(event, now_ms, traits=True)
        properties.update(
            (name, message[name]) for name in ("name", "category") if present(message.get(name))
        )
        return (imported({"event": names[event.type](message), "properties": properties}, who),)

    def identify(message: Object, who: Json) -> Payloads:
        context = mapping(message.get("context"))
        person = {"$token": token, "$distinct_id": distinct_id(message)}
        traits, at_once = _split(traits_of(message), once)
        traits, united = _split(traits, union)
        traits, appended = _split(traits, append)
        calls: list[Call] = []
        if at_once:
            calls.append(updated("engage", {"$set_once": _profile(at_once, new_names=True), **person}, who))
        profile = _profile(traits, new_names=config.use_new_mapping)
        names = (first(traits, *_PROFILE["$first_name"]), first(traits, *_PROFILE["$last_name"]))
        if "$name" not in profile and None not in names:
            profile["$name"] = " ".join(map(text, names))
        DEVICE.build(message, profile)
        system = get(context, "device.type")
        if isinstance(system, str) and system.lower() == "android":
            ANDROID.build(message, profile)
        elif isinstance(system, str) and system.lower() in _APPLE:
            IOS.build(message, profile)
        profile.update(_browser(message, context))
        update: Object = {"$set": profile, **person}
        if (ip := first(message, "context.ip", "request_ip")) is not None:
            update["$ip"] = ip
        update["$time"] = _time_ms(message)
        update.update(_place(context))
        if context.get("active") is False:
            update["$ignore_time"] = True
        calls.append(updated("engage", update, who))
        if united:
            lists = {name: value if isinstance(value, list) else [value] for name, value in united.items()}
            calls.append(updated("engage", {"$union": lists, **person}, who))
        if appended:
            calls.append(updated("engage", {"$append": appended, **person}, who))
        ids = [message.get("userId"), message.get("anonymousId")]
        if not simplified and all(map(present, ids)) and ids[0] != ids[1]:
            merge = {"event": "$merge", "properties": {"$distinct_ids": ids, "token": token}}
            calls.append(imported(merge, who))
        return tuple(calls)

    def group(message: Object, who: Json) -> Payloads:
        if not group_keys:
            refuse("`groupKeySettings` is empty in the settings; name the traits that are group keys")
        traits = mapping(message.get("traits"))
        person = {"$token": token, "$distinct_id": distinct_id(message)}
        ip = first(message, "context.ip", "request_ip")
        calls: list[Call] = []
        for key in group_keys:
            value = get(traits, key)
            if key == "groupId":
                value = first(message, "groupId", "traits.groupId")
            if not present(value):
                continue
            ids = value if isinstance(value, list) else [value]
            update = {**person, "$set": {key: ids}}
            calls.append(updated("engage", update if ip is None else {**update, "$ip": ip}, who))
            calls += [
                updated("groups", {"$token": token, "$group_key": key, "$group_id": one, "$set": traits}, who)
                for one in ids
            ]
        return tuple(calls) or refuse(
            "no trait of the event is one of the `groupKeySettings`; send the group's key"
        )

    def alias(message: Object, who: Json) -> Payloads:
        if simplified:
            refuse("`alias` is no call of the simplified ID merge; identify with both ids merges them")
        user_id = message.get("userId")
        known_as = first(message, "previousId", "anonymousId")
        if not present(user_id) or known_as is None:
            refuse("`userId`, or both `previousId` and `anonymousId`, are missing; Mixpanel needs two ids")
        if known_as == user_id:
            refuse("`userId` is the same as `previousId` or `anonymousId`; there is nothing to alias")
        properties = {"distinct_id": known_as, "alias": user_id, "token": token}
        return (imported({"event": "$create_alias", "properties": properties}, who),)

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        who = first(message, "userId", "anonymousId")
        if event.type == "track":
            return track(event, context.now_ms, who)
        if event.type in names:
            return page(event, context.now_ms, who)
        if event.type == "identify":
            return identify(message, who)
        if event.type == "group":
            return group(message, who)
        if event.type != "alias":
            refuse("`type` is missing or none that Mixpanel has a call for")
        return alias(message, who)

    return settled(to_calls)


def _names(rows: Sequence[Mapping[str, Any]], member: str) -> tuple[str, ...]:
    names = (row.get(member) for row in rows)
    return tuple(name for name in names if isinstance(name, str) and name.strip())


def _naming(noun: str, by_settings: bool, template: str) -> Callable[[Object], str]:
    """Return how the event of a page or screen is named."""
    fill = compile_text(template.strip())

    def named(message: Object) -> str:
        if not by_settings:
            return f"Loaded a {noun}"
        made = fill(message)
        return (
            f"Loaded a {noun}"
            if made is MISSING
            else text(made)
            or refuse(
                f"`userDefined{noun}EventTemplate` is empty in the settings; give the name of the events"
            )
        )

    return named


def _time_ms(message: Object) -> int | None:
    """Return when an event happened; None if it does not say.

    Raises:
        NotSent: what it says is no time.
    """
    given = [message[name] for name in ("timestamp", "originalTimestamp") if present(message.get(name))]
    for value in given:
        at_ms = ms_of(value)
        if at_ms is not None:
            return at_ms
    return refuse("`timestamp` is no time; send it as ISO 8601") if given else None


def _recent_ms(message: Object, now_ms: int) -> int:
    at_ms = _time_ms(message)
    if at_ms is None:
        refuse("`timestamp` is missing; Mixpanel needs the time of an event")
    if now_ms - at_ms > _OLDEST_MS:
        refuse("`timestamp` is more than five years ago; Mixpanel takes no older events")
    return at_ms


def _browser(message: Object, context: Object) -> Mapping[str, str]:
    agent = context.get("userAgent")
    if message.get("channel") != "web" or not isinstance(agent, str):
        return {}
    return _of_agent(agent[:MAX_CHARACTERS])


@lru_cache(4096)
def _of_agent(agent: str) -> Mapping[str, str]:
    browser = described(agent).get("browser", {})
    found = {"$browser": browser.get("name"), "$browser_version": browser.get("version")}
    return {name: value for name, value in found.items() if value}


def _place(context: Object) -> Object:
    """Return where the person is, as far as the event says so itself."""
    location = mapping(context.get("location"))
    if not location:
        return {}
    source = location.get("geoSource")
    if source not in (None, "reverse_geocoding"):
        refuse("`context.location.geoSource` is wrong; Mixpanel takes null or `reverse_geocoding`")
    found = {
        "$geo_source": source,
        "$latitude": location.get("latitude"),
        "$longitude": location.get("longitude"),
    }
    return {name: value for name, value in found.items() if present(value)}


def _split(traits: Object, paths: Sequence[str]) -> tuple[Object, Object]:
    """Return the traits without those at these paths, and those."""
    apart: Object = {}
    left = traits
    for path in paths:
        value = get(traits, path)
        if value is not None:
            put(apart, path, value)
            left = _without(left, path.split("."))
    return left, apart


def _without(value: Json, steps: Sequence[str]) -> Json:
    step, rest = steps[0], steps[1:]
    if not isinstance(value, dict) or step not in value:
        return value
    if rest:
        return {**value, step: _without(value[step], rest)}
    return {name: item for name, item in value.items() if name != step}


def _profile(traits: Object, *, new_names: bool) -> Object:
    """Return the profile's properties that traits become: Mixpanel's own by its names, others by theirs."""
    profile: Object = {}
    for target, names in _PROFILE.items():
        value = first(traits, *names)
        if value is not None:
            profile[target if new_names else _OLD_NAMES.get(target, target)] = value
    profile.update((name, value) for name, value in traits.items() if name not in _PROFILE_TRAITS)
    return profile


# ---------------------------------------------------------------- batches


def make_batcher(config: Config) -> Batcher:
    """Return the batching: events that follow one another and are of the same type, a request for each API."""
    del config

    def batcher(units: Sequence[Unit]) -> Sequence[Batch]:
        batches: list[Batch] = []
        chunk: list[Unit] = []
        sizes: dict[str, int] = {}
        for unit in units:
            more = _sizes(unit)
            full = any(sizes.get(name, 0) + count > _MOST[name] for name, count in more.items())
            if chunk and (full or unit.event.type != chunk[0].event.type):
                batches.append(_together(chunk))
                chunk, sizes = [], {}
            chunk.append(unit)
            for name, count in more.items():
                sizes[name] = sizes.get(name, 0) + count
        return [*batches, _together(chunk)] if chunk else batches

    return batcher


def _items(call: Call) -> list[Json]:
    return call.body.value if call.body is not None and isinstance(call.body.value, list) else []


def _sizes(unit: Unit) -> dict[str, int]:
    """Return how much a unit is of each API's requests."""
    sizes: dict[str, int] = {}
    for call in unit.calls:
        sizes[call.label] = sizes.get(call.label, 0) + len(_items(call))
        sizes["bytes"] = sizes.get("bytes", 0) + body_length(call)
    return sizes


def _together(units: Sequence[Unit]) -> Batch:
    calls: list[Call] = []
    for label in ("engage", "groups", "import"):
        same = [call for unit in units for call in unit.calls if call.label == label]
        if same:
            items = [item for call in same for item in _items(call)]
            calls.append(msgspec.structs.replace(same[0], body=Body("json_array", items), user_id=None))
    return Batch(tuple(calls), tuple(unit.index for unit in units))


# ---------------------------------------------------------------- answers


def classify(request: Request, response: Response) -> Delivery | None:
    """The import API counts what it took; the others say `status` 1 or 0."""
    if not 200 <= response.status < 300:
        return None
    body = mapping(answer_of(response).body)
    taken = body.get("num_records_imported")
    # Mixpanel gives `error` null or empty where it took everything.
    if body.get("status") == 0 or (body.get("error") and body.get("status") != 1 and not taken):
        return Rejected(f"http {response.status}: {text(body.get('error'))[:200]}")
    proved = (isinstance(taken, int) and taken > 0) or body.get("status") == 1
    return Delivered(str(response.status), "accepted" if proved else "unverifiable")


def classify_each(
    call: Call, request: Request, response: Response, units: Sequence[Unit]
) -> Sequence[Delivery] | None:
    """Read which events of a strict import were not taken (`failed_records`); the others of it were."""
    body = mapping(answer_of(response).body)
    failed = {
        record["index"]: _failure(record)
        for record in map(mapping, sequence(body.get("failed_records")))
        if isinstance(record.get("index"), int)
    }
    if call.label != "import" or response.status != 400 or not failed:
        return None
    results: list[Delivery] = []
    at = 0
    for unit in units:
        size = sum(len(_items(one)) for one in unit.calls if one.label == "import")
        wrong = [failed[place] for place in range(at, at + size) if place in failed]
        at += size
        results.append(
            Rejected(f"http 400: {wrong[0]}") if wrong else Delivered("400, this event taken", "accepted")
        )
    return results


def _failure(record: Object) -> str:
    return f"`{text(record.get('field'))}`: {text(record.get('message'))}"[:200]


# ---------------------------------------------------------------- the specification

_DOCS: Final = "https://developer.mixpanel.com/reference/"

SPEC = DestinationSpec(
    name="MP",
    title="Mixpanel",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen", "group", "alias"}),
    doc_url=f"{_DOCS}import-events",
    mapper=make_mapper,
    batcher=make_batcher,
    default_max_batch=500,
    classify=classify,
    classify_each=classify_each,
    proof="each event",
    schemas=(
        Schema(
            label="import",
            schema={
                "type": "array",
                "minItems": 1,
                "maxItems": _MOST["import"],
                "items": {
                    "type": "object",
                    "required": ["event", "properties"],
                    "properties": {
                        "event": {"type": "string", "minLength": 1},
                        "properties": {
                            "type": "object",
                            "properties": {
                                "time": {"type": "integer"},
                                "distinct_id": {"type": "string"},
                                "$insert_id": {"type": "string", "maxLength": _INSERT_ID_LENGTH},
                            },
                        },
                    },
                },
            },
            doc_url=f"{_DOCS}import-events",
        ),
        Schema(
            label="engage",
            schema={
                "type": "array",
                "minItems": 1,
                "maxItems": _MOST["engage"],
                "items": {"type": "object", "required": ["$token", "$distinct_id"]},
            },
            doc_url=f"{_DOCS}profile-set",
        ),
        Schema(
            label="groups",
            schema={
                "type": "array",
                "minItems": 1,
                "maxItems": _MOST["groups"],
                "items": {"type": "object", "required": ["$token", "$group_key", "$group_id"]},
            },
            doc_url=f"{_DOCS}group-set-property",
        ),
    ),
    tables=(
        MappingTable(title="Events", rows=EVENT.rows),
        MappingTable(
            title="Profiles",
            rows=tuple(
                (target, tuple(f"traits.{name}" for name in names), "") for target, names in _PROFILE.items()
            ),
        ),
        MappingTable(title="Profiles, of every device", rows=DEVICE.rows),
        MappingTable(title="Profiles, of Android devices", rows=ANDROID.rows),
        MappingTable(title="Profiles, of Apple's devices", rows=IOS.rows),
    ),
    limits="2,000 events or profile updates, 200 group updates and 10 MB a request; events of the last five years",
)
