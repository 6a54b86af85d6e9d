"""Detect bots: known crawlers, by their User-Agent.

The rule: the crawlers of the uap-core list (device family `Spider`: search engines, link previews, uptime
checks, AI crawlers; https://github.com/ua-parser/uap-core) and browsers driven without a screen
(HeadlessChrome, PhantomJS). A client that lies about itself is not recognised.
"""

from functools import lru_cache
from typing import Any, Final

from mainstem.events.canonical import Event
from mainstem.pipeline.outcome import Filtered
from mainstem.pipeline.user_agent import MAX_CHARACTERS, parsed

RULE: Final = "bot"
_HEADLESS: Final = frozenset(("HeadlessChrome", "PhantomJS"))


@lru_cache(4096)
def _bot(user_agent: str) -> str:
    result = parsed(user_agent)
    browser = result.user_agent.family if result.user_agent else ""
    if result.device is not None and result.device.family == "Spider":
        return browser or "Spider"
    return browser if browser in _HEADLESS else ""


def bot_name(user_agent: Any) -> str:
    """Return the bot's name, empty if it isn't one (or if this is no User-Agent at all)."""
    if not isinstance(user_agent, str) or not user_agent:
        return ""
    return _bot(user_agent[:MAX_CHARACTERS])


def drop_bots(event: Event) -> Filtered | None:
    """Filter events of known bots (a step, for sources with `bots: drop`)."""
    context = event.message.get("context")
    name = bot_name(context.get("userAgent")) if isinstance(context, dict) else ""
    return Filtered(RULE, name) if name else None
