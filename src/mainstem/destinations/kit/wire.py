"""URL and headers of a request: checked in settings, put together for each event. Part of the mapping kit.

Whether a URL may be sent to (loopback, private networks) is the guard's question, asked elsewhere.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from mainstem.destinations.kit.body import quoted
from mainstem.destinations.kit.paths import PathInvalid
from mainstem.destinations.kit.templates import compile_text

Headers = tuple[tuple[str, str], ...]

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 §5.6.2
_NOT_IN_VALUE: Final = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f]|[\ud800-\udfff]"
)  # RFC 9110 §5.5; surrogates: no UTF-8
_NOT_IN_URL: Final = re.compile("[\x00-\x20\x7f\\\\]|[\ud800-\udfff]")
_DOTS: Final = re.compile(r"(?:^|/)(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)
_REFERENCE: Final = re.compile(r"\{\{.*?\}\}", re.DOTALL)
# Values that show nothing worth hiding; hiding them would blot out the same words in every dry run.
_OPEN_HEADERS: Final = frozenset(
    {"accept", "accept-encoding", "accept-language", "cache-control", "content-type", "user-agent"}
)
_SHORTEST_SECRET: Final = 4


def url_error(url: str) -> str | None:
    """Return what is wrong with a configured URL, or None."""
    if not url.strip():
        return "is empty; give the URL to send to, like https://example.com/hook"
    if _NOT_IN_URL.search(url):
        return "holds a space, a control character or a backslash; write it as it goes on the wire (%20)"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"is no URL: {error}"
    if parts.scheme not in ("http", "https"):
        return "must begin with https:// or http://"
    if not host:
        return "has no host, like https://example.com/hook"
    # Clients resolve these before they send, so an id of `..` would reach the collection above it.
    return "holds a `.` or `..` as a piece of its path" if _DOTS.search(parts.path) else None


def configured_url_error(url: str) -> str | None:
    """Return what is wrong with a URL in settings that may hold references, or None."""
    try:
        compile_text(url)
    except PathInvalid as error:
        return str(error)
    if url.startswith("{{"):
        return None  # the event says it all, and is judged then
    return url_error(_REFERENCE.sub("x", url))


def with_path(url: str, pieces: Iterable[str]) -> str:
    """Return the URL with more pieces of path, each escaped; a query stays behind them."""
    more = "/".join(quoted(piece) for piece in pieces)
    if not more:
        return url
    base, mark, query = url.partition("?")
    return f"{base.rstrip('/')}/{more}{mark}{query}"


def with_query(url: str, pairs: Sequence[tuple[str, str]]) -> str:
    """Return the URL with more query parameters, in this order."""
    if not pairs:
        return url
    more = "&".join(f"{quoted(name)}={quoted(value)}" for name, value in pairs)
    base, mark, fragment = url.partition("#")
    joint = "" if base.endswith(("?", "&")) else "&" if "?" in base else "?"
    return f"{base}{joint}{more}{mark}{fragment}"


def header_error(name: str, value: str) -> str | None:
    """Return why this can't be a header, or None."""
    if not _TOKEN.fullmatch(name):
        return f"`{name}` is no header name: letters, digits and -_.! only"
    if _NOT_IN_VALUE.search(value):
        return f"header `{name}` holds a line break or another control character"
    return None


def merged(*layers: Iterable[tuple[str, str]]) -> Headers:
    """Return the headers of all layers; a name in a later one takes the place of the same name in an earlier one."""
    together: dict[str, tuple[str, str]] = {}
    for layer in layers:
        for name, value in layer:
            together[name.lower()] = (name, value)
    return tuple(together.values())


def header_secrets(headers: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return the values of configured headers that may be credentials: all but well-known harmless ones."""
    return tuple(
        value
        for name, value in headers
        if name.lower() not in _OPEN_HEADERS and len(value) >= _SHORTEST_SECRET
    )


def repr_without(config: msgspec.Struct, hidden: Collection[str]) -> str:
    """Return a settings struct's repr with `***` for the fields that may hold credentials."""
    shown = (
        f"{name}=***" if name in hidden else f"{name}={getattr(config, name)!r}"
        for name in config.__struct_fields__
    )
    return f"{type(config).__name__}({', '.join(shown)})"
