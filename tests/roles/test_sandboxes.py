"""What user code may ask of the world: allowed hosts, through the guard; redirects are its own business."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from mainstem.clock import SystemClock
from mainstem.destinations.base import Request
from mainstem.events.canonical import Event
from mainstem.events.geo import GeoDatabase
from mainstem.pipeline.judge import judge_by
from mainstem.pipeline.outcome import Outcome, Send
from mainstem.pipeline.plan import compile_plan
from mainstem.roles.doctor import diagnose
from mainstem.roles.sandboxes import open_transformer, tools_of
from mainstem.settings import Settings
from mainstem.testing.sink import Answer, Sink
from mainstem.workspace.model import Transformation, TransformationLimits
from tests.pipeline.mmdb import write_mmdb
from tests.pipeline.world import event, spec, workspace, write_json

_CODE = """
export async function transformEvent(event) {
  try {
    const { status, body } = await fetchV2(event.properties.url, {headers: {"Host": "inner.test", "X-Own": "1"}})
    event.answer = [status, body]
  } catch (error) {
    event.answer = String(error.message || error)
  }
  return event
}
"""


def asking(url: str) -> Event:
    return event({"properties": {"url": url}})


def answer_of(outcome: Outcome) -> Any:
    assert isinstance(outcome, Send), outcome
    (payload,) = outcome.payloads
    assert isinstance(payload, Request)
    return msgspec.json.decode(payload.body)["message"]["answer"]


async def asked(stack: AsyncExitStack, *urls: str, may_fetch: bool = True, private: bool = True) -> list[Any]:
    code = Transformation(
        id="ask@1",
        name="ask",
        version="1",
        kind="javascript",
        code=_CODE,
        allow_hosts=("127.0.0.1",),
        limits=TransformationLimits(timeout_s=20.0),
    )
    snapshot = workspace()
    (connection,) = snapshot.connections
    snapshot = msgspec.structs.replace(
        snapshot,
        transformations=(code,),
        connections=(msgspec.structs.replace(connection, transformations=("ask@1",)),),
    )
    settings = Settings(allow_private_destinations=private)
    transformer = open_transformer(settings, SystemClock(), None, stack, may_fetch=may_fetch)
    judge = judge_by(compile_plan(snapshot, snapshot.destinations[0], spec(write_json)), transformer)
    return [answer_of(outcome) for outcome in await judge([asking(url) for url in urls])]


async def test_code_reaches_the_hosts_it_may_and_no_others() -> None:
    async with Sink() as sink, AsyncExitStack() as stack:
        sink.script = lambda request: (
            Answer(status=307, headers=(("location", "http://elsewhere.test/"),))
            if request.path == "/moved"
            else Answer(status=200)
        )
        here, moved, elsewhere = await asked(
            stack, f"{sink.url}/here", f"{sink.url}/moved", "http://elsewhere.test/"
        )
        assert here[0] == 200
        assert moved[0] == 307  # not followed
        assert "elsewhere.test is not among the hosts" in elsewhere
        assert {request.path for request in sink.requests} == {"/here", "/moved"}
        for request in sink.requests:
            assert request.headers["x-own"] == "1"
            assert request.headers["host"] == f"127.0.0.1:{sink.port}"


async def test_allowed_hosts_do_not_open_private_networks() -> None:
    async with Sink() as sink, AsyncExitStack() as stack:
        (answer,) = await asked(stack, f"{sink.url}/here", private=False)
        assert "refused" in answer
        assert sink.count == 0


async def test_who_only_looks_sends_nothing() -> None:
    async with Sink() as sink, AsyncExitStack() as stack:
        (answer,) = await asked(stack, f"{sink.url}/here", may_fetch=False)
        assert isinstance(answer, str)
        assert sink.count == 0


def test_ready_made_ones_are_given_the_geo_database(tmp_path: Path) -> None:
    assert tools_of(None).locate is None
    database = GeoDatabase(
        write_mmdb(tmp_path / "geo.mmdb", {"192.0.2.0/24": {"country": {"iso_code": "DE"}}})
    )
    locate = tools_of(database).locate
    assert locate is not None
    assert (locate("192.0.2.7") or {})["country"] == "DE"
    database.close()


async def test_the_doctor_tells_which_layers_hold(tmp_path: Path) -> None:
    found = await diagnose(Settings(data_dir=str(tmp_path)), SystemClock())
    (finding,) = [item for item in found if item.what == "sandbox"]
    assert finding.level == "ok"
    assert "landlock" in finding.detail
    assert "seccomp" in finding.detail
