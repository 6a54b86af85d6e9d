"""Where the store lies: `{state folder}/mainstem-analytics/{hash of the write key}/events.db`.

The state folder is `$XDG_STATE_HOME`, else `~/.local/state` (https://specifications.freedesktop.org/basedir-spec/latest/);
on macOS `~/Library/Application Support`, on Windows `%LOCALAPPDATA%`. Where there is no home that can be written
(containers, services) it is a folder of this user's in the one for temporary files, which may not outlive the machine.
The write key itself is in no name and in no file.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

STORE_NAME = "events.db"


def store_folder(write_key: str, directory: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of this write key's store, made if it was not there.

    Args:
        directory: use this instead of the state folder.

    Raises:
        OSError: Neither can be made.
    """
    name = hashlib.sha256(b"mainstem-analytics\0" + write_key.encode()).hexdigest()[:32]
    if directory is not None:
        return _private(Path(directory) / name)
    failed = OSError("there is no folder for a store")
    for parent in _parents():
        try:
            _private(parent)
            return _private(parent / name)
        except OSError as error:
            failed = error
    raise failed


def _parents() -> Iterator[Path]:
    state = os.environ.get("XDG_STATE_HOME", "")
    if Path(state).is_absolute():
        yield Path(state) / "mainstem-analytics"
    try:
        home = Path.home()
    except RuntimeError:
        home = Path("/")
    if home != Path("/"):
        if sys.platform == "darwin":
            yield home / "Library" / "Application Support" / "mainstem-analytics"
        elif sys.platform == "win32":
            yield Path(os.environ.get("LOCALAPPDATA") or home) / "mainstem-analytics"
        else:
            yield home / ".local" / "state" / "mainstem-analytics"
    user = os.geteuid() if hasattr(os, "geteuid") else "user"
    yield Path(tempfile.gettempdir()) / f"mainstem-analytics-{user}"


def _private(path: Path) -> Path:
    """Make a folder that only this user can look into, and in which files can be made."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(f"{path} is no folder")
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        raise OSError(f"{path} belongs to another user")
    if not os.access(path, os.W_OK | os.X_OK):
        raise OSError(f"{path} can't be written")
    return path
