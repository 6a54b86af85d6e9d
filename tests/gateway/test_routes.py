"""Every route, every way to authenticate, every refusal, over a real socket."""

import msgspec
import pytest

from mainstem.events.canonical import canonical_event
from tests.gateway.client import Client, basic
from tests.gateway.conftest import NOW_MS, WORKSPACE, Running, Start

EVENT = {"userId": "u1", "messageId": "m1", "event": "e"}
OK = {"success": True, "ok": True}

TYPES = ["identify", "track", "page", "screen", "group", "alias", "merge"]
ALIASES = {"i": "identify", "t": "track", "p": "page", "s": "screen", "g": "group", "a": "alias"}


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(
    ("path", "kind"),
    [(f"/v1/{kind}", kind) for kind in TYPES]
    + [(f"/v1/{short}", kind) for short, kind in ALIASES.items()]
    + [(f"/api/s/{kind}", kind) for kind in TYPES]
    + [(f"/api/s/s2s/{kind}", kind) for kind in TYPES],
)
async def test_an_endpoint_forces_its_type(gateway: Running, path: str, kind: str, slash: str) -> None:
    assert await gateway.post(path + slash, {**EVENT, "type": "nonsense"}) == (200, OK)
    [stored] = await gateway.stored()
    assert (stored.type, stored.message_id, stored.kind) == (kind, "m1", "event")


@pytest.mark.parametrize(
    ("path", "channel"),
    [("/v1/batch", ""), ("/v1/b/", ""), ("/v1/import", "import"), ("/beacon/v1/batch", "beacon")],
)
async def test_a_batch_keeps_order_and_bytes(gateway: Running, path: str, channel: str) -> None:
    raws = [
        b'{"type" : "track","userId":"u","z":1.10,"a":12345678901234567890123}',
        b'{"anonymousId":7,"type":"page"}',
    ]
    body = b'{"batch":[' + b" , ".join(raws) + b'],"sentAt":"2026-01-01T00:00:00Z"}'
    assert await gateway.post(path, body) == (200, OK)
    stored = await gateway.stored()
    assert sorted(event.raw for event in stored) == sorted(raws)
    assert {event.sent_at for event in stored} == {"2026-01-01T00:00:00Z"}
    assert {event.channel for event in stored} == {channel}
    assert {event.received_at_ms for event in stored} == {NOW_MS}
    assert all(event.message_id_made for event in stored)


async def test_batch_context_and_integrations_reach_the_canonical_event(gateway: Running) -> None:
    batch = {
        "batch": [{"type": "track", "userId": "u"}],
        "context": {"ip": "x"},
        "integrations": {"All": False},
    }
    await gateway.post("/v1/batch", batch)
    [stored] = await gateway.stored()
    message = canonical_event(stored).message
    assert message["context"]["ip"] == "x"
    assert message["integrations"] == {"All": False}


@pytest.mark.parametrize(
    ("headers", "query", "body_key", "status"),
    [
        ({"Authorization": basic("wk1")}, "", "", 200),
        ({"authorization": basic("wk1-next")}, "", "", 200),
        ({"Authorization": "basic " + basic("wk1").split()[1].rstrip("=")}, "", "", 200),
        ({"X-Write-Key": "wk1"}, "", "", 200),
        ({"X-Write-Key": "jit:secret"}, "", "", 200),
        ({}, "?writeKey=wk1", "", 200),
        ({}, "?a=b&writekey=wk1", "", 200),
        ({}, "", "wk1", 200),
        ({"Authorization": "Bearer token"}, "", "wk1", 200),
        ({"Authorization": basic("")}, "", "wk1", 200),
        # the first that is present decides
        ({"Authorization": basic("wrong"), "X-Write-Key": "wk1"}, "?writeKey=wk1", "wk1", 401),
        ({"X-Write-Key": "wrong"}, "?writeKey=wk1", "wk1", 401),
        ({}, "?writeKey=wrong", "wk1", 401),
        ({}, "", "wrong", 401),
        ({"Authorization": "Basic %%%"}, "", "", 401),
        ({"Authorization": "Basic é"}, "", "", 401),
        ({}, "", "", 401),
    ],
)
@pytest.mark.parametrize("path", ["/v1/track", "/v1/batch"])
async def test_authentication(
    gateway: Running, path: str, headers: dict[str, str], query: str, body_key: str, status: int
) -> None:
    event = {**EVENT, "type": "track"}
    body: dict[str, object] = {"batch": [event]} if path == "/v1/batch" else dict(event)
    if body_key:
        body["writeKey"] = body_key
    found, answer = await gateway.post(path + query, body, headers, key="")
    assert found == status
    assert len(await gateway.stored()) == (1 if status == 200 else 0)
    if status == 401 and (headers or query or body_key):
        assert answer == {"code": "invalid_write_key", "message": "invalid write key"}
    elif status == 401:
        assert answer["code"] == "missing_write_key"


async def test_the_masked_body_key_of_jitsu_does_not_authenticate(gateway: Running) -> None:
    status, _ = await gateway.post("/api/s/track", {**EVENT, "writeKey": "jit"}, key="")
    assert status == 401


async def test_a_disabled_source_is_404_and_nothing_is_stored(gateway: Running) -> None:
    assert await gateway.post("/v1/track", EVENT, key="wk-off") == (
        404,
        {"code": "source_disabled", "message": "source is disabled"},
    )
    assert await gateway.stored() == []


@pytest.mark.parametrize(
    ("origin", "status"), [("https://shop.example", 200), ("https://evil.example", 403), ("", 200)]
)
async def test_the_origins_of_a_source(gateway: Running, origin: str, status: int) -> None:
    headers = {"Origin": origin} if origin else {}
    assert (await gateway.post("/v1/track", EVENT, headers, key="wk-origin"))[0] == status


async def test_a_new_workspace_counts_from_the_next_request(gateway: Running) -> None:
    client = await gateway.client()
    assert (await client.post("/v1/track", EVENT)).status == 200
    gateway.gateway.replace_workspace(msgspec.structs.replace(WORKSPACE, sources=WORKSPACE.sources[1:]))
    assert (await client.post("/v1/track", EVENT)).status == 401
    await client.close()


@pytest.mark.parametrize("path", ["/v1/track", "/v1/batch", "/nowhere", "/sourceConfig", "/beacon/v1/batch"])
async def test_preflight(gateway: Running, path: str) -> None:
    client = await gateway.client()
    wanted = "anonymousid,authorization,content-type,rsa-retry-attempt,sentat"
    answer = await client.request(
        "OPTIONS",
        path,
        {
            "Origin": "http://localhost:3000",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": wanted,
            "Access-Control-Request-Private-Network": "true",
        },
    )
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert answer.headers["access-control-allow-headers"] == wanted
    assert answer.headers["access-control-max-age"] == "7200"
    assert answer.headers["access-control-allow-private-network"] == "true"
    assert "POST" in answer.headers["access-control-allow-methods"]
    await client.close()


@pytest.mark.parametrize("key", ["wk1", "wrong"])
async def test_answers_and_errors_carry_cors(gateway: Running, key: str) -> None:
    client = await gateway.client()
    answer = await client.post(
        "/v1/track", EVENT, {"Origin": "http://a.test", "User-Agent": "Browser/1"}, key=key
    )
    assert answer.headers["access-control-allow-origin"] == "http://a.test"
    assert answer.headers["access-control-expose-headers"] == "Retry-After"
    assert "date" in answer.headers
    await client.close()
    if key == "wk1":
        [stored] = await gateway.stored()
        assert stored.user_agent == "Browser/1"


async def test_user_agent_of_a_server_is_not_kept_and_ip_is_the_connection(gateway: Running) -> None:
    await gateway.post("/v1/track", EVENT, {"User-Agent": "python/1", "X-Forwarded-For": "6.6.6.6"})
    [stored] = await gateway.stored()
    assert (stored.user_agent, stored.request_ip) == ("", "127.0.0.1")


@pytest.mark.parametrize(
    ("forwarded", "ip"),
    [
        ("6.6.6.6, 9.9.9.9, 10.1.2.3", "9.9.9.9"),
        ("10.9.9.9, 10.1.2.3", "10.9.9.9"),
        ("6.6.6.6, garbage", "127.0.0.1"),
        ("", "127.0.0.1"),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
async def test_a_trusted_proxy_tells_the_address(start: Start, forwarded: str, ip: str) -> None:
    async with start(trusted_proxies=("127.0.0.0/8", "10.0.0.0/8")) as gateway:
        await gateway.post("/v1/track", EVENT, {"X-Forwarded-For": forwarded} if forwarded else {})
        [stored] = await gateway.stored()
        assert stored.request_ip == ip


async def test_sent_at_header(gateway: Running) -> None:
    await gateway.post("/v1/track", EVENT, {"SentAt": "2026-01-01T00:00:00.000Z"})
    [stored] = await gateway.stored()
    assert stored.sent_at == "2026-01-01T00:00:00.000Z"


@pytest.mark.parametrize("path", ["/v1/projects/wk1/settings", "/projects/wk1/settings/"])
async def test_segment_settings(start: Start, path: str) -> None:
    async with start() as gateway:
        client = await gateway.client()
        answer = await client.request("GET", path)
        assert answer.status == 200
        segment = answer.json()["integrations"]["Segment.io"]
        assert (segment["apiKey"], segment["apiHost"], segment["protocol"]) == (
            "wk1",
            "gateway.test/v1",
            "http",
        )
        assert answer.json()["metrics"] == {"sampleRate": 0}
        await client.close()
    async with start(public_url="https://cdp.example/x/") as gateway:
        client = await gateway.client()
        segment = (await client.request("GET", path)).json()["integrations"]["Segment.io"]
        assert (segment["apiHost"], segment["protocol"]) == ("cdp.example/x/v1", "https")
        await client.close()


@pytest.mark.parametrize("path", ["/sourceConfig", "/sourceConfig/?p=npm&v=3&writeKey=wk1"])
async def test_source_config(gateway: Running, path: str) -> None:
    client = await gateway.client()
    answer = await client.request("GET", path, {"Authorization": basic("wk1")})
    source = answer.json()["source"]
    assert {"id", "name", "writeKey", "enabled", "workspaceId", "updatedAt", "config", "destinations"} <= set(
        source
    )
    assert (source["id"], source["enabled"], source["destinations"]) == ("s1", True, [])
    off = await client.request("GET", "/sourceConfig", {"Authorization": basic("wk-off")})
    assert off.json()["source"]["enabled"] is False
    wrong = await client.request("GET", "/sourceConfig", {"Authorization": basic("wrong")})
    assert (wrong.status, wrong.json()["message"]) == (400, "invalid write key")
    await client.close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200), ("HEAD", "/health", 200), ("GET", "/", 200), ("GET", "/ready/", 200),
        ("GET", "/version", 200), ("GET", "/openapi.json", 200), ("GET", "/robots.txt", 200),
        ("POST", "/v1/m", 200), ("GET", "/favicon.ico", 404), ("GET", "/v1/projects/nope/settings", 401),
        ("GET", "/v1/projects/wk-off/settings", 404), ("GET", "/sourceConfig", 401),
        ("GET", "/v1/track", 405), ("PUT", "/v1/track", 405), ("POST", "/health", 405), ("DELETE", "/v1/m", 405),
        ("GET", "//v1/track", 404), ("GET", "/v1", 404), ("GET", "/v1/projects//settings", 401),
    ],
)  # fmt: skip
async def test_the_other_routes(gateway: Running, method: str, path: str, status: int) -> None:
    client = await gateway.client()
    answer = await client.request(method, path)
    assert answer.status == status
    if status >= 400:
        assert set(answer.json()) == {"code", "message"}
    if status == 405:
        assert "allow" in answer.headers
    assert (await client.request("GET", "/health")).status == 200
    await client.close()


async def test_health_tells_the_truth(start: Start) -> None:
    checks = {"stream": "ok"}
    async with start(ready=lambda: checks) as gateway:
        client = await gateway.client()
        assert (await client.request("GET", "/health")).json() == {"status": "ok", "checks": {"stream": "ok"}}
        checks["stream"] = "no space"
        answer = await client.request("GET", "/ready")
        assert answer.status == 503
        assert "no space" in answer.json()["message"]
        await client.close()


async def test_pixel(gateway: Running) -> None:
    client = await gateway.client()
    path = (
        "/pixel/v1/track?writeKey=wk1&userId=u%201&event=Opened&properties.a.b=1&properties.a=x&context.ip=1"
    )
    answer = await client.request("GET", path, {"User-Agent": "Mail", "Referer": "https://mail.test/"})
    assert (answer.status, answer.headers["content-type"], answer.body[:6]) == (200, "image/gif", b"GIF89a")
    [stored] = await gateway.stored()
    assert (stored.type, stored.channel, stored.user_agent) == ("track", "pixel", "Mail")
    message = msgspec.json.decode(stored.raw)
    assert message["userId"] == "u 1"
    assert message["properties"] == {"a": {"b": "1"}}
    assert message["properties.a"] == "x"
    assert message["context"] == {"ip": "1", "page": {"url": "https://mail.test/"}}
    for bad in (
        "/pixel/v1/page?writeKey=wrong",
        "/pixel/v1/page?writeKey=wk1",
        "/pixel/v1/page",
        "/pixel/v1/page?%ff",
    ):
        assert (await client.request("GET", bad)).body[:6] == b"GIF89a"
    assert [event.kind for event in await gateway.stored()] == ["event", "rejected"]
    await client.close()


class TestWebhook:
    async def test_a_mapping_makes_the_event(self, gateway: Running) -> None:
        body = {"action": "opened", "user": {"id": 7}, "at": "2026-01-01T00:00:00Z", "data": {"n": 2**70}}
        status, _ = await gateway.post(
            "/v1/webhook", body, {"X-Delivery": "d1", "Content-Type": "text/plain"}, key="wk-hook"
        )
        assert status == 200
        [stored] = await gateway.stored()
        assert (stored.type, stored.message_id, stored.channel) == ("track", "d1", "webhook")
        message = msgspec.json.decode(stored.raw)
        assert (message["userId"], message["event"], message["properties"]) == ("7", "opened", {"n": 2**70})
        assert message["timestamp"] == "2026-01-01T00:00:00Z"

    @pytest.mark.parametrize(
        ("body", "content_type", "properties"),
        [
            (b'{"a":NaN,"b":[1]}', "", [{"a": None, "b": [1]}]),
            (b'[{"a":1},{"a":2}]', "application/json", [{"a": 1}, {"a": 2}]),
            (b"a=1&a=2&b=%C3%A9", "application/x-www-form-urlencoded", [{"a": ["1", "2"], "b": "é"}]),
            (b"payload=%7B%22x%22%3A1%7D", "application/x-www-form-urlencoded", [{"x": 1}]),
            (b'"word"', "", [{"value": "word"}]),
            (
                (
                    b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--B\r\n'
                    b"Content-Disposition: form-data; "
                    b'name="f"; filename="x.txt"\r\nContent-Type: text/plain\r\n\r\nabc\r\n--B--\r\n'
                ),
                "multipart/form-data; boundary=B",
                [{"a": "1", "f": {"filename": "x.txt", "type": "text/plain", "size": 3}}],
            ),
        ],
    )
    async def test_any_body(
        self, gateway: Running, body: bytes, content_type: str, properties: object
    ) -> None:
        headers = {"Content-Type": content_type} if content_type else {}
        assert (await gateway.post("/v1/webhook?writeKey=wk1", body, headers, key=""))[0] == 200
        messages = [msgspec.json.decode(event.raw) for event in await gateway.stored()]
        assert sorted((message["properties"] for message in messages), key=str) == properties
        assert all(message["event"] == "webhook" for message in messages)
        assert all(message["anonymousId"] == message["messageId"] for message in messages)

    async def test_get(self, gateway: Running) -> None:
        client = await gateway.client()
        assert (await client.request("GET", "/v1/webhook?writeKey=wk1&x=1&x=2")).status == 200
        [stored] = await gateway.stored()
        assert msgspec.json.decode(stored.raw)["properties"] == {"x": ["1", "2"]}
        await client.close()

    async def test_nonsense_is_400(self, gateway: Running) -> None:
        status, answer = await gateway.post("/v1/webhook", b"\x00\x01nonsense")
        assert (status, answer["code"]) == (400, "invalid_json")


async def test_rate_limit_answers_429_with_retry_after(start: Start) -> None:
    async with start(max_events_per_s=1.0, sweep_interval_s=60.0) as gateway:
        client = await Client.connect(gateway.port)
        batch = {"batch": [{"type": "track", "userId": "u"}] * 12}
        assert (await client.post("/v1/batch", batch)).status == 200
        answer = await client.post("/v1/track", EVENT)
        assert (answer.status, answer.json()["code"]) == (429, "rate_limited")
        assert int(answer.headers["retry-after"]) >= 1
        await client.close()
