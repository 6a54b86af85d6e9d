"""The wire of mobile and server SDKs that do not run here, request by request, as their sources make them.

Read in rudder-sdk-kotlin, rudder-sdk-android, rudder-sdk-ios, rudder-sdk-swift, analytics-kotlin, analytics-swift,
analytics-react-native, analytics_flutter, analytics-ruby and analytics-php. What is emulated is what a server sees:
path, headers, encoding, shape of the body, and what each SDK reads of the answer.
"""

import base64
import gzip
import json

import pytest

from mainstem.events.canonical import canonical_event
from tests.gateway.client import Client, Response, basic
from tests.gateway.conftest import Running

SENT_AT = "2026-04-01T10:00:05.000Z"


def _event(number: int, **more: object) -> dict[str, object]:
    return {
        "type": "track",
        "event": "Level Done",
        "messageId": f"mobile-{number}",
        "anonymousId": "device-1",
        "originalTimestamp": "2026-04-01T10:00:00.000Z",
        "properties": {"n": number},
        **more,
    }


async def _chunked(client: Client, path: str, headers: dict[str, str], body: bytes) -> Response:
    """POST with `Transfer-Encoding: chunked`, in pieces, as HttpURLConnection does."""
    lines = [f"POST {path} HTTP/1.1", "Host: gateway.test", "Transfer-Encoding: chunked"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    await client.send("\r\n".join(lines).encode() + b"\r\n\r\n")
    for start in range(0, len(body), 700):
        piece = body[start : start + 700]
        await client.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    await client.send(b"0\r\n\r\n")
    return await client.receive()


async def _stored(gateway: Running) -> list[dict[str, object]]:
    return [dict(canonical_event(event).message) for event in await gateway.stored()]


async def test_segment_kotlin(gateway: Running) -> None:
    """POST /v1/b, text/plain, gzip, chunked; nothing but the body's last field says who it is."""
    events = [_event(n, timestamp="2026-04-01T10:00:00.000Z", _metadata={"bundled": []}) for n in range(30)]
    body = f'{{"batch":{json.dumps(events)},"sentAt":"{SENT_AT}","writeKey":"wk1"}}'.encode()
    headers = {
        "Content-Type": "text/plain",
        "Content-Encoding": "gzip",
        "User-Agent": "analytics-kotlin/1.22.0",
        "X-Retry-Count": "1",
    }
    client = await gateway.client()
    answer = await _chunked(client, "/v1/b", headers, gzip.compress(body))
    await client.close()
    assert 200 <= answer.status < 300
    assert [event["messageId"] for event in await _stored(gateway)] == [f"mobile-{n}" for n in range(30)]


@pytest.mark.parametrize("agent", ["analytics-ios/1.9.1", "analytics-react-native"])
async def test_segment_swift_and_react_native(gateway: Running, agent: str) -> None:
    body = {"batch": [_event(0), _event(1)], "sentAt": SENT_AT, "writeKey": "wk1"}
    headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": agent}
    status, _ = await gateway.post("/v1/b", body, headers, key="")
    assert status == 200
    assert len(await _stored(gateway)) == 2


@pytest.mark.parametrize("sent_at", ["2026-04-01T10:00:05.123456Z", "2026-04-01T12:00:05.123456"])
async def test_segment_flutter(gateway: Running, sent_at: str) -> None:
    """Microseconds; older versions say their local time, and not which zone that is."""
    body = {"batch": [_event(0), _event(1)], "sentAt": sent_at, "writeKey": "wk1"}
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "User-Agent": "analytics-flutter/1.1.10",
        "Accept-Encoding": "gzip",
    }
    status, _ = await gateway.post("/v1/b", body, headers, key="")
    assert status < 300
    assert len(await _stored(gateway)) == 2
    client = await gateway.client()
    settings = (await client.request("GET", "/v1/projects/wk1/settings")).json()
    await client.close()
    assert isinstance(settings["integrations"], dict)
    # Where this is there at all, its class wants a list.
    assert isinstance(settings.get("middlewareSettings", {}).get("routingRules", []), list)


@pytest.mark.parametrize("path", ["/v1/projects/wk1/settings", "/projects/wk1/settings"])
async def test_segment_mobile_settings_move_the_upload(gateway: Running, path: str) -> None:
    """Kotlin, Swift, React Native and C# take `apiHost` from here, without a scheme, and append `/b`."""
    client = await gateway.client()
    settings = (await client.request("GET", path)).json()
    await client.close()
    assert settings["integrations"]["Segment.io"]["apiHost"] == "gateway.test/v1"
    assert settings["integrations"]["Segment.io"]["apiKey"] == "wk1"


@pytest.mark.parametrize("packed", [True, False])
async def test_rudder_android_and_ios(gateway: Running, packed: bool) -> None:
    """sentAt stands first, with a space behind `"batch":`, and in each event too; `AnonymousId` is base64."""
    events = [
        _event(n, channel="mobile", sentAt=SENT_AT, context={"traits": {"anonymousId": "device-1"}})
        for n in range(3)
    ]
    body = f'{{"sentAt":"{SENT_AT}","batch": {json.dumps(events)}}}'.encode()
    headers = {
        "Authorization": basic("wk1"),
        "Content-Type": "application/json",
        "AnonymousId": base64.b64encode(b"device-1").decode(),
    }
    if packed:
        headers["Content-Encoding"], body = "gzip", gzip.compress(body)
    client = await gateway.client()
    answer = await client.request("POST", "/v1/batch", headers, body)
    await client.close()
    assert answer.status == 200, "these two take nothing else for success"
    stored = await _stored(gateway)
    assert [event["messageId"] for event in stored] == ["mobile-0", "mobile-1", "mobile-2"]
    assert {event["channel"] for event in stored} == {"mobile"}


async def test_rudder_kotlin(gateway: Running) -> None:
    body = f'{{"batch":{json.dumps([_event(n) for n in range(5)])},"sentAt":"{SENT_AT}"}}'.encode()
    headers = {
        "Authorization": basic("wk1"),
        "Content-Type": "application/json",
        "AnonymousId": base64.b64encode(b"device-1").decode(),
        "Rsa-Retry-Attempt": "2",
        "Rsa-Since-Last-Attempt": "3000",
        "Rsa-Retry-Reason": "client-timeout",
    }
    client = await gateway.client()
    first = await _chunked(client, "/v1/batch", headers, body)
    again = await _chunked(client, "/v1/batch", headers, body)
    await client.close()
    assert (first.status, again.status) == (200, 200)
    assert len(await _stored(gateway)) == 5, "what was sent twice is kept once"


@pytest.mark.parametrize("packed", [True, False])
async def test_rudder_swift(gateway: Running, packed: bool) -> None:
    """`AnonymousId` is the id itself here; the body's length is known."""
    body = json.dumps({"batch": [_event(0), _event(1)], "sentAt": SENT_AT}).encode()
    headers = {
        "Authorization": basic("wk1"),
        "Content-Type": "application/json",
        "AnonymousId": "device-1",
    }
    if packed:
        headers["Content-Encoding"], body = "gzip", gzip.compress(body)
    status, _ = await gateway.post("/v1/batch", body, headers, key="")
    assert status == 200
    assert [event["anonymousId"] for event in await _stored(gateway)] == ["device-1", "device-1"]


@pytest.mark.parametrize(
    "query", ["p=android&v=1.30.1&bv=1.0", "p=ios&v=1.31.0", "p=android&v=1.2.0&writeKey=wk1&bv=34"]
)
async def test_rudder_mobile_source_config(gateway: Running, query: str) -> None:
    """Gson takes an absent `enabled` for false, and kotlinx wants every key of its classes."""
    client = await gateway.client()
    answer = await client.request("GET", f"/sourceConfig?{query}", {"Authorization": basic("wk1")})
    await client.close()
    source = answer.json()["source"]
    assert source["enabled"] is True
    assert {"id", "name", "writeKey", "workspaceId", "updatedAt", "config", "destinations"} <= source.keys()
    assert source["config"]["statsCollection"] == {
        "errors": {"enabled": False},
        "metrics": {"enabled": False},
    }


async def test_the_words_that_mobile_sdks_stop_at(gateway: Running) -> None:
    """rudder-android and -ios look for sentences; rudder-kotlin goes by 401 and, for the configuration, 400."""
    status, answer = await gateway.post("/v1/batch", {"batch": [_event(0)]}, key="nobody")
    assert status == 401
    assert "invalid write key" in str(answer).lower()
    status, answer = await gateway.post("/v1/batch", {"batch": [{"type": "track", "event": "e"}]})
    assert status == 400
    assert "request neither has anonymousid nor userid" in str(answer).lower()
    client = await gateway.client()
    config = await client.request("GET", "/sourceConfig?p=android", {"Authorization": basic("nobody")})
    await client.close()
    assert config.status == 400
    assert "invalid write key" in config.body.decode().lower()


async def test_analytics_ruby(gateway: Running) -> None:
    """It posts to /v1/import by default; times have the host's offset."""
    event = _event(0, timestamp="2026-04-01T12:00:00.000+02:00")
    del event["originalTimestamp"]
    status, _ = await gateway.post(
        "/v1/import", {"sentAt": "2026-04-01T12:00:05.000+02:00", "batch": [event]}
    )
    assert status == 200
    [stored] = await _stored(gateway)
    assert stored["originalTimestamp"] == "2026-04-01T12:00:00.000+02:00"


async def test_analytics_php(gateway: Running) -> None:
    body = json.dumps({"batch": [_event(0)], "sentAt": "2026-04-01T10:00:05+00:00"}).encode()
    headers = {
        "Content-Encoding": "gzip",
        "Content-Type": "application/json",
        "User-Agent": "analytics-php/3.8.1",
    }
    status, _ = await gateway.post("/v1/batch", gzip.compress(body), headers)
    assert status == 200, "it takes nothing else for success"
    assert len(await _stored(gateway)) == 1
