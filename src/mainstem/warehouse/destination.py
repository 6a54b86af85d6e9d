"""From an engine to a destination type: what the catalog of destinations shows of it."""

from mainstem.destinations.base import DestinationSpec
from mainstem.warehouse.loader import LoaderSpec

TYPES = frozenset({"identify", "track", "page", "screen", "group", "alias", "merge"})


def destination_of(spec: LoaderSpec) -> DestinationSpec:
    """Return the destination type of an engine."""
    return DestinationSpec(
        name=spec.name,
        title=spec.title,
        kind="tables",
        config=spec.config,
        message_types=TYPES,
        doc_url=spec.doc_url,
        limits=f"{spec.capabilities.max_columns} columns a table, {spec.capabilities.max_name} characters a name",
    )
