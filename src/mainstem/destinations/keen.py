"""Keen: each event into the collection of its name.

Follows https://keen.io/docs/api/#record-a-single-event (API 3.0, read 2026-11). Auth: the project's write key in the
Authorization header. Limits: 800 kB an event, 1,000 properties.

A track goes into the collection of its name, a page into `Viewed NAME page`, a screen into `Viewed NAME screen`.
Keen's data enrichment add-ons are asked for by the settings, where the event has what they need.
"""

from typing import Any

import msgspec

from mainstem.destinations.base import (
    Delivered,
    Delivery,
    DestinationSpec,
    MapContext,
    Mapper,
    Payloads,
    Request,
    Response,
)
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.values import first, mapping, text, without_none
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    project_id: str = msgspec.field(name="projectID")
    """The project's id."""
    write_key: Secret
    """A key of the project that may write."""
    ip_addon: bool = False
    """Ask Keen for the place of the IP address (`ip_geo_info`)."""
    ua_addon: bool = False
    """Ask Keen to parse the user agent (`parsed_user_agent`)."""
    url_addon: bool = False
    """Ask Keen to parse the page's URL (`parsed_page_url`)."""
    referrer_addon: bool = False
    """Ask Keen to parse the referrer (`referrer_info`)."""


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    key = config.write_key.reveal()
    headers = {"Content-Type": "application/json", "Authorization": key}
    base = f"https://api.keen.io/3.0/projects/{config.project_id}/events/"

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        call = json_call(
            base + _collection(event),
            _with_addons(_properties(message), message, config),
            headers=headers,
            user_id=message.get("userId") or message.get("anonymousId"),
            extra={"statusCode": 200},
        )
        return (call,)

    return settled(to_calls)


def _collection(event: Event) -> str:
    if event.type == "track":
        return event.name or refuse("`event` is missing; Keen files events by their name")
    name = event.name or first(event.message, "properties.name", "properties.category")
    return f"Viewed {text(name)} {event.type}" if name else f"Viewed a {event.type}"


def _properties(message: dict[str, Json]) -> dict[str, Json]:
    user_id = message.get("userId")
    traits = first(message, "traits", "context.traits")
    return {
        **mapping(message.get("properties")),
        **without_none({"userId": user_id, "anonymousId": message.get("anonymousId")}),
        "user": without_none({"userId": user_id, "traits": traits}),
    }


def _with_addons(body: dict[str, Json], message: dict[str, Json], config: Config) -> dict[str, Json]:
    addons: list[Json] = []

    def addon(name: str, inputs: dict[str, str], output: str) -> None:
        addons.append({"name": f"keen:{name}", "input": inputs, "output": output})

    if config.ip_addon and (ip := first(message, "context.ip", "request_ip")):
        body["request_ip"] = ip
        addon("ip_to_geo", {"ip": "request_ip"}, "ip_geo_info")
    if config.ua_addon and (agent := first(message, "context.userAgent")):
        body["user_agent"] = agent
        addon("ua_parser", {"ua_string": "user_agent"}, "parsed_user_agent")
    url = first(message, "context.page.url")
    if config.url_addon and url:
        body["page_url"] = url
        addon("url_parser", {"url": "page_url"}, "parsed_page_url")
    if config.referrer_addon and url and (referrer := first(message, "context.page.referrer")):
        body["referrer_url"] = referrer
        body["page_url"] = url
        addon("referrer_parser", {"referrer_url": "referrer_url", "page_url": "page_url"}, "referrer_info")
    body["keen"] = {"addons": addons}
    return body


def classify(request: Request, response: Response) -> Delivery | None:
    """Keen says `{"created": true}` of an event that it keeps."""
    body = answer_of(response).body
    if response.status == 201 and mapping(body).get("created") is True:
        return Delivered("201", acceptance="accepted")
    return None


SPEC = DestinationSpec(
    name="KEEN",
    title="Keen",
    kind="http",
    config=Config,
    message_types=frozenset({"track", "page", "screen"}),
    doc_url="https://keen.io/docs/api/#record-a-single-event",
    mapper=make_mapper,
    classify=classify,
    proof="body",
    limits="800 kB and 1,000 properties an event",
)
