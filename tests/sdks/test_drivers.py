"""Each driver, with the real SDK, sends all calls that the SDK has; the recorder sees exactly those."""

from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from tests.components.node_sdks import NodeSdks
from tests.components.python_sdks import PythonSdks
from tests.sdks import browser
from tests.sdks.drivers import (
    NODE_DRIVERS,
    PYTHON_DRIVERS,
    DriverFailed,
    send_with_node,
    send_with_python,
)
from tests.sdks.plan import CALLS, Mark, Plan, Sent
from tests.sdks.recorder import Recorder, recording

USERS, ROUNDS = 2, 2


@pytest.fixture
async def recorder() -> AsyncIterator[Recorder]:
    async with recording() as started:
        yield started


@pytest.mark.parametrize("name", PYTHON_DRIVERS)
async def test_python_sdk_sends_the_six_calls_in_order(
    name: str, recorder: Recorder, python_sdks: PythonSdks
) -> None:
    plan = _plan(name, recorder)
    sent = await send_with_python(name, plan, python_sdks)
    _assert_arrived(plan, sent, recorder, CALLS)


@pytest.mark.parametrize("name", NODE_DRIVERS)
async def test_node_sdk_sends_the_six_calls_in_order(
    name: str, recorder: Recorder, node_sdks: NodeSdks
) -> None:
    plan = _plan(name, recorder)
    sent = await send_with_node(name, plan, node_sdks)
    _assert_arrived(plan, sent, recorder, CALLS)


@pytest.mark.parametrize("name", browser.ENTRIES)
async def test_browser_sdk_sends_its_calls_across_origins(
    name: str, recorder: Recorder, node_sdks: NodeSdks, chromium_path: Path, tmp_path: Path
) -> None:
    plan = _plan(name, recorder)
    sent = await browser.send(name, plan, sdks=node_sdks, chromium=chromium_path, directory=tmp_path)
    _assert_arrived(plan, sent, recorder, browser.CALLS_OF[name])
    assert recorder.preflights, "the page and the recorder are on one origin: CORS was not tried"


@pytest.mark.parametrize("name", PYTHON_DRIVERS)
async def test_python_driver_fails_when_the_sdk_gives_up(name: str, python_sdks: PythonSdks) -> None:
    async with recording(status=400) as refusing:
        with pytest.raises(DriverFailed, match="gave up"):
            await send_with_python(name, _plan(name, refusing), python_sdks)


@pytest.mark.parametrize("name", NODE_DRIVERS)
async def test_node_driver_fails_when_the_sdk_gives_up(name: str, node_sdks: NodeSdks) -> None:
    async with recording(status=400) as refusing:
        with pytest.raises(DriverFailed, match="gave up"):
            await send_with_node(name, _plan(name, refusing), node_sdks)


def _plan(name: str, recorder: Recorder) -> Plan:
    return Plan(
        endpoint=recorder.endpoint,
        write_key="recorder-write-key",
        run=f"run-{name}",
        users=USERS,
        rounds=ROUNDS,
    )


def _assert_arrived(plan: Plan, sent: list[Sent], recorder: Recorder, calls: Iterable[str]) -> None:
    assert [call.type for call in sent] == [*calls] * USERS * ROUNDS
    assert [call.seq for call in sent] == list(range(len(sent)))
    assert {call.user_id for call in sent if call.type == "identify"} == set(plan.user_ids())
    arrived = [
        (Mark.of(event), event["type"], event["messageId"], event.get("userId") or None)
        for event in recorder.events
    ]
    assert arrived == [
        (Mark(run=plan.run, seq=call.seq), call.type, call.message_id, call.user_id) for call in sent
    ]
    assert len({call.message_id for call in sent}) == len(sent)
