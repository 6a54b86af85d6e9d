"""Why what takes batches holds each event exactly once: the plan, and the proof.

The parts
---------
* The **log** gives the same records for the same offsets, always.
* The **cursor** `X` is the destination's position per partition in the ledger: below it, everything is written, in
  files or tables (or filtered, and counted).
* The **plan cursor** `plan:X` is a second position per partition: below it, everything has been planned. Its
  note holds the last plan. `settle` moves positions by compare-and-set, several in one transaction.
* A **plan** is all that decides the bytes of a batch: for each partition a range of offsets, which records of it
  are left out, the writer's settings (an archive's formats, compression, folder); and a digest of the records. Where
  transformations changed records, what they became is **staged** (`staged.py`), and the plan has its digest.

The steps
---------
1. Gather: read records, let rules and transformations decide each. Nothing is written but what is staged, which
   nobody looks at before there is a plan.
2. Plan: what is staged becomes durable under the plan's name. One transaction moves `plan:X` from a to b in
   every partition of the plan and stores the plan. Only possible where `X` = `plan:X`, that is, where no
   earlier plan is open.
3. Write: read the ranges again, and what is staged; make the batch, write it. A writer writes the same plan any
   number of times with one result: files are put atomically under the plan's names, tables take the rows together
   with the plan's id in one transaction.
4. Settle: one transaction moves `X` from a to b in every partition of the plan, with the counts.

The proof
---------
*A plan's batch is a function of the plan.* Files' names contain the plan's id; contents are the planned records in
order of partition and offset (or what is staged in place of one), made by the plan's own settings. Rules,
transformations, settings and clocks are not asked again: their decisions are in the plan. So step 3 may run any
number of times, by anyone, in any mixture of old and new runs: the result is the same. That makes fenced workers
harmless: one that was declared dead and writes on writes the same again.

*Plans of one partition never overlap and leave no gap.* They are links of one chain: each moves `plan:X` from
where the last one ended, by compare-and-set; of two workers that plan from the same place, one is `Fenced` and
has written nothing.

*Where a plan is taken once, by its id* (tables take the rows in one transaction with it), its batch need not be a
function of it: whichever of several attempts comes first is in, whole, and each holds the planned records. Such a batch
is made ahead, while its records are gathered; if it is lost with its maker, another is made by the plan.

*One plan at a time.* The next one is gathered while one is written, but is noted only when that one is settled.

*Every crash leads back to the chain.* Before 2: nothing happened. Between 2 and 4: `X` < `plan:X`, and the note
of `plan:X` holds the plan for just that range; whoever owns any partition of it carries it out as a whole (3),
then settles it (4); of two that do so, one is `Fenced`, and the plan is settled. After 4: done.

So the files below `X` are exactly those of the settled plans, and each planned record lies in exactly one line
of them per format (a record that was expanded, in as many lines as it became). What is above `X` may show files
of the open plan: they are whole files, and will not change. Events of one user are of one partition, so they
are in order of offset within each file, and the sequence in the file names gives the order of the files.

What a change of settings in between does: an open plan is finished as it was planned (formats, folder), so no
file has to be deleted. Only a change of the *place* (bucket, root folder) cannot be bridged: the plan is
carried out in the new place, and files of it that had reached the old one stay there; the log says which.
If the software was upgraded in between, files may differ in compression but hold the same lines.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import xxhash
from pyroaring import BitMap

from mainstem.bulk.staged import Staging
from mainstem.events.canonical import Event
from mainstem.events.stored import StoredEvent
from mainstem.ledger.base import CountKey
from mainstem.stream.base import Record

# The words of the books (pipeline.outcome), which this layer can't import.
DELIVERED: Final = "delivered"
REJECTED: Final = "rejected"
DEAD: Final = "dead"


class Verdict(msgspec.Struct, frozen=True):
    """What the destination's rules and transformations make of a record."""

    count: CountKey
    """Outcome `delivered` is written; `rejected` is written to the rejected area if the settings say so; `filtered`
    is only counted; `dead` becomes a dead letter."""
    instead: tuple[StoredEvent, ...] | None = None
    """What is written in its place, in order, all with its source and receivedAt; None = itself, byte for byte."""
    detail: str = ""
    """Why it is dead: what went wrong with this record."""
    stored: StoredEvent | None = None
    """What the record holds, if that is known already."""
    event: Event | None = None
    """Its canonical form, if that is known already: for a writer that makes batches ahead."""


Judge = Callable[[Sequence[Record]], Awaitable[Sequence[Verdict]]]
"""Decides records, one verdict each in the same order. Raises SandboxUnavailable when user code can't be run now."""


class Range(msgspec.Struct, frozen=True, array_like=True):
    """What a plan covers in one partition."""

    partition: int
    from_offset: int
    to_offset: int
    """Exclusive."""
    skipped: bytes
    """Roaring bitmap of the records that are not written, counted from `from_offset`."""
    digest: bytes
    """XXH3-128 over the records' values: a log that gives other bytes is noticed."""
    staged: bytes = b""
    """XXH3-128 over what is staged of it; empty if nothing was transformed."""


class Death(msgspec.Struct, frozen=True, array_like=True):
    """A record that becomes a dead letter when the plan is settled."""

    partition: int
    offset: int
    reason: str
    detail: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """See the module's text."""

    id: str
    sequence: int
    """One more than the highest of the partitions' last plans: orders the files of a partition."""
    place: str
    settings: bytes
    """The writer's own, as they were when it was made."""
    ranges: tuple[Range, ...]
    counts: tuple[tuple[CountKey, int], ...]
    written: int
    """How many records the plan writes."""
    deaths: tuple[Death, ...] = ()

    @property
    def lead(self) -> int:
        """The partition whose note holds the plan; the others' notes point at it."""
        return self.ranges[0].partition


class Note(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The note of a partition of the plan cursor."""

    sequence: int = 0
    plan_id: str = ""
    lead: int = -1
    plan: Plan | None = None
    """Only in the lead's note."""


_encode_note: Final = msgspec.msgpack.Encoder().encode
_decode_note: Final = msgspec.msgpack.Decoder(Note).decode


def read_note(note: bytes) -> Note:
    """Return the note of a position, an empty one if it has none."""
    return _decode_note(note) if note else Note()


def notes_of(plan: Plan) -> Mapping[int, bytes]:
    """Return the notes that store a plan, by partition."""
    pointer = _encode_note(Note(sequence=plan.sequence, plan_id=plan.id, lead=plan.lead))
    full = _encode_note(Note(sequence=plan.sequence, plan_id=plan.id, lead=plan.lead, plan=plan))
    return {item.partition: full if item.partition == plan.lead else pointer for item in plan.ranges}


class _Gathered:
    """The part of one partition."""

    def __init__(self, from_offset: int) -> None:
        self.from_offset = from_offset
        self.to_offset = from_offset
        self.skipped = BitMap()
        self.digest = xxhash.xxh3_128()
        self.counts: Counter[CountKey] = Counter()
        self.deaths: list[Death] = []
        self.bytes = 0
        self.staging: Staging | None = None


class Gathering:
    """What has been read and decided since the last plan: offsets, decisions and sums; events only where they were
    transformed, and those on disk."""

    def __init__(
        self,
        written: Collection[str],
        part: Callable[[CountKey], object],
        starts: Mapping[int, int],
        staged: Path,
    ) -> None:
        """
        Args:
            written: outcomes of records that are written.
            part: see `Writer.part`.
            staged: the folder for what transformed records became.
        """
        self._staged = staged
        self._written = written
        self._part = part
        self._starts = starts
        self._parts: dict[int, _Gathered] = {}
        self.started_at: float | None = None
        """When the first record came, on the monotonic clock."""

    def add(self, record: Record, verdict: Verdict, at: float) -> None:
        """Take the next record of a partition with what was decided.

        Raises:
            OSError: what it became can't be staged; this gathering is of no use any more.
        """
        count = verdict.count
        part = self._parts.get(record.partition)
        if part is None:
            part = self._parts[record.partition] = _Gathered(self._starts[record.partition])
        if self.started_at is None:
            self.started_at = at
        size = len(record.value)
        if count.outcome not in self._written:
            part.skipped.add(record.offset - part.from_offset)
            if count.outcome == DEAD:
                part.deaths.append(Death(record.partition, record.offset, count.reason, verdict.detail))
        elif verdict.instead is not None:
            if part.staging is None:
                part.staging = Staging(self._staged, record.partition)
            part.staging.add(record.offset, verdict.instead)
            size = sum(len(event.raw) for event in verdict.instead)
        part.to_offset = record.offset + 1
        part.digest.update(record.value)
        part.counts[count] += 1
        part.bytes += size

    @property
    def events(self) -> int:
        return sum(part.counts.total() for part in self._parts.values())

    @property
    def length_bytes(self) -> int:
        return sum(part.bytes for part in self._parts.values())

    @property
    def parts(self) -> int:
        """How many parts (files of one format, tables) it would become."""
        return len(
            {
                self._part(key)
                for part in self._parts.values()
                for key in part.counts
                if key.outcome in self._written
            }
        )

    def plan(self, cursor: str, place: str, settings: bytes, sequence: int) -> Plan:
        """Return the plan of what was gathered (something was)."""
        ranges = tuple(
            Range(
                partition,
                part.from_offset,
                part.to_offset,
                part.skipped.serialize(),
                part.digest.digest(),
                part.staging.digest if part.staging is not None else b"",
            )
            for partition, part in sorted(self._parts.items())
        )
        # The digests are in the id: if log and ledger are lost and start again at offset 0, the new plans have
        # other names than the old ones, and nothing that was archived before is written over.
        identity = xxhash.xxh3_128(msgspec.msgpack.encode((cursor, sequence, ranges))).hexdigest()[:16]
        counts: Counter[CountKey] = Counter()
        for part in self._parts.values():
            counts.update(part.counts)
        return Plan(
            id=identity,
            sequence=sequence,
            place=place,
            settings=settings,
            ranges=ranges,
            counts=tuple(counts.items()),
            written=sum(count for key, count in counts.items() if key.outcome in self._written),
            deaths=tuple(death for part in self._parts.values() for death in part.deaths),
        )

    def seal(self, plan_id: str) -> None:
        """Make what is staged durable, under the plan's name. Blocking.

        Raises:
            OSError: the disk does not take it.
        """
        for part in self._parts.values():
            if part.staging is not None:
                part.staging.seal(plan_id)

    def close(self) -> None:
        """Remove what is staged and not sealed."""
        for part in self._parts.values():
            if part.staging is not None:
                part.staging.close()


def open_plan(
    partition: int, settled: Mapping[int, int], planned: Mapping[int, int], notes: Mapping[int, Note]
) -> Plan | None:
    """Return the plan that is open in a partition, None if there is none.

    Args:
        settled: the next offset of `X` per partition.
        planned: the next offset of `plan:X` per partition.
        notes: the notes of `plan:X`.
    """
    if settled[partition] >= planned[partition]:
        return None
    note = notes[partition]
    lead = notes.get(note.lead)
    plan = lead.plan if lead is not None else None
    if plan is None or plan.id != note.plan_id or not fits(plan.ranges, settled, planned):
        return None
    return plan


def fits(ranges: Sequence[Range], settled: Mapping[int, int], planned: Mapping[int, int]) -> bool:
    """Whether a plan's ranges are just what lies between the two cursors."""
    return all(
        settled.get(item.partition) == item.from_offset and planned.get(item.partition) == item.to_offset
        for item in ranges
    )
