"""Route: which sources a destination hears at all, and through which connection."""

from typing import Final

import msgspec

from mainstem.pipeline.outcome import Filtered
from mainstem.workspace.model import Connection, Source, Workspace

SOURCE_NOT_CONFIGURED: Final = Filtered("source not configured")
"""The event's source is no longer in the workspace."""
NOT_CONNECTED: Final = Filtered("not connected")
"""The workspace does not connect this source with this destination: the event is none of its business. It is
counted under this rule, so that every sum holds; a view of pairs leaves such pairs out by it."""
CONNECTION_DISABLED: Final = Filtered("connection disabled")


class Route(msgspec.Struct, frozen=True):
    """An open way from a source to a destination."""

    source: Source
    connection: Connection


def compile_routes(workspace: Workspace, destination_id: str) -> dict[str, Route | Filtered]:
    """Return, for each source of the workspace, its way to the destination or why there is none.

    A disabled source still has its way: the gateway takes no new events for it, and those it had acknowledged
    before are delivered. When two connections join the same pair, the first enabled one counts.
    """
    routes: dict[str, Route | Filtered] = {source.id: NOT_CONNECTED for source in workspace.sources}
    sources = {source.id: source for source in workspace.sources}
    for connection in workspace.connections:
        source = sources.get(connection.source_id)
        if source is None or connection.destination_id != destination_id:
            continue
        if isinstance(routes[source.id], Route):
            continue
        routes[source.id] = Route(source, connection) if connection.enabled else CONNECTION_DISABLED
    return routes
