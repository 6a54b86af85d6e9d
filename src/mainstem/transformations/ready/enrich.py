"""What can be known of an event from a database on disk: where its IP address is, what its User-Agent says.

The same facts as a source's `geo_enrichment` and `user_agent_enrichment`, for one destination alone.
"""

from typing import Any, Final

import msgspec

from mainstem.destinations.kit.paths import MISSING, compile_read, parse_path
from mainstem.events.user_agent import described
from mainstem.transformations.base import About, Change, Kept, Result
from mainstem.transformations.ready.base import ReadySpec, Tools
from mainstem.transformations.ready.edit import check_path, check_writable, compile_edit, first_text, put


class AddGeoSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `add_geo` is told."""

    ip: tuple[str, ...] = ("context.ip", "request_ip")
    """Where the address may be; the first that holds a text counts."""
    to: str = "context.geo"
    """Where {ip, city, country, region, postal, location, timezone} goes."""
    fields: tuple[str, ...] = ()
    """Which of them; empty = all."""
    overwrite: bool = False
    """Whether what is there already is replaced."""

    def __post_init__(self) -> None:
        if not self.ip:
            raise ValueError("`ip` is empty; name at least one field")
        for path in self.ip:
            check_path("ip", path, one=True)
        check_writable("to", self.to)
        known = ("ip", "city", "country", "region", "postal", "location", "timezone")
        for field in self.fields:
            if field not in known:
                raise ValueError(f"`fields`: there is no `{field}`; there are {', '.join(known)}")


class ParseUserAgentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `parse_user_agent` is told."""

    user_agent: str = "context.userAgent"
    """The field that holds the User-Agent."""
    to: str = "context.userAgentParsed"
    """Where {browser, os, device} goes."""
    overwrite: bool = False
    """Whether what is there already is replaced."""

    def __post_init__(self) -> None:
        check_path("user_agent", self.user_agent, one=True)
        check_writable("to", self.to)


def _make_add_geo(settings: AddGeoSettings, tools: Tools) -> Change:
    address_of = first_text(settings.ip)
    there, edit = compile_read(parse_path(settings.to)), compile_edit(settings.to)
    locate = tools.locate

    def add_geo(message: dict[str, Any], _: About) -> Result:
        if locate is None or (not settings.overwrite and there(message) not in (MISSING, None)):
            return Kept((message,))
        address = address_of(message)
        found = locate(address) if address else None
        if found is not None:
            wanted = settings.fields or found
            message = put(message, edit, {key: found[key] for key in wanted if key in found})
        return Kept((message,))

    return add_geo


def _make_parse_user_agent(settings: ParseUserAgentSettings, _: Tools) -> Change:
    user_agent_of = first_text((settings.user_agent,))
    there, edit = compile_read(parse_path(settings.to)), compile_edit(settings.to)

    def parse_user_agent(message: dict[str, Any], _: About) -> Result:
        if not settings.overwrite and there(message) not in (MISSING, None):
            return Kept((message,))
        user_agent = user_agent_of(message)
        description = described(user_agent) if user_agent else {}
        return Kept((put(message, edit, description) if description else message,))

    return parse_user_agent


ADD_GEO: Final = ReadySpec(
    name="add_geo",
    title="Add the place of the IP address",
    text=(
        "Adds country, region, city, postal code, coordinates and time zone of the IP address, from the GeoIP "
        "database of `geoip_database`. Without a database, or for an address it does not know, nothing is "
        "added. What the event brought stays."
    ),
    group="enrich",
    settings=AddGeoSettings,
    make=_make_add_geo,
    idempotent=True,
)
PARSE_USER_AGENT: Final = ReadySpec(
    name="parse_user_agent",
    title="Parse the User-Agent",
    text=(
        "Adds browser, operating system and device as the User-Agent names them. Parts that are unknown are "
        "left out. What the event brought stays."
    ),
    group="enrich",
    settings=ParseUserAgentSettings,
    make=_make_parse_user_agent,
    idempotent=True,
)
