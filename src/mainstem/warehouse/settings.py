"""Settings that every warehouse has beside those of its engine. Names are RudderStack's where it has them."""

from typing import Annotated, Literal

import msgspec

Minutes = Annotated[float, msgspec.Meta(gt=0)]


class Window(msgspec.Struct, frozen=True, rename="camel"):
    """A part of every day, in UTC: `{excludeWindowStartTime: "08:00", excludeWindowEndTime: "18:00"}`."""

    exclude_window_start_time: str = ""
    """HH:MM, when it begins."""
    exclude_window_end_time: str = ""
    """HH:MM, when it ends; before the start means the next day."""


class WarehouseSettings(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings of any warehouse."""

    namespace: str = ""
    """The schema (dataset, database) of all tables; empty = one for each source, named like it."""
    sync_frequency: Minutes = 30.0
    """Minutes between loads. Fractions are fine where the engine can: 0.1 is every six seconds."""
    sync_events: Annotated[int, msgspec.Meta(ge=1, le=5_000_000)] = 200_000
    """Load earlier when this many events wait …"""
    sync_bytes: Annotated[int, msgspec.Meta(ge=1)] = 256 * 1024 * 1024
    """… or this many bytes of them."""
    parallel_loads: Annotated[int, msgspec.Meta(ge=0, le=32)] = 0
    """Tables that are loaded at a time, each over a connection of its own. 0 = what suits the engine: four with
    BigQuery, Databricks and Snowflake, one with the others. DuckDB takes one always."""
    exclude_window: Window | None = None
    """A part of the day in which nothing is loaded; what comes waits."""
    dedupe: Literal["id", "none"] = "id"
    """id: an event whose messageId is in the table already takes its place (replays and late repetitions are not
    doubled). none: rows are only added, which is cheaper."""
    compatibility: Literal["mainstem", "rudderstack"] = "mainstem"
    """Where RudderStack loses something (integers above 2^53, names beyond ASCII, columns that collide, values that do
    not fit), `mainstem` keeps it; `rudderstack` does as it does. Tables and names are the same otherwise."""
    skip_tracks_table: bool = False
    """Leave out `tracks`; each event's own table is written all the same."""
    skip_users_table: bool = False
    """Leave out `users`, the latest traits of each user."""
    underscore_divide_numbers: bool = False
    """Names: `orderV2` becomes `order_v_2` (else `order_v2`)."""
    allow_users_context_traits: bool = False
    """`identifies` and `users` get context.traits as columns without their `context_traits_` too."""
    store_full_event: bool = False
    """A column `rudder_event` with the whole event as JSON."""
    keep_empty_strings: bool = False
    """Keep an empty text as one. By default it is no value, as in RudderStack."""
    json_paths: str = ""
    """Paths whose values are kept as one JSON column, separated by commas: `track.properties.cart,
    identify.traits.address`."""

    def __post_init__(self) -> None:
        window = self.exclude_window
        for name in ("exclude_window_start_time", "exclude_window_end_time"):
            text = getattr(window, name) if window is not None else ""
            if text and minute_of_day(text) is None:
                raise ValueError(f"`excludeWindow`: {text!r} is no time of day; write it like 08:30")


def minute_of_day(text: str) -> int | None:
    """Return HH:MM as minutes since midnight, None if it is none."""
    hours, colon, minutes = text.partition(":")
    if not (colon and hours.isdigit() and minutes.isdigit()) or int(hours) > 23 or int(minutes) > 59:
        return None
    return int(hours) * 60 + int(minutes)


def excluded(window: Window | None, now_ms: int) -> bool:
    """Tell whether a moment lies in the window."""
    if window is None:
        return False
    start = minute_of_day(window.exclude_window_start_time)
    end = minute_of_day(window.exclude_window_end_time)
    if start is None or end is None or start == end:
        return False
    now = now_ms // 60_000 % 1440
    return start <= now < end if start < end else now >= start or now < end
