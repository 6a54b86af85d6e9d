"""Google Pub/Sub: each event as one message of a topic.

Follows RudderStack's settings (https://www.rudderstack.com/docs/destinations/streaming-destinations/google-pub-sub/)
and https://cloud.google.com/pubsub/docs/reference/rest/v1/projects.topics/publish (API v1; both read 2026-11).
Auth: OAuth 2.0, with a service account's key. Limits: 1,000 messages and 10 MB a request, 100 attributes a message.
Sent by `delivery.pubsub`.

The data is the event as JSON. The topic is the one of the event's name, else of its type, else of `*`; names are
compared without case. Attributes are values of the event, looked for in the event itself, its properties, its
traits and its context's traits. The ordering key is the userId, else the anonymousId: subscriptions that want one
user's messages in order get them so.
"""

from typing import Any, ClassVar, Final

import msgspec

from mainstem.destinations.base import DestinationSpec, MapContext, Mapped, Mapper, Refusal
from mainstem.destinations.kit.body import text_of
from mainstem.destinations.kit.refuse import settled
from mainstem.destinations.kit.stream import user_key, whole_event
from mainstem.destinations.kit.values import first
from mainstem.events.canonical import Event
from mainstem.secret import Secret

_PLACES: Final = ("", "properties.", "traits.", "context.traits.")


class Row(msgspec.Struct, frozen=True, rename={"name": "from", "value": "to"}):
    """An event name or type, and what belongs to it."""

    name: str = ""
    value: str = ""


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"projectId", "credentials"})

    project_id: str = ""
    """The Google Cloud project of the topics."""
    credentials: Secret = Secret("")
    """The JSON key of a service account that may publish, as Google gave it."""
    event_to_topic_map: tuple[Row, ...] = ()
    """Rows `{from: event name, event type or *, to: topic id}`."""
    event_to_attributes_map: tuple[Row, ...] = ()
    """Rows `{from: event name, event type or *, to: path of a value}`: attributes to send beside the event, under
    the last piece of the path. Several rows of the same event give several."""
    endpoint: str = ""
    """Another endpoint than Google's global one: a regional one, or a stand-in for it."""


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    topics = {row.name.strip().lower(): row.value for row in config.event_to_topic_map if row.value}
    attributes: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for row in config.event_to_attributes_map:
        if path := row.value.strip():
            read = (path.rpartition(".")[2], tuple(place + path for place in _PLACES))
            attributes.setdefault(row.name.strip().lower(), []).append(read)

    def to_messages(event: Event, context: MapContext) -> Mapped:
        if not event.type:
            return Refusal("`type` is missing; topics go by the event's name or its type")
        name = event.message.get("event")
        wanted = (name.strip().lower() if isinstance(name, str) else "", event.type, "*")
        topic = next((topics[one] for one in wanted if one in topics), "")
        if not topic:
            return Refusal("no topic: add one for this event, its type or * to `eventToTopicMap`")
        found: dict[str, Any] = {}
        for key, paths in next((attributes[one] for one in wanted if one in attributes), ()):
            value = first(event.message, *paths)
            if value is not None:
                found[key] = value
        return (
            whole_event(
                event,
                topic,
                user_key(event),
                {"topicId": topic, "attributes": found},
                tuple((key, text_of(value).encode()) for key, value in found.items()),
            ),
        )

    return settled(to_messages)


SPEC = DestinationSpec(
    name="GOOGLEPUBSUB",
    title="Google Pub/Sub",
    kind="stream",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen", "group", "alias", "merge"}),
    doc_url="https://cloud.google.com/pubsub/docs/reference/rest/v1/projects.topics/publish",
    mapper=make_mapper,
    default_max_batch=500,
    proof="each event",
    limits="1,000 messages and 10 MB a request; 100 attributes a message",
)
