"""The ledger in memory: the reference for what `base` promises; for tests and dry runs.

Nothing survives the object. One process, one event loop: every call runs to its end without giving way, which
is what makes it a transaction.
"""

from bisect import insort
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence

import msgspec

from mainstem.ledger.base import (
    HOUR_MS,
    MOST_REMARKS,
    CountKey,
    DeadFilter,
    DeadLetter,
    Fenced,
    Parked,
    ParkedResult,
    Position,
    Remark,
    Replay,
    Settlement,
    parked_from_dead,
)

_Place = tuple[int, int, int]


class MemoryLedger:
    """See `base.Ledger`."""

    def __init__(self) -> None:
        self._positions: dict[str, dict[int, Position]] = {}
        self._counts: dict[str, Counter[CountKey]] = {}
        self._parked: dict[str, dict[str, list[Parked]]] = {}
        self._dead: dict[int, DeadLetter] = {}
        self._last_dead_id = 0
        self._replays: dict[str, Replay] = {}
        self._statuses: dict[str, bytes] = {}
        self._remarks: deque[Remark] = deque(maxlen=MOST_REMARKS)
        self._version = 0

    async def open_cursor(self, cursor: str, starts: Mapping[int, int]) -> Mapping[int, Position]:
        positions = self._positions.setdefault(cursor, {})
        for partition, start in starts.items():
            positions.setdefault(partition, Position(start_offset=start, next_offset=start))
        return dict(positions)

    async def positions(self, cursor: str) -> Mapping[int, Position]:
        return dict(self._positions.get(cursor, {}))

    async def cursors(self) -> Mapping[str, Mapping[int, Position]]:
        return {cursor: dict(positions) for cursor, positions in self._positions.items() if positions}

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        ahead: dict[tuple[str, int], Position] = {}
        for step in settlements:
            place = (step.cursor, step.partition)
            position = ahead.get(place) or self._positions.get(step.cursor, {}).get(step.partition)
            if position is None or position.next_offset != step.from_offset:
                found = None if position is None else position.next_offset
                raise Fenced(step.cursor, step.partition, step.from_offset, found)
            note = position.note if step.note is None else step.note
            ahead[place] = Position(position.start_offset, step.next_offset, note)
        for (cursor, partition), position in ahead.items():
            self._positions[cursor][partition] = position
        for step in settlements:
            self._counts.setdefault(step.cursor, Counter()).update(step.counts)
            for parked in step.park:
                self._insert_parked(parked)
            for letter in step.bury:
                self._insert_dead(letter)
            self._remarks.extend(step.remarks)

    async def forget(self, cursor: str) -> None:
        self._positions.pop(cursor, None)
        self._counts.pop(cursor, None)
        self._parked.pop(cursor, None)
        self._version += 1

    async def counts(self, cursor: str) -> Mapping[CountKey, int]:
        return {key: events for key, events in self._counts.get(cursor, {}).items() if events}

    async def parked_keys(
        self, cursor: str, *, partitions: Collection[int] | None = None
    ) -> Mapping[str, int]:
        return {
            key: len(rows)
            for key, rows in self._parked.get(cursor, {}).items()
            if partitions is None or rows[0].partition in partitions
        }

    async def parked_due(
        self, cursor: str, now_ms: int, limit: int, *, partitions: Collection[int] | None = None
    ) -> Sequence[Parked]:
        heads = [
            rows[0]
            for rows in self._parked.get(cursor, {}).values()
            if rows[0].next_attempt_ms <= now_ms and (partitions is None or rows[0].partition in partitions)
        ]
        return sorted(heads, key=lambda head: head.next_attempt_ms)[:limit]

    async def parked(
        self, cursor: str, *, key: str = "", message_id: str = "", limit: int = 1000
    ) -> Sequence[Parked]:
        by_key = self._parked.get(cursor, {})
        rows = [row for name in sorted(by_key) if not key or name == key for row in by_key[name]]
        return [row for row in rows if not message_id or row.message_id == message_id][:limit]

    async def finish_parked(self, results: Sequence[ParkedResult]) -> None:
        for result in results:
            parked = result.parked
            rows = self._parked.get(parked.cursor, {}).get(parked.key, [])
            index = next((i for i, row in enumerate(rows) if _place(row) == _place(parked)), None)
            if index is None:
                continue
            if result.fate == "again":
                rows[index] = parked
                continue
            del rows[index]
            if not rows:
                del self._parked[parked.cursor][parked.key]
            line = CountKey(parked.source_id, parked.received_at_ms // HOUR_MS, result.fate, result.reason)
            self._counts.setdefault(parked.cursor, Counter())[line] += 1
            if result.dead is not None:
                self._insert_dead(result.dead)
            if result.remark is not None:
                self._remarks.append(result.remark)

    async def dead(
        self, where: DeadFilter, *, limit: int = 1000, after_id: int = 0
    ) -> Sequence[tuple[int, DeadLetter]]:
        found = [(id_, letter) for id_, letter in self._dead.items() if id_ > after_id]
        return [(id_, letter) for id_, letter in found if _matches(where, letter)][:limit]

    async def remarks(self, cursor: str, message_id: str) -> Sequence[Remark]:
        return [one for one in self._remarks if one.cursor == cursor and one.message_id == message_id]

    async def redrive(self, ids: Sequence[int], now_ms: int) -> int:
        moved = 0
        for id_ in ids:
            letter = self._dead.pop(id_, None)
            if letter is None:
                continue
            counts = self._counts.setdefault(letter.cursor, Counter())
            if counts[letter.count_key] > 0:
                counts[letter.count_key] -= 1
            moved += self._insert_parked(parked_from_dead(letter, now_ms))
        self._version += 1
        return moved

    async def version(self) -> int:
        return self._version

    async def put_replay(self, replay: Replay) -> None:
        before = self._replays.get(replay.id)
        if before is not None and before.state in ("done", "failed", "cancelled"):
            return
        self._replays[replay.id] = replay
        if before is None or before.state != replay.state:
            self._version += 1

    async def replays(self) -> Sequence[Replay]:
        return sorted(self._replays.values(), key=lambda replay: (replay.created_at_ms, replay.id))

    async def put_status(self, destination_id: str, status: bytes) -> None:
        self._statuses[destination_id] = status

    async def statuses(self) -> Mapping[str, bytes]:
        return dict(self._statuses)

    async def check(self) -> None:
        return

    async def close(self) -> None:
        return

    def _insert_parked(self, parked: Parked) -> bool:
        rows = self._parked.setdefault(parked.cursor, {}).setdefault(parked.key, [])
        if any(_place(row) == _place(parked) for row in rows):
            return False
        insort(rows, parked, key=_place)
        return True

    def _insert_dead(self, letter: DeadLetter) -> None:
        self._last_dead_id += 1
        self._dead[self._last_dead_id] = letter


def _place(parked: Parked) -> _Place:
    return (parked.sequence, parked.partition, parked.offset)


def _matches(where: DeadFilter, letter: DeadLetter) -> bool:
    return all(
        not wanted or wanted == getattr(letter, field)
        for field, wanted in msgspec.structs.asdict(where).items()
        if field in _EXACT
    ) and (
        where.reason_contains in letter.reason
        and (where.died_from_ms is None or letter.died_at_ms >= where.died_from_ms)
        and (where.died_to_ms is None or letter.died_at_ms < where.died_to_ms)
    )


_EXACT = frozenset(("destination_id", "source_id", "message_id", "event_type", "event_name"))
