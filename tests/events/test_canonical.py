"""The canonical event: times, ids and context, for the shapes that the SDKs send."""

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem.clock import iso_from_ms
from mainstem.events.canonical import canonical_event, field_at, id_text, iso_text, parse_time_ms
from mainstem.events.stored import StoredEvent

RECEIVED = "2026-01-01T00:01:40.000Z"
RECEIVED_MS = 1_767_225_700_000
"""100 s after midnight."""


def canonical(message: Any, **stored: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "source_id": "shop",
        "message_id": "m-1",
        "type": "track",
        "received_at_ms": RECEIVED_MS,
        "raw": msgspec.json.encode(message),
    }
    return canonical_event(StoredEvent(**{**fields, **stored})).message


def times(message: dict[str, Any], sent_at: str = "") -> tuple[str, str, str]:
    got = canonical(message, sent_at=sent_at)
    assert got["receivedAt"] == RECEIVED
    return got["originalTimestamp"], got["timestamp"], got["sentAt"]


# ---------------------------------------------------------------- times, SDK by SDK
# The client's clock runs 30 s slow in all of them: it sends at 00:01:10 what happened at 00:01:00.

SENT = "2026-01-01T00:01:10.000Z"
HAPPENED = "2026-01-01T00:01:00.000Z"
CORRECTED = "2026-01-01T00:01:30.000Z"

SDKS: dict[str, tuple[dict[str, Any], str, tuple[str, str, str]]] = {
    "segment-python: timestamp, envelope sentAt": (
        {"timestamp": "2026-01-01T00:01:00.000+00:00"},
        "2026-01-01T00:01:10.000+00:00",
        ("2026-01-01T00:01:00.000+00:00", CORRECTED, "2026-01-01T00:01:10.000+00:00"),
    ),
    "rudder-python: timestamp in µs, envelope sentAt": (
        {"timestamp": "2026-01-01T00:01:00.439567+00:00"},
        "2026-01-01T00:01:10.000123+00:00",
        (
            "2026-01-01T00:01:00.439567+00:00",
            "2026-01-01T00:01:30.439Z",
            "2026-01-01T00:01:10.000123+00:00",
        ),
    ),
    "segment-node: timestamp, envelope sentAt": ({"timestamp": HAPPENED}, SENT, (HAPPENED, CORRECTED, SENT)),
    "segment-node-old: timestamp, envelope sentAt": (
        {"timestamp": HAPPENED, "_metadata": {"nodeVersion": "20"}},
        SENT,
        (HAPPENED, CORRECTED, SENT),
    ),
    "segment-next: timestamp and sentAt in the event": (
        {"timestamp": HAPPENED, "sentAt": SENT},
        "",
        (HAPPENED, CORRECTED, SENT),
    ),
    "segment-next batching: no sentAt in the events": (
        {"timestamp": HAPPENED},
        SENT,
        (HAPPENED, CORRECTED, SENT),
    ),
    "rudder-node: originalTimestamp, sentAt in both": (
        {"originalTimestamp": HAPPENED, "sentAt": SENT},
        "2026-01-01T00:01:11.000Z",
        (HAPPENED, CORRECTED, SENT),
    ),
    "rudder-node, time set by the caller: authoritative": (
        {"originalTimestamp": HAPPENED, "timestamp": "2020-05-05T05:05:05.005Z", "sentAt": SENT},
        "",
        (HAPPENED, "2020-05-05T05:05:05.005Z", SENT),
    ),
    "expo, rudder-sw, rudder-js batch: originalTimestamp, envelope sentAt": (
        {"originalTimestamp": HAPPENED},
        SENT,
        (HAPPENED, CORRECTED, SENT),
    ),
    "rudder-js: originalTimestamp, SentAt header": (
        {"originalTimestamp": HAPPENED, "userId": ""},
        SENT,
        (HAPPENED, CORRECTED, SENT),
    ),
    "jitsu: timestamp and sentAt in the event": (
        {"timestamp": HAPPENED, "sentAt": SENT, "writeKey": "id:***"},
        "",
        (HAPPENED, CORRECTED, SENT),
    ),
}


@pytest.mark.parametrize("sdk", SDKS)
def test_times_as_the_sdks_send_them(sdk: str) -> None:
    message, sent_at, expected = SDKS[sdk]
    assert times(message, sent_at) == expected


@pytest.mark.parametrize(
    ("message", "sent_at", "expected"),
    [
        # nothing said: it happened when it arrived
        ({}, "", (RECEIVED, RECEIVED, RECEIVED)),
        ({"timestamp": None, "originalTimestamp": None, "sentAt": None}, "", (RECEIVED, RECEIVED, RECEIVED)),
        # no usable sentAt: nothing to correct with
        ({"timestamp": HAPPENED}, "", (HAPPENED, HAPPENED, RECEIVED)),
        ({"timestamp": HAPPENED, "sentAt": "soon"}, "", (HAPPENED, HAPPENED, RECEIVED)),
        ({"originalTimestamp": HAPPENED}, "soon", (HAPPENED, HAPPENED, RECEIVED)),
        ({"timestamp": "2026-01-01T01:01:00+01:00"}, "", ("2026-01-01T01:01:00+01:00", HAPPENED, RECEIVED)),
        # only sentAt: it happened on the client's clock when it was sent
        ({"sentAt": SENT}, "", (SENT, RECEIVED, SENT)),
        # one of the two can't be read: the other counts, corrected
        ({"timestamp": HAPPENED, "originalTimestamp": "x"}, SENT, (HAPPENED, CORRECTED, SENT)),
        ({"timestamp": "x", "originalTimestamp": HAPPENED}, SENT, (HAPPENED, CORRECTED, SENT)),
        ({"timestamp": {}, "originalTimestamp": []}, SENT, (SENT, RECEIVED, SENT)),
        # the past that a caller imports is moved by the skew of its clock alone
        (
            {"timestamp": "2019-06-01T12:00:00Z", "sentAt": SENT},
            "",
            ("2019-06-01T12:00:00Z", "2019-06-01T12:00:30.000Z", SENT),
        ),
        # a clock that runs ahead
        (
            {"timestamp": "2031-01-01T00:00:00Z", "sentAt": "2031-01-01T00:00:10Z"},
            "",
            ("2031-01-01T00:00:00Z", "2026-01-01T00:01:30.000Z", "2031-01-01T00:00:10Z"),
        ),
        # numbers: Unix seconds and milliseconds, written as text
        ({"timestamp": 1_767_225_660, "sentAt": 1_767_225_670_000}, "", (HAPPENED, CORRECTED, SENT)),
        ({"timestamp": 1_767_225_660.0}, "", (HAPPENED, HAPPENED, RECEIVED)),
        (
            {"timestamp": 1_767_225_660, "originalTimestamp": 1_767_225_670},
            "",
            (SENT, HAPPENED, RECEIVED),
        ),
        # no calendar holds these
        ({"timestamp": 10**30, "sentAt": 1e300}, "", (RECEIVED, RECEIVED, RECEIVED)),
        ({"timestamp": "9999-12-31T23:59:59Z", "sentAt": "0001-01-01T00:00:00Z"}, "", None),
        ({"timestamp": "0001-01-01T00:00:00+05:00"}, "", (RECEIVED, RECEIVED, RECEIVED)),
        ({"timestamp": -5, "sentAt": True}, "", (RECEIVED, RECEIVED, RECEIVED)),
    ],
)
def test_times(message: dict[str, Any], sent_at: str, expected: tuple[str, str, str] | None) -> None:
    if expected is None:
        expected = (message["timestamp"], RECEIVED, message["sentAt"])
    assert times(message, sent_at) == expected


def test_the_client_can_not_say_when_or_from_where_we_received_it() -> None:
    spoofed = {"receivedAt": "1999-01-01T00:00:00Z", "request_ip": "203.0.113.9"}
    assert canonical(spoofed)["receivedAt"] == RECEIVED
    assert "request_ip" not in canonical(spoofed)
    assert canonical(spoofed, request_ip="192.0.2.1")["request_ip"] == "192.0.2.1"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-01-01T00:01:40.000Z", RECEIVED_MS),
        (" 2026-01-01T00:01:40Z\n", RECEIVED_MS),
        ("2026-01-01T00:01:40", RECEIVED_MS),
        ("2026-01-01 00:01:40+00:00", RECEIVED_MS),
        ("2026-01-01T01:01:40+0100", RECEIVED_MS),
        ("2026-01-01T00:01:40.0009999Z", RECEIVED_MS),
        ("2026-01-01T00:01:40.1Z", RECEIVED_MS + 100),
        ("2026-01-01", 1_767_225_600_000),
        ("1969-12-31T23:59:59.999Z", -1),
        (1_767_225_700, RECEIVED_MS),
        (1_767_225_700.0, RECEIVED_MS),
        (1_767_225_700_000, RECEIVED_MS),
        (1_767_225_700.25, RECEIVED_MS + 250),
        ("", None),
        ("yesterday!", None),
        ("1767225700", None),
        ("2026-13-01T00:00:00Z", None),
        ("2026-01-01T00:00:60Z", None),
        (0, None),
        (-1, None),
        (10**20, None),
        (float("inf"), None),
        (float("nan"), None),
        (True, None),
        (None, None),
        ([], None),
    ],
)
def test_parse_time(value: Any, expected: int | None) -> None:
    assert parse_time_ms(value) == expected


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_times_survive_being_written_and_read(at_ms: int) -> None:
    assert parse_time_ms(iso_text(at_ms)) == at_ms
    if at_ms >= -30_000_000_000_000:  # strftime does not pad years below 1000 everywhere
        assert iso_text(at_ms) == iso_from_ms(at_ms)


@pytest.mark.parametrize("at_ms", [-62_135_596_800_001, 253_402_300_800_000])
def test_no_time_outside_the_calendar_is_written(at_ms: int) -> None:
    with pytest.raises(OverflowError):
        iso_text(at_ms)


# ---------------------------------------------------------------- ids


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("u1", "u1"),
        ("  u1 ", "u1"),
        ("", ""),
        (" ", ""),
        (None, ""),
        (123, "123"),
        (0, "0"),
        (123.0, "123"),
        (1.5, "1.5"),
        (12345678901234567890123, "12345678901234567890123"),
        (True, ""),
        (False, ""),
        ([], ""),
        ({"id": 1}, ""),
        (float("inf"), "inf"),
    ],
)
def test_ids_as_text(value: Any, text: str) -> None:
    assert id_text(value) == text


def test_an_id_with_more_digits_than_python_writes_is_text_all_the_same() -> None:
    assert id_text(16**4000 - 1) == "0x" + "f" * 4000


@pytest.mark.parametrize("field", ["userId", "anonymousId", "groupId", "previousId"])
def test_ids_in_the_message(field: str) -> None:
    assert canonical({field: 42})[field] == "42"
    nothing: tuple[Any, ...] = ("", None, " ", {}, True)
    for absent in nothing:
        assert field not in canonical({field: absent})
    assert field not in canonical({})


def test_keys_before_and_after_login() -> None:
    def keys(**ids: Any) -> tuple[str, str]:
        event = canonical_event(StoredEvent("shop", "m", "track", RECEIVED_MS, msgspec.json.encode(ids)))
        return event.key, event.login_key

    assert keys(anonymousId="a") == ("shop:a:a", "")
    assert keys(userId="u") == ("shop:u:u", "")
    assert keys(userId=7, anonymousId="a") == ("shop:u:7", "shop:a:a")
    assert keys(userId="", anonymousId="a") == ("shop:a:a", "")


# ---------------------------------------------------------------- the rest of the message


def test_the_gateways_word_on_type_and_message_id() -> None:
    got = canonical({"type": "Track", "messageId": 5, "event": "A"}, type="track", message_id="made")
    assert (got["type"], got["messageId"], got["event"]) == ("track", "made", "A")


@pytest.mark.parametrize(
    ("kind", "message", "name"),
    [
        ("track", {"event": "A", "name": "B"}, "A"),
        ("page", {"event": "A", "name": "B"}, "B"),
        ("screen", {"name": "B"}, "B"),
        ("identify", {"event": "A"}, ""),
        ("track", {"event": None}, ""),
        ("track", {"event": {"a": 1}}, ""),
    ],
)
def test_names(kind: str, message: dict[str, Any], name: str) -> None:
    stored = StoredEvent("shop", "m", kind, RECEIVED_MS, msgspec.json.encode(message))
    assert canonical_event(stored).name == name


@pytest.mark.parametrize(
    ("own", "batch", "merged"),
    [
        ({"a": 1}, b'{"a": 2, "b": 3}', {"a": 1, "b": 3}),
        (None, b'{"b": 3}', {"b": 3}),
        ("odd", b'{"b": 3}', {"b": 3}),
        ({"a": 1}, b"[]", {"a": 1}),
        (None, b"null", {}),
        (None, b"", {}),
        ("odd", b"", {}),
    ],
)
def test_the_batch_lends_its_context(own: Any, batch: bytes, merged: Any) -> None:
    message = {} if own is None else {"context": own}
    assert canonical(message, batch_context=batch)["context"] == merged


def test_the_batch_lends_its_integrations_whole() -> None:
    assert canonical({}, batch_integrations=b'{"All": false}')["integrations"] == {"All": False}
    own = canonical({"integrations": {"X": True}}, batch_integrations=b'{"All": false}')
    assert own["integrations"] == {"X": True}


@pytest.mark.parametrize(
    ("agent", "channel", "context", "expected"),
    [
        ("Mozilla/5.0 (X11)", "", {}, "Mozilla/5.0 (X11)"),
        ("Mozilla/5.0 (X11)", "pixel", {}, "Mozilla/5.0 (X11)"),
        ("Mozilla/5.0 (X11)", "", {"userAgent": "own"}, "own"),
        ("Mozilla/5.0 (X11)", "webhook", {}, None),
        ("Mozilla/5.0 (X11)", "import", {}, None),
        ("analytics-python/2.4.0", "", {}, None),
        ("node", "", {}, None),
        ("", "", {}, None),
    ],
)
def test_the_requests_user_agent_counts_only_if_it_is_the_users(
    agent: str, channel: str, context: dict[str, Any], expected: str | None
) -> None:
    got = canonical({"context": context}, user_agent=agent, channel=channel)
    assert got["context"].get("userAgent") == expected


def test_the_channel_of_the_event_wins_over_the_way_it_came() -> None:
    assert canonical({}, channel="pixel")["channel"] == "pixel"
    assert canonical({"channel": "web"}, channel="pixel")["channel"] == "web"
    assert "channel" not in canonical({})


def test_what_nobody_knows_is_kept_as_it_is_and_in_its_order() -> None:
    message = {
        "zeta": 12345678901234567890123,
        "type": "track",
        "alpha": {"b": [1.5, None]},
        "messageId": "m-1",
    }
    got = canonical(message)
    assert list(got)[:4] == ["zeta", "type", "alpha", "messageId"]
    assert got["zeta"] == 12345678901234567890123
    assert got["alpha"] == {"b": [1.5, None]}


@pytest.mark.parametrize(("raw", "message"), [(b'{"a": 1}', {"a": 1}), (b"nonsense", {}), (b"[1]", {})])
def test_a_rejected_event_is_left_as_it_came(raw: bytes, message: dict[str, Any]) -> None:
    event = canonical_event(
        StoredEvent("shop", "m", "odd", RECEIVED_MS, raw, kind="rejected", reason="type: unknown")
    )
    assert (event.message, event.kind, event.reason, event.raw) == (message, "rejected", "type: unknown", raw)


def test_the_zone_of_the_machine_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    before = times({"timestamp": "2026-07-01T12:00:00"}, "2026-07-01T12:00:10")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert times({"timestamp": "2026-07-01T12:00:00"}, "2026-07-01T12:00:10") == before
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a", {"b": [{"c": 1}]}),
        ("a.b.0.c", 1),
        ("a.b.1.c", None),
        ("a.b.x", None),
        ("a.missing.c", None),
        ("n", None),
        ("n.x", None),
    ],
)
def test_field_at(path: str, value: Any) -> None:
    assert field_at({"a": {"b": [{"c": 1}]}, "n": None}, path) == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
FIELDS = st.sampled_from(
    [
        "userId",
        "anonymousId",
        "context",
        "integrations",
        "timestamp",
        "originalTimestamp",
        "sentAt",
        "event",
        "x",
    ]
)


@given(message=st.dictionaries(FIELDS, JSON), sent_at=st.text() | st.just(SENT))
def test_any_object_has_one_canonical_form(message: dict[str, Any], sent_at: str) -> None:
    got = canonical(message, sent_at=sent_at)
    assert msgspec.json.encode(got) == msgspec.json.encode(canonical(message, sent_at=sent_at))
    for field in ("timestamp", "originalTimestamp", "sentAt", "receivedAt"):
        assert parse_time_ms(got[field]) is not None
    assert isinstance(got["context"], dict)
