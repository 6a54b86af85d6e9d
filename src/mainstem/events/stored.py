"""The stored form of an event: what the gateway appends and workers, `explain` and replay read.

gateway -> **stored** -> stream. The client's bytes are kept as they came (`raw`: unknown fields, key order,
big integers), with what only the gateway knows beside them. Everything else (timestamps, context, types) is
computed from these on reading, by `events.canonical`, so it can be improved without touching the log.
"""

from typing import Final, Literal

import msgspec

REJECTED: Final = "rejected"

Kind = Literal["event", "rejected"]


class StoredEvent(msgspec.Struct, frozen=True, array_like=True, gc=False, omit_defaults=False):
    """One event as it lies in the log (MessagePack array; fields are only ever added at the end)."""

    source_id: str
    message_id: str
    """The client's messageId, or the one the gateway made (`message_id_made`)."""
    type: str
    """identify, track, page, screen, group, alias, merge; or what an unknown client said."""
    received_at_ms: int
    raw: bytes
    """The event's JSON (UTF-8), byte for byte as received, or as repaired (`repaired`)."""
    request_ip: str = ""
    sent_at: str = ""
    """sentAt of the envelope or of the event or its header, as the client wrote it; empty if none."""
    kind: Kind = "event"
    reason: str = ""
    """Why a rejected event was refused; names the field."""
    message_id_made: bool = False
    repaired: bool = False
    """The bytes were not strict JSON (NaN, lone surrogates …) and `raw` is the tolerant reading of them."""
    batch_integrations: bytes = b""
    """`integrations` of the batch envelope, JSON, when the envelope had one."""
    batch_context: bytes = b""
    """`context` of the batch envelope, JSON, when the envelope had one."""
    channel: str = ""
    """How it came in when that matters to meaning: pixel, beacon, webhook, import; empty for the API."""
    user_agent: str = ""
    """User-Agent header; used for enrichment when the event has no context.userAgent."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(StoredEvent)


def encode_stored(event: StoredEvent) -> bytes:
    """Return the bytes for the log."""
    return _encoder.encode(event)


def decode_stored(value: bytes) -> StoredEvent:
    """Return the stored event of a record's value.

    Raises:
        msgspec.ValidationError, msgspec.DecodeError: the bytes are not a stored event.
    """
    return _decoder.decode(value)


def dedup_key(source_id: str, message_id: str) -> bytes:
    """Return the deduplication key: a messageId is unique within its source."""
    return f"{source_id}\x00{message_id}".encode("utf-8", "replace")
