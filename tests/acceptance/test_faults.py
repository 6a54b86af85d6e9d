"""Destinations that fail: nothing is lost, each user keeps the order, the books balance, others are unharmed."""

import itertools
import os
import signal
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from mainstem.testing.sink import Answer, Behaviour, Cut, Never, Received, Sink, always
from tests.acceptance.evidence import (
    accepted,
    assert_exactly_once,
    assert_in_order,
    ids,
    number_of,
    user_of,
)
from tests.acceptance.serving import WRITE_KEY, Serving, serving, track, until

DELIVERY = "timeout_s: 0.4, backoff_base_s: 0.05, backoff_max_s: 0.4, breaker_open_s: 0.2"
"""Quick to try again, so that a scenario of an hour takes seconds."""

USERS, EVENTS = 12, 8


def _workspace(*destinations: str) -> str:
    names = ", ".join(line.split("id: ", 1)[1].split(",", 1)[0] for line in destinations)
    listed = "\n".join(f"  - {{{line}}}" for line in destinations)
    return f"""
workspace: {{id: t, name: T}}
sources:
  - {{id: web, name: Web, write_key: {WRITE_KEY}, type: http}}
destinations:
{listed}
connections:
  - {{from: web, to: [{names}]}}
"""


def _hook(name: str, sink: Sink, delivery: str = DELIVERY, more: str = "") -> str:
    return (
        f"id: {name}, name: {name}, type: webhook, start: earliest, {more}"
        f'config: {{webhookUrl: "{sink.url}/in"}}, delivery: {{{delivery}}}'
    )


def _events(users: int = USERS, events: int = EVENTS, first: int = 0) -> list[dict[str, object]]:
    return [track(f"user-{user}", number) for number in range(first, first + events) for user in range(users)]


def _expected(events: Iterable[dict[str, object]]) -> set[str]:
    return {str(event["messageId"]) for event in events}


def _judge(sink: Sink, events: Iterable[dict[str, object]], where: str) -> None:
    """Every event was accepted once, each user's in order."""
    taken = accepted(sink.requests)
    assert_exactly_once(_expected(events), ids(taken), where)
    assert_in_order(taken, user=user_of, number=number_of, where=where)


async def _shows_an_error(product: Serving, name: str, pattern: str) -> None:
    async def shown() -> bool:
        found = (await product.ask("/v1/destinations")).get(name, {})
        return any(pattern in str(status.get("last_error", "")) for status in found.values())

    await until(f"{name} shows {pattern!r}", shown)


SICK: dict[str, tuple[Behaviour | int, str]] = {
    "errors": (500, "http 500"),
    "silence": (Never(), "TimedOut"),
    "cuts": (Cut(), "Cut"),
    "throttles": (Answer(429, (("Retry-After", "1"),)), "http 429"),
    "unpaid": (402, "http 402"),
}
"""What a destination does to every request while it is sick, and what we say of it then."""


async def test_destinations_that_fail_for_a_while(tmp_path: Path) -> None:
    """While they fail they keep their place; a healthy one beside all of them misses nothing; then they recover."""
    async with AsyncExitStack() as stack:
        healthy = await stack.enter_async_context(Sink())
        sick = {name: await stack.enter_async_context(Sink()) for name in SICK}
        for name, (behaviour, _) in SICK.items():
            sick[name].script = always(behaviour)
        hooks = [_hook(name, sink) for name, sink in {**sick, "healthy": healthy}.items()]
        product = await stack.enter_async_context(serving(tmp_path, _workspace(*hooks)))
        events: list[dict[str, object]] = []
        # More events come while they are sick already: once before anybody failed, once after.
        for first in (0, EVENTS):
            more = _events(first=first)
            events += more
            await product.send(more)
            books = await product.settled("healthy")
            _judge(healthy, events, "healthy")
            assert books["healthy"]["delivered"] == len(events)
            for name, (_, reason) in SICK.items():
                await _shows_an_error(product, name, reason)
                assert not accepted(sick[name].requests)
                assert (books[name]["pending"], books[name]["dead"]) == (len(events), 0), name
        lags = (await product.ask("/health"))["details"]["lag"]
        assert lags == {**dict.fromkeys(SICK, len(events)), "healthy": 0}

        for sink in sick.values():
            sink.script = None
        books = await product.settled()
        for name, sink in sick.items():
            _judge(sink, events, name)
            assert books[name]["delivered"] == books[name]["received"] == len(events), name
        assert (await product.cli("books")).returncode == 0


async def test_failures_at_random_moments_keep_the_order(tmp_path: Path) -> None:
    """A destination that fails every third request in every way there is, and never the same for a user."""
    failures: list[Behaviour | int] = [500, Cut(), 200, 200, Answer(429), 200, Never(), 200, 503, 200, 200]
    turn = itertools.cycle(failures)
    async with Sink() as sink:
        sink.script = lambda request: next(turn)
        async with serving(tmp_path, _workspace(_hook("hook", sink))) as product:
            events = _events()
            await product.send(events)
            books = await product.settled("hook", timeout_s=60.0)
            assert books["hook"]["delivered"] == len(events)
        _judge(sink, events, "hook")


async def test_an_event_that_is_refused_is_a_dead_letter_until_it_is_redriven(tmp_path: Path) -> None:
    async with Sink() as sink:
        sink.script = lambda request: 400 if _user(request) == "user-3" else 200
        async with serving(tmp_path, _workspace(_hook("hook", sink))) as product:
            events = _events()
            await product.send(events)
            books = await product.settled("hook")
            assert books["hook"]["dead"] == EVENTS
            assert books["hook"]["delivered"] == len(events) - EVENTS
            (sighting,) = await product.explain("user-3-0")
            (found,) = sighting["destinations"]
            assert (found["state"], found["reason"]) == ("dead", "http 400")

            listed = await product.cli("redrive", "--list", "--json", "--destination", "hook")
            letters = [msgspec.json.decode(line) for line in listed.stdout.splitlines()]
            assert [letter["message_id"] for letter in letters] == [f"user-3-{n}" for n in range(EVENTS)]
            assert {letter["reason"] for letter in letters} == {"http 400"}

            sink.script = None
            redriven = await product.cli("redrive", "--destination", "hook", "--yes")
            assert redriven.returncode == 0, redriven.stderr
            books = await product.settled("hook")
            assert (books["hook"]["dead"], books["hook"]["delivered"]) == (0, len(events))
            (sighting,) = await product.explain("user-3-0")
            assert sighting["destinations"][0]["state"] == "delivered"
        _judge(sink, events, "hook")


async def test_a_users_stubborn_failure_is_parked_and_recovers_in_order(tmp_path: Path) -> None:
    sick = {"user-3"}
    async with Sink() as sink:
        sink.script = lambda request: 500 if _user(request) in sick else 200
        policy = f"{DELIVERY}, park_after_attempts: 2, breaker_failures: 1000"
        async with serving(tmp_path, _workspace(_hook("hook", sink, policy))) as product:
            first = _events()
            await product.send(first)

            # Nothing but success tells a user's trouble from the destination's, so others go on meanwhile.
            later = itertools.count(EVENTS)
            sent = list(first)

            async def parked_while_others_go_on() -> bool:
                more = [track("user-0", next(later))]
                await product.send(more)
                sent.extend(more)
                return bool((await product.account("hook"))["parked"] == EVENTS)

            await until("the user is parked", parked_while_others_go_on, poll_s=0.1)
            (sighting,) = await product.explain("user-3-0")
            assert sighting["destinations"][0]["state"] == "parked"
            behind = _events(users=4, events=3, first=1000)
            await product.send(behind)
            await until(
                "the others' later events are there",
                lambda: {"user-0-1002", "user-1-1002", "user-2-1002"} <= set(ids(accepted(sink.requests))),
            )
            assert not [event for event in accepted(sink.requests) if event["userId"] == "user-3"]
            sick.clear()
            books = await product.settled("hook")
            sent += behind
            assert books["hook"]["delivered"] == len(sent)
        _judge(sink, sent, "hook")


async def test_a_worker_that_dies_while_a_user_is_parked(tmp_path: Path) -> None:
    """What is parked is in the ledger, not in the worker."""
    sick = {"user-3"}
    async with Sink() as sink:
        sink.script = lambda request: 500 if _user(request) in sick else 200
        policy = f"{DELIVERY}, park_after_attempts: 2, breaker_failures: 1000"
        async with serving(tmp_path, _workspace(_hook("hook", sink, policy))) as product:
            events = _events()
            await product.send(events)
            number = itertools.count(EVENTS)

            async def parked_while_others_go_on() -> bool:
                more = [track("user-0", next(number))]
                await product.send(more)
                events.extend(more)
                return bool((await product.account("hook"))["parked"] == EVENTS)

            await until("the user is parked", parked_while_others_go_on, poll_s=0.1)
            worker = product.children()["worker-0"]
            os.kill(worker, signal.SIGKILL)
            await product.child("worker-0", other_than=worker)
            sick.clear()
            books = await product.settled("hook")
            assert books["hook"]["delivered"] == len(events)
        taken = accepted(sink.requests)
        # A crash may repeat what was in flight, and nothing but that.
        assert set(ids(taken)) == _expected(events)
        assert_in_order(
            [event for event in taken if event["userId"] == "user-3"],
            user=user_of,
            number=number_of,
            where="hook",
        )


async def test_a_private_address_is_refused_with_the_reason_and_the_events_wait(tmp_path: Path) -> None:
    """A missing setting is repaired by people: until then nothing is sent, and nothing is given up."""
    async with Sink() as sink:
        refusing = {"allow_private_destinations": "false"}
        async with serving(tmp_path, _workspace(_hook("hook", sink)), settings=refusing) as product:
            events = _events(users=3, events=3)
            await product.send(events)

            async def reason() -> str:
                (sighting,) = await product.explain("user-0-0")
                return str(sighting["destinations"][0]) if "answer" in sighting["destinations"][0] else ""

            told = await until("explain says why", reason)
            assert "loopback" in told
            assert "MAINSTEM_ALLOW_PRIVATE_DESTINATIONS" in told
            account = await product.account("hook")
            assert (account["pending"], account["dead"], account["balanced"]) == (len(events), 0, True)
            assert sink.count == 0

            product.env["MAINSTEM_ALLOW_PRIVATE_DESTINATIONS"] = "true"
            await product.stop()
            await product.start()
            books = await product.settled("hook")
            assert books["hook"]["delivered"] == len(events)
        _judge(sink, events, "hook")


async def test_a_redirect_to_a_private_address_is_refused(tmp_path: Path) -> None:
    """Loopback is allowed by name here, link-local is not: where a redirect leads is judged anew."""
    async with Sink() as sink:
        sink.script = always(Answer(307, (("Location", "http://169.254.169.254/latest/meta-data"),)))
        only_loopback = {
            "allow_private_destinations": "false",
            "allowed_destination_networks": "127.0.0.1/32",
        }
        async with serving(tmp_path, _workspace(_hook("hook", sink)), settings=only_loopback) as product:
            await product.send([track("user-0", 0)])

            async def reason() -> str:
                (sighting,) = await product.explain("user-0-0")
                return str(sighting["destinations"][0].get("answer", ""))

            assert "metadata" in await until("explain says why", reason)


async def test_a_disabled_destination_keeps_its_place(tmp_path: Path) -> None:
    async with Sink() as sink, Sink() as other:

        def workspace(more: str) -> str:
            return _workspace(_hook("hook", sink, more=more), _hook("other", other))

        async with serving(tmp_path, workspace("")) as product:
            assert product.workspace_file is not None
            events = _events(users=3, events=3)
            await product.send(events)
            await product.settled()

            product.workspace_file.write_text(workspace("enabled: false, "))
            await _state(product, "hook", "disabled")
            while_off = _events(users=3, events=3, first=3)
            await product.send(while_off)
            books = await product.settled("other")
            assert books["hook"]["pending"] == len(while_off)
            _judge(sink, events, "hook while off")

            product.workspace_file.write_text(workspace(""))
            await product.settled()
        _judge(sink, [*events, *while_off], "hook")
        _judge(other, [*events, *while_off], "other")


async def test_a_broken_workspace_file_keeps_the_old_snapshot(tmp_path: Path) -> None:
    async with Sink() as sink:
        async with serving(tmp_path, _workspace(_hook("hook", sink))) as product:
            assert product.workspace_file is not None
            good = product.workspace_file.read_text()
            broken = good.replace("type: webhook", "type: webhok")
            product.workspace_file.write_text(broken)
            await until("the log says why", lambda: "webhok" in product.log.read_text())
            checked = await product.cli("workspace", "check", str(product.workspace_file))
            assert checked.returncode == 2
            assert "webhok" in checked.stdout
            events = _events(users=3, events=3)
            await product.send(events)
            await product.settled("hook")

            # A good one is taken up again, and a write key that is gone is gone.
            product.workspace_file.write_text(good.replace(WRITE_KEY, "another-key"))

            async def other_key_works() -> bool:
                body = track("user-9", 0)
                return (await product.post("/v1/track", body, write_key="another-key")).status == 200

            await until("the new key works", other_key_works)
            assert (await product.post("/v1/track", track("user-9", 1))).status == 401
            await product.settled("hook")
        _judge(sink, [*events, track("user-9", 0)], "hook")


async def _state(product: Serving, name: str, state: str) -> None:
    async def is_so() -> bool:
        found = (await product.ask("/v1/destinations")).get(name, {})
        return bool(found) and all(status["state"] == state for status in found.values())

    await until(f"{name} is {state}", is_so)


def _user(request: Received) -> str:
    return str(request.json()["userId"])
