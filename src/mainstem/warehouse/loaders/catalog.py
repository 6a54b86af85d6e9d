"""All engines by name. Ours are one line each; a third party's package adds one with an entry point in the group
`mainstem.loaders` whose object is a `LoaderSpec` (and its `destination_of` in `mainstem.destinations`)."""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Final

from mainstem.warehouse.loader import LoaderSpec

_OURS: Final = {
    "AZURE_DATALAKE": "mainstem.warehouse.loaders.parquet:AZURE_SPEC",
    "BQ": "mainstem.warehouse.loaders.bigquery:SPEC",
    "CLICKHOUSE": "mainstem.warehouse.loaders.clickhouse:SPEC",
    "DATABRICKS": "mainstem.warehouse.loaders.databricks:SPEC",
    "DELTALAKE": "mainstem.warehouse.loaders.delta:SPEC",
    "DUCKDB": "mainstem.warehouse.loaders.duckdb:SPEC",
    "GCS_DATALAKE": "mainstem.warehouse.loaders.parquet:GCS_SPEC",
    "ICEBERG": "mainstem.warehouse.loaders.iceberg:SPEC",
    "PARQUET": "mainstem.warehouse.loaders.parquet:SPEC",
    "MYSQL": "mainstem.warehouse.loaders.mysql:SPEC",
    "POSTGRES": "mainstem.warehouse.loaders.postgres:SPEC",
    "RS": "mainstem.warehouse.loaders.redshift:SPEC",
    "S3_DATALAKE": "mainstem.warehouse.loaders.parquet:S3_SPEC",
    "SNOWFLAKE": "mainstem.warehouse.loaders.snowflake:SPEC",
}


@cache
def _third_party() -> Mapping[str, LoaderSpec]:
    found = {}
    for point in entry_points(group="mainstem.loaders"):
        spec = point.load()
        if isinstance(spec, LoaderSpec):
            found[spec.name.upper()] = spec
    return found


@cache
def find_loader(name: str) -> LoaderSpec | None:
    """Return an engine by its destination type's name; case does not matter. None if there is no such engine."""
    place = _OURS.get(name.upper())
    if place is None:
        return _third_party().get(name.upper())
    module, _, attribute = place.partition(":")
    spec = getattr(import_module(module), attribute)
    assert isinstance(spec, LoaderSpec)  # noqa: S101 - our own table
    return spec


def names() -> list[str]:
    """Return the names of all engines, sorted."""
    return sorted({*_OURS, *_third_party()})
