"""The shapes of RudderStack's transformer service, to and from ours: nothing is decided here."""

from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from mainstem.destinations.base import Body, BodyKind, Call, Payload, Refusal, Retry, Skip, StreamMessage
from mainstem.destinations.kit.body import JsonTexts, json_bytes
from mainstem.destinations.kit.values import mapping, number_text
from mainstem.events.canonical import Event, id_text, parse_time_ms

Json = Any

_PARTS: Final = {"json": "JSON", "json_array": "JSON_ARRAY", "form": "FORM", "xml": "XML", "gzip": "GZIP"}
_KNOWN: Final = frozenset(
    ("version", "type", "method", "endpoint", "endpointPath", "headers", "params", "body", "files", "userId")
)


def event_of(message: Json, metadata: Mapping[str, Json], now_ms: int) -> Event | None:
    """Return a vector's message as our event, untouched; None if it is no event at all."""
    if not isinstance(message, dict):
        return None
    kind = message.get("type")
    kind = kind.lower() if isinstance(kind, str) else ""
    name = message.get("event") if kind == "track" else message.get("name")
    return Event(
        message=message,
        source_id=str(metadata.get("sourceId") or ""),
        message_id=str(message.get("messageId") or ""),
        type=kind,
        name=name if isinstance(name, str) else "",
        user_id=id_text(message.get("userId")),
        anonymous_id=id_text(message.get("anonymousId")),
        received_at_ms=now_ms,
        raw=b"",
    )


def now_of(vector: Mapping[str, Json]) -> int:
    """Return the clock of a vector; without a pin nothing depends on it."""
    return parse_time_ms((vector.get("pins") or {}).get("now")) or 1_700_000_000_000


def output_of(payload: Payload, *, processor: bool) -> dict[str, Json]:
    """Return a request as the transformer writes it.

    Args:
        processor: its answer always has a text for `userId`; the router's does not.
    """
    if isinstance(payload, StreamMessage):
        return dict(payload.extra)
    if not isinstance(payload, Call):
        raise TypeError(f"{type(payload).__name__} has no such shape")
    body: dict[str, Json] = {"JSON": {}, "JSON_ARRAY": {}, "XML": {}, "FORM": {}}
    if payload.body is not None:
        body[_PARTS[payload.body.kind]] = _part(payload.body)
    output: dict[str, Json] = {
        "version": "1",
        "type": "REST",
        "method": payload.method,
        "endpoint": payload.url,
        "headers": dict(payload.headers),
        "params": dict(payload.params),
        "body": body,
        "files": {},
    }
    if payload.label:
        output["endpointPath"] = payload.label
    if payload.user_id is not None:
        output["userId"] = payload.user_id
    output.update(payload.extra)
    if processor:
        user_id = output.get("userId")
        if isinstance(user_id, int | float) and not isinstance(user_id, bool):
            user_id = number_text(user_id)
        output["userId"] = user_id or ""
    return output


def _part(body: Body) -> Json:
    match body.kind:
        case "json_array":
            return {"batch": json_bytes(body.value).decode()}
        case "xml" | "gzip":
            return {"payload": body.value}
        case "form":
            return {name: _field(value) for name, value in mapping(body.value).items()}
        case _:
            return body.value


def _field(value: Json) -> Json:
    """Return a form's field: objects in a list are texts there (on the wire the list is JSON in any case)."""
    if not isinstance(value, list):
        return value
    return [json_bytes(item).decode() if isinstance(item, dict) else item for item in value]


def call_of(output: Mapping[str, Json]) -> Call:
    """Return a request that the transformer wrote as ours."""
    body: Body | None = None
    for kind, part in _PARTS.items():
        value = (output.get("body") or {}).get(part)
        if value:
            if kind == "json_array":
                value = msgspec.json.decode(value["batch"])
            elif kind in ("xml", "gzip"):
                value = value["payload"]
            elif kind == "form":
                # A list of JSON texts is sent as one array of what they say.
                value = {key: _texts(item) for key, item in value.items()}
            body = Body(cast("BodyKind", kind), value)
            break
    return Call(
        url=str(output.get("endpoint") or ""),
        method=str(output.get("method") or "POST"),
        headers=output.get("headers") or {},
        params=output.get("params") or {},
        body=body,
        user_id=output.get("userId"),
        label=str(output.get("endpointPath") or ""),
        extra={key: value for key, value in output.items() if key not in _KNOWN},
    )


def _texts(field: Json) -> Json:
    if isinstance(field, list) and all(isinstance(item, str) and item[:1] == "{" for item in field):
        return JsonTexts(field)
    return field


def failure_of(end: Refusal | Skip | Retry) -> dict[str, Json]:
    """Return what an event that is not sent is answered with."""
    return {"statusCode": end.status, "error": end.rule if isinstance(end, Skip) else end.reason}
