"""The SDK with `mainstem serve` and a webhook behind it: every call, and kills of the server and of its clients."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mainstem.testing.sink import Sink
from mainstem_analytics import Client
from tests.acceptance.evidence import accepted, archived, assert_exactly_once, assert_in_order, ids, user_of
from tests.acceptance.serving import WRITE_KEY, Serving, serving
from tests.sdks.python.test_torture import Producer

WORKSPACE = """
workspace: {{id: sdk, name: SDK}}
sources:
  - {{id: app, name: App, write_key: {key}, type: http}}
  - {{id: torture, name: Torture, write_key: torture, type: http}}
destinations:
  - {{id: hook, name: Hook, type: webhook, start: earliest, config: {{webhookUrl: "{sink}/in"}}}}
  - {{id: files, name: Files, type: archive, start: earliest, config: {{url: archive, maxAgeS: 0.5}}}}
connections:
  - {{from: app, to: [hook, files]}}
  - {{from: torture, to: [hook, files]}}
"""


async def test_every_call_reaches_a_destination_as_it_was_made(tmp_path: Path) -> None:
    async with (
        Sink() as sink,
        serving(tmp_path / "serve", WORKSPACE.format(key=WRITE_KEY, sink=sink.url)) as product,
    ):
        client = Client(WRITE_KEY, host=product.url, store_dir=tmp_path / "store", handle_sigterm=False)
        made = []
        for number in range(40):
            both: dict[str, Any] = {"user_id": "u", "anonymous_id": "a"}
            made += [
                client.identify(**both, traits={"n": number}),
                client.track(**both, event="Order Completed", properties={"n": number, "when": None}),
                client.page(**both, category="Docs", name="Home", properties={"n": number}),
                client.screen(**both, name="Home", properties={"n": number}),
                client.group(**both, group_id="g", traits={"n": number}),
                client.alias("a", "u"),
            ]
        assert await asyncio.to_thread(client.close, 30.0)
        await product.settled("hook", "files")
        found = accepted(sink.requests)
        assert [event["messageId"] for event in found] == [event["messageId"] for _, event in made]
        for (taken, event), arrived in zip(made, found, strict=True):
            assert taken
            assert said(arrived, event) == said(event, event)
            assert arrived["originalTimestamp"] == event["timestamp"]


def said(event: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Some fields of an event, without what the server adds to them."""
    found = {name: event[name] for name in names if name not in ("timestamp", "integrations", "context")}
    return {**found, "library": event["context"]["library"]}


async def test_a_wrong_key_pauses_and_a_batch_with_a_bad_event_is_taken(tmp_path: Path) -> None:
    async with (
        Sink() as sink,
        serving(tmp_path / "serve", WORKSPACE.format(key=WRITE_KEY, sink=sink.url)) as product,
    ):
        wrong = Client("no-such-key", host=product.url, store_dir=tmp_path / "store", handle_sigterm=False)
        wrong.track("u", "E")
        assert not await asyncio.to_thread(wrong.flush)
        paused = wrong.status().paused
        assert paused is not None
        assert (paused.status, paused.reason) == (401, "invalid write key")
        wrong.close(0.0)

        def spoil(event: dict[str, object]) -> dict[str, object]:
            return {**event, "type": "unheard of"} if event["event"] == "Bad" else event

        client = Client(
            WRITE_KEY,
            host=product.url,
            store_dir=tmp_path / "store",
            handle_sigterm=False,
            middleware=[spoil],
        )
        for name in ("Good", "Bad", "Also good"):
            client.track("u", name)
        assert await asyncio.to_thread(client.flush)
        client.track("u", "Bad")
        assert await asyncio.to_thread(client.flush)
        assert [(r.status, r.code, e["event"]) for r, e in client.set_aside()] == [
            (200, "unknown_type", "Bad"),
            (400, "unknown_type", "Bad"),
        ]
        client.close(0.0)
        await product.settled("hook", "files")
        assert [event["event"] for event in accepted(sink.requests)] == ["Good", "Also good"]


async def kills_of_both(directory: Path, rounds: int) -> None:
    """Kill clients, the gateway, or the whole server; what was called arrives at the webhook exactly once, in order."""
    seed = random.SystemRandom().randrange(1 << 32)
    sys.stdout.write(f"seed {seed}\n")
    rng = random.Random(seed)
    settings = {"restart_delay_max_s": 0.1, "log_level": "warning"}
    async with (
        Sink() as sink,
        serving(directory, WORKSPACE.format(key=WRITE_KEY, sink=sink.url), settings=settings) as product,
    ):
        store = directory / "store"
        generation = 0
        ended: list[Producer] = []

        def begin(slot: int) -> Producer:
            nonlocal generation
            generation += 1
            return Producer(product.url, store, f"p{slot}", first=generation * 1_000_000)

        running = [begin(slot) for slot in range(4)]
        for _ in range(rounds):
            await asyncio.sleep(rng.uniform(0.1, 0.8))
            if rng.random() < 0.4:
                await kill_something_of(product, rng)
            slot = rng.randrange(4)
            await asyncio.to_thread(running[slot].kill9)
            ended.append(running[slot])
            running[slot] = begin(slot)
        for producer in running:
            await asyncio.to_thread(producer.kill9)
        ended += running
        await product.ready()
        last = Client("torture", host=product.url, store_dir=store, handle_sigterm=False)
        assert await asyncio.to_thread(last.close, 60.0)
        await product.settled("hook", "files")
        returned = {message_id for producer in ended for message_id in producer.returned}
        found = accepted(sink.requests)
        first: dict[str, object] = {}
        for event in found:
            first.setdefault(event["messageId"], event)
        missing = returned - first.keys()
        known = {name: await product.explain(name) for name in sorted(missing)[:3]}
        assert not missing, (
            f"{len(missing)} of {len(returned)} are missing; what the server says of them: {known}"
        )
        # A call that was killed may have stored its event without having returned: one a process at most.
        assert len(first.keys() - returned) <= 4 * len(ended)
        assert_in_order(
            list(first.values()),  # type: ignore[arg-type]
            user=user_of,
            number=lambda event: int(event["properties"]["n"]),
            where="the webhook",
        )
        assert_exactly_once(first, ids(archived(product.data_dir)), "archive")


async def kill_something_of(product: Serving, rng: random.Random) -> None:
    """kill -9 of a child of the server, or of all of it."""
    if rng.random() < 0.3:
        await product.kill9()
        await product.start()
        return
    children = product.children()
    if children:
        with suppress(ProcessLookupError):
            os.kill(children[rng.choice(sorted(children))], signal.SIGKILL)


@pytest.mark.timeout(240)
async def test_kills_of_clients_and_server(tmp_path: Path) -> None:
    await kills_of_both(tmp_path, 8)


@pytest.mark.torture
@pytest.mark.timeout(0)
async def test_two_hundred_kills_of_clients_and_server(tmp_path: Path) -> None:
    await kills_of_both(tmp_path, 200)
