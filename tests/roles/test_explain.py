"""“Where did my event go?”: an answer for every state an event can be in."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from mainstem.ledger.base import Remark, Settlement
from mainstem.pipeline.decode import Decoder
from mainstem.roles.explain import explain_message
from mainstem.testing.sink import Sink
from tests.roles.rig import rig, track, until, webhook, workspace

_DEAD_END = "http://127.0.0.1:9"
_QUICK = {"backoff_base_s": 0.01, "backoff_max_s": 0.02}


async def test_a_delivered_event_shows_where_it_lies_and_what_was_sent(tmp_path: Path) -> None:
    async with Sink() as sink, rig(workspace(webhook(sink.url)), tmp_path) as running:
        await running.worker()
        await running.send([track("ann", 1)])
        await running.settled(received=1)
        sighting = await running.explain("ann-1")
        assert (sighting.source_id, sighting.type, sighting.event, sighting.user_id) == (
            "web",
            "track",
            "Step",
            "ann",
        )
        assert (sighting.received_at, sighting.request_ip) == ("2026-11-23T06:40:00.000Z", "10.0.0.9")
        assert (sighting.offset, sighting.rejected, sighting.message_id_made) == (0, "", False)
        (found,) = sighting.destinations
        assert found.state == "delivered"
        (request,) = found.requests
        assert request["method"] == "POST"
        assert request["url"] == f"{sink.url}/in"
        assert found.acceptance == "unverifiable", "a webhook's 200 says no more than that it arrived"


async def test_what_a_destination_remarked_on_an_event_is_told(tmp_path: Path) -> None:
    async with Sink() as sink, rig(workspace(webhook(sink.url)), tmp_path) as running:
        await running.worker()
        await running.send([track("ann", 1)])
        await running.settled(received=1)
        destination = (await running.explain("ann-1")).destinations[0].destination_id
        remark = Remark(
            cursor=destination, source_id="web", message_id="ann-1", at_ms=1, text="`age` was ignored"
        )
        (at,) = [at for at in (await running.ledger.positions(destination)).items() if at[1].next_offset]
        step = Settlement(
            cursor=destination,
            partition=at[0],
            from_offset=at[1].next_offset,
            next_offset=at[1].next_offset,
            remarks=[remark],
        )
        await running.ledger.settle([step])
        (found,) = (await running.explain("ann-1")).destinations
        assert (found.state, found.acceptance, found.answer) == (
            "delivered",
            "accepted with warning",
            "`age` was ignored",
        )


@pytest.mark.parametrize(
    ("event", "rules", "reason"),
    [
        ({"event": "Secret"}, {"filters": [{"name": "quiet", "deny": ["Secret"]}]}, "filter:quiet"),
        ({}, {"filters": [{"name": "big", "where": "event.properties.n > 5"}]}, "filter:big"),
        ({}, {"filters": [{"name": "few", "sample_percent": 0}]}, "filter:few"),
        ({"integrations": {"All": False}}, {}, "integrations"),
        ({}, {"suppressed_user_ids": ["ann"]}, "suppressed"),
        ({}, {"connected": []}, "not connected"),
    ],
)
async def test_a_filtered_event_names_its_rule(
    event: dict[str, Any], rules: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    async with Sink() as sink, rig(workspace(webhook(sink.url), **rules), tmp_path) as running:
        await running.send([track("ann", 1, **event)])
        before = await running.where("ann-1")
        assert (before.state, before.reason) == ("filtered", reason)
        assert "not reached yet" in before.detail
        await running.worker()
        await running.settled(received=1)
        found = await running.where("ann-1")
        assert (found.state, found.reason) == ("filtered", reason)
        assert "not reached yet" not in found.detail
        assert sink.count == 0


async def test_a_rejected_event_says_what_was_wrong_with_it(tmp_path: Path) -> None:
    async with rig(workspace(webhook(_DEAD_END)), tmp_path) as running:
        await running.send([{"type": "track", "messageId": "m1", "event": "X"}])
        await running.worker()
        await running.settled(received=1)
        sighting = await running.explain("m1")
        assert sighting.rejected.startswith("missing_ids: request neither has anonymousId nor userId")
        (found,) = sighting.destinations
        assert found.state == "rejected"


async def test_a_dead_event_shows_the_last_answer(tmp_path: Path) -> None:
    async with Sink() as sink, rig(workspace(webhook(sink.url)), tmp_path) as running:
        sink.script = lambda request: 400
        await running.worker()
        await running.send([track("ann", 1)])
        await running.settled(received=1)
        found = await running.where("ann-1")
        assert (found.state, found.reason, found.attempts) == ("dead", "http 400", 1)
        assert found.since
        assert found.requests


async def test_a_parked_event_says_since_when_and_when_next(tmp_path: Path) -> None:
    async with Sink() as sink:
        sink.script = lambda request: 500 if request.json()["userId"] == "ill" else 200
        delivery = {**_QUICK, "park_after_attempts": 2, "breaker_failures": 1000}
        async with rig(workspace(webhook(sink.url, delivery=delivery)), tmp_path) as running:
            await running.worker()
            await running.send([track("ill", 1), track("ill", 2), track("well", 1)])

            async def parked() -> bool:
                # Others succeed meanwhile: so it is this user, not the destination.
                await running.send([track("well", sink.count)])
                return (await running.where("ill-2")).state == "parked"

            await until("both are parked", parked)
            found = await running.where("ill-1")
            assert found.state == "parked"
            assert found.attempts >= 2
            assert found.since
            assert found.next_attempt


async def test_a_pending_event_says_what_it_waits_for(tmp_path: Path) -> None:
    async with Sink() as sink:
        sink.script = lambda request: 503
        delivery = {**_QUICK, "breaker_failures": 2, "breaker_open_s": 60}
        async with rig(workspace(webhook(sink.url, delivery=delivery)), tmp_path) as running:
            await running.send([track("ann", 1), track("ann", 2)])
            found = await running.where("ann-1")
            assert (found.state, found.reason) == ("pending", "no worker has taken up this destination yet")
            await running.worker()

            async def behind_the_breaker() -> bool:
                return "is not taking events" in (await running.where("ann-1")).reason

            await until("the breaker opens", behind_the_breaker)
            found = await running.where("ann-1")
            assert found.state == "pending"
            assert found.reason.startswith("next in its partition; ")
            assert "503" in found.reason
            assert (await running.where("ann-2")).reason.startswith("behind 1 events of its partition; ")


async def test_an_event_from_before_the_destination_began(tmp_path: Path) -> None:
    async with Sink() as sink, rig(workspace(webhook(sink.url, start="latest")), tmp_path) as running:
        await running.send([track("ann", 1)])
        await running.worker()
        await running.send([track("ann", 2)])
        await running.settled(received=1)
        found = await running.where("ann-1")
        assert found.state == "before start"
        assert "replay sends older events" in found.reason
        assert [request.json()["messageId"] for request in sink.requests] == ["ann-2"]


async def test_a_disabled_destination_keeps_its_place(tmp_path: Path) -> None:
    async with rig(workspace(webhook(_DEAD_END, enabled=False)), tmp_path) as running:
        await running.worker()
        await running.send([track("ann", 1)])
        found = await running.where("ann-1")
        assert (found.state, found.enabled) == ("pending", False)
        assert found.reason == "the destination is disabled and keeps its place"


async def test_an_unknown_id_is_nowhere(tmp_path: Path) -> None:
    known = workspace(webhook(_DEAD_END))
    async with rig(known, tmp_path) as running:
        decoder = Decoder(known.sources)
        found = await explain_message(
            "never", "", known, running.stream, running.ledger, decoder, running.transformer
        )
        assert not found


async def test_an_id_that_the_gateway_made_can_be_looked_up(tmp_path: Path) -> None:
    async with Sink() as sink, rig(workspace(webhook(sink.url)), tmp_path) as running:
        await running.worker()
        event = track("ann", 1)
        del event["messageId"]
        await running.send([event])
        await running.settled(received=1)
        made = msgspec.json.decode(sink.requests[0].body)["messageId"]
        sighting = await running.explain(made)
        assert sighting.message_id_made
        assert sighting.destinations[0].state == "delivered"
