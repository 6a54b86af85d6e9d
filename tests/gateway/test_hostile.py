"""What real and hostile clients send: encodings, bombs, broken JSON. Clear answers, bounded memory, nothing lost."""

import asyncio
import gzip
import json
import resource
import zlib
from collections.abc import Callable
from typing import Any

import brotli
import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainstem.events.canonical import canonical_event
from tests.gateway.conftest import Running, Start, running

BATCH = b'{"batch":[{"type":"track","userId":"u","messageId":"m"}]}'


def _raw_deflate(data: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-15)
    return squeeze.compress(data) + squeeze.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(BATCH, mtime=0)),
        ("GZIP, identity", gzip.compress(BATCH, mtime=0)),
        ("x-gzip", gzip.compress(BATCH[:20], mtime=0) + gzip.compress(BATCH[20:], mtime=0)),
        ("deflate", zlib.compress(BATCH)),
        ("deflate", _raw_deflate(BATCH)),
        ("br", brotli.compress(BATCH)),
        ("zstd", zstandard.compress(BATCH)),
        ("zstd", zstandard.compress(BATCH[:20]) + zstandard.compress(BATCH[20:])),
        ("gzip, br", brotli.compress(gzip.compress(BATCH, mtime=0))),
        ("identity", BATCH),
        ("gzip", BATCH),
    ],
)
async def test_content_encodings_whatever_the_content_type_says(
    gateway: Running, encoding: str, body: bytes
) -> None:
    headers = {"Content-Encoding": encoding, "Content-Type": "application/x-www-form-urlencoded"}
    assert (await gateway.post("/v1/batch", body, headers))[0] == 200
    assert [event.message_id for event in await gateway.stored()] == ["m"]


@pytest.mark.parametrize(
    ("encoding", "body", "code"),
    [
        ("gzip", gzip.compress(BATCH, mtime=0)[:-9], "bad_encoding"),
        ("gzip", gzip.compress(BATCH, mtime=0) + b"garbage", "bad_encoding"),
        ("gzip", b"\x1f\x8bnonsense", "bad_encoding"),
        ("deflate", b"nonsense", "bad_encoding"),
        ("deflate", zlib.compress(BATCH)[:-5], "bad_encoding"),
        ("br", b"nonsense", "bad_encoding"),
        ("br", brotli.compress(BATCH)[:-3], "bad_encoding"),
        ("zstd", b"nonsense", "bad_encoding"),
        ("compress", b"x", "unknown_encoding"),
        ("gzip,gzip,gzip,gzip", b"x", "bad_encoding"),
    ],
)
async def test_broken_encodings_are_400(gateway: Running, encoding: str, body: bytes, code: str) -> None:
    status, answer = await gateway.post("/v1/batch", body, {"Content-Encoding": encoding})
    assert (status, answer["code"]) == (400, code)


def _brotli(data: bytes) -> bytes:
    return bytes(brotli.compress(data, quality=5))


@pytest.mark.parametrize(
    ("encoding", "squeeze"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("br", _brotli), ("zstd", zstandard.compress)],
)
async def test_a_bomb_stops_at_the_bound(
    gateway: Running, encoding: str, squeeze: Callable[[bytes], bytes]
) -> None:
    zeros = b"0" * (256 << 20)
    bomb = squeeze(zeros)
    del zeros
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, answer = await gateway.post("/v1/batch", bomb, {"Content-Encoding": encoding})
    assert (status, answer["code"]) == (413, "request_too_large")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 64 * 1024


@pytest.mark.parametrize(
    ("raw", "field", "value"),
    [
        (b'{"userId":"u","x":NaN,"y":-Infinity}', "x", None),
        (b'{"userId":"u","x":1e999}', "x", None),
        (rb'{"userId":"u","x":"\ud800a"}', "x", "�a"),
        (rb'{"userId":"u","x":"\\ud800\ud83d\ude00\udc00"}', "x", "\\ud800😀�"),
        (b'{"userId":"u","x":"\xff"}', "x", "�"),
        (b'\xef\xbb\xbf{"userId":"u","x":1}', "x", 1),
        (b'{"userId":"u","x":"a\tb\x01"}', "x", "a\tb\x01"),
        (b'{"userId":"u","x":%s,"n":NaN}' % (b"9" * 40), "x", int("9" * 40)),
        (b'{"userId":"u","x":%s}' % (b"9" * 5000), "x", "9" * 5000),
    ],
)
@pytest.mark.parametrize("in_batch", [False, True])
async def test_tolerated_json(
    gateway: Running, raw: bytes, field: str, value: object, in_batch: bool
) -> None:
    if in_batch:
        raw = raw.removeprefix(b"\xef\xbb\xbf").replace(b'{"userId"', b'{"type":"track","userId"', 1)
        good = b'{"type":"page", "userId":"good" ,"n":1.10}'
        assert (await gateway.post("/v1/batch", b'{"batch":[' + good + b"," + raw + b"]}"))[0] == 200
        [kept] = [event for event in await gateway.stored() if event.type == "page"]
        assert (kept.raw, kept.repaired) == (good, False)
    else:
        assert (await gateway.post("/v1/track", raw))[0] == 200
    [stored] = [event for event in await gateway.stored() if event.type == "track"]
    assert stored.repaired or (field == "x" and value == 1)
    assert canonical_event(stored).message[field] == value


async def test_what_parses_is_kept_byte_for_byte(gateway: Running) -> None:
    raw = '{ "userId":"ü", "b":1.0e5, "a":123456789012345678901234567890,"\\u0041":[1.10,{}], "a2":null}'.encode()
    await gateway.post("/v1/track", raw)
    [stored] = await gateway.stored()
    assert (stored.raw, stored.repaired) == (raw, False)


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"type": "track"}, "missing_ids"),
        ({"type": "track", "userId": "", "anonymousId": None}, "missing_ids"),
        ({"type": "track", "userId": {"a": 1}}, "missing_ids"),
        ({"userId": "u"}, "missing_type"),
        ({"userId": "u", "type": 7}, "missing_type"),
        ({"userId": "u", "type": "dance"}, "unknown_type"),
        ({"userId": "u" * 5000, "type": "track"}, "id_too_long"),
        ({"userId": "u", "type": "track", "x": "y" * 600_000}, "event_too_large"),
        ("text", "not_an_object"),
        (None, "not_an_object"),
        ([], "not_an_object"),
    ],
)
async def test_one_bad_event_does_not_cost_the_good_ones(gateway: Running, event: object, code: str) -> None:
    good = {"type": "track", "userId": "u", "messageId": "good"}
    status, answer = await gateway.post("/v1/batch", {"batch": [good, event]})
    assert (status, answer["success"], answer["accepted"]) == (200, True, 1)
    rejections: Any = answer["rejected"]
    [rejection] = rejections
    assert (rejection["index"], rejection["code"]) == (1, code)
    stored = {item.kind: item for item in await gateway.stored()}
    assert stored["event"].message_id == "good"
    assert stored["rejected"].reason.startswith(code)
    assert len(stored["rejected"].raw) <= 32 * 1024
    tallies = await gateway.stream.tallies()
    assert {tally: count for (tally, _), count in tallies.items()} == {"s1": 1, "rejected:s1": 1}


async def test_all_bad_is_400_with_the_sentence_mobile_sdks_look_for(gateway: Running) -> None:
    status, answer = await gateway.post("/v1/track", {"event": "x"})
    assert (status, answer["message"]) == (400, "request neither has anonymousId nor userId")
    assert [event.kind for event in await gateway.stored()] == ["rejected"]


async def test_a_rejected_event_sent_again_corrected_is_not_a_duplicate(gateway: Running) -> None:
    assert (await gateway.post("/v1/track", {"messageId": "m"}))[0] == 400
    assert (await gateway.post("/v1/track", {"messageId": "m", "userId": "u"}))[0] == 200
    assert (await gateway.post("/v1/track", {"messageId": "m", "userId": "u"}))[0] == 200
    assert [event.kind for event in await gateway.stored()] == ["rejected", "event"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "empty_body"),
        (b"  ", "empty_body"),
        (b"{", "invalid_json"),
        (b"[1,2]", "not_a_batch"),
        (b'{"batch":{}}', "not_a_batch"),
        (b'{"batch":[]}', "empty_batch"),
        (b'{"batch":[{"a":}]}', "invalid_json"),
        (b'{"batch":[{}]} x', "invalid_json"),
        (b'{"batch":[{},]}', "invalid_json"),
        (b"{" * 100_000, "invalid_json"),
        (b'{"a":' * 100_000, "invalid_json"),
        (b"\xff\xfe{\x00}\x00", "invalid_json"),
    ],
)
async def test_a_body_that_is_no_batch_is_400(gateway: Running, body: bytes, code: str) -> None:
    status, answer = await gateway.post("/v1/batch", body)
    assert (status, answer["code"]) == (400, code)
    assert await gateway.stored() == []


@pytest.mark.parametrize("depth", [65, 990, 5_000, 100_000])
async def test_deep_json_is_rejected_and_its_neighbours_are_not(gateway: Running, depth: int) -> None:
    deep = b'{"type":"track","userId":"deep","x":' + b"[" * depth + b'"]"' + b"]" * depth + b"}"
    good = b'{"type":"track","userId":"u","x":"' + b"[{" * 100 + b'"}'
    status, answer = await gateway.post("/v1/batch", b'{"batch":[' + good + b"," + deep + b"," + good + b"]}")
    assert (status, answer["accepted"]) == (200, 2)
    assert [item["code"] for item in answer["rejected"]] == ["too_deep"]  # type: ignore[attr-defined]
    assert (await gateway.post("/v1/track", deep))[0] == 400


async def test_a_depth_at_the_limit_is_fine(gateway: Running) -> None:
    raw = b'{"userId":"u","x":' + b"[" * 63 + b"]" * 63 + b"}"
    assert (await gateway.post("/v1/track", raw))[0] == 200


async def test_a_hundred_thousand_events_at_once(gateway: Running) -> None:
    """Refused by default; where they are allowed, the other clients get their turns in between."""
    batch = b'{"batch":[' + b",".join([b'{"type":"track","userId":"u"}'] * 100_000) + b"]}"
    status, answer = await gateway.post("/v1/batch", batch)
    assert (status, answer["code"]) == (413, "too_many_events")
    async with running(max_batch_events=100_000) as other:
        sending = asyncio.create_task(other.post("/v1/batch", batch))
        turns = 0
        while not sending.done():
            assert (await other.post("/v1/m"))[0] == 200
            turns += 1
        assert (await sending)[0] == 200
        assert turns > 20
        assert sum((await other.stream.tallies()).values()) == 100_000


async def test_oversize_is_accepted_and_counted(start: Start) -> None:
    async with start() as gateway:
        assert (await gateway.post("/v1/track", {"userId": "u", "x": "y" * 40_000}))[0] == 200
        source = gateway.gateway._keys.by_key("wk1")
        assert source is not None
        gateway.gateway._server.sweep()
        assert [len(event.raw) > 40_000 for event in await gateway.stored()] == [True]


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
EVENTISH = st.dictionaries(
    st.sampled_from(
        ["type", "userId", "anonymousId", "messageId", "properties", "sentAt", "timestamp", "batch"]
    )
    | st.text(max_size=5),
    JSONISH | st.sampled_from(["track", "identify"]),
    max_size=8,
)


def _mutate(data: tuple[Any, list[tuple[int, int]]]) -> bytes:
    body = bytearray(json.dumps(data[0]).encode())
    for place, byte in data[1]:
        if body:
            body[place % len(body)] = byte
    return bytes(body)


BODIES = st.binary(max_size=300) | st.tuples(
    st.fixed_dictionaries({"batch": st.lists(EVENTISH, max_size=4)}) | EVENTISH | JSONISH,
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=2),
).map(_mutate)
PATHS = st.sampled_from(
    ["/v1/track", "/v1/batch", "/v1/webhook", "/api/s/track", "/beacon/v1/batch", "/v1/m"]
)
CODINGS = st.sampled_from([None, None, None, "gzip", "deflate", "br", "zstd", "what"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(requests=st.lists(st.tuples(PATHS, BODIES, CODINGS), min_size=1, max_size=15))
def test_fuzzed_bodies_get_clear_answers_and_what_is_stored_can_be_read(
    requests: list[tuple[str, bytes, str | None]],
) -> None:
    async def run() -> None:
        async with running() as gateway:
            client = await gateway.client()
            for path, body, coding in requests:
                headers = {"Content-Encoding": coding} if coding else {}
                answer = await client.post(path, body, headers)
                assert answer.status in {200, 400, 413}, (path, body)
                document = answer.json()
                assert document.get("success") is True or {"code", "message"} <= set(document)
            await client.close()
            for event in await gateway.stored():
                assert canonical_event(event).message_id
                if event.kind == "event":
                    assert isinstance(msgspec.json.decode(event.raw), dict)

    asyncio.run(run())


@settings(max_examples=60, deadline=None)
@given(data=st.lists(st.binary(min_size=1, max_size=80), min_size=1, max_size=6))
def test_fuzzed_bytes_on_the_socket_never_harm_another_connection(data: list[bytes]) -> None:
    async def run() -> None:
        async with running() as gateway:
            hostile = await gateway.client()
            try:
                for piece in data:
                    await hostile.send(piece)
                hostile.end()
            except (ConnectionError, OSError):
                pass
            assert (await gateway.post("/v1/track", {"userId": "u"}))[0] == 200
            await hostile.close()

    asyncio.run(run())
