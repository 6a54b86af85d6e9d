"""Azure Event Hubs: each event as one event of a hub, through its Kafka endpoint.

Follows RudderStack's settings (https://www.rudderstack.com/docs/destinations/streaming-destinations/azure-event-hubs/)
and https://learn.microsoft.com/en-us/azure/event-hubs/azure-event-hubs-apache-kafka-overview (both read 2026-11).
Auth: the namespace's connection string, by SASL PLAIN over TLS with the user `$ConnectionString`. Limits: the
standard tier or higher (basic has no Kafka endpoint), 1 MB an event.

The value is the event as JSON. The key is the userId, else the anonymousId, so one user's events are in one
partition in order. Sent as to any Kafka, with acks=all and an idempotent producer.
"""

from typing import ClassVar

import msgspec

from mainstem.destinations.base import DestinationSpec, MapContext, Mapped, Mapper
from mainstem.destinations.kit.refuse import settled
from mainstem.destinations.kit.stream import user_key, whole_event
from mainstem.events.canonical import Event
from mainstem.secret import Secret


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"bootstrapServer", "topic", "eventHubsConnectionString"})

    bootstrap_server: str = ""
    """The namespace's host with its port, `NAMESPACE.servicebus.windows.net:9093`."""
    topic: str = ""
    """The hub's name."""
    event_hubs_connection_string: Secret = Secret("")
    """The connection string of a policy that may send."""


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""

    def to_messages(event: Event, context: MapContext) -> Mapped:
        return (whole_event(event, config.topic, user_key(event)),)

    return settled(to_messages)


SPEC = DestinationSpec(
    name="AZURE_EVENT_HUB",
    title="Azure Event Hubs",
    kind="stream",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen", "group", "alias", "merge"}),
    doc_url="https://learn.microsoft.com/en-us/azure/event-hubs/azure-event-hubs-apache-kafka-overview",
    mapper=make_mapper,
    default_concurrency=1000,
    limits="1 MB an event; standard tier or higher",
)
