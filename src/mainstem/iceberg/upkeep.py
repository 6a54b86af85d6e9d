"""Upkeep of Iceberg tables: small files joined, old snapshots let go of, with the files that only they had.

Safe beside writers and other upkeep: everything is a commit that fails if what it was made of has changed. A file is
removed only once no snapshot that is kept needs it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan, _dataframe_to_data_files
from pyiceberg.manifest import DataFile, ManifestFile
from pyiceberg.table import FileScanTask, Table
from pyiceberg.table.snapshots import Operation, Snapshot
from pyiceberg.typedef import Record

from mainstem.iceberg.commits import CONFLICTS, fixed

_COMMITS: Final = 4
"""How often a commit is tried, while only others' additions come in between."""

_THIN: Final = timedelta(hours=1)
"""See `Wanted.keep`."""

_State = frozenset[tuple[str, frozenset[str]]]
"""Files, each with the files that delete rows of it."""


class Compacted(msgspec.Struct, frozen=True):
    """What `compact` did."""

    files_before: int
    files_after: int
    snapshots_expired: int
    files_removed: int
    more: bool = False
    """There is more to join: `all_bytes` was reached."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done."""

    small_bytes: int = 32 * 1024 * 1024
    """Files below this size are joined …"""
    at_least: int = 4
    """… where a partition has so many of them …"""
    most_bytes: int = 128 * 1024 * 1024
    """… so many bytes of them at once: they are in memory meanwhile, several times as big."""
    all_bytes: int | None = None
    """Begin no more joins after so many bytes; None = all there are."""
    sort_by: tuple[str, ...] = ()
    """Columns that rows of a joined file are ordered by; empty = as they come."""
    keep: timedelta = timedelta(days=7)
    """Snapshots younger than this stay, so that readers may look back; of those older than an hour, all but such whose
    rows are all in the next one: every commit writes all of them again."""


def compact(load: Callable[[], Table], wanted: Wanted) -> Compacted:
    """Join the small files of each partition, and let go of old snapshots with the files that only they had.

    Writers may go on meanwhile: a partition whose files were changed is left for the next time.

    Args:
        load: reads the table as it is now.
    """
    before = len(_tasks(load()))
    joined = 0
    more = False
    for group in _small_files(load(), wanted):
        if wanted.all_bytes is not None and joined >= wanted.all_bytes:
            more = True
            break
        joined += sum(task.file.file_size_in_bytes for task in group)
        try:
            join(load, group, wanted.sort_by)
        except CONFLICTS:
            continue
    expired, removed = expire(load, wanted)
    return Compacted(before, len(_tasks(load())), expired, removed, more)


def _tasks(found: Table) -> list[FileScanTask]:
    return list(found.scan().plan_files())


def _small_files(found: Table, wanted: Wanted) -> list[list[FileScanTask]]:
    groups: dict[tuple[Any, ...], list[FileScanTask]] = defaultdict(list)
    for task in _tasks(found):
        if task.file.file_size_in_bytes < wanted.small_bytes and task.file.spec_id == found.spec().spec_id:
            groups[values(task.file.partition)].append(task)
    return [
        part
        for group in groups.values()
        if len(group) >= wanted.at_least
        for part in _parts(group, wanted.most_bytes)
        if len(part) > 1
    ]


def _parts(group: Sequence[FileScanTask], most_bytes: int) -> Iterator[list[FileScanTask]]:
    part: list[FileScanTask] = []
    size = 0
    for task in group:
        if part and size + task.file.file_size_in_bytes > most_bytes:
            yield part
            part, size = [], 0
        part.append(task)
        size += task.file.file_size_in_bytes
    yield part


def join(load: Callable[[], Table], group: Sequence[FileScanTask], sort_by: Sequence[str] = ()) -> None:
    """Put the rows of several files into one, in one commit.

    Raises:
        CommitFailedException, ValidationException: somebody else changed the table all the time, or these files.
    """
    found = load()
    wanted = _state(group)
    if not wanted <= _state(_tasks(found)):
        return
    rows = ArrowScan(found.metadata, found.io, found.schema(), AlwaysTrue()).to_table(tasks=group)
    if sort_by:
        rows = rows.sort_by([(name, "ascending") for name in sort_by])
    made: list[DataFile] = []
    try:
        made += _dataframe_to_data_files(found.metadata, rows, found.io)
        for attempt in range(_COMMITS):
            try:
                _replace(found, group, made)
            except CONFLICTS:
                found = load()
                # Rows that were added meanwhile are no reason to write these again; rows that were deleted are.
                if attempt == _COMMITS - 1 or not wanted <= _state(_tasks(found)):
                    raise
            else:
                return
    except CONFLICTS:
        for file in made:
            found.io.delete(file.file_path)
        raise


def _replace(found: Table, group: Sequence[FileScanTask], made: Sequence[DataFile]) -> None:
    with (
        fixed(found).transaction() as transaction,
        transaction.update_snapshot(snapshot_properties={"mainstem.compacted": "true"}).overwrite() as put,
    ):
        for task in group:
            put.delete_data_file(task.file)
        for file in made:
            put.append_data_file(file)


def _state(tasks: Sequence[FileScanTask]) -> _State:
    return frozenset(
        (task.file.file_path, frozenset(gone.file_path for gone in task.delete_files)) for task in tasks
    )


def expire(load: Callable[[], Table], wanted: Wanted) -> tuple[int, int]:
    """Let go of old snapshots, by `keep`, and of the files that only they had; return how many of each.

    It is done between others' commits; if those leave no room, it is for the next time.
    """
    for _ in range(_COMMITS):
        try:
            return _expire(load, wanted)
        except CONFLICTS:
            continue
    return 0, 0


def _expire(load: Callable[[], Table], wanted: Wanted) -> tuple[int, int]:
    found = load()
    old = list(_dispensable(found, wanted))
    if not old:
        return 0, 0
    _let_go(load, found, {snapshot.snapshot_id for snapshot in old})
    gone = _files_only_of(old, load)
    for path in gone:
        with suppress(FileNotFoundError):  # other upkeep, which lets go of the next snapshots, was here
            found.io.delete(path)
    return len(old), len(gone)


def _let_go(load: Callable[[], Table], found: Table, ids: Set[int]) -> None:
    expiry = fixed(found).maintenance.expire_snapshots()
    try:
        expiry.by_ids(list(ids)).commit()
    except ValueError as trouble:
        # Other upkeep was faster with one of them. pyiceberg does not call it a conflict.
        if ids <= {snapshot.snapshot_id for snapshot in load().snapshots()}:
            raise
        raise CommitFailedException("others let go of the same snapshots") from trouble


def _dispensable(found: Table, wanted: Wanted) -> Iterator[Snapshot]:
    now = datetime.now(UTC)
    old_ms = (now - wanted.keep).timestamp() * 1000
    thin_ms = (now - min(_THIN, wanted.keep)).timestamp() * 1000
    held = {ref.snapshot_id for ref in found.metadata.refs.values()}  # the table's head, tags, branches
    # The next snapshot has all that one has if it only added.
    continued = {
        snapshot.parent_snapshot_id
        for snapshot in found.snapshots()
        if snapshot.summary is not None and snapshot.summary.operation == Operation.APPEND
    }
    for snapshot in found.snapshots():
        old = snapshot.timestamp_ms < old_ms or (
            snapshot.timestamp_ms < thin_ms and snapshot.snapshot_id in continued
        )
        if old and snapshot.snapshot_id not in held:
            yield snapshot


def _files_only_of(old: Sequence[Snapshot], load: Callable[[], Table]) -> list[str]:
    """Return the files of snapshots that are gone which no snapshot of the table has.

    In the order in which they are to be removed: what leads to a file goes after it, so that other upkeep that finds
    nothing there knows that it is done.
    """
    for _ in range(_COMMITS - 1):
        with suppress(FileNotFoundError):  # a snapshot that was kept a moment ago is gone by now
            return _not_in(load(), old)
    return _not_in(load(), old)


def _not_in(kept: Table, old: Sequence[Snapshot]) -> list[str]:
    """Return those files of snapshots that a table has not. Each manifest is read once."""
    still = _manifests(kept.snapshots(), kept)
    gone = {path: manifest for path, manifest in _manifests(old, kept).items() if path not in still}
    data: set[str] = set()
    for manifest in gone.values():
        with suppress(FileNotFoundError):
            data.update(_data_files(manifest, kept))
    if data:
        data -= {path for manifest in still.values() for path in _data_files(manifest, kept)}
    return [*data, *gone, *(snapshot.manifest_list for snapshot in old)]


def _manifests(snapshots: Sequence[Snapshot], found: Table) -> dict[str, ManifestFile]:
    return {
        manifest.manifest_path: manifest
        for snapshot in snapshots
        for manifest in snapshot.manifests(found.io)
    }


def _data_files(manifest: ManifestFile, found: Table) -> Iterator[str]:
    for entry in manifest.fetch_manifest_entry(found.io, discard_deleted=True):
        yield entry.data_file.file_path


def values(record: Record) -> tuple[Any, ...]:
    """Return the values of a partition."""
    return tuple(record[position] for position in range(len(record)))
