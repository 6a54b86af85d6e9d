"""Times in events, and what vendors want of them. Part of the mapping kit. Milliseconds since the epoch inside."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from dateutil import parser as dateutil_parser

from mainstem.events.canonical import iso_text, parse_time_ms

Json = Any

_ALL_DIGITS: Final = re.compile(r"\d{1,16}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def ms_of(value: Json) -> int | None:
    """Return a time as milliseconds: ISO 8601 and other usual spellings, Unix seconds or milliseconds (also as
    text). None if it is no time."""
    at_ms = parse_time_ms(value)
    if at_ms is not None or not isinstance(value, str):
        return at_ms
    stripped = value.strip()
    if _ALL_DIGITS.fullmatch(stripped):
        return parse_time_ms(int(stripped))
    if not stripped or len(stripped) > 64:
        return None
    try:
        moment = dateutil_parser.parse(stripped, default=datetime(2001, 1, 1))  # noqa: DTZ001 - the zone is set below
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since: int = (moment - _EPOCH) // timedelta(milliseconds=1)
    return since


def seconds_of(value: Json) -> int | None:
    """Return a time as whole Unix seconds, cut off; None if it is no time."""
    at_ms = ms_of(value)
    return None if at_ms is None else at_ms // 1000


def iso_of(value: Json) -> str | None:
    """Return a time as `Date.toISOString` writes it: 2020-01-24T06:29:02.364Z; None if it is no time."""
    at_ms = ms_of(value)
    return None if at_ms is None else iso(at_ms)


def iso(at_ms: int) -> str | None:
    """Return milliseconds as `Date.toISOString` writes them; None outside the years 1 to 9999."""
    try:
        return iso_text(at_ms)
    except OverflowError:
        return None


def moment_of(value: Json) -> datetime | None:
    """Return a time as an aware datetime in UTC, for spellings of a vendor's own; None if it is no time."""
    at_ms = ms_of(value)
    return None if at_ms is None else _EPOCH + timedelta(milliseconds=at_ms)


def happened_ms(message: dict[str, Json]) -> int | None:
    """Return when an event happened: its timestamp, else its originalTimestamp; None if neither can be read."""
    at_ms = ms_of(message.get("timestamp"))
    return at_ms if at_ms is not None else ms_of(message.get("originalTimestamp"))
