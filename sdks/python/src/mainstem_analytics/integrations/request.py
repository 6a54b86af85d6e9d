"""What a request says about its user, in the words of the Segment spec: ip, userAgent, locale, page.

The address is the connection's. Behind a proxy that is the proxy's; `trust_forwarded` takes the first one of
`X-Forwarded-For` instead, which anybody can write who is not kept from it by a proxy of yours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit


def request_context(
    headers: Mapping[str, str], *, address: str, url: str, trust_forwarded: bool
) -> dict[str, Any]:
    """The context of one request.

    Args:
        headers: names in lower case.
        address: of the other end of the connection; may be empty.
    """
    parts = urlsplit(url)
    page = {"path": parts.path or "/", "url": url}
    if parts.query:
        page["search"] = f"?{parts.query}"
    if headers.get("referer"):
        page["referrer"] = headers["referer"]
    found: dict[str, Any] = {"page": page}
    forwarded = headers.get("x-forwarded-for", "").split(",")[0].strip() if trust_forwarded else ""
    if forwarded or address:
        found["ip"] = forwarded or address
    if headers.get("user-agent"):
        found["userAgent"] = headers["user-agent"]
    language = headers.get("accept-language", "").split(",")[0].split(";")[0].strip()
    if language and language != "*":
        found["locale"] = language
    return found
