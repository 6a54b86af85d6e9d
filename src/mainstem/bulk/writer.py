"""What the gatherer knows of the place batches go to.

gatherer -> **writer** -> files, tables. A writer turns a plan's records into something that it can write as often as
it has to, with the same result: what it makes is a function of the plan and its records alone.
"""

from collections.abc import Iterable
from typing import Literal, Protocol

import msgspec

from mainstem.bulk.plan import Plan
from mainstem.events.stored import StoredEvent
from mainstem.ledger.base import CountKey

Planned = tuple[StoredEvent, int, int, int]
"""An event to be written, its partition, its offset, its sequence."""


Urgency = Literal["when due", "at once", "not now"]
"""when due: by the limits. at once: somebody asked for it. not now: what is due waits (a window of the day)."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """When what was gathered is written: whichever comes first."""

    max_events: int
    max_bytes: int
    """Of events, as they are stored."""
    max_age_s: float
    """Since the first of them was read."""
    max_parts: int = 256
    """Different parts (files, tables) of one plan."""


class Making(Protocol):
    """A plan's batch, being made. Blocking; called in a thread, one call at a time."""

    def add(self, records: Iterable[Planned]) -> None:
        """Take records that the plan writes, in order of partition and offset."""
        ...

    def finish(self) -> None:
        """All records are there. May be called again."""
        ...

    def close(self) -> None:
        """Let go of it, written or not."""
        ...


class Writer(Protocol):
    """The place."""

    @property
    def place(self) -> str:
        """Where it writes to, for people: a plan remembers where it was to go."""
        ...

    @property
    def limits(self) -> Limits: ...

    @property
    def outcomes(self) -> frozenset[str]:
        """Records with these outcomes are written: delivered, and rejected where the settings say so."""
        ...

    def part(self, line: CountKey) -> object:
        """Return something equal for records that share a part (a file), hashable; asked for `Limits.max_parts`."""
        ...

    def settings(self) -> bytes:
        """Return what of the settings decides what is made; stored in the plan."""
        ...

    def begin(self, plan: Plan) -> Making:
        """Begin to make a plan's batch, by the settings in the plan."""
        ...

    async def write(self, plan: Plan, made: Making) -> int:
        """Write what was made; return how many parts were written. The same plan may be written again, by anyone, in
        any mixture of old and new runs: the result is the same.

        Raises:
            BulkError: it could not be written; it will be tried again.
        """
        ...

    def urgency(self) -> Urgency:
        """Say whether a flush may wait, must, or is wanted at once; asked often."""
        ...

    async def settled(self, plan: Plan) -> None:
        """The plan is settled: what was kept for writing it again may go."""
        ...
