"""Who sends: of all processes and clients on one store, the one that holds this lock, for as long as it sends.

An exclusive lock of the kernel on a file beside the store. It belongs to the open file, so two clients in one
process exclude each other too, and the kernel frees it when its holder dies, however that happens. Whoever has a
reason to send (enough events, enough time, a flush) tries to take it, sends all there is, and gives it back; during a
back-off it is kept, so that several processes do not knock in turn on a server that asked for quiet.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Callable

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


class Lease:
    """The right to send what is in a store."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._held = False

    def acquire(self) -> bool:
        """Take it if nobody has it.

        Raises:
            OSError: There can be no such file here.
        """
        if self._held:
            return True
        if self._descriptor < 0:
            try:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            except OSError:
                # A disk that has become read-only; a lock can be had all the same.
                self._descriptor = os.open(self._path, os.O_RDONLY)
        try:
            _lock(self._descriptor)
        except OSError:
            # EWOULDBLOCK, or EACCES on Windows: another one sends.
            return False
        self._held = True
        return True

    def release(self) -> None:
        """Give it back."""
        if self._held:
            self._held = False
            _unlock(self._descriptor)

    def close(self) -> None:
        """Give it back and close the file."""
        self.release()
        self._leave()

    def after_fork_child(self) -> None:
        """Let go of the parent's lock without freeing it; with the file open here it would outlive the parent."""
        self._held = False
        self._leave()

    def _leave(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def exclusively(path: Path, action: Callable[[], None]) -> bool:
    """Run the action while holding the lock of this file; returns False, without running it, if another has it."""
    lease = Lease(path)
    try:
        if not lease.acquire():
            return False
        action()
        return True
    finally:
        lease.close()
