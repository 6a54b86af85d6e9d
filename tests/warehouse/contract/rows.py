"""Parquet files for loads, as `fit` writes them, and what a table holds afterwards."""

from mainstem.testing.warehouse.rows import (
    DAY,
    EVENT,
    cased,
    create,
    event,
    evolve,
    ids,
    load_of,
    named,
    staged,
    values,
)

__all__ = [
    "DAY",
    "EVENT",
    "cased",
    "create",
    "event",
    "evolve",
    "ids",
    "load_of",
    "named",
    "staged",
    "values",
]
