"""What a User-Agent says of a browser, in the names that analytics vendors and their JavaScript SDKs use. Mapping kit.

`events.user_agent` parses; here are the few names in which uap-core and ua-parser-js, which those SDKs use, differ.
"""

from typing import Any, Final

import msgspec

from mainstem.events.user_agent import described

Json = Any

_SYSTEMS: Final = {"Mac OS X": "Mac OS"}
_NOT_DEVICES: Final = frozenset(("linux", "u", "x11", "compatible", "wv"))


class Client(msgspec.Struct, frozen=True):
    """What a User-Agent tells; empty where it does not."""

    browser: str = ""
    version: str = ""
    system: str = ""
    device: str = ""
    """What it names itself first, as it writes it: Macintosh, iPhone, Windows NT 10.0, Android 9."""


_NOTHING: Final = Client()


def client_of(user_agent: Json) -> Client:
    """Return what a User-Agent tells. A browser only where there is one: apps and HTTP libraries have none."""
    if not isinstance(user_agent, str) or not user_agent:
        return _NOTHING
    told = described(user_agent)
    # Every browser says Mozilla/, no HTTP library does.
    browser = told.get("browser", {}) if user_agent.startswith("Mozilla/") else {}
    system = told.get("os", {}).get("name", "")
    return Client(
        browser.get("name", ""),
        browser.get("version", ""),
        "" if system == "Other" else _SYSTEMS.get(system, system),
        _device(user_agent),
    )


def _device(user_agent: str) -> str:
    _, _, comment = user_agent.partition("(")
    for part in comment.partition(")")[0].split(";"):
        name = part.strip()
        if name and name.lower() not in _NOT_DEVICES:
            return name
    return ""
