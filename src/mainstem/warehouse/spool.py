"""Folders in which loads are made: each is its maker's alone, and what a killed one leaves behind is removed.

writer -> **spool**. Two workers may carry out the same plan at once (one was declared dead and is not), so a folder has
a name of its own, not the plan's alone. It is locked while its maker lives: the kernel lets go of the lock however the
process ends, so that whoever comes next knows what nobody needs any more.
"""

import fcntl
import os
import shutil
from pathlib import Path
from uuid import uuid4


class LoadFolder:
    """A folder for one load. Blocking."""

    def __init__(self, root: Path, name: str) -> None:
        """Make it, below `root`, and remove those whose makers are gone.

        Raises:
            OSError: it can't be made.
        """
        root.mkdir(parents=True, exist_ok=True)
        # One at a time: a folder that was just made is not locked yet.
        turn = _locked(root, fcntl.LOCK_EX)
        try:
            for left in root.iterdir():
                if _is_abandoned(left):
                    shutil.rmtree(left, ignore_errors=True)
            self.path = root / f"{name}-{uuid4().hex[:8]}"
            self.path.mkdir()
            self._held: int | None = _locked(self.path, fcntl.LOCK_EX)
        finally:
            os.close(turn)

    def close(self) -> None:
        """Remove it. May be called again."""
        if self._held is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._held)
            self._held = None


def _locked(folder: Path, how: int) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, how)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_abandoned(folder: Path) -> bool:
    try:
        os.close(_locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB))
    except (
        FileNotFoundError,
        NotADirectoryError,
        BlockingIOError,
    ):  # gone just now, not ours, or its maker lives
        return False
    return True
