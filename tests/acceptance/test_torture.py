"""kill -9 of the product's processes at random moments under load: nothing acknowledged is lost, nobody's order
changes, the archive is exact, the books balance."""

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mainstem.testing.sink import Received, Sink
from tests.acceptance.evidence import archived, assert_exactly_once, assert_in_order, ids
from tests.acceptance.load import Load
from tests.acceptance.serving import WRITE_KEY, Serving, serving, until

_PAUSE_MOST_S = 0.35
_FLOWING = 0.5
"""How many of the kills hit a process that has just been seen at work; the others hit it whatever it does,
mostly while it starts."""


def workspace(sink_url: str) -> str:
    return f"""
workspace: {{id: torture, name: Torture}}
sources: [{{id: app, name: App, write_key: {WRITE_KEY}, type: http}}]
destinations:
  - {{id: hook, name: Hook, type: webhook, start: earliest, config: {{webhookUrl: "{sink_url}/in"}}}}
  - {{id: files, name: Files, type: archive, start: earliest, config: {{url: archive, maxAgeS: 1}}}}
connections: [{{from: app, to: [hook, files]}}]
"""


async def storm(
    directory: Path,
    *,
    rounds: int,
    targets: Mapping[str, int],
    gateways: int = 1,
    workers: int = 1,
    logging_in: int = 0,
) -> None:
    """Kill `rounds` times, then judge what is left.

    Args:
        targets: what to kill, with weights: `gateway`, `worker`, `both`, `serve` (the parent alone), `tree`.
        logging_in: how many persons are anonymous half of the time (one worker: decision 4).
    """
    seed = random.SystemRandom().randrange(1 << 32)
    sys.stdout.write(f"seed {seed}\n")  # shown when the test fails
    rng = random.Random(seed)
    settings = {"gateways": gateways, "workers": workers, "restart_delay_max_s": 0.1, "log_level": "warning"}
    async with Sink() as sink, serving(directory, workspace(sink.url), settings=settings) as product:
        killed: Counter[str] = Counter()
        began = time.monotonic()
        async with Load(product.port, persons=16, logging_in=logging_in) as load:
            for _ in range(rounds):
                target = rng.choices(list(targets), list(targets.values()))[0]
                if rng.random() < _FLOWING:
                    try:
                        await flowing(target, load, sink)
                    except AssertionError as error:
                        raise AssertionError(f"{error}\n{await where_they_stand(product)}") from None
                await kill(product, target, rng)
                killed[target] += 1
        took_s = time.monotonic() - began
        books = await product.settled("hook", "files", timeout_s=60.0)
        events = judge(load, sink.requests, product, books)
        sys.stdout.write(
            f"{rounds} rounds {dict(killed)} in {took_s:.1f} s ({rounds / took_s:.2f}/s): {load.count} acknowledged, "
            f"{len(events) - load.count} duplicates at the sink, failed attempts {dict(load.errors)}\n"
        )


async def kill(product: Serving, target: str, rng: random.Random) -> None:
    """Wait a random while, then kill; processes that are just starting too."""
    pause_s = rng.uniform(0, _PAUSE_MOST_S)
    began = time.monotonic()
    await until("the moment has come", lambda: time.monotonic() - began >= pause_s, poll_s=0.01)
    if target == "tree":
        await product.kill9()
        await product.start()
        return
    if target == "serve":
        orphans = product.children()
        os.kill(product.pid, signal.SIGKILL)
        await until("the orphans have ended", lambda: not any(map(alive, orphans.values())), timeout_s=40.0)
        await product.kill9()
        await product.start()
        return
    roles = ("gateway", "worker") if target == "both" else (target,)
    for role in roles:
        names = sorted(name for name in product.children() if name.startswith(role))
        name = rng.choice(names) if names else f"{role}-0"
        pid = await product.child(name)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def flowing(target: str, load: Load, sink: Sink) -> None:
    """Wait until the target is seen at work: events are acknowledged, or delivered."""
    taken = load.count + 1 if target != "worker" else 0
    delivered = sink.count + 1 if target != "gateway" else 0
    await until(
        f"{target} is at work",
        lambda: load.count >= taken and sink.count >= delivered,
        timeout_s=30.0,
        poll_s=0.005,
    )


async def where_they_stand(product: Serving) -> str:
    """Return what the processes say of their threads, which stalled: at the end of the log."""
    for pid in product.children().values():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
    await asyncio.sleep(1.0)
    return product.log_tail()


def judge(
    load: Load,
    received: Sequence[Received],
    product: Serving,
    books: Mapping[str, Mapping[str, Any]],
) -> list[Mapping[str, Any]]:
    """Check everything that must hold; returns what the sink got, duplicates included."""
    acknowledged = load.acknowledged
    events = [msgspec.json.decode(request.body) for request in received]
    first: dict[str, Mapping[str, Any]] = {}
    for event in events:
        first.setdefault(event["messageId"], event)
    assert_exactly_once(acknowledged, list(first), "sink")
    # Nobody can know whose a new anonymousId is before the login: the order is that of a visit, and of a userId.
    for one in ("visit", "key"):
        assert_in_order(
            list(first.values()),
            user=lambda event, one=one: str(event["properties"][one]),  # type: ignore[misc]
            number=lambda event: int(event["properties"]["n"]),
            where=f"sink, by {one}",
        )
    assert_exactly_once(acknowledged, ids(archived(product.data_dir)), "archive")
    for cursor in ("hook", "files"):
        account = books[cursor]
        assert account["balanced"], account
        assert account["received"] == account["delivered"] == len(acknowledged), account
        assert account["parked"] == account["dead"] == account["unsettled"] == 0, account
        assert sum(line["received"] for line in account["lines"]) == len(acknowledged)
    return events


@pytest.mark.timeout(300)
async def test_a_hundred_kills_of_gateway_and_worker_lose_nothing_and_keep_everybodys_order(
    tmp_path: Path,
) -> None:
    targets = {"gateway": 45, "worker": 45, "both": 10}
    await storm(tmp_path, rounds=100, targets=targets, logging_in=8)


async def test_kills_of_one_of_several_gateways_and_workers(tmp_path: Path) -> None:
    await storm(tmp_path, rounds=12, targets={"gateway": 1, "worker": 2, "both": 1}, gateways=2, workers=2)


async def test_kills_of_everything_at_once_and_of_the_parent_alone(tmp_path: Path) -> None:
    await storm(tmp_path, rounds=4, targets={"serve": 1, "tree": 1}, logging_in=8)


@pytest.mark.torture
@pytest.mark.timeout(0)
async def test_a_thousand_kills(tmp_path: Path) -> None:
    targets = {"gateway": 44, "worker": 44, "both": 8, "serve": 2, "tree": 2}
    await storm(tmp_path, rounds=1000, targets=targets, logging_in=8)


@pytest.mark.torture
@pytest.mark.timeout(0)
async def test_hundreds_of_kills_among_several_gateways_and_workers(tmp_path: Path) -> None:
    targets = {"gateway": 40, "worker": 40, "both": 16, "serve": 2, "tree": 2}
    await storm(tmp_path, rounds=200, targets=targets, gateways=2, workers=2)
