"""Amazon Kinesis: each event as one record of a data stream.

Follows RudderStack's settings (https://www.rudderstack.com/docs/destinations/streaming-destinations/amazon-kinesis/)
and https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html (API 2013-12-02; both read 2026-11).
Auth: AWS Signature Version 4. Limits: 500 records and 10 MiB a request, 10 MiB a record; a shard takes 1,000 records
and 1 MiB a second. Sent by `delivery.aws`; AWS says for each record whether it was taken.

The record's data is the event as JSON. The partition key is the userId, else the anonymousId, so one user's records
are in one shard; with `useMessageId` it is the messageId, which spreads them over all shards without order.
"""

from typing import ClassVar, Final

import msgspec

from mainstem.destinations.base import DestinationSpec, MapContext, Mapped, Mapper
from mainstem.destinations.kit.refuse import settled
from mainstem.destinations.kit.stream import user_key, whole_event
from mainstem.destinations.kit.values import sha256
from mainstem.events.canonical import Event
from mainstem.secret import Secret

_LONGEST_KEY: Final = 256


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"region", "stream", "accessKeyID", "accessKey"})

    region: str = ""
    """The AWS region of the stream, `us-east-1`."""
    stream: str = ""
    """The stream's name."""
    access_key_id: str = msgspec.field(default="", name="accessKeyID")
    """Id of an access key that may `kinesis:PutRecords`."""
    access_key: Secret = Secret("")
    """The secret access key."""
    session_token: Secret = Secret("")
    """Belongs to temporary credentials."""
    role_based_auth: bool = False
    """RudderStack's cloud taking a role of yours. Not done here: give an access key."""
    use_message_id: bool = False
    """Partition by messageId instead of by user."""
    endpoint: str = ""
    """Another endpoint than the region's: a VPC endpoint, or a stand-in for AWS."""


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""

    def to_messages(event: Event, context: MapContext) -> Mapped:
        key = event.message_id if config.use_message_id else user_key(event) or event.message_id
        return (whole_event(event, config.stream, key if len(key) <= _LONGEST_KEY else sha256(key)),)

    return settled(to_messages)


SPEC = DestinationSpec(
    name="KINESIS",
    title="Amazon Kinesis",
    kind="stream",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen", "group", "alias", "merge"}),
    doc_url="https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html",
    mapper=make_mapper,
    default_max_batch=200,
    proof="each event",
    limits="500 records and 10 MiB a request; 1,000 records and 1 MiB a second for each shard",
)
