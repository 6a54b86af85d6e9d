"""`mainstem destination verify`: a canary against a vendor that takes it, refuses it, warns or is not there."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mainstem.clock import FixedClock
from mainstem.destinations.base import ACCESS_TOKEN, Call, MapContext, Mapped, Mapper
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.events.canonical import Event
from mainstem.roles import verify as verifying
from mainstem.roles.verify import Step, verify
from mainstem.secret import Secret
from mainstem.settings import Settings
from mainstem.testing.sink import Answer, Sink
from mainstem.workspace.model import Destination, Workspace
from tests.delivery import vendor as v

RAW = {
    "oauth": {"clientId": "c", "clientSecret": Secret("top-secret"), "refreshToken": Secret("r1")},
}


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    async with Sink() as opened:
        yield opened


class Scene:
    """A workspace with one destination at the vendor."""

    def __init__(self, sink: Sink, monkeypatch: pytest.MonkeyPatch, data_dir: Path, **fields: Any) -> None:
        self.vendor = v.Vendor()
        sink.script = self.vendor.script
        self.sink = sink
        spec = v.spec(sink.url, mapper=lambda _: self._mapper(sink.url), batcher=None, **fields)
        monkeypatch.setattr(verifying, "find_spec", lambda name: spec if name == "VENDOR" else None)
        self.settings = Settings(allow_private_destinations=True, data_dir=str(data_dir))
        self.workspace = Workspace(
            id="w",
            version="1",
            destinations=(
                Destination(id="shop", name="Shop", type="VENDOR", config=msgspec.Struct(), raw_config=RAW),
                Destination(id="odd", name="Odd", type="NONE"),
            ),
        )

    def _mapper(self, url: str) -> Mapper:
        def to_calls(event: Event, context: MapContext) -> Mapped:
            if not event.user_id:
                refuse("`userId` is missing")
            return (
                json_call(
                    f"{url}/single",
                    {"id": event.user_id},
                    headers={"Authorization": f"Bearer {ACCESS_TOKEN}"},
                    secrets=("top-secret",),
                ),
            )

        return settled(to_calls)

    async def steps(self, destination: str = "shop", **fields: Any) -> list[Step]:
        clock = FixedClock(1_700_000_000_000)
        return [step async for step in verify(self.settings, self.workspace, destination, clock, **fields)]


def told(steps: list[Step]) -> list[tuple[str, str]]:
    return [(step.level, step.what) for step in steps]


async def test_each_step_is_told(sink: Sink, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scene = Scene(sink, monkeypatch, tmp_path)
    steps = await scene.steps()
    assert told(steps) == [
        ("ok", "settings"),
        ("ok", "access token"),
        ("ok", "event"),
        ("ok", "request"),
        ("ok", "send"),
    ]
    assert steps[-1].detail.startswith("accepted")
    assert scene.vendor.taken == ["mainstem-canary"]
    shown = " ".join(step.detail for step in steps)
    assert "token-1" not in shown
    assert "top-secret" not in shown


@pytest.mark.parametrize(
    ("verdict", "level", "words"),
    [
        ("warn", "warning", "`age` was ignored"),
        ("bad", "error", "refused: bad event"),
        ("later", "error", "not now"),
    ],
)
async def test_what_the_vendor_says_of_it(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verdict: str, level: str, words: str
) -> None:
    scene = Scene(sink, monkeypatch, tmp_path)
    scene.vendor.verdicts = {"mainstem-canary": [verdict]}
    last = (await scene.steps())[-1]
    assert (last.level, last.what) == (level, "send")
    assert words in last.detail


async def test_the_vendors_validation_is_asked_first(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def validation(config: Any, call: Call) -> Call:
        return msgspec.structs.replace(call, url=call.url.replace("/single", "/debug"))

    scene = Scene(sink, monkeypatch, tmp_path, validation=validation)
    complaint = {"validationMessages": [{"fieldPath": "events", "description": "no such event"}]}
    scene.vendor.next = [Answer(200, body=msgspec.json.encode(complaint))]
    steps = await scene.steps(send=False)
    assert told(steps)[-2:] == [("warning", "vendor's validation"), ("skipped", "send")]
    assert "no such event" in steps[-2].detail
    assert [request.path for request in sink.requests] == ["/token", "/debug"]
    assert scene.vendor.taken == []


async def test_it_ends_where_it_fails(sink: Sink, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scene = Scene(sink, monkeypatch, tmp_path)
    assert told(await scene.steps("odd")) == [("error", "settings")]
    mapped = await scene.steps(message={"type": "track", "event": "x"})
    assert told(mapped)[-1] == ("error", "event")
    assert "`userId` is missing" in mapped[-1].detail
    scene.vendor.grant_error = "invalid_grant"
    refused = await scene.steps()
    assert told(refused) == [("ok", "settings"), ("error", "access token")]
    assert "invalid_grant" in refused[-1].detail
    await sink.stop()
    gone = await scene.steps()
    assert told(gone) == [("ok", "settings"), ("error", "access token")]
    assert "ConnectFailed" in gone[-1].detail
