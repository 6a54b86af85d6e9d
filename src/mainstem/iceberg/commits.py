"""Commits to Iceberg tables that hold what they are to hold once.

Whatever is written has an id (a load's, a plan's), and the id goes into the same commit: into the snapshot's summary
(`mainstem.load-id`), and into a property of the table with the last ids (`mainstem.loads`: snapshots may be expired, by
other tools too). What has its id there is in. Commits are optimistic: of two that were made of the same state of the
table the catalog takes one; the other reads the table again, looks for the id again, and is made anew. pyiceberg's own
retries, which would not look at the ids, are off.
"""

import json
import random
import time
from collections.abc import Callable
from typing import Final, TypeVar, cast

from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.table import Table, Transaction
from pyiceberg.typedef import Properties

from mainstem.bulk.errors import ErrorOf
from mainstem.iceberg.catalog import mapped

_Result = TypeVar("_Result")

CONFLICTS: Final = (CommitFailedException, ValidationException)
"""What says for sure that a commit did not land."""
ID: Final = "mainstem.load-id"
"""In a snapshot's summary: what it brought in."""
_IDS: Final = "mainstem.loads"
_REMEMBERED: Final = 500
"""Ids in the table's property. Something is written again only while it is its cursor's open plan, or the first that a
table owes: far fewer than this ago."""
_ATTEMPTS: Final = 12
_NO_RETRIES: Final = {"commit.retry.num-retries": "0"}


def again(what: str, error: ErrorOf, work: Callable[[], _Result]) -> _Result:
    """Do what ends in a commit, and again if somebody else's commit came first.

    Raises:
        BulkError: by `error`; it failed, or others came first every time.
    """
    for attempt in range(_ATTEMPTS):
        with mapped(what, error):
            try:
                return work()
            except CONFLICTS:
                time.sleep(random.uniform(0, min(0.05 * 2**attempt, 3)))  # noqa: S311 - to part two writers
    raise error(f"{what}: others change it all the time; it is tried again later")


def fixed(found: Table) -> Table:
    """Return a table whose commits pyiceberg does not rebase by itself: what was decided about it was read before.

    Only in memory: other writers' retries are theirs.
    """
    metadata = found.metadata.model_copy(update={"properties": {**found.properties, **_NO_RETRIES}})
    return Table(found.name(), metadata, found.metadata_location, found.io, found.catalog)


def is_in(found: Table, load_id: str) -> bool:
    """Whether a commit brought this in, as far as the table remembers."""
    if load_id in _remembered(found.properties):
        return True
    return any(
        snapshot.summary is not None and snapshot.summary.additional_properties.get(ID) == load_id
        for snapshot in found.snapshots()
    )


def remember(transaction: Transaction, load_id: str) -> None:
    """Note in a commit what it brings in."""
    ids = [*_remembered(transaction.table_metadata.properties), load_id]
    transaction.set_properties({_IDS: json.dumps(ids[-_REMEMBERED:], ensure_ascii=False)})


def _remembered(properties: Properties) -> list[str]:
    return cast("list[str]", json.loads(properties.get(_IDS, "[]")))
