"""Catalogs of Iceberg tables, and the files that tables are made of, by pyiceberg.

settings -> **catalog** -> loader of tables, archive. A SQL catalog or a REST one; what settings mean is told where they
are (`destinations.iceberg_archive`, `warehouse.loaders.iceberg`: the same names, the same meaning).
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pyiceberg.catalog import Catalog
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    ValidationException,
)
from pyiceberg.io import InputFile, OutputFile
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO
from pyiceberg.typedef import EMPTY_DICT, Properties
from sqlalchemy.exc import SQLAlchemyError

from mainstem.bulk.buckets import BucketSettings
from mainstem.bulk.errors import BulkError, ErrorOf
from mainstem.bulk.folders import folder_name, local_folder, make_folder, sync_folder
from mainstem.secret import Secret


class CatalogSettings(BucketSettings, Protocol):
    """Where a catalog is and where its tables lie."""

    @property
    def url(self) -> str: ...
    @property
    def catalog(self) -> str: ...
    @property
    def catalog_name(self) -> str: ...
    @property
    def catalog_uri(self) -> Secret: ...
    @property
    def catalog_credential(self) -> Secret: ...
    @property
    def catalog_token(self) -> Secret: ...
    @property
    def oauth2_server_uri(self) -> str: ...
    @property
    def oauth2_scope(self) -> str: ...
    @property
    def sigv4(self) -> bool: ...
    @property
    def sigv4_service(self) -> str: ...


class DurableFileIO(PyArrowFileIO):
    """pyiceberg's files; those in local folders survive a power cut (it never calls fsync itself)."""

    def __init__(self, properties: Properties = EMPTY_DICT) -> None:
        super().__init__(properties)

    def new_output(self, location: str) -> PyArrowFile:
        scheme, netloc, path = self.parse_location(location, self.properties)
        if scheme != "file":
            return super().new_output(location)
        return _DurableFile(location, path, self.fs_by_scheme(scheme, netloc))

    def delete(self, location: str | InputFile | OutputFile) -> None:
        try:
            super().delete(location)
        except FileNotFoundError:
            raise
        except OSError:
            # In S3 Arrow puts an empty object for the folder after it has deleted, which not everybody may or can.
            name = location if isinstance(location, str) else location.location
            if self.new_input(name).exists():
                raise


class _DurableFile(PyArrowFile):
    def create(self, overwrite: bool = False) -> Any:
        return _Synced(Path(self._path), overwrite)


class _Synced(io.BufferedWriter):
    """A file that is on disk, and its name too, once it is closed."""

    def __init__(self, path: Path, overwrite: bool) -> None:
        make_folder(path.parent)
        self._path = path
        super().__init__(io.FileIO(path, "w" if overwrite else "x"), 256 * 1024)

    def close(self) -> None:
        if not self.closed:
            self.flush()
            os.fsync(self.fileno())
            super().close()
            sync_folder(self._path.parent)


def open_catalog(config: CatalogSettings, data_dir: Path, error: ErrorOf) -> tuple[Catalog, str]:
    """Return the catalog that settings name, and the location below which tables are made ("" = the catalog's own).

    Raises:
        BulkError: by `error`; it can't be reached.
    """
    properties = {
        "s3.endpoint": config.endpoint,
        "s3.region": config.region,
        "s3.access-key-id": config.access_key_id.reveal(),
        "s3.secret-access-key": config.secret_access_key.reveal(),
        "s3.session-token": config.session_token.reveal(),
        "s3.role-arn": config.role_arn,
        "s3.server-side-encryption": config.server_side_encryption,
        "s3.force-virtual-addressing": "" if config.path_style else "true",
        "s3.connect-timeout": "10",
        "s3.request-timeout": "120",
        "adls.account-name": config.account_name,
        "adls.account-key": config.account_key.reveal(),
        "adls.sas-token": config.sas_token.reveal(),
        "py-io-impl": f"{DurableFileIO.__module__}.{DurableFileIO.__name__}",
    }
    uri = config.catalog_uri.reveal()
    with mapped("the catalog", error, secret=uri):
        if config.catalog == "rest":
            properties |= {
                "uri": uri,
                "warehouse": config.url,
                "credential": config.catalog_credential.reveal(),
                "token": config.catalog_token.reveal(),
                "oauth2-server-uri": config.oauth2_server_uri,
                "scope": config.oauth2_scope,
            }
            if config.sigv4:
                properties |= {
                    "rest.sigv4-enabled": "true",
                    "rest.signing-region": config.region,
                    "rest.signing-name": config.sigv4_service,
                }
            return RestCatalog(config.catalog_name, **_given(properties)), ""
        folder = local_folder(config.url, data_dir)
        location = folder.as_uri() if folder is not None else config.url.rstrip("/")
        if not uri:
            beside = folder if folder is not None else data_dir
            make_folder(beside)
            uri = f"sqlite:///{beside.resolve() / 'catalog.db'}?timeout=60"
        properties |= {"uri": uri, "warehouse": location}
        try:
            return SqlCatalog(config.catalog_name, **_given(properties)), location
        except SQLAlchemyError:
            # Two made the catalog's tables at the same time: now they are there.
            return SqlCatalog(config.catalog_name, **_given(properties)), location


def make_namespace(catalog: Catalog, namespace: str) -> None:
    """Make a namespace unless it is there."""
    try:
        catalog.create_namespace_if_not_exists((namespace,))
    except (SQLAlchemyError, NamespaceAlreadyExistsError):
        # Two made it at the same time.
        if not catalog.namespace_exists((namespace,)):
            raise


def place_of(location: str, namespace: str, table: str) -> str | None:
    """Return where a table is made, None where the catalog decides."""
    return f"{location}/{folder_name(namespace)}/{folder_name(table)}" if location else None


def _given(properties: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in properties.items() if text}


@contextmanager
def mapped(what: str, error: ErrorOf, *, secret: str = "") -> Iterator[None]:
    """Tell what failed in our words; conflicts pass, they are tried again."""
    try:
        yield
    except (CommitFailedException, ValidationException, BulkError):
        raise
    except Exception as trouble:
        words = str(trouble).splitlines()[0][:400] if str(trouble) else ""
        if secret:
            words = words.replace(secret, "***")
        raise error(f"{what}: {type(trouble).__name__}: {words}") from trouble
