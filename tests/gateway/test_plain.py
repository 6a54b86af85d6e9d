"""The short way of plain events ends where the general way would."""

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainstem.gateway.auth import KeyRing
from mainstem.gateway.ingest import Arrival, Intake, plain_record
from mainstem.gateway.settings import GatewaySettings
from mainstem.stream.base import StreamFull
from mainstem.telemetry.metrics import EVENTS_RECEIVED, REQUESTS
from tests.gateway.conftest import NOW_MS, WORKSPACE, FailingProducer, Running, Start

SETTINGS = GatewaySettings(max_event_bytes=600, warn_event_bytes=500, max_depth=4)

_ids = st.one_of(
    st.none(),
    st.text(max_size=12),
    st.sampled_from(["u", " u ", "", "  ", "\x00", "é", "u" * 300]),
    st.integers(),
    st.booleans(),
    st.lists(st.integers(), max_size=2),
)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
_messages = st.fixed_dictionaries(
    {},
    optional={"messageId": _ids, "userId": _ids, "anonymousId": _ids, "type": _ids, "properties": _values},
)
_bodies = st.one_of(
    _messages.map(msgspec.json.encode),
    _values.map(msgspec.json.encode),
    st.builds(
        lambda body, cut, junk: body[:cut] + junk + body[cut:],
        _messages.map(msgspec.json.encode),
        st.integers(0, 60),
        st.sampled_from(
            [b"\xff", b"NaN", b"1e999", b"[[[[[", b"\\ud800", b"\xef\xbb\xbf", b" ", b"{", b'"', b"9" * 400]
        ),
    ),
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(_bodies)
def test_a_plain_record_is_the_one_that_intake_makes(body: bytes) -> None:
    source = KeyRing(WORKSPACE).sources[0]
    record = plain_record(source, "track", body, NOW_MS, "192.0.2.1", SETTINGS)
    if record is None:
        return
    intake = Intake(
        source, Arrival(received_at_ms=NOW_MS, request_ip="192.0.2.1", forced_type="track"), SETTINGS
    )
    intake.take(body)
    assert intake.records == [record]
    assert not intake.rejections
    assert not source.warnings


def test_an_ordinary_event_is_plain() -> None:
    source = KeyRing(WORKSPACE).sources[0]
    for message in ({"messageId": "m", "userId": "u"}, {"messageId": "m", "anonymousId": "a", "type": "x"}):
        body = msgspec.json.encode(message)
        assert plain_record(source, "track", body, NOW_MS, "192.0.2.1", SETTINGS) is not None


@pytest.mark.parametrize(
    "message",
    [
        {"userId": "u"},
        {"messageId": 7, "userId": "u"},
        {"messageId": "m", "userId": None},
        {"messageId": "m", "userId": " "},
        {"messageId": "m"},
        {"messageId": "m", "userId": "u", "text": "x" * 500},
        {"messageId": "m", "userId": "u", "deep": [[[[1]]]]},
    ],
)
def test_what_there_is_something_to_say_about_is_not(message: dict[str, Any]) -> None:
    source = KeyRing(WORKSPACE).sources[0]
    body = msgspec.json.encode(message)
    assert plain_record(source, "track", body, NOW_MS, "192.0.2.1", SETTINGS) is None


async def test_duplicates_and_answers_are_counted_as_ever(gateway: Running) -> None:
    def counts() -> list[float]:
        received = [EVENTS_RECEIVED.labels("s1", word)._value.get() for word in ("accepted", "duplicate")]
        return [*received, REQUESTS.labels("/v1/track", "200")._value.get()]

    gateway.gateway.tick()
    before = counts()
    # The first is remembered by its key; those after it are plain.
    for message_id in ("m1", "m2", "m2", "m3"):
        answer = await gateway.post("/v1/track", {"messageId": message_id, "userId": "u"})
        assert answer[0] == 200
    gateway.gateway.tick()
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [3, 1, 4]


async def test_a_plain_event_that_is_not_stored_is_not_acknowledged(start: Start) -> None:
    for producer in (FailingProducer(at_once=StreamFull("full")), FailingProducer(later=StreamFull("full"))):
        async with start(producer=producer) as gateway:
            for _ in range(2):
                assert (await gateway.post("/v1/track", {"messageId": "m", "userId": "u"}))[0] == 503


async def test_a_new_snapshot_counts_from_the_next_request_on(gateway: Running) -> None:
    event = {"messageId": "m", "userId": "u"}
    for _ in range(2):
        assert (await gateway.post("/v1/track", event))[0] == 200
    gateway.gateway.replace_workspace(msgspec.structs.replace(WORKSPACE, version="2", sources=()))
    assert (await gateway.post("/v1/track", event))[0] == 401
