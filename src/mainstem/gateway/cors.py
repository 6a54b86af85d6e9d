"""CORS as browser SDKs need it: the origin and the headers they ask for, reflected.

`*` does not cover `authorization`, and retries add headers of their own, so a fixed list would lose retries
only. No cookies are used, so `Access-Control-Allow-Credentials` is never sent. Preflights are cached for two
hours, the longest that Chromium takes; without it every event costs two requests. `Retry-After` is exposed:
hidden, analytics-next retries after half a second whatever the server asks for.
"""

import re
from typing import Final

from mainstem.gateway.http1 import Answer

_METHODS: Final = "GET, HEAD, POST, OPTIONS"
_SAFE: Final = re.compile(rb"[\x21-\x7e]{1,512}")
_SAFE_LIST: Final = re.compile(rb"[A-Za-z0-9_\-, \t]{1,2048}")
_MAX_REMEMBERED: Final = 1_024
_EXPOSED: Final = b"access-control-expose-headers: Retry-After\r\nvary: Origin\r\n"

_remembered: dict[bytes, bytes] = {}


def cors_headers(origin: bytes) -> bytes:
    """Return the header lines of an answer to a page of `origin`."""
    lines = _remembered.get(origin)
    if lines is None:
        if not _SAFE.fullmatch(origin):
            return b""
        lines = b"access-control-allow-origin: " + origin + b"\r\n" + _EXPOSED
        if len(_remembered) >= _MAX_REMEMBERED:
            _remembered.clear()
        _remembered[origin] = lines
    return lines


def preflight(headers: dict[bytes, bytes]) -> Answer:
    """Return the answer to OPTIONS, on any path; `cors_headers` are added by the caller."""
    more = [("allow", _METHODS)]
    if b"origin" in headers:
        more = [
            ("access-control-allow-methods", _METHODS),
            ("access-control-max-age", "7200"),
            ("vary", "Access-Control-Request-Headers"),
        ]
        wanted = headers.get(b"access-control-request-headers", b"")
        if _SAFE_LIST.fullmatch(wanted):
            more.append(("access-control-allow-headers", wanted.decode()))
        if headers.get(b"access-control-request-private-network") == b"true":
            more.append(("access-control-allow-private-network", "true"))
    return Answer(204, headers=more)
