"""MoEngage: people, their devices, and what they did.

Follows https://developers.moengage.com/hc/en-us/articles/4413167462804-Track-User, .../4413174104852-Create-Event,
.../4413167466260-Track-Device and .../10990676421908-User-Merge (Data API v1) and RudderStack's mapping
(https://www.rudderstack.com/docs/destinations/streaming-destinations/moengage/; all read 2026-11). Auth: HTTP Basic,
the API id and the API key. Limits: 128 kB a request, 10,000 events a minute; 200 characters a name, 512 a text.

identify: a customer with all traits, nested ones under dotted names, and MoEngage's own attributes made of them; with a
device of a known kind and its push token in the context, the device too. track: an event; nested properties under
dotted names. alias: two customers become one.
"""

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from mainstem.destinations.base import (
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
)
from mainstem.destinations.kit.call import basic_auth, json_call
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.spec_fields import trait
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.times import happened_ms
from mainstem.destinations.kit.values import (
    flattened,
    json_text,
    mapping,
    present,
    text,
    traits_of,
    without_none,
)
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any
AttributesOf = Callable[[dict[str, Json]], dict[str, Json]]

_HOSTS: Final = {"US": "01", "EU": "02", "IND": "03"}
_APPLE: Final = frozenset({"ios", "ipados", "watchos", "tvos"})

_CUSTOMER: Final = Table(
    Row("name", *trait("name", properties=False)),
    Row("first_name", *trait("firstname", "first_name", "firstName", properties=False)),
    Row("last_name", *trait("lastname", "last_name", "lastName", properties=False)),
    Row("email", *trait("email", properties=False)),
    Row("age", *trait("age", properties=False)),
    Row("gender", *trait("gender", properties=False)),
    Row("mobile", *trait("mobile", properties=False)),
    Row("source", *trait("source", properties=False)),
    Row("created_time", *trait("createdAt", properties=False)),
    Row("last_seen", *trait("last_seen", "lastSeen", properties=False)),
    Row("transactions", *trait("transactions", properties=False)),
    Row("revenue", *trait("revenue", properties=False)),
    Row("moe_unsubscribe", *trait("moe_unsubscribe", "moeUnsubscribe", properties=False)),
)


def _platform(value: Json) -> str:
    said = text(value)
    return "iOS" if said.lower() in _APPLE else said


_DEVICE: Final = Table(
    Row("model", "context.device.model"),
    Row("push_id", "context.device.token"),
    Row("platform", "context.device.type", as_=_platform, text="Apple's systems as iOS"),
    Row("app_version", "context.app.version"),
    Row("push_preference", *trait("pushPreference")),
    Row("active", *trait("active")),
)
_ACTION: Final = Table(
    Row("platform", "context.device.type", "channel", as_=_platform, text="Apple's systems as iOS"),
    Row("app_version", "context.app.version"),
    Row("current_time", "timestamp", "originalTimestamp"),
)


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    api_id: str
    """The workspace's app id."""
    api_key: Secret
    """The key of the Data API."""
    region: str = "US"
    """The data center: US (DC-01), EU (DC-02), IND (DC-03), or the number of another, `04`."""

    use_object_data: bool = False
    """Send objects and lists as they are, where MoEngage has switched on its object data type for the account; without
    it they become one attribute for each value in them."""

    def __post_init__(self) -> None:
        if self.region not in _HOSTS and not (self.region.isdecimal() and len(self.region) == 2):
            raise ValueError("`region` is not one of US, EU, IND, or a data center's number like 04")

    @property
    def base(self) -> str:
        """Where the data center's API begins."""
        return f"https://api-{_HOSTS.get(self.region, self.region)}.moengage.com/v1"


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    authorization = basic_auth(config.api_id, config.api_key.reveal())
    headers = {
        "Content-Type": "application/json",
        "MOE-APPKEY": config.api_id,
        "Authorization": authorization,
    }
    merge_headers = {"Content-Type": "application/json", "Authorization": authorization}
    secrets = (authorization.rpartition(" ")[2],)
    attributes_of = without_none if config.use_object_data else _leaves

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        who = event.user_id or event.anonymous_id
        if not who:
            refuse("`userId` and `anonymousId` are missing; MoEngage needs one of them")

        def call(label: str, body: dict[str, Json]) -> Any:
            url = f"{config.base}/{label}/{config.api_id}"
            return json_call(url, body, headers=headers, label=label, user_id=who, secrets=secrets)

        if event.type == "alias":
            merged = json_call(
                f"{config.base}/customer/merge?app_id={config.api_id}",
                {"merge_data": [_merge(event)]},
                headers=merge_headers,
                label="customer/merge",
                user_id=who,
                secrets=secrets,
            )
            return (merged,)
        if event.type == "track":
            return (call("event", _event(event, who, context.now_ms, attributes_of)),)
        customer = call(
            "customer",
            {
                "type": "customer",
                "customer_id": who,
                "attributes": {**_CUSTOMER.build(message), **attributes_of(traits_of(message))},
            },
        )
        device = mapping(mapping(message.get("context")).get("device"))
        if not all(present(device.get(name)) for name in ("id", "type", "token")):
            return (customer,)
        described = {
            "type": "device",
            "device_id": device["id"],
            "customer_id": who,
            "attributes": _DEVICE.build(message),
        }
        return customer, call("device", described)

    return settled(to_calls)


def _event(event: Event, who: str, now_ms: int, attributes_of: AttributesOf) -> dict[str, Json]:
    message = event.message
    name = event.name or refuse("`event` is missing; MoEngage's events have names")
    action = {
        "action": name,
        "attributes": attributes_of(mapping(message.get("properties"))),
        **_ACTION.build(message),
    }
    offset = _utc_offset_s(message, now_ms)
    if offset is not None:
        action["user_timezone_offset"] = offset
    body: dict[str, Json] = {"type": "event", "customer_id": who, "actions": [action]}
    device_id = mapping(mapping(message.get("context")).get("device")).get("id")
    return {**body, "device_id": device_id} if present(device_id) else body


def _merge(event: Event) -> dict[str, Json]:
    previous = event.message.get("previousId")
    if not present(previous):
        refuse("`previousId` is missing; an alias says whom `userId` was before")
    if not event.user_id:
        refuse("`userId` is missing; an alias says who `previousId` is now")
    return {"merged_user": previous, "retained_user": event.user_id}


def _leaves(value: dict[str, Json]) -> dict[str, Json]:
    return without_none(flattened(value, lists="bracket"))


def _utc_offset_s(message: dict[str, Json], now_ms: int) -> int | None:
    """Return how far the zone that an event names was from UTC then, in seconds; None if it names none."""
    name = mapping(message.get("context")).get("timezone")
    zone = _zone(name) if isinstance(name, str) and name else None
    if zone is None:
        return None
    happened = happened_ms(message)
    try:
        offset = datetime.fromtimestamp((now_ms if happened is None else happened) / 1000, zone).utcoffset()
    except (OverflowError, ValueError, OSError):
        return None
    return None if offset is None else int(offset.total_seconds())


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def classify(request: Request, response: Response) -> Delivery | None:
    """MoEngage says `"status": "success"` of what it took; of what it did not, the error's type and message."""
    answer = mapping(answer_of(response).body)
    if not 200 <= response.status < 300:
        return None
    if answer.get("status") == "success":
        return Delivered(str(response.status), acceptance="accepted")
    if answer.get("status") == "fail":
        error = json_text(answer.get("error") or answer.get("message") or "")
        return Rejected("MoEngage: status fail", error[:300])
    return None


SPEC = DestinationSpec(
    name="MOENGAGE",
    title="MoEngage",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track", "alias"}),
    doc_url="https://developers.moengage.com/hc/en-us/articles/4413174104852-Create-Event",
    mapper=make_mapper,
    classify=classify,
    proof="body",
    tables=(
        MappingTable(title="Customer, beside all traits", rows=_CUSTOMER.rows),
        MappingTable(title="Device", rows=_DEVICE.rows),
        MappingTable(title="Action", rows=_ACTION.rows),
    ),
    limits="128 kB a request",
)
