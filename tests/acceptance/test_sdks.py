"""The published SDKs, unmodified, send every call that they have to `mainstem serve`.

Every messageId reaches a webhook and the archive exactly once, in the user's order, and the books balance.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from confluent_kafka import Consumer

from mainstem.testing.sink import Answer, Behaviour, Received, Sink
from tests.acceptance.evidence import (
    Event,
    accepted,
    archived,
    assert_exactly_once,
    assert_in_order,
    ids,
    user_of,
)
from tests.acceptance.serving import WRITE_KEY, Serving, serving, until
from tests.components.kafka import KafkaBroker
from tests.components.node_sdks import NodeSdks
from tests.components.python_sdks import PythonSdks
from tests.sdks import browser
from tests.sdks.drivers import NODE_DRIVERS, PYTHON_DRIVERS, send_with_node, send_with_python
from tests.sdks.plan import CALLS, Mark, Plan, Sent

pytestmark = pytest.mark.asyncio(loop_scope="module")

USERS, ROUNDS = 3, 2

WORKSPACE = """
workspace: {{id: shop, name: Shop}}
sources:
  - {{id: web, name: Web, write_key: {key}, type: http}}
destinations:
  - {{id: hook, name: Hook, type: webhook, config: {{webhookUrl: "{sink}/in"}}}}
  - {{id: archive, name: Archive, type: archive, config: {{url: archive, maxAgeS: 0.5}}}}
{more}
connections:
  - {{from: web, to: [{to}]}}
"""


@dataclass
class Installation:
    """One `mainstem serve`, and the webhook that it delivers to."""

    product: Serving
    sink: Sink

    @property
    def archive(self) -> Path:
        return self.product.data_dir / "archive"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    async with Sink() as sink:
        workspace = WORKSPACE.format(key=WRITE_KEY, sink=sink.url, more="", to="hook, archive")
        async with serving(tmp_path_factory.mktemp("serve"), workspace) as product:
            yield Installation(product, sink)


@pytest.mark.parametrize("name", PYTHON_DRIVERS)
async def test_python_sdk(name: str, installation: Installation, python_sdks: PythonSdks) -> None:
    plan = _plan(name, installation)
    sent = await send_with_python(name, plan, python_sdks)
    assert [call.type for call in sent] == [*CALLS] * USERS * ROUNDS
    await _assert_arrived(plan, sent, installation)


@pytest.mark.parametrize("name", NODE_DRIVERS)
async def test_node_sdk(name: str, installation: Installation, node_sdks: NodeSdks) -> None:
    plan = _plan(name, installation)
    sent = await send_with_node(name, plan, node_sdks)
    assert [call.type for call in sent] == [*CALLS] * USERS * ROUNDS
    await _assert_arrived(plan, sent, installation)


@pytest.mark.parametrize("name", browser.ENTRIES)
async def test_browser_sdk(
    name: str, installation: Installation, node_sdks: NodeSdks, chromium_path: Path, tmp_path: Path
) -> None:
    plan = _plan(name, installation)
    sent = await browser.send(name, plan, sdks=node_sdks, chromium=chromium_path, directory=tmp_path)
    assert [call.type for call in sent] == [*browser.CALLS_OF[name]] * USERS * ROUNDS
    await _assert_arrived(plan, sent, installation)


async def test_sdk_to_kafka_webhook_and_archive(
    python_sdks: PythonSdks, kafka_broker: KafkaBroker, tmp_path: Path
) -> None:
    topic = "acceptance-sdk-events"
    await asyncio.to_thread(kafka_broker.create_topic, topic, partitions=3)
    host, port = kafka_broker.bootstrap.split(":")
    kafka = (
        "  - {id: kafka, name: Kafka, type: kafka, "
        f"config: {{hostName: {host}, port: {port}, topic: {topic}}}}}"
    )
    async with Sink() as sink:
        workspace = WORKSPACE.format(key=WRITE_KEY, sink=sink.url, more=kafka, to="hook, archive, kafka")
        async with serving(tmp_path, workspace) as product:
            installation = Installation(product, sink)
            plan = _plan("segment-python-kafka", installation)
            sent = await send_with_python("segment-python", plan, python_sdks)
            await _assert_arrived(plan, sent, installation)
            await product.settled("kafka")
            found = await asyncio.to_thread(_consume, kafka_broker.bootstrap, topic, len(sent))
    assert_exactly_once((call.message_id for call in sent), ids(found), "kafka")
    assert_in_order(found, user=user_of, number=_seq, where="kafka")


async def test_one_person_keeps_the_order_across_login(installation: Installation) -> None:
    """Before login the key is the anonymousId, after it the userId: the first is retried, the rest wait."""
    run, product, sink = "login", installation.product, installation.sink
    before = [_by(run, seq, anonymousId="visitor-1") for seq in range(3)]
    login = [_by(run, 3, type="identify", userId="person-1", anonymousId="visitor-1")]
    after = [_by(run, seq, userId="person-1", anonymousId="visitor-1") for seq in range(4, 8)]
    failures = iter([Answer(503), Answer(500), Answer(503)])

    def stumble_over_the_first(request: Received) -> Behaviour | int:
        return next(failures, Answer(200)) if Mark.of(request.json()) == Mark(run=run, seq=0) else 200

    sink.script = stumble_over_the_first
    try:
        await product.send([*before, *login, *after])
        await product.settled("hook", "archive")
    finally:
        sink.script = None
    arrived = [mark.seq for event in accepted(sink.requests) if (mark := Mark.of(event)) and mark.run == run]
    assert arrived == list(range(8))


async def test_books_and_explain_by_command_line(installation: Installation) -> None:
    await installation.product.send([_by("command-line", 0, userId="person-2")])
    await installation.product.settled("hook", "archive")
    books = await installation.product.cli("books")
    assert books.returncode == 0, books.stderr
    assert "hook" in books.stdout
    explained = await installation.product.cli("explain", "command-line-0")
    assert explained.returncode == 0, explained.stderr
    assert "hook: delivered" in explained.stdout
    assert "archive: delivered" in explained.stdout


def _plan(name: str, installation: Installation) -> Plan:
    return Plan(
        endpoint=installation.product.url,
        write_key=WRITE_KEY,
        run=f"run-{name}",
        users=USERS,
        rounds=ROUNDS,
    )


async def _assert_arrived(plan: Plan, sent: Sequence[Sent], installation: Installation) -> None:
    """All of the run, exactly once and in order, at the webhook and in the archive; the books agree."""
    product, sink = installation.product, installation.sink
    expected = {call.message_id for call in sent}
    assert len(expected) == len(sent)

    def at_the_webhook() -> list[Event]:
        return [event for event in accepted(sink.requests) if _run(event) == plan.run]

    await until("every event is at the webhook", lambda: expected <= set(ids(at_the_webhook())))
    books = await product.settled("hook", "archive")
    webhook = at_the_webhook()
    assert_exactly_once(expected, ids(webhook), "webhook")
    assert_in_order(webhook, user=user_of, number=_seq, where="webhook")
    assert {(event["messageId"], event["type"]) for event in webhook} == {
        (call.message_id, call.type) for call in sent
    }
    files = [line for line in archived(installation.archive) if _run(line["raw"]) == plan.run]
    assert_exactly_once(expected, ids(files), "archive")
    assert_in_order([line["raw"] for line in files], user=user_of, number=_seq, where="archive")

    for name in ("hook", "archive"):
        assert books[name]["delivered"] == books[name]["received"], books[name]
    command = await product.cli("books", "--json")
    assert command.returncode == 0, command.stdout
    (sighting,) = await product.explain(sent[-1].message_id)
    states = {found["destination_id"]: found["state"] for found in sighting["destinations"]}
    assert states.items() >= {"hook": "delivered", "archive": "delivered"}.items()


def _consume(bootstrap: str, topic: str, count: int) -> list[Event]:
    """The topic's first `count` messages, and whatever comes within a second behind them."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "acceptance", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    found: list[Event] = []
    try:
        for _ in range(100 + count):
            message = consumer.poll(1.0)
            if message is None:
                if len(found) >= count:
                    break
                continue
            assert message.error() is None, message.error()
            value = message.value()
            assert value is not None
            found.append(msgspec.json.decode(value))
    finally:
        consumer.close()
    return found


def _by(run: str, seq: int, **fields: str) -> dict[str, object]:
    return {
        "type": "track",
        "event": "Step",
        "messageId": f"{run}-{seq}",
        "context": {"mark": {"run": run, "seq": seq}},
        **fields,
    }


def _run(event: Event) -> str:
    mark = Mark.of(event)
    return mark.run if mark is not None else ""


def _seq(event: Event) -> int:
    mark = Mark.of(event)
    assert mark is not None
    return mark.seq
