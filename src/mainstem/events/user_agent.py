"""The User-Agent, parsed: ua-parser (uap-core's regexes in Rust) behind one small cache.

A line of text that clients choose, so it is cut before it is parsed and the cache is bounded.

Bots are the crawlers of the uap-core list (device family `Spider`: search engines, link previews, uptime
checks, AI crawlers; https://github.com/ua-parser/uap-core) and browsers driven without a screen
(HeadlessChrome, PhantomJS). A client that lies about itself is not recognised.
"""

from functools import lru_cache
from typing import Any, Final

import ua_parser

MAX_CHARACTERS: Final = 1024
_HEADLESS: Final = frozenset(("HeadlessChrome", "PhantomJS"))


@lru_cache(4096)
def parsed(user_agent: str) -> ua_parser.Result:
    """Return what uap-core makes of a User-Agent of at most `MAX_CHARACTERS`."""
    return ua_parser.parse(user_agent)


def described(user_agent: str) -> dict[str, Any]:
    """Return {browser {name, version}, os {name, version}, device {name, brand, model}}; unknown parts are absent.

    A new dictionary every time: it becomes part of an event.
    """
    result = parsed(user_agent[:MAX_CHARACTERS])
    description: dict[str, Any] = {}
    for key, part in (("browser", result.user_agent), ("os", result.os)):
        if part is not None:
            numbers = (part.major, part.minor, part.patch, part.patch_minor)
            version = ".".join(number for number in numbers if number is not None)
            description[key] = {"name": part.family, "version": version} if version else {"name": part.family}
    if result.device is not None:
        device = {"name": result.device.family, "brand": result.device.brand, "model": result.device.model}
        description["device"] = {key: value for key, value in device.items() if value is not None}
    return description


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
