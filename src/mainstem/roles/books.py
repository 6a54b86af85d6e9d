"""The books: for every destination, received = delivered + filtered + rejected + dead + pending.

Both sides are counted apart from each other. *Received* is what the log holds for the cursor: offsets from
where it began up to the end. The right side is what the ledger settled, plus what is parked, plus what lies
above the position. They are read one after the other while events flow, so the log is read first: a settled
event is never missing on the left.
"""

from collections import defaultdict
from collections.abc import Mapping

import msgspec

from mainstem.ledger.base import Ledger, Position
from mainstem.pipeline.outcome import DEAD, DELIVERED, FILTERED, REJECTED
from mainstem.stream.base import Stream


class Line(msgspec.Struct, kw_only=True):
    """One source at one destination in one hour."""

    source_id: str
    hour: int
    """Hours since the Unix epoch of receivedAt."""
    received: int = 0
    """Of this source in this hour, on the gateway's side (accepted and rejected events)."""
    delivered: int = 0
    filtered: dict[str, int] = msgspec.field(default_factory=dict)
    """By rule."""
    rejected: dict[str, int] = msgspec.field(default_factory=dict)
    dead: dict[str, int] = msgspec.field(default_factory=dict)

    @property
    def settled(self) -> int:
        """Everything that has an outcome."""
        return (
            self.delivered
            + sum(self.filtered.values())
            + sum(self.rejected.values())
            + sum(self.dead.values())
        )


class Account(msgspec.Struct, kw_only=True):
    """One cursor's books."""

    cursor: str
    received: int
    """Records of the log from where the cursor began up to now."""
    delivered: int
    filtered: int
    rejected: int
    dead: int
    parked: int
    unsettled: int
    """Above the position: not yet read, in flight or waiting."""
    lines: list[Line]

    @property
    def pending(self) -> int:
        """Received, without an outcome yet."""
        return self.parked + self.unsettled

    @property
    def balanced(self) -> bool:
        """Whether both sides agree."""
        return self.received == self.delivered + self.filtered + self.rejected + self.dead + self.pending


def is_flow(cursor: str) -> bool:
    """Whether a cursor of the ledger is a destination's or a replay's flow (and not an archive's plan)."""
    return not cursor.startswith("plan:")


async def read_all_books(stream: Stream, ledger: Ledger, cursor: str = "") -> list[Account]:
    """Return the books of one cursor, or of all flows."""
    cursors = [cursor] if cursor else [name for name in sorted(await ledger.cursors()) if is_flow(name)]
    return [await read_books(stream, ledger, name) for name in cursors]


async def read_books(stream: Stream, ledger: Ledger, cursor: str) -> Account:
    """Return the books of one cursor."""
    bounds = await stream.bounds()
    tallies = await stream.tallies()
    before = await _standing(ledger, cursor)
    while True:
        # The position and the counts are separate reads: take them again if the cursor moved in between.
        counts = await ledger.counts(cursor)
        after = await _standing(ledger, cursor)
        if after == before:
            break
        before = after
    positions, parked = after
    totals: dict[str, int] = defaultdict(int)
    lines: dict[tuple[str, int], Line] = {}
    for key, count in counts.items():
        totals[key.outcome] += count
        line = lines.setdefault((key.source_id, key.hour), Line(source_id=key.source_id, hour=key.hour))
        if key.outcome == DELIVERED:
            line.delivered += count
        else:
            reasons = {FILTERED: line.filtered, REJECTED: line.rejected, DEAD: line.dead}[key.outcome]
            reasons[key.reason] = reasons.get(key.reason, 0) + count
    for (source_id, hour), received in _received_by_source(tallies).items():
        lines.setdefault((source_id, hour), Line(source_id=source_id, hour=hour)).received = received
    received = unsettled = 0
    ended = await _ended(ledger, cursor)
    for partition, at in positions.items():
        # An archive's replay counts in files and lines, of which the stream knows nothing.
        known = bounds.get(partition) if not ended else None
        end = at.next_offset if known is None else max(known.next, at.next_offset)
        received += end - at.start_offset
        unsettled += end - at.next_offset
    return Account(
        cursor=cursor,
        received=received,
        delivered=totals[DELIVERED],
        filtered=totals[FILTERED],
        rejected=totals[REJECTED],
        dead=totals[DEAD],
        parked=parked,
        unsettled=unsettled,
        lines=[lines[place] for place in sorted(lines)],
    )


async def _ended(ledger: Ledger, cursor: str) -> bool:
    """Whether nothing is offered to the cursor any more: a replay that is over, or one from an archive."""
    return any(
        cursor == f"replay:{replay.id}"
        and (replay.origin == "archive" or replay.state not in ("waiting", "running"))
        for replay in await ledger.replays()
    )


async def _standing(ledger: Ledger, cursor: str) -> tuple[Mapping[int, Position], int]:
    return await ledger.positions(cursor), sum((await ledger.parked_keys(cursor)).values())


def _received_by_source(tallies: Mapping[tuple[str, int], int]) -> Mapping[tuple[str, int], int]:
    received: dict[tuple[str, int], int] = defaultdict(int)
    for (tally, hour), count in tallies.items():
        received[tally.removeprefix("rejected:"), hour] += count
    return received
