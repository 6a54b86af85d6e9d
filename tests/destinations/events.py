"""Events and payloads for the destinations' tests."""

from collections.abc import Mapping
from typing import Any

import msgspec

from mainstem.destinations.base import Call, MapContext, Mapped, Request
from mainstem.destinations.catalog import check_config, find_spec
from mainstem.destinations.kit.call import encode
from mainstem.events.canonical import Event, id_text

CONTEXT = MapContext(now_ms=1_700_000_000_000, destination_id="d1", source_name="site")


def event_of(message: dict[str, Any]) -> Event:
    """The canonical event that holds `message`."""
    kind = message.get("type")
    name = message.get("event") if kind == "track" else message.get("name")
    return Event(
        message=message,
        source_id="s1",
        message_id="m1",
        type=kind if isinstance(kind, str) else "track",
        name=name if isinstance(name, str) else "",
        user_id=id_text(message.get("userId")),
        anonymous_id=id_text(message.get("anonymousId")),
        received_at_ms=CONTEXT.now_ms,
        raw=b"",
    )


def config_of(type_name: str, raw: Mapping[str, Any]) -> Any:
    """The settings as their struct; a failure shows every error."""
    result = check_config(type_name, raw)
    assert result.errors == ()
    return result.config


def mapped(type_name: str, raw: Mapping[str, Any], message: dict[str, Any]) -> Mapped:
    """What the type makes of `message` under the settings `raw`."""
    spec = find_spec(type_name)
    assert spec is not None
    assert spec.mapper is not None
    return spec.mapper(config_of(type_name, raw))(event_of(message), CONTEXT)


def request(type_name: str, raw: Mapping[str, Any], message: dict[str, Any]) -> Request:
    """The one request made of `message`."""
    result = mapped(type_name, raw, message)
    assert isinstance(result, tuple), result
    [only] = result
    assert isinstance(only, Call)
    return encode(only)


def body(sent: Request) -> Any:
    """The JSON body of a request."""
    return msgspec.json.decode(sent.body)
