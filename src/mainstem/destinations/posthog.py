"""PostHog: events, people and groups, in batches.

Follows https://posthog.com/docs/api/capture (read 2026-11). Auth: the project's API key, in the body. Limits: 20 MB a
request. PostHog answers 200 also to what it will drop later.

A track is an event of its name, an identify `$identify`, a page `$pageview`, a screen `$screen`, an alias
`$create_alias`, a group `$groupidentify`. What the SDKs know of the device, the app and the page becomes PostHog's own
properties (`$os`, `$current_url` …); traits in the context are set on the person (`$set`).
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import msgspec

from mainstem.destinations.base import (
    Batch,
    Batcher,
    Body,
    Call,
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
from mainstem.destinations.kit.batching import together
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.spec_fields import IP, TIMESTAMP
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.times import iso_of
from mainstem.destinations.kit.user_agent import client_of
from mainstem.destinations.kit.values import get, mapping, omit
from mainstem.destinations.kit.wire import url_error
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any
Object = dict[str, Json]

_DEFAULT_INSTANCE: Final = "https://app.posthog.com"
_HEADERS: Final = {"Content-Type": "application/json"}
_MOST: Final = 100
_MOST_BYTES: Final = 18_000_000
"""Below the documented 20 MB, which the key and the brackets count towards."""


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"teamApiKey"})

    team_api_key: Secret = Secret("")
    """The project's API key, from Project settings."""
    your_instance: str = _DEFAULT_INSTANCE
    """Where your PostHog is: `https://us.i.posthog.com`, `https://eu.i.posthog.com`, or your own."""
    use_v2_group: bool = False
    """Identify groups as PostHog's group analytics wants it; without, groups are sent as before that."""

    def __post_init__(self) -> None:
        if self.your_instance.strip() and (error := url_error(self.your_instance.strip())):
            raise ValueError(f"`yourInstance` {error}")


_PROPERTIES: Final = Table(
    Row("$set", "context.traits"),
    Row("$os", "context.os.name"),
    Row("$os_version", "context.os.version"),
    Row("$current_url", "context.page.url", "properties.url"),
    Row("$pathname", "context.page.path", "properties.path"),
    Row("$performance_page_loaded", "context.page.loaded"),
    Row("$viewport_height", "properties.viewport_height"),
    Row("$viewport_width", "properties.viewport_width"),
    Row("$screen_height", "context.screen.height"),
    Row("$screen_width", "context.screen.width"),
    Row("$screen_density", "context.screen.density"),
    Row("$lib", "context.library.name"),
    Row("$lib_version", "context.library.version"),
    Row("$time", *TIMESTAMP, as_=iso_of),
    Row("$timestamp", *TIMESTAMP, as_=iso_of),
    Row("$device_id", "context.device.id"),
    Row("$device_manufacturer", "context.device.manufacturer"),
    Row("$device_model", "context.device.model"),
    Row("$device_name", "context.device.name"),
    Row("$ip", *IP),
    Row("$timezone", "context.timezone"),
    Row("$locale", "context.locale"),
    Row("$useragent", "context.userAgent"),
    Row("$app_name", "context.app.name"),
    Row("$app_version", "context.app.version"),
    Row("$app_namespace", "context.app.namespace"),
    Row("$app_build", "context.app.build"),
    Row("$network_carrier", "context.network.carrier"),
    Row("utm_source", "context.campaign.source"),
    Row("utm_medium", "context.campaign.medium"),
    Row("utm_campaign", "context.campaign.name"),
    Row("utm_content", "context.campaign.content"),
    Row("utm_term", "context.campaign.term"),
    Row("$anon_distinct_id", "anonymousId"),
)
_KINDS: Final = {
    "identify": ("identify", "$identify"),
    "page": ("page", "$pageview"),
    "screen": ("screen", "$screen"),
    "alias": ("alias", "$create_alias"),
    "group": ("group", "$groupidentify"),
}


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    key = config.team_api_key.reveal()
    url = (config.your_instance.strip() or _DEFAULT_INSTANCE).rstrip("/") + "/batch"
    groups = _group_now if config.use_v2_group else _group_before

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        person = event.user_id or event.anonymous_id
        if not person:
            refuse("`userId` and `anonymousId` are missing; PostHog needs one of them")
        properties = _properties(message)
        properties["distinct_id"] = person
        kind, name = _KINDS.get(event.type) or ("capture", _name(message))
        body: Object = {"api_key": key, "type": kind, "event": name, "properties": properties}
        if event.type != "alias":
            body["distinct_id"] = person
        if message_id := message.get("messageId"):
            body["messageId"] = message_id
        if at := properties.get("$timestamp"):
            body["timestamp"] = at
        if event.type == "identify":
            properties.pop("$set", None)
            if traits := mapping(message.get("traits")) or mapping(get(message, "context.traits")):
                body["$set"] = traits
        elif event.type == "alias":
            properties["alias"] = message.get("previousId") or refuse(
                "`previousId` is missing; an alias needs the id that the person had"
            )
        elif event.type == "screen" and (screen := message.get("event") or message.get("name")):
            properties["$screen_name"] = screen
        elif event.type == "group":
            groups(body, message)
        properties.update(mapping(message.get("properties")))
        return (json_call(url, body, headers=_HEADERS, secrets=(key,)),)

    return settled(to_calls)


def _name(message: Object) -> str:
    name = message.get("event") or refuse("`event` is missing; PostHog needs a name for the event")
    return name if isinstance(name, str) else refuse("`event` is not a text; give the event a name")


def _properties(message: Object) -> Object:
    properties = _PROPERTIES.build(message)
    url = properties.get("$current_url")
    if isinstance(url, str) and (host := _host(url)):
        properties["$host"] = host
    # A web view in an app says that it is a browser, too.
    if message.get("channel") != "mobile" and (client := client_of(properties.get("$useragent"))).browser:
        properties["$browser"] = client.browser
        if client.version:
            properties["$browser_version"] = client.version
        if client.system:
            properties.setdefault("$os", client.system)
    return properties


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def _group_before(body: Object, message: Object) -> None:
    if group_id := message.get("groupId"):
        body["groupId"] = group_id
    if traits := mapping(message.get("traits")):
        body["traits"] = traits


def _group_now(body: Object, message: Object) -> None:
    """https://posthog.com/docs/product-analytics/group-analytics"""
    group_id = message.get("groupId") or refuse("`groupId` is missing; PostHog needs it as the group's key")
    traits = mapping(message.get("traits"))
    group_type = traits.get("groupType") or refuse(
        "`traits.groupType` is missing; PostHog needs the type of the group, like `company`"
    )
    if not isinstance(group_type, str):
        refuse("`traits.groupType` is not a text; PostHog needs the type of the group, like `company`")
    body["properties"].update(
        {
            "$group_key": group_id,
            "$group_type": group_type,
            "$groups": {group_type: group_id},
            "$group_set": omit(traits, ("groupType",)),
        }
    )


def make_batcher(config: Config) -> Batcher:
    """Return the batching: everything goes together, under the key."""
    key = config.team_api_key.reveal()

    def merge(calls: Sequence[Call]) -> Call:
        events = [omit(call.body.value, ("api_key",)) for call in calls if call.body is not None]
        body = Body("json", {"api_key": key, "batch": events})
        return msgspec.structs.replace(calls[0], body=body, label="/batch")

    def batches(units: Sequence[Unit]) -> Sequence[Batch]:
        return together(units, key=lambda _: "", merge=merge, most=_MOST, most_bytes=_MOST_BYTES)

    return batches


def classify(request: Request, response: Response) -> Delivery | None:
    """A project over its quota is answered 200, and its events are dropped.

    https://posthog.com/docs/api/capture#responses
    """
    limited = mapping(answer_of(response).body).get("quota_limited")
    if response.status == 200 and isinstance(limited, list) and "events" in limited:
        return Rejected(
            "the project is over its quota of events: raise it in PostHog's billing, then send again"
        )
    return None


_SCHEMA: Final = Schema(
    label="/batch",
    doc_url="https://posthog.com/docs/api/capture#batch-events",
    schema={
        "type": "object",
        "required": ["api_key", "batch"],
        "properties": {
            "api_key": {"type": "string"},
            "historical_migration": {"type": "boolean"},
            "batch": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["event", "properties"],
                    "properties": {
                        "event": {"type": "string"},
                        "distinct_id": {"type": "string"},
                        "timestamp": {"type": "string", "format": "date-time"},
                        "properties": {
                            "type": "object",
                            "required": ["distinct_id"],
                            "properties": {
                                "distinct_id": {"type": ["string", "number"]},
                                "$set": {"type": "object"},
                                "$groups": {"type": "object"},
                                "$group_set": {"type": "object"},
                            },
                        },
                    },
                },
            },
        },
    },
)

SPEC = DestinationSpec(
    name="POSTHOG",
    title="PostHog",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen", "group", "alias"}),
    doc_url="https://posthog.com/docs/api/capture",
    mapper=make_mapper,
    classify=classify,
    default_max_batch=_MOST,
    batcher=make_batcher,
    schemas=(_SCHEMA,),
    tables=(MappingTable(title="Properties that PostHog knows", rows=_PROPERTIES.rows),),
    limits="20 MB a request",
)
