"""The flow of a warehouse: its engine, its rules of rows, put together. Imported when a workspace has one: Arrow takes
60 MB and a moment."""

from collections.abc import Mapping, Sequence
from typing import Any

from mainstem.events.canonical import Event, canonical_event
from mainstem.events.stored import StoredEvent
from mainstem.pipeline.decode import Decoder
from mainstem.pipeline.plan import DestinationPlan
from mainstem.roles.batches import BatchFlow
from mainstem.roles.surroundings import FlowRefused, Surroundings
from mainstem.warehouse.loaders.catalog import find_loader
from mainstem.warehouse.naming import namespace_of
from mainstem.warehouse.rows import Facts, Row, RowsRefused, compile_rows, options_of
from mainstem.warehouse.writer import WarehouseWriter


def open_warehouse_flow(plan: DestinationPlan, decoder: Decoder, around: Surroundings) -> BatchFlow:
    """Return the flow of a warehouse.

    Raises:
        FlowRefused: no engine of this type is here.
    """
    destination = plan.destination
    spec = find_loader(plan.spec.name)
    if spec is None:
        raise FlowRefused(f"destination {destination.id}: no engine for type {plan.spec.name}")
    config = destination.config
    to_rows = compile_rows(options_of(config, spec.provider))
    namespaces = {
        source_id: namespace_of(name, spec.provider, configured=config.namespace)
        for source_id, name in plan.source_names.items()
    }

    facts = {source_id: _facts(plan.facts_of(source_id)) for source_id in plan.source_names}

    def rows_of(event: Event) -> tuple[str, Sequence[Row]]:
        namespace = namespaces.get(event.source_id) or namespace_of(
            event.source_id, spec.provider, configured=config.namespace
        )
        try:
            return namespace, to_rows(event.message, facts.get(event.source_id) or Facts())
        except RowsRefused as refusal:
            refusal.namespace = namespace
            raise

    def decode(stored: StoredEvent) -> Event:
        return decoder.enriched(canonical_event(stored))

    writer = WarehouseWriter(
        destination_id=destination.id,
        spec=spec,
        config=config,
        decode=decode,
        to_rows=rows_of,
        data_dir=around.data_dir,
        clock=around.clock,
    )
    return BatchFlow(plan, decoder, around, writer)


def _facts(known: Mapping[str, Any]) -> Facts:
    return Facts(
        source_id=known.get("sourceId", ""),
        source_type=known.get("sourceType", ""),
        destination_id=known.get("destinationId", ""),
        destination_type=known.get("destinationType", ""),
    )
