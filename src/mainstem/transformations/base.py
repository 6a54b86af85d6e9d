"""What a transformation takes and gives: values that the pipeline, the sandboxes and the tests share.

pipeline rules -> **transformation** -> destination mapping. User code runs in a `Runtime` (a sandbox process);
ready-made ones are pure functions (`Change`). Either way one event goes in and one result comes out for it:
kept (as one or more events), dropped on purpose, or failed with a reason that people can act on.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from mainstem.errors import MainstemError
from mainstem.workspace.model import Transformation


class SandboxUnavailable(MainstemError):
    """The sandbox can't run now through no fault of the events: they wait and are tried again."""


class Given(msgspec.Struct, frozen=True, gc=False):
    """One event as user code is handed it."""

    message: dict[str, Any]
    """The canonical message; the code gets a copy."""
    metadata: Mapping[str, Any]
    """What `metadata(event)` tells, by RudderStack's names (sourceId … transformationVersionId); the fields that
    begin with `destination` differ between destinations."""
    seed: str
    """What `Math.random`, `random` and the clock are seeded from: the stored messageId."""
    now_ms: int
    """The clock inside: the event's receivedAt."""


class Kept(msgspec.Struct, frozen=True):
    """The event goes on, as these messages in this order (more than one: it was expanded)."""

    messages: tuple[dict[str, Any], ...]


class Dropped(msgspec.Struct, frozen=True):
    """The code returned nothing for it."""


class Failed(msgspec.Struct, frozen=True):
    """The code threw, took too long, took too much memory or returned what is no event."""

    reason: str
    """For people: the error's class, text and line in the code; never a secret, at most 500 characters."""


Result = Kept | Dropped | Failed


class BatchRun(msgspec.Struct, frozen=True):
    """What became of a batch."""

    results: tuple[Result, ...]
    """One an event given, in the same order."""
    logs: tuple[str, ...] = ()
    """What the code logged, bounded; kept in tests and dry runs only."""
    saw_destination: bool = True
    """Whether the code looked at a `destination…` field of the metadata. False: the same results hold for every
    destination that uses this version."""


class Runtime(Protocol):
    """Runs user code. One a process; shared by all destinations."""

    async def run(
        self, transformation: Transformation, given: Sequence[Given], *, logs: bool = False
    ) -> BatchRun:
        """Run one batch (at most `transformation.limits.batch_events`).

        One event's failure costs no other event its result. Never raises for anything the code does.

        Raises:
            SandboxUnavailable: the machine can't run it now.
        """
        ...

    async def close(self) -> None:
        """End all sandboxes."""
        ...


class About(msgspec.Struct, frozen=True):
    """What a ready-made transformation may know of an event besides its message."""

    source_id: str
    message_id: str
    ordering_key: str
    """`events.ordering.ordering_key`: the same for all events of a user."""
    received_at_ms: int


Change = Callable[[dict[str, Any], About], Result]
"""A ready-made transformation with its settings bound. Pure: never changes the message it is given (it may share
unchanged parts with what it returns), reads no clock, does no I/O; never raises for anything in the message."""
