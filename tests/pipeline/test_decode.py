"""From records to events; what can't be read is an event as well."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem.events.ordering import ordering_key
from mainstem.events.stored import StoredEvent, encode_stored
from mainstem.pipeline.decode import DAMAGED, Decoder
from mainstem.pipeline.outcome import Refused
from mainstem.workspace.model import Source
from tests.pipeline.world import RECEIVED_MS, plan

DECODER = Decoder((Source(id="shop", name="Shop", write_keys=("key",), bots="flag"),))
STORED = StoredEvent("shop", "m-1", "track", RECEIVED_MS, b'{"userId": "u", "event": "A"}')


def test_a_record_becomes_its_event() -> None:
    stored, event = DECODER.decode(3, 17, 99, encode_stored(STORED))
    assert stored == STORED
    assert (event.partition, event.offset, event.sequence) == (3, 17, 99)
    assert (event.source_id, event.message_id, event.type, event.name) == ("shop", "m-1", "track", "A")
    assert (event.user_id, event.received_at_ms, event.kind) == ("u", RECEIVED_MS, "event")


@pytest.mark.parametrize(
    "value", [b"", b"\xc1", b"not msgpack", b"\x93\x01\x02\x03", encode_stored(STORED)[:-4]]
)
@pytest.mark.parametrize(
    ("key", "source_id"),
    [
        (ordering_key("shop", "u", "a").encode(), "shop"),
        (ordering_key("shop", "", "a:u:b").encode(), "shop"),
        (ordering_key("shop", "x:a:y", "").encode(), "shop"),
        (b"", ""),
        (b"\xff\xfe", ""),
    ],
)
def test_a_damaged_record_is_a_rejected_event_of_its_source(value: bytes, key: bytes, source_id: str) -> None:
    stored, event = DECODER.decode(3, 17, 99, value, key=key, timestamp_ms=RECEIVED_MS)
    assert (event.kind, event.reason, event.source_id) == ("rejected", DAMAGED, source_id)
    assert (event.partition, event.offset, event.sequence) == (3, 17, 99)
    assert event.message_id == "damaged-3-17"
    assert event.received_at_ms == RECEIVED_MS
    assert (stored.kind, stored.raw) == ("rejected", value)
    assert plan().evaluate(event) == Refused(DAMAGED)


@pytest.mark.parametrize(
    "damage",
    [
        {"raw": b'{"userId": '},
        {"raw": b"[1]"},
        {"raw": b"\xff"},
        {"raw": b'{"a":' * 5000 + b"1" + b"}" * 5000},
        {"batch_context": b"{"},
        {"batch_integrations": b"{"},
        {"received_at_ms": 10**17},
    ],
)
def test_a_record_whose_content_is_damaged_is_rejected_too(damage: dict[str, object]) -> None:
    stored, event = DECODER.decode(0, 1, 2, encode_stored(msgspec.structs.replace(STORED, **damage)))
    assert (event.kind, event.reason) == ("rejected", DAMAGED)
    assert (event.source_id, event.message_id) == ("shop", "m-1")
    assert stored.kind == "rejected"


def test_what_the_gateway_rejected_keeps_its_reason_and_is_not_enriched() -> None:
    rejected = StoredEvent(
        *("shop", "m-1", "odd", RECEIVED_MS, b'{"context": {"userAgent": "Googlebot"}}'),
        kind="rejected",
        reason="type: unknown",
    )
    _, event = DECODER.decode(0, 1, 2, encode_stored(rejected))
    assert (event.kind, event.reason) == ("rejected", "type: unknown")
    assert event.message == {"context": {"userAgent": "Googlebot"}}


def test_events_of_a_source_that_is_gone_are_read_all_the_same() -> None:
    gone = msgspec.structs.replace(STORED, source_id="gone")
    assert DECODER.decode(0, 0, 0, encode_stored(gone))[1].source_id == "gone"


@given(st.binary(max_size=64))
def test_no_bytes_stop_the_loop(value: bytes) -> None:
    assert DECODER.decode(0, 0, 0, value)[1].reason == DAMAGED


@given(st.binary(max_size=64))
def test_no_json_stops_the_loop(raw: bytes) -> None:
    _, event = DECODER.decode(0, 0, 0, encode_stored(msgspec.structs.replace(STORED, raw=raw)))
    assert event.kind in ("event", "rejected")
