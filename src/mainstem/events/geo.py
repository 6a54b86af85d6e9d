"""Where an IP address is, from a MaxMind DB file on disk (GeoLite2-City and the like) that the operator supplies.

Deterministic given the file. The fields are RudderStack's `context.geo`
(https://www.rudderstack.com/docs/data-governance/geolocation-service/). Used on reading (`geo_enrichment` of a
source), by the ready-made transformation `add_geo` and by `geolocation(ip)` of user code.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import maxminddb

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


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _english(value: Any) -> str:
    return str(_object(_object(value).get("names")).get("en", ""))
