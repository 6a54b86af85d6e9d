"""Decode: from a record of the stream to the event that every destination shares.

stream -> **decode** -> plans. Done once per record, whatever the number of destinations: stored form,
canonical form, enrichment. A record that can't be read is an event too, of kind `rejected`, so that the loop
goes on, the books count it and `explain` shows it.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from mainstem.events.canonical import Event, canonical_event
from mainstem.events.geo import GeoDatabase
from mainstem.events.stored import REJECTED, StoredEvent, decode_stored
from mainstem.pipeline.steps.enrich import Enrich, compile_enrichment
from mainstem.workspace.model import Source

DAMAGED: Final = "damaged record"
"""The reason of a record that is not what the gateway wrote."""


_UNREADABLE: Final = (msgspec.DecodeError, ValueError, OverflowError, RecursionError)


class Decoder:
    """Reads records as one workspace snapshot says (which sources are enriched, and how)."""

    __slots__ = ("_enrichments",)

    def __init__(self, sources: Iterable[Source], geo: GeoDatabase | None = None) -> None:
        """Compile the enrichment of each source; `geo` is the operator's database, if there is one."""
        compiled = {source.id: compile_enrichment(source, geo) for source in sources}
        self._enrichments: dict[str, tuple[Enrich, ...]] = {
            source_id: enrichment for source_id, enrichment in compiled.items() if enrichment
        }

    def decode(
        self,
        partition: int,
        offset: int,
        sequence: int,
        value: bytes,
        *,
        key: bytes = b"",
        timestamp_ms: int = 0,
    ) -> tuple[StoredEvent, Event]:
        """Return the stored and the canonical event of a record. Never raises for what the record holds.

        `key` and `timestamp_ms` are the record's own: of a damaged record they still tell the source and the
        time, so that the books put it where its append was counted.
        """
        try:
            stored = decode_stored(value)
        except _UNREADABLE:
            stored = StoredEvent(
                source_id=_source_of(key),
                message_id=f"damaged-{partition}-{offset}",
                type="",
                received_at_ms=timestamp_ms,
                raw=value,
                kind=REJECTED,
                reason=DAMAGED,
            )
        try:
            event = canonical_event(stored, partition=partition, offset=offset, sequence=sequence)
        except _UNREADABLE:
            stored = msgspec.structs.replace(stored, kind=REJECTED, reason=DAMAGED)
            event = canonical_event(stored, partition=partition, offset=offset, sequence=sequence)
        return stored, self.enriched(event)

    def enriched(self, event: Event) -> Event:
        """Return the event with what its source asks for: its message is the caller's own, and changed."""
        if self._enrichments and event.kind != REJECTED:
            for enrich in self._enrichments.get(event.source_id, ()):
                enrich(event.message)
        return event


def _source_of(key: bytes) -> str:
    # The ordering key, `<source>:u:<user>` or `<source>:a:<anonymous>` (events.ordering).
    text = key.decode("utf-8", "replace")
    ends = [at for at in (text.find(":u:"), text.find(":a:")) if at >= 0]
    return text[: min(ends)] if ends else ""
