"""What the gatherer knows of the place batches go to.

gatherer -> **writer** -> files, tables. A writer turns a plan's records into something that it can write as often as
it has to, with the same result. Either what it makes is a function of the plan and its records alone (files); or what
it writes it to takes each plan once, by its id, whatever is made of it (tables): then it may be made ahead.
"""

from collections.abc import Iterable
from typing import Literal, Protocol

import msgspec

from mainstem.bulk.plan import Plan
from mainstem.events.canonical import Event
from mainstem.events.stored import StoredEvent
from mainstem.ledger.base import CountKey

Planned = tuple[StoredEvent, int, int, int, Event | None]
"""An event to be written, its partition, its offset, its sequence; and its canonical form, if that is at hand."""


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
        """Take records that the plan writes: each partition's in order; all of one before the next, unless it is made
        ahead."""
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

    def ahead(self) -> Making | None:
        """Begin a batch that has no plan yet: records come as they are gathered. If it is lost on the way, the plan's
        batch is made anew by `begin`. None: what is made has to be a function of the plan. Blocking.

        Raises:
            OSError: it can't be begun.
        """
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

    async def upkeep(self) -> None:
        """Do what is due apart from plans. Asked in every step, about once a second while nothing comes, but not while
        a batch is being written; and only where the first partition is owned: by one worker of all.

        Raises:
            OSError: it could not be done; it will be tried again.
        """
        ...

    async def settled(self, plan: Plan) -> None:
        """The plan is settled: what was kept for writing it again may go."""
        ...
