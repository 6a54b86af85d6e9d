"""One event on its way to one destination, and the two things the sender is given to work with."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import msgspec

from mainstem.destinations.base import Call, Delivery, Payloads, Request, Skip
from mainstem.events.canonical import Event
from mainstem.ledger.base import Parked

# What became of an item.
PENDING: Final = 0
DELIVERED: Final = 1
DEAD: Final = 2
PARKED: Final = 3
DROPPED: Final = 4
"""Its partition was given away while it was pending: it is somebody else's now."""
FILTERED: Final = 5
"""A look-up showed that it is not for this destination."""


class Item(msgspec.Struct, kw_only=True, eq=False):
    """An event with what it becomes at this destination. The first nine fields are the caller's, the others
    the engine's."""

    partition: int
    offset: int
    sequence: int
    key: str
    login_key: str
    event: Event
    """What the books and a dead letter say about it."""
    value: bytes
    """The stored event."""
    payloads: Payloads
    extra_bytes: int = 0
    """Held in memory beside `value`: what an event became that was transformed."""

    sent: int = 0
    """Payloads the destination has accepted; an attempt goes on behind them."""
    attempts: int = 0
    """Attempts that count: not those that met a destination-wide outage or a 429."""
    tries: int = 0
    """All attempts, for the back-off."""
    first_attempt_ms: int = 0
    next_attempt_ms: int = 0
    decided_at_ms: int = 0
    fate: int = PENDING
    reason: str = ""
    answer: str = ""
    request: str = ""
    warning: str = ""
    """What the destination said although it took it."""
    last_sent: Request | Call | None = None
    """The last request of the last attempt, as far as there was one."""
    after: "Item | None" = None
    """The last event of the same person from before login that was offered earlier: it goes first."""
    followers: "list[str] | None" = None
    """Keys of lanes that wait for this one to be decided."""


class Attempt(Protocol):
    """Sends events to a destination once. No retry, no waiting, no order of its own."""

    async def __call__(self, items: Sequence[Item]) -> Sequence[Delivery]:
        """Try to deliver `items`, in this order; one result per item, in the same order.

        It sets `Item.sent` to the number of payloads the destination has accepted.
        """
        ...

    def describe(self, item: Item) -> str:
        """Return the request the last attempt of `item` made, as JSON, secrets redacted and cut."""
        ...


class Burial(msgspec.Struct, frozen=True):
    """A parked event that can't be sent by the rules that hold now: a dead letter."""

    reason: str
    """What the books count by."""
    detail: str = ""
    """What went wrong with this event."""


Prepare = Callable[[Parked], Awaitable[Item | Skip | Burial]]
"""Turns a parked event back into an item: decoded, transformed and mapped again, by the snapshot that holds now.
Raises SandboxUnavailable when user code can't be run now: the event waits."""
