"""kill -9 at random moments while transformations drop, expand, throw and run for ever: books balance, everybody's
order holds, nothing acknowledged is missing but what the code dropped, files are exact."""

import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from mainstem.testing.sink import Received, Sink
from tests.acceptance.evidence import archived, assert_exactly_once, assert_in_order, ids
from tests.acceptance.load import Load
from tests.acceptance.serving import WRITE_KEY, serving, until
from tests.acceptance.test_torture import flowing, kill

_ENDLESS = "p0-15"
"""The messageId of the event that the code never comes to an end with."""

_JAVASCRIPT = f"""
export function transformEvent(event, metadata) {{
  const n = event.properties.n
  if (event.messageId === "{_ENDLESS}") while (true) {{}}
  if (n % 10 === 0) return
  if (n % 10 === 1) throw new Error("one in ten")
  event.properties.chance = Math.random()
  if (n % 10 !== 2) return event
  return [event, {{...event, properties: {{...event.properties, copy: 1}}}}]
}}
"""
_PYTHON = f"""
import random

def transformEvent(event, metadata):
    n = event["properties"]["n"]
    while event["messageId"] == "{_ENDLESS}":
        pass
    if n % 10 == 0:
        return None
    if n % 10 == 1:
        raise ValueError("one in ten")
    event["properties"]["chance"] = random.random()
    if n % 10 != 2:
        return event
    return [event, {{**event, "properties": {{**event["properties"], "copy": 1}}}}]
"""

Language = Literal["javascript", "python"]
_CODE: Mapping[Language, str] = {"javascript": _JAVASCRIPT, "python": _PYTHON}
_TO = {"javascript": ("js-hook", "files"), "python": ("py-hook",)}


def workspace(javascript: str, python: str) -> str:
    document = {
        "workspace": {"id": "transformed", "name": "Transformed"},
        "sources": [{"id": "app", "name": "App", "write_key": WRITE_KEY, "type": "http"}],
        "transformations": [
            {"name": language, "language": language, "code": code, "limits": {"timeout_s": 2.0}}
            for language, code in _CODE.items()
        ],
        "destinations": [
            {
                "id": key,
                "name": key,
                "type": "webhook",
                "start": "earliest",
                "config": {"webhookUrl": f"{url}/in"},
            }
            for key, url in (("js-hook", javascript), ("py-hook", python))
        ]
        + [
            {
                "id": "files",
                "name": "Files",
                "type": "archive",
                "start": "earliest",
                "config": {"url": "archive", "maxAgeS": 1},
            }
        ],
        "connections": [
            {"from": "app", "to": list(to), "transformations": [language]} for language, to in _TO.items()
        ],
    }
    return msgspec.json.encode(document).decode()


def outcome_of(message_id: str) -> str:
    number = int(message_id.rpartition("-")[2]) % 10
    if message_id == _ENDLESS or number == 1:
        return "dead"
    return "filtered" if number == 0 else "delivered"


def made_of(acknowledged: Sequence[str]) -> list[str]:
    """The messageIds that come out."""
    made = []
    for message_id in acknowledged:
        if outcome_of(message_id) == "delivered":
            made.append(message_id)
            if int(message_id.rpartition("-")[2]) % 10 == 2:
                made.append(f"{message_id}:1")
    return made


async def storm(directory: Path, *, rounds: int, targets: Mapping[str, int], workers: int = 1) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    sys.stdout.write(f"seed {seed}\n")  # shown when the test fails
    rng = random.Random(seed)
    settings = {"workers": workers, "restart_delay_max_s": 0.1, "log_level": "warning"}
    async with (
        Sink() as javascript,
        Sink() as python,
        serving(directory, workspace(javascript.url, python.url), settings=settings) as product,
    ):
        began = time.monotonic()
        async with Load(product.port, persons=12, pause_s=0.04) as load:
            for _ in range(rounds):
                target = rng.choices(list(targets), list(targets.values()))[0]
                if rng.random() < 0.5:
                    await flowing(target, load, rng.choice((javascript, python)))
                await kill(product, target, rng)
            await until("the endless one was sent", lambda: _ENDLESS in load.acknowledged)
        took_s = time.monotonic() - began
        books = await product.settled("js-hook", "py-hook", "files", timeout_s=90.0)
        acknowledged = load.acknowledged
        judge_books(acknowledged, books)
        for name, sink in (("javascript", javascript), ("python", python)):
            judge_sink(acknowledged, sink.requests, name)
        lines = archived(product.data_dir)
        assert_exactly_once(made_of(acknowledged), ids(lines), "archive")
        # The same result for both who share the code, at whatever time it ran, how often ever.
        chances = {line["messageId"]: line["raw"]["properties"]["chance"] for line in lines}
        for request in javascript.requests:
            message = request.json()
            assert message["properties"]["chance"] == chances[message["messageId"]]
        assert not list((product.data_dir / "spool").rglob("*.gathering"))
        sys.stdout.write(f"{rounds} rounds in {took_s:.1f} s: {load.count} acknowledged\n")


def judge_books(acknowledged: Sequence[str], books: Mapping[str, Mapping[str, Any]]) -> None:
    expected = Counter(outcome_of(message_id) for message_id in acknowledged)
    for name, cursors in _TO.items():
        for cursor in cursors:
            account = books[cursor]
            found = {key: account[key] for key in ("received", "delivered", "filtered", "dead", "parked")}
            assert found == {"received": len(acknowledged), "parked": 0, **expected}, (cursor, account)
            assert account["balanced"], account
            filtered = Counter[str]()
            dead = Counter[str]()
            for line in account["lines"]:
                filtered.update(line["filtered"])
                dead.update(line["dead"])
            assert filtered == {f"dropped by transformation {name}": expected["filtered"]}
            assert dead == {f"transformation {name} failed": expected["dead"]}


def judge_sink(acknowledged: Sequence[str], received: Sequence[Received], where: str) -> None:
    first: dict[str, Mapping[str, Any]] = {}
    for request in received:
        message = request.json()
        known = first.setdefault(message["messageId"], message)
        # What a crash repeats is the same to the byte, random numbers included.
        assert known == message
    assert_exactly_once(made_of(acknowledged), list(first), where)
    for message_id, message in first.items():
        assert message_id.endswith(":1") == (message["properties"].get("copy") == 1)
    assert_in_order(
        list(first.values()),
        user=lambda event: str(event["properties"]["key"]),
        number=lambda event: 2 * int(event["properties"]["n"]) + int(event["properties"].get("copy", 0)),
        where=where,
    )


@pytest.mark.timeout(300)
async def test_kills_while_code_drops_expands_throws_and_never_ends(tmp_path: Path) -> None:
    await storm(tmp_path, rounds=12, targets={"gateway": 3, "worker": 6, "both": 2, "tree": 1})


@pytest.mark.torture
@pytest.mark.timeout(0)
async def test_hundreds_of_kills_while_several_workers_transform(tmp_path: Path) -> None:
    targets = {"gateway": 3, "worker": 10, "both": 3, "serve": 1, "tree": 1}
    await storm(tmp_path, rounds=200, targets=targets, workers=2)
