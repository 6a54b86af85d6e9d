"""Brokers by destination type: which sink sends a type's messages.

A new kind of broker is its module with a `StreamSink`, and one line here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from mainstem.clock import Clock
from mainstem.delivery.aws import open_eventbridge, open_kinesis
from mainstem.delivery.guard import AddressGuard
from mainstem.delivery.kafka import KafkaSink
from mainstem.delivery.pubsub import PubSubSink
from mainstem.delivery.transport import Transport
from mainstem.destinations import (
    azure_event_hub,
    confluent_cloud,
    eventbridge,
    googlepubsub,
    kafka,
    kinesis,
    redis,
)
from mainstem.destinations.base import Delivery, Retry, StreamMessage, StreamSink


class SinkRoom(msgspec.Struct, frozen=True):
    """What sinks are made of, beside the destination's settings."""

    transport: Transport
    guard: AddressGuard
    clock: Clock
    timeout_s: float


class _NotReady:
    """A sink for settings that ask for what is not there: people change them, and until then nothing is lost."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def send(self, messages: Sequence[StreamMessage]) -> Sequence[Delivery]:
        """Send nothing."""
        return [Retry(self._reason, destination_wide=True)] * len(messages)

    async def close(self) -> None:
        """There is nothing to close."""


def _kafka(config: kafka.Config, room: SinkRoom) -> StreamSink:
    if config.convert_to_avro:
        return _NotReady("`convertToAvro`: messages can't be written as Avro; switch it off to send JSON")
    return KafkaSink(config, guard=room.guard, timeout_s=room.timeout_s)


def _confluent_cloud(config: confluent_cloud.Config, room: SinkRoom) -> StreamSink:
    # https://docs.confluent.io/cloud/current/client-apps/config-client.html
    return _kafka(
        kafka.Config(
            host_name=config.bootstrap_server,
            ssl_enabled=True,
            use_sasl=True,
            username=config.api_key,
            password=config.api_secret,
        ),
        room,
    )


def _azure_event_hub(config: azure_event_hub.Config, room: SinkRoom) -> StreamSink:
    # https://learn.microsoft.com/en-us/azure/event-hubs/azure-event-hubs-apache-kafka-overview#security-and-authentication
    return _kafka(
        kafka.Config(
            host_name=config.bootstrap_server,
            port=9093,
            ssl_enabled=True,
            use_sasl=True,
            username="$ConnectionString",
            password=config.event_hubs_connection_string,
        ),
        room,
    )


def _kinesis(config: kinesis.Config, room: SinkRoom) -> StreamSink:
    return open_kinesis(config, room.transport, room.clock, room.timeout_s)


def _eventbridge(config: eventbridge.Config, room: SinkRoom) -> StreamSink:
    return open_eventbridge(config, room.transport, room.clock, room.timeout_s)


def _googlepubsub(config: googlepubsub.Config, room: SinkRoom) -> StreamSink:
    return PubSubSink(config, transport=room.transport, clock=room.clock, timeout_s=room.timeout_s)


def _redis(config: redis.Config, room: SinkRoom) -> StreamSink:
    # Its driver takes as long to import as the rest of the worker, and 20 MB.
    from mainstem.delivery.redis import RedisSink

    return RedisSink(config, guard=room.guard, timeout_s=room.timeout_s)


_SINKS: Final[Mapping[str, Callable[[Any, SinkRoom], StreamSink]]] = {
    "AZURE_EVENT_HUB": _azure_event_hub,
    "CONFLUENT_CLOUD": _confluent_cloud,
    "EVENTBRIDGE": _eventbridge,
    "GOOGLEPUBSUB": _googlepubsub,
    "KAFKA": _kafka,
    "KINESIS": _kinesis,
    "REDIS": _redis,
}


def open_sink(type_name: str, config: Any, room: SinkRoom) -> StreamSink | None:
    """Return the sending end for a destination's settings; None if no sink knows the type."""
    make = _SINKS.get(type_name)
    return None if make is None else make(config, room)
