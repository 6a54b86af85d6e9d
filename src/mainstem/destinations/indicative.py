"""Indicative: events, people and their aliases.

Follows https://app.indicative.com/docs/integration.html (REST API: `/service/event`, `/service/identify`,
`/service/alias`, as of 2026-11). Auth: the project's API key, in the body. Limits: none documented.

A track is an event of its name, a page `Page View NAME`, a screen `Screen View NAME`, each with what is known of the
page and the browser. An identify sets a person's properties and, where the event has both ids, joins the anonymous id
to the person. Indicative knows no nested values: they are flattened with a dot, lists are written with commas.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Final

import msgspec

from mainstem.destinations.base import (
    Batch,
    Batcher,
    Call,
    DestinationSpec,
    MapContext,
    Mapper,
    Payloads,
    Schema,
    Unit,
)
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.times import happened_ms
from mainstem.destinations.kit.user_agent import client_of
from mainstem.destinations.kit.values import first, get, mapping, omit, text
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any
Object = dict[str, Json]

_BASE: Final = "https://api.indicative.com/service/"
_DOC: Final = "https://app.indicative.com/docs/integration.html"


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"apiKey"})

    api_key: Secret = Secret("")
    """The project's API key, from Project Settings."""


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    key = config.api_key.reveal()

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        person = event.user_id or event.anonymous_id
        if not person:
            refuse("`userId` and `anonymousId` are missing; Indicative needs one of them")
        headers = {"Indicative-Client": context.partner, "Content-Type": "application/json"}

        def call(what: str, body: Object) -> Call:
            return json_call(
                _BASE + what, {**body, "apiKey": key}, headers=headers, user_id=person, secrets=(key,)
            )

        if event.type == "alias":
            previous = message.get("previousId") or refuse(
                "`previousId` is missing; an alias needs the id that the person had"
            )
            return (call("alias", {"previousId": previous, "newId": person}),)
        if event.type == "identify":
            traits = mapping(message.get("traits")) or mapping(get(message, "context.traits"))
            properties = _flat(omit(traits, ("anonymousId",)))
            calls = [call("identify", {"uniqueId": person, "properties": {**properties, **_client(message)}})]
            if event.user_id and event.anonymous_id:
                calls.append(call("alias", {"previousId": event.anonymous_id, "newId": event.user_id}))
            return tuple(calls)
        return (call("event", {"eventUniqueId": person, **_event(event)}),)

    return settled(to_calls)


def _event(event: Event) -> Object:
    message = event.message
    properties = {
        **_flat(mapping(get(message, "context.page"))),
        **_flat(mapping(message.get("properties"))),
        **_client(message),
    }
    body: Object = {"eventName": _name(event), "properties": properties}
    if (at_ms := happened_ms(message)) is not None:
        body["eventTime"] = at_ms
    return body


def _name(event: Event) -> str:
    if event.type == "track":
        return event.name or refuse("`event` is missing; Indicative needs a name for the event")
    name = event.name or first(event.message, "properties.name", "category", "properties.category")
    kind = "Page View" if event.type == "page" else "Screen View"
    return f"{kind} {text(name)}" if name else kind


def _client(message: Object) -> Object:
    client = client_of(get(message, "context.userAgent"))
    found = {
        "browser": client.browser,
        "browser_version": client.version,
        "device": client.device,
        "os": client.system,
    }
    return {key: value for key, value in found.items() if value}


def _flat(value: Object) -> Object:
    """Return an object's plain values by their path. A list of plain values is one text; of a list of objects, each
    member is one. What is nested deeper in lists is left out."""
    found: Object = {}
    for key, item in value.items():
        _walk(key, item, found)
    return found


def _walk(path: str, value: Json, found: Object) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _walk(f"{path}.{key}", item, found)
    elif isinstance(value, list):
        columns: dict[str, list[str]] = {}
        for item in value:
            if isinstance(item, dict):
                for key, member in item.items():
                    if _is_plain(member):
                        columns.setdefault(f"{path}.{key}", []).append(text(member))
            elif _is_plain(item):
                columns.setdefault(path, []).append(text(item))
        found.update((name, ",".join(texts)) for name, texts in columns.items())
    elif value is not None:
        found[path] = value


def _is_plain(value: Json) -> bool:
    return value is not None and not isinstance(value, dict | list)


def make_batcher(_: Config) -> Batcher:
    """Return the batching: there is none; a person's identify and alias stay together."""

    def batches(units: Sequence[Unit]) -> Sequence[Batch]:
        return [Batch(unit.calls, (unit.index,), batched=False, many=True) for unit in units]

    return batches


_FLAT: Final = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
_SCHEMA: Final = Schema(
    label="",
    doc_url=_DOC,
    schema={
        "type": "object",
        "required": ["apiKey"],
        "anyOf": [
            {"required": ["eventName", "eventUniqueId"]},
            {"required": ["uniqueId", "properties"]},
            {"required": ["previousId", "newId"]},
        ],
        "properties": {
            "apiKey": {"type": "string"},
            "eventName": {"type": "string"},
            "eventUniqueId": {"type": "string"},
            "eventTime": {"type": "integer"},
            "uniqueId": {"type": "string"},
            "previousId": {"type": "string"},
            "newId": {"type": "string"},
            "properties": _FLAT,
        },
    },
)

SPEC = DestinationSpec(
    name="INDICATIVE",
    title="Indicative",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen", "alias"}),
    doc_url=_DOC,
    mapper=make_mapper,
    batcher=make_batcher,
    schemas=(_SCHEMA,),
)
