"""Segment: each event on to another Segment workspace's source, or to anything that speaks its HTTP API.

Follows https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/ and
https://segment.com/docs/connections/spec/common/ (both read 2026-11). Auth: the source's write key, as the user of
HTTP Basic. Limits: 32 kB an event, 500 kB and 2,500 events a batch.

The event goes as it is, with the fields that the spec has: its messageId, so that Segment drops what it gets twice,
and its timestamp.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from mainstem.destinations.base import (
    Batch,
    Batcher,
    Call,
    DestinationSpec,
    MapContext,
    Mapped,
    Mapper,
    Refusal,
    Unit,
)
from mainstem.destinations.kit.batching import together, with_body
from mainstem.destinations.kit.call import basic_auth, json_call
from mainstem.destinations.kit.refuse import settled
from mainstem.destinations.kit.values import pick
from mainstem.destinations.kit.wire import url_error
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_FIELDS: Final = (
    "type",
    "messageId",
    "userId",
    "anonymousId",
    "groupId",
    "previousId",
    "event",
    "name",
    "category",
    "traits",
    "properties",
    "context",
    "integrations",
    "timestamp",
)
_MOST: Final = 100
_MOST_BYTES: Final = 450_000
"""500 kB with room for the batch around the events."""


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    write_key: Secret
    """The write key of the source that events go to."""
    endpoint: str = "https://api.segment.io/v1/batch"
    """Where batches are taken: Segment's servers in the EU are https://events.eu1.segmentapis.com/v1/batch."""

    def __post_init__(self) -> None:
        if problem := url_error(self.endpoint):
            raise ValueError(f"`endpoint` {problem}")


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    authorization = basic_auth(config.write_key.reveal(), "")
    headers = {"Content-Type": "application/json", "Authorization": authorization}
    secrets = (authorization.rpartition(" ")[2],)

    def to_calls(event: Event, context: MapContext) -> Mapped:
        if not (event.user_id or event.anonymous_id):
            return Refusal("`userId` and `anonymousId` are missing; Segment needs one of them")
        item = pick(event.message, _FIELDS)
        item["type"] = event.type
        item.setdefault("messageId", event.message_id)
        call = json_call(
            config.endpoint,
            {"batch": [item]},
            headers=headers,
            user_id=event.user_id or event.anonymous_id,
            extra={"statusCode": 200},
            secrets=secrets,
        )
        return (call,)

    return settled(to_calls)


def make_batcher(config: Config) -> Batcher:
    """Return the batching for these settings."""

    def batch(units: Sequence[Unit]) -> Sequence[Batch]:
        return together(
            units,
            key=lambda unit: unit.calls[0].url,
            merge=_merged,
            most=_MOST,
            most_bytes=_MOST_BYTES,
        )

    return batch


def _merged(calls: Sequence[Call]) -> Call:
    items = [item for call in calls if call.body is not None for item in call.body.value["batch"]]
    return with_body(calls[0], {"batch": items})


SPEC = DestinationSpec(
    name="SEGMENT",
    title="Segment",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen", "group", "alias"}),
    doc_url="https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/",
    mapper=make_mapper,
    batcher=make_batcher,
    default_max_batch=_MOST,
    limits="32 kB an event, 500 kB a batch",
)
