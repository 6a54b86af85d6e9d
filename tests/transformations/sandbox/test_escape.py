"""Hostile code: each attempt ends in a clear failure of its event, within its limits; nobody else notices.

Every attack runs in a batch with an innocent event before and after it. Those must have their results, the next batch
must work, and so must another transformation.
"""

import asyncio
import sys
from typing import Any

import pytest
from tests.transformations.sandbox.kit import javascript, outcome, python

from mainstem.transformations.sandbox.runtime import SandboxRuntime
from mainstem.workspace.model import TransformationLimits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the jail is Linux's")

_EVENT = "export function transformEvent(event) {{ if (event.attack) {{ {attack} }} event.seen = true; return event; }}"

# attack -> one of these words must be in the reason
JAVASCRIPT: dict[str, tuple[str, tuple[str, ...]]] = {
    "endless loop": ("for (;;) {}", ("took longer than 0.5 s",)),
    "endless loop in a regular expression": (
        "/^(a+)+$/.test('a'.repeat(40) + '!')",
        ("took longer than 0.5 s",),
    ),
    "endless sort": ("new Array(5e6).fill(0).sort(() => { for (;;) {} })", ("took longer", "used more")),
    "heap bomb": (
        "const kept = []; for (;;) kept.push(new Array(1000).fill(1.5))",
        ("used more than 48 MB",),
    ),
    "string bomb": (
        "let s = 'x'; for (;;) { s += s; s.charCodeAt(1) }",
        ("Invalid string length", "used more"),
    ),
    "ArrayBuffer bomb": (
        "const kept = []; for (;;) { const a = new Uint8Array(1 << 24); a.fill(1); kept.push(a) }",
        ("used more than 48 MB", "allocation failed", "Allocation failed", "out of memory"),
    ),
    "one huge ArrayBuffer": (
        "new Uint8Array(8e9).fill(1)",
        ("Invalid typed array length", "allocation failed"),
    ),
    "deep recursion": ("(function f() { f() })()", ("RangeError: Maximum call stack size exceeded",)),
    "deep recursion in JSON": (
        "let o = {}; for (let i = 0; i < 1e5; i++) o = { o }; event.o = o; return event",
        ("RangeError", "nonsense"),
    ),
    "promise flood": (
        "return (async function f() { await null; return f() })()",
        ("took longer", "used more", "out of memory"),
    ),
    "microtasks for ever": (
        "Promise.resolve().then(function again() { return Promise.resolve().then(again) }); for (;;) {}",
        ("took longer than 0.5 s",),
    ),
    "huge output": ("return { x: 'x'.repeat(4 << 20) }", ("returned more than",)),
    "many outputs": ("return new Array(5000).fill({})", ("returned more than 1,000 events",)),
    "many and huge outputs": (
        "const text = 'x'.repeat(1e5); return Array.from({ length: 1e4 }, () => ({ text }))",
        ("returned more than", "used more", "Invalid string length", "out of memory"),
    ),
    "circular": ("event.me = event; return event", ("circular",)),
    "a getter that loops in the output": ("return { get x() { for (;;) {} } }", ("took longer than 0.5 s",)),
    "toJSON that throws": ("return { toJSON() { throw new Error('no') } }", ("Error: no",)),
    "toJSON that is no event": ("return { toJSON() { return 7 } }", ("is no event",)),
    "BigInt": ("return { x: 1n }", ("BigInt",)),
    "a proxy that throws": (
        "return new Proxy({}, { ownKeys() { throw new Error('trap') } })",
        ("Error: trap",),
    ),
    "an error that throws": (
        "throw { get message() { throw 1 } }",
        ("an error that can't be shown",),
    ),
    "throwing nothing": ("throw undefined", ("undefined",)),
    "constructor walk": (
        """const f = (0, eval)('this').constructor.constructor;
           throw new Error(f('return typeof process + typeof require + typeof Deno + typeof py')())""",
        ("undefinedundefinedundefinedundefined",),
    ),
    "module of node": ("return import('fs')", ("Not supported",)),
    "WebAssembly": ("new WebAssembly.Memory({ initial: 65536 })", ("WebAssembly",)),
    "shared memory": ("new SharedArrayBuffer(8)", ("SharedArrayBuffer is not defined", "not a constructor")),
    "wait": ("Atomics.wait()", ("Atomics",)),
    "timer": ("setTimeout(() => {}, 1)", ("setTimeout is not", "is not a function")),
    "the driver's frames": (
        """Error.prepareStackTrace = (_, frames) => frames.map((f) => f.getFunction()).filter((f) => f !== undefined);
           throw new Error('seen ' + new Error().stack.length)""",
        ("Error: seen 0",),
    ),
    "callers": ("throw new Error(typeof arguments.callee.caller)", ("TypeError", "Error")),
    "never settled": ("return new Promise(() => {})", ("never settled",)),
    "a thenable that never answers": ("return { then() {} }", ("never settled",)),
    "network": ("return fetchV2('http://127.0.0.1:80/')", ("fetch is not allowed",)),
}

PYTHON_REACH = """
def reach(name):
    wrap = next(c for c in ().__class__.__base__.__subclasses__() if c.__name__ == "_wrap_close")
    return wrap.__init__.__globals__["sys"].modules[name]

def transformEvent(event, metadata):
    if event.get("attack"):
        attack()
    event["seen"] = True
    return event

def attack():
"""
PYTHON: dict[str, tuple[str, tuple[str, ...]]] = {
    "read a file": ("reach('os').open('/etc/passwd', 0)", ("PermissionError",)),
    "write a file": ("reach('os').open('/tmp/x', 65)", ("PermissionError",)),
    "list a folder": ("reach('os').listdir('/')", ("PermissionError",)),
    "fork": ("reach('os').fork()", ("PermissionError",)),
    "exec": ("reach('os').execv('/bin/true', ['true'])", ("PermissionError",)),
    "kill": ("reach('os').kill(reach('os').getppid(), 9)", ("PermissionError", "AttributeError")),
    "socket": ("reach('_socket').socket(2, 1)", ("PermissionError", "OSError", "KeyError")),
    "memory": ("x = bytearray(1 << 30)", ("MemoryError", "memory", "used more")),
    "end the process": ("reach('os')._exit(3)", ("the sandbox ended", "exit code 3")),
    "crash": ("reach('os').abort()", ("the sandbox ended", "SIG")),
    "loop where no signal is looked at": ("any(iter(int, 1))", ("took longer than 0.5 s",)),
    "loop": ("while True: pass", ("took longer than 0.5 s",)),
}


@pytest.mark.parametrize("name", JAVASCRIPT)
async def test_javascript(name: str, runtime: SandboxRuntime) -> None:
    attack, words = JAVASCRIPT[name]
    transformation = javascript(_EVENT.format(attack=attack))
    await _attack(runtime, transformation, words)


@pytest.mark.parametrize("name", PYTHON)
async def test_python(name: str, runtime: SandboxRuntime) -> None:
    attack, words = PYTHON[name]
    await _attack(runtime, python(PYTHON_REACH + f"    {attack}\n"), words)


async def _attack(runtime: SandboxRuntime, transformation: Any, words: tuple[str, ...]) -> None:
    innocent = javascript("export const transformEvent = (event) => event", id="other@1")
    results, beside = await asyncio.gather(
        outcome(runtime, transformation, {"n": 0}, {"n": 1, "attack": True}, {"n": 2}),
        outcome(runtime, innocent, {"n": 0}),
    )
    assert results[0] == [{"n": 0, "seen": True}]
    assert results[2] == [{"n": 2, "seen": True}]
    assert isinstance(results[1], str), results[1]
    assert any(word in results[1] for word in words), results[1]
    assert len(results[1]) <= 500
    assert await outcome(runtime, transformation, {"n": 3}) == [[{"n": 3, "seen": True}]]
    assert beside == [[{"n": 0}]]
    assert await outcome(runtime, innocent, {"n": 1}) == [[{"n": 1}]]


async def test_several_guilty_events_cost_no_other_its_result(runtime: SandboxRuntime) -> None:
    transformation = javascript(
        _EVENT.format(
            attack="if (event.attack === 1) for (;;) {} else { const a = []; for (;;) a.push(new Array(999).fill(.5)) }"
        ),
        limits=TransformationLimits(timeout_s=0.2, memory_mb=32),
    )
    attacks = {3: 1, 7: 2, 12: 1}
    events = [{"n": n, **({"attack": attacks[n]} if n in attacks else {})} for n in range(16)]
    results = await outcome(runtime, transformation, *events)
    for n, result in enumerate(results):
        match attacks.get(n):
            case 1:
                assert result == "took longer than 0.2 s"
            case 2:
                assert result == "used more than 32 MB"
            case _:
                assert result == [{"n": n, "seen": True}]


async def test_the_guilty_of_a_whole_batch_is_found_by_halving(runtime: SandboxRuntime) -> None:
    code = (
        "export const transformBatch = (events) => events.map((e) => { if (e.attack) for (;;) {} return e })"
    )
    transformation = javascript(code, limits=TransformationLimits(timeout_s=0.2, memory_mb=32))
    results = await outcome(
        runtime, transformation, *[{"n": n, **({"attack": 1} if n == 2 else {})} for n in range(4)]
    )
    assert results == [[{"n": 0}], [{"n": 1}], "took longer than 0.2 s", [{"n": 3}]]


async def test_a_batch_that_is_slow_as_a_whole_is_run_in_parts(runtime: SandboxRuntime) -> None:
    code = """
        const now = Date.now;
        export function transformEvent(event) {
          let sum = 0;
          const end = now() + 60;
          while (now() < end) sum++;
          return event;
        }
    """
    transformation = javascript(code, seeded=False, limits=TransformationLimits(timeout_s=0.3, memory_mb=32))
    events = [{"n": n} for n in range(10)]
    assert await outcome(runtime, transformation, *events) == [[event] for event in events]


async def test_giving_up_is_bounded_and_says_so(runtime: SandboxRuntime) -> None:
    code = "export const transformBatch = () => { for (;;) {} }"
    transformation = javascript(code, limits=TransformationLimits(timeout_s=0.05, memory_mb=32))
    results = await outcome(runtime, transformation, *[{"n": n} for n in range(32)])
    assert all(isinstance(result, str) and "took longer than 0.05 s" in result for result in results)
    assert any("together with" in result for result in results)


@pytest.mark.parametrize("place", ["top", "load"])
async def test_code_that_loops_outside_of_functions(place: str, runtime: SandboxRuntime) -> None:
    loop = (
        "for (;;) {}" if place == "top" else "const kept = []; for (;;) kept.push(new Array(1000).fill(1.5));"
    )
    code = f"{loop}\nexport const transformEvent = (event) => event"
    (result,) = await outcome(runtime, javascript(code), {"n": 0})
    assert "longer than" in result or "memory" in result
