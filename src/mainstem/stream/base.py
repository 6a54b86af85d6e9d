"""What a stream is: the durable, partitioned log that every event goes through.

gateway -> **stream** -> workers. Back ends: `memory` (tests, dry runs), `embedded` (SQLite segments on one
machine), Kafka later; `open.py` chooses by URL. `tests/contract/` proves the words below for each of them.

Semantics, for every back end
-----------------------------
* A record's **partition** is `partition_of(key, partitions)`; records of one key have one order, for ever.
  Within a partition **offsets** grow by one per record and are never used again. Bounds: `earliest` is the
  first offset still held, `next` is the offset the next record will get.
* `append` / `submit` report success only when the records are on stable storage (fsync, or acks=all): after
  that no crash of any process or of the machine loses them. A crash before leaves either all records of one
  call's partition or none of them, never a part in another order.
* **Deduplication**: a record whose `dedup_key` was appended within the window before is not appended again;
  it is reported as a duplicate and is as durable as the first. The check is atomic with the append: there is
  no moment in which a crash turns a duplicate check into a loss. Back ends without it say so in
  `capabilities`.
* **Reading** is by position: any number of readers, no effect on others. Records become readable only after
  they are durable. Reading below `earliest` raises `OffsetGone`; it is never skipped silently.
* **Cursors**: a named map partition -> next offset to read. `commit` is durable and at-least-once: after a
  crash a cursor may stand earlier than the last commit, never later. Retention never drops a record that a
  registered cursor still needs, unless the operator set a hard limit, and then `telemetry` says so loudly.
* **Groups**: workers of one group share the partitions. A partition is owned by at most one member at any
  moment; `on_revoke` has finished before another member is told that it owns it (unless the member died).
* **Tallies**: how many records were appended, per (tally, hour), counted in the same transaction as the
  append: one side of the books. Hours are hours since the Unix epoch of the record's `timestamp_ms`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec
import xxhash

from mainstem.errors import MainstemError

# ---------------------------------------------------------------- errors


class StreamError(MainstemError):
    """The stream failed."""


class StreamFull(StreamError):
    """No space to append: nothing of this call was stored. Answer 503 and try again later."""


class StreamOverloaded(StreamError):
    """More is waiting to be stored than the bound allows: nothing of this call was taken."""


class StreamClosed(StreamError):
    """The stream was closed while the call was waiting; what it stored is unknown."""


class StreamCorrupt(StreamError):
    """Stored bytes are not what was written; the text names the file and the position."""


class OffsetGone(StreamError):
    """The offset asked for is below what the stream still holds.

    Attributes:
        partition: where.
        offset: asked for.
        earliest: the first offset still held.
    """

    def __init__(self, partition: int, offset: int, earliest: int) -> None:
        super().__init__(
            f"partition {partition}: offset {offset} is no longer held; the earliest is {earliest}"
        )
        self.partition = partition
        self.offset = offset
        self.earliest = earliest


class NotOwner(StreamError):
    """A member committed for a partition that it no longer owns; nothing was committed."""


# ---------------------------------------------------------------- values


class NewRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record to append. The stream never looks into `value`."""

    key: bytes
    """Ordering key: same key, same partition, same order."""
    value: bytes
    timestamp_ms: int
    """When the gateway received it (receivedAt)."""
    dedup_key: bytes = b""
    """Unique within the deduplication window; empty = never a duplicate."""
    tally: str = ""
    """Where the append is counted (a source id, or `rejected:<source id>`)."""


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A stored record."""

    partition: int
    offset: int
    key: bytes
    value: bytes
    timestamp_ms: int
    sequence: int = 0
    """Order of appends over all partitions, as far as the back end knows it: if the append of one record had
    returned before another was submitted, its sequence is smaller; within one call it grows by index.
    Workers merge partitions by it, so that a person's events keep their order when their key changes."""


class AppendResult(msgspec.Struct, frozen=True):
    """What became of one call: every record is durable now, here or by its earlier twin."""

    appended: int
    duplicates: tuple[int, ...] = ()
    """Indexes, into the call's records, of those that had been appended before."""


class Bounds(msgspec.Struct, frozen=True):
    """What a partition holds: offsets `earliest` up to, not including, `next`."""

    earliest: int
    next: int


class Found(msgspec.Struct, frozen=True):
    """Where a deduplication key was appended."""

    partition: int
    offset: int


class Capabilities(msgspec.Struct, frozen=True):
    """What a back end can do, as data."""

    durable: bool
    """Survives the end of the process."""
    deduplicates: bool
    finds: bool
    """`find` works without reading the whole log."""
    many_processes: bool
    """Several processes may append and read at once."""


Done = Callable[[AppendResult | StreamError], None]
"""Called once, on the event loop of the submitter, when the records are durable or have failed."""

OnAssign = Callable[[frozenset[int]], Awaitable[None]]
OnRevoke = Callable[[frozenset[int]], Awaitable[None]]
"""Told the partitions that come or go. `on_revoke` finishes (drains, commits) before they are given away."""


# ---------------------------------------------------------------- protocols


class Producer(Protocol):
    """The writing end, one per process."""

    @property
    def backlog_bytes(self) -> int:
        """Bytes of submitted records that are not yet durable: the gateway sheds load by it."""
        ...

    def submit(self, records: Sequence[NewRecord], done: Done) -> None:
        """Take records to append in this order; `done` tells when they are durable, or why not.

        The hot path: no coroutine, no waiting. Calls of one producer are appended in the order of the calls.

        Raises:
            StreamOverloaded: the backlog is at its bound; nothing was taken and `done` is not called.
            StreamClosed: the producer is closed; nothing was taken and `done` is not called.
        """
        ...

    async def append(self, records: Sequence[NewRecord]) -> AppendResult:
        """Append records in this order; return when they are durable.

        Raises:
            StreamFull, StreamOverloaded, StreamClosed: nothing of this call is acknowledged.
        """
        ...

    async def close(self) -> None:
        """Make what was submitted durable, then let go."""
        ...


class Membership(Protocol):
    """This process's place in a group of workers."""

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions owned now."""
        ...

    async def leave(self) -> None:
        """Give all partitions away (through `on_revoke`) and leave."""
        ...


class Stream(Protocol):
    """The log. One object per process."""

    @property
    def partitions(self) -> int:
        """How many partitions there are: fixed when the stream is made."""
        ...

    @property
    def capabilities(self) -> Capabilities: ...

    async def producer(self) -> Producer:
        """Return the writing end of this process."""
        ...

    async def read(
        self, partition: int, offset: int, *, max_records: int, max_bytes: int
    ) -> Sequence[Record]:
        """Return records from `offset` on, in order, without waiting; empty at the end of the partition.

        Holds at least one record if there is one, even when it is larger than `max_bytes`.

        Raises:
            OffsetGone: `offset` is below the earliest held.
            StreamCorrupt: the stored bytes are damaged.
        """
        ...

    async def wait(self, positions: Mapping[int, int], *, timeout_s: float) -> bool:
        """Wait until some partition holds a record at or after its position; False when the time is over."""
        ...

    async def bounds(self) -> Mapping[int, Bounds]:
        """Return the bounds of every partition."""
        ...

    async def offset_at(self, partition: int, timestamp_ms: int) -> int:
        """Return the first offset whose record, or any later one, can be as new as `timestamp_ms`.

        May be early by up to one storage unit (a batch, a segment), never late: readers filter by time.
        """
        ...

    async def committed(self, cursor: str) -> Mapping[int, int]:
        """Return the committed next offsets of a cursor; partitions never committed are absent."""
        ...

    async def commit(self, cursor: str, next_offsets: Mapping[int, int]) -> None:
        """Move a cursor, durably. A cursor exists, and holds retention back, from its first commit."""
        ...

    async def cursors(self) -> Mapping[str, Mapping[int, int]]:
        """Return all cursors."""
        ...

    async def forget(self, cursor: str) -> None:
        """Remove a cursor; it no longer holds retention back."""
        ...

    async def join(
        self, group: str, *, on_assign: OnAssign, on_revoke: OnRevoke, seat: str = ""
    ) -> Membership:
        """Join a group of workers; partitions come and go through the callbacks until `leave`.

        Args:
            group: its name.
            on_assign: called with partitions that are owned from now on.
            on_revoke: called with partitions that are given away when it returns.
            seat: of members in the same seat (a worker and the process that replaces it) only the first owns
                anything; when it has left or died, everything passes to the next at once. Empty: none.
        """
        ...

    async def find(self, dedup_key: bytes) -> Sequence[Found]:
        """Return where a deduplication key was appended, oldest first; empty if it is not held any more."""
        ...

    async def tallies(self) -> Mapping[tuple[str, int], int]:
        """Return how many records were ever appended, by (tally, hour). Survives retention."""
        ...

    async def duplicates(self) -> Mapping[tuple[str, int], int]:
        """Return how many records were refused as duplicates, by (tally, hour)."""
        ...

    async def check(self) -> None:
        """Raise a `StreamError` if the stream can't be appended to and read now."""
        ...

    async def close(self) -> None:
        """Close; waiting calls raise `StreamClosed`."""
        ...


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of an ordering key: the same on every machine and in every version.

    XXH3-64 of the key, modulo the number of partitions. The Kafka back end sets the partition itself with
    this function, so that embedded and scaled-out installations agree.
    """
    return xxhash.xxh3_64_intdigest(key) % partitions
