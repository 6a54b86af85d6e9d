"""What becomes of one event at one destination: exactly one of these, each with a reason.

The books are kept in these words: received = delivered + filtered(rule) + rejected(reason) + dead + pending.
"""

from typing import Final

import msgspec

from mainstem.destinations.base import Payloads
from mainstem.events.canonical import Event

DELIVERED: Final = "delivered"
FILTERED: Final = "filtered"
REJECTED: Final = "rejected"
DEAD: Final = "dead"
PENDING: Final = "pending"


class Send(msgspec.Struct, frozen=True):
    """To be delivered: the payloads that the event became (none for files)."""

    event: Event
    """As it was received: what order, books and dead letters go by."""
    payloads: Payloads = ()
    """Of all events that it became, in order."""
    transformed: tuple[Event, ...] | None = None
    """What the transformations made of it, in order: what is written to files; None where there are none."""


class Filtered(msgspec.Struct, frozen=True):
    """Not for this destination, on purpose."""

    rule: str
    """The rule's name, as the books and `explain` show it: `integrations`, `filter:<name>`, `consent` …"""
    detail: str = ""
    """What in the event matched; shown by `explain`, not counted by."""


class Refused(msgspec.Struct, frozen=True):
    """The gateway recorded it as rejected; no destination gets it."""

    reason: str


class Dead(msgspec.Struct, frozen=True):
    """It cannot be sent (mapping, transformation): a dead letter, inspectable and re-driven later."""

    reason: str
    detail: str = ""
    """What went wrong with this event; shown, not counted by."""


Outcome = Send | Filtered | Refused | Dead
