"""Optimizely Feature Experimentation: decisions and conversions through the Event API.

Follows https://docs.developers.optimizely.com/experimentation-data/reference/post_events (v1, read 2026-11), and
https://docs.developers.optimizely.com/feature-experimentation/docs/get-the-datafile. Auth: none beside the account's
id. Limit: 3.5 MB a request.

Ids of events and attributes are looked up in the environment's datafile, which is kept for five minutes. An identify
is a decision: the person sees the variation that the event's options name. A track is a conversion of the event that
the settings map its name to; a page and a screen are those of their category, of their name, or both. Names are
compared without regard to case.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import msgspec

from mainstem.destinations.base import Call, DestinationSpec, Looking, MapContext, Mapped, Mapper, Schema
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import ok, or_postpone
from mainstem.destinations.kit.refuse import dialogue, refuse, settled
from mainstem.destinations.kit.times import happened_ms
from mainstem.destinations.kit.values import (
    first,
    integration_options,
    mapping,
    number,
    omit,
    present,
    rounded,
    sequence,
    text,
    traits_of,
)
from mainstem.events.canonical import Event

Json = Any
Object = dict[str, Any]

_URL: Final = "https://logx.optimizely.com/v1/events"
_JSON: Final = {"Content-Type": "application/json"}
_NAMES: Final = ("optimizely_fullstack", "OPTIMIZELY_FULLSTACK", "Optimizely Fullstack")
_KEPT_S: Final = 300.0
"""For how long a datafile is used: Optimizely's SDKs ask for it every five minutes."""
_FIELDS: Final = ("revenue", "quantity", "value")


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"dataFileUrl", "accountId"})

    data_file_url: str = ""
    """The URL of the environment's datafile."""
    account_id: str = ""
    """The account's id."""
    project_id: str = ""
    """The project's id; empty = Optimizely finds it by the experiment."""
    campaign_id: str = ""
    """The campaign's id (`layerId`), of identify calls that name none in their options."""
    experiment_id: str = ""
    """The experiment's id, of identify calls that name none in their options."""
    track_known_users: bool = False
    """Know people by their userId; otherwise by their anonymousId."""
    anonymize_ip: bool = False
    """Ask Optimizely not to keep the IP address."""
    event_mapping: tuple[dict[str, Any], ...] = ()
    """The Optimizely event of each track, as `{"from": "Order Completed", "to": "purchase"}`; others by their name."""
    attribute_mapping: tuple[dict[str, Any], ...] = ()
    """The Optimizely attribute of each trait, as `{"from": "plan", "to": "tier"}`; others by their name."""
    page_mapping: tuple[dict[str, Any], ...] = ()
    """The Optimizely event of each category or name of a page or screen; others by themselves."""
    track_categorized_pages: bool = False
    """Send pages and screens as the event of their category."""
    track_named_pages: bool = False
    """Send pages and screens as the event of their name."""


# ---------------------------------------------------------------- the mapping


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    events, pages = _names(config.event_mapping), _names(config.page_mapping)
    attributes = _names(config.attribute_mapping)

    def looking(event: Event, context: MapContext) -> Looking:
        # The datafile is the same for every event, so its answer is used again.
        answer = yield Call(url=config.data_file_url, method="GET", cache_s=_KEPT_S)
        or_postpone(answer, "datafile")
        if not ok(answer):
            refuse(f"the datafile was answered with {answer.status}; look at `dataFileUrl` in the settings")
        file = mapping(answer.body)
        made = snapshot(event, context, _by_key(file.get("events")))
        message = event.message
        visitor: Object = {"visitor_id": _visitor(message, config)}
        if found := _attributes(traits_of(message), attributes, _by_key(file.get("attributes"))):
            visitor["attributes"] = found
        visitor["snapshots"] = [made]
        session = first(message, "session_id", "context.sessionId")
        if session is not None:
            visitor["session_id"] = text(session)
        body: Object = {
            "account_id": config.account_id,
            "anonymize_ip": config.anonymize_ip,
            "enrich_decisions": True,
            "client_name": context.partner,
            "client_version": "1.0.0",
            "visitors": [visitor],
        }
        if config.project_id:
            body["project_id"] = config.project_id
        return (json_call(_URL, body, headers=_JSON),)

    def snapshot(event: Event, context: MapContext, known: Mapping[str, Object]) -> Object:
        """Return what the person decided or did."""
        message = event.message
        at_ms = happened_ms(message)
        if at_ms is None:
            at_ms = context.now_ms
        if event.type == "identify":
            options = integration_options(message, *_NAMES)
            ids = {
                "campaign_id": first(options, "campaignId") or config.campaign_id,
                "experiment_id": first(options, "experimentId") or config.experiment_id,
                "variation_id": first(options, "variationId"),
            }
            for name, value in ids.items():
                if not value:
                    refuse(f"`{name}` is missing; name it in the event's options for optimizely_fullstack")
            activated = {
                "entity_id": ids["campaign_id"],
                "type": "campaign_activated",
                "timestamp": at_ms,
                "uuid": message.get("messageId") or context.make_id(event),
            }
            return {"decisions": [ids], "events": [activated]}
        wanted = [_renamed(message.get("event"), events)] if event.type == "track" else page_events(message)
        there = [known[name.lower()] for name in wanted if name.lower() in known]
        if not there:
            refuse(f"the datafile has no event `{', '.join(wanted)}`; make it in Optimizely, or map the name")
        properties = mapping(message.get("properties"))
        done: list[Object] = []
        for index, one in enumerate(there):
            # Two events of one page need two ids.
            uuid = (
                context.make_id(event, "name")
                if index
                else message.get("messageId") or context.make_id(event)
            )
            made = {
                "entity_id": one.get("id"),
                "key": one.get("key"),
                "timestamp": at_ms,
                "uuid": uuid,
                "tags": properties,
            }
            done.append({**made, **_measures(properties)} if event.type == "track" else made)
        return {"decisions": [], "events": done}

    def page_events(message: Object) -> list[str]:
        category = (
            first(message, "properties.category", "category") if config.track_categorized_pages else None
        )
        name = first(message, "name", "properties.name") if config.track_named_pages else None
        wanted = [_renamed(one, pages) for one in (category, name) if one is not None]
        return wanted or refuse("`category` and `name` are missing; Optimizely's event is found by them")

    look_up = dialogue(looking)

    def to_calls(event: Event, context: MapContext) -> Mapped:
        # What needs no datafile to be refused is refused before it is asked for.
        message = event.message
        if not (config.data_file_url and config.account_id):
            refuse("`dataFileUrl` or `accountId` is missing in the settings")
        _visitor(message, config)
        if event.type == "track" and not present(message.get("event")):
            refuse("`event` is missing; Optimizely needs the name of a track event")
        if event.type in ("page", "screen") and not (
            config.track_categorized_pages or config.track_named_pages
        ):
            refuse("pages and screens are switched off in the settings; see `trackNamedPages`")
        return look_up(event, context)

    return settled(to_calls)


def _visitor(message: Object, config: Config) -> Json:
    field = "userId" if config.track_known_users else "anonymousId"
    found = message.get(field)
    return (
        found if present(found) else refuse(f"`{field}` is missing; by the settings people are known by it")
    )


def _names(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return `[{from, to}]` settings as an object, what is renamed in lower case."""
    return {
        row["from"].strip().lower(): row["to"].strip()
        for row in rows
        if isinstance(row.get("from"), str) and isinstance(row.get("to"), str) and row["from"] and row["to"]
    }


def _renamed(name: Json, names: Mapping[str, str]) -> str:
    name = text(name)
    return names.get(name.strip().lower(), name)


def _by_key(entries: Json) -> dict[str, Object]:
    """Return a datafile's entries by their key in lower case."""
    return {
        entry["key"].lower(): entry
        for entry in map(mapping, sequence(entries))
        if isinstance(entry.get("key"), str)
    }


def _attributes(traits: Object, names: Mapping[str, str], known: Mapping[str, Object]) -> list[Object]:
    found: list[Object] = []
    for trait, value in traits.items():
        entry = known.get(_renamed(trait, names).lower())
        if entry is not None and present(value) and not isinstance(value, list | dict):
            found.append(
                {"entity_id": entry.get("id"), "key": entry.get("key"), "type": "custom", "value": value}
            )
    return found


def _measures(properties: Object) -> Object:
    """Return what of a conversion's properties Optimizely counts, and the others as its tags."""
    made: Object = {"tags": omit(properties, _FIELDS)}
    revenue, quantity, value = (
        number(properties[name]) if present(properties.get(name)) else None for name in _FIELDS
    )
    if revenue is not None and abs(revenue) < 1e15:
        made["revenue"] = rounded(revenue * 100)  # in cents
    if quantity is not None:
        made["quantity"] = quantity
    if value is not None:
        made["value"] = value
    return made


_DOCS: Final = "https://docs.developers.optimizely.com/experimentation-data/reference/post_events"

SPEC = DestinationSpec(
    name="OPTIMIZELY_FULLSTACK",
    title="Optimizely Feature Experimentation",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen"}),
    doc_url=_DOCS,
    mapper=make_mapper,
    schemas=(
        Schema(
            label="",
            schema={
                "type": "object",
                "required": ["account_id", "visitors"],
                "properties": {
                    "account_id": {"type": "string"},
                    "visitors": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["visitor_id", "snapshots"],
                            "properties": {
                                "visitor_id": {"type": "string"},
                                "snapshots": {
                                    "type": "array",
                                    "items": {
                                        "type": "object",
                                        "properties": {
                                            "events": {
                                                "type": "array",
                                                "items": {
                                                    "type": "object",
                                                    "required": ["entity_id", "timestamp", "uuid"],
                                                    "properties": {
                                                        "timestamp": {"type": "integer"},
                                                        "revenue": {"type": "integer"},
                                                    },
                                                },
                                            }
                                        },
                                    },
                                },
                            },
                        },
                    },
                },
            },
            doc_url=_DOCS,
        ),
    ),
    limits="3.5 MB a request",
)
