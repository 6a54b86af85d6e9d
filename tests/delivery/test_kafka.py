"""The Kafka sink against a real broker: order, restarts, refusals and what each failure is called."""

import asyncio
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka import Consumer
from tests.components.kafka import KafkaBroker
from tests.components.process import free_port

from mainstem.delivery.guard import ALLOW_PRIVATE_KEY, AddressGuard
from mainstem.delivery.kafka import KafkaSink
from mainstem.destinations.base import Delivered, Delivery, Rejected, Retry, StreamMessage
from mainstem.destinations.kafka import Config

USERS = 20
ROUNDS = 30


@pytest.fixture(scope="module", name="restarted")
def _restarted(kafka_installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    # Not the shared one: this broker gets killed.
    assert kafka_installed.is_dir()
    with KafkaBroker(tmp_path_factory.mktemp("restarted")) as broker:
        yield broker


def _config(bootstrap: str) -> Config:
    return Config(host_name=bootstrap, topic="unused")


@asynccontextmanager
async def _sink(
    bootstrap: str, *, timeout_s: float = 10.0, allow_private: bool = True
) -> AsyncIterator[KafkaSink]:
    sink = KafkaSink(_config(bootstrap), guard=AddressGuard(allow_private=allow_private), timeout_s=timeout_s)
    try:
        yield sink
    finally:
        await sink.close()


def _message(topic: str, user: int, number: int) -> StreamMessage:
    return StreamMessage(
        topic=topic, key=f"user-{user}".encode(), value=str(number).encode(), headers=(("n", b"1"),)
    )


def _read_all(bootstrap: str, topic: str, partitions: int, count: int) -> dict[str, list[int]]:
    """Everything in the topic by key, in the order of its partition, until each partition's end."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"reader-{uuid4()}",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )
    consumer.subscribe([topic])
    found: dict[str, list[int]] = defaultdict(list)
    ended: set[int] = set()
    total = 0
    try:
        while len(ended) < partitions or total < count:
            message = consumer.poll(30.0)
            assert message is not None, f"{total} of {count} messages arrived"
            if message.error() is not None:
                ended.add(message.partition() or 0)
                continue
            total += 1
            found[(message.key() or b"").decode()].append(int(message.value() or b"-1"))
    finally:
        consumer.close()
    return found


async def test_one_user_stays_in_order_under_load(kafka_broker: KafkaBroker) -> None:
    topic = f"load-{uuid4()}"
    kafka_broker.create_topic(topic, partitions=6)
    async with _sink(kafka_broker.bootstrap) as sink:

        async def one_user(user: int) -> list[Delivery]:
            results: list[Delivery] = []
            for start in range(0, ROUNDS, 3):
                batch = [_message(topic, user, number) for number in range(start, start + 3)]
                results += await sink.send(batch)
            return results

        answers = await asyncio.gather(*(one_user(user) for user in range(USERS)))
    flat = [answer for results in answers for answer in results]
    assert [type(answer) for answer in flat] == [Delivered] * (USERS * ROUNDS)
    found = await asyncio.to_thread(_read_all, kafka_broker.bootstrap, topic, 6, USERS * ROUNDS)
    assert found == {f"user-{user}": list(range(ROUNDS)) for user in range(USERS)}


async def test_results_are_by_position_and_say_where_the_message_is(kafka_broker: KafkaBroker) -> None:
    good, absent = f"good-{uuid4()}", f"absent-{uuid4()}"
    kafka_broker.create_topic(good)
    async with _sink(kafka_broker.bootstrap, timeout_s=2.0) as sink:
        results = await sink.send([_message(good, 1, 1), _message(absent, 1, 2), _message(good, 1, 3)])
    assert results[0] == Delivered(f"{good}[0]@0")
    assert results[2] == Delivered(f"{good}[0]@1")
    assert isinstance(results[1], Retry)


async def test_a_broker_killed_and_restarted_loses_nothing_and_keeps_order(restarted: KafkaBroker) -> None:
    topic = f"restart-{uuid4()}"
    restarted.create_topic(topic, partitions=3)
    users, rounds, killed_at = 6, 30, 10
    reached = asyncio.Barrier(users + 1)
    retried = 0
    async with _sink(restarted.bootstrap, timeout_s=3.0) as sink:

        async def one_user(user: int) -> None:
            nonlocal retried
            for number in range(rounds):
                if number == killed_at:
                    await reached.wait()
                # The lane's duty: the next message only once this one is delivered.
                async with asyncio.timeout(90):
                    while not isinstance((await sink.send([_message(topic, user, number)]))[0], Delivered):
                        retried += 1

        tasks = [asyncio.create_task(one_user(user)) for user in range(users)]
        await reached.wait()
        await asyncio.to_thread(restarted.kill9)
        async with asyncio.timeout(30):
            while retried == 0:
                await asyncio.sleep(0.01)
        await asyncio.to_thread(restarted.restart)
        await asyncio.gather(*tasks)
    assert retried > 0
    found = await asyncio.to_thread(_read_all, restarted.bootstrap, topic, 3, users * rounds)
    for user in range(users):
        numbers = found[f"user-{user}"]
        assert list(dict.fromkeys(numbers)) == list(range(rounds)), "lost, or first seen out of order"
        assert numbers == sorted(numbers), "a retry overtook"


async def test_an_unknown_topic_is_retried_and_is_not_the_destinations_trouble(
    kafka_broker: KafkaBroker,
) -> None:
    async with _sink(kafka_broker.bootstrap, timeout_s=2.0) as sink:
        [result] = await sink.send([_message(f"absent-{uuid4()}", 1, 1)])
    assert isinstance(result, Retry)
    assert not result.destination_wide


async def test_a_topic_name_kafka_forbids_is_rejected(kafka_broker: KafkaBroker) -> None:
    async with _sink(kafka_broker.bootstrap, timeout_s=2.0) as sink:
        [result] = await sink.send([_message("no spaces!", 1, 1)])
    assert isinstance(result, Rejected)


@pytest.mark.parametrize("topic_limit", [None, 10_000], ids=["by the client", "by the broker"])
async def test_a_message_too_large_is_rejected_and_the_next_one_passes(
    kafka_broker: KafkaBroker, topic_limit: int | None
) -> None:
    topic = f"small-{uuid4()}"
    settings = {} if topic_limit is None else {"max.message.bytes": str(topic_limit)}
    kafka_broker.create_topic(topic, settings=settings)
    size = 3_000_000 if topic_limit is None else 20_000
    # Random, so that compression does not make it small.
    huge = StreamMessage(topic=topic, key=b"user-1", value=b"".join(uuid4().bytes for _ in range(size // 16)))
    async with _sink(kafka_broker.bootstrap) as sink:
        [first] = await sink.send([huge])
        [second] = await sink.send([_message(topic, 1, 1)])
    assert isinstance(first, Rejected)
    assert "SIZE" in first.reason
    assert isinstance(second, Delivered)


async def test_a_wrong_address_is_the_destinations_trouble_and_is_retried() -> None:
    async with _sink(f"127.0.0.1:{free_port()}", timeout_s=1.0) as sink:
        [result] = await sink.send([_message("any", 1, 1)])
    assert isinstance(result, Retry)
    assert result.destination_wide


async def test_a_name_that_does_not_resolve_is_retried() -> None:
    async with _sink("broker.invalid:9092", timeout_s=1.0) as sink:
        [result] = await sink.send([_message("any", 1, 1)])
    assert isinstance(result, Retry)
    assert result.destination_wide


async def test_loopback_is_refused_unless_allowed_and_nothing_connects() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        async with _sink(f"127.0.0.1:{listener.getsockname()[1]}", allow_private=False) as sink:
            results = await sink.send([_message("any", 1, 1), _message("any", 1, 2)])
        with pytest.raises(BlockingIOError):
            listener.accept()
    for result in results:
        assert isinstance(result, Rejected)
        assert ALLOW_PRIVATE_KEY in result.reason


async def test_a_certificate_that_is_none_is_retried_with_the_drivers_words() -> None:
    config = Config(host_name="127.0.0.1:1", ssl_enabled=True, ca_certificate="no certificate")
    sink = KafkaSink(config, guard=AddressGuard(allow_private=True), timeout_s=1.0)
    [result] = await sink.send([_message("any", 1, 1)])
    await sink.close()
    assert isinstance(result, Retry)
    assert result.destination_wide
    assert "ca" in result.answer.lower()


async def test_a_sink_that_never_sent_closes() -> None:
    async with _sink("127.0.0.1:1"):
        pass
