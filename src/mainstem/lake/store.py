"""Where files lie: a local folder, or a bucket of S3, GCS or Azure.

archiver -> **store**. What every store promises:

* `put` is atomic and durable: a file is either absent, or its old content, or its whole new content, whatever
  crashes when; once `put` has returned, no crash of this machine loses it. Putting a name again replaces it.
* `list` shows only whole files.
* Whatever fails is a `StoreUnavailable`; the caller decides when to try again.

The folder is our own code: obstore's `LocalStore` renames a staging file into place, but object_store's fsync
is off by default (arrow-rs-object-store pull requests 643 and its option `with_fsync`) and obstore 0.12 has no
way to ask for it, so a power cut could leave an empty file behind a position that says it is archived.

Conditional create (`If-None-Match`) is not used: two workers that write one name write the same bytes
(`plan.py`), so refusing the second write would add an error path and no safety.
"""

import asyncio
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol
from urllib.parse import urlsplit

import msgspec
import obstore
from obstore.store import MemoryStore

from mainstem.bulk.buckets import mapped, open_bucket
from mainstem.bulk.folders import is_abandoned, sync_folder
from mainstem.destinations.archive import ArchiveSettings, Config, archive_config
from mainstem.lake.errors import StoreUnavailable

_PART_BYTES: Final = 8 * 1024 * 1024
_TMP: Final = ".tmp"
_mapped: Final = partial(mapped, error=StoreUnavailable)


class StoredFile(msgspec.Struct, frozen=True):
    """A file of a store."""

    name: str
    size_bytes: int


class Store(Protocol):
    """A place for files. Names are `/`-separated and relative to its root."""

    @property
    def location(self) -> str:
        """Where it is, without secrets: the same text means the same place."""
        ...

    async def put(self, name: str, content: BinaryIO) -> None:
        """Write a whole file, from the beginning of `content`."""
        ...

    async def get(self, name: str) -> bytes:
        """Return a whole file."""
        ...

    def list(self, prefix: str) -> AsyncIterator[StoredFile]:
        """Yield the files below the folder `prefix`, at any depth, in no order."""
        ...

    async def folders(self, prefix: str) -> Sequence[str]:
        """Return the names of the folders directly in the folder `prefix`, sorted."""
        ...

    async def check(self) -> None:
        """Raise `StoreUnavailable` if the place can't be reached."""
        ...


def open_store(settings: Config | ArchiveSettings, data_dir: Path) -> Store:
    """Return the store that the settings of a destination of kind `files` name.

    Raises:
        StoreUnavailable: the settings can't name a place (unknown scheme, malformed credentials).
    """
    config = archive_config(settings)
    url = urlsplit(config.url)
    if url.scheme in ("", "file"):
        return LocalStore(data_dir / (url.path if url.scheme else config.url))
    if url.scheme == "memory":
        return BucketStore(MemoryStore(), "memory:")
    with _mapped("open"):
        return BucketStore(
            open_bucket(config, url.scheme, url.netloc, url.path), f"{config.endpoint}|{config.url}"
        )


class BucketStore:
    """S3, GCS, Azure or memory, through obstore."""

    def __init__(self, store: Any, location: str) -> None:
        self._store = store
        self._location = location

    @property
    def location(self) -> str:
        return self._location

    async def put(self, name: str, content: BinaryIO) -> None:
        content.seek(0)
        with _mapped(f"put {name}"):
            # One request below a part's size, a multipart upload above: either appears as a whole or not.
            await obstore.put_async(self._store, name, content, chunk_size=_PART_BYTES, max_concurrency=4)

    async def get(self, name: str) -> bytes:
        with _mapped(f"get {name}"):
            result = await obstore.get_async(self._store, name)
            return bytes(await result.bytes_async())

    async def list(self, prefix: str) -> AsyncIterator[StoredFile]:
        with _mapped(f"list {prefix}"):
            async for chunk in obstore.list(self._store, prefix or None, chunk_size=1000):
                for found in chunk:
                    yield StoredFile(found["path"], found["size"])

    async def folders(self, prefix: str) -> Sequence[str]:
        with _mapped(f"list {prefix}"):
            found = await obstore.list_with_delimiter_async(self._store, prefix or None)
            return sorted(path.rsplit("/", 1)[-1] for path in found["common_prefixes"])

    async def check(self) -> None:
        with _mapped("check"):
            async for _ in obstore.list(self._store, "mainstem-check", chunk_size=1):
                break


class LocalStore:
    """A folder. Writes go to a hidden temporary file, fsync, rename, fsync of the folders."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._durable_folders: set[Path] = set()

    @property
    def location(self) -> str:
        return self._root.as_uri()

    async def put(self, name: str, content: BinaryIO) -> None:
        await asyncio.to_thread(self._put, name, content)

    async def get(self, name: str) -> bytes:
        with _mapped(f"get {name}"):
            return await asyncio.to_thread((self._root / name).read_bytes)

    async def list(self, prefix: str) -> AsyncIterator[StoredFile]:
        with _mapped(f"list {prefix}"):
            for found in await asyncio.to_thread(self._walk, prefix):
                yield found

    async def folders(self, prefix: str) -> Sequence[str]:
        with _mapped(f"list {prefix}"):
            return await asyncio.to_thread(self._folders, prefix)

    async def check(self) -> None:
        with _mapped("check"):
            await asyncio.to_thread(self._check)

    def _check(self) -> None:
        self._make_durable(self._root / _TMP)
        with tempfile.TemporaryFile(dir=self._root / _TMP):
            self._sweep()

    def _put(self, name: str, content: BinaryIO) -> None:
        target = self._root / name
        content.seek(0)
        with _mapped(f"put {name}"):
            self._make_durable(self._root / _TMP)
            self._make_durable(target.parent)
            descriptor, temporary = tempfile.mkstemp(dir=self._root / _TMP)
            try:
                with os.fdopen(descriptor, "wb") as out:
                    # Held while this process writes, so that `_sweep` of another one knows it is in use.
                    fcntl.flock(out, fcntl.LOCK_SH)
                    shutil.copyfileobj(content, out, 1024 * 1024)
                    out.flush()
                    os.fchmod(out.fileno(), 0o644)
                    os.fsync(out.fileno())
                    Path(temporary).rename(target)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            sync_folder(target.parent)

    def _make_durable(self, folder: Path) -> None:
        """Create a folder so that it survives a power cut; once per folder and process.

        Also for one that exists: the process that made it may have died before its fsync.
        """
        if folder in self._durable_folders:
            if folder.is_dir():
                return
            self._durable_folders.clear()  # someone removed folders under us
        folder.mkdir(parents=True, exist_ok=True)
        for made in (folder, *folder.parents):
            if made in self._durable_folders:
                break
            self._durable_folders.add(made)
            if made == self._root:
                sync_folder(made.parent)
                break
            sync_folder(made.parent)

    def _sweep(self) -> None:
        """Remove temporary files of processes that died while writing."""
        for left in (self._root / _TMP).iterdir():
            if is_abandoned(left):
                left.unlink(missing_ok=True)

    def _walk(self, prefix: str) -> Sequence[StoredFile]:
        found: list[StoredFile] = []
        for folder, folders, files in os.walk(self._root / prefix):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in files:
                path = Path(folder, name)
                if not name.startswith("."):
                    found.append(StoredFile(path.relative_to(self._root).as_posix(), path.stat().st_size))
        return found

    def _folders(self, prefix: str) -> Sequence[str]:
        folder = self._root / prefix
        if not folder.is_dir():
            return []
        return sorted(
            path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
        )
