"""Statsig: each event as it is, to the endpoint that reads RudderStack's format.

Follows https://docs.statsig.com/integrations/data-connectors/rudderstack (read 2026-11). Auth: a server secret key in
the header STATSIG-API-KEY. Statsig makes a custom event of each call, with the userId as the user, and the anonymousId
as a custom id.
"""

from typing import Any, ClassVar, Final

import msgspec

from mainstem.destinations.base import DestinationSpec, MapContext, Mapper, Payloads
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_URL: Final = "https://api.statsig.com/v1/webhooks/rudderstack"
_TYPES: Final = frozenset(("identify", "track", "page", "screen", "group", "alias"))


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"secretKey"})

    secret_key: Secret = Secret("")
    """A server secret key of the project."""


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    key = config.secret_key.reveal()
    headers = {"content-type": "application/json", "STATSIG-API-KEY": key}
    secrets = (key,)

    def to_calls(event: Event, context: MapContext) -> Payloads:
        if event.type not in _TYPES:
            refuse("`type` is missing or none that Statsig reads")
        return (json_call(_URL, event.message, headers=headers, secrets=secrets),)

    return settled(to_calls)


SPEC = DestinationSpec(
    name="STATSIG",
    title="Statsig",
    kind="http",
    config=Config,
    message_types=_TYPES,
    doc_url="https://docs.statsig.com/integrations/data-connectors/rudderstack",
    mapper=make_mapper,
)
