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

from mainstem.bulk.folders import is_abandoned, locked, turn


class LoadFolder:
    """A folder for one load. Blocking."""

    def __init__(self, root: Path, name: str) -> None:
        """Make it, below `root`, and remove those whose makers are gone.

        Raises:
            OSError: it can't be made.
        """
        root.mkdir(parents=True, exist_ok=True)
        with turn(root):
            for left in root.iterdir():
                if _is_left_behind(left):
                    shutil.rmtree(left, ignore_errors=True)
            self.path = root / f"{name}-{uuid4().hex[:8]}"
            self.path.mkdir()
            self._held: int | None = locked(self.path, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove it. May be called again."""
        if self._held is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._held)
            self._held = None


def _is_left_behind(folder: Path) -> bool:
    try:
        return folder.is_dir() and is_abandoned(folder)
    except FileNotFoundError:
        return False  # gone just now
