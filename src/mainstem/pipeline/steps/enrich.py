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
from typing import Any

from mainstem.events.geo import GeoDatabase
from mainstem.events.user_agent import bot_name, described
from mainstem.workspace.model import Source

Enrich = Callable[[dict[str, Any]], None]
"""Adds to a message that nobody else has seen yet."""


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
