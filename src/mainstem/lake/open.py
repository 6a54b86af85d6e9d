"""Which archive settings name: one of files or one in a table. What tables need is imported when there is one."""

import asyncio
from pathlib import Path

from mainstem.bulk.writer import Writer
from mainstem.clock import Clock
from mainstem.destinations import iceberg_archive
from mainstem.destinations.archive import ArchiveSettings, Config, archive_config
from mainstem.lake.archive_writer import ArchiveWriter
from mainstem.lake.errors import LakeError, StoreUnavailable
from mainstem.lake.reader import Archive, ArchiveReader
from mainstem.lake.store import open_store

Settings = Config | ArchiveSettings | iceberg_archive.Config
"""Of a destination of kind `files`."""


def open_writer(settings: Settings, data_dir: Path, clock: Clock, spool_dir: Path) -> Writer:
    """Return the writer of an archive.

    Raises:
        StoreUnavailable: the settings can't name a place, or what they need is not installed.
    """
    if isinstance(settings, iceberg_archive.Config):
        try:
            from mainstem.lake.iceberg_writer import IcebergWriter
        except ImportError as error:
            raise _missing(error) from error
        return IcebergWriter(settings, data_dir, clock, spool_dir)
    return ArchiveWriter(settings, open_store(settings, data_dir), spool_dir)


def open_archive(settings: Settings, data_dir: Path) -> Archive:
    """Return an archive, to be read. Blocking.

    Raises:
        StoreUnavailable: it can't be reached, or what it needs is not installed.
    """
    if isinstance(settings, iceberg_archive.Config):
        try:
            from mainstem.lake.iceberg_reader import IcebergReader
            from mainstem.lake.iceberg_table import ArchiveTable
        except ImportError as error:
            raise _missing(error) from error
        return IcebergReader(ArchiveTable.open(settings, data_dir))
    return ArchiveReader(open_store(settings, data_dir), archive_config(settings).prefix)


async def check_archive(settings: Settings, data_dir: Path, now_ms: int) -> str:
    """Return where an archive is, once it is seen that it can be written.

    Raises:
        StoreUnavailable: it can't.
    """
    if isinstance(settings, iceberg_archive.Config):
        return await asyncio.to_thread(_check_table, settings, data_dir, now_ms)
    store = open_store(settings, data_dir)
    await store.check()
    return store.location


def _check_table(settings: iceberg_archive.Config, data_dir: Path, now_ms: int) -> str:
    try:
        from mainstem.lake.iceberg_table import ArchiveTable
    except ImportError as error:
        raise _missing(error) from error
    table = ArchiveTable.open(settings, data_dir)
    try:
        table.check(now_ms)
    finally:
        table.close()
    return f"table {settings.namespace}.{settings.table}"


def addresses(settings: Settings) -> tuple[str, ...]:
    """Return the URLs that an archive's settings name."""
    if isinstance(settings, iceberg_archive.Config):
        return settings.addresses()
    endpoint = archive_config(settings).endpoint
    return (endpoint,) if endpoint else ()


def _missing(error: ImportError) -> LakeError:
    return StoreUnavailable(
        f"an archive in Iceberg needs pyiceberg ({error.name} is missing): pip install 'mainstem[iceberg]'"
    )
