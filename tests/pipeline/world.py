"""A small world for the tests of the pure core: one source, one destination, a mapping that writes JSON."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec

from mainstem.destinations.base import DestinationSpec, MapContext, Mapped, Mapper, Request
from mainstem.events.canonical import Event, canonical_event
from mainstem.events.stored import StoredEvent
from mainstem.pipeline.plan import DestinationPlan, compile_plan
from mainstem.workspace.model import Connection, Destination, Filter, Source, Workspace

RECEIVED_MS = 1_767_225_600_000
"""2026-01-01T00:00:00.000Z"""
TYPES = frozenset(("identify", "track", "page", "screen", "group", "alias"))
SOURCE = Source(id="shop", name="Shop", write_keys=("key",))
DESTINATION = Destination(id="d1", name="crm", type="WEBHOOK", display_name="My CRM")


class Settings(msgspec.Struct, frozen=True):
    url: str = "https://hooks.example.com/in"


MapFunction = Callable[[Event, MapContext], Any]


def write_json(event: Event, context: MapContext) -> Mapped:
    body = msgspec.json.encode(
        {"message": event.message, "now": context.now_ms, "source": context.source_name}
    )
    return (Request("POST", "https://hooks.example.com/in", (("Content-Type", "application/json"),), body),)


def spec(mapping: MapFunction | None = write_json) -> DestinationSpec:
    def made(_settings: Any) -> Mapper:
        return cast("Mapper", mapping)

    return DestinationSpec(
        name="WEBHOOK",
        title="Webhook",
        kind="http" if mapping is not None else "files",
        config=Settings,
        message_types=TYPES,
        doc_url="https://example.com",
        mapper=made if mapping is not None else None,
    )


def event(message: Mapping[str, Any] | None = None, *, source_id: str = "shop", **stored: Any) -> Event:
    """Return the canonical event of a message (a track of user-1, unless it says otherwise)."""
    full = {"type": "track", "event": "Order Completed", "userId": "user-1", **(message or {})}
    kind = full["type"]
    return canonical_event(
        StoredEvent(
            source_id=source_id,
            message_id=str(full.get("messageId", "m-1")),
            type=kind if isinstance(kind, str) else "track",
            received_at_ms=RECEIVED_MS,
            raw=msgspec.json.encode(full),
            **stored,
        )
    )


def workspace(
    *filters: Filter,
    source: Source = SOURCE,
    destination: Destination = DESTINATION,
    connected: bool = True,
    enabled: bool = True,
    suppressed: frozenset[str] = frozenset(),
) -> Workspace:
    connection = Connection(
        source_id=source.id, destination_id=destination.id, enabled=enabled, filters=tuple(filters)
    )
    return Workspace(
        id="w",
        version="1",
        sources=(source, Source(id="other", name="Other", write_keys=("other",))),
        destinations=(destination,),
        connections=(connection,) if connected else (),
        suppressed_user_ids=suppressed,
    )


def plan(snapshot: Workspace | None = None, mapping: MapFunction | None = write_json) -> DestinationPlan:
    snapshot = snapshot or workspace()
    return compile_plan(snapshot, snapshot.destinations[0], spec(mapping))
