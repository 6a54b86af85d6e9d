"""How files are named: `[prefix/]source=<id>/date=YYYY-MM-DD/hour=HH/<sequence>-<plan id>.<format>`.

Hive style, by receivedAt in UTC, so Spark, Trino, DuckDB, Athena and BigQuery read the folders as columns.
Rejected events lie in the same layout below `[prefix/]rejected/`. `<sequence>` counts the plans of the
archive: where two files hold events of the same partition, those of the smaller sequence come first.
"""

import re
from datetime import UTC, date, datetime
from typing import Final, Literal
from urllib.parse import quote, unquote

import msgspec

from mainstem.destinations.archive import Format

HOUR_MS: Final = 3_600_000
FOREVER_MS: Final = 253_402_300_800_000
"""The end of the year 9999."""
ROWS: Final = ".rows"
"""Ends the name of what is no file but rows of a table: those of one plan, source and hour (`iceberg_table`)."""
SUFFIXES: Final[dict[Format, str]] = {"jsonl": ".jsonl.gz", "parquet": ".parquet"}
_REJECTED: Final = "rejected"


class FileKey(msgspec.Struct, frozen=True, gc=False):
    """What shares a file within one plan."""

    source_id: str
    hour: int
    """Hours since the Unix epoch of receivedAt."""
    rejected: bool = False


class FileName(msgspec.Struct, frozen=True):
    """A file's name, read."""

    name: str
    source_id: str
    hour: int
    sequence: int
    stem: str
    """The name without its format: the same events in another format have the same stem."""
    format: Format | Literal["rows"]

    @property
    def plan_id(self) -> str:
        return self.stem.rpartition("-")[2]


def area(prefix: str, *, rejected: bool) -> str:
    """Return the folder that holds the `source=` folders."""
    return "/".join(part for part in (prefix.strip("/"), _REJECTED if rejected else "") if part)


def source_folder(source_id: str) -> str:
    """Return the folder of a source; whatever is not safe in a path is percent-encoded."""
    return f"source={quote(source_id, safe='')}"


def source_of(folder: str) -> str | None:
    """Return the source id of a folder name, None if it is not one."""
    return unquote(folder[7:]) if folder.startswith("source=") else None


def date_folder(day: date) -> str:
    return f"date={day:%Y-%m-%d}"


def date_of(folder: str) -> date | None:
    """Return the day of a folder name, None if it is not one."""
    if not folder.startswith("date="):
        return None
    try:
        return date.fromisoformat(folder[5:])
    except ValueError:
        return None


def day_of_ms(at_ms: int) -> date:
    """Return the UTC day of a moment."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).date()


def stem_of(prefix: str, key: FileKey, sequence: int, plan_id: str) -> str:
    """Return the name of a plan's file for `key`, without the format's suffix."""
    at = datetime.fromtimestamp(key.hour * 3600, UTC)
    folder = f"{source_folder(key.source_id)}/{date_folder(at.date())}/hour={at:%H}"
    root = area(prefix, rejected=key.rejected)
    return f"{root}/{folder}/{sequence:012d}-{plan_id}" if root else f"{folder}/{sequence:012d}-{plan_id}"


_NAME: Final = re.compile(
    r"(?P<stem>(?:.*/)?source=(?P<source>[^/]+)/date=(?P<date>\d{4}-\d\d-\d\d)/hour=(?P<hour>\d\d)/"
    r"(?P<sequence>\d{12,})-[0-9a-f]{16,})(?P<suffix>\.jsonl\.gz|\.parquet|\.rows)"
)


_FORMATS: Final[dict[str, Format | Literal["rows"]]] = {
    **{suffix: name for name, suffix in SUFFIXES.items()},
    ROWS: "rows",
}


def parse_name(name: str) -> FileName | None:
    """Return what a file's name says, None for a file that is not of an archive."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    try:
        at = datetime.fromisoformat(f"{found['date']}T{found['hour']}:00:00+00:00")
    except ValueError:
        return None
    return FileName(
        name=name,
        source_id=unquote(found["source"]),
        hour=int(at.timestamp()) // 3600,
        sequence=int(found["sequence"]),
        stem=found["stem"],
        format=_FORMATS[found["suffix"]],
    )
