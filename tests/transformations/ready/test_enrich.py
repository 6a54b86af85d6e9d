"""Geo by a real MaxMind DB file, and without one."""

from pathlib import Path

from mainstem.events.geo import GeoDatabase
from mainstem.transformations.base import About, Kept
from mainstem.transformations.ready.base import NO_TOOLS, Tools
from mainstem.transformations.ready.catalog import find_spec, validate_settings
from tests.pipeline.mmdb import write_mmdb

ABOUT = About("web", "m", "web:u:1", 0)
EVENT = {"type": "track", "context": {"ip": "192.0.2.7"}}


def test_geo_by_the_operators_database(tmp_path: Path) -> None:
    spec = find_spec("add_geo")
    assert spec is not None
    berlin = {"city": {"names": {"en": "Berlin"}}, "country": {"iso_code": "DE"}}
    database = GeoDatabase(write_mmdb(tmp_path / "city.mmdb", {"192.0.2.0/24": berlin}))
    try:
        settings = validate_settings("add_geo", {"fields": ["city", "country"]}).config
        change = spec.make(settings, Tools(locate=database.locate))
        assert change(EVENT, ABOUT) == Kept(
            ({"type": "track", "context": {"ip": "192.0.2.7", "geo": {"city": "Berlin", "country": "DE"}}},)
        )
        for address in ("198.51.100.1", "nonsense", "", " "):
            other = {"type": "track", "context": {"ip": address}}
            assert change(other, ABOUT) == Kept((other,))
    finally:
        database.close()


def test_without_a_database_events_go_on_unchanged() -> None:
    spec = find_spec("add_geo")
    assert spec is not None
    assert spec.make(validate_settings("add_geo", {}).config, NO_TOOLS)(EVENT, ABOUT) == Kept((EVENT,))
