"""The broker that the other tests trust: acknowledged messages outlive a crash of the broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Producer

from tests.components.kafka import KafkaBroker
from tests.components.process import accepts_connections

MESSAGES = 200


@pytest.fixture(name="own_broker")
def _own_broker(kafka_installed: Path, tmp_path: Path) -> Iterator[KafkaBroker]:
    # Not the shared one: this broker gets killed.
    assert kafka_installed.is_dir()
    with KafkaBroker(tmp_path / "broker") as broker:
        yield broker


def test_acknowledged_messages_survive_kill_9_and_restart(own_broker: KafkaBroker) -> None:
    own_broker.create_topic("events", partitions=2)
    sent = [f"message-{number}" for number in range(MESSAGES)]
    _produce(own_broker, "events", sent)
    port = int(own_broker.bootstrap.rpartition(":")[2])

    own_broker.kill9()
    assert not accepts_connections(port)
    own_broker.restart()

    assert sorted(_consume(own_broker, "events", MESSAGES)) == sorted(sent)
    _produce(own_broker, "events", ["after the crash"])
    assert "after the crash" in _consume(own_broker, "events", MESSAGES + 1)


def test_topics_are_not_created_by_accident(kafka_broker: KafkaBroker) -> None:
    errors: list[KafkaError | None] = []
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap, "message.timeout.ms": 1000})
    producer.produce("no-such-topic", b"lost", callback=lambda error, _: errors.append(error))
    producer.flush(30)
    assert len(errors) == 1
    assert errors[0] is not None


def _produce(broker: KafkaBroker, topic: str, messages: list[str]) -> None:
    errors: list[KafkaError] = []
    producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all", "enable.idempotence": True})
    for message in messages:
        producer.produce(
            topic,
            message.encode(),
            key=message.encode(),
            callback=lambda error, _: errors.append(error) if error else None,
        )
    assert producer.flush(60) == 0
    assert errors == []


def _consume(broker: KafkaBroker, topic: str, count: int) -> list[str]:
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": f"reader-of-{count}",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([topic])
    received: list[str] = []
    try:
        while len(received) < count:
            batch = consumer.consume(count, timeout=30.0)
            assert batch, f"{len(received)} of {count} messages arrived"
            for message in batch:
                assert message.error() is None
                received.append((message.value() or b"").decode())
    finally:
        consumer.close()
    return received
