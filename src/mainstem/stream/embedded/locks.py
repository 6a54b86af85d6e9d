"""Locks between processes that the kernel releases when a process dies, however it dies.

Each object opens its own file description, so two objects exclude one another within one process too.
"""

import fcntl
import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Final

_WORD_BYTES: Final = 8


class FileLock:
    """An advisory lock on a file (flock)."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        self._fd = os.open(path, flags, 0o644)

    def __enter__(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def try_take(self) -> bool:
        """Take the lock if it is free; it is held until `close`."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Release."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class WriteLock(FileLock):
    """The lock of those who write to the active segment, with a number in its file that each of them moves
    before it writes.

    Whoever finds the number where he left it knows that nobody wrote since, without asking the database. It is
    moved first, so one who dies in between only makes the others look for nothing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if os.fstat(self._fd).st_size < _WORD_BYTES:
            os.ftruncate(self._fd, _WORD_BYTES)
        self._map = mmap.mmap(self._fd, _WORD_BYTES)
        self._word = memoryview(self._map).cast("Q")

    @property
    def turn(self) -> int:
        """The number; true while the lock is held."""
        return self._word[0]

    def move(self) -> int:
        """Say, under the lock, that something is going to be written; return the new number."""
        self._word[0] = (self._word[0] + 1) & 0xFFFF_FFFF_FFFF_FFFF
        return self._word[0]

    def close(self) -> None:
        """Release and unmap."""
        if self._fd >= 0:
            self._word.release()
            self._map.close()
        super().close()
