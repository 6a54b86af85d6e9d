"""What can go wrong with a batch of the log.

BulkError            the place failed; the gatherer backs off and tries again
└── PlanBroken       a plan can't be carried out as it was noted (the log gave other bytes)
"""

from collections.abc import Callable

from mainstem.errors import MainstemError


class BulkError(MainstemError):
    """What batches are written to failed; nothing half-written counts."""


ErrorOf = Callable[[str], BulkError]
"""Makes the error of whoever uses a place, from what is wrong in words."""


class PlanBroken(BulkError):
    """The log no longer gives the bytes that were planned; the text names the partition and offsets."""
