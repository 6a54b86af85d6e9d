"""A line of the archive: our stamps, then the client's JSON byte for byte.

    {"receivedAt":"2026-11-23T06:50:02.123Z","sourceId":"…","messageId":"…","type":"track","partition":3,
     "offset":1234,"sequence":987,"requestIp":"…","sentAt":"…", …,"raw":{…}}

Stamps that are empty are left out. Everything of `StoredEvent` is there, so a line is the event: replay reads
it back. `raw` is the JSON value itself, untouched (key order, big integers, unknown fields, spacing). Where the
client's bytes cannot stand inside a line (a line break, space around the value, not JSON at all: only
rejected events) they are a string in `rawText`, or base64 in `rawBase64` when they are not UTF-8.
"""

from base64 import b64decode, b64encode
from datetime import datetime
from typing import Any, Final

import msgspec

from mainstem.clock import iso_from_ms
from mainstem.events.stored import Kind, StoredEvent


class ArchivedEvent(msgspec.Struct, frozen=True, gc=False):
    """A stored event with its place in the log."""

    event: StoredEvent
    partition: int
    offset: int
    sequence: int


class _Line(msgspec.Struct, omit_defaults=True, rename="camel", gc=False, kw_only=True):
    # Field order is the order in the line.
    received_at: str
    source_id: str
    message_id: str
    type: str
    partition: int
    offset: int
    sequence: int = 0
    request_ip: str = ""
    sent_at: str = ""
    kind: Kind = "event"
    reason: str = ""
    message_id_made: bool = False
    repaired: bool = False
    channel: str = ""
    user_agent: str = ""
    batch_integrations: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    batch_integrations_text: str = ""
    batch_context: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    batch_context_text: str = ""
    raw: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    raw_text: str = ""
    raw_base64: str = ""


_encode: Final = msgspec.json.Encoder().encode
_decode_line: Final = msgspec.json.Decoder(_Line).decode
_decode_raw: Final = msgspec.json.Decoder(msgspec.Raw).decode


def _stands_in_a_line(raw: bytes) -> bool:
    """Whether bytes are one JSON value that can be put into a line and taken out again unchanged."""
    if b"\n" in raw or b"\r" in raw:
        return False
    try:
        # msgspec skips over a raw value without looking at the encoding of its strings.
        raw.isascii() or raw.decode()
        return len(_decode_raw(raw)) == len(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


class LineEncoder:
    """Writes lines; remembers the text of the last second, since events come in order of time."""

    def __init__(self) -> None:
        self._second = -1
        self._second_text = ""

    def encode(self, event: StoredEvent, partition: int, offset: int, sequence: int) -> bytes:
        """Return the line of an event, with its line break."""
        line = _Line(
            received_at=self._iso(event.received_at_ms),
            source_id=event.source_id,
            message_id=event.message_id,
            type=event.type,
            partition=partition,
            offset=offset,
            sequence=sequence,
            request_ip=event.request_ip,
            sent_at=event.sent_at,
            kind=event.kind,
            reason=event.reason,
            message_id_made=event.message_id_made,
            repaired=event.repaired,
            channel=event.channel,
            user_agent=event.user_agent,
        )
        if event.batch_integrations:
            if _stands_in_a_line(event.batch_integrations):
                line.batch_integrations = msgspec.Raw(event.batch_integrations)
            else:
                line.batch_integrations_text = event.batch_integrations.decode()
        if event.batch_context:
            if _stands_in_a_line(event.batch_context):
                line.batch_context = msgspec.Raw(event.batch_context)
            else:
                line.batch_context_text = event.batch_context.decode()
        raw = event.raw
        if _stands_in_a_line(raw):
            return b'%b,"raw":%b}\n' % (_encode(line)[:-1], raw)
        try:
            line.raw_text = raw.decode()
        except UnicodeDecodeError:
            line.raw_base64 = b64encode(raw).decode()
        return _encode(line) + b"\n"

    def _iso(self, at_ms: int) -> str:
        second, ms = divmod(at_ms, 1000)
        if second != self._second:
            self._second = second
            self._second_text = iso_from_ms(second * 1000)[:-4]
        return f"{self._second_text}{ms:03d}Z"


def decode_line(line: bytes) -> ArchivedEvent:
    """Return the event of a line.

    Raises:
        msgspec.DecodeError, ValueError: the bytes are not a line of the archive.
    """
    found = _decode_line(line)
    if found.raw is not msgspec.UNSET:
        raw = bytes(found.raw)
    elif found.raw_base64:
        raw = b64decode(found.raw_base64, validate=True)
    else:
        raw = found.raw_text.encode()
    event = StoredEvent(
        source_id=found.source_id,
        message_id=found.message_id,
        type=found.type,
        received_at_ms=_ms_from_iso(found.received_at),
        raw=raw,
        request_ip=found.request_ip,
        sent_at=found.sent_at,
        kind=found.kind,
        reason=found.reason,
        message_id_made=found.message_id_made,
        repaired=found.repaired,
        batch_integrations=_bytes_of(found.batch_integrations, found.batch_integrations_text),
        batch_context=_bytes_of(found.batch_context, found.batch_context_text),
        channel=found.channel,
        user_agent=found.user_agent,
    )
    return ArchivedEvent(event, found.partition, found.offset, found.sequence)


def _bytes_of(value: Any, text: str) -> bytes:
    return text.encode() if value is msgspec.UNSET else bytes(value)


def _ms_from_iso(text: str) -> int:
    return round(datetime.fromisoformat(text[:-5] + "+00:00").timestamp()) * 1000 + int(text[-4:-1])
