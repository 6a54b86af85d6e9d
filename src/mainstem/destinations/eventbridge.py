"""Amazon EventBridge: each event as one event of a bus.

Follows RudderStack's settings (https://www.rudderstack.com/docs/destinations/streaming-destinations/amazon-eventbridge/)
and https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html (API 2015-10-07; both read 2026-11).
Auth: AWS Signature Version 4. Limits: 10 entries and 256 KB a request. Sent by `delivery.aws`; AWS says for each
entry whether it was taken.

`Detail` is the event, `DetailType` and `Resources` are set here. `Source` is `rudderstack` unless set otherwise, so
that rules which match what RudderStack sent go on matching. EventBridge promises no order.
"""

from typing import ClassVar

import msgspec

from mainstem.destinations.base import DestinationSpec, MapContext, Mapped, Mapper, StreamMessage
from mainstem.destinations.kit.body import json_bytes
from mainstem.destinations.kit.refuse import settled
from mainstem.destinations.kit.stream import user_key
from mainstem.events.canonical import Event
from mainstem.secret import Secret


class Resource(msgspec.Struct, frozen=True):
    """One of `resourceID`."""

    arn: str = ""


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"region", "accessKeyID", "accessKey"})

    detail_type: str
    """What `detail-type` of every event is."""
    region: str = ""
    """The AWS region of the bus, `us-east-1`."""
    event_bus_name: str = ""
    """The bus, by its name or ARN; empty = the account's default bus."""
    resource_id: tuple[Resource, ...] = msgspec.field(default=(), name="resourceID")
    """Rows `{arn: …}`: the resources that events are said to be about."""
    source: str = "rudderstack"
    """What `source` of every event is."""
    access_key_id: str = msgspec.field(default="", name="accessKeyID")
    """Id of an access key that may `events:PutEvents`."""
    access_key: Secret = Secret("")
    """The secret access key."""
    session_token: Secret = Secret("")
    """Belongs to temporary credentials."""
    role_based_auth: bool = False
    """RudderStack's cloud taking a role of yours. Not done here: give an access key."""
    endpoint: str = ""
    """Another endpoint than the region's: a VPC endpoint, or a stand-in for AWS."""


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    fixed = {
        **({"EventBusName": config.event_bus_name} if config.event_bus_name else {}),
        "DetailType": config.detail_type,
        "Resources": [resource.arn for resource in config.resource_id if resource.arn],
        "Source": config.source,
    }

    def to_messages(event: Event, context: MapContext) -> Mapped:
        value, user = json_bytes(event.message), user_key(event)
        message = StreamMessage(
            topic=config.event_bus_name or "default",
            key=user.encode("utf-8", "surrogatepass"),
            value=value,
            extra={**fixed, "Detail": value.decode(), "userId": user},
        )
        return (message,)

    return settled(to_messages)


SPEC = DestinationSpec(
    name="EVENTBRIDGE",
    title="Amazon EventBridge",
    kind="stream",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen", "group", "alias", "merge"}),
    doc_url="https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html",
    mapper=make_mapper,
    default_max_batch=10,
    proof="each event",
    limits="10 events and 256 KB a request",
)
