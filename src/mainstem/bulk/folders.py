"""Local folders of what is written here: where they are, what they are called, and that they survive a power cut."""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit


def local_folder(url: str, data_dir: Path) -> Path | None:
    """Return the folder that a setting `url` names, None if it names a bucket."""
    parts = urlsplit(url)
    if parts.scheme not in ("", "file"):
        return None
    return (data_dir / (parts.path if parts.scheme else url)).resolve()


def folder_name(name: str) -> str:
    """Return a table's (or namespace's) folder: its own name where that is plain, else one that is told apart."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:100]
    if plain == name:
        return name
    return f"{plain}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"


def make_folder(folder: Path) -> None:
    """Create a folder so that it survives a power cut."""
    if folder.is_dir():
        return
    missing = [folder, *(parent for parent in folder.parents if not parent.is_dir())]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Make a folder's names durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def locked(path: Path, how: int) -> int:
    """Lock a folder or a file and return its descriptor: closed, however the process ends, it is free again.

    Args:
        how: `fcntl.LOCK_EX`, or with `LOCK_NB`.

    Raises:
        BlockingIOError: it is locked, and `how` says not to wait.
        OSError: it can't be opened.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """One at a time, for whoever makes in a folder what is locked while its maker lives, and whoever removes there what
    is not: what was just made is not locked yet, and would seem to be nobody's."""
    descriptor = locked(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def is_abandoned(path: Path) -> bool:
    """Whether nobody holds the lock of a folder or a file.

    Raises:
        FileNotFoundError: it is not there.
    """
    try:
        os.close(locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
