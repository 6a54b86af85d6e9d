"""`POST|GET /v1/webhook`: any JSON or form body becomes an event, by the source's mapping.

The mapping's paths look into `{body, query, headers}` (`workspace.model.WebhookMapping`). A JSON list is one
event per element, as senders of batched notifications expect. A form becomes an object of texts; a repeated
field a list; an uploaded file its name, type and size. Without a body (GET) the query is the body. An event to
which the mapping gives neither user nor anonymous id gets its own messageId as anonymousId: unrelated
notifications then have no order among them, and hold nothing up.
"""

import email
import email.policy
import json
from collections.abc import Mapping
from email.message import EmailMessage
from typing import Any, Final

from mainstem.events.canonical import field_at, id_text
from mainstem.events.envelope import Unreadable, read_value
from mainstem.gateway.ingest import new_message_id
from mainstem.gateway.pixel import query_pairs
from mainstem.workspace.model import WebhookMapping

_SECRET_HEADERS: Final = frozenset({b"authorization", b"cookie", b"x-write-key", b"proxy-authorization"})
_DEFAULT: Final = WebhookMapping()


def webhook_bodies(body: bytes, content_type: bytes, query: bytes, max_depth: int) -> list[Any] | Unreadable:
    """Return what each event of a webhook request is made from, or why the body can't be read."""
    if not body:
        return [_fields(query)]
    kind = content_type.partition(b";")[0].strip().lower()
    if kind == b"multipart/form-data":
        return [_multipart(body, content_type)]
    read = read_value(body, max_depth)
    if not isinstance(read, Unreadable):
        return read[0] if isinstance(read[0], list) else [read[0]]
    if kind == b"application/x-www-form-urlencoded":
        fields = _fields(body)
        # GitHub and others: one field named payload that holds the JSON.
        if len(fields) == 1 and isinstance(payload := fields.get("payload"), str):
            inner = read_value(payload.encode("utf-8", "replace"), max_depth)
            if not isinstance(inner, Unreadable):
                return [inner[0]]
        return [fields]
    return read


def webhook_event(
    mapping: WebhookMapping | None, body: Any, query: bytes, headers: Mapping[bytes, bytes]
) -> dict[str, Any]:
    """Return the event that a mapping makes of one body."""
    rules = mapping or _DEFAULT
    seen = {
        "body": body,
        "query": _fields(query),
        "headers": {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in headers.items()
            if name not in _SECRET_HEADERS
        },
    }
    kind = _text(_at(seen, rules.type)).lower() or "track"
    message_id = _text(_at(seen, rules.message_id)) or new_message_id()
    event: dict[str, Any] = {"type": kind, "messageId": message_id}
    name = _text(_at(seen, rules.event))
    if name and kind == "track":
        event["event"] = name
    elif name and kind in ("page", "screen"):
        event["name"] = name
    for field, rule in (("userId", rules.user_id), ("anonymousId", rules.anonymous_id)):
        if text := _text(_at(seen, rule)):
            event[field] = text
    if "userId" not in event and "anonymousId" not in event:
        event["anonymousId"] = message_id
    if (moment := _at(seen, rules.timestamp)) is not None:
        event["timestamp"] = moment
    content = _at(seen, rules.properties)
    if not isinstance(content, dict):
        content = {} if content is None else {"value": content}
    event["traits" if kind in ("identify", "group") else "properties"] = content
    event["context"] = {"library": {"name": "webhook"}}
    return event


def _at(seen: Mapping[str, Any], path: str) -> Any:
    if len(path) >= 2 and path[0] == path[-1] == "'":
        return path[1:-1]
    return field_at(seen, path) if path else None


def _text(value: Any) -> str:
    return id_text(value)


def _fields(query: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in query_pairs(query):
        if name.lower() == "writekey":
            continue
        _add(fields, name, value)
    return fields


def _add(fields: dict[str, Any], name: str, value: Any) -> None:
    if name not in fields:
        fields[name] = value
    elif isinstance(fields[name], list):
        fields[name].append(value)
    else:
        fields[name] = [fields[name], value]


def _multipart(body: bytes, content_type: bytes) -> dict[str, Any]:
    head = b"Content-Type: " + content_type.replace(b"\r", b"").replace(b"\n", b"") + b"\r\n\r\n"
    message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    fields: dict[str, Any] = {}
    if not isinstance(message, EmailMessage) or not message.is_multipart():
        return fields
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if not isinstance(name, str) or not isinstance(content, bytes):
            continue
        filename = part.get_filename()
        if filename is None:
            _add(fields, name, content.decode("utf-8", "replace"))
        else:
            _add(fields, name, {"filename": filename, "type": part.get_content_type(), "size": len(content)})
    # A name or file name may carry what no UTF-8 can: write it as the replacement character.
    repaired: dict[str, Any] = json.loads(json.dumps(fields).encode("utf-8", "replace"))
    return repaired
