"""The ledger: how far each destination is, what became of the events, and the exceptions to be kept.

delivery -> **ledger**. Position, counts, parked events and dead letters move in one transaction (`settle`),
so the books balance after any crash: what lies below the position is counted exactly once, what lies above
it is pending. Only exceptions are stored, never a row per delivered event. SQLite in `sqlite.py`; Postgres
fits the same protocol.

A **cursor** is the name under which events are settled: a destination's id for the live flow, and
`replay:<replay id>` for a replay's own lane.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal, Protocol

import msgspec

from mainstem.errors import MainstemError

HOUR_MS: Final = 3_600_000


class LedgerError(MainstemError):
    """The ledger failed."""


class LedgerBusy(LedgerError):
    """Another process held the ledger longer than the bound; nothing was written, try again."""


class Fenced(LedgerError):
    """The position is not where this worker left it: another worker settles this partition now. Nothing was
    written; stop working on the partition.

    Attributes:
        cursor: whose position.
        partition: where.
        found: the position's next offset in the ledger, None if the cursor has no position there.
    """

    def __init__(self, cursor: str, partition: int, expected: int, found: int | None) -> None:
        super().__init__(
            f"cursor {cursor}, partition {partition}: expected position {expected}, found {found}"
        )
        self.cursor = cursor
        self.partition = partition
        self.found = found


class CountKey(msgspec.Struct, frozen=True, array_like=True):
    """One line of the books."""

    source_id: str
    hour: int
    """Hours since the Unix epoch of receivedAt."""
    outcome: str
    """delivered, filtered, rejected, dead (`pipeline.outcome`)."""
    reason: str = ""
    """The rule or reason; empty for delivered."""


class Position(msgspec.Struct, frozen=True):
    """How far a cursor is in one partition."""

    start_offset: int
    """Where it began: earlier records were never offered to it."""
    next_offset: int
    """Everything below is settled: delivered, filtered, rejected, parked or dead."""
    note: bytes = b""
    """The owner's own state, moved together with the position (the archive's plan)."""


class Parked(msgspec.Struct, frozen=True, kw_only=True):
    """An event set aside because its user's earlier event keeps failing. Retried in order per key."""

    cursor: str
    destination_id: str
    key: str
    """Ordering key: all of a key's later events are parked behind the first."""
    sequence: int
    """Order within the key."""
    partition: int
    offset: int
    value: bytes
    """The stored event (`events.stored`)."""
    source_id: str
    message_id: str
    received_at_ms: int
    parked_at_ms: int
    attempts: int = 0
    sent: int = 0
    """How many of its payloads the destination has accepted: the next attempt goes on behind them."""
    first_attempt_ms: int = 0
    next_attempt_ms: int = 0
    reason: str = ""
    answer: str = ""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An event that was given up at one destination, with everything needed to see why and to try again."""

    cursor: str
    destination_id: str
    key: str
    sequence: int
    partition: int
    offset: int
    value: bytes
    source_id: str
    message_id: str
    event_type: str
    event_name: str
    received_at_ms: int
    died_at_ms: int
    reason: str
    """As the books count it: a class of reasons (`http 400`); the particulars are in `answer`."""
    attempts: int = 0
    request: str = ""
    """The last request as JSON, secrets redacted."""
    answer: str = ""
    """The last answer, cut to a bound."""

    @property
    def count_key(self) -> CountKey:
        """Its line in the books."""
        return CountKey(self.source_id, self.received_at_ms // HOUR_MS, "dead", self.reason)


class Remark(msgspec.Struct, frozen=True, kw_only=True):
    """What a destination said about an event that it took: accepted, with a warning."""

    cursor: str
    source_id: str
    message_id: str
    at_ms: int
    text: str


MOST_REMARKS: Final = 20_000
"""Kept in a ledger; the oldest go first. They explain, and no books hang on them."""


class DeadFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters; empty fields match all."""

    destination_id: str = ""
    source_id: str = ""
    message_id: str = ""
    event_type: str = ""
    event_name: str = ""
    reason_contains: str = ""
    died_from_ms: int | None = None
    died_to_ms: int | None = None


ReplayState = Literal["waiting", "running", "done", "failed", "cancelled"]


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """History sent again to one destination, in its own lane."""

    id: str
    destination_id: str
    from_ms: int
    to_ms: int
    """Exclusive; by receivedAt."""
    where: str = ""
    """Filter expression, empty = all."""
    origin: Literal["stream", "archive"] = "stream"
    archive_destination_id: str = ""
    """Which archive to read when `origin` is archive."""
    files: tuple[str, ...] = ()
    """The archive's files to read, in order, as they were when it began: the cursor counts in them."""
    state: ReplayState = "waiting"
    created_at_ms: int = 0
    read: int = 0
    sent: int = 0
    error: str = ""


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """One step of one cursor in one partition, all or nothing."""

    cursor: str
    partition: int
    from_offset: int
    """Where the worker believes the position is; `Fenced` if it is not."""
    next_offset: int
    counts: Mapping[CountKey, int] = {}
    park: Sequence[Parked] = ()
    bury: Sequence[DeadLetter] = ()
    remarks: Sequence[Remark] = ()
    note: bytes | None = None
    """None = leave the note as it is."""


class ParkedResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one parked event: it leaves the park (or gets its next attempt), with its line in the books."""

    parked: Parked
    """As it was loaded; for `again`, with attempts, next_attempt_ms, reason and answer brought up to date."""
    fate: Literal["delivered", "filtered", "dead", "again"]
    reason: str = ""
    dead: DeadLetter | None = None
    """With fate dead."""
    remark: Remark | None = None


class Ledger(Protocol):
    """The store. Several processes may use it at once; each partition of a cursor has one owner at a time."""

    async def open_cursor(self, cursor: str, starts: Mapping[int, int]) -> Mapping[int, Position]:
        """Return the positions of a cursor, beginning it at `starts` in partitions where it has none yet."""
        ...

    async def positions(self, cursor: str) -> Mapping[int, Position]: ...

    async def cursors(self) -> Mapping[str, Mapping[int, Position]]: ...

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Commit settlements in one transaction, durably.

        Raises:
            Fenced: one of them does not start at the position; none was written.
            LedgerError: nothing was written.
        """
        ...

    async def forget(self, cursor: str) -> None:
        """Remove a cursor's positions, counts and parked events (its dead letters stay)."""
        ...

    async def counts(self, cursor: str) -> Mapping[CountKey, int]:
        """Return the books of a cursor. Pending is not in them: it is what is parked, plus what lies above
        the position."""
        ...

    async def parked_keys(
        self, cursor: str, *, partitions: Collection[int] | None = None
    ) -> Mapping[str, int]:
        """Return the parked keys with the number of events behind each; `partitions` None = all."""
        ...

    async def parked_due(
        self, cursor: str, now_ms: int, limit: int, *, partitions: Collection[int] | None = None
    ) -> Sequence[Parked]:
        """Return the first parked event of each key whose next attempt is due, at most `limit`, the longest
        due first. A worker asks for the partitions it owns: the others' are attempted by their owners."""
        ...

    async def parked(
        self, cursor: str, *, key: str = "", message_id: str = "", limit: int = 1000
    ) -> Sequence[Parked]:
        """Return parked events in order of key and sequence (then partition and offset)."""
        ...

    async def finish_parked(self, results: Sequence[ParkedResult]) -> None:
        """Record what became of parked events, in one transaction. An event that is not parked any more (it
        was finished before) changes nothing, not even the books."""
        ...

    async def dead(
        self, where: DeadFilter, *, limit: int = 1000, after_id: int = 0
    ) -> Sequence[tuple[int, DeadLetter]]:
        """Return dead letters with their ids, oldest first."""
        ...

    async def remarks(self, cursor: str, message_id: str) -> Sequence[Remark]:
        """Return what is kept of a destination's warnings about an event, oldest first."""
        ...

    async def redrive(self, ids: Sequence[int], now_ms: int) -> int:
        """Turn dead letters back into parked events, due now, in order per key; return how many. The books
        move with them: dead becomes pending. They keep their cursor, start with no attempts, and go before
        events of the same key that were parked with a later sequence."""
        ...

    async def version(self) -> int:
        """A number that changes with every redrive, forget and change of a replay's state, whichever process
        did it: cheap to ask, for noticing commands."""
        ...

    async def put_replay(self, replay: Replay) -> None:
        """Store a replay by its id. One that is done, failed or cancelled stays so: a late report of progress
        does not bring it back."""
        ...

    async def replays(self) -> Sequence[Replay]: ...

    async def put_status(self, destination_id: str, status: bytes) -> None:
        """Keep a destination's last known condition (JSON: breaker, since, last error), for people to see."""
        ...

    async def statuses(self) -> Mapping[str, bytes]: ...

    async def check(self) -> None: ...

    async def close(self) -> None: ...


def parked_from_dead(letter: DeadLetter, now_ms: int) -> Parked:
    """Return a dead letter as a parked event that is due now, with a new retry window."""
    return Parked(
        cursor=letter.cursor,
        destination_id=letter.destination_id,
        key=letter.key,
        sequence=letter.sequence,
        partition=letter.partition,
        offset=letter.offset,
        value=letter.value,
        source_id=letter.source_id,
        message_id=letter.message_id,
        received_at_ms=letter.received_at_ms,
        parked_at_ms=now_ms,
        next_attempt_ms=now_ms,
        reason="redriven",
    )
