"""The flow of a warehouse: its engine, its rules of rows, put together. Imported when a workspace has one: Arrow takes
60 MB and a moment."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mainstem.clock import Clock
from mainstem.events.canonical import Event, canonical_event
from mainstem.events.stored import StoredEvent
from mainstem.pipeline.decode import Decoder
from mainstem.pipeline.plan import DestinationPlan
from mainstem.roles.batches import BatchFlow
from mainstem.roles.surroundings import FlowRefused, Surroundings
from mainstem.warehouse.loader import Loader, LoaderSpec
from mainstem.warehouse.loaders.catalog import find_loader
from mainstem.warehouse.naming import namespace_of
from mainstem.warehouse.rows import Facts, Row, RowsRefused, compile_rows, options_of
from mainstem.warehouse.settings import WarehouseSettings
from mainstem.warehouse.shapes import Shapes, shapes_of
from mainstem.warehouse.writer import WarehouseWriter


class Tables(msgspec.Struct, frozen=True):
    """A warehouse's rules and engine."""

    plan: DestinationPlan
    spec: LoaderSpec
    config: WarehouseSettings
    to_rows: Callable[[Event], tuple[str, Sequence[Row]]]
    """The namespace and the rows of an event. Raises RowsRefused."""
    decode: Callable[[StoredEvent], Event]
    shapes: Shapes | None
    """The fast way of `to_rows`."""
    namespaces: Mapping[str, str]
    """Of each source that has a way here."""
    data_dir: Path

    def open(self, namespace: str) -> Loader:
        """Connect, in a namespace. Blocking.

        Raises:
            WarehouseError: it can't be reached.
        """
        return self.spec.open(self.config, namespace, self.data_dir)


def tables_of(plan: DestinationPlan, decoder: Decoder, data_dir: Path) -> Tables:
    """Return a warehouse's rules and engine.

    Raises:
        FlowRefused: no engine of this type is here.
    """
    destination = plan.destination
    spec = find_loader(plan.spec.name)
    if spec is None:
        raise FlowRefused(f"destination {destination.id}: no engine for type {plan.spec.name}")
    config = destination.config
    options = options_of(config, spec.provider)
    compiled = compile_rows(options)
    facts = {source_id: _facts(plan.facts_of(source_id)) for source_id in plan.source_names}
    namespaces = {
        source_id: namespace_of(name, spec.provider, configured=config.namespace)
        for source_id, name in plan.source_names.items()
    }

    def to_rows(event: Event) -> tuple[str, Sequence[Row]]:
        namespace = namespaces.get(event.source_id) or namespace_of(
            event.source_id, spec.provider, configured=config.namespace
        )
        try:
            return namespace, compiled(event.message, facts.get(event.source_id) or Facts())
        except RowsRefused as refusal:
            refusal.namespace = namespace
            raise

    def decode(stored: StoredEvent) -> Event:
        return decoder.enriched(canonical_event(stored))

    return Tables(plan, spec, config, to_rows, decode, shapes_of(options, to_rows), namespaces, data_dir)


def open_warehouse_flow(plan: DestinationPlan, decoder: Decoder, around: Surroundings) -> BatchFlow:
    """Return the flow of a warehouse.

    Raises:
        FlowRefused: no engine of this type is here.
    """
    return BatchFlow(plan, around, writer_of(tables_of(plan, decoder, around.data_dir), around.clock))


def writer_of(tables: Tables, clock: Clock) -> WarehouseWriter:
    """Return the writer of a warehouse."""
    return WarehouseWriter(
        destination_id=tables.plan.destination.id,
        spec=tables.spec,
        config=tables.config,
        decode=tables.decode,
        to_rows=tables.to_rows,
        shapes=tables.shapes,
        data_dir=tables.data_dir,
        clock=clock,
    )


def _facts(known: Mapping[str, Any]) -> Facts:
    return Facts(
        source_id=known.get("sourceId", ""),
        source_type=known.get("sourceType", ""),
        destination_id=known.get("destinationId", ""),
        destination_type=known.get("destinationType", ""),
    )
