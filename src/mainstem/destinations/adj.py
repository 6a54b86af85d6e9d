"""Adjust: events of apps, server to server.

Follows https://dev.adjust.com/en/api/s2s-api/events (address from memory, page not read:
requests follow the conformance cases). Auth: the app token and the event's token, as query
parameters. Limits: none documented; revenue is taken with two digits at least.

A track becomes the event whose token the settings give for its name; others are not sent. Properties are sent as
callback parameters, and as partner parameters where the settings say so.
"""

import re
from typing import Any, Final

import msgspec

from mainstem.destinations.base import Call, DestinationSpec, MapContext, Mapper, MappingTable, Payloads
from mainstem.destinations.kit.body import json_bytes
from mainstem.destinations.kit.refuse import refuse, settled, skip
from mainstem.destinations.kit.spec_fields import IP
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.values import (
    flattened,
    get,
    json_text,
    mapping,
    omit,
    pairs,
    parse_float,
    present,
    rounded,
    text,
)
from mainstem.events.canonical import Event

Json = Any
Object = dict[str, Json]

_URL: Final = "https://s2s.adjust.com/event"
_DOC: Final = "https://dev.adjust.com/en/api/s2s-api/events"
_APPLE: Final = frozenset(("ios", "ipados", "tvos", "watchos"))
_NOT_IN_AMOUNT: Final = re.compile(r"[^0-9.eE+-]")
_MOST_REVENUE: Final = 1e12


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    app_token: str
    """The app's token, from All Settings."""
    custom_mappings: list[dict[str, Json]] = []
    """The token of each event to send: a list of `{"from": "Order Completed", "to": "abc123"}`."""
    partner_params_keys: list[dict[str, Json]] = []
    """Properties that are partner parameters, too: a list of `{"from": "plan", "to": "subscription"}`."""
    environment: bool = False
    """Send to Adjust's production environment; without, to its sandbox."""


_DEVICE: Final = (
    Row("ip_address", *IP),
    Row("att_status", "context.device.attTrackingStatus"),
    Row("tracking_enabled", "context.device.adTrackingEnabled"),
)
_ANDROID: Final = Table(
    Row("android_id", "context.device.id", required=True),
    Row("gps_adid", "context.device.advertisingId"),
    *_DEVICE,
)
_APPLE_DEVICE: Final = Table(
    Row("idfv", "context.device.id", required=True),
    Row("idfa", "context.device.advertisingId"),
    *_DEVICE,
)


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    tokens = {name.strip(): token for name, token in pairs(config.custom_mappings).items()}
    partner_names = pairs(config.partner_params_keys)
    fixed: Object = {
        "s2s": 1,
        "app_token": config.app_token,
        "environment": "production" if config.environment else "sandbox",
    }

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        platform = text(
            get(message, "context.device.type")
            or refuse("`context.device.type` is missing; Adjust needs android or ios")
        ).lower()
        if platform == "android":
            params = _ANDROID.build(message)
        elif platform in _APPLE:
            params = _APPLE_DEVICE.build(message)
        else:
            refuse(f"`context.device.type` is `{platform[:40]}`; Adjust takes events of android and ios")
        name = event.name.strip() or refuse("`event` is missing; Adjust needs it to find the event's token")
        params["event_token"] = tokens.get(name) or skip("event not mapped to a token")
        properties = mapping(message.get("properties"))
        revenue = _amount(properties.get("revenue"))
        if revenue is not None:
            params["revenue"] = revenue
            params["currency"] = properties.get("currency") or "USD"
        if callback := _parameters(properties):
            params["callback_params"] = json_bytes(callback).decode()
        if partner := _partner(properties, partner_names):
            params["partner_params"] = partner
        call = Call(
            url=_URL,
            headers={"Accept": "*/*"},
            params={**params, **fixed},
            user_id=message.get("anonymousId"),
        )
        return (call,)

    return settled(to_calls)


def _amount(value: Json) -> float | None:
    """Return a revenue, also one that is written with its currency ($20.37), to the cent."""
    amount = parse_float(_NOT_IN_AMOUNT.sub("", value) if isinstance(value, str) else value)
    return rounded(amount, 2) if amount is not None and abs(amount) < _MOST_REVENUE else None


def _parameters(properties: Object) -> dict[str, str]:
    flat = flattened(omit(properties, ("revenue", "currency")), lists="bracket", keep_empty=False)
    return {name: _text(value) for name, value in flat.items() if present(value)}


def _partner(properties: Object, names: dict[str, str]) -> dict[str, str]:
    return {
        target: _text(properties[name]) for name, target in names.items() if present(properties.get(name))
    }


def _text(value: Json) -> str:
    return json_text(value) if isinstance(value, dict | list) else text(value)


SPEC = DestinationSpec(
    name="ADJ",
    title="Adjust",
    kind="http",
    config=Config,
    message_types=frozenset({"track"}),
    doc_url=_DOC,
    mapper=make_mapper,
    tables=(
        MappingTable(title="On Android", rows=_ANDROID.rows),
        MappingTable(title="On iOS", rows=_APPLE_DEVICE.rows),
    ),
)
