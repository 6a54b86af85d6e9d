"""Kissmetrics: events, people's properties and aliases, each a GET.

Follows https://support.kissmetrics.io/reference/api-specifications (address from memory, page not read:
requests follow the conformance cases). Auth: the product's API key, as a
query parameter. Limits: names of 255 characters; Kissmetrics answers 200 to everything.

A track is an event of its name, a page `Viewed NAME Page`, a screen `Viewed NAME Screen`; an identify sets
properties, a group the group's on the person; an alias joins two ids. Each of an event's `products` is set on the
person beside it. Revenue becomes `Billing Amount`, which Kissmetrics' revenue report counts. Nested values are
flattened with a dot, lists are written with commas.
"""

from typing import Any, Final

import msgspec

from mainstem.destinations.base import Call, DestinationSpec, MapContext, Mapper, Payloads
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.times import happened_ms
from mainstem.destinations.kit.values import first, flattened, get, mapping, omit, sequence, text
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any
Object = dict[str, Json]

_BASE: Final = "https://trk.kissmetrics.com/"
_DOC: Final = "https://support.kissmetrics.io/reference/api-specifications"


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    api_key: Secret
    """The product's API key, from Settings > Product settings."""
    prefix_properties: bool = False
    """Put an event's name before the names of its properties; `Page`, `Screen` or `Group` before those of these."""


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    key = config.api_key.reveal()

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        person = event.user_id or event.anonymous_id
        if not person:
            refuse("`userId` and `anonymousId` are missing; Kissmetrics needs one of them")
        who: Object = {"_k": key, "_p": person}
        at_ms = happened_ms(message)
        when: Object = {} if at_ms is None else {"_t": str(at_ms // 1000), "_d": 1}

        def call(path: str, params: Object) -> Call:
            return Call(
                method="GET",
                url=_BASE + path,
                params=params,
                user_id=person,
                extra={"statusCode": 200},
                secrets=(key,),
            )

        if event.type == "alias":
            previous = message.get("previousId") or refuse(
                "`previousId` is missing; an alias needs the id that the person had"
            )
            return (call("a", {**who, "_n": text(previous), **when}),)
        if event.type == "identify":
            traits = mapping(message.get("traits")) or mapping(get(message, "context.traits"))
            return (call("s", {**_flat(traits), **who, **when}),)
        if event.type == "group":
            group = mapping(message.get("traits"))
            if group_id := message.get("groupId"):
                group = {"id": group_id, **group}
            return (call("s", {**_named(group, "Group", config), **who, **when}),)
        name, prefix = _names(event)
        properties = mapping(message.get("properties"))
        products = [item for item in sequence(properties.get("products")) if isinstance(item, dict)]
        named = _named(omit(properties, ("products",)) if products else properties, prefix, config)
        calls = [call("e", {**named, **who, "_n": name, **when})]
        calls += [call("s", {**_named(product, prefix, config), **who}) for product in products]
        return tuple(calls)

    return settled(to_calls)


def _names(event: Event) -> tuple[str, str]:
    """Return an event's name and what goes before the names of its properties."""
    if event.type == "track":
        name = event.name or refuse("`event` is missing; Kissmetrics needs a name for the event")
        return name, name
    kind = event.type.title()
    name = event.name or first(event.message, "properties.name")
    return (f"Viewed {text(name)} {kind}" if name else f"Loaded a {kind}"), kind


def _named(properties: Object, prefix: str, config: Config) -> Object:
    found: Object = {}
    for name, value in _flat(properties).items():
        if name == "revenue":
            if config.prefix_properties:
                found[f"{prefix} - revenue"] = value
            found["Billing Amount"] = value
        elif config.prefix_properties and name != "Billing Amount":
            found[f"{prefix}-{name}"] = value
        else:
            found[name] = value
    return found


def _flat(value: Object) -> Object:
    flat = flattened(value, lists="whole", keep_empty=False)
    return {
        name: text(item) if isinstance(item, list) else item
        for name, item in flat.items()
        if item is not None
    }


SPEC = DestinationSpec(
    name="KISSMETRICS",
    title="Kissmetrics",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen", "group", "alias"}),
    doc_url=_DOC,
    mapper=make_mapper,
)
