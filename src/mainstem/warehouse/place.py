"""Where the files of tables lie: a local folder, or a bucket of S3, GCS or Azure through obstore. Blocking.

loaders of lakes -> **place**. The settings are those of the archive (`destinations.archive`), for any engine whose
tables are files. What every place promises is what `lake.store` promises, and one thing more:

* `put` is atomic and durable: a file is absent, or its old content, or its whole new content, whatever crashes when.
* `create` is `put` for a name that nobody has yet: of two at the same time one is told that it came second
  (`If-None-Match: *`, which S3, GCS, Azure and MinIO have; a hard link in a folder).
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, NotFoundError

from mainstem.bulk.buckets import mapped, open_bucket
from mainstem.bulk.folders import local_folder, make_folder, sync_folder
from mainstem.secret import NO_SECRET, Secret
from mainstem.warehouse.loader import WarehouseError
from mainstem.warehouse.settings import WarehouseSettings

_PART_BYTES: Final = 8 * 1024 * 1024
_TMP: Final = ".tmp"
_mapped: Final = partial(mapped, error=WarehouseError)


class PlaceSettings(WarehouseSettings, frozen=True, kw_only=True, rename="camel"):
    """Settings of a warehouse whose tables are files."""

    url: str = "lake"
    """Where: a folder (a path, `file:///path`; a relative path lies in the data directory), `s3://bucket/folder`,
    `gs://bucket/folder` or `az://container/folder`."""
    endpoint: str = ""
    """URL of an S3-compatible server (MinIO …), of a GCS or an Azure emulator; empty = the vendor's own."""
    region: str = ""
    """S3 region; empty = from the environment, else us-east-1."""
    path_style: bool = True
    """S3: bucket in the path (`false`: in the host name)."""
    server_side_encryption: Literal["", "AES256", "aws:kms"] = ""
    """S3: ask for encryption at rest explicitly (buckets encrypt by default)."""
    role_arn: str = ""
    """S3: role to assume."""
    access_key_id: Secret = NO_SECRET
    """S3 access key id; empty = what the machine has (environment, instance role)."""
    secret_access_key: Secret = NO_SECRET
    """S3 secret access key."""
    session_token: Secret = NO_SECRET
    """S3 session token of temporary keys."""
    credentials: Secret = NO_SECRET
    """GCS: service account key, the JSON itself; empty = what the machine has."""
    account_name: str = ""
    """Azure: storage account."""
    account_key: Secret = NO_SECRET
    """Azure: account key."""
    sas_token: Secret = NO_SECRET
    """Azure: shared access signature."""


class Place(Protocol):
    """A place for files. Names are `/`-separated and relative to its root. What fails is a `WarehouseError`."""

    def put(self, name: str, content: bytes | Path) -> None:
        """Write a whole file."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Write a whole file unless the name is taken; tell whether it was written."""
        ...

    def get(self, name: str) -> bytes | None:
        """Return a whole file, None if there is none."""
        ...

    def exists(self, name: str) -> bool: ...

    def list(self, prefix: str) -> Sequence[str]:
        """Return the names of the files below the folder `prefix`, at any depth, sorted."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file; it is no error if there is none."""
        ...


def open_place(settings: PlaceSettings, data_dir: Path, url: str = "") -> Place:
    """Return the place that settings name.

    Args:
        url: instead of the settings' own.

    Raises:
        WarehouseError: they can't name one (unknown scheme, malformed credentials).
    """
    place = url or settings.url
    folder = local_folder(place, data_dir)
    if folder is not None:
        return Folder(folder)
    parts = urlsplit(place)
    with _mapped(f"open {parts.scheme}://{parts.netloc}"):
        return Bucket(open_bucket(settings, parts.scheme, parts.netloc, parts.path))


class Bucket:
    """S3, GCS or Azure, through obstore. See `Place`."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def put(self, name: str, content: bytes | Path) -> None:
        with _mapped(f"put {name}"):
            obstore.put(self._store, name, content, chunk_size=_PART_BYTES, max_concurrency=4)

    def create(self, name: str, content: bytes) -> bool:
        with _mapped(f"put {name}"):
            try:
                obstore.put(self._store, name, content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def get(self, name: str) -> bytes | None:
        with _mapped(f"get {name}"):
            try:
                return bytes(obstore.get(self._store, name).bytes())
            except (NotFoundError, FileNotFoundError):
                return None

    def exists(self, name: str) -> bool:
        with _mapped(f"head {name}"):
            try:
                obstore.head(self._store, name)
            except (NotFoundError, FileNotFoundError):
                return False
        return True

    def list(self, prefix: str) -> Sequence[str]:
        with _mapped(f"list {prefix}"):
            return sorted(
                str(found["path"])
                for chunk in obstore.list(self._store, prefix or None, chunk_size=1000)
                for found in chunk
            )

    def remove(self, name: str) -> None:
        with _mapped(f"delete {name}"):
            try:
                obstore.delete(self._store, name)
            except (NotFoundError, FileNotFoundError):
                return


class Folder:
    """A local folder. Writes go to a hidden temporary file, fsync, rename or link, fsync of the folder."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def put(self, name: str, content: bytes | Path) -> None:
        with _mapped(f"put {name}"), self._written(name, content) as temporary:
            temporary.rename(self._root / name)

    def create(self, name: str, content: bytes) -> bool:
        with _mapped(f"put {name}"), self._written(name, content) as temporary:
            try:
                (self._root / name).hardlink_to(temporary)
            except FileExistsError:
                return False
        return True

    @contextmanager
    def _written(self, name: str, content: bytes | Path) -> Iterator[Path]:
        target = self._root / name
        make_folder(self._root / _TMP)
        make_folder(target.parent)
        descriptor, path = tempfile.mkstemp(dir=self._root / _TMP)
        temporary = Path(path)
        try:
            with os.fdopen(descriptor, "wb") as out:
                if isinstance(content, Path):
                    with content.open("rb") as source:
                        while block := source.read(1024 * 1024):
                            out.write(block)
                else:
                    out.write(content)
                out.flush()
                os.fchmod(out.fileno(), 0o644)
                os.fsync(out.fileno())
            yield temporary
            sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def get(self, name: str) -> bytes | None:
        with _mapped(f"get {name}"):
            try:
                return (self._root / name).read_bytes()
            except FileNotFoundError:
                return None

    def exists(self, name: str) -> bool:
        return (self._root / name).is_file()

    def list(self, prefix: str) -> Sequence[str]:
        found = []
        with _mapped(f"list {prefix}"):
            for folder, folders, files in os.walk(self._root / prefix):
                folders[:] = [name for name in folders if not name.startswith(".")]
                found += [Path(folder, name).relative_to(self._root).as_posix() for name in files]
        return sorted(found)

    def remove(self, name: str) -> None:
        with _mapped(f"delete {name}"):
            (self._root / name).unlink(missing_ok=True)
