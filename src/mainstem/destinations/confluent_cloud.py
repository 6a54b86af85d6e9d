"""Confluent Cloud: each event as one message of a Kafka topic that Confluent runs.

Follows RudderStack's settings (https://www.rudderstack.com/docs/destinations/streaming-destinations/confluent-cloud/)
and https://docs.confluent.io/cloud/current/client-apps/config-client.html (both read 2026-11). Auth: an API key and
its secret, by SASL PLAIN over TLS. Limits: 8 MB a message (basic and standard clusters).

The value is the event as JSON. The key is the userId, else the anonymousId, so one user's messages are in one
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

    NEEDED_TO_SEND: ClassVar = frozenset({"bootstrapServer", "topic", "apiKey", "apiSecret"})

    bootstrap_server: str = ""
    """The cluster's bootstrap server with its port, `pkc-a1b2c.us-east-1.aws.confluent.cloud:9092`."""
    topic: str = ""
    """Where events go."""
    api_key: str = ""
    """A key that may write to the topic."""
    api_secret: Secret = Secret("")
    """The key's secret."""


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""

    def to_messages(event: Event, context: MapContext) -> Mapped:
        return (whole_event(event, config.topic, user_key(event)),)

    return settled(to_messages)


SPEC = DestinationSpec(
    name="CONFLUENT_CLOUD",
    title="Confluent Cloud",
    kind="stream",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen", "group", "alias", "merge"}),
    doc_url="https://docs.confluent.io/cloud/current/client-apps/config-client.html",
    mapper=make_mapper,
    default_concurrency=1000,
    limits="8 MB a message",
)
