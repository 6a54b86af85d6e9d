"""Enrichment: added once, on reading; what the event brought stays."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import maxminddb
import msgspec
import pytest

from mainstem.events.canonical import Event
from mainstem.events.geo import GeoDatabase
from mainstem.events.stored import StoredEvent, encode_stored
from mainstem.pipeline.decode import Decoder
from mainstem.workspace.model import Source
from tests.pipeline.mmdb import write_mmdb

BERLIN: dict[str, Any] = {
    "city": {"names": {"de": "Berlin (de)", "en": "Berlin"}},
    "country": {"iso_code": "DE", "names": {"en": "Germany"}},
    "subdivisions": [{"iso_code": "BE", "names": {"en": "State of Berlin"}}],
    "postal": {"code": "10115"},
    "location": {"latitude": 52.5, "longitude": 13.25, "time_zone": "Europe/Berlin"},
}
BERLIN_GEO = {
    "city": "Berlin",
    "country": "DE",
    "region": "State of Berlin",
    "postal": "10115",
    "location": "52.5,13.25",
    "timezone": "Europe/Berlin",
}
NETWORKS = {"192.0.2.0/24": BERLIN, "198.51.100.0/25": {"country": {"iso_code": "FR"}}}
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/17.0 Mobile/15E148 Safari/604.1"
)
GOOGLEBOT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"


@pytest.fixture
def geo(tmp_path: Path) -> Iterator[GeoDatabase]:
    database = GeoDatabase(write_mmdb(tmp_path / "city.mmdb", NETWORKS))
    yield database
    database.close()


def read(message: dict[str, Any], geo: GeoDatabase | None = None, ip: str = "", **asks: Any) -> Event:
    source = Source(id="shop", name="Shop", write_keys=("key",), **asks)
    stored = StoredEvent("shop", "m-1", "track", 0, msgspec.json.encode(message), request_ip=ip)
    return Decoder((source,), geo).decode(0, 0, 0, encode_stored(stored))[1]


@pytest.mark.parametrize(
    ("message", "ip", "expected"),
    [
        ({"context": {"ip": "192.0.2.7"}}, "", {"ip": "192.0.2.7", **BERLIN_GEO}),
        ({"context": {"ip": " 192.0.2.7 "}}, "", {"ip": "192.0.2.7", **BERLIN_GEO}),
        ({}, "192.0.2.8", {"ip": "192.0.2.8", **BERLIN_GEO}),
        ({"context": {"ip": ""}}, "192.0.2.8", {"ip": "192.0.2.8", **BERLIN_GEO}),
        ({"context": {"ip": "192.0.2.7"}}, "198.51.100.1", {"ip": "192.0.2.7", **BERLIN_GEO}),
        (
            {},
            "198.51.100.1",
            {"ip": "198.51.100.1", **dict.fromkeys(BERLIN_GEO, ""), "country": "FR"},
        ),
        # unknown, private, not an address, an IPv6 address in an IPv4 database
        ({}, "203.0.113.1", None),
        ({}, "10.0.0.1", None),
        ({"context": {"ip": "nonsense"}}, "192.0.2.8", None),
        ({"context": {"ip": ["192.0.2.7"]}}, "192.0.2.8", None),
        ({}, "2001:db8::1", None),
        ({}, "", None),
    ],
)
def test_geo(message: dict[str, Any], ip: str, expected: Any, geo: GeoDatabase) -> None:
    assert read(message, geo, ip, geo_enrichment=True).message["context"].get("geo") == expected
    assert geo.failures == 0


def test_geo_never_overwrites(geo: GeoDatabase) -> None:
    brought = {"context": {"ip": "192.0.2.7", "geo": {"city": "Elsewhere"}}}
    assert read(brought, geo, geo_enrichment=True).message["context"]["geo"] == {"city": "Elsewhere"}


def test_nothing_is_added_unless_the_source_asks(geo: GeoDatabase) -> None:
    context = {"ip": "192.0.2.7", "userAgent": GOOGLEBOT}
    assert read({"context": context}, geo).message["context"] == context
    assert read({"context": context}, None, geo_enrichment=True).message["context"] == context


def test_two_events_never_share_what_was_added(geo: GeoDatabase) -> None:
    asks: dict[str, Any] = {"geo_enrichment": True, "user_agent_enrichment": True}
    message = {"context": {"ip": "192.0.2.7", "userAgent": FIREFOX}}
    one, two = (read(message, geo, **asks).message["context"] for _ in range(2))
    assert one == two
    one["geo"]["city"] = one["userAgentParsed"]["browser"]["name"] = "changed"
    assert two["geo"]["city"] == "Berlin"
    assert two["userAgentParsed"]["browser"]["name"] == "Firefox"
    assert read(message, geo, **asks).message["context"] == two


def test_a_damaged_database_is_counted_and_events_go_on(tmp_path: Path) -> None:
    path = write_mmdb(tmp_path / "city.mmdb", {"192.0.2.0/24": BERLIN})
    content = path.read_bytes()
    marker = content.index(b"\xab\xcd\xefMaxMind.com")
    data = content.index(bytes(16)) + 16
    # The data section, replaced by control bytes of maps that never end.
    path.write_bytes(content[:data] + b"\xfc" * (marker - data) + content[marker:])
    geo = GeoDatabase(path)
    assert "geo" not in read({}, geo, "192.0.2.8", geo_enrichment=True).message["context"]
    assert geo.failures == 1
    geo.close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.mmdb").write_bytes(b"nothing of the kind")
    with pytest.raises(maxminddb.InvalidDatabaseError):
        GeoDatabase(tmp_path / "no.mmdb")
    with pytest.raises(FileNotFoundError):
        GeoDatabase(tmp_path / "absent.mmdb")


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        (
            FIREFOX,
            {"browser": {"name": "Firefox", "version": "140.0"}, "os": {"name": "Linux"}},
        ),
        (
            IPHONE,
            {
                "browser": {"name": "Mobile Safari", "version": "17.0"},
                "os": {"name": "iOS", "version": "17.0"},
                "device": {"name": "iPhone", "brand": "Apple", "model": "iPhone"},
            },
        ),
        ("no such thing", None),
        ("", None),
        (["Mozilla/5.0"], None),
    ],
)
def test_user_agent(agent: Any, expected: Any) -> None:
    read_event = read({"context": {"userAgent": agent}}, user_agent_enrichment=True)
    assert read_event.message["context"].get("userAgentParsed") == expected


def test_user_agent_never_overwrites() -> None:
    brought = {"userAgent": FIREFOX, "userAgentParsed": {"browser": {"name": "Mine"}}}
    read_event = read({"context": brought}, user_agent_enrichment=True)
    assert read_event.message["context"] == brought


def test_an_endless_user_agent_is_cut() -> None:
    agent = FIREFOX + " x" * 500_000
    context = read({"context": {"userAgent": agent}}, user_agent_enrichment=True).message["context"]
    assert context["userAgentParsed"]["browser"]["name"] == "Firefox"
    assert context["userAgent"] == agent


def test_bots_are_flagged() -> None:
    flagged = read({"context": {"userAgent": GOOGLEBOT}}, bots="flag").message["context"]
    assert flagged["isBot"] is True
    assert flagged["bot"] == {"name": "Googlebot"}
    assert "isBot" not in read({"context": {"userAgent": FIREFOX}}, bots="flag").message["context"]
    assert "isBot" not in read({"context": {"userAgent": GOOGLEBOT}}, bots="drop").message["context"]
    brought = {"userAgent": GOOGLEBOT, "isBot": False}
    assert read({"context": brought}, bots="flag").message["context"] == brought
