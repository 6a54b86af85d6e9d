"""What transformed records became, kept on disk from the decision to the files.

rules and transformations -> **staged** -> files. A plan's files must be a function of the plan (`plan.py`), and user
code is none of it: another version may be in use by the time a plan is carried out again. So what the code made
of the records of a partition is put into a file of the spool, in order; the plan notes its digest. The file is
durable before the plan is noted, and goes when the plan is settled. Records that were not transformed are not in
it: they are read from the log a second time, byte for byte.

    frame := length (4 bytes, big endian), MessagePack [offset, [stored event, …]]

Files are `<cursor>/<plan id>-<partition>.staged`, or `….gathering` before there is a plan: those are locked while
somebody gathers, so what a crash left behind is known at once.
"""

import fcntl
import os
import struct
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import quote
from uuid import uuid4

import msgspec
import xxhash

from mainstem.bulk.errors import PlanBroken
from mainstem.bulk.folders import is_abandoned, sync_folder, turn
from mainstem.events.stored import StoredEvent

_LENGTH: Final = struct.Struct(">I")


class _Frame(msgspec.Struct, frozen=True, array_like=True):
    offset: int
    events: tuple[StoredEvent, ...]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Frame).decode


class Staging:
    """The file of one partition, while it is gathered. Blocking."""

    def __init__(self, folder: Path, partition: int) -> None:
        """Begin a file.

        Raises:
            OSError: it can't be made.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._partition = partition
        self._path = folder / f"{uuid4().hex}-{partition}.gathering"
        with turn(folder):
            self._file = self._path.open("xb")
            fcntl.flock(self._file, fcntl.LOCK_EX)
        self._digest = xxhash.xxh3_128()

    @property
    def digest(self) -> bytes:
        """XXH3-128 over what was added."""
        return self._digest.digest()

    def add(self, offset: int, events: Sequence[StoredEvent]) -> None:
        """Add what the next transformed record became.

        Raises:
            OSError: the disk does not take it.
        """
        body = _encode(_Frame(offset, tuple(events)))
        frame = _LENGTH.pack(len(body)) + body
        self._file.write(frame)
        self._digest.update(frame)

    def seal(self, plan_id: str) -> None:
        """Make it durable under the plan's name.

        Raises:
            OSError: the disk does not take it.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        # Closed last: with it the lock goes, and under its first name it would then be nobody's.
        self._path.replace(path_of(self._folder, plan_id, self._partition))
        self._file.close()
        sync_folder(self._folder)

    def close(self) -> None:
        """Remove it, unless it was sealed."""
        if not self._file.closed:
            self._file.close()
        self._path.unlink(missing_ok=True)


class StagedReader:
    """Reads a sealed file from its beginning, along with the records of its partition. Blocking."""

    def __init__(self, folder: Path, plan_id: str, partition: int, digest: bytes) -> None:
        """Open the file.

        Raises:
            PlanBroken: it is not there.
        """
        self._what = f"partition {partition}: the transformed events of plan {plan_id}"
        self._expected = digest
        self._digest = xxhash.xxh3_128()
        try:
            self._file: BinaryIO = path_of(folder, plan_id, partition).open("rb")
        except OSError as error:
            raise PlanBroken(f"{self._what} can't be read: {error.strerror or error}") from error
        self._next: _Frame | None = None

    def of(self, offset: int) -> Sequence[StoredEvent] | None:
        """Return what the record at an offset became; None if it was not transformed. Offsets are asked for in order.

        Raises:
            PlanBroken: the file is not what was written.
        """
        if self._next is None or self._next.offset < offset:
            self._next = self._frame()
        return self._next.events if self._next is not None and self._next.offset == offset else None

    def finish(self) -> None:
        """See that it was what the plan says, to its end.

        Raises:
            PlanBroken: it was not.
        """
        if self._file.read(1) or self._digest.digest() != self._expected:
            raise PlanBroken(f"{self._what} are not what was planned")

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _frame(self) -> _Frame | None:
        head = self._file.read(_LENGTH.size)
        if not head:
            return None
        body = b""
        if len(head) == _LENGTH.size:
            (length,) = _LENGTH.unpack(head)
            body = self._file.read(length)
        self._digest.update(head + body)
        try:
            return _decode(body)
        except msgspec.DecodeError as error:
            raise PlanBroken(f"{self._what} are damaged: {error}") from error


def folder_of(spool: Path, cursor: str) -> Path:
    """Return where the files of a cursor are."""
    return spool / quote(cursor, safe="")


def path_of(folder: Path, plan_id: str, partition: int) -> Path:
    """Return the file of a plan and partition."""
    return folder / f"{plan_id}-{partition}.staged"


def sweep(folder: Path, plan_ids: Collection[str], *, before_ms: int) -> int:
    """Remove what crashes left behind: what nobody gathers any more, and files of none of these plans that were last
    written before a moment. Blocking.

    Returns:
        How many were removed.
    """
    removed = 0
    if not folder.is_dir():
        return removed
    with turn(folder):
        for path in folder.glob("*-*.*"):
            try:
                left = (
                    is_abandoned(path)
                    if path.suffix == ".gathering"
                    else path.name.partition("-")[0] not in plan_ids
                    and path.stat().st_mtime * 1000 < before_ms
                )
            except FileNotFoundError:
                continue  # it was sealed, or its plan settled, just now
            if left:
                path.unlink(missing_ok=True)
                removed += 1
    return removed
