"""Enrich: add what can be known of an event from a database on disk, once, for all its destinations.

On reading, before any rule. Deterministic given the database; a field that the event brought is never
overwritten. What is added, if the source asks for it:

* `geo_enrichment`: `context.geo` {ip, city, country, region, postal, location, timezone}, RudderStack's fields
  (https://www.rudderstack.com/docs/data-governance/geolocation-service/), of `context.ip`, else of
  `request_ip`, by a MaxMind DB file (GeoLite2-City and the like) that the operator supplies;
* `user_agent_enrichment`: `context.userAgentParsed` {browser, os, device} of `context.userAgent`;
* `bots: flag`: `context.isBot` true and `context.bot` {name}.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import maxminddb

from mainstem.pipeline.steps.detect_bot import bot_name
from mainstem.pipeline.user_agent import described
from mainstem.workspace.model import Source

Enrich = Callable[[dict[str, Any]], None]
"""Adds to a message that nobody else has seen yet."""

_CACHED_ADDRESSES: Final = 16_384


class GeoDatabase:
    """A MaxMind DB file, opened once and read through the memory map; close it when no decoder uses it.

    Attributes:
        failures: lookups that the file's own damage made fail; those events go on without `context.geo`.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            OSError: it can't be read.
            maxminddb.InvalidDatabaseError: it is not a MaxMind DB.
        """
        self._reader = maxminddb.open_database(path)
        self.failures = 0
        self._found = lru_cache(_CACHED_ADDRESSES)(self._look_up)

    def locate(self, address: str) -> dict[str, str] | None:
        """Return the `context.geo` of an IP address, None when the database doesn't know it."""
        try:
            found = self._found(address)
        except ValueError:
            return None  # not an IP address
        except maxminddb.InvalidDatabaseError:
            self.failures += 1
            return None
        return dict(found) if found is not None else None

    def close(self) -> None:
        """Release the file."""
        self._found.cache_clear()
        self._reader.close()

    def _look_up(self, address: str) -> tuple[tuple[str, str], ...] | None:
        record = self._reader.get(address)
        if not isinstance(record, dict):
            return None
        subdivisions = record.get("subdivisions")
        region = subdivisions[0] if isinstance(subdivisions, list) and subdivisions else None
        location = _object(record.get("location"))
        latitude, longitude = location.get("latitude"), location.get("longitude")
        coordinates = "" if latitude is None or longitude is None else f"{latitude},{longitude}"
        return (
            ("ip", address),
            ("city", _english(record.get("city"))),
            ("country", str(_object(record.get("country")).get("iso_code", ""))),
            ("region", _english(region)),
            ("postal", str(_object(record.get("postal")).get("code", ""))),
            ("location", coordinates),
            ("timezone", str(location.get("time_zone", ""))),
        )


def compile_enrichment(source: Source, geo: GeoDatabase | None) -> tuple[Enrich, ...]:
    """Return what is done to each accepted event of a source, in this order."""
    enrichments: list[Enrich] = []
    if source.geo_enrichment and geo is not None:
        enrichments.append(_geo(geo))
    if source.user_agent_enrichment:
        enrichments.append(_user_agent)
    if source.bots == "flag":
        enrichments.append(_flag_bot)
    return tuple(enrichments)


def _geo(geo: GeoDatabase) -> Enrich:
    def add_geo(message: dict[str, Any]) -> None:
        context = message["context"]
        if context.get("geo") is not None:
            return
        # The first that is not blank, even if it turns out to be no address: as RudderStack does.
        address = context.get("ip") or message.get("request_ip")
        if isinstance(address, str) and (found := geo.locate(address.strip())) is not None:
            context["geo"] = found

    return add_geo


def _user_agent(message: dict[str, Any]) -> None:
    context = message["context"]
    user_agent = context.get("userAgent")
    if isinstance(user_agent, str) and user_agent and context.get("userAgentParsed") is None:
        description = described(user_agent)
        if description:
            context["userAgentParsed"] = description


def _flag_bot(message: dict[str, Any]) -> None:
    context = message["context"]
    name = bot_name(context.get("userAgent"))
    if name and context.get("isBot") is None:
        context["isBot"] = True
        context.setdefault("bot", {"name": name})


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _english(value: Any) -> str:
    return str(_object(_object(value).get("names")).get("en", ""))
