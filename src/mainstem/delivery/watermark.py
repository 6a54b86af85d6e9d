"""How far one partition is settled: events finish in any order, the position moves over what is finished.

offsets   …  40   41   42   43   44   45
fate         ok   ok   …    ok   skip ok        42 is still being sent
position ───────────▶│ 42: the next to settle; 43 to 45 wait in memory for it
"""

from collections import Counter, deque

from mainstem.delivery.item import DROPPED, PENDING, Item
from mainstem.ledger.base import CountKey


class Skips:
    """A run of records that need no delivery, kept as counts."""

    __slots__ = ("counts", "last_offset")

    def __init__(self) -> None:
        self.last_offset = -1
        self.counts: Counter[CountKey] = Counter()


class Watermark:
    """The records of one partition from the settled position on, in order."""

    __slots__ = ("_slots", "dropped", "in_flight", "next_offset", "partition", "settled_offset")

    def __init__(self, partition: int, next_offset: int) -> None:
        self.partition = partition
        self.settled_offset = next_offset
        """The position as the ledger has it."""
        self.next_offset = next_offset
        """The position after everything that was taken from here is settled."""
        self.in_flight = 0
        self.dropped = False
        self._slots: deque[Item | Skips] = deque()

    def add(self, item: Item) -> None:
        """Note an item, in the order of offsets."""
        self._slots.append(item)

    def skip(self, offset: int, count: CountKey) -> None:
        """Note a record that needs no delivery."""
        slots = self._slots
        run = slots[-1] if slots else None
        if type(run) is not Skips:
            run = Skips()
            slots.append(run)
        run.last_offset = offset
        run.counts[count] += 1

    def take(self, limit: int) -> tuple[list[Item], Counter[CountKey]]:
        """Remove and return the finished records up to the first that is not, at most about `limit` items;
        `next_offset` moves behind them."""
        slots = self._slots
        items: list[Item] = []
        counts: Counter[CountKey] = Counter()
        while slots and len(items) < limit:
            first = slots[0]
            if type(first) is Skips:
                counts.update(first.counts)
                self.next_offset = first.last_offset + 1
            else:
                assert isinstance(first, Item)  # noqa: S101  for the type checker
                if first.fate in (PENDING, DROPPED):
                    break
                items.append(first)
                self.next_offset = first.offset + 1
            slots.popleft()
        return items, counts

    def drop(self) -> list[Item]:
        """Remove everything; return the items that were noted."""
        items = [slot for slot in self._slots if isinstance(slot, Item)]
        self._slots.clear()
        return items
