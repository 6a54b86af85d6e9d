"""The pools: warm starts, bounds, what happens when processes end, and who is told what."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable

import pytest
import structlog
from tests.transformations.sandbox.kit import given, javascript, outcome, python

from mainstem.transformations.base import SandboxUnavailable
from mainstem.transformations.sandbox.runtime import (
    FetchRequest,
    FetchResponse,
    SandboxLimits,
    SandboxRuntime,
    refused_url,
)
from mainstem.workspace.model import Transformation, TransformationLimits

ECHO = "export const transformEvent = (event) => event"
LIMITS = TransformationLimits(timeout_s=10, memory_mb=32)


def echo(version: str) -> Transformation:
    return javascript(ECHO, id=f"echo@{version}", version=version, limits=LIMITS)


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., SandboxRuntime]]:
    made: list[SandboxRuntime] = []

    def make(**limits: float) -> SandboxRuntime:
        made.append(SandboxRuntime(limits=SandboxLimits(**limits)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for runtime in made:
        await runtime.close()


async def test_nothing_is_started_for_an_empty_batch(runtime: SandboxRuntime) -> None:
    assert (await runtime.run(echo("1"), [])).results == ()
    assert runtime.processes() == ()


async def test_a_prepared_version_has_its_process_and_keeps_it(runtime: SandboxRuntime) -> None:
    await runtime.prepare(echo("1"))
    (process,) = runtime.processes()
    assert process.memory_bytes() > 1 << 20
    assert process.cpu_s() > 0
    for _ in range(3):
        assert await outcome(runtime, echo("1"), {"n": 1}) == [[{"n": 1}]]
    assert runtime.processes() == (process,)
    assert process.batches == 3


async def test_preparing_code_that_cannot_be_used_is_no_error(runtime: SandboxRuntime) -> None:
    await runtime.prepare(javascript("const x = 1"))
    assert runtime.processes() == ()


async def test_both_languages_at_once(runtime: SandboxRuntime) -> None:
    code = "def transformEvent(event, metadata):\n    event['py'] = True\n    return event\n"
    js, py = await asyncio.gather(
        outcome(runtime, echo("1"), {"n": 1}), outcome(runtime, python(code, id="p@1"), {"n": 1})
    )
    assert js == [[{"n": 1}]]
    assert py == [[{"n": 1, "py": True}]]


async def test_a_version_has_so_many_processes_and_the_rest_waits(
    make: Callable[..., SandboxRuntime],
) -> None:
    runtime = make(processes_per_version=2)
    most = 0

    async def one(n: int) -> None:
        nonlocal most
        assert await outcome(runtime, echo("1"), {"n": n}) == [[{"n": n}]]
        most = max(most, len(runtime.processes()))

    await asyncio.gather(*(one(n) for n in range(20)))
    assert most == 2


async def test_versions_take_turns_when_there_are_more_than_processes(
    make: Callable[..., SandboxRuntime],
) -> None:
    runtime = make(processes=2, processes_per_version=1)

    async def one(n: int) -> None:
        assert await outcome(runtime, echo(str(n % 4)), {"n": n}) == [[{"n": n}]]
        assert len(runtime.processes()) <= 2

    await asyncio.wait_for(asyncio.gather(*(one(n) for n in range(12))), 60)


async def test_that_versions_take_turns_is_said_once(make: Callable[..., SandboxRuntime]) -> None:
    runtime = make(processes=2, processes_per_version=1)
    with structlog.testing.capture_logs() as logs:
        for version in ("1", "2", "3", "3", "2"):  # 3 makes 1 end, which nobody asks for again
            assert await outcome(runtime, echo(version), {"n": 1}) == [[{"n": 1}]]
        assert logs == []
        for version in ("1", "2", "3", "1"):
            assert await outcome(runtime, echo(version), {"n": 1}) == [[{"n": 1}]]
    (said,) = logs
    assert said["log_level"] == "warning"
    assert "take turns" in said["event"]
    assert (said["most"], said["setting"]) == (2, "sandbox_max_processes")


async def test_a_process_that_idles_ends(make: Callable[..., SandboxRuntime]) -> None:
    runtime = make(idle_s=0.05)
    assert await outcome(runtime, echo("1"), {"n": 1}) == [[{"n": 1}]]
    async with asyncio.timeout(20):
        while runtime.processes():
            await asyncio.sleep(0.01)
    assert await outcome(runtime, echo("1"), {"n": 2}) == [[{"n": 2}]]


async def test_a_process_that_was_killed_while_it_idled_is_replaced(runtime: SandboxRuntime) -> None:
    await runtime.prepare(echo("1"))
    (process,) = runtime.processes()
    os.kill(process.pid, signal.SIGKILL)
    async with asyncio.timeout(20):
        while process.is_alive():
            await asyncio.sleep(0.01)
    assert await outcome(runtime, echo("1"), {"n": 1}) == [[{"n": 1}]]
    assert process not in runtime.processes()


async def test_a_process_that_is_killed_in_the_middle_costs_no_event_its_result() -> None:
    waits = asyncio.Event()

    async def fetch(request: FetchRequest, timeout_s: float) -> FetchResponse:
        if not waits.is_set():
            waits.set()
            await asyncio.Event().wait()
        return FetchResponse(request.url, 200, {}, "7")

    runtime = SandboxRuntime(fetch=fetch)
    code = "export const transformEvent = async (e) => ({ ...e, got: await fetch('https://a.com/') })"
    transformation = javascript(code, allow_hosts=("a.com",), limits=LIMITS)
    running = asyncio.create_task(outcome(runtime, transformation, {"n": 0}, {"n": 1}))
    await asyncio.wait_for(waits.wait(), 20)
    (process,) = runtime.processes()
    os.kill(process.pid, signal.SIGKILL)
    assert await running == [[{"n": 0, "got": 7}], [{"n": 1, "got": 7}]]
    await runtime.close()


async def test_a_cancelled_batch_leaves_no_process_in_the_middle_of_it(runtime: SandboxRuntime) -> None:
    loop = javascript(
        "export const transformEvent = (e) => { if (e.loop) for (;;) {} return e }", limits=LIMITS
    )
    await runtime.prepare(loop)
    running = asyncio.create_task(outcome(runtime, loop, {"loop": True}))
    (process,) = runtime.processes()
    async with asyncio.timeout(20):
        while not process.batches:
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not process.is_alive()
    assert await outcome(runtime, loop, {"n": 1}) == [[{"n": 1}]]


async def test_closing_ends_all_and_tells_who_waits() -> None:
    runtime = SandboxRuntime()
    loop = javascript("export const transformEvent = () => { for (;;) {} }", limits=LIMITS)
    await runtime.prepare(loop)
    (process,) = runtime.processes()
    running = asyncio.create_task(outcome(runtime, loop, {}))
    async with asyncio.timeout(20):
        while not process.batches:
            await asyncio.sleep(0.01)
    await runtime.close()
    with pytest.raises(SandboxUnavailable, match="stopping"):
        await running
    assert not process.is_alive()
    with pytest.raises(SandboxUnavailable, match="stopping"):
        await runtime.run(loop, given({}))


async def test_a_draft_that_changes_under_its_id_is_loaded_anew(runtime: SandboxRuntime) -> None:
    for n in range(3):
        code = f"export const transformEvent = () => ({{ n: {n} }})"
        assert await outcome(runtime, javascript(code, id="draft"), {}) == [[{"n": n}]]
        assert await outcome(runtime, javascript(code, id="draft"), {}) == [[{"n": n}]]


async def test_no_two_versions_share_a_process(runtime: SandboxRuntime) -> None:
    code = "globalThis.count = (globalThis.count ?? 0) + 1; export const transformEvent = () => ({ count })"
    for version in ("1", "2"):
        assert await outcome(runtime, javascript(code, id=f"c@{version}"), {}) == [[{"count": 1}]]


async def test_the_environment_has_nothing_of_ours(
    runtime: SandboxRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_OURS", "s3cret")
    code = """
def transformEvent(event, metadata):
    wrap = next(c for c in ().__class__.__base__.__subclasses__() if c.__name__ == "_wrap_close")
    # Python sets LC_CTYPE itself where there is no locale.
    return {"names": sorted({*wrap.__init__.__globals__["environ"]} - {"LC_CTYPE"})}
"""
    assert await outcome(runtime, python(code), {}) == [[{"names": ["PYTHONHASHSEED", "PYTHONPATH", "TZ"]}]]


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://api.example.com/x", True),
        ("http://API.EXAMPLE.COM:8080", True),
        ("https://a.b.example.org", True),
        ("https://example.org", False),
        ("https://badexample.org", False),
        ("https://api.example.com.", False),
        ("https://127.0.0.1", False),
        ("", False),
    ],
)
def test_hosts_that_may_be_reached(url: str, allowed: bool) -> None:
    assert (refused_url(url, ("api.example.com", "*.example.org")) == "") is allowed
