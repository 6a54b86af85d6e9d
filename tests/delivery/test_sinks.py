"""Which sink sends a type's messages, and with which settings."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.destinations.events import config_of
from tests.destinations.golden import cases

from mainstem.clock import FixedClock, SystemClock
from mainstem.delivery.guard import AddressGuard
from mainstem.delivery.kafka import KafkaSink, _producer_settings
from mainstem.delivery.sinks import SinkRoom, open_sink
from mainstem.delivery.transport import PyreqwestTransport
from mainstem.destinations import catalog
from mainstem.destinations.base import Retry, StreamMessage

STREAMS = [name for name in catalog.names() if (spec := catalog.find_spec(name)) and spec.kind == "stream"]


@pytest.fixture
async def room() -> AsyncIterator[SinkRoom]:
    guard = AddressGuard()
    transport = PyreqwestTransport(guard, SystemClock())
    yield SinkRoom(transport, guard, FixedClock(), 5.0)
    await transport.close()


@pytest.mark.parametrize("name", STREAMS)
async def test_every_broker_has_its_sink(name: str, room: SinkRoom) -> None:
    sink = open_sink(name, config_of(name, cases(name)[0]["config"]), room)
    assert sink is not None
    await sink.close()


async def test_others_have_none(room: SinkRoom) -> None:
    assert open_sink("WEBHOOK", config_of("WEBHOOK", {"url": "https://example.com"}), room) is None


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        (
            "CONFLUENT_CLOUD",
            {"bootstrapServer": "b.example.com:9092", "topic": "t", "apiKey": "key", "apiSecret": "secret"},
            {"bootstrap.servers": "b.example.com:9092", "sasl.username": "key", "sasl.password": "secret"},
        ),
        (
            "AZURE_EVENT_HUB",
            {
                "bootstrapServer": "ns.example.com",
                "topic": "t",
                "eventHubsConnectionString": "Endpoint=sb://x",
            },
            {
                "bootstrap.servers": "ns.example.com:9093",
                "sasl.username": "$ConnectionString",
                "sasl.password": "Endpoint=sb://x",
            },
        ),
    ],
)
async def test_kafka_in_the_cloud_is_kafka_with_a_login(
    name: str, raw: dict[str, Any], expected: dict[str, str], room: SinkRoom
) -> None:
    sink = open_sink(name, config_of(name, raw), room)
    assert isinstance(sink, KafkaSink)
    settings = _producer_settings(sink._config, 5.0)
    assert expected.items() <= settings.items()
    assert (settings["security.protocol"], settings["sasl.mechanism"]) == ("SASL_SSL", "PLAIN")


async def test_what_is_not_there_loses_nothing(room: SinkRoom) -> None:
    raw = {"hostName": "h", "topic": "t", "convertToAvro": True}
    sink = open_sink("KAFKA", config_of("KAFKA", raw), room)
    assert sink is not None
    [result] = await sink.send([StreamMessage(topic="t", key=b"", value=b"")])
    assert isinstance(result, Retry)
    assert result.destination_wide
    await sink.close()
