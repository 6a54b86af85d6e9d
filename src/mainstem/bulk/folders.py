"""Local folders of what is written here: where they are, what they are called, and that they survive a power cut."""

import hashlib
import os
import re
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
