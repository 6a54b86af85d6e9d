"""From the stored form to the canonical event: the one shape that rules, transformations and mappings see.

stream -> **canonical** -> pipeline. A pure function of the stored event: no clock, no I/O, repeatable to the
byte. It follows the Segment spec (https://segment.com/docs/connections/spec/common/) with RudderStack's
field names where the two differ.

Times
-----
* `receivedAt` is always ours.
* `originalTimestamp` is the client's clock: its `originalTimestamp`, else its `timestamp`.
* `timestamp` is when it happened, on our clock: `receivedAt - (sentAt - originalTimestamp)`. It is the
  client's own value, untouched, when the client sent both `originalTimestamp` and `timestamp` (RudderStack
  SDKs do that only if the caller set the time), or when there is no usable `sentAt` to correct with.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from mainstem.clock import iso_from_ms
from mainstem.events.ordering import ordering_key
from mainstem.events.stored import REJECTED, StoredEvent

Json = Any
"""Parsed JSON: None, bool, int, float, str, list, dict."""

_MISSING: Final = object()


class Event(msgspec.Struct, kw_only=True, gc=True):
    """One event as the pipeline sees it. Treat `message` as read-only: many destinations share it.

    A step that changes a message makes its own copy (`replace_message`).
    """

    message: dict[str, Any]
    source_id: str
    message_id: str
    type: str
    name: str
    """The event name of a track, the name of a page or screen, else empty."""
    user_id: str
    anonymous_id: str
    received_at_ms: int
    raw: bytes
    kind: str = "event"
    reason: str = ""
    """Why the gateway rejected it, when `kind` is `rejected`."""
    partition: int = 0
    offset: int = 0
    sequence: int = 0

    @property
    def key(self) -> str:
        """The ordering key: events with the same key are delivered in the order they were received."""
        return ordering_key(self.source_id, self.user_id, self.anonymous_id)

    @property
    def login_key(self) -> str:
        """The key this person's events had before login, empty when the event does not carry both ids."""
        if self.user_id and self.anonymous_id:
            return ordering_key(self.source_id, "", self.anonymous_id)
        return ""


def canonical_event(stored: StoredEvent, *, partition: int = 0, offset: int = 0, sequence: int = 0) -> Event:
    """Return the canonical event of a stored one; a rejected one keeps its message as it came, `{}` if unreadable.

    Raises:
        msgspec.DecodeError: an accepted event's `raw` is not a JSON object: the gateway never stores that, so
            the log is damaged.
    """
    if stored.kind == REJECTED:
        return _event(stored, _lenient_object(stored.raw), partition, offset, sequence)
    message: dict[str, Any] = _decode_object(stored.raw)
    received_at = iso_from_ms(stored.received_at_ms)
    message["type"] = stored.type
    message["messageId"] = stored.message_id
    for field in ("userId", "anonymousId", "groupId", "previousId"):
        value = message.get(field, _MISSING)
        if value is _MISSING:
            continue
        text = id_text(value)
        if text:
            message[field] = text
        else:
            del message[field]
    if stored.batch_context:
        _merge_under(message, "context", msgspec.json.decode(stored.batch_context))
    if stored.batch_integrations and "integrations" not in message:
        message["integrations"] = msgspec.json.decode(stored.batch_integrations)
    context = message.get("context")
    if not isinstance(context, dict):
        context = message["context"] = {}
    if stored.user_agent and not context.get("userAgent") and stored.channel != "server":
        context["userAgent"] = stored.user_agent
    if stored.request_ip:
        message["request_ip"] = stored.request_ip
    if stored.channel and "channel" not in message:
        message["channel"] = stored.channel
    _stamp(message, stored, received_at)
    return _event(stored, message, partition, offset, sequence)


_decode_object: Final = msgspec.json.Decoder(dict[str, Any]).decode


def _lenient_object(raw: bytes) -> dict[str, Any]:
    try:
        return _decode_object(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return {}


def id_text(value: Json) -> str:
    """Return a user or anonymous id as text: numbers as JSON writes them, stripped; empty when absent."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return ""


def parse_time_ms(value: Json) -> int | None:
    """Return an ISO 8601 text, or Unix seconds or milliseconds, as milliseconds since the epoch; None if not."""
    if isinstance(value, str) and len(value) >= 10:
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return _epoch_ms(moment)
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        # 1e11 ms is March 1973, 1e11 s is the year 5138: nothing real is ambiguous.
        return round(value) if value >= 1e11 else round(value * 1000)
    return None


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _epoch_ms(moment: datetime) -> int:
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000


def _stamp(message: dict[str, Any], stored: StoredEvent, received_at: str) -> None:
    given = message.get("timestamp")
    original = message.get("originalTimestamp")
    sent = message.get("sentAt") or stored.sent_at
    sent_ms = parse_time_ms(sent)
    original_ms = parse_time_ms(original)
    given_ms = parse_time_ms(given)
    message["receivedAt"] = received_at
    if original_ms is not None and given_ms is not None:
        pass  # the caller set the time itself: authoritative
    else:
        client_ms = original_ms if original_ms is not None else given_ms
        if client_ms is None:
            message["originalTimestamp"] = iso_from_ms(sent_ms) if sent_ms is not None else received_at
            message["timestamp"] = received_at
        else:
            message["originalTimestamp"] = original if original_ms is not None else given
            corrected = client_ms if sent_ms is None else stored.received_at_ms - (sent_ms - client_ms)
            message["timestamp"] = iso_from_ms(corrected) if _in_range(corrected) else received_at
    message["sentAt"] = sent if sent_ms is not None else received_at


def _in_range(at_ms: int) -> bool:
    # Years 1 to 9999, what RFC 3339 can write.
    return -62_135_596_800_000 <= at_ms <= 253_402_300_799_999


def _merge_under(message: dict[str, Any], field: str, base: Json) -> None:
    """Put the batch's `field` under the event's own: the event wins, key by key."""
    if not isinstance(base, dict):
        return
    own = message.get(field)
    message[field] = {**base, **own} if isinstance(own, dict) else base


def _event(stored: StoredEvent, message: dict[str, Any], partition: int, offset: int, sequence: int) -> Event:
    name = message.get("event") if stored.type == "track" else message.get("name")
    return Event(
        message=message,
        source_id=stored.source_id,
        message_id=stored.message_id,
        type=stored.type,
        name=name if isinstance(name, str) else "",
        user_id=id_text(message.get("userId")),
        anonymous_id=id_text(message.get("anonymousId")),
        received_at_ms=stored.received_at_ms,
        raw=stored.raw,
        kind=stored.kind,
        reason=stored.reason,
        partition=partition,
        offset=offset,
        sequence=sequence,
    )


def field_at(message: Mapping[str, Any], path: str) -> Json:
    """Return the value at a dotted path (`context.device.id`), None when it is not there."""
    value: Json = message
    for part in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value
