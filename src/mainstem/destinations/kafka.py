"""Apache Kafka: each event as one message, keyed by its user.

Follows RudderStack's Kafka settings (https://www.rudderstack.com/docs/destinations/streaming-destinations/kafka/)
and the producer semantics of https://kafka.apache.org/documentation/#producerconfigs. The value is the
canonical event as JSON. The key is the userId, else the anonymousId, so one user's messages are in one
partition in order. Sent by `delivery.kafka` with acks=all and an idempotent producer.
"""

from typing import Any, ClassVar

import msgspec

from mainstem.destinations.base import DestinationSpec, MapContext, Mapped, Mapper, Refusal
from mainstem.destinations.kit.refuse import settled
from mainstem.destinations.kit.stream import user_key, whole_event
from mainstem.destinations.kit.values import integration_options, present
from mainstem.events.canonical import Event
from mainstem.secret import Secret


class TopicFor(msgspec.Struct, frozen=True, rename={"name": "from", "topic": "to"}):
    """An event name or type, and the topic for it."""

    name: str = ""
    topic: str = ""


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"hostName"})

    host_name: str = ""
    """Broker host; several separated by commas, each with its own port if it is not `port`."""
    port: int = 9092
    """Port of every broker in `hostName` that names none."""
    topic: str = ""
    """Where events go that nothing below sends elsewhere."""
    ssl_enabled: bool = False
    """Connect with TLS."""
    ca_certificate: str = ""
    """PEM text of the authority that signed the broker's certificate; empty = the system's."""
    use_sasl: bool = msgspec.field(default=False, name="useSASL")
    """Log in with the user and password below."""
    sasl_type: str = "plain"
    """plain, sha256 or sha512."""
    username: str = ""
    """For SASL."""
    password: Secret = Secret("")
    """For SASL."""
    enable_multi_topic: bool = False
    """Use the two tables below."""
    event_type_to_topic_map: tuple[TopicFor, ...] = ()
    """Rows `{from: event type, to: topic}`."""
    event_to_topic_map: tuple[TopicFor, ...] = ()
    """Rows `{from: event name, to: topic}`, for track events; goes before the table by type."""

    convert_to_avro: bool = False
    """RudderStack's Avro encoding. Not done here: a destination that asks for it keeps its events and sends none."""

    def __post_init__(self) -> None:
        if self.sasl_type not in ("plain", "sha256", "sha512"):
            raise ValueError("`saslType` is not one of plain, sha256, sha512")
        if self.host_name and not self.host_name.strip():
            raise ValueError("`hostName` is empty; give the brokers' host names")

    @property
    def bootstrap_servers(self) -> str:
        """host:port, comma-separated."""
        hosts = [host.strip() for host in self.host_name.split(",") if host.strip()]
        return ",".join(host if _has_port(host) else f"{host}:{self.port}" for host in hosts)


def _has_port(host: str) -> bool:
    _, colon, port = host.rpartition(":")
    return bool(colon) and port.isdigit()


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    by_event = {row.name: row.topic for row in config.event_to_topic_map if row.name and row.topic}
    by_type = {row.name: row.topic for row in config.event_type_to_topic_map if row.name and row.topic}

    def topic_of(event: Event, options: dict[str, Any]) -> str:
        wanted = options.get("topic")
        if isinstance(wanted, str) and wanted:
            return wanted
        if config.enable_multi_topic:
            if event.type == "track" and event.name in by_event:
                return by_event[event.name]
            if event.type in by_type:
                return by_type[event.type]
        return config.topic

    def to_messages(event: Event, context: MapContext) -> Mapped:
        # What an event asks for itself: `integrations: {Kafka: {topic: …, schemaId: …}}`.
        options = integration_options(event.message, "Kafka", "KAFKA", "kafka")
        topic = topic_of(event, options)
        if not topic:
            return Refusal("no topic: set `topic`, a topic for this event, or integrations.Kafka.topic")
        schema = {"schemaId": options["schemaId"]} if present(options.get("schemaId")) else {}
        return (whole_event(event, topic, user_key(event), {"topic": topic, **schema}),)

    return settled(to_messages)


SPEC = DestinationSpec(
    name="KAFKA",
    title="Apache Kafka",
    kind="stream",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen", "group", "alias", "merge"}),
    doc_url="https://kafka.apache.org/documentation/#producerapi",
    mapper=make_mapper,
    default_concurrency=1000,
)
