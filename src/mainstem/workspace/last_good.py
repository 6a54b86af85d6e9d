"""The last good copy of a workspace document on disk: what the data plane starts from when its place is down.

The copy is the document as it was read, so `${NAME}` references stay references. A document from a control
plane may hold secrets in clear: the file is readable by its owner only (mode 0600) and is not encrypted; put
the data directory on an encrypted disk if that matters. Written beside itself, synced and renamed: a crash
leaves the old copy or the new one.
"""

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec

from mainstem.telemetry.log import logger

_log = logger(__name__)


class Saved(msgspec.Struct, frozen=True):
    """A copy."""

    location: str
    """Where the document came from, without anything secret."""
    saved_at_ms: int
    document: bytes
    etag: str = ""
    files: dict[str, bytes] = {}
    """What the document refers to, by path beside it."""


class LastGood:
    """Keeps the copy of one location; another location in the same directory has its own."""

    def __init__(self, directory: Path, location: str) -> None:
        digest = hashlib.blake2b(location.encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
        self.path = directory / f"workspace-{digest}.json"
        self._location = location

    def load(self) -> Saved | None:
        """Return the copy, or None when there is none that can be read (which is logged)."""
        try:
            saved = msgspec.json.decode(self.path.read_bytes(), type=Saved)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            _log.warning(
                "the last good copy of the workspace is unreadable",
                path=str(self.path),
                error=type(error).__name__,
            )
            return None
        return saved if saved.location == self._location else None

    def save(
        self, document: bytes, *, now_ms: int, etag: str = "", files: Mapping[str, bytes] | None = None
    ) -> None:
        """Write the copy. A full disk is logged, not raised: the snapshot itself is in use already."""
        saved = Saved(self._location, now_ms, document, etag, dict(files or {}))
        try:
            write_private(self.path, msgspec.json.encode(saved))
        except OSError as error:
            _log.error(
                "the last good copy of the workspace was not saved", path=str(self.path), error=str(error)
            )


def write_private(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file that only its owner may read, whole or not at all.

    Raises:
        FileExistsError: it is there already and `replace` is False.
        OSError: the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            fresh.replace(path)
        else:
            path.hardlink_to(fresh)  # unlike a rename, fails if another process was first
    finally:
        fresh.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
