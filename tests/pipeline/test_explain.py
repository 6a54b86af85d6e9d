"""Explanations: one line per destination, the same to the byte, fit for `diff`."""

from typing import Any

import msgspec

from mainstem.destinations.base import MapContext, Mapped, Refusal, Request
from mainstem.events.canonical import Event
from mainstem.pipeline.explain import explain, explain_one
from mainstem.pipeline.plan import compile_plan
from mainstem.secret import Secret
from mainstem.workspace.model import Connection, Destination
from tests.pipeline.sandboxes import NOTHING
from tests.pipeline.world import DESTINATION, event, plan, spec, workspace


async def line(sent: Event, **world: Any) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(
        msgspec.json.encode(await explain_one(sent, plan(**world), NOTHING))
    )
    return decoded


HEAD = {
    "messageId": "m-1",
    "sourceId": "shop",
    "type": "track",
    "event": "Order Completed",
    "destinationId": "d1",
    "destinationName": "crm",
    "destinationType": "WEBHOOK",
    "enabled": True,
}


async def test_sent() -> None:
    got = await line(event())
    requests = got.pop("requests")
    assert got == {**HEAD, "outcome": "send", "reason": "", "detail": ""}
    assert [request["method"] for request in requests] == ["POST"]
    assert requests[0]["body"]["message"]["userId"] == "user-1"


async def test_filtered() -> None:
    got = await line(event({"integrations": {"All": False}}))
    assert got == {
        **HEAD,
        "outcome": "filtered",
        "reason": "integrations",
        "detail": "All is false",
        "requests": [],
    }


async def test_rejected() -> None:
    got = await line(event(kind="rejected", reason="type: unknown"))
    assert (got["outcome"], got["reason"], got["requests"]) == ("rejected", "type: unknown", [])


async def test_dead() -> None:
    got = await line(event(), mapping=lambda _event, _context: Refusal("no e-mail address"))
    assert (got["outcome"], got["reason"], got["requests"]) == ("dead", "no e-mail address", [])


async def test_files_have_no_requests() -> None:
    got = await line(event(), mapping=None)
    assert (got["outcome"], got["requests"]) == ("send", [])


async def test_a_disabled_destination_shows_what_it_will_get() -> None:
    paused = msgspec.structs.replace(DESTINATION, enabled=False)
    got = await line(event(), snapshot=workspace(destination=paused))
    assert (got["enabled"], got["outcome"], len(got["requests"])) == (False, "send", 1)


async def test_secrets_of_the_settings_do_not_show() -> None:
    def mapping(_event: Event, _context: MapContext) -> Mapped:
        return (Request("POST", "https://example.com/T0P-S", (("X-Key", "T0P-S"),), b'{"k": "T0P-S"}'),)

    secretive = msgspec.structs.replace(DESTINATION, raw_config={"key": Secret("T0P-S")})
    encoded = msgspec.json.encode(
        await explain_one(event(), plan(workspace(destination=secretive), mapping), NOTHING)
    )
    assert b"T0P-S" not in encoded
    assert encoded.count(b"***") == 3


async def test_every_destination_in_order_and_the_same_bytes_every_time() -> None:
    destinations = tuple(Destination(id=f"d{n}", name=f"n{n}", type="WEBHOOK") for n in range(3))
    snapshot = msgspec.structs.replace(
        workspace(),
        destinations=destinations,
        connections=tuple(Connection(source_id="shop", destination_id=f"d{n}") for n in (0, 2)),
    )

    async def lines() -> list[bytes]:
        plans = [compile_plan(snapshot, destination, spec()) for destination in destinations]
        sent = event({"properties": {"b": 1, "a": 2}})
        return [msgspec.json.encode(one) async for one in explain(sent, plans, NOTHING)]

    first = await lines()
    assert await lines() == first
    shown = [msgspec.json.decode(one) for one in first]
    assert [(one["destinationId"], one["outcome"], one["reason"]) for one in shown] == [
        ("d0", "send", ""),
        ("d1", "filtered", "not connected"),
        ("d2", "send", ""),
    ]
