"""The contract of JavaScript transformations: RudderStack's two versions, and the shape of Segment's functions."""

import asyncio
from typing import Any

import pytest
from tests.transformations.sandbox.kit import NOW_MS, given, javascript, library, outcome, shown

from mainstem.secret import Secret
from mainstem.transformations.base import Dropped, Failed, Kept
from mainstem.transformations.sandbox.runtime import (
    FetchFailed,
    FetchRequest,
    FetchResponse,
    SandboxRuntime,
)
from mainstem.workspace.model import TransformationLimits


async def test_kept_changed_dropped_expanded_and_thrown(runtime: SandboxRuntime) -> None:
    code = """
    export function transformEvent(event) {
      switch (event.n) {
        case 0: event.changed = true; return event;
        case 1: return;
        case 2: return null;
        case 3: return [{ a: 1 }, { a: 2 }];
        case 4: return [];
        case 5: throw new TypeError("five");
        case 6: return "text";
        case 7: return [{ a: 1 }, 7];
        case 8: return () => {};
        case 9: throw "only text";
      }
    }
    """
    results = await outcome(runtime, javascript(code), *[{"n": n} for n in range(10)])
    assert results == [
        [{"n": 0, "changed": True}],
        None,
        None,
        [{"a": 1}, {"a": 2}],
        None,
        "TypeError: five\n    at transformEvent (t:9:23)",
        "returned event from transformEvent(event) is not an object",
        "returned event in events array from transformEvent(event) is not an object",
        "returned event from transformEvent(event) is not an object",
        "only text",
    ]


async def test_async_code_keeps_the_order_of_its_input_and_of_its_outputs(runtime: SandboxRuntime) -> None:
    code = """
    export async function transformEvent(event) {
      for (let i = 0; i < 10 - event.n; i++) await null;
      if (event.n === 2) throw new Error("two");
      return [{ n: event.n, first: true }, { n: event.n, first: false }];
    }
    """
    results = await outcome(runtime, javascript(code), *[{"n": n} for n in range(4)])
    assert [result if isinstance(result, str) else [each["n"] for each in result] for result in results] == [
        [0, 0],
        [1, 1],
        "Error: two\n    at transformEvent (t:4:32)",
        [3, 3],
    ]


async def test_functions_by_any_declaration(runtime: SandboxRuntime) -> None:
    for code in (
        "export const transformEvent = (event) => event",
        "function transformEvent(event) { return event }\nexport { transformEvent }",
        "const mine = async (event) => event\nexport { mine as transformEvent };",
        "export let transformEvent = function (event) { return event }",
    ):
        assert await outcome(runtime, javascript(code), {"n": 1}) == [[{"n": 1}]]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("export const other = 1", "Expected one of transformEvent,transformBatch. Found other"),
        ("const x = 1", "Expected one of transformEvent,transformBatch. Found none"),
        (
            "export function transformEvent() {}\nexport function transformBatch() {}",
            "Expected one of transformEvent,transformBatch. Found transformEvent,transformBatch",
        ),
        ("import { a } from 'nowhere'; export function transformEvent() {}", "import from nowhere failed"),
        (
            "export function transformEvent() {\n  let a b;\n}",
            "SyntaxError: Unexpected identifier 'b'\n    at t:2",
        ),
        ("export function transformEvent() {\n  let a = (;\n}", "SyntaxError"),
        (
            "throw new Error('at the top')\nexport function transformEvent() {}",
            "Error: at the top\n    at t:1:7",
        ),
        ("}); globalThis.broken = 1; (function () {", "SyntaxError"),
        ("export function transformEvent() { await 1 }", "SyntaxError"),
    ],
)
async def test_code_that_cannot_be_used_fails_every_event(
    code: str, reason: str, runtime: SandboxRuntime
) -> None:
    for _ in range(2):
        results = await outcome(runtime, javascript(code), {}, {})
        assert all(isinstance(result, str) and result.startswith(reason) for result in results), results


async def test_errors_name_the_users_lines_and_those_of_libraries(runtime: SandboxRuntime) -> None:
    code = """import { add } from "sums";
export function transformEvent(event) {

  return { sum: add(event.missing.deep) };
}"""
    sums = "// sums\nexport function add(x) {\n  return x.y.z;\n}"
    (result,) = await outcome(runtime, javascript(code, libraries=(library("sums", sums),)), {})
    assert result.startswith(
        "TypeError: Cannot read properties of undefined (reading 'deep')\n    at transformEvent (t:4:"
    )
    code = code.replace("event.missing.deep", "{}")
    (result,) = await outcome(runtime, javascript(code, libraries=(library("sums", sums),)), {})
    assert "\n    at add (library sums:3:" in result
    assert "\n    at transformEvent (t:4:" in result
    assert "driver" not in result
    assert "anonymous" not in result


async def test_a_long_error_is_cut(runtime: SandboxRuntime) -> None:
    (result,) = await outcome(
        runtime, javascript("export function transformEvent() { throw new Error('x'.repeat(9999)) }"), {}
    )
    assert len(result) <= 500
    assert "transformEvent (t:1:" in result


# ── transformBatch ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_outputs_of_a_batch_belong_to_inputs(runtime: SandboxRuntime) -> None:
    code = """
    export function transformBatch(events) {
      const [a, b, c, d] = events;
      delete b.messageId;                     // the user is known
      return [
        { ...c, n: "c1" },
        b,
        { ...c, n: "c2" },
        { userId: "nobody", n: "lost" },       // the first of the batch
        { anonymousId: "anna", n: "by device" },
      ];
    }
    """
    run = await runtime.run(
        javascript(code),
        given({"n": "a"}, {"n": "b", "userId": "bert"}, {"n": "c", "anonymousId": "anna"}, {"n": "d"}),
    )
    names = [
        [message["n"] for message in result.messages] if isinstance(result, Kept) else result
        for result in run.results
    ]
    assert names == [["lost"], ["b"], ["c1", "c2", "by device"], Dropped()]


async def test_a_batch_that_throws_is_halved_until_the_guilty_stand_alone(runtime: SandboxRuntime) -> None:
    code = """
    export async function transformBatch(events, metadata) {
      await null;
      for (const event of events) {
        event.touched = (event.touched ?? 0) + 1;
        if (event.bad) throw new Error("bad");
      }
      return events;
    }
    """
    results = await outcome(
        runtime, javascript(code), *[{"n": n, **({"bad": 1} if n in (1, 5) else {})} for n in range(7)]
    )
    for n, result in enumerate(results):
        if n in (1, 5):
            assert result.startswith("Error: bad\n    at transformBatch (t:6:")
        else:
            assert result == [{"n": n, "touched": 1}]


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ("7", "returned events from transformBatch(event) is not an array"),
        ("undefined", "returned events from transformBatch(event) is not an array"),
        ("[1]", "returned event in events array from transformBatch(event) is not an object"),
    ],
)
async def test_a_batch_that_returns_no_events(returned: str, reason: str, runtime: SandboxRuntime) -> None:
    code = f"export const transformBatch = (events) => ({returned})"
    assert await outcome(runtime, javascript(code), {}, {}) == [reason, reason]


# ── what the code gets ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_metadata_by_message_id(runtime: SandboxRuntime) -> None:
    code = """
    export function transformEvent(event, metadata) {
      const meta = metadata(event);
      return { ...meta, other: metadata({ messageId: "m1" }).messageId, unknown: metadata({}).sourceId ?? null };
    }
    """
    run = await runtime.run(javascript(code), given({}, {}, metadata={"sourceName": "Shop"}))
    assert run.results[0] == Kept(
        ({"sourceId": "web", "messageId": "m0", "sourceName": "Shop", "other": "m1", "unknown": None},)
    )
    assert not run.saw_destination


@pytest.mark.parametrize(
    ("use", "saw"),
    [
        ("metadata(event).sourceId", False),
        ("metadata(event).destinationName", True),
        ("JSON.stringify(metadata(event))", True),
        ("({ ...metadata(event) }).sourceId", True),
        ("Object.keys(metadata(event)).length", False),
        ("event.n === 7 && metadata(event).destinationId", False),
    ],
)
async def test_looking_at_the_destination_is_noticed(use: str, saw: bool, runtime: SandboxRuntime) -> None:
    code = f"export function transformEvent(event, metadata) {{ event.x = {use}; return event }}"
    named = {"destinationId": "d", "destinationName": "hook"}
    for _ in range(2):
        assert (await runtime.run(javascript(code), given({"n": 1}, metadata=named))).saw_destination is saw


async def test_metadata_that_is_put_into_the_event_is_noticed_too(runtime: SandboxRuntime) -> None:
    code = "export function transformEvent(event, metadata) { event.meta = metadata(event); return event }"
    run = await runtime.run(javascript(code), given({}, metadata={"destinationId": "d"}))
    assert run.saw_destination
    assert isinstance(run.results[0], Kept)
    assert run.results[0].messages[0]["meta"]["destinationId"] == "d"


async def test_logs_are_kept_when_asked_for_and_bounded(runtime: SandboxRuntime) -> None:
    code = """
    export function transformEvent(event) {
      log("a", 1, { b: [2] }, null, undefined);
      console.error("e");
      if (event.flood) for (let i = 0; i < 1e4; i++) log("x".repeat(100));
      return event;
    }
    """
    run = await runtime.run(javascript(code), given({}), logs=True)
    assert run.logs == ('a 1 {"b":[2]} null undefined', "e")
    assert (await runtime.run(javascript(code), given({}))).logs == ()
    flood = await runtime.run(javascript(code), given({"flood": 1}), logs=True)
    assert sum(map(len, flood.logs)) <= 64 * 1024


async def test_credentials_and_settings(runtime: SandboxRuntime) -> None:
    code = """
    export function transformEvent(event) {
      if (event.none) return { x: getCredential() };
      const proto = getCredential("toString") ?? null;
      return { key: getCredential("key"), none: getCredential("none") ?? null, proto };
    }
    """
    transformation = javascript(code, credentials={"key": Secret("s3cret")})
    results = await outcome(runtime, transformation, {}, {"none": True})
    assert results[0] == [{"key": "s3cret", "none": None, "proto": None}]
    assert results[1].startswith("TypeError: Key should be valid and defined")


@pytest.mark.parametrize("seeded", [True, False])
async def test_chance_and_time_come_from_the_event(seeded: bool, runtime: SandboxRuntime) -> None:
    code = """
    const first = Math.random();
    export function transformEvent(event) {
      return {
        random: [Math.random(), Math.random()],
        now: Date.now(), date: new Date().toISOString(), text: Date().slice(0, 3),
        fixed: new Date(0).toISOString(), year: new Date(2020, 1).getFullYear(), is: new Date() instanceof Date,
        shown: new Intl.DateTimeFormat("en").format(), constructed: new (new Date().constructor)().getTime(),
      };
    }
    """
    transformation = javascript(code, seeded=seeded)
    one = await outcome(runtime, transformation, {}, {})
    two = await outcome(runtime, transformation, {}, {})
    alone = await outcome(runtime, transformation, {"messageId": "m1"})
    values: dict[str, Any] = one[0][0]
    assert values["fixed"] == "1970-01-01T00:00:00.000Z"
    assert values["year"] == 2020
    assert values["is"] is True
    assert all(0 <= number < 1 for number in values["random"])
    if seeded:
        assert one == two
        assert alone[0][0]["random"] == one[1][0]["random"]
        assert one[0][0]["random"] != one[1][0]["random"]
        assert values["now"] == values["constructed"] == NOW_MS
        assert values["date"] == "2026-02-02T02:40:00.123Z"
        assert values["shown"] == "2/2/2026"
    else:
        assert one[0][0]["random"] != two[0][0]["random"]
        assert abs(values["now"] - NOW_MS) > 1000


async def test_seeded_numbers_look_random(runtime: SandboxRuntime) -> None:
    code = "export const transformEvent = () => ({ random: Math.random() })"
    results = await outcome(runtime, javascript(code), *[{} for _ in range(1000)])
    numbers = [result[0]["random"] for result in results]
    assert len(set(numbers)) == 1000
    assert 0.45 < sum(numbers) / 1000 < 0.55
    assert 50 < sum(number < 0.1 for number in numbers) < 150


async def test_async_code_has_the_seed_of_its_event_all_along(runtime: SandboxRuntime) -> None:
    code = """
    export async function transformEvent(event) {
      await null; await null;
      return { random: Math.random(), now: Date.now() };
    }
    """
    both = await outcome(runtime, javascript(code), {}, {})
    alone = await runtime.run(javascript(code), given({}, {})[1:])
    assert shown(alone) == both[1:]


async def test_base64(runtime: SandboxRuntime) -> None:
    code = """
    export const transformEvent = () =>
      ({ a: ["", "f", "fo", "foo", "foob"].map(btoa), b: ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg"].map(atob) })
    """
    assert await outcome(runtime, javascript(code), {}) == [
        [{"a": ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="], "b": ["", "f", "fo", "foo", "foob"]}]
    ]


# ── modules ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_libraries(runtime: SandboxRuntime) -> None:
    code = """
    import add, { twice, PI as pi } from "sums";
    import * as all from 'sums'
    import { half } from "myOtherLib"
    import { rs } from "@rs/name/v1";
    import "sums";
    export function transformEvent() { return { a: add(1, 2), b: twice(3), pi, d: all.twice(4), h: half(4), rs: rs() } }
    """
    libraries = (
        library(
            "sums",
            "export default function (a, b) { return a + b }\nexport const twice = (x) => 2 * x, PI = 3;",
        ),
        library(
            "My Other-Lib",
            'import { twice } from "sums"\nexport { half }\nfunction half(x) { return twice(x) / 4 }',
        ),
        library("@rs/name/v1", "export const rs = () => 'rs'"),
    )
    assert await outcome(runtime, javascript(code, libraries=libraries), {}) == [
        [{"a": 3, "b": 6, "pi": 3, "d": 8, "h": 2, "rs": "rs"}]
    ]


async def test_a_library_that_does_not_compile_is_named(runtime: SandboxRuntime) -> None:
    code = 'import { x } from "broken"; export const transformEvent = (event) => event'
    (result,) = await outcome(
        runtime, javascript(code, libraries=(library("broken", "\nexport const x = 1 2"),)), {}
    )
    assert result.startswith("SyntaxError")
    assert "library broken:2" in result


# ── the legacy script ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_legacy_script(runtime: SandboxRuntime) -> None:
    code = """
    function transform(events) {
      leaked = 1;
      const c = typeof getCredential;
      return events.filter((e) => e.n !== 1).map((e) => ({ ...e, source: metadata(e).sourceId, c }));
    }
    """
    assert await outcome(runtime, javascript(code, code_version="0"), {"n": 0}, {"n": 1}) == [
        [{"n": 0, "source": "web", "c": "undefined"}],
        None,
    ]
    (result,) = await outcome(runtime, javascript("var x", code_version="0", id="none@1"), {})
    assert result == "Expected function transform(events). Found none"


# ── Segment's functions ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_segment_functions(runtime: SandboxRuntime) -> None:
    code = """
    async function onTrack(event, settings) {
      if (event.n === 1) throw new DropEvent("not this one");
      if (event.n === 2) throw new ValidationError("no name");
      if (event.n === 3) return;
      return { ...event, region: settings.region };
    }
    function onIdentify(event) { throw new EventNotSupported("identify") }
    """
    transformation = javascript(code, settings={"region": Secret("eu")})
    results = await outcome(
        runtime,
        transformation,
        {"n": 0},
        {"n": 1},
        {"n": 2},
        {"n": 3},
        {"type": "identify"},
        {"type": "page"},
    )
    assert results[0] == [{"n": 0, "region": "eu"}]
    assert results[1] is None
    assert results[2].startswith("ValidationError: no name\n    at onTrack (t:4:")
    assert results[3:] == [None, None, None]


# ── the world ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Hosts:
    """Answers requests without a network."""

    def __init__(self) -> None:
        self.requests: list[FetchRequest] = []

    async def fetch(self, request: FetchRequest, timeout_s: float) -> FetchResponse:
        assert 0 < timeout_s <= 0.5
        self.requests.append(request)
        if request.url.endswith("/down"):
            raise FetchFailed("connection refused")
        body = '{"known": true}' if request.url.endswith("/json") else "plain"
        return FetchResponse(request.url, 200, {"Content-Type": "x"}, body)


@pytest.fixture
async def world() -> Any:
    hosts = Hosts()
    runtime = SandboxRuntime(fetch=hosts.fetch, locate={"192.0.2.1": {"country": "DE"}}.get)
    yield runtime, hosts
    await runtime.close()


async def test_fetch_and_fetch_v2(world: tuple[SandboxRuntime, Hosts]) -> None:
    runtime, hosts = world
    code = """
    export async function transformEvent(event) {
      const url = `https://api.example.com/${event.path}`;
      const v2 = await fetchV2(url, { method: "post", headers: { A: 1 }, body: { b: 1 } })
        .then((r) => [r.status, r.body, r.headers], (e) => e.message);
      return { v1: await fetch(url), v2 };
    }
    """
    transformation = javascript(code, allow_hosts=("*.example.com",))
    assert await outcome(runtime, transformation, {"path": "json"}, {"path": "text"}, {"path": "down"}) == [
        [{"v1": {"known": True}, "v2": [200, {"known": True}, {"Content-Type": "x"}]}],
        [{"v1": "ERROR", "v2": [200, "plain", {"Content-Type": "x"}]}],
        [{"v1": "ERROR", "v2": "connection refused"}],
    ]
    posted = next(request for request in hosts.requests if request.method == "POST")
    assert posted.headers == {"A": "1"}
    assert posted.body == '{"b":1}'


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.com/",
        "https://api.example.com.evil.com/",
        "https://example.com/",
        "https://user:pass@api.example.com/",
        "ftp://api.example.com/",
        "file:///etc/passwd",
        "https://api.example.com@evil.com/",
        "//api.example.com/",
        "https://[bad/",
    ],
)
async def test_other_hosts_are_never_asked(url: str, world: tuple[SandboxRuntime, Hosts]) -> None:
    runtime, hosts = world
    code = """
    export const transformEvent = async (e) =>
      ({ v1: await fetch(e.url), v2: await fetchV2(e.url).catch(() => 'no') })
    """
    transformation = javascript(code, allow_hosts=("*.example.com",))
    assert await outcome(runtime, transformation, {"url": url}) == [[{"v1": "ERROR", "v2": "no"}]]
    assert hosts.requests == []


async def test_segments_fetch_answers_as_node_fetch(world: tuple[SandboxRuntime, Hosts]) -> None:
    runtime, _ = world
    code = """
    async function onTrack(event) {
      const answer = await fetch("https://api.example.com/json");
      return { ok: answer.ok, status: answer.status, kind: answer.headers.get("content-type"),
        ...(await answer.json()) };
    }
    """
    assert await outcome(runtime, javascript(code, allow_hosts=("api.example.com",)), {}) == [
        [{"ok": True, "status": 200, "kind": "x", "known": True}]
    ]


async def test_geolocation(world: tuple[SandboxRuntime, Hosts]) -> None:
    runtime, _ = world
    code = """
    export async function transformEvent(event) {
      try { return await geolocation(event.ip) } catch (error) { return { error: error.message } }
    }
    """
    events: tuple[dict[str, str], ...] = ({"ip": "192.0.2.1"}, {"ip": "192.0.2.9"}, {})
    assert await outcome(runtime, javascript(code, geolocation=True), *events) == [
        [{"country": "DE"}],
        [{"error": "the address is not in the geo database"}],
        [{"error": "ip address is required and must be a text"}],
    ]
    off = javascript(code, id="off@1")
    assert await outcome(runtime, off, events[0]) == [
        [{"error": "geolocation is not enabled for this transformation"}]
    ]


async def test_events_wait_for_the_world_together() -> None:
    """Every request is answered only once all of the batch have been made."""
    started: list[str] = []

    async def fetch(request: FetchRequest, timeout_s: float) -> FetchResponse:
        started.append(request.url)
        while len(started) < 5:
            await asyncio.sleep(0)
        return FetchResponse(request.url, 200, {}, "{}")

    runtime = SandboxRuntime(fetch=fetch)
    code = "export const transformEvent = async (e) => { await fetch('https://a.com/'); return e }"
    transformation = javascript(
        code, allow_hosts=("a.com",), limits=TransformationLimits(timeout_s=5, memory_mb=48)
    )
    try:
        events = [{"n": n} for n in range(5)]
        assert await outcome(runtime, transformation, *events) == [[event] for event in events]
    finally:
        await runtime.close()


async def test_a_host_that_never_answers_costs_its_event_only() -> None:
    async def fetch(request: FetchRequest, timeout_s: float) -> FetchResponse:
        if request.url.endswith("slow"):
            await asyncio.Event().wait()
        return FetchResponse(request.url, 200, {}, '"quick"')

    runtime = SandboxRuntime(fetch=fetch)
    code = "export const transformEvent = async (e) => ({ got: await fetch('https://a.com/' + e.at) })"
    try:
        results = await outcome(
            runtime, javascript(code, allow_hosts=("a.com",)), {"at": "x"}, {"at": "slow"}, {"at": "y"}
        )
        assert results == [[{"got": "quick"}], [{"got": "ERROR"}], [{"got": "quick"}]]
    finally:
        await runtime.close()


# ── nothing stays ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "pollution",
    [
        "Object.prototype.polluted = 1",
        "event.__proto__.polluted = 1",
        "event.constructor.prototype.polluted = 1",
        "globalThis.polluted = 1; Object.prototype.x = 1",
        "Array.prototype.map = () => 'polluted'",
        "Array.prototype[Symbol.iterator] = function* () { yield 'polluted' }",
        "delete Object.prototype.toString; Object.prototype.value = 1; Object.prototype.get = 1",
        "JSON.parse = () => ({ polluted: 1 }); JSON.stringify = () => '[]'",
        "Math.random = () => 7; Date.now = () => 7",
        "Object.setPrototypeOf(Array.prototype, { polluted: 1 })",
        "Map.prototype.get = () => 'polluted'; Promise.prototype.then = () => 'polluted'",
        "Object.defineProperty(Array.prototype, 0, { set() {}, get() { return 'polluted' }, configurable: true })",
        "Function.prototype.call = Function.prototype.apply = () => 'polluted'",
        "globalThis.log = globalThis.fetch = globalThis.Map = globalThis.JSON = undefined",
        "String.prototype.startsWith = () => { throw 1 }",
        "Error.stackTraceLimit = 0; Error.prepareStackTrace = () => 'polluted'",
        "Object.defineProperty(globalThis, 'polluted', { value: 1 })",
        "Object.freeze(Array.prototype)",
        "Object.defineProperty(Object.prototype, 'polluted', { value: 1 })",
        "kept.push(1)",
        "'secret'.match(/(secret)/)",
    ],
)
async def test_what_a_batch_pollutes_does_not_reach_the_next(pollution: str, runtime: SandboxRuntime) -> None:
    code = f"""
    const kept = [];
    export function transformEvent(event, metadata) {{
      if (event.attack) {{ {pollution}; return {{ attacked: true }}; }}
      return {{
        own: "polluted" in {{}}, global: typeof globalThis.polluted, map: [1, 2].map((x) => x + 1), spread: [...[1, 2]],
        text: ({{}}).toString(), json: JSON.parse(JSON.stringify({{ a: [1] }})), random: Math.random(), now: Date.now(),
        array: [].polluted ?? null, hole: [,].concat([])[0] ?? null, got: new Map([[1, 2]]).get(1), kept: kept.length,
        called: (function () {{ return 1 }}).call(), log: typeof log, last: RegExp.$1, meta: metadata(event).sourceId,
        frozen: Object.isFrozen(Array.prototype), stack: new Error("x").stack.split("\\n").length > 1,
        starts: "ab".startsWith("a"), then: typeof Promise.resolve(1).then((x) => x),
      }};
    }}
    """
    transformation = javascript(code)
    (before,) = await outcome(runtime, transformation, {})
    await runtime.run(transformation, given({"attack": True}))
    (after,) = await outcome(runtime, transformation, {})
    assert after == before
    assert isinstance(before, list)


async def test_code_may_extend_builtins(runtime: SandboxRuntime) -> None:
    code = """
    String.prototype.shout = function () { return this.toUpperCase() + "!" };
    Array.prototype.last ??= function () { return this[this.length - 1] };
    Math.clamp = (x) => Math.min(1, x);
    class Mine extends TypeError { constructor(text) { super(text); this.name = "Mine" } }
    export function transformEvent(event) {
      const own = {}; own.toString = 1; own.constructor = 2;
      if (event.bad) throw new Mine("x");
      return { a: "a".shout(), l: [1, 2].last(), c: Math.clamp(3), own };
    }
    """
    for _ in range(2):
        results = await outcome(runtime, javascript(code), {}, {"bad": 1})
        assert results[0] == [{"a": "A!", "l": 2, "c": 1, "own": {"toString": 1, "constructor": 2}}]
        assert results[1].startswith("Mine: x")


async def test_odd_texts_and_numbers(runtime: SandboxRuntime) -> None:
    code = r"""
    export function transformEvent(event) {
      return { ...event, lone: "\ud800", slash: "\\ud800", pair: "\ud83d\ude00", nan: NaN, zero: -0, big: 2 ** 50 };
    }
    """
    (result,) = await outcome(runtime, javascript(code), {"emoji": "😀", "nul": "\0", "__proto__": {"x": 1}})
    assert result == [
        {
            "emoji": "😀",
            "nul": "\0",
            "__proto__": {"x": 1},
            "lone": "\ufffd",
            "slash": "\\ud800",
            "pair": "😀",
            "nan": None,
            "zero": 0,
            "big": 1125899906842624,
        }
    ]


async def test_an_event_that_cannot_be_handed_over_costs_no_other_its_result(runtime: SandboxRuntime) -> None:
    results = await outcome(
        runtime,
        javascript("export const transformEvent = (event) => event"),
        {"n": 0},
        {"x": "\ud800"},
        {"n": 2},
    )
    assert results[0] == [{"n": 0}]
    assert "can't be handed over" in results[1]
    assert results[2] == [{"n": 2}]


async def test_the_given_message_is_not_changed(runtime: SandboxRuntime) -> None:
    events = given({"properties": {"a": 1}})
    run = await runtime.run(
        javascript("export const transformEvent = (e) => { e.properties.a = 2; return e }"), events
    )
    assert not isinstance(run.results[0], Failed)
    assert events[0].message["properties"] == {"a": 1}
