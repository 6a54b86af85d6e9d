"""LaunchDarkly segments: who is in an audience, to a synced segment of LaunchDarkly.

Follows https://launchdarkly.com/docs/home/flags/rudderstack and the guide that it refers to,
https://www.rudderstack.com/docs/destinations/reverse-etl-destinations/launchdarkly-segments/setup-guide (API v2,
read 2026-11). Auth: an access token in the Authorization header. An `audiencelist` event carries people in
`properties.listData.add` and `.remove`; of each only `identifier` is sent, the key of a LaunchDarkly context.
"""

from typing import Any, ClassVar, Final

import msgspec

from mainstem.destinations.base import DestinationSpec, MapContext, Mapper, Payloads, Schema
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.values import get, mapping, present, sequence
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_URL: Final = "https://app.launchdarkly.com/api/v2/segment-targets/rudderstack"
_ACTIONS: Final = ("add", "remove")


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"audienceId", "accessToken", "clientSideId"})

    audience_id: str = ""
    """The segment's id, chosen by you: the first event with it makes the segment."""
    audience_name: str = ""
    """The segment's name; empty = its id."""
    access_token: Secret = Secret("")
    """An access token that may write segments."""
    client_side_id: str = ""
    """The client-side id of the environment."""
    audience_type: str = ""
    """The kind of context that identifiers are keys of; empty = LaunchDarkly's default, `user`."""


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    token = config.access_token.reveal()
    headers = {"Authorization": token, "Content-Type": "application/json"}
    secrets = (token,)
    segment = {
        "environmentId": config.client_side_id,
        "cohortId": config.audience_id,
        "cohortName": config.audience_name or config.audience_id,
    }
    if config.audience_type:
        segment["contextKind"] = config.audience_type

    def to_calls(event: Event, context: MapContext) -> Payloads:
        given = mapping(get(event.message, "properties.listData"))
        if not given:
            refuse("`properties.listData` is missing or empty; send who to `add` and who to `remove`")
        if any(name not in _ACTIONS for name in given):
            refuse(
                "`properties.listData` holds other lists than `add` and `remove`; LaunchDarkly has no others"
            )
        lists = {name: _ids(given.get(name)) for name in _ACTIONS}
        if not any(lists.values()):
            refuse("nobody in `properties.listData` has an `identifier`; LaunchDarkly knows people by it")
        return (json_call(_URL, {**segment, "listData": lists}, headers=headers, secrets=secrets),)

    return settled(to_calls)


def _ids(people: Json) -> list[Json]:
    identifiers = (mapping(person).get("identifier") for person in sequence(people))
    return [{"id": identifier} for identifier in identifiers if present(identifier)]


_IDS_SCHEMA: Final = {
    "type": "array",
    "items": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}},
}

SPEC = DestinationSpec(
    name="LAUNCHDARKLY_AUDIENCE",
    title="LaunchDarkly segments",
    kind="http",
    config=Config,
    message_types=frozenset({"audiencelist"}),
    doc_url="https://launchdarkly.com/docs/home/flags/rudderstack",
    mapper=make_mapper,
    schemas=(
        Schema(
            label="",
            schema={
                "type": "object",
                "required": ["environmentId", "cohortId", "cohortName", "listData"],
                "properties": {
                    "listData": {"type": "object", "properties": {"add": _IDS_SCHEMA, "remove": _IDS_SCHEMA}}
                },
            },
            doc_url="https://launchdarkly.com/docs/home/flags/rudderstack",
        ),
    ),
)
