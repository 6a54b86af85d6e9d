"""The live tail: events as they are made durable, seen from beside the pipeline.

It reads the stream from its end like any other cursor, commits nothing and slows nothing down.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from mainstem.clock import Clock
from mainstem.events.canonical import Event
from mainstem.pipeline.decode import Decoder
from mainstem.pipeline.reading import decode_with
from mainstem.stream.base import OffsetGone, Stream

_WAIT_S: Final = 1.0
_READ_RECORDS: Final = 200
_READ_BYTES: Final = 1024 * 1024
_REFRESH_PER_S: Final = 4
_BEHIND: Final = 5_000
"""When more than this is unread, the tail skips to near the end: it is for looking, not for keeping."""


class EventTail:
    """Yields events from now on."""

    def __init__(self, stream: Stream, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock
        self._decode = decode_with(Decoder(()))
        self.seen = 0
        """Events appended since the tail began, those it skipped included."""

    async def events(self) -> AsyncIterator[Event]:
        """Yield events as they arrive, for ever."""
        positions = {partition: at.next for partition, at in (await self._stream.bounds()).items()}
        while True:
            if not await self._stream.wait(positions, timeout_s=_WAIT_S):
                continue
            bounds = await self._stream.bounds()
            for partition, at in bounds.items():
                if at.next - positions[partition] > _BEHIND:
                    self.seen += at.next - _READ_RECORDS - positions[partition]
                    positions[partition] = at.next - _READ_RECORDS
                try:
                    records = await self._stream.read(
                        partition, positions[partition], max_records=_READ_RECORDS, max_bytes=_READ_BYTES
                    )
                except OffsetGone as gone:
                    positions[partition] = gone.earliest
                    continue
                for record in records:
                    positions[partition] = record.offset + 1
                    self.seen += 1
                    yield self._decode(record)[1]


def describe(event: Event) -> str:
    """Return one line about an event; ids and names only, no properties."""
    what = f"{event.type} “{event.name}”" if event.name else event.type or "?"
    who = event.user_id or event.anonymous_id or "nobody"
    refused = f"  rejected: {event.reason}" if event.kind == "rejected" else ""
    return f"{what}  {who}  {event.source_id}  {event.message_id}{refused}"


async def show_tail(tail: EventTail, console: Console) -> None:
    """Keep one line of the terminal up to date with the newest event and the count."""
    began = tail._clock.monotonic()
    with Live(
        Text("waiting for events …"), console=console, refresh_per_second=_REFRESH_PER_S, transient=True
    ) as live:
        try:
            async for event in tail.events():
                rate = tail.seen / max(1.0, tail._clock.monotonic() - began)
                text = f"{tail.seen:,} events, {rate:,.0f}/s · {describe(event)}"
                live.update(Text(text, no_wrap=True, overflow="ellipsis"))
        except asyncio.CancelledError:
            live.update(Text(""))
            raise
